"""How far a run is, what of it failed, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..progress import bar
from ..terminal import err

if TYPE_CHECKING:
    from ..plans import Progress as Done

FAILURES = 5  # that are listed


def cost(evaluations: int, of_strong: float | None, each: bool = True) -> str:
    """Network evaluations in words, and how many of the strong network's they are by parameters, if another number."""
    counted = f"{evaluations} network evaluations{' each' * each}"
    if of_strong is None:
        return (
            f"{counted} (how many of the strong network's by parameters is unknown: the models are not on this machine)"
        )
    return f"{counted} ({of_strong:.4g} of the strong network's by parameters)" if of_strong != evaluations else counted


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
