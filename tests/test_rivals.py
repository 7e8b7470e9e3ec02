"""Other guidance methods, each against its formula written down over the same networks, without a hook.

The formulas are the papers'. Where diffusers has the method too, its own functions make the expected prediction.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip
from families import CLASSES, FORMS, IMAGE, VIDEO, Literal, close, generator
from families import algorithm_1 as w2sd_by_hand
from torch import Tensor

from w2sd_video import arms
from w2sd_video.errors import Refused
from w2sd_video.hook import apply_reflection
from w2sd_video.methods import APG, METHODS, Foresight, PerturbedAttentionGuidance
from w2sd_video.runs import Request
from w2sd_video.sampling import evaluations, load, sample

each_form = pytest.mark.parametrize("family", FORMS, ids=str)


def all_on(family: Any, names: str, **options: Any) -> Any:
    """Cases: all of some options on one family, and the first of them on one family of each other form."""
    cases = {name: value if isinstance(value, tuple) else (value,) for name, value in options.items()}
    chosen = [(form, name) for form in FORMS for name in cases if form is family or name == next(iter(cases))]
    values = [pytest.param(form, *cases[name], id=f"{name}-{form}") for form, name in chosen]
    return pytest.mark.parametrize(("family", *names.split(", ")), values)


Mixture = Callable[[Literal, int, Tensor, Tensor], Tensor]  # of a run, at step i of a latent x and a time t


def halves(run: Literal, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return run.network("strong", x, t, "uncond"), run.network("strong", x, t, "cond")


@torch.no_grad()
def sampled(run: Literal, x: Tensor, mixture: Mixture, steps: int = 4) -> Tensor:
    """The loop: each step is the scheduler's own, with the mixture of predictions."""
    run.pipe.scheduler.set_timesteps(steps)
    for i, t in enumerate(run.pipe.scheduler.timesteps):
        x = run.move(mixture(run, i, x, t), t, x)
    return x


def spent(pipe: Any) -> dict[str, int]:
    return {name: pipe.evaluations[name] for name in ("strong", "weak", "total")}


def level(run: Literal, t: Tensor) -> tuple[float, float]:
    """alpha and sigma."""
    bar = float(run.pipe.scheduler.alphas_cumprod[int(t)])
    return bar**0.5, (1 - bar) ** 0.5


