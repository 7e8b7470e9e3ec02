"""Every family: off, it is the stock pipeline; on, it is the method written literally over the same networks."""

from __future__ import annotations

import inspect
import math
import pydoc
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from accelerate import init_empty_weights
from clock import fastest
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from families import FAMILIES, FORMS, Family, Literal, add_lora, algorithm_1, ip_adapter
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from w2sd_video import arms, methods
from w2sd_video.errors import WeightsError
from w2sd_video.hook import Conditioning, apply_reflection
from w2sd_video.methods import OPTIONS, W2SD, Method
from w2sd_video.models.bases import SDXL
from w2sd_video.pipelines.signatures import DEPRECATED

IMAGE, VIDEO = FAMILIES[2], FAMILIES[1]
CONTROL = [family for family in FAMILIES if family.control]
CLASSES = FAMILIES[7]
TEXT = [family for family in FAMILIES if family.text]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=str)
each_of_text = pytest.mark.parametrize("family", TEXT, ids=str)


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-9) -> bool:
    return float((ours - theirs).abs().max()) <= rtol * float(theirs.abs().max())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_family_or_form(name: str, options: list[Any]) -> Any:
    """Cases: the first of some options on every family, and the others on one family of each form."""
    cases = [(family, option) for option in options for family in (FAMILIES if option is options[0] else FORMS)]
    return pytest.mark.parametrize(("family", name), cases, ids=str)


# Invariants 1, 2, 5 - 8 of every family


def test_what_a_test_does_to_its_pipeline_is_not_in_the_next_ones():
    """Pipelines are copies of one that is built once a session."""
    expected = IMAGE(IMAGE.pipeline())
    pipe = IMAGE.pipeline()
    add_lora(pipe.unet)
    with torch.no_grad():
        pipe.weak_unet.conv_out.weight.fill_(float("nan"))
        pipe.vae.to(torch.float32)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    pipe.text_encoder = None
    pipe.enable_model_cpu_offload(device="cpu")
    again = IMAGE.pipeline()
    assert torch.equal(IMAGE(again), expected)
    assert not arms.adapters(again.unet) and again.vae.dtype == torch.float64


@every_family_or_form("arguments", [{}, {"guidance_scale": 1.0}, {"eta": 0.7, "negative_prompt": "a dog"}])
@pytest.mark.slow_unless(case=lambda family, arguments: family is IMAGE or not arguments)
def test_with_the_method_off_the_output_is_the_stock_pipelines_bit_for_bit(family, arguments):
    takes = inspect.signature(family.stock.__call__).parameters
    if not takes.keys() >= arguments.keys():
        arguments = {"num_inference_steps": 3}  # a pipeline that takes less
    pipe = family.pipeline(dtype=torch.float32)
    ours, theirs = family(pipe, method=None, **arguments), family(family.stock_of(pipe), **arguments)
    assert torch.equal(ours, theirs)
    assert torch.equal(family(pipe, reflection_steps=0, **arguments), theirs) or arguments  # one branch is not two


@every_family_or_form(
    "guidance", [{}, {"strong": 1.0, "main": 5.5}, {"main": 1.0, "strong": 5.5, "weak": -2.0}, {"weak": 0.0}]
)
@pytest.mark.slow_unless(case=lambda family, guidance: family is IMAGE or not guidance)
def test_with_the_method_on_the_output_is_algorithm_1(family, guidance):
    pipe = family.pipeline()
    x = family.latents()
    numbers = {"main": 3.0, "strong": 3.0, "weak": 1.0, **guidance}
    asked = {"latents": x, "guidance_scale": numbers["main"]}
    asked |= {"strong_guidance_scale": numbers["strong"], "weak_guidance_scale": numbers["weak"]}
    if not family.text and numbers["main"] <= 1:
        with pytest.raises(ValueError, match="has no unconditional branch at `guidance_scale` 1.0"):
            family(pipe, **asked)
        return
    ours = family(pipe, **asked)
    assert close(ours, Literal(family, pipe, **numbers).run(x, algorithm_1))


