"""Every method on every family, against its algorithm written literally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from families import (
    CLASSES,
    CONTROL,
    IMAGE,
    VIDEO,
    Literal,
    algorithm_1,
    close,
    generator,
)
from torch import Tensor

from w2sd_video.levels import Step
from w2sd_video.methods import Answer, Method


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


@dataclass(frozen=True)
class Silent(Method):
    """Answers without an evaluation."""

    def __call__(self, x_t: Tensor, step: Step, strong: Any, weak: Any, noise: Any) -> Answer:
        return Answer(torch.zeros_like(x_t)[None])


@dataclass(frozen=True)
class Ahead(Method):
    """Keeps the later steps that it is told of; a field of its own ends as the arms' guidance does."""

    looks_ahead = True
    picture_guidance: float = 1.0

    def __call__(self, x_t: Tensor, step: Step, strong: Any, weak: Any, noise: Any) -> Answer:
        seen.append((step.index, [(later.index, later.num_steps) for later in map(step.later, (0, 1, 9))]))
        return Answer(strong.at(step.later(1)).denoise(x_t))


seen: list[tuple[int, list[tuple[int, int]]]] = []


@pytest.mark.parametrize("family", [IMAGE, VIDEO, CLASSES], ids=str)
def test_a_method_need_not_evaluate_the_arms_it_is_given(family):
    pipe = family.pipeline()
    for method in (Silent(), Ahead()):
        assert family(pipe, method=method).isfinite().all()
    seen.clear()
    family(pipe, method=Ahead(), num_inference_steps=3)
    assert seen == [(0, [(0, 3), (1, 3), (2, 3)]), (1, [(1, 3), (2, 3), (2, 3)])]


@pytest.mark.parametrize(
    ("method", "name", "says"),
    [
        ("apg", "weak_prompt", "APG has no weak arm"),
        ("re_sampling", "weak_skip_layers", "ReSampling has no weak arm"),
        ("z_sampling", "weak_skip_layers", "ZSampling uses the strong model in both arms, which guidance alone tells"),
        ("pag", "weak_prompt", "perturbed layers alone tell apart"),
    ],
)
def test_what_tells_arms_apart_is_refused_by_a_method_that_has_one(method, name, says, monkeypatch):
    pipe = IMAGE.pipeline()
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("a network ran"))
    with pytest.raises(ValueError, match=f"`{name}` is given, but .*{says}"):
        IMAGE(pipe, method=method, **{name: "a dog" if "prompt" in name else 0})


def test_a_field_of_ones_own_method_may_end_as_the_arms_guidance_does(monkeypatch):
    monkeypatch.setattr("w2sd_video.plugins.installed", lambda kind: {"ahead": "test"})
    monkeypatch.setattr("w2sd_video.pipelines.signatures.find_method", lambda name: Ahead)
    pipe = IMAGE.pipeline()
    assert IMAGE(pipe, method="ahead", picture_guidance=2.0).isfinite().all()
