"""W2SD: weak-to-strong diffusion with reflection (Bai, Sugiyama, Xie, arXiv:2502.00473)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import shown
from ..levels import Step, check_invertible
from .method import Answer, Arm, Method, Noise, displaced, finite

Inversion = Literal["x_s", "x_t"] | int


def reflection(
    x_t: Tensor, step: Step, first: Arm, second: Arm, inversion: Inversion = "x_s"
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps with the first arm and back with the second: d = x~_t - x_t (B, …), and the arms' predictions.

    The inverse holds fixed what the network predicts, be it eps, v, z or the flow.

    Args:
        inversion: where the second arm is evaluated. "x_s": at x_s (the paper). "x_t": at x_t, without the
            inverse's error (Theorem 1 taken literally). An integer n: at x_s, and then n more times at the
            latest x~_t, which for short steps converges to the exact inverse of the second arm's step.

    Returns:
        d; the first arm's prediction at x_t; and the second arm's prediction where it was last evaluated.
    """
    p = first.reflect(x_t)
    q = second.reflect(x_t if inversion == "x_t" else step.forward.forward(x_t, p))
    d = displacement(x_t, step, p, q)
    for _ in range(inversion if isinstance(inversion, int) else 0):
        q = second.reflect(x_t + d)
        d = displacement(x_t, step, p, q)
    return d, p, q


def displacement(x_t: Tensor, step: Step, p_s: Tensor, p_w: Tensor) -> Tensor:
    """d = x~_t - x_t (B, …), computed from the difference of the predictions, because x_s and x~_t nearly cancel.

    Forward and inverse are the same (a, b), so d = (b / a) (p_s - p_w). Under `convention="published"` they
    are not, and d = (a / a' - 1) x_t + (b p_s - b' p_w) / a'.

    Raises:
        ValueError: the step has no inverse; see `levels.check_invertible`.
    """
    check_invertible(step)
    (a, b), (a_, b_) = (step.forward.a, step.forward.b), (step.inverse.a, step.inverse.b)
    if (a, b) == (a_, b_):
        return (b / a) * (p_s - p_w)
    return (a / a_ - 1) * x_t + (b * p_s - b_ * p_w) / a_


@dataclass(frozen=True)
class W2SD(Method):
    """Algorithm 1: a step with the strong arm, back with the weak arm, and the scheduler's own step from there.

    With x_s = a x_t + b p (see `levels.first_order`), it reads

        x_s  = M^s(x_t)      = a x_t + b p_s(x_t)
        x~_t = M_inv^w(x_s)  = (x_s - b p_w(x_s)) / a  = x_t + d,     d = (b / a) (p_s(x_t) - p_w(x_s))
        x_s' = M^s(x~_t)     = a x~_t + b p_s(x~_t)

    Every network is queried with the time of x_t (the paper's Eq. 5). With a first-order scheduler the last line is one
    plain step from x_t with the prediction p_s(x~_t) + (a / b) d.

    Args:
        inversion: "x_s", "x_t" or a number of extra fixed-point iterations; see `reflection`.
        inversion_noise: k (the paper's Eq. 17): k times standard normal noise is added to x~_t.
        still_gain, motion_gain: for videos, factors on the mean of d over frames, and on the rest of d. The paper has 1
            and 1. Other values can sharpen frames without freezing the video, or add motion. They have to be equal if
            the latents have no axis of frames (LTX-Video's tokens). For images, `still_gain` is the factor on d.
        cap: the largest norm of (a / b) d, the difference of the predictions, as a multiple of the norm of the strong
            arm's prediction in the reflection, for each video. None: no cap (the paper).

    Raises:
        ValueError: a value is not accepted.
    """

    inverts: ClassVar[bool] = True

    inversion: Inversion = "x_s"
    inversion_noise: float = 0.0
    still_gain: float = 1.0
    motion_gain: float = 1.0
    cap: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.inversion
        if isinstance(n, bool) or not (n in ("x_s", "x_t") or (isinstance(n, int) and n >= 0)):
            raise ValueError(
                "`inversion` has to be 'x_s', 'x_t' or a whole number of extra fixed-point iterations, but is"
                f" {shown(n)}."
            )
        finite("inversion_noise", self.inversion_noise, 0)
        if self.cap is not None:
            finite("cap", self.cap, 0)

    def check(self, shape: tuple[int, ...]) -> None:
        if self.still_gain == self.motion_gain or len(shape) == 5:
            return
        if len(shape) != 4:
            raise ValueError(
                f"`still_gain` is {self.still_gain} and `motion_gain` {self.motion_gain}, and frames have no axis of"
                f" their own in latents {shape}: give the same number for both."
            )
        if self.motion_gain != 1:
            raise ValueError(
                f"`motion_gain` is {self.motion_gain}, and there is no time in latents {shape}: give 1, or the same"
                " number as `still_gain`."
            )

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        return displaced(x_t, strong, self._displacement(x_t, step, strong, weak) + self._error(noise))

    def _reflection(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> tuple[Tensor, Tensor]:
        """The displacement d, and the strong arm's prediction in the reflection."""
        d, p_s, _ = reflection(x_t, step, strong, weak, self.inversion)
        return d, p_s

    def _displacement(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> Tensor:
        """d (B, …) with the gains and the cap applied."""
        d, p = self._reflection(x_t, step, strong, weak)
        if (self.still_gain, self.motion_gain) != (1, 1):
            frames = step.axes_of(x_t).frames
            still = d if frames is None else d.mean(frames, keepdim=True)
            d = self.still_gain * still + self.motion_gain * (d - still)
        if self.cap is not None:
            norms = [each.flatten(1).norm(dim=1) for each in (d, p)]
            most = self.cap * abs(step.forward.b / step.forward.a) * norms[1]
            d = d * (most / norms[0].clamp(min=1e-30)).clamp(max=1).reshape(-1, *[1] * (d.ndim - 1))
        return d

    def _error(self, noise: Noise) -> Tensor | float:
        """The noise to add to x~_t; 0 without `inversion_noise`."""
        return self.inversion_noise * noise() if self.inversion_noise else 0.0
