"""How strongly a pair should reflect, estimated from its models' predictions on noised data.

With d = p_s - p_w and r = eps - p_s, the denoising loss of p_s + g d is E|r - g d|^2. It is least at
g* = E<d, r> / E|d|^2, and below that of p_s for every g between 0 and 2 g*. To first order W2SD is g = 1. So it helps
where g* is over 1/2, overshoots where g* lies between 0 and 1/2, and hurts where g* is below 0. Unlike a cosine, g* has
no bias from the noise of one sample, because |d| has none.

Bounds of g* are Fieller's (1954, Journal of the Royal Statistical Society B 16, 175): the values g for which Student's
t test of <d, r> - g |d|^2 over prompts does not reject. The estimate is for noised data, not for a sampler's own
latents, at guidance 1, and to first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .statistics import student, t_test

if TYPE_CHECKING:
    from .alignment import Alignment

STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # the candidates for a proposal


@dataclass(frozen=True)
class Strength:
    """g* with its 95 % bounds over prompts, and the two-sided p value of E<d, r> = 0.

    All are NaN if the two models are the same. The bounds are infinite if too few prompts tell |d| from 0.
    """

    g: float
    low: float
    high: float
    p: float
    prompts: int

    def __str__(self) -> str:
        return f"{self.g:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Proposal:
    """A strength of reflection, and the lowest and highest noise level sigma to reflect at. Strength 0: do not reflect.

    `gain` is a lower bound of the fall of the denoising loss, in the networks' own unit, summed over these levels.
    """

    strength: float
    low: float
    high: float
    gain: float = 0.0


def products(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """<d, r> and |d|^2, each (prompts, levels), the mean over the samples of a prompt.

    Args:
        alignments: of each sample, level by level, from the noisiest down.
        prompts: each sample's.
    """
    both = np.array([[(each.dr, each.dd) for each in sample] for sample in alignments], dtype=float)
    units = {prompt: [n for n, other in enumerate(prompts) if other == prompt] for prompt in prompts}
    means = np.stack([both[rows].mean(0) for rows in units.values()])
    return means[..., 0], means[..., 1]


def strength(dr: NDArray[Any], dd: NDArray[Any]) -> Strength:
    """g* of one number <d, r> and one |d|^2 for each prompt, (prompts,)."""
    n, a, b = len(dr), float(dr.mean()), float(dd.mean())
    if b == 0:
        return Strength(np.nan, np.nan, np.nan, 1.0, n)
    if n < 2:
        return Strength(a / b, -np.inf, np.inf, 1.0, n)
    (aa, ab), (_, bb) = np.cov(dr, dd) / n
    p = float(t_test(a, aa, n - 1, n))
    q = float(student(0.975, n - 1)) ** 2
    square, linear, constant = b**2 - q * bb, a * b - q * ab, a**2 - q * aa
    if square <= 0:  # |d|^2 itself is not told from 0
        return Strength(a / b, -np.inf, np.inf, p, n)
    root = max(linear**2 - square * constant, 0.0) ** 0.5
    return Strength(a / b, float((linear - root) / square), float((linear + root) / square), p, n)


def proposal(dr: NDArray[Any], dd: NDArray[Any], sigmas: Sequence[float]) -> Proposal:
    """Proposes the strength and the range of noise levels with the largest lower bound of the loss's fall.

    The bounds are one-sided, at 5 % over all candidates together (Bonferroni): every range of levels with each of
    `STRENGTHS`. If no bound is above 0, the proposal is not to reflect.

    Args:
        dr, dd: as of `products`.
        sigmas: the levels, from the noisiest down.
    """
    n, levels = dr.shape
    best = Proposal(0.0, 0.0, 1.0, 0.0)
    if n < 2:
        return best
    tried = len(STRENGTHS) * levels * (levels + 1) // 2
    t = float(student(1 - 0.05 / tried, n - 1))
    for first in range(levels):
        for last in range(first, levels):
            a, b = dr[:, first : last + 1].sum(1), dd[:, first : last + 1].sum(1)
            for g in STRENGTHS:
                falls = 2 * g * a - g**2 * b
                low = float(falls.mean() - t * falls.std(ddof=1) / n**0.5)
                if low > best.gain:
                    best = Proposal(g, sigmas[last], sigmas[first], low)
    return best
