"""What a call of a pipeline refuses, and what it takes beside a method's arguments."""

from __future__ import annotations

import inspect
import math
import pydoc
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from accelerate import init_empty_weights
from clock import fastest
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from families import (
    CLASSES,
    CONTROL,
    FAMILIES,
    FORMS,
    IMAGE,
    VIDEO,
    Family,
    Literal,
    add_lora,
    algorithm_1,
    close,
    each_family,
    each_of_text,
    generator,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from w2sd_video import arms, methods
from w2sd_video.errors import WeightsError
from w2sd_video.hook import apply_reflection
from w2sd_video.methods import W2SD, Method
from w2sd_video.models.bases import SDXL
from w2sd_video.pipelines.signatures import DEPRECATED

# Refusals


def no_network(pipe: Any) -> None:
    def ran(*_: Any) -> None:
        raise AssertionError("a network ran")

    for network in (getattr(pipe, name) for name in ("unet", "transformer", "text_encoder") if hasattr(pipe, name)):
        network.register_forward_pre_hook(ran)


REFUSED: dict[str, tuple[Family, dict[str, Any], str]] = {
    "method": (
        IMAGE,
        {"method": "w2s"},
        "`method` has to be one of 'w2sd', .*'weak', None, or an object .*, but is 'w2s'",
    ),
    "class of a method": (IMAGE, {"method": W2SD}, r"one of 'w2sd'.*an object.*but is the class W2SD: write W2SD\(\)"),
    "no method": (IMAGE, {"method": 3}, "`method` has to be one of .*, None, or an object of a method.*, but is 3"),
    "strong guidance": (IMAGE, {"strong_guidance_scale": "2"}, "`strong_guidance_scale` has to be a finite .* '2'"),
    "weak guidance": (IMAGE, {"weak_guidance_scale": math.nan}, "`weak_guidance_scale` has to be a finite .* nan"),
    "another's option": (IMAGE, {"weight": 2.0}, "`weight` is 2.0, and is no option of `method='w2sd'`, which has"),
    "interval": (IMAGE, {"interval": (0.5, 2)}, r"`interval` has to be two noise levels.*but is \(0.5, 2\)"),
    "cap": (IMAGE, {"cap": -1}, "`cap` has to be a finite number from 0, but is -1"),
    "no LoRA": (IMAGE, {"weak_adapter_scales": {"style": 1}}, "names 'style', which is no active LoRA of `unet`"),
    "LoRAs not by name": (
        IMAGE,
        {"weak_adapter_scales": -1.5},
        r"is -1.5: give a dictionary .* such as {\"style\": -1.5}",
    ),
    "no IP-Adapter": (IMAGE, {"weak_ip_adapter_scale": 1.0}, "`weak_ip_adapter_scale` is 1.0, and `unet` has no IP-Ad"),
    "motion of an image": (IMAGE, {"weak_motion_scale": 1.0}, "is no argument of W2SDStableDiffusionXLPipeline"),
    "motion": (VIDEO, {"weak_motion_scale": "off"}, "`weak_motion_scale` has to be a finite number, but is 'off'"),
    "pooled": (FAMILIES[3], {"weak_pooled_prompt_embeds": torch.zeros(1, 8)}, "is no argument of W2SDStableDiffusi"),
    "guess mode": (CONTROL[0], {"guess_mode": True}, "`guess_mode` .* is not supported under a method"),
    "control scales": (
        CONTROL[0],
        {"weak_controlnet_conditioning_scale": [1.0, 0.5]},
        "`weak_controlnet_conditioning_scale` has 2 scales for 1 ControlNets",
    ),
    "control ends": (CONTROL[0], {"control_guidance_start": 0.9, "control_guidance_end": 0.1}, "cannot be larger or"),
    "frames": (VIDEO, {"num_frames": 9}, "`num_frames` has to be a whole number from 1 to 8"),
}


@pytest.mark.parametrize(("family", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_argument_is_refused_before_any_network_runs(family, arguments, message):
    no_network(pipe := family.pipeline(weak=False))
    with pytest.raises(ValueError, match=message):
        family(pipe, **arguments)


@each_family
def test_a_misspelled_argument_is_refused_with_the_nearest_name_before_any_network_runs(family):
    no_network(pipe := family.pipeline(weak=False))
    arms = {"weak_guidance": "weak_guidance_scale", "strong_guidance": "strong_guidance_scale"}
    others = {"reflection_step": "reflection_steps", "num_inference_step": "num_inference_steps"}
    for method, misspelled in (("w2sd", arms | others), (W2SD(), arms | others), (None, arms)):
        for name, nearest in misspelled.items():
            with pytest.raises(TypeError, match=f"`{name}` is no argument of {family.name}; did you mean '{nearest}'"):
                family(pipe, method=method, **{name: 3})


def test_what_diffusers_reads_of_its_open_arguments_is_taken_and_what_it_drops_only_without_a_method():
    stock = [family for family in FAMILIES if "kwargs" in inspect.signature(family.stock.__call__).parameters]
    assert [str(family) for family in stock].count(str(IMAGE)) == 1 and len(stock) == 5
    for family in stock:
        read = re.findall(r"[^_]kwargs\.\w+\(\"(\w+)\"", inspect.getsource(family.stock.__call__))
        assert tuple(read) == DEPRECATED
    pipe, seen = IMAGE.pipeline(), []
    with pytest.warns(FutureWarning, match="callback"):
        IMAGE(pipe, callback=lambda step, *_: seen.append(step), callback_steps=1)
    assert seen == [0, 1, 2, 3]
    off = {"method": None, "nonsense": 1}
    assert torch.equal(IMAGE(pipe, **off), IMAGE(IMAGE.stock_of(pipe), nonsense=1))
    with pytest.raises(
        TypeError, match="`nonsense` is no argument of W2SDStableDiffusionXLPipeline; Available: prompt"
    ):
        IMAGE(pipe, nonsense=1)


def test_an_option_beside_an_object_of_a_method_is_refused_also_where_it_is_its_own():
    @dataclass(frozen=True)
    class Push(W2SD):
        push: float = 0.5
        generator: Any = None  # a name of the stock call's, which stays its own

    IMAGE(pipe := IMAGE.pipeline(), method=Push(), generator=generator())
    with pytest.raises(ValueError, match="`method` is .*push=0.5.*, which has its settings"):
        IMAGE(pipe, method=Push(), push=1.0)


def test_a_fused_lora_cannot_be_switched():
    pipe = IMAGE.pipeline(weak=False)
    add_lora(pipe.unet)
    pipe.fuse_lora(components=["unet"])
    with pytest.raises(ValueError, match="names 'style', which is fused: `unfuse_lora"):
        IMAGE(pipe, weak_adapter_scales={"style": 0.5})


def test_guidance_of_a_reflection_that_no_step_has_needs_no_branch():
    pipe, x = CLASSES.pipeline(), CLASSES.latents()
    told = {"latents": x, "guidance_scale": 1.0}
    ours = CLASSES(pipe, reflection_steps=0, weak_guidance_scale=2.0, **told)
    assert torch.equal(ours, CLASSES(pipe, method=None, **told))


# The rest of what the stock pipelines take, under a method


def test_several_images_a_prompt_are_those_of_several_prompts():
    pipe = IMAGE.pipeline()

    def seeds() -> list[torch.Generator]:
        return [generator(1), generator(2)]

    told = {"weak_prompt": "a dog", "weak_negative_prompt": "a bird", "weak_guidance_scale": 2.0}
    several = IMAGE(pipe, num_images_per_prompt=2, generator=seeds(), **told)
    assert close(several, IMAGE(pipe, prompt=["a cat"] * 2, generator=seeds(), **told))


def test_layerwise_casting_of_one_of_two_networks_that_share_parameters_is_refused_by_name():
    """In both, or of a network of its own, it is as without shared parameters."""
    cast = partial(dict, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    shared, apart, both = (VIDEO.pipeline(dtype=torch.float32) for _ in range(3))
    shared.unet.enable_layerwise_casting(**cast())
    says = (
        "W2SDAnimateDiffPipeline's denoiser has layerwise casting, and `weak`, which shares .* does not cast them back"
    )
    with pytest.raises(ValueError, match=says):
        VIDEO(shared)
    with pytest.raises(ValueError, match="AnimateDiffPipeline's denoiser has layerwise casting, and `weak`"):
        with apply_reflection(VIDEO.stock_of(shared), W2SD(), weak=shared.weak_unet):
            pass
    apart.unshare()
    for pipe in (apart, both):
        pipe.unet.enable_layerwise_casting(**cast())
        pipe.weak_unet.enable_layerwise_casting(**cast())
    assert close(VIDEO(both), VIDEO(apart), 1e-5)
    alone = VIDEO.pipeline(dtype=torch.float32)
    alone.unshare()
    alone.unet.enable_layerwise_casting(**cast())
    assert VIDEO(alone).isfinite().all()


@dataclass(frozen=True)
class WeakGuided(Method):
    """The weak arm at guidance 3, whatever its guidance in the reflection is."""

    def __call__(self, x_t: Tensor, step: Any, strong: Any, weak: Any, noise: Any) -> methods.Answer:
        return methods.Answer(weak.guided(x_t, 3.0)[None])


@pytest.mark.parametrize(
    "told",
    [
        {"weak_negative_prompt": "a bird"},
        {"weak_prompt": "a dog", "weak_negative_prompt": "a bird"},
        {"weak_text_encoder": 7},
    ],
    ids=", ".join,
)
def test_a_method_gets_the_weak_arm_s_own_negative_prompt_at_weak_guidance_1_too(told):
    """As at another weak guidance, and at the same number of evaluations."""
    told = dict(told)
    pipe, x = FAMILIES[3].pipeline(), FAMILIES[3].latents()
    if seed := told.pop("weak_text_encoder", None):
        pipe.register_modules(weak_text_encoder=tiny.text_encoders(seed)[0].double())

    def guided(weak_guidance: float, **more: Any) -> Tensor:
        method = WeakGuided(weak_guidance=weak_guidance, reflection_steps=4)
        return FAMILIES[3](pipe, latents=x, method=method, **{**told, **more})

    at_1 = guided(1.0)
    assert torch.equal(at_1, guided(3.0))
    assert pipe.evaluations == {"strong": 0, "weak": 8, "total": 8}
    assert not close(at_1, guided(1.0, weak_negative_prompt="a cow"))


@pytest.mark.slow
def test_several_controlnets_are_the_sum_of_their_residuals():
    family = CONTROL[0]
    net = family.controlnet()
    pipe, x = family.pipeline(weak=False, controlnet=[net, net]), family.latents()
    shown = [family.picture()] * 2
    scales = {"controlnet_conditioning_scale": [0.3, 0.5], "weak_controlnet_conditioning_scale": [0.0, 0.2]}
    ours = family(pipe, latents=x, image=shown, **scales)
    single = family.pipeline(weak=False)
    numbers = {"control_scale": 0.8, "weak_control_scale": 0.2}
    assert close(ours, Literal(family, single, **numbers).run(x, algorithm_1))
    with pytest.raises(ValueError, match="has 1 scales for 2 ControlNets"):
        family(pipe, image=shown, weak_controlnet_conditioning_scale=[0.1])


@pytest.mark.slow
def test_free_noise_goes_beyond_the_motion_modules_length():
    pipe = VIDEO.pipeline()
    with pytest.raises(ValueError, match="`context_length` is 16, and `unet` takes at most 8 frames at once"):
        pipe.enable_free_noise()
    pipe.enable_free_noise(context_length=4, context_stride=2)
    arguments = {"num_frames": 12, "prompt": {0: "a cat", 8: "a dog"}}
    ours = VIDEO(pipe, **arguments)
    assert ours.shape[2] == 12 and ours.isfinite().all()
    stock = VIDEO.stock_of(VIDEO.pipeline())
    stock.enable_free_noise(context_length=4, context_stride=2)
    assert torch.equal(VIDEO(pipe, method=None, **arguments), VIDEO(stock, **arguments))
    equal = {"inversion": "x_t", "weak_guidance_scale": 3.0, "method": "z_sampling"}
    assert close(VIDEO(pipe, **equal, **arguments), VIDEO(stock, **arguments), 1e-7)
    with pytest.raises(ValueError, match="the weak arm has no prompt of its own with FreeNoise"):
        VIDEO(pipe, weak_prompt="a dog", **arguments)


@each_of_text
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family in (IMAGE, FAMILIES[3], CONTROL[1]))
def test_other_arguments_of_the_stock_pipelines_work(family):
    pipe = family.pipeline(scheduler=EulerDiscreteScheduler(), dtype=torch.float32)
    seen = []

    def look(pipe: Any, step: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        seen.append(step)
        return {"latents": tensors["latents"] * 1.01}

    takes = inspect.signature(family.stock.__call__).parameters
    rescale = {"guidance_rescale": 0.5} if "guidance_rescale" in takes else {}
    # Without SDXL's two text encoders, diffusers 0.42.1 cannot skip layers of those of transformers 5.
    told = {"negative_prompt": "a dog"} | ({"clip_skip": 1} if family.xl else {})
    made = family(pipe, callback_on_step_end=look, **told, **rescale)
    assert made.isfinite().all() and seen == [0, 1, 2, 3]
    assert not close(made, family(pipe, method=None, **told), 1e-3)


@pytest.mark.parametrize("family", FORMS[:3], ids=str)  # DiT-MoE draws its latents in half precision too: other ones
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family in (IMAGE, VIDEO))
def test_half_precision_stays_near_float32(family):
    exact = family(family.pipeline(dtype=torch.float32))
    half = family(family.pipeline(dtype=torch.bfloat16)).float()
    assert float((half - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("family", [IMAGE, CONTROL[1], CONTROL[2]], ids=str)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is not CONTROL[2])
def test_model_offload_gives_the_same_and_leaves_the_hooks_in_order(family):
    expected = family(family.pipeline(dtype=torch.float32))
    pipe = family.pipeline(dtype=torch.float32)
    pipe.enable_model_cpu_offload(device="cpu")
    assert close(family(pipe), expected, 1e-5)
    assert close(family(pipe), expected, 1e-5)
    assert "maybe_free_model_hooks" not in vars(pipe)


@pytest.mark.slow
def test_a_lora_is_loaded_from_a_file_and_switched(tmp_path):
    pipe, x = IMAGE.pipeline(weak=False, dtype=torch.float32), IMAGE.latents(dtype=torch.float32)
    add_lora(pipe.unet)
    expected = IMAGE(pipe, latents=x, weak_adapter_scales={"style": -1.0})
    IMAGE.stock.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="style"))
    again = IMAGE.pipeline(weak=False, dtype=torch.float32)
    again.load_lora_weights(tmp_path, adapter_name="other")
    assert close(IMAGE(again, latents=x, weak_adapter_scales={"other": -1.0}), expected, 1e-4)


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya", "tensors"])
def test_a_lora_for_another_base_is_refused_before_it_changes_anything(tmp_path, layout):
    block = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    names = {
        "diffusers": f"unet.{block}.lora.down.weight",
        "peft": f"unet.{block}.lora_A.weight",
        "kohya": f"lora_unet_{block.replace('.', '_')}.lora_down.weight",
        "tensors": f"unet.{block}.lora_A.weight",
    }
    tensors = {names[layout]: torch.zeros(2, 2048)}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    pipe = FAMILIES[3].pipeline(weak=False)
    given = tensors if layout == "tensors" else tmp_path
    with pytest.raises(WeightsError, match=r"is made for a UNet of cross-attention width 2048 \(SDXL\). Accepted: 8"):
        pipe.load_lora_weights(given, adapter_name="style")
    assert not arms.adapters(pipe.unet)


@pytest.mark.slow  # on the clock
def test_switching_a_lora_at_sdxls_size_takes_under_two_percent_of_the_fastest_step():
    """722 layers, beside an evaluation without any arithmetic, by tensors that have only shapes."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SDXL, subfolder="unet"))
        targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
        unet.add_adapter(LoraConfig(r=4, target_modules=targets), adapter_name="style")
    settings = arms.adapter_scales(unet, {"style": -1.5})
    assert len(settings) == 722

    def switch() -> None:
        with arms.switched(settings):
            pass

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    told = {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)}
    x, t, c = empty(1, 4, 128, 128), empty(1), empty(1, 77, 2048)
    with torch.no_grad():
        evaluation = fastest(lambda: unet(x, t, c, added_cond_kwargs=told), 2)
    assert fastest(switch, 20) < 0.02 * evaluation


@each_family
def test_the_call_gives_every_argument_with_its_type(family):
    signature = inspect.signature(family.cls.__call__)
    named = [p for name, p in signature.parameters.items() if name != "self" and p.kind != p.VAR_KEYWORD]
    assert not [p.name for p in named if p.annotation is p.empty or isinstance(p.annotation, str)]
    assert signature.parameters["cap"].annotation == float | None
    assert signature.parameters["method"].annotation == str | Method | None
    assert family.cls.__call__.__qualname__ == f"{family.name}.__call__"
    helped = pydoc.render_doc(family.cls.__call__, renderer=pydoc.plaintext)
    assert "reflection_steps: int | None = None" in helped and "weak_guidance_scale: guidance of" in helped
