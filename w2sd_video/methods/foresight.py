"""Foresight guidance, FSG (Wang, Mao, Wu, Xiang 2025, arXiv:2510.21512)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import shown
from ..levels import Step, convert, first_order, predicted
from .method import MOST_ITERATIONS, Answer, Arm, Method, Noise

Schedule = tuple[tuple[int, int, int], ...]

# The authors' for 100 evaluations in 50 steps; github.com/Ka1b0/Foresight-Guidance, `configs/NFE-100.yaml`.
PUBLISHED: Schedule = (
    *((i, 3, 2 if i in (0, 4, 10) else 1) for i in range(0, 17, 2)),
    *((i, 2, 1) for i in range(18, 33, 2)),
    *((i, 1, 1) for i in (34, 37, 40, 43, 46)),
)
PUBLISHED_STEPS = 50


@dataclass(frozen=True)
class Foresight(Method):
    """Early fixed-point iterations that span several steps, and CFG++ in every step.

    At each step in `schedule`, an iteration goes `interval` steps forward with guided predictions, and back with
    unconditional ones (at `strong_guidance` and `weak_guidance`; the authors use 5.5 and 0). It is repeated
    `iterations` times. Each way is one first-order step, and the network gets the time of the latents that it sees:

        x_u = a x + b p_s(x, t),     x <- (x_u - b p_w(x_u, u)) / a

    The step from there is that of CFG++ (Chung et al., arXiv:2406.08070): p_uncond + strength (p_cond - p_uncond) gives
    the clean latents, and p_uncond the noise. The guidance of the final step has no effect.

    The formulas are the paper's. The authors' code (`utils/pipeline_stable_diffusion_xl.py`) differs: both ways of an
    iteration are one step of the schedule long, whatever the interval, because DDIM's step length follows from the
    number of steps. Here they are as long as the interval. Both arms are the strong model; a weak model is not used.

    The cost is two evaluations a step, and at most four more for each iteration, or three at weak guidance 0.

    Args:
        schedule: (step, interval, iterations) of each calibration; steps count from 0. An interval that is too long
            ends at the last step. None: the authors' schedule for 50 steps, stretched to the number of steps.
        strength: CFG++'s lambda; the authors use 1.
    """

    one_model: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True
    every_step: ClassVar[bool] = True

    schedule: Schedule | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = () if self.schedule is None else self.schedule
        fits = isinstance(rows, (tuple, list)) and all(isinstance(row, (tuple, list)) and len(row) == 3 for row in rows)
        if not fits or not all(
            _whole(start, 0) and _whole(n, 1) and _whole(k, 1) and k <= MOST_ITERATIONS for start, n, k in rows
        ):
            raise ValueError(
                "`schedule` has to be rows of three whole numbers, the step from 0, the interval from 1 and the"
                f" iterations from 1 to {MOST_ITERATIONS}, but is {shown(self.schedule)}."
            )

    @property
    def guidances(self) -> list[float]:
        return [*super().guidances, 0.0]  # CFG++ needs the unconditional prediction at every guidance

    def calibrations(self, index: int, num_steps: int) -> list[tuple[int, int]]:
        """The interval and the iterations at step `index` of `num_steps`."""
        if self.schedule is not None:
            return [(n, k) for start, n, k in self.schedule if start == index]
        by = num_steps / PUBLISHED_STEPS
        rows = [(int(start * by), max(1, round(n * by)), k) for start, n, k in PUBLISHED]
        return [(n, k) for start, n, k in rows if start == index][:1]

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        x = x_t
        for n, iterations in self.calibrations(step.index, step.num_steps):
            end = step.later(n) if step.later else step
            if end.level == step.level:  # the last step, from which there is nowhere to go
                break
            jump, weak_at_end = first_order(step.level, end.level, step.prediction), weak.at(end)
            for _ in range(iterations):
                x_u = jump.forward(x, strong.reflect(x))
                x = jump.inverse(x_u, weak_at_end.reflect(x_u))
        uncond, cond = strong.guided(x, 0.0), strong.guided(x, 1.0)
        z = convert(uncond + self.strength * (cond - uncond), x, step.level, step.prediction, "sample")
        eps = convert(uncond, x, step.level, step.prediction, "epsilon")
        p = predicted(step.prediction, z, eps, step.level)
        return Answer(p[None], step.level.alpha * z + step.level.sigma * eps - x_t)


def _whole(n: object, least: int) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= least
