"""Schedulers of video pipelines under a reflection: each by its own formulas, and UniPC against a fine solution."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from any_cases import CASES, zero
from any_formulas import ddim
from any_pipeline import sample
from diffusers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from test_hook import draw
from torch import Tensor, nn

from w2sd_video.hook import Counter, DenoiserHook, Group, Host, apply_reflection, attached, stepping
from w2sd_video.methods import W2SD, AutoGuidance, Method
from w2sd_video.methods.method import Answer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


class Field(nn.Module):
    """A network of one number for each sample, with a prediction that is known in closed form."""

    def __init__(self, u: Any):
        super().__init__()
        self.u = u

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self.u(sample, timestep),)


def sampled(scheduler: Any, method: Method, strong: Any, weak: Any, x: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps)
    group = Group(method, Host(scheduler))
    network = Field(strong)
    with torch.no_grad(), attached(network, DenoiserHook(group, Field(weak))), stepping(group):
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(seen, t)[0], t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(
    "sample, prediction", [("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
@pytest.mark.parametrize(
    "kind", [DDIMScheduler, EulerDiscreteScheduler, EDMEulerScheduler, DPMSolverMultistepScheduler,
             UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler],
)  # fmt: skip
def test_every_step_has_the_dtype_that_the_scheduler_gives_it_without_a_method(kind, sample, prediction):
    dtypes = []
    for method in (None, W2SD(), AutoGuidance()):
        scheduler = kind(**{"clip_sample": False} if kind is DDIMScheduler else {})
        scheduler.set_timesteps(3)
        group = Group(method, Host(scheduler)) if method else Counter(Host(scheduler))
        network = Field(lambda x, t: 0.8 * x)
        x = draw(2, 4, seed=1).to(getattr(torch, sample))
        with torch.no_grad(), attached(network, DenoiserHook(group, Field(lambda x, t: 0.7 * x))), stepping(group):
            for t in scheduler.timesteps:
                seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                p = network(seen.to(torch.bfloat16), t)[0].to(getattr(torch, prediction))
                x = scheduler.step(p, t, x, return_dict=False)[0]
                dtypes.append(x.dtype)
    assert dtypes == 3 * dtypes[:3]


@pytest.mark.parametrize("method", [W2SD(), AutoGuidance()], ids=["w2sd", "auto_guidance"])
def test_unipc_steps_from_the_displaced_latents_without_its_corrector_and_keeps_it_elsewhere(method):
    def strong(x: Tensor, t: Any) -> Tensor:
        return torch.tanh(x) + t / 1000

    def weak(x: Tensor, t: Any) -> Tensor:
        return 0.8 * torch.tanh(x) - 0.1

    x, scheduler = draw(2, 3, dtype=torch.float64)[..., None], UniPCMultistepScheduler(**FLOW)
    ours = sampled(scheduler, replace(method, reflection_steps=5), strong, weak, x, 8)
    assert scheduler.disable_corrector == []
    literal = UniPCMultistepScheduler(**FLOW)
    literal.set_timesteps(8)
    sigmas = literal.sigmas.double()
    for i, t in enumerate(literal.timesteps):
        e: Any = 0.0
        if i < 5 and isinstance(method, W2SD):
            h = sigmas[i + 1] - sigmas[i]
            x_s = x + h * strong(x, t)
            x = x_s - h * weak(x_s, t)
            literal.disable_corrector = [i - 1]
        elif i < 5:
            e = strong(x, t) - weak(x, t)
        x = literal.step(strong(x, t) + e, t, x, return_dict=False)[0]
    assert torch.allclose(ours, x, rtol=1e-6)


@torch.no_grad()
def test_edm_euler_by_the_formulas_of_karras_and_others():
    """arXiv:2206.00364, Table 1: D(y) = c_skip y + c_out F(c_in y), and Euler's dy / dsigma = (y - D) / sigma."""
    strong, weak = (lambda x, t, k=k: torch.sin(k * x) + t for k in (1.0, 1.3))
    scheduler = EDMEulerScheduler(sigma_data=0.5)
    y = 80 * draw(2, 3, dtype=torch.float64)[..., None]
    ours = sampled(scheduler, W2SD(), strong, weak, y, 6)
    sigmas, data = scheduler.sigmas.double(), 0.5
    for i, t in enumerate(scheduler.timesteps):
        sigma, after = float(sigmas[i]), float(sigmas[i + 1])
        spread = math.hypot(sigma, data)
        c_skip, c_out = data**2 / spread**2, sigma * data / spread
        a = after / sigma + (1 - after / sigma) * c_skip
        b = (1 - after / sigma) * c_out
        if i < 5:
            y_s = a * y + b * strong(y / spread, t)
            y = (y_s - b * weak(y_s / math.hypot(after, data), t)) / a
        y = a * y + b * strong(y / spread, t)
    assert torch.allclose(ours, y, rtol=1e-5)


