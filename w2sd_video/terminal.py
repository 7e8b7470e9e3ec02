"""What every command shares: where it prints, and how it reads the values of options."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from .errors import shown

BROKEN_PIPE = 1  # nobody reads what is said: not all of it arrived


class _Terminal(Console):
    """A console that names the stream that cannot be written to. Of messages that nobody can read nothing is said."""

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
        except OSError as error:
            give_up("stderr" if self.stderr else "stdout")
            if not self.stderr:
                raise unwritable(error) from None

    def on_broken_pipe(self) -> None:  # which rich calls, in place of letting the error through
        give_up("stderr" if self.stderr else "stdout")
        if not self.stderr:
            raise SystemExit(BROKEN_PIPE)


def give_up(stream: str) -> None:
    """Sends what a stream still holds back, and all that follows, nowhere; Python would fail at its end otherwise."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, stream).fileno())


def unwritable(error: OSError) -> BaseException:
    """What an error of writing to standard output is raised as: its name with it, or the end, where nobody reads on."""
    if isinstance(error, BrokenPipeError):
        return SystemExit(BROKEN_PIPE)
    return OSError(error.errno or errno.EIO, error.strerror or str(error), "standard output")


out = _Terminal(highlight=False, soft_wrap=True)
err = _Terminal(stderr=True, highlight=False, soft_wrap=True)


def parse_path(value: str | Path) -> Path:
    """A path; an empty one, as of a shell's variable that is not set, would be the current folder."""
    if value == "":
        raise typer.BadParameter("'' is not accepted; give a path, such as . for the current folder")
    return Path(value)


PATH: dict[str, Any] = {"parser": parse_path, "metavar": "PATH"}  # of an option or argument


def number(kind: type) -> Callable[[str], Any]:
    """A parser of numbers that names what it got instead."""

    def parse(value: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise typer.BadParameter(f"{shown(value)} is not a {'whole ' * (kind is int)}number") from None

    return parse
