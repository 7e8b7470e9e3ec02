"""Optimistic reflection against its loop written literally, and what a method carries from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import test_w2sd
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.callbacks import SDXLCFGCutoffCallback
from families import CLASSES, FAMILIES, IMAGE, VIDEO, Literal, close, generator
from test_attaching import rescaled
from test_w2sd import At, mixture
from torch import Tensor, nn

from w2sd_video.hook import DenoiserHook, Group, Host, apply_reflection, attached, stepping
from w2sd_video.levels import Step
from w2sd_video.methods import W2SD, Answer, AutoGuidance, Method, Optimistic
from w2sd_video.schedulers import read_step

STEPS = 5  # of 1000 timesteps, so that DDIM's stride is the distance of its timesteps
SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TRAILING = {**SCHEDULE, "timestep_spacing": "trailing"}


class Net(nn.Module):
    """A denoiser of vectors that is neither linear nor without time."""

    def __init__(self, seed: int):
        super().__init__()
        self.mix = nn.Parameter(draw(5, 5, seed=seed) / 2)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (0.7 * sample + torch.tanh(sample @ self.mix + float(timestep) / 1000),)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def sampled(
    scheduler: Any, method: Method, x: Tensor, steps: int = STEPS, **step: Any
) -> tuple[Tensor, dict[str, int]]:
    """A plain loop of a scheduler and its denoiser, under a method; and the evaluations that it took."""
    strong, weak = Net(1), Net(2)
    scheduler.set_timesteps(steps)
    group = Group(method, Host(scheduler))
    with torch.no_grad(), attached(strong, DenoiserHook(group, weak)), stepping(group):
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        for i, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            drawn = {name: each[i] for name, each in step.items()}
            x = scheduler.step(strong(seen, t)[0], t, x, **drawn, return_dict=False)[0]
    return x, group.evaluations.per_video()


def popov(
    times: Any,
    x: Tensor,
    order: Callable[[int], tuple[float, float]],
    to_eps: Callable[[int], float] = lambda i: 1.0,
    move: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    steps: int = STEPS,
) -> Tensor:
    """The loop of the formulas. A step i is a x + b p, (a, b) = order(i); a difference of predictions d there is
    to_eps(i) d as one of eps."""
    strong, weak = Net(1), Net(2)
    last = torch.zeros_like(x)
    with torch.no_grad():
        for i, t in enumerate(times):
            a, b = order(i)
            if i == steps - 1:
                x = move(i, strong(x, t)[0], x) if move else a * x + b * strong(x, t)[0]
                break
            at = x + b / a * (last / to_eps(i) if last.any() else last)
            p = strong(at, t)[0]
            delta = p - weak(a * at + b * p, t)[0]
            x = move(i, p, x + b / a * delta) if move else a * x + b * (p + delta)
            last = to_eps(i) * delta
    return x


def ddim(**config: Any) -> DDIMScheduler:
    scheduler = DDIMScheduler(**{**TRAILING, "clip_sample": False, **config})
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(STEPS)
    return scheduler


def angles(scheduler: DDIMScheduler) -> list[tuple[Tensor, Tensor]]:
    """(alpha, sigma) of each step's level, and of the last one's end."""
    bars = [scheduler.alphas_cumprod[int(t)] for t in scheduler.timesteps]
    s = int(scheduler.timesteps[-1]) - 1000 // STEPS
    bars.append(scheduler.alphas_cumprod[s] if s >= 0 else scheduler.final_alpha_cumprod)
    return [(bar.sqrt(), (1 - bar).sqrt()) for bar in bars]


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_of_noise_it_is_popovs_loop_in_the_papers_coordinates(name):
    """y = x / alpha and tau = sigma / alpha, where a step is y + (tau_s - tau_t) eps."""
    x = start = draw(4, 5)
    if name == "ddim":
        scheduler = ddim()
        levels = angles(scheduler)
        tau, alphas = [sigma / alpha for alpha, sigma in levels], [alpha for alpha, _ in levels]
    else:
        scheduler = EulerDiscreteScheduler(**TRAILING)
        scheduler.set_timesteps(STEPS)
        tau = list(scheduler.sigmas.double())
        alphas = [1 / (1 + each**2).sqrt() for each in tau]
        x = alphas[0] * scheduler.init_noise_sigma * x
    y, last = x / alphas[0], torch.zeros_like(x)
    strong, weak = Net(1), Net(2)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            h = tau[i + 1] - tau[i]
            if i == STEPS - 1:
                y = y + h * strong(alphas[i] * y, t)[0]
                break
            at = y + h * last
            p = strong(alphas[i] * at, t)[0]
            last = p - weak(alphas[i + 1] * (at + h * p), t)[0]
            y = y + h * (p + last)
    ours, evaluations = sampled(scheduler, Optimistic(), start)
    assert close(ours, alphas[-1] * y, 1e-6 if name == "euler" else 1e-12)
    assert evaluations == {"strong": STEPS, "weak": STEPS - 1, "total": 2 * STEPS - 1}


@pytest.mark.parametrize("terminal", [False, True], ids=["", "zero terminal SNR"])
def test_of_v_the_difference_is_carried_as_noise_and_v_is_held(terminal):
    """A step turns by the angle phi, alpha = cos phi; d eps = alpha dv, which is 0 at alpha = 0."""
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=terminal)
    levels = angles(scheduler)
    assert bool(levels[0][0] == 0) == terminal
    phi = [torch.atan2(sigma, alpha) for alpha, sigma in levels]
    turn = [phi[i + 1] - phi[i] for i in range(STEPS)]
    theirs = popov(
        scheduler.timesteps, draw(4, 5), lambda i: (turn[i].cos(), turn[i].sin()), lambda i: levels[i][0].item()
    )
    assert close(sampled(scheduler, Optimistic(), draw(4, 5))[0], theirs, 1e-6 if terminal else 1e-10)


def test_of_flow_the_difference_is_carried_as_noise_from_pure_noise_on():
    """d eps = (1 - sigma) du; a step is x + (sigma_s - sigma_t) u."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    s = scheduler.sigmas.double().tolist()
    assert s[0] == 1
    theirs = popov(scheduler.timesteps, draw(4, 5), lambda i: (1.0, s[i + 1] - s[i]), lambda i: 1 - s[i])
    assert close(sampled(scheduler, Optimistic(), draw(4, 5))[0], theirs, 1e-6)


