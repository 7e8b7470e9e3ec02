"""What is refused: one class for an argument, two for weights; each message names what it got and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.sources import Source


def shown(value: object, longest: int = 300) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or too deep
        return f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}…"


class Named(Exception):
    """An error that names one argument.

    Attributes:
        argument: its name, or a part of it, as in `controlnet.strong`; empty where the error is of none.
        problem: what is wrong with it.
        origin: where its value comes from, as in `preset shapes: its`, if not from whoever gave the arguments.
        replaceable: whether that value gives way to one that is given.
    """

    def __init__(self, argument: str, problem: str):
        super().__init__(problem)
        self.argument, self.problem = argument, problem
        self.origin, self.replaceable = "", False

    def __str__(self) -> str:
        name = f"{self.origin} {self.argument}".strip()
        return f"{name}: {self.problem}" if name else self.problem

    def __reduce__(self) -> Any:  # as another process raises it
        return _restored, (type(self), vars(self))


def _restored(cls: type[Named], attributes: dict[str, Any]) -> Named:
    error = cls.__new__(cls)
    vars(error).update(attributes)
    return error


class ArgumentError(Named, ValueError):
    """An argument that cannot be used."""


class Refused(ArgumentError):
    """An argument that cannot be used: which, the value, and what is accepted."""

    def __init__(self, argument: str, value: object, accepted: str):
        super().__init__(argument, f"{shown(value)} is not accepted; {accepted}")
        self.value, self.accepted = value, accepted


class OfWeights(Named):
    """An error of a model's weights: of which model, or of which argument's, and what is wrong with it."""

    def __init__(self, of: Source | str, what: str):
        source = None if isinstance(of, str) else of
        super().__init__(source.argument if source else "", f"{source.quoted if source else of} {what}".strip())
        self.source, self.what = source, what


class WeightsError(OfWeights, ValueError):
    """Weights that cannot be used: damaged, of another architecture, or not matching each other."""


class WeightsNotFound(OfWeights, FileNotFoundError):
    """Weights that are not on this machine. The message says how to get them."""


class Failed(Exception):
    """Something that others depend on could not be made; what was made is kept."""


class NotFinite(FloatingPointError):
    """Frames whose values are not finite, which would be black.

    Attributes:
        frames: which, in words.
    """

    def __init__(self, frames: str, way: str = "decode in torch.float32, or with another autoencoder"):
        self.frames, self.way = frames, way
        super().__init__(f"{frames} have values that are not finite; {way}")

    def __reduce__(self) -> Any:
        return type(self), (self.frames, self.way)


def out_of_memory(error: BaseException) -> bool:
    """Whether it is one of Python's or torch's ways to say that there is not enough, told without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch has no class for what a CPU, and a library on a GPU, cannot allocate.
    words = ("out of memory", "DefaultCPUAllocator")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, and all of them, or the first sixty."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    more = f" and {len(known) - 60} more" if len(known) > 60 else ""
    return (f"did you mean {near[0]!r}? " if near else "") + f"Available: {', '.join(known[:60])}{more}"
