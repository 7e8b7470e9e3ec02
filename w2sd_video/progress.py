"""Shows the progress of long work: a bar on a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from .terminal import err

EVERY = 10.0  # seconds between two lines, and before the first, at least


class Show(Protocol):
    """Shows the amount done, the total, the seconds left (None: estimated here), and the current activity."""

    def __call__(self, done: float, total: float, left: float | None = None, doing: str = "") -> None: ...


@contextmanager
def bar(what: str, to: Console = err, shares: bool = False) -> Iterator[Show]:
    """A progress bar, or lines if the console is no terminal.

    Args:
        what: the things that are counted, such as "videos".
        shares: whether to show the progress as a percentage instead of a count.
    """
    amount = TaskProgressColumn() if shares else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    printed = time.monotonic()
    first: float | None = None  # the amount done before this run, or the next stage of its work, began
    last = 0.0
    start: tuple[float, float] | None = None  # when the first thing was done, before which models load, and the amount

    def show(done: float, total: float, left: float | None = None, doing: str = "") -> None:
        nonlocal first, last, printed, start
        now = time.monotonic()
        if first is None or done < last:
            first, start = done, None
        last = done
        if left is None and done > first:
            start = start or (now, done)
            if done > start[1]:
                left = (now - start[0]) * (total - done) / (done - start[1])
        rest = "" if left is None else f", {timedelta(seconds=round(left))} left"
        progress.update(task, completed=done, total=total, description=escape(doing or what) + rest)
        if not to.is_terminal and now - printed >= EVERY:
            printed = now
            amount_done = f"{done / total:.0%}" if shares else f"{int(done)}/{total}"
            to.print(f"{what}: {amount_done}{rest}{f' ({doing})' if doing else ''}", markup=False)

    to_terminal = sys.stdout is not None and sys.stdout.isatty()  # else what is printed is data, for a file or a pipe
    hidden = not to.is_terminal
    with Progress(*columns, console=to, transient=True, redirect_stdout=to_terminal, disable=hidden) as progress:
        task = progress.add_task(what, total=None)
        yield show