def test_of_samples_the_difference_is_carried_as_noise():
    """d eps = -(alpha / sigma) dz."""
    scheduler = ddim(prediction_type="sample")
    levels = angles(scheduler)

    def order(i: int) -> tuple[Any, Any]:
        (alpha, sigma), (alpha_s, sigma_s) = levels[i : i + 2]
        return sigma_s / sigma, alpha_s - sigma_s / sigma * alpha

    theirs = popov(scheduler.timesteps, draw(4, 5), order, lambda i: -(levels[i][0] / levels[i][1]).item())
    assert close(sampled(scheduler, Optimistic(), draw(4, 5))[0], theirs, 1e-10)


@pytest.mark.parametrize("name", ["multistep", "eta"])
def test_the_scheduler_steps_from_the_newest_displacement_with_the_prediction_alone(name):
    """With its own history, or its own noise."""
    if name == "multistep":
        scheduler: Any = DPMSolverMultistepScheduler(**TRAILING)
        own: Any = DPMSolverMultistepScheduler(**TRAILING)
        scheduler.set_timesteps(STEPS)
        tau, drawn = scheduler.sigmas.double(), {}
        levels = [(1 / (1 + each**2).sqrt(), each / (1 + each**2).sqrt()) for each in tau]
    else:
        scheduler, own, levels = ddim(), ddim(), angles(ddim())
        drawn = {"variance_noise": [draw(4, 5, seed=50 + i) for i in range(STEPS)], "eta": [0.7] * STEPS}
    own.set_timesteps(STEPS)

    def order(i: int) -> tuple[Any, Any]:
        (alpha, sigma), (alpha_s, sigma_s) = levels[i : i + 2]
        return alpha_s / alpha, sigma_s - alpha_s / alpha * sigma

    def move(i: int, p: Tensor, x: Tensor) -> Tensor:
        return own.step(p, own.timesteps[i], x, **{key: each[i] for key, each in drawn.items()}).prev_sample

    theirs = popov(own.timesteps, draw(4, 5), order, move=move)
    assert close(
        sampled(scheduler, Optimistic(), draw(4, 5), **drawn)[0], theirs, 1e-5 if name == "multistep" else 1e-10
    )