# Whole matrices, on the cheapest family. Of the first two, test_animatediff_sdxl.py has a few cases.


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("reflected", [1, None, 4])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(
    case=lambda spacing, kind, reflected: spacing == "trailing" or reflected == 4 and kind == "epsilon"
)
def test_every_schedule_prediction_and_lambda_is_algorithm_1(spacing, kind, reflected):
    pipe = IMAGE.pipeline(scheduler=tiny.scheduler(timestep_spacing=spacing, prediction_type=kind))
    x = IMAGE.latents()
    ours = IMAGE(pipe, latents=x, reflection_steps=reflected)
    assert close(ours, Literal(IMAGE, pipe).run(x, algorithm_1, reflected=reflected))


@pytest.mark.parametrize("main", [1.0, 3.0, 0.0, -1.0])
@pytest.mark.parametrize(("strong", "weak"), [(3.0, 1.0), (1.0, 1.0), (5.5, 0.0), (1.0, -10.0), (0.0, 3.0)])
@pytest.mark.slow_unless(case=lambda main, strong: main == 3.0 or strong == 3.0)
def test_every_combination_of_guidance_is_algorithm_1(main, strong, weak):
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    told = {"guidance_scale": main, "strong_guidance_scale": strong, "weak_guidance_scale": weak}
    ours = IMAGE(pipe, latents=x, num_inference_steps=3, **told)
    assert close(ours, Literal(IMAGE, pipe, main=main, strong=strong, weak=weak).run(x, algorithm_1, steps=3))


# Arguments of a call of four steps; evaluations in each of the three reflected steps, and in the last one.
EVALUATIONS = [
    ({}, 5, 2),  # 3.0 / 1.0, main 3.0: 2 + 1 + 2
    ({"strong_guidance_scale": 1.0}, 4, 2),  # 1.0 / 1.0, main 3.0
    ({"guidance_scale": 1.0}, 3, 1),
    ({"guidance_scale": 1.0, "strong_guidance_scale": 3.0}, 4, 1),
    ({"strong_guidance_scale": 5.5, "weak_guidance_scale": 0.0}, 5, 2),
    ({"weak_guidance_scale": -10.0}, 6, 2),
    ({"inversion": 2}, 7, 2),
    ({"inversion": "x_t"}, 5, 2),
    ({"guidance_scale": 0.0}, 3, 1),
    ({"method": "optimistic"}, 3, 2),
    ({"method": "optimistic", "guidance_scale": 1.0, "strong_guidance_scale": 3.0}, 3, 1),
    ({"method": "optimistic", "strong_guidance_scale": 1.0}, 3, 2),
    ({"method": "optimistic", "guidance_scale": 1.0, "strong_guidance_scale": 1.0}, 2, 1),
    ({"method": "optimistic", "weak_guidance_scale": 0.0, "inversion": 2}, 5, 2),
    ({"method": None}, 2, 2),
    ({"method": None, "guidance_scale": 1.0}, 1, 1),
]


@pytest.mark.parametrize(
    ("family", "arguments", "a_step", "last"),
    # Of videos two: test_cost.py counts those of all methods at shapes' networks.
    [(IMAGE, *case) for case in EVALUATIONS] + [(FAMILIES[0], *EVALUATIONS[n]) for n in (0, 9)],
    ids=str,
)
@pytest.mark.slow_unless(case=lambda family, arguments: family is IMAGE or not arguments)
def test_the_number_of_network_evaluations_is_what_the_arithmetic_says(family, arguments, a_step, last):
    pipe = family.pipeline(dtype=torch.float32)
    counted = {"strong": 0, "weak": 0}

    def count(arm: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            counted[arm] += len(args[0]) // (tiny.FRAMES if family.video else 1)

        return hook

    for arm, unet in zip(counted, family.networks(pipe), strict=True):
        unet.conv_in.register_forward_pre_hook(count(arm))
    family(pipe, **arguments)
    assert counted["strong"] + counted["weak"] == 3 * a_step + last
    assert pipe.evaluations == {**counted, "total": sum(counted.values())}


@each_of_text
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family in (IMAGE, VIDEO))
def test_the_weak_arm_can_have_its_own_prompt_and_text_encoders(family):
    pipe = family.pipeline(weak=False)
    x = family.latents()
    ours = family(pipe, latents=x, weak_prompt="a dog", weak_guidance_scale=2.0)
    assert close(ours, Literal(family, pipe, weak_prompt="a dog", weak=2.0).run(x, algorithm_1))
    first, second = tiny.text_encoders(50)
    weak = {"weak_text_encoder": first} | ({"weak_text_encoder_2": second} if family.xl else {})
    own = family.pipeline(weak=False, **weak)
    assert not close(family(own, latents=x, weak_guidance_scale=2.0), ours, 1e-3)


