"""Optimistic reflection: W2SD at the cost of auto-guidance, by reusing the last step's difference of the arms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..levels import Step, convert
from .method import Answer, Arm, Noise
from .w2sd import W2SD


@dataclass(frozen=True)
class Optimistic(W2SD):
    """W2SD with x~_t estimated from the last step, so that the strong arm is evaluated once a step.

    W2SD evaluates the strong arm at x_t only to find x~_t = x_t + (b / a) Delta, and then again at x~_t. Delta, the
    difference of the predictions, changes slowly from step to step. So this method starts from the last step's Delta,
    and corrects it afterwards:

        x~_t  = x_t + (b / a) Delta_last                Delta_last is 0 at the first step of the loop
        p     = p_s(x~_t)
        Delta = p - p_w(a x~_t + b p)
        x_s   = a (x_t + (b / a) Delta) + b p = a x_t + b (p + Delta)

    This is Popov's past extragradient ("A modification of the Arrow-Hurwicz method for search of saddle points",
    Mathematical Notes 28, 1980), applied to the reflection for this project. With J the Jacobians of the predictions,
    p + Delta differs from W2SD's by (b / a) (J_s - J_w) Delta, of second order in the arms' difference, and by
    (b / a) (2 J_s - J_w) (Delta_last - Delta). Delta is carried from step to step as a difference of eps, whatever the
    networks predict.

    A reflected step at guidance 3 (final, strong) and 1 (weak) takes 3 network evaluations; W2SD takes 5, auto-guidance
    3, a plain step 2. A step that reflects after one that did not (`interval`) has no Delta_last, so it is W2SD's, at
    W2SD's cost. A level of pure noise, alpha = 0, carries Delta = 0, since a difference of eps is 0 there: flow
    networks and zero terminal SNR have Delta_last = 0 in the first two steps.

    The settings are W2SD's. Gains and cap act on Delta before it is used and before it is carried;
    `inversion_noise` is added to x~_t, both where the strong arm is evaluated and where the step begins. A multistep
    scheduler's history holds the prediction p at x_t + (b / a) Delta, as under W2SD, where p was evaluated at x~_t.
    """

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        error = self._error(noise)
        last = expected(step, x_t)
        if last is None:
            d = self._displacement(x_t, step, strong, weak)
            x = x_t + d + error
        else:
            x = x_t + last + error
            d = self._displacement(x, step, strong, weak)
        return Answer(strong.denoise(x), d + error, carry=_difference(step, d))


def _difference(step: Step, d: Tensor) -> Tensor:
    """The Delta of a displacement d (B, …), as a difference of eps. It is 0 at alpha = 0."""
    delta = (step.forward.a / step.forward.b) * d
    return convert(delta, torch.zeros_like(d), step.level, step.prediction, "epsilon")


def expected(step: Step, x_t: Tensor) -> Tensor | None:
    """The displacement (B, …) by the last step's Delta; 0 at the loop's first step. None: no Delta was carried."""
    if step.index == 0:
        return torch.zeros_like(x_t)
    if step.carried is None or step.carried.shape != x_t.shape:
        return None
    zero = torch.zeros_like(x_t)
    return (step.forward.b / step.forward.a) * convert(step.carried, zero, step.level, "epsilon", step.prediction)
