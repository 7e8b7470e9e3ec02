"""Runs tasks in this process or on parallel workers. Each worker keeps the models that it used last.

A worker gets one task at a time, with the same models as its last task if one is left. A worker that dies is replaced.
Its task is retried by another worker, `RETRIES` times, and then counts as failed.

The workers are processes of this machine (`processes`) or actors of a Ray cluster (`on_ray`). A `Work` defines what
they do with a task: generate a cell (`cells`) or score a video (`scoring`).
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
    """A task for a worker. Tasks with equal `models` go to the same worker if possible."""

    @property
    def key(self) -> str: ...
    @property
    def stem(self) -> str: ...
    @property
    def models(self) -> Any: ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    Args:
        record: the result; for a cell, the record of its sidecar. None: the task failed.
        error: why the task failed.
        raised: the exception, if every other task would fail with it too.
        memory: the worker's peak memory in bytes, on the GPU if it uses one. None: not measured.
    """

    task: Any
    record: dict[str, Any] | None = None
    error: str = ""
    raised: Exception | None = None
    memory: int | None = None


class Work(Protocol):
    """What a worker does, one task after another."""

    def make(self, task: Any) -> Outcome: ...


Start = Callable[[], Work]  # called once by each worker, before its first task; can be pickled
Outcomes = Generator[Outcome, None, None]


class Engine(Protocol):
    """Runs tasks, up to `workers` at a time, and yields each outcome as soon as it is known."""

    workers: int

    def threads(self) -> int:
        """How many threads each worker gets, so that the workers share all cores."""
        ...

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        """Runs tasks.

        Args:
            start: called by each worker before its first task.
            threads: per worker.
            folder: the run's folder, to which all workers need access.
        """
        ...


def started(start: Start, threads: int) -> Work:
    """Starts the work of a worker. The number of threads changes the last digits of results on a CPU."""
    import torch

    torch.set_num_threads(threads)
    return start()


class Here:
    """Runs tasks in this process."""

    workers = 1

    def threads(self) -> int:
        return threads_for(1)

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        with torch_threads(threads):
            work = start()
            for task in tasks:
                yield work.make(task)


class Worker(Protocol):
    """The coordinator's handle of a worker."""

    ready: bool = False  # whether it takes tasks yet
    task: Task | None = None  # the task in progress
    models: Any = None  # the models of its last task

    def hand(self, task: Task) -> None: ...
    def end(self) -> None: ...


Messages = Iterable[tuple[Any, Outcome | str | None]]  # a worker, and an outcome, why it died, or None: it is ready


def hand_out(
    tasks: Sequence[Task], count: int, hire: Callable[[], Worker], listen: Callable[[Sequence[Any]], Messages]
) -> Outcomes:
    """Distributes tasks among workers.

    Args:
        count: the most workers at a time.
        hire: starts a worker.
        listen: waits for messages from the workers, and yields them.

    Raises:
        ChildProcessError: workers keep dying before they are ready.
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
            for worker, message in listen(crew):
                task, worker.task, worker.ready = worker.task, None, True
                if isinstance(message, Outcome):
                    outcomes.append(message)
                elif message is not None:
                    crew.remove(worker)
                    stillborn = 0 if task else stillborn + 1
                    if stillborn > count + RETRIES:
                        way = 'a script has to call below `if __name__ == "__main__":`, as each worker imports it'
                        raise ChildProcessError(errno.EIO, f"it does not start ({message}); {way}", "a worker")
                    if task is None:
                        continue
                    deaths[task.key] += 1
                    logger.warning("note: a worker died (%s) at %s", message, task.stem)
                    if deaths[task.key] > RETRIES:
                        outcomes.append(Outcome(task, error=f"its worker died: {message}"))
                    else:
                        left.appendleft(task)
            hand()  # before the outcomes are processed, so that no worker waits
            yield from outcomes
    finally:
        for each in crew:
            each.end()


def _next(left: deque[Task], models: Any) -> Task:
    """Takes the first task with these models from `left`, or else the first task."""
    for n, task in enumerate(left):
        if task.models == models:
            del left[n]
            return task
    return left.popleft()
