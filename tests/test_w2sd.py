"""W2SD against Algorithm 1 written literally, on denoisers that are known in closed form (float64)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from w2sd_video.levels import FirstOrder, Level, Step, convert, first_order
from w2sd_video.methods import W2SD, Answer, Method
from w2sd_video.methods.w2sd import displacement
from w2sd_video.schedulers import read_step

SDXL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}
Predict = Callable[[Tensor, Level], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(means: Tensor, std: float = 0.3, weights: Tensor | None = None) -> Predict:
    """The exact noise prediction for data from a mixture of Gaussians N(means[k], std^2)."""
    prior = torch.zeros(len(means), dtype=torch.float64) if weights is None else weights.log()

    def eps(x: Tensor, level: Level) -> Tensor:
        variance = level.alpha**2 * std**2 + level.sigma**2
        residual = x[:, None] - level.alpha * means
        w = torch.softmax(prior - residual.square().sum(-1) / (2 * variance), -1)
        return level.sigma / variance * (w[..., None] * residual).sum(1)

    return eps


@dataclass
class At:
    """An arm at one step: the prediction it makes at x with the time of x_t."""

    eps: Predict
    level: Level
    kind: str = "epsilon"
    guidance: float = 1.0
    uncond: Predict | None = None
    evaluations: int = 0

    def reflect(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        eps = self.eps(x, self.level)
        if self.uncond is not None:
            uncond = self.uncond(x, self.level)
            eps = uncond + self.guidance * (eps - uncond)
        return convert(eps, x, self.level, "epsilon", self.kind)

    def denoise(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        return convert(self.eps(x, self.level), x, self.level, "epsilon", self.kind)[None]


def ddim(n: int = 10, spacing: str = "leading", **config) -> DDIMScheduler:
    scheduler = DDIMScheduler(**{**SDXL, "timestep_spacing": spacing, "set_alpha_to_one": False, **config})
    scheduler.set_timesteps(n)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


STRONG = mixture(draw(5, 3, seed=1))
WEAK = mixture(draw(4, 3, seed=2), std=0.5)


def solve(step: Callable[[Tensor], Tensor], x_s: Tensor) -> Tensor:
    """The x with step(x) = x_s, for a step that is a x + c elementwise: read off two of its values."""
    zero, one = torch.zeros_like(x_s), torch.ones_like(x_s)
    c = step(zero)
    return (x_s - c) / (step(one) - c)


def w2sd(x_t: Tensor, step: Step, strong: At, weak: At, inversion: str | int = "x_s") -> Answer:
    return W2SD(inversion=inversion)(x_t, step, strong, weak, lambda: pytest.fail("noise is drawn"))


def effective(answer: Answer, step: Step | FirstOrder) -> Tensor:
    """The prediction (k, B, …) with which one plain step from x_t is the answer's step from x_t + d."""
    order = step.forward if isinstance(step, Step) else step
    return answer.p if answer.d is None else answer.p + (order.a / order.b) * answer.d


@pytest.mark.slow
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("lam", [0, 1, 6, 9, 10])
def test_a_step_from_the_displaced_latents_is_one_step_of_algorithm_1(spacing, kind, lam):
    """The literal algorithm calls diffusers' step, forwards for M and solved for x for its inverse."""
    scheduler = ddim(10, spacing, prediction_type=kind)
    ours = theirs = draw(50, 3)
    for i, t in enumerate(scheduler.timesteps):
        step = read_step(scheduler, t)
        strong, weak = At(STRONG, step.level, kind), At(WEAK, step.level, kind)

        def move(prediction: Tensor, x: Tensor, t: Tensor = t) -> Tensor:
            return scheduler.step(prediction, t, x).prev_sample

        answer = w2sd(ours, step, strong, weak) if i < lam else Answer(strong.denoise(ours))
        ours = move(answer.p[0], ours if answer.d is None else ours + answer.d)

        if i < lam:
            x_s = move(strong.reflect(theirs), theirs)
            p_w = weak.reflect(x_s)
            theirs = solve(lambda x, p_w=p_w, move=move: move(p_w, x), x_s)
        theirs = move(strong.denoise(theirs)[0], theirs)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10), i


