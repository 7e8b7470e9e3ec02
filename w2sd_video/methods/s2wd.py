"""S2WD: the paper's control, which swaps the arms of the reflection; it should hurt where W2SD helps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..levels import Step
from .method import Arm
from .w2sd import W2SD, reflection


@dataclass(frozen=True)
class S2WD(W2SD):
    """W2SD with the arms swapped, x~_t = M_inv^s(M^w(x_t)): forward with the weak arm, back with the strong one.

    The final step is still the strong arm's. The settings are W2SD's; `cap` is relative to the strong arm's prediction,
    which is here the one at x_s.
    """

    def _reflection(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> tuple[Tensor, Tensor]:
        d, _, p_s = reflection(x_t, step, weak, strong, self.inversion)
        return d, p_s
