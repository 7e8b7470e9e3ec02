"""What tells the arms of a pair apart, against their algorithm written with diffusers' own switches."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from families import (
    CLASSES,
    CONTROL,
    FAMILIES,
    IMAGE,
    VIDEO,
    Family,
    Literal,
    add_lora,
    algorithm_1,
    close,
    every_family_or_form,
    generator,
    ip_adapter,
)

from w2sd_video import arms
from w2sd_video.hook import Conditioning, apply_reflection
from w2sd_video.methods import W2SD


@contextmanager
def set_for_a_while(model: Any, name: str, scale: float, back: float) -> Any:
    model.set_adapters([name], [scale])
    try:
        yield
    finally:
        model.set_adapters([name], [back])


@pytest.mark.parametrize("family", [FAMILIES[0], VIDEO, IMAGE, CONTROL[1]], ids=str)
@pytest.mark.parametrize("scale", [-1.5, 0.0])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, scale: family is IMAGE or scale and family is VIDEO)
def test_a_lora_at_two_scales_is_algorithm_1(family, scale):
    pipe, x = family.pipeline(weak=False), family.latents()
    add_lora(pipe.unet)
    pipe.unet.to(torch.float64).set_adapters(["style"], [0.8])
    ours = family(pipe, latents=x, strong_guidance_scale=1.0, weak_adapter_scales={"style": scale})
    weak_on = partial(set_for_a_while, pipe.unet, "style", scale, 0.8)
    assert close(ours, Literal(family, pipe, strong=1.0, weak_on=weak_on).run(x, algorithm_1))
    assert all(layer.scaling["style"] == 0.8 for layer in pipe.unet.modules() if hasattr(layer, "scaling"))


def test_a_stock_pipeline_is_told_a_prompt_and_a_lora_scale_as_ours_is_by_weak_prompt_and_weak_adapter_scales():
    pipe = IMAGE.pipeline(weak=False)
    add_lora(pipe.unet)
    expected = IMAGE(pipe, weak_prompt="a dog", weak_adapter_scales={"style": -1.5})
    stock = IMAGE.stock_of(pipe)
    embeds, _, pooled, _ = stock.encode_prompt("a dog", do_classifier_free_guidance=False)
    told = Conditioning(cond={"encoder_hidden_states": embeds, "added_cond_kwargs": {"text_embeds": pooled}})
    scales = arms.adapter_scales(stock.unet, {"style": -1.5})
    method = W2SD(strong_guidance=3.0, weak_guidance=1.0)
    with apply_reflection(stock, method, weak_conditioning=told, weak_settings=scales):
        assert torch.equal(IMAGE(stock), expected)


@pytest.mark.slow
def test_several_loras_and_text_encoders_with_them():
    pipe, x = IMAGE.pipeline(weak=False), IMAGE.latents()
    for seed, name in enumerate(("style", "sharp")):
        add_lora(pipe.unet, name, 40 + seed)
        add_lora(pipe.text_encoder, name, 50 + seed, ("q_proj", "v_proj"))
    pipe.to(torch.float64)
    pipe.set_adapters(["style", "sharp"], [0.8, 0.3])

    @contextmanager
    def weak() -> Any:
        pipe.set_adapters(["style", "sharp"], [-1.5, 1.2])
        try:
            yield
        finally:
            pipe.set_adapters(["style", "sharp"], [0.8, 0.3])

    ours = IMAGE(pipe, latents=x, weak_adapter_scales={"style": -1.5, "sharp": 1.2})
    literal = Literal(IMAGE, pipe, weak_on=weak, weak_encodes=weak)
    assert not torch.equal(literal.told["weak"][0], literal.told["strong"][0])
    assert close(ours, literal.run(x, algorithm_1))


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILIES[0], IMAGE, FAMILIES[3]], ids=str)
def test_an_ip_adapter_at_two_scales_is_algorithm_1(family):
    pipe, x = family.pipeline(weak=False), family.latents()
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    pipe.to(torch.float64)
    pipe.set_ip_adapter_scale(0.9)
    embeds = torch.randn(2, 1, tiny.TEXT_WIDTH, generator=generator(7), dtype=torch.float64)
    told = {"latents": x, "ip_adapter_image_embeds": [embeds]}

    @contextmanager
    def weak() -> Any:
        pipe.set_ip_adapter_scale(0.2)
        try:
            yield
        finally:
            pipe.set_ip_adapter_scale(0.9)

    ours = family(pipe, weak_ip_adapter_scale=0.2, **told)
    assert close(ours, Literal(family, pipe, image_embeds=embeds, weak_on=weak).run(x, algorithm_1))
    without = family(pipe, weak_ip_adapter_scale=0.0, **told)
    assert not close(without, ours, 1e-6)


@pytest.mark.parametrize("family", CONTROL, ids=str)
@pytest.mark.parametrize("weak", [0.0, 0.5])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, weak: family is (CONTROL[2] if weak else CONTROL[1]))
def test_a_controlnet_at_two_scales_is_algorithm_1_with_residuals_made_anew(family, weak):
    pipe, x = family.pipeline(weak=False), family.latents()
    scales = {"controlnet_conditioning_scale": 0.8, "weak_controlnet_conditioning_scale": weak}
    ours = family(pipe, latents=x, strong_guidance_scale=0.5, weak_guidance_scale=0.5, **scales)
    numbers = {"strong": 0.5, "weak": 0.5, "control_scale": 0.8, "weak_control_scale": weak}
    assert close(ours, Literal(family, pipe, **numbers).run(x, algorithm_1))
    assert pipe.evaluations["controlnet"] == 3 * (4 if weak == 0 else 6) + 2
    scales["weak_controlnet_conditioning_scale"] = [weak]  # a list, of one ControlNet
    assert torch.equal(family(pipe, latents=x, strong_guidance_scale=0.5, weak_guidance_scale=0.5, **scales), ours)


@pytest.mark.slow
@pytest.mark.parametrize("family", CONTROL, ids=str)
def test_where_the_controlnet_is_off_it_is_not_evaluated(family):
    pipe, x = family.pipeline(weak=False), family.latents()
    family(pipe, latents=x, control_guidance_end=0.5, weak_controlnet_conditioning_scale=2.0, weak_guidance_scale=0.0)
    assert pipe.evaluations["controlnet"] == 2 * (4 + 1)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.video], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, scale: (family, scale) in ((VIDEO, 0.0), (FAMILIES[0], 0.5)))
def test_motion_modules_off_or_scaled_are_algorithm_1(family, scale):
    """Motion modules end in a residual sum, so scaling the last projection scales what they add."""
    pipe, x = family.pipeline(weak=False), family.latents()
    last = [module for name, module in pipe.unet.named_modules() if name.endswith(("proj_out",)) and "motion" in name]
    assert last

    @contextmanager
    def weak() -> Any:
        before = [(p, p.clone()) for module in last for p in module.parameters()]
        for p, value in before:
            p.copy_(scale * value)
        try:
            yield
        finally:
            for p, value in before:
                p.copy_(value)

    ours = family(pipe, latents=x, weak_motion_scale=scale)
    assert close(ours, Literal(family, pipe, weak_on=weak).run(x, algorithm_1))
    assert not close(ours, family(pipe, latents=x), 1e-4)


@pytest.mark.parametrize("family", [CONTROL[0], CONTROL[2]], ids=str)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is CONTROL[0])
def test_differences_compose_by_being_named_together(family):
    """Table 6, and more: LoRA, ControlNet, prompt and guidance at once."""
    pipe, x = family.pipeline(weak=False), family.latents()
    add_lora(pipe.unet)
    pipe.unet.to(torch.float64).set_adapters(["style"], [0.8])
    told = {"weak_adapter_scales": {"style": -1.5}, "weak_prompt": "a dog", "controlnet_conditioning_scale": 0.8}
    told |= {"weak_controlnet_conditioning_scale": 0.3, "strong_guidance_scale": 5.5, "weak_guidance_scale": -1.0}
    ours = family(pipe, latents=x, **told)
    literal = Literal(
        family,
        pipe,
        weak_prompt="a dog",
        strong=5.5,
        weak=-1.0,
        control_scale=0.8,
        weak_control_scale=0.3,
        weak_on=lambda: set_for_a_while(pipe.unet, "style", -1.5, 0.8),
    )
    assert close(ours, literal.run(x, algorithm_1))


EQUAL = {
    "weights": {},
    "LoRA": {"weak_adapter_scales": {"style": 0.8}},
    "IP-Adapter": {"weak_ip_adapter_scale": 0.9},
    "motion": {"weak_motion_scale": 1.0},
    "ControlNet": {"weak_controlnet_conditioning_scale": 0.7},
    "prompt": {"weak_prompt": "a cat"},
    "experts": {"weak_routing": "best"},
}


def test_settings_made_of_a_network_that_the_weak_arm_has_not_are_refused():
    pipe = VIDEO.pipeline()
    stock, other = VIDEO.stock_of(pipe), pipe.weak_unet
    with pytest.raises(ValueError, match="`weak_settings` set 'forward' in the pipeline's own network, which the weak"):
        with apply_reflection(stock, W2SD(), weak=other, weak_settings=arms.motion_scale(stock.unet, 0.0)):
            pass
    with apply_reflection(stock, W2SD(), weak=other, weak_settings=arms.motion_scale(other, 0.0)):
        pass


def own_difference(family: Family) -> str:
    """The pair that a family has in the fast part: one that the cheapest, of images, does not have."""
    return "ControlNet" if family.control else "motion" if family is VIDEO else "weights"


@every_family_or_form("pair", [*EQUAL])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(
    case=lambda family, pair: family is IMAGE or family in (VIDEO, CLASSES) and pair == own_difference(family)
)
def test_equal_arms_with_the_exact_inversion_are_plain_sampling(family, pair):
    arguments = dict(EQUAL[pair])
    has = {"weights": True, "motion": family.video, "ControlNet": family.control, "experts": not family.text}
    if not has.get(pair, family.text):
        with pytest.raises(ValueError, match="is no argument of"):
            family(family.pipeline(weak=False), **arguments)
        return
    pipe, x = family.pipeline(weak=pair == "weights"), family.latents()
    if pair == "weights":
        pipe.register_modules(**{f"weak_{family.denoiser}": family.networks(family.pipeline())[0]})
    if pair == "LoRA":
        add_lora(pipe.unet)
        pipe.unet.to(torch.float64).set_adapters(["style"], [0.8])
    common: dict[str, Any] = {"latents": x}
    if pair == "IP-Adapter":
        pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
        pipe.to(torch.float64).set_ip_adapter_scale(0.9)
        embeds = torch.randn(2, 1, tiny.TEXT_WIDTH, generator=generator(7), dtype=torch.float64)
        common["ip_adapter_image_embeds"] = [embeds]
    if family.control:
        common["controlnet_conditioning_scale"] = 0.7
    ours = family(pipe, inversion="x_t", weak_guidance_scale=3.0, **arguments, **common)
    assert close(ours, family(pipe, method=None, **common), 1e-7)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.slow_unless(case=lambda error: error is KeyboardInterrupt)
def test_switches_are_restored_after_an_exception_inside_the_weak_arm(error):
    family = FAMILIES[0]
    pipe = family.pipeline(weak=False)
    add_lora(pipe.unet)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    pipe.to(torch.float64)
    pipe.set_adapters(["style"], [0.8])
    pipe.set_ip_adapter_scale(0.9)
    layers = [layer for layer in pipe.unet.modules() if hasattr(layer, "scaling")]
    processors = [p for p in pipe.unet.attn_processors.values() if hasattr(p, "to_k_ip")]

    def state() -> Any:
        forwards = [name for name, module in pipe.unet.named_modules() if "forward" in vars(module)]
        return [layer.scaling["style"] for layer in layers], [p.scale for p in processors], forwards

    before = state()
    seen = []

    def stop(module: Any, args: Any) -> None:
        if layers[0].scaling["style"] == -1.5:
            seen.append(state())
            raise error("inside the weak arm")

    handle = pipe.unet.conv_in.register_forward_pre_hook(stop)
    embeds = torch.randn(2, 1, tiny.TEXT_WIDTH, generator=generator(7), dtype=torch.float64)
    arguments = {"weak_adapter_scales": {"style": -1.5}, "weak_ip_adapter_scale": 0.1, "weak_motion_scale": 0.0}
    with pytest.raises(error):
        family(pipe, ip_adapter_image_embeds=[embeds], **arguments)
    assert seen[0][0] == [-1.5] * len(layers) and seen[0][1] == [[0.1]] * len(processors) and seen[0][2]
    assert state() == before
    handle.remove()
