"""Layer by layer in the computer's memory: sequential offload of both arms gives the same output.

The CPU stands in for the accelerator: accelerate's hooks run, and the transfers move nothing. diffusers' own loop over
the components is written out here, since it takes `cpu` as `cpu:0`, which no tensor is on.
"""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
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