def test_the_prediction_is_the_identity_of_the_design():
    """eps_W2SD = eps_s(x~) + [eps_s(x_t) - eps_w(x_s)], x~ = x_t + (b/a) [eps_s(x_t) - eps_w(x_s)]."""
    t, s = Level(0.6, 0.8), Level(0.8, 0.6)
    step = first_order(t, s)
    x_t = draw(20, 3)
    difference = STRONG(x_t, t) - WEAK(step.a * x_t + step.b * STRONG(x_t, t), t)
    expected = STRONG(x_t + step.b / step.a * difference, t) + difference
    whole = Step(0.0, "epsilon", t, s, step, step)
    assert torch.allclose(effective(w2sd(x_t, whole, At(STRONG, t), At(WEAK, t)), step)[0], expected, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_n_iterations_are_n_more_inverses_evaluated_where_the_last_one_landed(n):
    t, s = Level(0.6, 0.8), Level(0.7, math.sqrt(0.51))
    step = first_order(t, s)
    x_t = draw(20, 3)
    x_s = step.forward(x_t, STRONG(x_t, t))
    landed = step.inverse(x_s, WEAK(x_s, t))
    for _ in range(n):
        landed = step.inverse(x_s, WEAK(landed, t))
    expected = step.forward(landed, STRONG(landed, t))
    weak = At(WEAK, t)
    answer = w2sd(x_t, Step(0.0, "epsilon", t, s, step, step), At(STRONG, t), weak, n)
    assert torch.allclose(step.forward(x_t + answer.d, answer.p[0]), expected, atol=1e-12)
    assert weak.evaluations == 1 + n


def test_theorem_1_moves_by_the_difference_of_the_scores():
    """x~ - x_t = -(b/a) sigma_t (score_s - score_w), both at x_t, and the factor is positive."""
    t, s = Level(0.6, 0.8), Level(0.8, 0.6)
    step = first_order(t, s)
    x_t = draw(20, 3)
    scores = -STRONG(x_t, t) / t.sigma + WEAK(x_t, t) / t.sigma
    seen: list[Tensor] = []

    class Watch(At):
        def denoise(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().denoise(x)

    w2sd(x_t, Step(0.0, "epsilon", t, s, step, step), Watch(STRONG, t), At(WEAK, t), "x_t")
    factor = -step.b / step.a * t.sigma
    assert factor > 0
    assert torch.allclose(seen[0] - x_t, factor * scores, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_equal_arms_with_the_exact_inverse_change_nothing(kind):
    scheduler = ddim(50, prediction_type=kind)
    x = draw(50, 3)
    for t in scheduler.timesteps:
        step = read_step(scheduler, t)
        plain = At(STRONG, step.level, kind).denoise(x)
        answer = w2sd(x, step, At(STRONG, step.level, kind), At(STRONG, step.level, kind), "x_t")
        assert torch.equal(answer.p, plain) and not answer.d.any()
        # The fixed-point iteration converges to the same.
        answer = w2sd(x, step, At(STRONG, step.level, kind), At(STRONG, step.level, kind), 40)
        assert torch.allclose(effective(answer, step), plain, atol=1e-6)
        x = step.forward.forward(x, plain[0])


def test_swapped_arms_move_the_other_way():
    for alpha in (0.3, 0.6, 0.9):
        t = Level(alpha, math.sqrt(1 - alpha**2))
        s = Level(alpha + 0.05, math.sqrt(1 - (alpha + 0.05) ** 2))
        step = first_order(t, s)
        whole = Step(0.0, "epsilon", t, s, step, step)
        x = draw(50, 3)
        d = displacement(x, whole, STRONG(x, t), WEAK(x, t))
        swapped = displacement(x, whole, WEAK(x, t), STRONG(x, t))
        assert torch.equal(d, -swapped)
        # At x_s the inverse's error is added to both; the cosine stays clearly negative.
        x_s = step.forward(x, STRONG(x, t))
        d = displacement(x, whole, STRONG(x, t), WEAK(x_s, t))
        x_s = step.forward(x, WEAK(x, t))
        swapped = displacement(x, whole, WEAK(x, t), STRONG(x_s, t))
        assert torch.cosine_similarity(d.flatten(), swapped.flatten(), 0) < -0.5


def test_reflection_moves_a_strong_model_away_from_its_weak_ones_bias():
    """The paper's 1-D mixture (Fig. 4): peaks at -4 and 4; the strong model saw the left one seldom, the weak
    one hardly ever. W2SD brings the shares nearer to equal, and the swapped pair takes them further away."""
    means = torch.tensor([[-4.0], [4.0]], dtype=torch.float64)
    strong = mixture(means, 0.5, torch.tensor([0.3, 0.7], dtype=torch.float64))
    weak = mixture(means, 0.5, torch.tensor([0.1, 0.9], dtype=torch.float64))

    def left(first: Predict, second: Predict | None) -> float:
        scheduler = ddim(25)
        x = draw(4000, 1)
        for t in scheduler.timesteps:
            step = read_step(scheduler, t)
            arm = At(first, step.level)
            answer = Answer(arm.denoise(x)) if second is None else w2sd(x, step, arm, At(second, step.level))
            x = step.forward.forward(x, effective(answer, step)[0])
        return float((x < 0).double().mean())

    assert left(weak, strong) < left(strong, None) - 0.02
    assert left(strong, None) + 0.02 < left(strong, weak) < 0.6


# Same-model residual over step size, |x~ - x_t| / |x_s - x_t|, as it was measured for this project on "an
# analytic 16-mode mixture". Steps: published, correct level, one and two further fixed-point iterations.
RESIDUALS = {
    50: (0.121, 0.072, 0.007, 0.001),
    25: (0.222, 0.138, 0.025, 0.008),
    10: (0.450, 0.314, 0.125, 0.057),
}


@pytest.mark.parametrize("n", RESIDUALS)
def test_the_residual_of_the_inverse_is_the_measured_one(n):
    """The description left free: the dimension (64), the modes (16 standard normal means, std 0.3), the
    schedule (SDXL's, leading) and the average (norms of 256 samples, then all steps but the last)."""
    eps = mixture(draw(16, 64))
    scheduler = ddim(n)
    x, rows = draw(256, 64, seed=1), []
    for t in scheduler.timesteps[:-1]:
        exact, published = (read_step(scheduler, t, convention=c) for c in ("exact", "published"))
        p = eps(x, exact.level)
        x_s = exact.forward.forward(x, p)
        at_x_s = eps(x_s, exact.level)
        d = displacement(x, exact, p, at_x_s)
        once = displacement(x, exact, p, eps(x + d, exact.level))
        twice = displacement(x, exact, p, eps(x + once, exact.level))
        row = [displacement(x, published, p, at_x_s), d, once, twice]
        rows.append([float(v.norm() / (x_s - x).norm()) for v in row])
        x = x_s
    measured = torch.tensor(rows).mean(0).tolist()
    assert measured == pytest.approx(RESIDUALS[n], abs=2e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_the_published_convention_is_what_diffusers_inverse_scheduler_does_with_the_next_timestep(spacing):
    scheduler = ddim(10, spacing)
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(10)
    inverse.alphas_cumprod = inverse.alphas_cumprod.double()
    inverse.initial_alpha_cumprod = inverse.initial_alpha_cumprod.double()
    x = draw(50, 3)
    for i, t in enumerate(scheduler.timesteps[:-1]):
        step = read_step(scheduler, t, convention="published")
        x_s = scheduler.step(STRONG(x, step.level), t, x).prev_sample
        x_ref = inverse.step(WEAK(x_s, step.level), scheduler.timesteps[i + 1], x_s).prev_sample
        literal = scheduler.step(STRONG(x_ref, step.level), t, x_ref).prev_sample
        answer = w2sd(x, step, At(STRONG, step.level), At(WEAK, step.level))
        x = scheduler.step(answer.p[0], t, x + answer.d).prev_sample
        assert torch.allclose(x, literal, rtol=0, atol=1e-10)


def test_eta_adds_the_noise_to_the_final_step_alone():
    scheduler = ddim(10)
    x = draw(50, 3)
    for i, t in enumerate(scheduler.timesteps):
        noise = draw(50, 3, seed=100 + i)
        step = read_step(scheduler, t)
        strong, weak = At(STRONG, step.level), At(WEAK, step.level)
        answer = w2sd(x, step, strong, weak)
        x_s = scheduler.step(strong.reflect(x), t, x).prev_sample
        p_w = weak.reflect(x_s)
        x_ref = solve(lambda v, p_w=p_w, t=t: scheduler.step(p_w, t, v).prev_sample, x_s)
        literal = scheduler.step(STRONG(x_ref, step.level), t, x_ref, eta=0.7, variance_noise=noise).prev_sample
        x = scheduler.step(answer.p[0], t, x + answer.d, eta=0.7, variance_noise=noise).prev_sample
        assert torch.allclose(x, literal, rtol=0, atol=1e-9)


def test_the_reflected_step_is_of_first_order_on_a_gaussian():
    """Equal arms: the reflection's error is of second order a step, so the sampler stays of first order."""
    mu, c = 0.7, 0.5

    def eps(x: Tensor, level: Level) -> Tensor:
        return level.sigma * (x - level.alpha * mu) / (level.alpha**2 * c**2 + level.sigma**2)

    def error(n: int, inversion: str | int) -> float:
        angles = torch.linspace(math.pi / 2 - 0.05, 0.02, n + 1, dtype=torch.float64).tolist()
        levels = [Level(math.cos(a), math.sin(a)) for a in angles]
        x = start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        for t, s in zip(levels, levels[1:], strict=False):
            move = first_order(t, s)
            step = Step(0.0, "epsilon", t, s, move, move, move)
            x = move.forward(x, effective(w2sd(x, step, At(eps, t), At(eps, t), inversion), move)[0])
        t, s = levels[0], levels[-1]
        std = math.hypot(s.alpha * c, s.sigma) / math.hypot(t.alpha * c, t.sigma)
        return float((x - s.alpha * mu - std * (start - t.alpha * mu)).abs().max())

    for inversion in ("x_s", "x_t", 2):
        errors = [error(n, inversion) for n in (80, 160, 320)]
        orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
        assert all(0.8 < order < 1.2 for order in orders), (inversion, errors)


def test_lambda_counts_reflected_steps_from_the_noisiest_and_leaves_out_the_last_by_default():
    assert [i for i in range(5) if W2SD().reflects(i, 5)] == [0, 1, 2, 3]
    assert [i for i in range(5) if W2SD(reflection_steps=2).reflects(i, 5)] == [0, 1]
    assert not any(W2SD(reflection_steps=0).reflects(i, 5) for i in range(5))
    assert all(W2SD(reflection_steps=5).reflects(i, 5) for i in range(5))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("strong_guidance", float("nan"), "finite number"),
        ("weak_guidance", float("inf"), "finite number"),
        ("weak_guidance", "high", "finite number"),
        ("weak_guidance", True, "finite number"),
        ("reflection_steps", -1, "whole number"),
        ("reflection_steps", 2.5, "whole number"),
        ("inversion", "x", "'x_s', 'x_t'"),
        ("inversion", -1, "'x_s', 'x_t'"),
        ("inversion", True, "'x_s', 'x_t'"),
        ("convention", "ddim", "published"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_value_and_what_is_accepted(name, value, accepted):
    with pytest.raises(ValueError) as caught:
        W2SD(**{name: value})
    message = str(caught.value)
    assert f"`{name}`" in message and repr(value) in message and accepted in message


@pytest.mark.parametrize(
    "options, accepted",
    [
        ({"gain": "much"}, "a finite number"),
        ({"gain": True}, "a finite number"),
        ({"gain": float("inf")}, "a finite number"),
        ({"every": 2.0}, "a whole number, or None"),
        ({"late": 1}, "true or false"),
        ({"mode": 3}, "a text"),
    ],
)
def test_a_field_of_ones_own_method_is_of_the_kind_that_it_says(options, accepted):
    @dataclass(frozen=True)
    class Mine(Method):
        gain: float = 1.0
        every: int | None = None
        late: bool = False
        mode: str = "all"

    Mine(gain=2, every=3, late=True, mode="few")
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=re.escape(f"`{name}` has to be {accepted}, but is {value!r}.")):
        Mine(**options)
