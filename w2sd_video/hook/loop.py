"""Where a pipeline is in its loop over its scheduler's timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..levels import Step, check_invertible
from ..methods import Answer, Method
from ..methods.method import Arm, Noise
from ..schedulers import read_step, step_index


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
        self._carried: tuple[int, Any] = (-1, None)  # the last step's index, and the `carry` of its answer

    def step(self, time: Any, method: Method) -> Step:
        """The step that the pipeline is at; see `step_at`.

        Args:
            time: the denoiser's time input. None: it has none.
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
        return self.step_at(place, index, num_steps, method)

    def step_at(self, place: int, index: int, num_steps: int, method: Method) -> Step:
        """A step of the loop, with the inverse of the method's convention if the method changes the step.

        Args:
            place: the step's index in the scheduler's timesteps.
            index: its index in the loop of `num_steps` steps.

        Raises:
            ValueError: it is the first step, and the method reflects the last one, which cannot be inverted.
        """
        step = read_step(self.scheduler, self.scheduler.timesteps[place], index=place)
        if index == 0 and method.inverts and method.reflects(num_steps - 1, num_steps):
            self._check_last(place + num_steps - 1, num_steps, method)
        if method.convention != "exact" and method.reflects(index, num_steps, step.level):
            step = read_step(self.scheduler, step.timestep, convention=method.convention, index=place)
        before, carried = self._carried
        return replace(
            step,
            index=index,
            num_steps=num_steps,
            later=partial(self._later, place, index, num_steps),
            carried=carried if before == index - 1 else None,
        )

    def _later(self, place: int, index: int, num_steps: int, n: int) -> Step:
        """The n-th step after the one at `index` of the loop, or the loop's last; see `step_at`."""
        n = min(n, num_steps - 1 - index)
        step = read_step(self.scheduler, self.scheduler.timesteps[place + n], index=place + n)
        return replace(step, index=index + n, num_steps=num_steps)

    def _check_last(self, place: int, num_steps: int, method: Method) -> None:
        if place < len(self.scheduler.timesteps):
            step = read_step(self.scheduler, self.scheduler.timesteps[place], index=place)
            if method.reflects(num_steps - 1, num_steps, step.level):
                check_invertible(step)

    def answer(self, method: Method, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        """The method's answer to a step from x_t (B, …); in a step that it leaves alone, the strong arm's prediction.

        Raises:
            ValueError: the method returns something else.
        """
        reflects = method.reflects(step.index, step.num_steps, step.level)
        answer: Any = method(x_t, step, strong, weak, noise) if reflects else Answer(strong.denoise(x_t))
        if not isinstance(answer, Answer):
            name = type(method).__name__
            raise ValueError(f"{name} returns a {type(answer).__name__}: a method returns an `Answer`.")
        self._carried = (step.index, answer.carry)
        return answer
