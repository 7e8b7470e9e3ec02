"""Every family: off, it is the stock pipeline; on, it is the method written literally over the same networks."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import tiny
import torch
from families import (
    CLASSES,
    CONTROL,
    FAMILIES,
    FORMS,
    IMAGE,
    VIDEO,
    Literal,
    add_lora,
    algorithm_1,
    close,
    each_family,
    each_of_text,
    every_family_or_form,
    generator,
)

from w2sd_video import arms, methods
from w2sd_video.methods import OPTIONS


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
        with pytest.raises(
            ValueError,
            match="needs the unconditional branch, which DiTPipeline evaluates only",
        ):
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
