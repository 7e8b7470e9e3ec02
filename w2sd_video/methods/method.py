"""What a method is: an answer to the pipeline's loop, made of the predictions of two arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ..levels import CONVENTIONS, Level, Step

# Standard normal noise of the shape of x_t, drawn anew at every call.
Noise = Callable[[], Tensor]


class Arm(Protocol):
    """One side of a pair, at a fixed timestep: predictions as functions of x alone."""

    def reflect(self, x: Tensor) -> Tensor:
        """The prediction (B, …) at x (B, …), with the guidance of the reflection."""
        ...

    def guided(self, x: Tensor, w: float) -> Tensor:
        """The prediction (B, …) at x (B, …) with guidance w: 1 is the conditional one."""
        ...

    def at(self, step: Step) -> Arm:
        """The arm at the time of another step, such as `Step.later` gives."""
        ...

    def denoise(self, x: Tensor) -> Tensor:
        """The prediction (k, B, …) at x (B, …) that the sampler is to use: k is 2, the unconditional and the
        conditional half, where the guidance of the final step is still to come, and else 1."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a method makes of one step: from where the scheduler steps, and with what prediction.

    The step goes from x~_t = x_t + d with the prediction mix(p) + e, where `mix` is the pipeline's own guidance (and
    its rescaling, where it has one). Both parts are added after it, so they are exact whatever the pipeline mixes.

    Args:
        p: (k, B, …), the arm's prediction at x~_t, as of `Arm.denoise`.
        d: (B, …), the displacement x~_t - x_t, in the network's input space. None: 0.
        e: (B, …), what is added to the mixed prediction. None: 0.
        carry: what the method needs at the next step, where it is `Step.carried`. Nothing is carried over a step that
            does not reflect, nor from one loop to another (a second call, the next pass of FreeInit).
    """

    p: Tensor
    d: Tensor | None = None
    e: Tensor | None = None
    carry: Any = None


@dataclass(frozen=True)
class Method:
    """What every method has: which steps it changes, and the guidance of the two arms while it does.

    Args:
        strong_guidance, weak_guidance: guidance numbers of the two arms, in the convention
            `uncond + w (cond - uncond)`: 1 is the conditional prediction, 0 the unconditional one. The guidance of the
            final step is the pipeline's own, and an object does not see it: both are 1 by default, where a call of a
            pipeline here with a method's name has `guidance_scale` for the strong arm.
        reflection_steps: lambda, how many steps reflect, from the noisiest down. None: all but the last (the paper), or
            as many as `default_steps` of the method says.
        interval: of the steps that would, only those whose noise level sigma, of x = alpha z + sigma eps, lies in it
            (both ends count) do reflect; sigma is 1 for pure noise.
        convention: "exact", or "published" for the published code's inverse; see `levels.read_step`.

    Raises:
        ValueError: for a value outside what is said here.
    """

    uses_weak: ClassVar[bool] = True  # whether the weak arm is evaluated
    inverts: ClassVar[bool] = False  # whether it goes back along a step
    one_model: ClassVar[bool] = False  # whether the weak arm is the strong model, even where there is another
    guides: ClassVar[bool] = True  # whether the two guidance numbers have a part in it
    mixes: ClassVar[bool] = False  # whether it needs both branches of the final step at every guidance but 1
    every_step: ClassVar[bool] = False  # whether by default it changes the last step too
    perturbation: ClassVar[Literal["skip", "attention"] | None] = None  # what is done to layers of the weak arm

    strong_guidance: float = 1.0
    weak_guidance: float = 1.0
    reflection_steps: int | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    convention: str = "exact"

    def __post_init__(self) -> None:
        for name in ("strong_guidance", "weak_guidance"):
            finite(f"{name}_scale", getattr(self, name))
        steps = self.reflection_steps
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            raise ValueError(
                f"`reflection_steps` has to be a whole number from 0 to the number of steps, or None for all"
                f" but the last, but is {steps!r}."
            )
        ends = self.interval
        numbers = isinstance(ends, (tuple, list)) and len(ends) == 2 and all(isinstance(e, (int, float)) for e in ends)
        if not numbers or not 0 <= ends[0] <= ends[1] <= 1:
            raise ValueError(f"`interval` has to be two noise levels, 0 <= low <= high <= 1, but is {ends!r}.")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"`convention` has to be one of {CONVENTIONS}, but is {self.convention!r}.")

    @property
    def guidances(self) -> list[float]:
        """The guidance numbers, of the strong arm and the weak one, that have a part in it."""
        if not self.guides:
            return []
        return [self.strong_guidance, self.weak_guidance] if self.uses_weak else [self.strong_guidance]

    def reflects(self, index: int, num_steps: int, level: Level | None = None) -> bool:
        """Whether step `index` (0 is the noisiest) of `num_steps`, from `level`, is changed."""
        if level is not None and not self.interval[0] <= level.sigma <= self.interval[1]:
            return False
        return index < (self.default_steps(num_steps) if self.reflection_steps is None else self.reflection_steps)

    @classmethod
    def default_steps(cls, num_steps: int) -> int:
        """How many of `num_steps` are changed by default, from the noisiest down."""
        return num_steps if cls.every_step else max(num_steps - 1, 0)

    def perturbed(self, index: int, layers: Sequence[str]) -> list[str]:
        """Which of the weak network's transformer blocks step `index` (0 is the noisiest) perturbs, where the class has
        a `perturbation`: "skip" leaves them out, "attention" makes the map of their self-attention the identity.

        Args:
            layers: the names of all of them, in the order in which they are evaluated.

        Raises:
            ValueError: the method's settings name a layer that is none of them.
        """
        return []

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse latents (B, …) that the method's settings do not fit.

        Raises:
            ValueError: says which setting.
        """

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        """The answer to a step from x_t (B, …)."""
        raise NotImplementedError


def displaced(x_t: Tensor, strong: Arm, d: Tensor) -> Answer:
    """The strong arm's step from x_t + d."""
    return Answer(strong.denoise(x_t + d), d)


def finite(name: str, value: object, least: float = -math.inf) -> None:
    """Raise the ValueError for what is not a finite number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
        least_ = f" from {least:g}" * (least > -math.inf)
        raise ValueError(f"`{name}` has to be a finite number{least_}, but is {value!r}.")
