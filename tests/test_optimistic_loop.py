"""Optimistic reflection beside a second literal loop, over settings drawn at random and every kind of scheduler."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from w2sd_video.hook import DenoiserHook, Group, Host, attached, stepping
from w2sd_video.methods import Optimistic

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A denoiser that is neither linear nor without time, and counts the samples that it sees."""

    def __init__(self, seed: int):
        super().__init__()
        self.mix, self.seen = nn.Parameter(draw(5, 5, seed=seed) / 2), 0

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.seen += len(sample)
        return (0.7 * sample + torch.tanh(sample @ self.mix + float(timestep) / 1000),)


def ddim(**config: Any) -> DDIMScheduler:
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, **config)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


def scheduler_of(rng: random.Random) -> Any:
    """One of those that there are, as it may be set."""
    prediction = rng.choice(["epsilon", "v_prediction", "sample"])
    told = {"prediction_type": prediction, "timestep_spacing": rng.choice(["leading", "trailing", "linspace"])}
    last = "sigma_min" if prediction == "sample" else "zero"  # a step of samples to no noise has no inverse
    return rng.choice(
        [
            lambda: ddim(**told, set_alpha_to_one=prediction != "sample"),
            lambda: ddim(
                prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
            ),
            lambda: EulerDiscreteScheduler(**BETAS, **told, final_sigmas_type=last),
            lambda: DPMSolverMultistepScheduler(
                **BETAS, **told, solver_order=rng.choice([1, 2, 3]), final_sigmas_type=last
            ),
            lambda: DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
        ]
    )()  # fmt: skip


def levels(scheduler: Any) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """(alpha, sigma) that a step leaves and that it arrives at, of what the network sees."""
    if isinstance(scheduler, DDIMScheduler):
        stride = 1000 // len(scheduler.timesteps)
        bars = [(int(t), int(t) - stride) for t in scheduler.timesteps]
        at = [[scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod for t in ts] for ts in bars]
        return [tuple((float(bar) ** 0.5, (1 - float(bar)) ** 0.5) for bar in each) for each in at]
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("use_flow_sigmas")
    each = [
        (1 - s, s) if flow else (1 / (1 + s * s) ** 0.5, s / (1 + s * s) ** 0.5) for s in map(float, scheduler.sigmas)
    ]
    return list(zip(each[:-1], each[1:], strict=True))


def coefficients(prediction: str, t: tuple[float, float], s: tuple[float, float]) -> tuple[float, float, float]:
    """a and b of the step a x + b p, and what a difference of predictions there is multiplied by to be one of eps."""
    (alpha, sigma), (alpha_s, sigma_s) = t, s
    if prediction == "epsilon":
        return alpha_s / alpha, sigma_s - alpha_s / alpha * sigma, 1.0
    if prediction == "v_prediction":
        return alpha_s * alpha + sigma_s * sigma, sigma_s * alpha - alpha_s * sigma, alpha
    if prediction == "sample":
        return sigma_s / sigma, alpha_s - sigma_s / sigma * alpha, -alpha / sigma
    return 1.0, sigma_s - sigma, 1 - sigma


def literal(scheduler: Any, method: Optimistic, y: Tensor, noises: list[Tensor], strong: Net, weak: Net) -> Tensor:
    """The loop, written down."""
    prediction = scheduler.config.get("prediction_type", "flow_prediction")
    y, last = y * float(getattr(scheduler, "init_noise_sigma", 1.0)), None

    def delta(x: Tensor, t: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
        p = strong(x, t)[0]
        q = weak(x if method.inversion == "x_t" else a * x + b * p, t)[0]
        for _ in range(method.inversion if isinstance(method.inversion, int) else 0):
            q = weak(x + b / a * (p - q), t)[0]
        still = (p - q).mean(2, keepdim=True)
        d = method.still_gain * still + method.motion_gain * (p - q - still)
        if method.cap is not None:
            d = torch.stack([e * min(1.0, float(method.cap * r.norm() / e.norm())) for e, r in zip(d, p, strict=True)])
        return p, d

    for i, (t, (here, there)) in enumerate(zip(scheduler.timesteps, levels(scheduler), strict=True)):
        scale = 1 / here[0] if isinstance(scheduler, EulerDiscreteScheduler) else 1.0
        x, (a, b, to_eps) = y / scale, coefficients(prediction, here, there)
        inside = method.interval[0] <= here[1] <= method.interval[1]
        if i >= method.reflection_steps or not inside or b == 0:
            y, last = scheduler.step(strong(x, t)[0], t, y).prev_sample, None
            continue
        noise = method.inversion_noise * noises.pop(0) if method.inversion_noise else 0.0
        if i > 0 and last is None:  # after a gap, Algorithm 1
            _, d = delta(x, t, a, b)
            p = strong(x + b / a * d + noise, t)[0]
        else:
            p, d = delta(x + (b / a / to_eps * last if i else 0.0) + noise, t, a, b)
        last = to_eps * d
        y = scheduler.step(p, t, scale * (x + b / a * d + noise)).prev_sample
    return y


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow_unless(case=lambda seed: seed == 0)
def test_settings_at_random_give_the_literal_loop_and_as_many_evaluations(seed):
    rng = random.Random(seed)
    for case in range(25):
        steps = rng.choice([4, 5, 8, 10])
        method = Optimistic(
            reflection_steps=rng.choice([steps - 1, steps, 1, steps // 2]),
            interval=(rng.choice([0, 0, 0.3, 0.6]), rng.choice([1, 1, 0.97, 0.9])),
            inversion=rng.choice(["x_s", "x_s", "x_t", 1, 2]),
            inversion_noise=rng.choice([0.0, 0.0, 0.1]),
            cap=rng.choice([None, None, 0.05, 0.5]),
            still_gain=rng.choice([1.0, 0.0, 0.5]),
            motion_gain=rng.choice([1.0, 2.0]),
        )
        state = rng.getstate()
        ours, theirs = (rng.setstate(state) or scheduler_of(rng) for _ in range(2))
        x = draw(2, 2, 3, 1, 5, seed=case)
        noises = [draw(*x.shape, seed=100 + i) for i in range(steps)]
        nets = [(Net(1), Net(2)) for _ in range(2)]
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(steps)
        left = list(noises)
        group = Group(method, Host(ours), noise=lambda like, left=left: left.pop(0))
        y = x * float(getattr(ours, "init_noise_sigma", 1.0))
        with torch.no_grad():
            with attached(nets[0][0], DenoiserHook(group, nets[0][1])), stepping(group):
                for t in ours.timesteps:
                    seen = ours.scale_model_input(y, t) if hasattr(ours, "scale_model_input") else y
                    y = ours.step(nets[0][0](seen, t)[0], t, y).prev_sample
            expected = literal(theirs, method, x, list(noises), *nets[1])
        assert (y - expected).norm() < 1e-6 * expected.norm(), (case, method, ours.config)
        assert [net.seen for net in nets[0]] == [net.seen for net in nets[1]], (case, method, ours.config)
