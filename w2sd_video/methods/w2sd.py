"""W2SD: weak-to-strong diffusion with reflection (Bai, Sugiyama, Xie, arXiv:2502.00473)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ..levels import CONVENTIONS, Step

Inversion = Literal["x_s", "x_t"] | int


class Arm(Protocol):
    """One side of a pair, at a fixed timestep: predictions as functions of x alone."""

    def reflect(self, x: Tensor) -> Tensor:
        """The prediction (B, …) at x (B, …), with the guidance of the reflection."""
        ...

    def denoise(self, x: Tensor) -> Tensor:
        """The prediction (k, B, …) at x (B, …) that the sampler is to use: k is 2, the unconditional and the
        conditional half, where the guidance of the final step is still to come, and else 1."""
        ...


def w2sd(x_t: Tensor, step: Step, strong: Arm, weak: Arm, inversion: Inversion = "x_s") -> Tensor:
    """Algorithm 1 as a prediction: one plain step with it is one reflected step.

    With x_s = a x_t + b p (see `levels.first_order`), Algorithm 1 reads

        x_s  = M^s(x_t)      = a x_t + b p_s(x_t)
        x~_t = M_inv^w(x_s)  = (x_s - b p_w(x_s)) / a  = x_t + d,     d = (b / a) (p_s(x_t) - p_w(x_s))
        x_s' = M^s(x~_t)     = a x~_t + b p_s(x~_t)    = a x_t + b [p_s(x~_t) + (a / b) d]

    and the bracket is what is returned. Every network is queried with the time of x_t (the paper's Eq. 5).

    Args:
        x_t: (B, …), what the network sees.
        step: the step from x_t.
        strong, weak: the two arms.
        inversion: where the weak arm is evaluated. "x_s": at x_s (the paper). "x_t": at x_t, without the
            inverse's error (Theorem 1 taken literally). An integer n: at x_s, and then n more times at the
            x~_t found so far, which on short steps converges to the exact inverse of the weak arm's step.

    Returns:
        Tensor of the shape of `strong.denoise(x_t)`.
    """
    if step.forward.b == 0:  # the level stays: there is nothing to come back from
        return strong.denoise(x_t)
    p_s = strong.reflect(x_t)
    x_s = step.forward.forward(x_t, p_s)
    p_w = weak.reflect(x_t if inversion == "x_t" else x_s)
    d = displacement(x_t, step, p_s, p_w)
    for _ in range(inversion if isinstance(inversion, int) else 0):
        p_w = weak.reflect(x_t + d)
        d = displacement(x_t, step, p_s, p_w)
    return strong.denoise(x_t + d) + (step.final.a / step.final.b) * d


def displacement(x_t: Tensor, step: Step, p_s: Tensor, p_w: Tensor) -> Tensor:
    """d = x~_t - x_t, from the difference of the predictions: x_s and x~_t are large and nearly cancel.

    Forward and inverse are the same (a, b), so d = (b / a) (p_s - p_w). Under `convention="published"` they
    are not, and d = (a / a' - 1) x_t + (b p_s - b' p_w) / a'.
    """
    (a, b), (a_, b_) = (step.forward.a, step.forward.b), (step.inverse.a, step.inverse.b)
    if (a, b) == (a_, b_):
        return (b / a) * (p_s - p_w)
    return (a / a_ - 1) * x_t + (b * p_s - b_ * p_w) / a_


@dataclass(frozen=True)
class W2SD:
    """W2SD's settings, and the method with them.

    Args:
        strong_guidance, weak_guidance: guidance numbers of the two arms during the reflection, in the
            convention `uncond + w (cond - uncond)`: 1 is the conditional prediction, 0 the unconditional one.
            The guidance of the final step is the pipeline's own.
        reflection_steps: lambda, how many steps reflect, from the noisiest down. None: all but the last (the
            paper).
        inversion: "x_s", "x_t" or a number of extra fixed-point iterations; see `w2sd`.
        convention: "exact", or "published" for the published code's inverse; see `levels.read_step`.

    Raises:
        ValueError: for a value outside what is said here.
    """

    strong_guidance: float = 1.0
    weak_guidance: float = 1.0
    reflection_steps: int | None = None
    inversion: Inversion = "x_s"
    convention: str = "exact"

    def __post_init__(self) -> None:
        for name in ("strong_guidance", "weak_guidance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"`{name}_scale` has to be a finite number, but is {value!r}.")
        steps = self.reflection_steps
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            raise ValueError(
                f"`reflection_steps` has to be a whole number from 0 to the number of steps, or None for all"
                f" but the last, but is {steps!r}."
            )
        n = self.inversion
        if isinstance(n, bool) or not (n in ("x_s", "x_t") or (isinstance(n, int) and n >= 0)):
            raise ValueError(
                f"`inversion` has to be 'x_s', 'x_t' or a whole number of extra fixed-point iterations, but is {n!r}."
            )
        if self.convention not in CONVENTIONS:
            raise ValueError(f"`convention` has to be one of {CONVENTIONS}, but is {self.convention!r}.")

    def reflects(self, index: int, num_steps: int) -> bool:
        """Whether step `index` (0 is the noisiest) of `num_steps` is reflected."""
        return index < (num_steps - 1 if self.reflection_steps is None else self.reflection_steps)

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> Tensor:
        return w2sd(x_t, step, strong, weak, self.inversion)
