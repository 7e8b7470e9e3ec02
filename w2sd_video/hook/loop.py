"""Where a pipeline is in its loop over its scheduler's timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..levels import Step, check_invertible, read_step, step_index
from ..methods import Method


class Loop:
    """A pipeline's loop, which may start late in the schedule, end early, or restart.

    Args:
        scheduler: the pipeline's scheduler.
        num_steps: the steps of the loop; called at every step. None: not known; the loop goes on to the end of
            `scheduler.timesteps`. Default: all of them.
    """

    def __init__(self, scheduler: Any, num_steps: Callable[[], int | None] | None = None):
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.restart()

    def restart(self) -> None:
        """Begins a new loop."""
        self._first = self._last = -1  # the scheduler's index of the loop's first step, and of the last one seen

    def step(self, time: Any, method: Method) -> Step:
        """The step that the pipeline is at, with its place in the loop and the inverse of the method's convention.

        Args:
            time: the denoiser's time input. None: it has none.

        Raises:
            ValueError: it is the first step, and the method reflects the last one, which cannot be inverted.
        """
        try:
            if time is None:
                raise ValueError
            place = step_index(self.scheduler, time)
        except (ValueError, IndexError):
            place = 0  # a time in another unit, before the scheduler counts; `check_stepped` checks it
        index = place
        timesteps = self.scheduler.timesteps
        num_steps = len(timesteps)
        if self.num_steps is not None:
            known = self.num_steps()
            starts = self._last < 0 and time is not None and float(time) <= 1
            if starts and known is not None and place + known > num_steps:
                place = 0  # a time in [0, 1], which the last timestep happens to equal
            if place <= self._last or self._last < 0:  # a loop may start late in the schedule, or anew
                self._first = place
            num_steps = known or num_steps - self._first
            self._last = place
            index = place - self._first
        step = read_step(self.scheduler, timesteps[place], index=place)
        last = place - index + num_steps - 1
        if index == 0 and method.inverts and method.reflects(num_steps - 1, num_steps) and last < len(timesteps):
            check_invertible(read_step(self.scheduler, timesteps[last], index=last))
        if method.convention != "exact" and method.reflects(index, num_steps, step.level):
            step = read_step(self.scheduler, timesteps[place], convention=method.convention, index=place)
        steps_left = num_steps - 1 - index
        return replace(step, index=index, num_steps=num_steps, later=later(self.scheduler, place, steps_left))


def later(scheduler: Any, index: int, most: int) -> Callable[[int], Step]:
    """A function from n to the n-th step after the one at `index`; of n over `most`, the last step."""

    def step(n: int) -> Step:
        at = index + min(n, most)
        return read_step(scheduler, scheduler.timesteps[at], index=at)

    return step