def clean(run: Literal, p: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The clean latents that a prediction says."""
    alpha, sigma = level(run, t)
    if run.pipe.scheduler.config.prediction_type == "v_prediction":
        return alpha * x - sigma * p
    return (x - sigma * p) / alpha


def dirty(run: Literal, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The prediction that says clean latents z."""
    alpha, sigma = level(run, t)
    if run.pipe.scheduler.config.prediction_type == "v_prediction":
        return (alpha * x - z) / sigma
    return (x - alpha * z) / sigma


# APG


def algorithm_1(**options: float) -> Mixture:
    """Of the paper: of clean latents, with a running average."""
    average: list[Tensor] = []

    def mixture(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
        d_uncond, d_cond = (clean(run, p, x, t) for p in halves(run, x, t))
        delta = d_cond - d_uncond
        if average:
            delta = delta + options["momentum"] * average[-1]
        average.append(delta)
        if options["norm_threshold"]:
            delta = delta * min(1.0, options["norm_threshold"] / float(delta.norm()))
        unit = d_cond / d_cond.norm()
        along = (delta * unit).sum() * unit
        update = (delta - along) + options["parallel"] * along
        return dirty(run, d_cond + (run.main - 1) * update, x, t)

    return mixture


def of_diffusers(parallel: float, momentum: float, norm_threshold: float) -> Mixture:
    buffer = MomentumBuffer(momentum)

    def mixture(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = halves(run, x, t)
        return normalized_guidance(cond, uncond, run.main - 1, buffer, parallel, norm_threshold, True)

    return mixture


PROJECTED = [
    {"parallel": 0.0, "momentum": -0.5, "norm_threshold": 15.0},
    {"parallel": 0.3, "momentum": -0.75, "norm_threshold": 0.5},
    {"parallel": 1.0, "momentum": 0.0, "norm_threshold": 0.0},
]


@all_on(IMAGE, "options", all=PROJECTED[1], paper=PROJECTED[0])
@pytest.mark.slow_unless(case=lambda family, options: family is IMAGE and options["parallel"] == 0.3)
def test_apg_is_the_papers_algorithm_of_clean_latents(family, options):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method="apg", **options)
    assert close(ours, sampled(Literal(family, pipe), x, algorithm_1(**options)), 1e-5)
    assert spent(pipe) == {"strong": 8, "weak": 0, "total": 8}


@all_on(VIDEO, "options", all=PROJECTED[1], paper=PROJECTED[0])
@pytest.mark.slow_unless(case=lambda family, options: family is VIDEO and options["parallel"] == 0.3)
def test_apg_of_what_the_network_predicts_is_diffusers_guider(family, options):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method="apg", of="network", **options)
    assert close(ours, sampled(Literal(family, pipe), x, of_diffusers(**options)), 1e-5)


def test_apg_without_its_three_parts_is_plain_guidance():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    plain = IMAGE(pipe, latents=x, method=None)
    assert close(IMAGE(pipe, latents=x, method=APG(parallel=1.0, momentum=0.0, norm_threshold=0.0)), plain)
    assert not close(IMAGE(pipe, latents=x, method="apg"), plain, 1e-3)


# CFG-Zero*


def zero_star(zero_init_steps: int) -> Mixture:
    def mixture(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = halves(run, x, t)
        if i < zero_init_steps:
            return torch.zeros_like(cond)
        uncond = uncond * cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, *[1] * (cond.ndim - 1))
        return uncond + run.main * (cond - uncond)

    return mixture


@all_on(IMAGE, "steps", one=1, none=0)
@pytest.mark.slow_unless(case=lambda family, steps: family is IMAGE and steps == 1)
def test_cfg_zero_star_is_diffusers_guider(family, steps):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method="cfg_zero_star", zero_init_steps=steps)
    assert close(ours, sampled(Literal(family, pipe), x, zero_star(steps)), 1e-5)
    assert spent(pipe) == {"strong": 8, "weak": 0, "total": 8}