def test_it_is_nearer_to_w2sd_than_auto_guidance_where_the_models_are_known():
    """2-D mixtures, of which the weak one has hardly the first mode: median distance to literal W2SD's samples."""
    means = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    shares = ([0.1, 0.3, 0.3, 0.3], [0.02, 0.32, 0.33, 0.33])
    strong, weak = (
        mixture(means, std, torch.tensor(share, dtype=torch.float64))
        for std, share in zip((0.4, 0.7), shares, strict=True)
    )

    def samples(method: Method) -> Tensor:
        scheduler, x, carried = test_w2sd.ddim(25), test_w2sd.draw(500, 2), None
        for i, t in enumerate(scheduler.timesteps):
            step = replace(read_step(scheduler, t), index=i, carried=carried)
            good, bad = At(strong, step.level), At(weak, step.level)
            answer = method(x, step, good, bad, list) if i < 24 else Answer(good.denoise(x))
            carried = answer.carry
            p = answer.p[0] if answer.e is None else answer.p[0] + answer.e
            x = scheduler.step(p, t, x if answer.d is None else x + answer.d).prev_sample
        return x

    expected = samples(W2SD())
    near, far = ((samples(m) - expected).norm(dim=1).median() for m in (Optimistic(), AutoGuidance()))
    assert near < 0.25 * far


# Through pipelines


@dataclass
class Loop:
    """The loop over a family's networks, by its scheduler's own steps, with W2SD's options."""

    run: Literal
    inversion: Any = "x_s"
    cap: float | None = None
    still_gain: float = 1.0
    motion_gain: float = 1.0
    inversion_noise: float = 0.0
    phi: float = 0.0  # guidance_rescale
    after: float = 1.0  # factor on the latents after each step
    mains: tuple[float, ...] = ()  # guidance of each final step, where it changes
    reflected: range = field(default_factory=lambda: range(3))

    def moved(self, x: Tensor, t: Tensor, delta: Tensor) -> Tensor:
        """x + (b / a) delta: there with delta, and back without."""
        return self.run.inverse(torch.zeros_like(x), t, self.run.move(delta, t, x))

    def delta(self, x: Tensor, t: Tensor) -> Tensor:
        run = self.run
        p = run.strong_at(x, t)
        q = run.weak_at(x if self.inversion == "x_t" else run.move(p, t, x), t)
        for _ in range(self.inversion if isinstance(self.inversion, int) else 0):
            q = run.weak_at(self.moved(x, t, p - q), t)
        delta = p - q
        if self.still_gain != 1 or self.motion_gain != 1:
            still = delta.mean(2, keepdim=True) if delta.ndim == 5 else delta
            delta = self.still_gain * still + self.motion_gain * (delta - still)
        if self.cap is not None:
            delta = delta * min(1.0, float(self.cap * p.norm() / delta.norm()))
        return delta

    def step(self, i: int, t: Tensor, at: Tensor, x: Tensor) -> Tensor:
        """The final step, from x with the prediction at another place."""
        uncond, cond = (self.run.network("strong", at, t, branch) for branch in ("uncond", "cond"))
        main = self.mains[i] if self.mains else self.run.main
        return self.after * self.run.move(rescaled(uncond, cond, main, self.phi), t, x)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        self.run.pipe.scheduler.set_timesteps(4)
        last = torch.zeros_like(x) if 0 in self.reflected else None
        for i, t in enumerate(self.run.pipe.scheduler.timesteps):
            if i not in self.reflected:
                x = self.step(i, t, x, x)
                continue
            noise = self.inversion_noise * self.run.noises.pop(0) if self.inversion_noise else 0.0
            if last is None:  # Algorithm 1
                last = self.delta(x, t)
                at = self.moved(x, t, last) + noise
            else:
                at = self.moved(x, t, last) + noise
                last = self.delta(at, t)
            x = self.step(i, t, at, self.moved(x, t, last) + noise)
        return x