@every_family_or_form("method", ["w2sd", "re_sampling"])
@pytest.mark.slow_unless(case=lambda family, method: family is IMAGE or method == "w2sd" and family in FORMS)
def test_a_batch_gives_its_members(family, method):
    pipe = family.pipeline()
    prompts = ["a cat", "a dog"]
    control = {"image": family.picture().repeat(2, 1, 1, 1)} if family.control and not family.video else {}
    both = family(pipe, **family.told(*prompts), generator=[generator(1), generator(2)], method=method, **control)
    for i, prompt in enumerate(prompts):
        alone = family(pipe, **family.told(prompt), generator=[generator(1 + i)], method=method)
        assert close(both[i : i + 1], alone)


@each_family
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family in (IMAGE, CONTROL[2], CLASSES))
def test_a_save_and_a_load_give_the_same(family, tmp_path):
    pipe = family.pipeline(dtype=torch.float32)
    first = family(pipe)
    pipe.save_pretrained(tmp_path)
    again = family.cls.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert close(family(again), first, 1e-5)  # the order of sums depends on where in memory weights lie
    shared = [zip(*(n.parameters() for n in family.networks(each)), strict=True) for each in (pipe, again)]
    assert sum(p is q for p, q in shared[0]) == sum(p is q for p, q in shared[1])


