"""Parts of a pair in the computer's memory: sequential and group offload of both arms give the same output.

The CPU stands in for the accelerator: accelerate's hooks run, and the transfers move nothing. diffusers' own loop over
the components is written out here, since it takes `cpu` as `cpu:0`, which no tensor is on.
"""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.group_offloading import _LAZY_PREFETCH_GROUP_OFFLOADING, LazyPrefetchGroupOffloadingHook
from families import FAMILIES
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, sample
from w2sd_video.settings import words

PROMPT = "a red circle moving right"
OFFLOADS = [kind for kind in words("offload") if kind != "none"]


def offload_by_layers(pipe) -> None:
    pipe.unshare()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            cpu_offload(component, torch.device("cpu"), offload_buffers=len(component._parameters) > 0)


def waiting(network) -> bool:
    """Whether all of a network's weights are in accelerate's map, and none where it runs."""
    return all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, prompt, fields",
    [
        ("shapes-image", "a red circle", {}),  # two denoisers
        pytest.param("shapes", PROMPT, {"num_frames": 2}, marks=pytest.mark.exhaustive),
        pytest.param("shapes", PROMPT, {"num_frames": 2, "variant": "plain"}, marks=pytest.mark.exhaustive),
        pytest.param("shapes-digits", "3", {}, marks=pytest.mark.exhaustive),  # experts
        pytest.param("shapes-style", "a red circle", {}, marks=pytest.mark.exhaustive),  # a LoRA
        # One network, whose motion modules are scaled for the weak arm.
        pytest.param("shapes", PROMPT, {"num_frames": 2, "weak_motion_scale": 0.5}, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_sequential_offload_of_both_arms_gives_the_same(preset, prompt, fields):
    request = Request.of(prompt, 0, preset, num_inference_steps=2, **fields)
    variant = "strong" if request.variant == "plain" else "w2sd"
    (pipe,) = load(request).values()
    expected, evaluations = sample(pipe, request, variant)
    offload_by_layers(pipe)
    for _ in range(2):
        frames, again = sample(pipe, request, variant)
        assert (frames == expected).all() and again == evaluations
        assert all(waiting(network) for network in pipe.denoisers())


@pytest.mark.parametrize("kind", OFFLOADS)
def test_on_a_cpu_every_offload_is_refused_by_name_before_weights_are_read(kind, tmp_path):
    request = Request.of(PROMPT, offload=kind, device="cpu", strong=str(tmp_path), num_inference_steps=2)
    with pytest.raises(Refused, match=f"^offload: '{kind}' is not accepted; it needs an accelerator"):
        load(request)
    line = ["generate", PROMPT, "--offload", kind, "--device", "cpu", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, line)
    assert ran.exit_code == 2 and f"--offload: '{kind}' is not accepted; it needs an accelerator" in ran.stderr


def test_a_pipeline_refuses_sequential_offload_to_a_cpu_by_name():
    (pipe,) = load(Request.of("3", 0, "shapes-digits", num_inference_steps=2)).values()
    for device in ("cpu", torch.device("cpu")):
        with pytest.raises(ValueError, match="^`device` is .*cpu.*, and sequential offload needs an accelerator"):
            pipe.enable_sequential_cpu_offload(device=device)
    assert not any(hasattr(each, "_hf_hook") for each in pipe.denoisers())


def stream_groups(network) -> None:
    """Group offload as with streams: diffusers registers a hook that removes itself in the first evaluation."""
    where = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    network.enable_group_offload(**where, offload_type="block_level", num_blocks_per_group=1)
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.register_hook(LazyPrefetchGroupOffloadingHook(), _LAZY_PREFETCH_GROUP_OFFLOADING)


def hooks(network) -> list[str]:
    return list(network._diffusers_hook.hooks)


@pytest.mark.parametrize("method", ["w2sd", None])
@pytest.mark.parametrize("parts", [["unet"], ["weak_unet"], ["unet", "weak_unet", "controlnet"]], ids=str)
def test_a_hook_that_diffusers_removes_in_the_first_evaluation_leaves_the_method_in_place(parts, method):
    """Group offload with streams, on the denoisers and a ControlNet, without the stream itself."""
    named = next(each for each in FAMILIES if each.name == "W2SDStableDiffusionControlNetPipeline")
    pipe = named.pipeline(dtype=torch.float32)
    expected, evaluations = named(pipe, method=method), pipe.evaluations
    for part in parts:
        stream_groups(getattr(pipe, part))
        assert _LAZY_PREFETCH_GROUP_OFFLOADING in hooks(getattr(pipe, part))
    for _ in range(2):
        assert torch.allclose(named(pipe, method=method), expected, atol=1e-5)
        assert pipe.evaluations == evaluations
    if method is not None:
        assert not any(_LAZY_PREFETCH_GROUP_OFFLOADING in hooks(getattr(pipe, part)) for part in parts)


def test_a_hook_that_a_callback_removes_leaves_the_method_in_place():
    named = next(each for each in FAMILIES if each.name == "W2SDStableDiffusionPipeline")
    pipe = named.pipeline(dtype=torch.float32)
    expected, evaluations = named(pipe), pipe.evaluations
    forward = type(pipe.unet).forward
    for last in (1, 3):
        registry = HookRegistry.check_if_exists_or_initialize(pipe.unet)
        registry.register_hook(ModelHook(), "other")

        def remove(_pipe, index, _time, kwargs, last=last, registry=registry):
            if index == last:
                registry.remove_hook("other")
            return kwargs

        assert torch.equal(named(pipe, callback_on_step_end=remove), expected) and pipe.evaluations == evaluations
        assert hooks(pipe.unet) == [] and pipe.unet.forward.__func__ is forward