OPTIONS: list[dict[str, Any]] = [
    {},
    {"inversion": "x_t"},
    {"inversion": 2},
    {"cap": 0.05},
    {"inversion_noise": 0.1},
    {"still_gain": 0.0},
    {"still_gain": 0.5, "motion_gain": 2.0},
]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.exhaustive_unless(case=lambda family, options: family is (VIDEO if "still_gain" in options else IMAGE))
def test_every_family_and_option_is_the_literal_loop(family, options, monkeypatch):
    pipe, x = family.pipeline(), family.latents()
    if "motion_gain" in options and not family.video:
        with pytest.raises(ValueError, match="`motion_gain` is 2.0, and there is no time in latents"):
            family(pipe, method="optimistic", **options)
        return
    drawn = [torch.randn(x.shape, generator=generator(60 + i), dtype=x.dtype) for i in range(3)]
    left = list(drawn)
    monkeypatch.setattr("w2sd_video.hook.attach.following_noise", lambda generator: lambda x: left.pop(0))
    ours = family(pipe, latents=x, method="optimistic", **options)
    assert close(ours, Loop(Literal(family, pipe, noises=drawn), **options)(x))
    extra = 2 if options.get("inversion") == 2 else 0
    spent = {name: pipe.evaluations[name] for name in ("strong", "weak", "total")}
    assert spent == {"strong": 8, "weak": 3 + 3 * extra, "total": 11 + 3 * extra}


@pytest.mark.parametrize("main", [1.0, 3.0])
@pytest.mark.parametrize(("strong", "weak"), [(1.0, 1.0), (5.5, 0.0), (0.0, 3.0)])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda main, strong: main == 3 and strong == 5.5 or main == 1 == strong)
def test_every_combination_of_guidance_is_the_literal_loop(main, strong, weak):
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    guidance = {"guidance_scale": main, "strong_guidance_scale": strong, "weak_guidance_scale": weak}
    ours = IMAGE(pipe, latents=x, method="optimistic", **guidance)
    assert close(ours, Loop(Literal(IMAGE, pipe, main=main, strong=strong, weak=weak))(x))


def test_rescaled_guidance_acts_on_the_final_step_alone():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    ours = IMAGE(pipe, latents=x, method="optimistic", guidance_rescale=0.6)
    assert close(ours, Loop(Literal(IMAGE, pipe), phi=0.6)(x))


@pytest.mark.slow
def test_after_a_step_that_did_not_reflect_one_is_algorithm_1():
    """At its price: 5 evaluations, and 3 again afterwards."""
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    pipe.scheduler.set_timesteps(4)
    sigmas = [(1 - pipe.scheduler.alphas_cumprod[t]).sqrt().item() for t in pipe.scheduler.timesteps]
    late = {"latents": x, "interval": (0.0, sigmas[1] + 1e-6)}
    ours = IMAGE(pipe, method="optimistic", **late)
    assert close(ours, Loop(Literal(IMAGE, pipe), reflected=range(1, 3))(x))
    assert pipe.evaluations == {"strong": 2 + 4 + 2 + 2, "weak": 2, "total": 12}
    once = {**late, "interval": (sigmas[1] - 1e-6, sigmas[1] + 1e-6)}
    assert close(IMAGE(pipe, method="optimistic", **once), IMAGE(pipe, **once))