@pytest.mark.parametrize("guidance", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("method", ["apg", "cfg_zero_star"])
@pytest.mark.slow_unless(case=lambda guidance: guidance == 0)
def test_mixtures_hold_at_guidance_up_to_1_too(method, guidance):
    """At 1 they are the conditional prediction; below, both branches are evaluated."""
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    options = PROJECTED[0] if method == "apg" else {"zero_init_steps": 0}
    mixture = algorithm_1(**options) if method == "apg" else zero_star(0)
    ours = IMAGE(pipe, latents=x, method=method, guidance_scale=guidance, **options)
    assert close(ours, sampled(Literal(IMAGE, pipe, main=guidance), x, mixture), 1e-5)
    assert pipe.evaluations["total"] == (4 if guidance == 1 else 8)


# Perturbed layers, by diffusers' own hooks


@contextmanager
def perturbed(network: Any, names: list[str], **what: bool) -> Any:
    with ExitStack() as stack:
        for name in names:
            stack_name, _, index = name.rpartition(".")
            apply_layer_skip(network, LayerSkipConfig(indices=[int(index)], fqn=stack_name, **what))
        stack.callback(lambda: HookRegistry.check_if_exists_or_initialize(network).remove_hook("layer_skip_hook"))
        yield


SKIPPED = {"skip_attention": True, "skip_ff": True}
ATTENTION = {"skip_attention": False, "skip_ff": False, "skip_attention_scores": True}


def away_from(weight: float, names: Callable[[int], list[str]], what: dict[str, bool]) -> Mixture:
    """uncond + w (cond - uncond) + weight (cond - perturbed)."""

    def mixture(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = halves(run, x, t)
        network, _ = run.family.networks(run.pipe)
        if run.family is CLASSES:
            with arms.switched(by_hand(network, names(i), what)):
                worse = run.network("strong", x, t, "cond")
        else:
            with perturbed(network, names(i), **what):
                worse = run.network("strong", x, t, "cond")
        return uncond + run.main * (cond - uncond) + weight * (cond - worse)

    return mixture


def by_hand(network: Any, names: list[str], what: dict[str, bool]) -> Any:
    """For the network of which diffusers knows no blocks."""
    blocks = [network.get_submodule(name) for name in names]
    if what is SKIPPED:
        return [(vars(block), "forward", lambda x, c, ranks: x) for block in blocks]
    return [(vars(b.attn), "forward", lambda y, a=b.attn: a.to_out[0](a.to_v(y))) for b in blocks]


def some(family: Any) -> dict[str, Any]:
    return {"layers": (1,)} if family is CLASSES else {}


def middle(family: Any) -> list[str]:
    return ["blocks.1"] if family is CLASSES else ["mid_block.attentions.0.transformer_blocks.0"]


@each_form
@pytest.mark.parametrize("method", ["slg", "pag"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, method: family is (IMAGE if method == "pag" else VIDEO))
def test_layers_perturbed_are_diffusers_own(family, method):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method=method, **some(family))
    weight, what = {"slg": (2.8, SKIPPED), "pag": (3.0, ATTENTION)}[method]
    expected = sampled(Literal(family, pipe), x, away_from(weight, lambda i: middle(family), what))
    assert close(ours, expected, 1e-5)
    assert spent(pipe) == {"strong": 8, "weak": 4, "total": 12}
    assert close(family(pipe, latents=x, method=None), sampled(Literal(family, pipe), x, plain))  # nothing stays


def plain(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
    uncond, cond = halves(run, x, t)
    return uncond + run.main * (cond - uncond)


@pytest.mark.slow
def test_layers_can_be_of_time_and_named_by_number_or_by_where_they_are():
    """STG skips layers of both."""
    pipe, x = VIDEO.pipeline(), VIDEO.latents()
    names = [
        "down_blocks.1.attentions.0.transformer_blocks.0",
        "down_blocks.1.motion_modules.0.transformer_blocks.0",
    ]
    expected = sampled(Literal(VIDEO, pipe), x, away_from(1.0, lambda i: names, SKIPPED))
    for layers in (("down_blocks.1",), "down_blocks.1", [1, 2], (2, names[0])):
        assert close(VIDEO(pipe, latents=x, method="slg", weight=1.0, layers=layers), expected, 1e-5)
    assert list(arms.transformer_blocks(pipe.unet))[:3] == [
        "down_blocks.0.motion_modules.0.transformer_blocks.0",
        *names,
    ]


@each_form
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is IMAGE)
def test_s2_guidance_is_its_equation_with_blocks_drawn_anew_in_each_step(family):
    pipe, x = family.pipeline(), family.latents()
    droppable = list(arms.transformer_blocks(family.networks(pipe)[0]))[1:]
    count = max(1, round(0.5 * len(droppable)))
    drawn = [random.Random(f"7 {i}").sample(droppable, count) for i in range(4)]
    ours = family(pipe, latents=x, method="s2_guidance", drop=0.5, mask_seed=7)
    expected = sampled(Literal(family, pipe), x, away_from(0.25, lambda i: drawn[i], SKIPPED))
    assert close(ours, expected, 1e-5)
    assert spent(pipe) == {"strong": 8, "weak": 4, "total": 12}
    assert family is CLASSES or len({tuple(each) for each in drawn}) > 1


# P&P


@torch.no_grad()
def refined(run: Literal, x: Tensor, iterations: int, threshold: float | None, steps: int) -> Tensor:
    """The loop of the authors' code: what is certain is what it was, of the clean latents and of the next ones."""
    run.pipe.scheduler.set_timesteps(4)
    for i, t in enumerate(run.pipe.scheduler.timesteps):
        alpha, sigma = level(run, t)
        p = plain(run, i, x, t)
        kept, z, certain = run.move(p, t, x), clean(run, p, x, t), torch.zeros_like(x[:, :1], dtype=torch.bool)
        for _ in range(iterations if i < steps else 0):
            x = alpha * z + sigma * run.noises.pop(0)
            p = plain(run, i, x, t)
            new = clean(run, p, x, t)
            if threshold is not None:
                certain = certain | ((new - z).abs().sum(1, keepdim=True) / x.shape[1] < threshold)
            kept = torch.where(certain, kept, run.move(p, t, x))
            z = torch.where(certain, z, new)
        x = kept
    return x


@all_on(VIDEO, "iterations, threshold, steps", mask=(3, 50.0, 2), paper=(2, 0.25, None), bare=(1, None, 3))
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, steps: family is VIDEO and steps == 2)
def test_p_and_p_is_the_loop_of_its_authors(family, iterations, threshold, steps, monkeypatch):
    pipe, x = family.pipeline(), family.latents()
    drawn = [torch.randn(x.shape, generator=generator(60 + i), dtype=x.dtype) for i in range(9)]
    left = list(drawn)
    monkeypatch.setattr("w2sd_video.hook.attach.following_noise", lambda generator: lambda x: left.pop(0))
    options = {"iterations": iterations, "threshold": threshold, "reflection_steps": steps}
    ours = family(pipe, latents=x, method="predict_and_perturb", **options)
    refines = steps or 1  # a fifth of four steps, and at least one
    expected = refined(Literal(family, pipe, noises=drawn), x, iterations, threshold, refines)
    assert close(ours, expected, 1e-5)
    assert spent(pipe) == {"strong": 8 + 2 * iterations * refines, "weak": 0, "total": 8 + 2 * iterations * refines}


@pytest.mark.slow
def test_the_mask_of_p_and_p_holds_some_and_lets_others_go(monkeypatch):
    """At the threshold of the test above."""
    pipe, x = VIDEO.pipeline(), VIDEO.latents()
    results = [
        VIDEO(pipe, latents=x, method="predict_and_perturb", threshold=threshold, generator=generator(1))
        for threshold in (None, 50.0, 1e9)
    ]
    assert not close(results[0], results[1], 1e-3) and not close(results[1], results[2], 1e-3)
    assert close(results[2], VIDEO(pipe, latents=x, method=None))  # all is certain, and stays what it was


@pytest.mark.parametrize("final, strong, spent_in_all", [(3.0, 1.0, 10), (1.0, 3.0, 8), (3.0, 3.0, 12)])
def test_p_and_p_without_a_mask_evaluates_no_branch_that_it_does_not_use(final, strong, spent_in_all):
    """One of four steps is refined, in two iterations: two predictions of the reflection, and one of the final step."""
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    options = {"iterations": 2, "reflection_steps": 1, "guidance_scale": final, "strong_guidance_scale": strong}

    def call(threshold: float | None) -> Tensor:
        told = {**options, "threshold": threshold, "method": "predict_and_perturb"}
        return IMAGE(pipe, latents=x, generator=generator(1), **told)

    masked = call(0.0)  # nothing is certain
    assert close(call(None), masked)
    assert spent(pipe) == {"strong": spent_in_all, "weak": 0, "total": spent_in_all}
    request = Request.of(
        "a red circle", 0, "shapes-image", num_inference_steps=4, method="predict_and_perturb", reflection_steps=1,
        guidance_scale=final, strong_guidance_scale=strong, options={"iterations": 2, "threshold": None},
    )  # fmt: skip
    assert evaluations(request)["total"] == spent_in_all


# FSG


@torch.no_grad()
def foreseen(run: Literal, x: Tensor, schedule: list[tuple[int, int, int]], strength: float) -> Tensor:
    """The paper's two stages: calibration over several steps, and CFG++'s step."""
    run.pipe.scheduler.set_timesteps(4)
    times = list(run.pipe.scheduler.timesteps)

    def at(i: int, p: Tensor, x: Tensor, j: int) -> Tensor:
        """DDIM's step in one, from the level of step i to that of step j."""
        z, eps = clean(run, p, x, times[i]), noise(run, p, x, times[i])
        alpha, sigma = level(run, times[j])
        return alpha * z + sigma * eps

    def back(i: int, p: Tensor, x: Tensor, j: int) -> Tensor:
        """The x at step i with at(i, p, x, j) = what is given."""
        zero = at(i, p, torch.zeros_like(x), j)
        return (x - zero) / (at(i, p, torch.ones_like(x), j) - zero)

    for i, t in enumerate(times):
        for start, interval, iterations in schedule:
            j = min(i + interval, 3)
            for _ in range(iterations if start == i and j > i else 0):
                ahead = at(i, run.strong_at(x, t), x, j)
                uncond, cond = halves(run, ahead, times[j])
                x = back(i, uncond + run.weak * (cond - uncond), ahead, j)
        uncond, cond = halves(run, x, t)
        z = clean(run, uncond + strength * (cond - uncond), x, t)
        alpha, sigma = level(run, t)
        if i == 3:  # DDIM's last level, of no timestep
            bar = run.pipe.scheduler.final_alpha_cumprod
            alpha, sigma = float(bar) ** 0.5, float(1 - bar) ** 0.5
        else:
            alpha, sigma = level(run, times[i + 1])
        x = alpha * z + sigma * noise(run, uncond, x, t)
    return x


def noise(run: Literal, p: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = level(run, t)
    return (x - alpha * clean(run, p, x, t)) / sigma


@all_on(
    VIDEO,
    "schedule, strength, weak",
    two=(((0, 3, 2), (2, 1, 1)), 0.6, 0.0),
    beyond=(((1, 9, 1), (3, 2, 5)), 1.0, 1.5),
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, strength: family is VIDEO and strength == 0.6)
def test_fsg_is_its_iterations_and_cfg_plus_plus(family, schedule, strength, weak):
    pipe, x = family.pipeline(), family.latents()
    ours = family(pipe, latents=x, method="foresight", schedule=schedule, strength=strength, weak_guidance_scale=weak)
    assert close(ours, foreseen(Literal(family, pipe, weak=weak), x, schedule, strength), 1e-5)
    more = {0.0: (3 * 2, 3), 1.5: (2, 2)}[weak]
    assert spent(pipe) == {"strong": 8 + more[0], "weak": more[1], "total": 8 + sum(more)}


@pytest.mark.slow
def test_fsg_needs_the_unconditional_prediction_at_guidance_1_too():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    numbers = {"strong_guidance_scale": 1.0, "weak_guidance_scale": 1.0, "schedule": ((0, 1, 1),)}
    at_1, at_3 = (IMAGE(pipe, latents=x, method="foresight", guidance_scale=w, **numbers) for w in (1.0, 3.0))
    assert close(at_1, at_3) and spent(pipe) == {"strong": 9, "weak": 1, "total": 10}


def test_the_schedule_of_fsg_is_its_authors_and_is_stretched_to_other_numbers_of_steps():
    method = Foresight()
    assert method.calibrations(0, 50) == method.calibrations(4, 50) == [(3, 2)]
    assert [method.calibrations(i, 50) for i in (1, 2, 18, 34, 35)] == [[], [(3, 1)], [(2, 1)], [(1, 1)], []]
    assert method.calibrations(8, 100) == [(6, 2)] and method.calibrations(1, 15) == [(1, 2)]
    spent = evaluations(Request.of("a red circle", method="foresight", num_inference_steps=50, weak_guidance_scale=0))
    assert spent["total"] == 100 + 3 * (3 + 9 + 8 + 5)


@pytest.mark.parametrize("method", ["apg", "predict_and_perturb", "foresight"])
@pytest.mark.slow
def test_networks_of_v_have_the_same_formulas_of_clean_latents_and_noise(method, monkeypatch):
    pipe = IMAGE.pipeline(scheduler=tiny.scheduler(timestep_spacing="trailing", prediction_type="v_prediction"))
    x = IMAGE.latents()
    drawn = [torch.randn(x.shape, generator=generator(60 + i), dtype=x.dtype) for i in range(4)]
    left = list(drawn)
    monkeypatch.setattr("w2sd_video.hook.attach.following_noise", lambda generator: lambda x: left.pop(0))
    run = Literal(IMAGE, pipe, noises=drawn)
    if method == "apg":
        expected, options = sampled(run, x, algorithm_1(**PROJECTED[1])), PROJECTED[1]
    elif method == "foresight":
        options = {"schedule": ((0, 3, 2), (2, 1, 1)), "strength": 0.6}
        expected = foreseen(run, x, **options)
    else:
        options = {"iterations": 2, "threshold": 1.0, "reflection_steps": 2}
        expected = refined(run, x, 2, 1.0, 2)
    assert close(IMAGE(pipe, latents=x, method=method, **options), expected, 1e-5)


# All


@pytest.mark.parametrize(
    "method", ["apg", "cfg_zero_star", "slg", "pag", "s2_guidance", "predict_and_perturb", "foresight"]
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda method: method in ("apg", "s2_guidance", "predict_and_perturb"))
def test_a_batch_gives_its_members(method):
    pipe, prompts = IMAGE.pipeline(), ["a cat", "a dog"]
    together = IMAGE(pipe, **IMAGE.told(*prompts), generator=[generator(i) for i in range(2)], method=method)
    for i, prompt in enumerate(prompts):
        alone = IMAGE(pipe, **IMAGE.told(prompt), generator=[generator(i)], method=method)
        assert close(together[i : i + 1], alone)


def test_a_weak_model_has_no_part_where_layers_are_perturbed():
    one, two, x = IMAGE.pipeline(weak=False), IMAGE.pipeline(), IMAGE.latents()
    expected = IMAGE(one, latents=x, method="pag")
    assert torch.equal(IMAGE(two, latents=x, method="pag"), expected)
    stock = IMAGE.stock_of(two)
    with apply_reflection(stock, PerturbedAttentionGuidance(), weak=two.weak_unet) as group:
        assert torch.equal(IMAGE(stock, latents=x), expected)
    assert group.evaluations.per_video() == {"strong": 8, "weak": 4, "total": 12}


@pytest.mark.slow
def test_guidance_numbers_of_the_reflection_have_no_part():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    for method in ("apg", "slg"):
        numbers = {"strong_guidance_scale": 7.0, "weak_guidance_scale": -2.0}
        assert torch.equal(IMAGE(pipe, latents=x, method=method, **numbers), IMAGE(pipe, latents=x, method=method))
        before = pipe.evaluations["total"]
        IMAGE(pipe, latents=x, method=method, guidance_scale=1.0, **numbers)
        assert pipe.evaluations["total"] == before - 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layers": 9}, "`layers` names 9, which is no transformer block of this network; accepted: 0 to 3, or names:"),
        ({"layers": "middle"}, "`layers` names 'middle', which is no transformer block"),
        ({"layers": -1}, "`layers` has to be numbers from 0 or names of transformer blocks, but is -1"),
        ({"layers": ()}, r"`layers` has to be numbers from 0 or names of transformer blocks, but is \(\)"),
        ({"layers": True}, "but is True"),
        ({"weight": float("nan")}, "`weight` has to be a finite number, but is nan"),
        ({"method": "s2_guidance", "drop": 0.0}, "`drop` has to be over 0 and at most 1, but is 0.0"),
        ({"method": "s2_guidance", "drop": 2.0}, "`drop` has to be over 0 and at most 1, but is 2.0"),
        ({"method": "s2_guidance", "mask_seed": 0.5}, "`mask_seed` has to be a whole number, but is 0.5"),
        ({"method": "apg", "of": "noise"}, "`of` has to be 'sample' or 'network', but is 'noise'"),
        ({"method": "apg", "norm_threshold": -1.0}, "`norm_threshold` has to be a finite number from 0, but is -1.0"),
        ({"method": "apg", "momentum": "much"}, "`momentum` has to be a finite number, but is 'much'"),
        ({"method": "cfg_zero_star", "zero_init_steps": 1.5}, "`zero_init_steps` has to be a whole number, but is 1.5"),
        ({"method": "cfg_zero_star", "zero_init_steps": -1}, "`zero_init_steps` has to be a whole number from 0"),
        ({"method": "predict_and_perturb", "iterations": 0}, "`iterations` has to be a whole number from 1 to 1000"),
        ({"method": "predict_and_perturb", "threshold": -1.0}, "`threshold` has to be a finite number from 0"),
        ({"method": "foresight", "schedule": [(0, 1)]}, "`schedule` has to be rows of three whole numbers"),
        ({"method": "foresight", "schedule": [(0, 1, 0)]}, "iterations from 1 to 1000, but is"),
        ({"method": "foresight", "schedule": [(0, 1, 1001)]}, "iterations from 1 to 1000, but is"),
        ({"method": "predict_and_perturb", "iterations": 1001}, "`iterations` has to be a whole number from 1 to 1000"),
        ({"interval": (True, True)}, "`interval` has to be two noise levels"),
        ({"method": "foresight", "strength": None}, "`strength` has to be a finite number, but is None"),
        ({"method": "pag", "weak_prompt": "a dog"}, "which perturbed layers alone tell apart"),
        ({"method": "w2sd", "layers": 1}, "`layers` is 1, and is no option of `method='w2sd'`"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused_before_a_network_runs(options, says, monkeypatch):
    pipe = IMAGE.pipeline()
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("a network ran"))
    with pytest.raises(ValueError, match=says):
        IMAGE(pipe, **{"method": "slg", **options})


def test_a_network_without_a_middle_needs_layers():
    with pytest.raises(
        ValueError, match="`layers` has to be given: this network has no middle block, but layers 0 to 1"
    ):
        CLASSES(CLASSES.pipeline(), method="pag")


def test_each_method_changes_the_last_step_too_and_a_request_says_so():
    few = {"num_inference_steps": 5}
    for name in ("apg", "cfg_zero_star", "slg", "pag", "s2_guidance"):
        assert METHODS[name]().reflects(4, 5)
        request = Request.of("a red circle", method=name, **few)
        assert request.reflection_steps == 5
        assert evaluations(request)["total"] == 5 * (2 if name in ("apg", "cfg_zero_star") else 3)
        assert request.of_steps(3).reflection_steps == 3
    assert Request.of("a red circle", **few).reflection_steps == 4
    assert Request.of("a red circle", method="auto_guidance", **few).of_steps(3).reflection_steps == 2
    assert Request.of("a red circle", method="slg", reflection_steps=1, **few).reflection_steps == 1


# A pair of a network and itself without some layers


@each_form
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is VIDEO)
def test_w2sd_takes_the_strong_model_without_some_layers_as_the_weak_one(family):
    pipe, x = family.pipeline(weak=False), family.latents()
    network, _ = family.networks(pipe)
    names = middle(family)
    ours = family(pipe, latents=x, weak_skip_layers=some(family).get("layers", "mid_block"))

    def weak_on() -> Any:
        if family is CLASSES:
            return arms.switched(by_hand(network, names, SKIPPED))
        return perturbed(network, names, **SKIPPED)

    assert close(ours, Literal(family, pipe, weak_on=weak_on).run(x, w2sd_by_hand), 1e-5)
    assert spent(pipe) == {"strong": 14, "weak": 3, "total": 17}


@pytest.mark.exhaustive
def test_layers_are_those_of_a_network_that_is_compiled_too():
    """By a backend that compiles nothing, but traces the network as one that does."""
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    expected = IMAGE(pipe, latents=x, method="slg")
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert close(IMAGE(pipe, latents=x, method="slg"), expected)


def test_layers_that_the_weak_arm_leaves_out_are_checked_and_recorded(tmp_path):
    pipe = IMAGE.pipeline()
    with pytest.raises(ValueError, match="`weak_skip_layers` names 7, which is no transformer block"):
        IMAGE(pipe, weak_skip_layers=7)
    with pytest.raises(ValueError, match="`weak_skip_layers` is given, but ZSampling uses the strong model in both"):
        IMAGE(pipe, method="z_sampling", weak_skip_layers=0)
    for wrong in (-1, [], True, [0.5], ""):
        with pytest.raises(Refused, match="weak_skip_layers: .* give numbers of transformer blocks"):
            Request.of("a red circle", preset="shapes-motion", weak_skip_layers=wrong)
    with pytest.raises(Refused, match="weak_skip_layers: .* give none beside another weak model"):
        Request.of("a red circle", weak_skip_layers=1)
    assert Request.of("a red circle", preset="shapes-motion", weak_skip_layers="mid_block").weak_skip_layers == [
        "mid_block"
    ]


# FreeInit, which is diffusers'


@pytest.fixture(scope="module")
def shapes() -> Any:
    of = Request.of("a red circle", num_inference_steps=3, num_frames=2, device="cpu")
    return of, load(of)


@pytest.mark.parametrize("method", ["w2sd", "apg", "optimistic"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda method: method == "w2sd")
def test_free_init_samples_as_often_as_it_says_by_any_method(shapes, method):
    of, pipelines = shapes
    once, twice = (replace(of, method=method, free_init=n) for n in (None, 2))
    progress: list[tuple[int, int]] = []
    frames, counted = sample(
        pipelines["w2sd"], twice, "w2sd", on_step=lambda name, done, most: progress.append((done, most))
    )
    assert counted["total"] == evaluations(twice)["total"] == 2 * evaluations(once)["total"]
    assert progress == [(i, 6) for i in range(1, 7)]
    plain, _ = sample(pipelines["w2sd"], once, "w2sd")
    assert (frames != plain).any() and not pipelines["w2sd"].free_init_enabled
    same, _ = sample(pipelines["w2sd"], replace(of, method=method, free_init=1), "w2sd")
    assert (same == plain).all()


def test_free_init_is_of_videos():
    with pytest.raises(Refused, match="free_init: 2 is not accepted; stable-diffusion-xl has none"):
        Request.of("a red circle", preset="shapes-image", free_init=2)
    with pytest.raises(Refused, match="free_init: 0"):
        Request.of("a red circle", free_init=0)
    assert Request.of("a red circle").long_stem == replace(Request.of("a red circle"), free_init=None).long_stem


# A schedule of guidance


@each_form
@pytest.mark.parametrize("numbers, steps", [((3.0, 1.0, 0.0, -1.5), 4), ((4.0, 1.0), 3)], ids=["each", "between"])
@pytest.mark.slow_unless(case=lambda family, steps: family is IMAGE)
def test_a_schedule_of_guidance_has_its_number_in_each_step(family, numbers, steps):
    pipe, x = family.pipeline(), family.latents()
    at = numbers if len(numbers) == steps else (4.0, 2.5, 1.0)

    def mixture(run: Literal, i: int, x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = halves(run, x, t)
        return uncond + at[i] * (cond - uncond)

    ours = family(pipe, latents=x, method="guidance_schedule", guidance=numbers, num_inference_steps=steps)
    assert close(ours, sampled(Literal(family, pipe), x, mixture, steps), 1e-5)
    assert spent(pipe)["total"] == sum(1 if w in (0, 1) else 2 for w in at)


def test_a_schedule_of_guidance_is_a_list_of_numbers_and_a_request_counts_them():
    of = Request.of("a red circle", 0, "shapes", method="guidance_schedule", options={"guidance": [3, 1]})
    assert evaluations(of)["total"] == 2 * of.num_inference_steps - 1
    for wrong in ([], 3.0, ["3"], [float("nan")]):
        with pytest.raises((ValueError, Refused), match="guidance"):
            Request.of("a red circle", 0, "shapes", method="guidance_schedule", options={"guidance": wrong})