@every_family_or_form("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, error: family is IMAGE or error is None and family in FORMS)
def test_however_a_call_ends_the_pipeline_is_as_it_was_and_says_what_it_spent(family, error, monkeypatch):
    pipe = family.pipeline()
    counted = {"strong": 0, "weak": 0} | ({"controlnet": 0} if family.control else {})

    def count(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            counted[name] += len(args[0]) // (tiny.FRAMES if family.video else 1)

        return hook

    networks = [*family.networks(pipe), *([pipe.controlnet] if family.control else [])]
    for name, network in zip(counted, networks, strict=True):
        getattr(network, family.first).register_forward_pre_hook(count(name))
    before = [sorted(vars(network)) for network in networks]
    step, steps = pipe.scheduler.step, iter(range(4))

    def stopping(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == 1 and error:
            raise error("stop")
        return step(*args, **kwargs)

    monkeypatch.setattr(pipe.scheduler, "step", stopping)
    if error:
        with pytest.raises(error):
            family(pipe)
    else:
        family(pipe)
    reflected, plain = (2, 0) if error else (3, 1)
    expected = {"strong": 4 * reflected + 2 * plain, "weak": reflected}
    if family.control:
        expected["controlnet"] = 5 * reflected + 2 * plain
    assert counted == expected
    assert pipe.evaluations == {**counted, "total": counted["strong"] + counted["weak"]}
    assert [sorted(vars(network)) for network in networks] == before
    assert not pipe._forced_halves


@each_family
def test_the_call_documents_the_stock_arguments_and_its_own(family):
    names = inspect.signature(family.cls.__call__).parameters
    stock = [n for n, p in inspect.signature(family.stock.__call__).parameters.items() if p.kind != p.VAR_KEYWORD]
    assert list(names)[: len(stock)] == stock
    assert {"method", "weak_guidance_scale", "inversion", "weight"} <= set(names)
    assert ("weak_adapter_scales" in names) == ("weak_prompt" in names) == family.text
    assert ("weak_routing" in names) != family.text
    assert ("weak_motion_scale" in names) == family.video
    assert ("weak_controlnet_conditioning_scale" in names) == family.control
    assert ("weak_pooled_prompt_embeds" in names) == family.xl
    assert f"weak_{family.denoiser}" in inspect.signature(family.cls.__init__).parameters
    about = inspect.getdoc(family.cls.__call__)
    assert not [name for name in methods.METHODS if f'"{name}"' not in about]
    assert not [name for name in OPTIONS if not re.search(rf"[ ,]{name}[:,]", about)]


# Methods, against their algorithms written literally


def s2wd(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    x_s = run.move(run.weak_at(x, t), t, x)
    return run.inverse(run.strong_at(x_s, t), t, x_s)


def theorem_1(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    x_s = run.move(run.strong_at(x, t), t, x)
    return run.inverse(run.weak_at(x, t), t, x_s)


def twice_inverted(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    x_s = run.move(run.strong_at(x, t), t, x)
    back = run.inverse(run.weak_at(x_s, t), t, x_s)
    for _ in range(2):
        back = run.inverse(run.weak_at(back, t), t, x_s)
    return back


def noisy(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    return algorithm_1(run, x, t) + 0.1 * run.noises.pop(0)


def renoise(run: Literal, x_s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The forward process from the level that the step ends at, back to t, as DDPM's Eq. 2 composes."""
    scheduler = run.pipe.scheduler
    s = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    before = scheduler.alphas_cumprod[s] if s >= 0 else scheduler.final_alpha_cumprod
    kept = scheduler.alphas_cumprod[int(t)] / before
    return kept.sqrt() * x_s + (1 - kept).sqrt() * noise


def algorithm_2(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    return renoise(run, run.move(run.strong_at(x, t), t, x), t, run.noises.pop(0))


def algorithm_3(run: Literal, x: Tensor, t: Tensor, adverse: bool = False) -> Tensor:
    """Normal noise is symmetric: to draw until it fits is, in law, to take the negative if it does not."""
    drawn = run.noises.pop(0)
    for noise in (drawn, -drawn):
        if (torch.cosine_similarity((algorithm_1(run, x, t) - x).flatten(), noise.flatten(), 0) >= 0) != adverse:
            break
    return renoise(run, run.move(run.strong_at(x, t), t, x), t, noise)


def algorithm_3_adverse(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    return algorithm_3(run, x, t, adverse=True)


def split_in_time(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    d = algorithm_1(run, x, t) - x
    still = d.mean(2, keepdim=True)
    return x + 0.5 * still + 2.0 * (d - still)


def stiller(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    """Of a picture, all of d is still."""
    d = algorithm_1(run, x, t) - x
    return x + d - 0.75 * (d.mean(2, keepdim=True) if d.ndim == 5 else d)


def capped(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    p = run.strong_at(x, t)
    x_s = run.move(p, t, x)
    p_w = run.weak_at(x_s, t)
    difference = p - p_w
    difference = difference * min(1.0, float(0.2 * p.norm() / difference.norm()))
    return run.inverse(p - difference, t, x_s)


METHODS = {
    "s2wd": ({"method": "s2wd"}, s2wd),
    "theorem 1": ({"inversion": "x_t"}, theorem_1),
    "fixed point": ({"inversion": 2}, twice_inverted),
    "inversion noise": ({"inversion_noise": 0.1}, noisy),
    "re-sampling": ({"method": "re_sampling"}, algorithm_2),
    "advanced re-sampling": ({"method": "advanced_re_sampling"}, algorithm_3),
    "adverse re-sampling": ({"method": "advanced_re_sampling", "adverse": True}, algorithm_3_adverse),
    "cap": ({"cap": 0.2}, capped),
    "gains": ({"still_gain": 0.5, "motion_gain": 2.0}, split_in_time),
    "still gain": ({"still_gain": 0.25}, stiller),
}


@pytest.mark.parametrize("family", [VIDEO, IMAGE, CONTROL[0], CLASSES], ids=str)
@pytest.mark.parametrize(("arguments", "reflect"), METHODS.values(), ids=METHODS)
@pytest.mark.exhaustive_unless(
    case=lambda family, arguments: family is IMAGE or family is VIDEO and "still_gain" in arguments
)
def test_every_method_is_its_algorithm(family, arguments, reflect, monkeypatch):
    if "motion_gain" in arguments and not family.video:
        with pytest.raises(ValueError, match="`motion_gain` is 2.0, and there is no time in latents"):
            family(family.pipeline(), **arguments)
        return
    pipe = family.pipeline()
    x = family.latents()
    drawn = [torch.randn(x.shape, generator=generator(60 + i), dtype=x.dtype) for i in range(3)]
    left = list(drawn)
    monkeypatch.setattr("w2sd_video.hook.attach.following_noise", lambda generator: lambda x: left.pop(0))
    ours = family(pipe, latents=x, **arguments)
    assert close(ours, Literal(family, pipe, noises=drawn).run(x, reflect))


@pytest.mark.slow
@pytest.mark.parametrize("family", [VIDEO, IMAGE, CONTROL[0], CLASSES], ids=str)
def test_the_weak_arm_alone_is_the_stock_pipeline_of_its_network(family):
    pipe = family.pipeline()
    x = family.latents()
    ours = family(pipe, latents=x, method="weak", weak_guidance_scale=2.0)
    assert pipe.evaluations["strong"] == 0 and pipe.evaluations["weak"] == 8
    stock = family.stock_of(pipe)
    setattr(stock, family.denoiser, family.networks(pipe)[1])
    assert close(ours, family(stock, latents=x, guidance_scale=2.0))


@pytest.mark.parametrize("family", [VIDEO, IMAGE, CLASSES], ids=str)
@pytest.mark.slow_unless(case=lambda family: family is not VIDEO)
def test_auto_guidance_is_its_step(family):
    pipe = family.pipeline()
    x = start = family.latents()
    run = Literal(family, pipe)
    pipe.scheduler.set_timesteps(4)
    with torch.no_grad():
        for i, t in enumerate(pipe.scheduler.timesteps):
            good, bad = run.move(run.strong_at(x, t), t, x), run.move(run.weak_at(x, t), t, x)
            x = good + 0.7 * (good - bad) if i < 3 else good
    assert close(family(pipe, latents=start, method="auto_guidance", weight=0.7), x)
    assert pipe.evaluations == {"strong": 8, "weak": 3, "total": 11}  # the strong arm is evaluated once at x_t


@pytest.mark.parametrize("family", [VIDEO, IMAGE, CLASSES], ids=str)
@pytest.mark.slow_unless(case=lambda family: family is not VIDEO)
def test_z_sampling_leaves_the_weak_model_out(family):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method="z_sampling", strong_guidance_scale=5.5, weak_guidance_scale=0.0)
    alone = family.pipeline(weak=False)
    assert close(ours, Literal(family, alone, strong=5.5, weak=0.0).run(x, algorithm_1))


def test_the_interval_limits_reflection_to_its_noise_levels():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    pipe.scheduler.set_timesteps(4)
    sigmas = [(1 - pipe.scheduler.alphas_cumprod[t]).sqrt().item() for t in pipe.scheduler.timesteps]
    IMAGE(pipe, latents=x, interval=(sigmas[2] - 1e-6, sigmas[1] + 1e-6))
    assert pipe.evaluations["weak"] == 2
    assert torch.equal(IMAGE(pipe, latents=x, interval=(sigmas[3] + 1e-6, 1.0)), IMAGE(pipe, latents=x))


@pytest.mark.slow
def test_gains_of_one_and_a_high_cap_are_the_paper():
    pipe, x = VIDEO.pipeline(), VIDEO.latents()
    assert close(VIDEO(pipe, latents=x, still_gain=1.0, motion_gain=1.0, cap=1e9), VIDEO(pipe, latents=x))


def test_the_noise_of_a_method_follows_from_the_generator_and_leaves_it_be():
    pipe = IMAGE.pipeline()
    one, other = generator(4), generator(4)
    first = IMAGE(pipe, method="re_sampling", generator=one)
    assert torch.equal(IMAGE(pipe, method="re_sampling", generator=other), first)
    IMAGE(pipe, method=None, generator=(plain := generator(4)))
    assert torch.equal(one.get_state(), plain.get_state())
    assert not close(IMAGE(pipe, method="re_sampling", generator=generator(5)), first, 1e-3)


# Pairs, against their algorithm written with diffusers' own switches


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