def test_the_published_inverse_is_taken_from_where_the_last_step_says():
    """x~_t = M'(M(x)) of it, and what is carried is the difference of predictions that would lead there."""
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    ours = IMAGE(pipe, latents=x, method="optimistic", convention="published")
    run = Literal(IMAGE, pipe)
    loop, times = Loop(run), [*pipe.scheduler.timesteps]
    last = torch.zeros_like(x)
    with torch.no_grad():
        for i, t in enumerate(times):
            if i == 3:
                x = loop.step(i, t, x, x)
                break
            at = loop.moved(x, t, last)
            x_s = run.move(run.strong_at(at, t), t, at)
            back = run.inverse(run.weak_at(x_s, t), times[i + 1], x_s)
            b_a = loop.moved(torch.zeros_like(x), t, torch.ones_like(x))
            last = (back - at) / b_a
            x = loop.step(i, t, at, x + (back - at))
    assert close(ours, x)


@pytest.mark.slow
def test_equal_arms_without_the_inverses_error_change_nothing():
    pipe, x = IMAGE.pipeline(weak=False), IMAGE.latents()
    call = {"latents": x, "weak_guidance_scale": 3.0}
    assert close(IMAGE(pipe, method="optimistic", inversion="x_t", **call), IMAGE(pipe, latents=x, method=None), 1e-12)
    assert close(IMAGE(pipe, method="optimistic", cap=0.0, latents=x), IMAGE(pipe, latents=x, method=None), 1e-12)


@pytest.mark.parametrize("family", [IMAGE, VIDEO, CLASSES], ids=str)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is IMAGE)
def test_a_batch_gives_its_members(family):
    pipe, prompts = family.pipeline(), ["a cat", "a dog", "a cat"]
    together = family(pipe, **family.told(*prompts), generator=[generator(i) for i in range(3)], method="optimistic")
    for i, prompt in enumerate(prompts):
        alone = family(pipe, **family.told(prompt), generator=[generator(i)], method="optimistic")
        assert close(together[i : i + 1], alone)


# What a method carries


@dataclass(frozen=True)
class Counting(Method):
    """Carries how many steps it has reflected without a gap; each is reflected, the last one too."""

    reflection_steps: int | None = 4

    seen: list[tuple[int, Any]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, step: Step, strong: Any, weak: Any, noise: Any) -> Answer:
        self.seen.append((step.index, step.carried))
        return Answer(strong.denoise(x_t), carry=(step.carried or 0) + 1)


