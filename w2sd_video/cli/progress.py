"""How far a run is, and what of it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..progress import bar
from ..terminal import err

if TYPE_CHECKING:
    from ..plans import Progress as Done

FAILURES = 5  # that are listed


@contextmanager
def cells() -> Iterator[Callable[[Done], None]]:
    """A progress bar of a run's cells."""
    with bar("cells") as show:
        yield lambda done: show(done.made + len(done.failed), done.cells, done.left)


def say_failed(done: Done) -> None:
    """Says the first cells that could not be made, and why."""
    for line in done.failed[:FAILURES]:
        err.print(f"failed: {line['arm']}, {line['prompt']}, seed {line['seed']}: {line['error']}", markup=False)
    if done.failed[FAILURES:]:
        err.print(f"and {len(done.failed) - FAILURES} more", markup=False)
