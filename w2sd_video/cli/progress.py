"""How far long work is, and what of it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..terminal import Lines, err, remaining

if TYPE_CHECKING:
    from ..plans import Progress as Done

FAILURES = 5  # that are listed


class Show(Protocol):
    """Shows how many are done, of how many, and the seconds that are left."""

    def __call__(self, done: int, total: int, left: float | None = None) -> None: ...


@contextmanager
def bar(what: str) -> Iterator[Show]:
    """A progress bar on standard error, or lines where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task, lines = progress.add_task(what, total=None), Lines(what, err)

        def show(done: int, total: int, left: float | None = None) -> None:
            progress.update(task, completed=done, total=total, description=what + remaining(left))
            lines(done, total, left)

        yield show


@contextmanager
def cells() -> Iterator[Callable[[Done], None]]:
    """A bar of a run's cells; see `bar`."""
    with bar("cells") as show:
        yield lambda done: show(done.made + len(done.failed), done.cells, done.left)


def say_failed(done: Done) -> None:
    """Says the first cells that could not be made, and why."""
    for line in done.failed[:FAILURES]:
        err.print(f"failed: {line['arm']}, {line['prompt']}, seed {line['seed']}: {line['error']}", markup=False)
    if done.failed[FAILURES:]:
        err.print(f"and {len(done.failed) - FAILURES} more", markup=False)
