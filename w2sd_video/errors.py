"""What is refused: one class for an argument, two for weights; each message names what it got and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object, longest: int = 300) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or too deep
        return f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}…"


class Refused(ValueError):
    """An argument that cannot be used: which, the value, and what is accepted."""

    def __init__(self, argument: str, value: object, accepted: str):
        super().__init__(f"{argument}: {shown(value)} is not accepted; {accepted}")
        self.argument, self.value, self.accepted = argument, value, accepted

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:  # between processes
        return type(self), (self.argument, self.value, self.accepted)


class WeightsError(ValueError):
    """Weights that cannot be used: damaged, of another architecture, or not matching each other."""


class WeightsNotFound(FileNotFoundError):
    """Weights that are not on this machine. The message says how to get them."""


class NotFinite(FloatingPointError):
    """Frames whose values are not finite, which would be black."""


def out_of_memory(error: BaseException) -> bool:
    """Whether it is one of Python's or torch's ways to say that there is not enough, told without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch has no class for what a CPU, and a library on a GPU, cannot allocate.
    words = ("out of memory", "DefaultCPUAllocator")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Available: {', '.join(known)}"
