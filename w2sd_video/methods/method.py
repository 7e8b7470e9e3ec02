"""The interface of a method, which answers each step of a pipeline's loop with predictions of two arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ..errors import shown
from ..levels import Level, Step
from ..schedulers import CONVENTIONS
from ..settings import most_reflected

KINDS: dict[str, tuple[tuple[type, ...], str]] = {  # of fields that are annotated so; what each accepts
    "float": ((int, float), "a finite number"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
}
ARM_GUIDANCES = ("strong_guidance", "weak_guidance")  # the fields that are the two arms' guidance
MOST_ITERATIONS = 1000  # in one step, of a method that iterates; no paper has more than a few
# Standard normal noise of the shape of x_t, drawn anew at every call.
Noise = Callable[[], Tensor]


class Arm(Protocol):
    """One arm of a pair at a fixed timestep: its predictions as functions of x alone."""

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
        """The prediction (k, B, …) at x (B, …) for the final step. If the pipeline still has to apply its guidance, k
        is 2, the unconditional and the conditional prediction; else k is 1."""
        ...


@dataclass(frozen=True)
class Answer:
    """A method's answer to one step: where the scheduler steps from, and by which prediction.

    The scheduler steps from x~_t = x_t + d by the prediction mix(p) + e, where `mix` is the pipeline's own guidance,
    with its rescaling if it has one. Both d and e are added after `mix`, so they are exact whatever it computes.

    Args:
        p: (k, B, …), the arm's prediction at x~_t, as `Arm.denoise` returns it.
        d: (B, …), the displacement x~_t - x_t, in the network's input space. None: 0.
        e: (B, …), an addition to the mixed prediction. None: 0.
        carry: any value that the method needs at the next step, which gets it as `Step.carried`. It is dropped at a
            step that does not reflect, and at the end of a loop (a second call, the next pass of FreeInit).
    """

    p: Tensor
    d: Tensor | None = None
    e: Tensor | None = None
    carry: Any = None


@dataclass(frozen=True)
class Method:
    """The base of all methods: which steps a method changes, and the guidance of its two arms in these steps.

    Args:
        strong_guidance, weak_guidance: guidance numbers w of the two arms, in the convention
            `uncond + w (cond - uncond)`: 1 is the conditional prediction, 0 the unconditional one. The default is 1. A
            `Method` does not know the pipeline's `guidance_scale`, which guides the final step; a pipeline of this
            package that is called with a method's name uses it as the default of `strong_guidance`.
        reflection_steps: lambda, how many steps reflect, from the noisiest down. None: all but the last (the paper), or
            the method's own `default_steps`.
        interval: the lowest and the highest noise level sigma, of x = alpha z + sigma eps, at which a step reflects;
            both ends are included. Pure noise has sigma = 1.
        convention: "exact", or "published" for the published code's inverse; see `schedulers.read_step`.

    Raises:
        ValueError: a value is not accepted.
    """

    uses_weak: ClassVar[bool] = True  # whether the weak arm is evaluated
    inverts: ClassVar[bool] = False  # whether the method inverts a step
    one_model: ClassVar[bool] = False  # whether both arms are the strong model, even beside a weak one
    guides: ClassVar[bool] = True  # whether the method uses the two guidance numbers
    mixes: ClassVar[bool] = False  # whether it needs both branches of the final step at every guidance but 1
    looks_ahead: ClassVar[bool] = False  # whether it evaluates networks at the times of later steps
    every_step: ClassVar[bool] = False  # whether it also changes the last step by default
    perturbation: ClassVar[Literal["skip", "attention"] | None] = None  # how layers of the weak arm are perturbed

    strong_guidance: float = 1.0
    weak_guidance: float = 1.0
    reflection_steps: int | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    convention: str = "exact"

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_kind(field.name, str(getattr(field.type, "__name__", field.type)))
        steps = self.reflection_steps
        if steps is not None and steps < 0:
            raise ValueError(
                f"`reflection_steps` has to be a whole number from 0 to the number of steps, or None for all"
                f" but the last, but is {shown(steps)}."
            )
        ends = self.interval
        numbers = isinstance(ends, (tuple, list)) and len(ends) == 2 and all(type(e) in (int, float) for e in ends)
        if not numbers or not 0 <= ends[0] <= ends[1] <= 1:
            raise ValueError(f"`interval` has to be two noise levels, 0 <= low <= high <= 1, but is {shown(ends)}.")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"`convention` has to be one of {CONVENTIONS}, but is {shown(self.convention)}.")

    def _check_kind(self, name: str, annotation: str) -> None:
        """Refuse a field's value of another kind than its annotation says, if that is in `KINDS`, or one `| None`."""
        kind, _, rest = annotation.partition(" | ")
        value = getattr(self, name)
        if kind not in KINDS or rest not in ("", "None") or (rest and value is None):
            return
        types, words = KINDS[kind]
        wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
        if wrong or (kind == "float" and not math.isfinite(value)):
            raise ValueError(f"`{name}` has to be {words}{', or None' * bool(rest)}, but is {shown(value)}.")

    @property
    def guidances(self) -> list[float]:
        """The guidance numbers that the method uses, the strong arm's first."""
        if not self.guides:
            return []
        return [self.strong_guidance, self.weak_guidance] if self.uses_weak else [self.strong_guidance]

    def reflects(self, index: int, num_steps: int, level: Level | None = None) -> bool:
        """Whether the method changes step `index` (0 is the noisiest) of `num_steps`, which starts from `level`."""
        if level is not None and not self.interval[0] <= level.sigma <= self.interval[1]:
            return False
        return index < (self.default_steps(num_steps) if self.reflection_steps is None else self.reflection_steps)

    def check_steps(self, num_steps: int) -> None:
        """Refuse more steps that reflect than a loop of `num_steps` steps has. A class with a rule of its own of which
        steps reflect is not held to it.

        Raises:
            ValueError: names `reflection_steps`, and how many there can be.
        """
        if type(self).reflects is not Method.reflects:
            return
        lam, most = self.reflection_steps, most_reflected(num_steps, self.convention)
        if lam is not None and lam > most:
            limit = f"the number of steps, {num_steps}"
            if lam <= num_steps:
                limit = f"{most} under `convention={self.convention!r}`, which cannot reflect the last step"
            raise ValueError(f"`reflection_steps` has to be from 0 to {limit}, but is {lam}.")

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether an argument of a pipeline's call that tells the arms apart, such as `weak_prompt`, has a meaning."""
        if name.endswith("_embedded_guidance"):
            return cls.guides and (cls.uses_weak or name.startswith("strong_"))
        return cls.uses_weak and not cls.one_model

    @classmethod
    def default_steps(cls, num_steps: int) -> int:
        """How many of `num_steps` steps the method changes by default, from the noisiest down."""
        return num_steps if cls.every_step else max(num_steps - 1, 0)

    def perturbed(self, index: int, layers: Sequence[str]) -> list[str]:
        """The names of the weak network's transformer blocks that step `index` (0 is the noisiest) perturbs.

        It is called if the class has a `perturbation`: "skip" leaves the blocks out, "attention" replaces the map of
        their self-attention by the identity.

        Args:
            layers: the names of all blocks that see the latents, in the network's own order.

        Raises:
            ValueError: the method's settings name a block that is not among them.
        """
        return []

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse latents that do not fit the method's settings.

        Args:
            shape: (B, C, H, W) of pictures and (B, C, F, H, W) of videos, whatever the order of the axes in x_t; (B, C,
                N) of videos in which frames, height and width share one axis. Tokens of pictures are (B, C, N, 1).

        Raises:
            ValueError: names the setting.
        """

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        """The answer to a step from x_t (B, …)."""
        raise NotImplementedError


def own_options(method: type[Method]) -> list[Field[Any]]:
    """The fields of a method that are its options: all but the two arms' guidance."""
    return [field for field in fields(method) if field.name not in ARM_GUIDANCES]


def displaced(x_t: Tensor, strong: Arm, d: Tensor) -> Answer:
    """The answer that steps from x_t + d by the strong arm's prediction there."""
    return Answer(strong.denoise(x_t + d), d)


def finite(name: str, value: object, least: float = -math.inf) -> None:
    """Refuse a value that is not a finite number, or is under `least`; `name` is the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
        bound = f" from {least:g}" if least > -math.inf else ""
        raise ValueError(f"`{name}` has to be a finite number{bound}, but is {shown(value)}.")
