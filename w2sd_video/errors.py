"""The errors of this package: for arguments, for weights, and for frames that are not finite; and its notes.

A message names the argument, the value, and what is accepted.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.sources import Source


logger = logging.getLogger("w2sd_video")


def shown(value: object, longest: int = 300) -> str:
    """The `repr` of a value for a message, cut after `longest` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or too deep
        return f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}…"


class Named(Exception):
    """An error that names one argument.

    Attributes:
        argument: the argument's name, or that of a part of it, as in `controlnet.strong`; empty if there is none.
        problem: what is wrong with it.
        origin: where the value comes from if the caller did not give it, as in `preset shapes: its`.
        replaceable: whether the caller can replace the value by giving the argument.
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
    """An argument whose value is not accepted. The message names the argument, the value, and what is accepted."""

    def __init__(self, argument: str, value: object, accepted: str):
        super().__init__(argument, f"{shown(value)} is not accepted; {accepted}")
        self.value, self.accepted = value, accepted


def check_whole(argument: str, value: object, least: int, most: int) -> None:
    """Refuses what is not a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(argument, value, f"give a whole number from {least} to {most}")


@lru_cache
def note_once(text: str) -> None:
    """Says something, once."""
    logger.warning("note: %s", text)


class OfWeights(Named):
    """An error in a model's weights.

    Args:
        of: the model's source, or its name in the message.
        what: the rest of the sentence: what is wrong with it.
    """

    def __init__(self, of: Source | str, what: str):
        source = None if isinstance(of, str) else of
        super().__init__(source.argument if source else "", f"{source.quoted if source else of} {what}".strip())
        self.source, self.what = source, what


class WeightsError(OfWeights, ValueError):
    """Weights that cannot be used: damaged, of another architecture, or not matching each other."""


class WeightsNotFound(OfWeights, FileNotFoundError):
    """Weights that are not on this machine. The message says how to get them."""


class Failed(Exception):
    """An output that others need could not be made. Finished outputs are kept."""


class NotFinite(FloatingPointError):
    """Frames have values that are not finite; as pictures they would be black.

    Attributes:
        frames: which frames, in words.
        way: what to do about it.
    """

    def __init__(self, frames: str, way: str = "decode in torch.float32, or with another autoencoder"):
        self.frames, self.way = frames, way
        super().__init__(f"{frames} have values that are not finite; {way}")

    def __reduce__(self) -> Any:
        return type(self), (self.frames, self.way)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch means that memory ran out. Does not import torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch has no class for what a CPU, and a library on a GPU, cannot allocate.
    words = ("out of memory", "DefaultCPUAllocator")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def nearest(word: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str | None:
    """The known word that `word` is another name of, or else is nearest to it, or has it as a part; None if none is.

    Args:
        others: other names of words, such as those of the settings' options.
    """
    known = list(known)
    meant = (others or {}).get(word)
    if meant in known:
        return meant
    near = difflib.get_close_matches(word, known, 1) or [each for each in known if word in re.split("[_-]", each)]
    return near[0] if near and word else None


def did_you_mean(word: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """The end of an error message: the known word nearest to `word`, and the known words, at most sixty.

    Args:
        others: see `nearest`.
    """
    known = list(known)
    near = nearest(word, known, others)
    more = f" and {len(known) - 60} more" if len(known) > 60 else ""
    return (f"did you mean {near!r}? " if near else "") + f"Available: {', '.join(known[:60])}{more}"
