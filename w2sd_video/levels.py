"""Noise levels, the first-order step between two of them, and how a diffusers scheduler is read.

Notation, everywhere in this package:

    z                   clean latents
    eps                 noise, standard normal
    x = alpha z + sigma eps     what the network sees at the level (alpha, sigma)
    t, s                the level a step leaves, and the level it arrives at
    p                   what the network predicts: eps, z, v = alpha eps - sigma z, or the flow u = eps - z

All of it is in the network's input space, after the scheduler's `scale_model_input`. There every scheduler
looks alike: sigma-space Euler shows its network (z + sigma eps) / sqrt(1 + sigma^2).

Arithmetic on levels is done in Python floats, so in float64; on tensors, in the tensor's own precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
Convention = Literal["exact", "published"]

PREDICTIONS: tuple[str, ...] = ("epsilon", "v_prediction", "sample", "flow_prediction")
CONVENTIONS: tuple[str, ...] = ("exact", "published")


@dataclass(frozen=True)
class Level:
    """A noise level: x = alpha z + sigma eps."""

    alpha: float
    sigma: float

    @classmethod
    def from_alpha_bar(cls, alpha_bar: float) -> Level:
        """The variance-preserving level of DDPM and DDIM: sqrt(alpha_bar), sqrt(1 - alpha_bar)."""
        return cls(math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))

    @classmethod
    def from_sigma(cls, sigma: float) -> Level:
        """The level of (z + sigma eps) / sqrt(1 + sigma^2), what Euler and DPM-Solver show the network."""
        return cls(1.0 / math.hypot(1.0, sigma), sigma / math.hypot(1.0, sigma))

    @classmethod
    def from_flow(cls, sigma: float) -> Level:
        """(1 - sigma) z + sigma eps: rectified flow."""
        return cls(1.0 - sigma, sigma)


@dataclass(frozen=True)
class FirstOrder:
    """The step x_s = a x_t + b p at a fixed prediction p, and its exact inverse x_t = (x_s - b p) / a."""

    a: float
    b: float

    def forward(self, x_t: Tensor, p: Tensor) -> Tensor:
        return self.a * x_t + self.b * p

    def inverse(self, x_s: Tensor, p: Tensor) -> Tensor:
        return (x_s - self.b * p) / self.a


def first_order(t: Level, s: Level, prediction: str = "epsilon") -> FirstOrder:
    """The first-order step of the probability-flow ODE from level t to level s (DDIM, Eq. 12).

    z and eps follow from (x_t, p) at level t, and are combined again at level s. The result is linear in x_t and p:

        epsilon             a = alpha_s / alpha_t                       b = sigma_s - a sigma_t
        v_prediction        a = alpha_s alpha_t + sigma_s sigma_t       b = sigma_s alpha_t - alpha_s sigma_t
        sample              a = sigma_s / sigma_t                       b = alpha_s - a alpha_t
        flow_prediction     a = 1                                       b = sigma_s - sigma_t

    All four are the same step. Their inverses differ: each holds fixed what its network predicts. So v and sample
    networks work at alpha_t = 0 (zero terminal SNR), and flow networks at sigma_t = 1, where eps does not determine z.
    A sample network's step has no inverse at sigma_s = 0, where x_s is z whatever x_t was. The v row assumes
    alpha^2 + sigma^2 = 1, and the flow row alpha + sigma = 1.

    Raises:
        ValueError: `prediction` is "epsilon" at alpha_t = 0, "sample" at sigma_t = 0, or none of the four.
    """
    if prediction == "epsilon":
        if t.alpha == 0:
            raise ValueError(
                "A network that predicts `epsilon` cannot be reflected at a level of pure noise (alpha = 0, from"
                " `rescale_betas_zero_snr=True` or sigma = 1). Use a network that predicts v, a flow or the sample, or"
                " another schedule."
            )
        a = s.alpha / t.alpha
        return FirstOrder(a, s.sigma - a * t.sigma)
    if prediction == "sample":
        if t.sigma == 0:
            raise ValueError("A network that predicts `sample` has no step from a level without noise (sigma = 0).")
        a = s.sigma / t.sigma
        return FirstOrder(a, s.alpha - a * t.alpha)
    if prediction == "v_prediction":
        return FirstOrder(s.alpha * t.alpha + s.sigma * t.sigma, s.sigma * t.alpha - s.alpha * t.sigma)
    if prediction == "flow_prediction":
        return FirstOrder(1.0, s.sigma - t.sigma)
    raise ValueError(f"`prediction` is {prediction!r}; a step exists for {', '.join(map(repr, PREDICTIONS))}.")


def convert(p: Tensor, x: Tensor, level: Level, source: str, target: str) -> Tensor:
    """Converts a prediction of one kind to another.

    Args:
        p: the prediction at `x`, of any shape.
        x: the network's input, of the same shape, or one that broadcasts.
        level: the noise level of `x`.
        source, target: "epsilon", "v_prediction" (alpha eps - sigma z), "sample" (z) or "flow_prediction"
            (eps - z).

    Raises:
        ValueError: a kind is unknown; or `source` does not determine `target`, as eps at alpha = 0, or z at sigma = 0.
    """
    for kind in (source, target):
        if kind not in PREDICTIONS:
            raise ValueError(f"A prediction is one of {', '.join(PREDICTIONS)}; got {kind!r}.")
    if source == target:
        return p
    alpha, sigma = level.alpha, level.sigma
    if (source == "epsilon" and alpha == 0) or (source == "sample" and sigma == 0):
        raise ValueError(f"A prediction of {source!r} at (alpha, sigma) = ({alpha}, {sigma}) determines no {target!r}.")
    if source == "epsilon":
        eps = p
        z = (x - sigma * eps) / alpha
    elif source == "sample":
        z = p
        eps = (x - alpha * z) / sigma
    elif source == "v_prediction":  # alpha^2 + sigma^2 is 1 on every schedule a v network is trained on
        norm = alpha * alpha + sigma * sigma
        z = (alpha * x - sigma * p) / norm
        eps = (sigma * x + alpha * p) / norm
    else:
        z = (x - sigma * p) / (alpha + sigma)
        eps = (x + alpha * p) / (alpha + sigma)
    if target == "epsilon":
        return eps
    if target == "sample":
        return z
    if target == "v_prediction":
        return alpha * eps - sigma * z
    return eps - z


class Axes(NamedTuple):
    """The axes of latents (B, …): that of the channels, and that of the frames.

    `frames` is None for pictures, and for videos whose tokens share one axis with height and width.
    """

    channels: int = 1
    frames: int | None = None


@dataclass(frozen=True)
class Step:
    """One step of a sampling loop, as a method sees it.

    `forward` goes from level t to level s, and `inverse` is the step whose inverse goes back. With the exact convention
    the two are the same. The scheduler makes the final step itself, and may add noise (DDIM with eta > 0) or use its
    history (DPM-Solver++ 2M).
    """

    timestep: float
    prediction: str  # what the network predicts; the steps are linear in it
    level: Level  # t
    target: Level  # s
    forward: FirstOrder
    inverse: FirstOrder
    scale: float = 1.0  # the scheduler's sample divided by the network's input
    index: int = 0  # the step's index in the loop; 0 is the noisiest
    num_steps: int = 1  # how many steps the loop has
    later: Callable[[int], Step] | None = None  # later(n): the step n steps later, at most the loop's last
    carried: Any = None  # the `carry` of the method's answer to the previous step, or None
    sign: float = 1.0  # -1 if the scheduler expects -p, as with `invert_sigmas`
    axes: Axes | None = None  # of x_t. None: (B, C, H, W) or (B, C, F, H, W)

    def axes_of(self, x_t: Tensor) -> Axes:
        """The axes of x_t (B, …)."""
        return self.axes or Axes(frames=2 if x_t.ndim == 5 else None)

    @property
    def stays(self) -> bool:
        """Whether the step ends at the level that it starts from, as some last DDIM steps do. It cannot reflect."""
        return self.forward.b == 0


def read_step(scheduler: Any, timestep: Tensor | float, *, convention: str = "exact", index: int | None = None) -> Step:
    """The step that `scheduler.step(…, timestep, …)` is about to make, to first order and without noise.

    Args:
        scheduler: a diffusers scheduler after `set_timesteps`: DDIM (any spacing), CogVideoX's DDIM or DPM, Euler,
            EDM's Euler, DPM-Solver(++) or UniPC multistep (their first-order step) or flow-matching Euler.
        timestep: the timestep of the step, an element of `scheduler.timesteps`.
        convention: "exact", or "published" for the inverse of the published W2SD and Z-Sampling code. They
            hand `timesteps[i+1]` to `DDIMInverseScheduler.step`, which takes it as the level to arrive at:
            the inverse goes from t - 2D to t - D (D = N // n), not from t - D to t.
        index: the index of `timestep` in `scheduler.timesteps`. Default: that of the scheduler's current step.

    Raises:
        ValueError: the scheduler, or a setting of it, has no such step; the message names both.
    """
    reader = _reader(scheduler)
    if convention not in CONVENTIONS:
        raise ValueError(f"`convention` is one of {', '.join(CONVENTIONS)}; got {convention!r}.")
    index = step_index(scheduler, timestep) if index is None else index
    level, target = reader(scheduler, index)
    prediction = _prediction(scheduler)
    forward = first_order(level, target, prediction)
    return Step(
        timestep=float(timestep),
        prediction=prediction,
        level=level,
        target=target,
        forward=forward,
        inverse=forward if convention == "exact" else _published_inverse(scheduler, index),
        scale=_scale(scheduler, level),
        sign=_sign(scheduler),
    )


def check_invertible(step: Step) -> None:
    """Refuse a step that has no inverse: a sample network's to sigma_s = 0, and a v network's from alpha_t = 0 to
    sigma_s = 0."""
    if step.inverse.a == 0:
        raise ValueError(
            f"The step from timestep {step.timestep:g} cannot be reflected: the network predicts {step.prediction!r},"
            " and no noise is left at the step's end, so the step has no inverse. Accepted `reflection_steps`: any that"
            " leave out the last step, as the default does."
        )


def shifted(scheduler: Any) -> dict[str, float]:
    """Arguments of `set_timesteps` for a schedule whose shift depends on the sample's size (`use_dynamic_shifting`).

    The shift is a stand-in. Use it only for what does not depend on the shift, such as the number of steps.
    """
    return {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}


def check_scheduler(scheduler: Any, *, convention: str = "exact") -> None:
    """Raise the ValueError that `read_step` would raise. Works before `set_timesteps`."""
    _reader(scheduler)
    _prediction(scheduler)
    if convention == "published":
        _check_published(scheduler)


def step_index(scheduler: Any, timestep: Tensor | float) -> int:
    """The index in `scheduler.timesteps` of the current step.

    It is the scheduler's own counter if that is set, since timesteps may repeat; else the index of the timestep.

    Raises:
        ValueError: the timestep is not among the scheduler's.
    """
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return int(index)
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return int(begin)
    if isinstance(timestep, Tensor):
        timestep = timestep.to(scheduler.timesteps.device)
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(timestep))
    places = (scheduler.timesteps == timestep).nonzero()
    if len(places) == 0:
        raise ValueError(f"`timestep` {float(timestep)} is not among the scheduler's: {scheduler.timesteps.tolist()}.")
    return int(places[0].item())


# The levels (t, s) of a step; a reader returns them for the step at an index.
Levels = tuple[Level, Level]


def _ddim(scheduler: Any, index: int) -> Levels:
    t = int(scheduler.timesteps[index])
    at = (float(scheduler.alphas_cumprod[t]), _ddim_alpha_bar(scheduler, t - _ddim_stride(scheduler)))
    return Level.from_alpha_bar(at[0]), Level.from_alpha_bar(at[1])


def _ddim_stride(scheduler: Any) -> int:
    # DDIMScheduler.step goes to t - N // n in every spacing; in "linspace" that is not the next timestep.
    return scheduler.config.num_train_timesteps // scheduler.num_inference_steps


def _ddim_alpha_bar(scheduler: Any, t: int) -> float:
    return float(scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod)


def _sigmas(level_of: Callable[[float], Level]) -> Callable[[Any, int], Levels]:
    def read(scheduler: Any, index: int) -> Levels:
        return level_of(float(scheduler.sigmas[index])), level_of(float(scheduler.sigmas[index + 1]))

    return read


def _dpm(scheduler: Any, index: int) -> Levels:
    level_of = Level.from_flow if scheduler.config.use_flow_sigmas else Level.from_sigma
    return _sigmas(level_of)(scheduler, index)


def _flow(scheduler: Any, index: int) -> Levels:
    if scheduler.config.get("invert_sigmas", False):  # its sigmas are shares of the signal, as Mochi's
        return _sigmas(lambda signal: Level(signal, 1.0 - signal))(scheduler, index)
    return _sigmas(Level.from_flow)(scheduler, index)


def _edm(scheduler: Any, index: int) -> Levels:
    """Levels for z / sigma_data, of variance 1. The network sees (z + sigma eps) / sqrt(sigma_data^2 + sigma^2)."""
    return _sigmas(lambda sigma: Level.from_sigma(sigma / scheduler.config.sigma_data))(scheduler, index)


_READERS: dict[str, Callable[[Any, int], Levels]] = {
    "DDIMScheduler": _ddim,
    "CogVideoXDDIMScheduler": _ddim,
    "CogVideoXDPMScheduler": _ddim,
    "EulerDiscreteScheduler": _sigmas(Level.from_sigma),
    "EDMEulerScheduler": _edm,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _dpm,
    "FlowMatchEulerDiscreteScheduler": _flow,
}


def _scale(scheduler: Any, level: Level) -> float:
    """The scheduler's sample divided by the network's input."""
    name = _supported(scheduler)
    if name == "EDMEulerScheduler":
        return float(scheduler.config.sigma_data / level.alpha)
    return 1 / level.alpha if name == "EulerDiscreteScheduler" else 1.0


def _sign(scheduler: Any) -> float:
    """-1 if the scheduler expects the opposite of the prediction that `_prediction` names.

    With `invert_sigmas` a flow scheduler steps by z - eps. EDM's expects -v of z / sigma_data, unless it is set to v.
    """
    name = _supported(scheduler)
    inverted = name == "FlowMatchEulerDiscreteScheduler" and scheduler.config.get("invert_sigmas", False)
    opposite = name == "EDMEulerScheduler" and scheduler.config.prediction_type == "epsilon"
    return -1.0 if inverted or opposite else 1.0


_CLIPPED = "it clips what the network predicts, so that its step has no exact inverse"
_RANDOM = "its step is random, so that it has no inverse"
# Settings under which a supported scheduler's step is not the deterministic first-order one: what is accepted
# instead, and why nothing else is.
_REFUSED: dict[str, dict[str, tuple[tuple[Any, ...], str]]] = {
    "DDIMScheduler": {"clip_sample": ((False,), _CLIPPED), "thresholding": ((False,), _CLIPPED)},
    "CogVideoXDDIMScheduler": {},
    "CogVideoXDPMScheduler": {},
    "EulerDiscreteScheduler": {},
    "EDMEulerScheduler": {},
    "UniPCMultistepScheduler": {
        "thresholding": ((False,), _CLIPPED),
        "solver_p": ((None,), "its predictor is another scheduler"),
        "predict_x0": ((True,), "its steps of noise predictions are not tested"),
    },
    "DPMSolverMultistepScheduler": {
        "algorithm_type": (("dpmsolver++", "dpmsolver"), _RANDOM),
        "thresholding": ((False,), _CLIPPED),
        "variance_type": ((None, "fixed_small", "fixed_large"), "its network predicts a variance too"),
    },
    "FlowMatchEulerDiscreteScheduler": {
        "stochastic_sampling": ((False,), _RANDOM),
    },
}


def _supported(scheduler: Any) -> str:
    for cls in type(scheduler).__mro__:
        if cls.__name__ in _READERS:
            return cls.__name__
    raise ValueError(
        f"`scheduler` has the class {type(scheduler).__name__}, which is not supported: a reflection needs a"
        f" deterministic first-order step with an exact inverse. Accepted: {', '.join(_READERS)}."
    )


def _reader(scheduler: Any) -> Callable[[Any, int], Levels]:
    name = _supported(scheduler)
    for setting, (accepted, reason) in _REFUSED[name].items():
        value = scheduler.config.get(setting, accepted[0])
        if value not in accepted:
            raise ValueError(
                f"{type(scheduler).__name__} with `{setting}={value!r}` is not supported under a method: {reason}."
                f" Accepted: {', '.join(map(repr, accepted))}, if the model is sampled so without a method too: another"
                " value changes plain sampling as well."
            )
    return _READERS[name]


def _prediction(scheduler: Any) -> str:
    if _supported(scheduler) == "FlowMatchEulerDiscreteScheduler":
        return "flow_prediction"
    if _supported(scheduler) == "EDMEulerScheduler":
        return "v_prediction"
    prediction = scheduler.config.prediction_type
    prediction = "sample" if prediction == "original_sample" else prediction
    on_flow_path = bool(scheduler.config.get("use_flow_sigmas", False))
    accepted = ("flow_prediction",) if on_flow_path else ("epsilon", "v_prediction", "sample")
    if prediction not in accepted:
        raise ValueError(
            f"{type(scheduler).__name__} with `prediction_type={prediction!r}` is not supported here;"
            f" accepted: {', '.join(accepted)}."
        )
    return prediction


def _check_published(scheduler: Any) -> None:
    if _supported(scheduler) != "DDIMScheduler" or _prediction(scheduler) != "epsilon":
        raise ValueError(
            "`convention='published'` exists for a DDIMScheduler and an epsilon network, as in the published"
            f" code; got {type(scheduler).__name__} and {_prediction(scheduler)!r}."
        )
    if scheduler.config.timestep_spacing == "linspace":
        raise ValueError(
            "`convention='published'` needs `timestep_spacing` 'leading' or 'trailing': the published code"
            " inverts with DDIMInverseScheduler, which does not take 'linspace'."
        )


def _published_inverse(scheduler: Any, index: int) -> FirstOrder:
    """The step whose inverse is DDIMInverseScheduler.step(eps, timesteps[index + 1], x)."""
    _check_published(scheduler)
    if index + 1 >= len(scheduler.timesteps):
        raise ValueError(
            "`convention='published'` cannot reflect the last step: the published code inverts to the"
            f" timestep after it. Accepted `reflection_steps`: 0 to {len(scheduler.timesteps) - 1}."
        )
    arrival = int(scheduler.timesteps[index + 1])
    return first_order(
        Level.from_alpha_bar(_ddim_alpha_bar(scheduler, arrival)),
        Level.from_alpha_bar(_ddim_alpha_bar(scheduler, arrival - _ddim_stride(scheduler))),
    )


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
