"""Makes the tasks of a run: in this process, or by workers side by side, of which each holds the models it used last.

A worker is handed one task at a time, of the models that it holds where there is one left. One that dies is replaced.
The task at which it died is tried again by another worker, `RETRIES` times, and then counts as failed.

The workers are processes of this machine (`processes`), or actors of a Ray cluster (`on_ray`). What they do with a task
is a `Work`: they make cells (`cells`), or score videos (`scoring`).
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..threads import threads_for, torch_threads

logger = logging.getLogger("w2sd_video")
RETRIES = 1


class Task(Protocol):
    """What a worker is handed. It stays with the tasks that have the same models, where it can."""

    @property
    def key(self) -> str: ...
    @property
    def stem(self) -> str: ...
    @property
    def models(self) -> Any: ...


@dataclass(frozen=True)
class Outcome:
    """What came of a task: of a cell, what its sidecar says; or why it failed, with the error if all others would.

    `memory` is the most bytes that the worker has had: of the GPU where it used one.
    """

    task: Any
    record: dict[str, Any] | None = None
    error: str = ""
    raised: Exception | None = None
    memory: int | None = None


class Work(Protocol):
    """What a worker does, one task after another."""

    def make(self, task: Any) -> Outcome: ...


Start = Callable[[], Work]  # which a worker calls once, before its first task; it can be sent to another process


Outcomes = Generator[Outcome, None, None]


class Engine(Protocol):
    """Whatever makes tasks and says what came of each, as it comes; `workers` of them at a time."""

    workers: int

    def threads(self) -> int:
        """Of each worker, so that all together have the cores."""
        ...

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        """Makes tasks.

        Args:
            start: what each worker calls first.
            threads: of each worker.
            folder: of the run, which all workers have to see.
        """
        ...


def started(start: Start, threads: int) -> Work:
    """The work of a worker, whose threads decide the last digits of what it computes on a CPU."""
    import torch

    torch.set_num_threads(threads)
    return start()


class Here:
    """In this process."""

    workers = 1

    def threads(self) -> int:
        return threads_for(1)

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        with torch_threads(threads):
            work = start()
            for task in tasks:
                yield work.make(task)


class Worker(Protocol):
    """A worker, as the coordinator sees it."""

    ready: bool  # whether it takes tasks yet
    task: Task | None  # that it was handed
    models: Any  # of the last that it was handed

    def hand(self, task: Task) -> None: ...
    def end(self) -> None: ...


Heard = Iterable[tuple[Any, Outcome | str | None]]  # a worker; and an outcome, why it died, or None: it is ready now


def hand_out(
    tasks: Sequence[Task], count: int, hire: Callable[[], Worker], listen: Callable[[Sequence[Any]], Heard]
) -> Outcomes:
    """Has tasks made by workers.

    Args:
        count: how many workers there are at most.
        hire: starts a worker.
        listen: waits until some workers have something to say.

    Raises:
        ChildProcessError: no worker lives until it is ready.
    """
    left, deaths, stillborn = deque(tasks), Counter[str](), 0
    crew: list[Worker] = []

    def hand() -> None:
        while len(crew) < count and len(left) > sum(each.task is None for each in crew):
            crew.append(hire())
        for each in crew:
            if left and each.ready and each.task is None:
                task = _next(left, each.models)
                each.task, each.models = task, task.models
                each.hand(task)

    try:
        hand()
        while any(each.task for each in crew) or left:
            outcomes = []
            for worker, heard in listen(crew):
                task, worker.task, worker.ready = worker.task, None, True
                if isinstance(heard, Outcome):
                    outcomes.append(heard)
                elif heard is not None:
                    crew.remove(worker)
                    stillborn = 0 if task else stillborn + 1
                    if stillborn > count + RETRIES:
                        raise ChildProcessError(errno.EIO, f"it does not start: {heard}", "a worker")
                    if task is None:
                        continue
                    deaths[task.key] += 1
                    logger.warning("note: a worker died (%s) at %s", heard, task.stem)
                    if deaths[task.key] > RETRIES:
                        outcomes.append(Outcome(task, error=f"its worker died: {heard}"))
                    else:
                        left.appendleft(task)
            hand()  # before anything is done with what came, so that no worker waits
            yield from outcomes
    finally:
        for each in crew:
            each.end()


def _next(left: deque[Task], models: Any) -> Task:
    """The first task of these models, or else the first."""
    for n, task in enumerate(left):
        if task.models == models:
            del left[n]
            return task
    return left.popleft()