@torch.no_grad()
def test_the_random_step_of_cogvideox_dpm_is_made_from_the_displaced_latents():
    """The reflection is of the first-order step without noise; the step itself draws its noise as ever."""
    case = CASES["CogVideoXPipeline"]
    pipe, weak = case.build(0), case.build(1).transformer
    pipe.scheduler = CogVideoXDPMScheduler(**zero)
    with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak):
        ours = sample(pipe, case)[1][-1]
    told = case.call(pipe)
    generator = torch.Generator().manual_seed(0)
    x, old = torch.randn(1, 2, 4, 4, 4, generator=generator), None
    scheduler = deepcopy(pipe.scheduler)
    scheduler.set_timesteps(4)

    def p(network: nn.Module, x: Tensor, t: Tensor, w: float) -> Tensor:
        prompt = torch.cat([told["negative_prompt_embeds"], told["prompt_embeds"]])
        uncond, cond = network(torch.cat([x, x]), prompt, t.expand(2), return_dict=False)[0].chunk(2)
        return uncond + w * (cond - uncond)

    for i, t in enumerate(scheduler.timesteps):
        order = ddim(scheduler, i)
        if i < 3:
            x_s = order.a * x + order.b * p(pipe.transformer, x, t, 2.0)
            x = (x_s - order.b * p(weak, x_s, t, 1.0)) / order.a
        back = scheduler.timesteps[i - 1] if i > 0 else None
        mixed = p(pipe.transformer, x, t, 3.0)
        x, old = scheduler.step(mixed, old, t, back, x, generator=generator, return_dict=False)
    assert (ours - x).abs().max() < 1e-5 * x.abs().max()


def mixture(means: list[float], deviation: float) -> Any:
    """The flow E[eps - z | x] of (1 - sigma) z + sigma eps, with z of a mixture of normal laws, at time 1000 sigma."""
    m = torch.tensor(means, dtype=torch.float64)

    def u(x: Tensor, t: Any) -> Tensor:
        sigma = float(t) / 1000
        alpha = 1 - sigma
        variance = (alpha * deviation) ** 2 + sigma**2
        away = x[..., None] - alpha * m
        share = torch.softmax(-(away**2) / (2 * variance), -1)
        z = m + alpha * deviation**2 / variance * away
        return (share * (sigma / variance * away - z)).sum(-1)

    return u


PROBLEMS = {
    "one normal law": (mixture([1.5], 0.5), mixture([1.0], 0.8)),
    "a mixture of two": (mixture([-1.5, 1.5], 0.4), mixture([-1.2, 1.2], 0.7)),
}


def fine(strong: Any, weak: Any, x: Tensor, start: float) -> Tensor:
    """The flow of 2 u_s - u_w, which W2SD comes to with ever more steps, by Runge-Kutta's fourth order."""
    ends = torch.linspace(1000 * start, 0.0, 401).tolist()

    def f(x: Tensor, t: float) -> Tensor:
        return (2 * strong(x, t) - weak(x, t)) / 1000

    for t, s in zip(ends, ends[1:], strict=False):
        h = s - t
        k1 = f(x, t)
        k2 = f(x + h / 2 * k1, t + h / 2)
        k3 = f(x + h / 2 * k2, t + h / 2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + h * k3, s))
    return x


class Effective(W2SD):
    """W2SD with its displacement d as a correction of the prediction at x_t, (a / b) d: what is not done here."""

    def __call__(self, x_t: Any, step: Any, strong: Any, weak: Any, noise: Any) -> Answer:
        answer = super().__call__(x_t, step, strong, weak, noise)
        return Answer(answer.p, e=step.forward.a / step.forward.b * answer.d)


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_unipc_under_w2sd_is_nearer_to_the_fine_solution_than_euler_and_than_an_effective_prediction(problem):
    """What the documentation says of errors at 10, 20 and 40 steps: root mean squares."""
    strong, weak = PROBLEMS[problem]
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None, None]

    def error(scheduler: Any, method: Method, steps: int) -> float:
        made = sampled(scheduler, method, strong, weak, x, steps)
        return float((made - fine(strong, weak, x, float(scheduler.sigmas[0]))).square().mean().sqrt())

    errors: dict[str, list[float]] = {}
    for name, build, method in (
        ("euler", lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), W2SD()),
        ("unipc", lambda: UniPCMultistepScheduler(**FLOW), W2SD()),
        ("effective", lambda: UniPCMultistepScheduler(**FLOW), Effective()),
    ):
        errors[name] = [error(build(), method, steps) for steps in (10, 20, 40)]
    print(problem, errors)
    for i in range(3):
        assert errors["unipc"][i] < 0.6 * errors["euler"][i]
    assert errors["unipc"][1] < 0.85 * errors["effective"][1]
    orders = [math.log2(errors["unipc"][i] / errors["unipc"][i + 1]) for i in range(2)]
    assert all(0.4 < order < 1.6 for order in orders)