WHOLE = [(0, None), (1, 1), (2, 2), (3, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
def test_nothing_is_carried_into_another_pass_of_free_init(fast):
    pipe = VIDEO.pipeline()
    pipe.enable_free_init(num_iters=2, use_fast_sampling=fast)
    VIDEO(pipe, method=(method := Counting()))
    assert method.seen == (WHOLE[:2] if fast else WHOLE) + WHOLE
    pipe.enable_free_init(num_iters=2, use_fast_sampling=fast)
    assert VIDEO(pipe, method="optimistic").isfinite().all()
    assert pipe.evaluations["total"] == (3 + 2 if fast else 11) + 11


@pytest.mark.slow
def test_nothing_is_carried_into_another_call_nor_out_of_one_that_raised():
    pipe, method = IMAGE.pipeline(), Counting()
    stock = IMAGE.stock_of(pipe)

    def stop(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            raise KeyboardInterrupt
        return kwargs

    with apply_reflection(stock, method):
        IMAGE(stock)
        with pytest.raises(KeyboardInterrupt):
            IMAGE(stock, callback_on_step_end=stop)
        IMAGE(stock)
    assert method.seen == [*WHOLE, *WHOLE[:2], *WHOLE]
    expected = IMAGE(pipe, method="optimistic")
    with pytest.raises(KeyboardInterrupt):
        IMAGE(pipe, method="optimistic", callback_on_step_end=stop)
    assert torch.equal(IMAGE(pipe, method="optimistic"), expected)
    chosen = Optimistic(3.0, 1.0)
    assert torch.equal(IMAGE(pipe, method=chosen), expected) and torch.equal(IMAGE(pipe, method=chosen), expected)


def test_nothing_is_carried_over_a_gap():
    pipe = IMAGE.pipeline()
    pipe.scheduler.set_timesteps(4)
    second = (1 - pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[1]]).sqrt().item()
    IMAGE(pipe, method=(method := Counting(interval=(0.0, second + 1e-6))))
    assert method.seen == [(1, None), (2, 1), (3, 2)]


@pytest.mark.slow
def test_pipelines_that_take_turns_carry_their_own():
    """One call inside of another's callback, with the same method."""
    outer, inner, method = IMAGE.pipeline(), VIDEO.pipeline(), Optimistic(3.0, 1.0)
    expected = IMAGE(outer, method=method), VIDEO(inner, method=method)
    within: list[Tensor] = []

    def call(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        within.append(VIDEO(inner, method=method))
        return kwargs

    assert torch.equal(IMAGE(outer, method=method, callback_on_step_end=call), expected[0])
    assert len(within) == 4 and all(torch.equal(each, expected[1]) for each in within)


@pytest.mark.slow
def test_a_loop_that_starts_late_in_the_schedule_begins_with_nothing():
    pipe, method = tiny.image_to_image(), Counting()
    call = {"image": torch.rand(1, 3, 16, 16), "strength": 0.5, "num_inference_steps": 8, "output_type": "latent"}
    with torch.no_grad():
        for _ in range(2):
            with apply_reflection(pipe, method):
                pipe("a cat", **call)
            with apply_reflection(pipe, Optimistic(5.0, 1.0), weak=tiny.unet2d(1)) as group:
                pipe("a cat", **call)
            assert group.evaluations.per_video() == {"strong": 3 * 2 + 2, "weak": 3, "total": 11}
    assert method.seen == WHOLE * 2


def test_latents_that_a_callback_changes_go_on_with_what_is_carried():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()

    def halve(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": kwargs["latents"] / 2}

    ours = IMAGE(pipe, latents=x, method="optimistic", callback_on_step_end=halve)
    assert close(ours, Loop(Literal(IMAGE, pipe), after=0.5)(x))


def test_guidance_that_a_callback_ends_leaves_the_reflection_without_guidance_as_it_is():
    pipe, x = IMAGE.pipeline(), IMAGE.latents()
    callback = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    call: dict[str, Any] = {"callback_on_step_end": callback}
    call |= {"callback_on_step_end_tensor_inputs": callback.tensor_inputs, "strong_guidance_scale": 1.0}
    ours = IMAGE(pipe, latents=x, method="optimistic", **call)
    assert pipe.evaluations == {"strong": 2 + 2 + 1 + 1, "weak": 3, "total": 9}
    assert close(ours, Loop(Literal(IMAGE, pipe, strong=1.0), mains=(3.0, 3.0, 1.0, 1.0))(x))


def test_after_a_batch_that_a_callback_made_smaller_a_step_is_algorithm_1():
    """What was carried does not say which of the samples are left."""
    group = Group(Optimistic(), Host(scheduler := ddim()))
    strong, weak = Net(1), Net(2)
    with torch.no_grad(), attached(strong, DenoiserHook(group, weak)), stepping(group):
        for i, (t, rows) in enumerate(zip(scheduler.timesteps, (3, 3, 2, 2), strict=False)):
            scheduler.step(strong(draw(rows, 5, seed=i), t)[0], t, draw(rows, 5, seed=i))
    assert group.evaluations.strong == 3 + 3 + 2 * 2 + 2
