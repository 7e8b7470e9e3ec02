"""How far long work is: a bar on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from .terminal import err

EVERY = 10.0  # the least seconds between two lines, and before the first


class Show(Protocol):
    """Shows how much is done, of how much, the seconds that are left (None: worked out), and what is being done."""

    def __call__(self, done: float, total: float, left: float | None = None, doing: str = "") -> None: ...


@contextmanager
def bar(what: str, to: Console = err, shares: bool = False) -> Iterator[Show]:
    """A progress bar, or lines where the console is no terminal.

    Args:
        what: is counted, such as "videos".
        shares: what is done is a share of the whole instead of a count.
    """
    amount = TaskProgressColumn() if shares else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    began = said = time.monotonic()
    first: float | None = None  # how much was done before this run began

    def show(done: float, total: float, left: float | None = None, doing: str = "") -> None:
        nonlocal first, said
        now = time.monotonic()
        first = done if first is None else first
        if left is None and done > first:
            left = (now - began) * (total - done) / (done - first)
        rest = "" if left is None else f", {timedelta(seconds=round(left))} left"
        progress.update(task, completed=done, total=total, description=escape(doing or what) + rest)
        if not to.is_terminal and now - said >= EVERY:
            said = now
            to.print(f"{what}: {f'{done / total:.0%}' if shares else f'{done}/{total}'}{rest}", markup=False)

    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield show
