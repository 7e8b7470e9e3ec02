"""Makes the cells of a plan: in this process, or in several side by side that each hold the models they used last.

A worker is handed one cell at a time, of the models that it holds where there is one left. One that dies is replaced.
The cell at which it died is tried again by another worker, `RETRIES` times, and then counts as failed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from .. import plugins
from ..errors import WeightsNotFound
from ..generate import Maker
from ..runs import Output, Request
from ..settings import Variant
from ..terminal import MACHINE

logger = logging.getLogger("w2sd_video")
RETRIES = 1
PATIENCE = 10  # seconds that a worker has to end


@dataclass(frozen=True)
class Task:
    """A cell to make, as a worker is told it."""

    key: str
    request: Request
    folder: Path
    stem: str
    formats: tuple[str, ...]
    variant: Variant  # whose pipelines are loaded: those of all tasks with these models


@dataclass(frozen=True)
class Outcome:
    """What came of a task: what its sidecar says; or why it failed, with the error if all others would, too."""

    task: Task
    record: dict[str, Any] | None = None
    error: str = ""
    raised: Exception | None = None


class Engine(Protocol):
    """Whatever makes tasks and says what came of each, as it comes."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]: ...


class Worker:
    """Makes tasks one after another, and holds the models of the last."""

    def __init__(self, threads: int, command: Sequence[str] = ()):
        import torch

        torch.set_num_threads(threads)
        self.maker = Maker(command=command)

    def make(self, task: Task) -> Outcome:
        output = Output(task.request, task.folder, task.formats, task.stem)
        try:
            made = self.maker.make(output, overwrite=True, variant=task.variant, facts={"cell": task.key})
        except Exception as error:  # of a cell, whatever a network or a plug-in raises
            logger.debug("%s", traceback.format_exc())
            of_all = isinstance(error, WeightsNotFound) or (isinstance(error, OSError) and error.errno in MACHINE)
            # Only those go to another process: not every error can be sent.
            raised = error if of_all else None
            return Outcome(task, error=f"{type(error).__name__}: {error}", raised=raised)
        return Outcome(task, made.record)


class Here:
    """In this process."""

    def __init__(self, threads: int, command: Sequence[str] = ()):
        self.threads, self.command = threads, command

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        worker = Worker(self.threads, self.command)
        for task in tasks:
            yield worker.make(task)


def _outlive(sentinel: int) -> None:
    """Ends this worker once its coordinator has died."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # as the coordinator would have: what is half made is cleared away
    time.sleep(PATIENCE)
    os._exit(1)


def _serve(
    connection: Connection, threads: int, command: Sequence[str], files: Sequence[tuple[plugins.Kind, str]] = ()
) -> None:
    """What a worker's process does: tasks in, outcomes out, until the other end closes."""
    from ..terminal import quiet

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator says when to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-made files are cleared away
    if coordinator := multiprocessing.parent_process():  # whose death no signal tells of
        threading.Thread(target=_outlive, args=(coordinator.sentinel,), daemon=True).start()
    quiet()
    for kind, file in files:
        plugins.from_file(kind, file)
    worker = Worker(threads, command)
    with suppress(EOFError, OSError):
        while True:
            connection.send(worker.make(connection.recv()))


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits until the end. A process that starts within never has it: it imports for seconds before it could
    say so itself."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process:
    """A worker in a process of its own, and the task that it was handed."""

    def __init__(self, serve: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        with _interrupts_later():
            self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.models: Any = None

    def hand(self, task: Task) -> bool:
        """Whether it took the task; one that has died does not."""
        self.task, self.models = task, task.request.models
        try:
            self.connection.send(task)
        except OSError:
            return False
        return True

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(PATIENCE)
        self.process.kill()  # one that is deep in a network's code
        self.process.join()


class SideBySide:
    """In several processes."""

    def __init__(self, workers: int, threads: int, command: Sequence[str] = (), serve: Callable[..., None] = _serve):
        # The files of methods that the user has named, which a worker runs, too.
        files = plugins.named() if serve is _serve else []
        self.workers, self.serve = workers, serve
        self.arguments = (threads, command, *([files] if files else []))

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        left, deaths = deque(tasks), dict.fromkeys((task.key for task in tasks), 0)
        running: list[_Process] = []
        try:
            while left or any(each.task for each in running):
                while left and len(running) < min(self.workers, len(left) + len(running)):
                    running.append(_Process(self.serve, *self.arguments))
                    running[-1].hand(_next(left, None))
                ends = [each.connection for each in running] + [each.process.sentinel for each in running]
                ready = wait(ends)
                for each in list(running):
                    if each.connection in ready and (outcome := _received(each)):
                        each.task = None
                        yield outcome
                        if left:
                            each.hand(_next(left, each.models))
                    elif each.process.sentinel in ready or each.connection in ready:
                        running.remove(each)
                        each.process.join()
                        if (task := each.task) is not None:
                            deaths[task.key] += 1
                            why = _death(each.process.exitcode)
                            logger.warning("note: a worker died (%s) at %s", why, task.stem)
                            if deaths[task.key] > RETRIES:
                                yield Outcome(task, error=f"its worker died: {why}")
                            else:
                                left.appendleft(task)
        finally:
            for each in running:
                each.end()


def _received(process: _Process) -> Outcome | None:
    """What a worker has sent; None where it died."""
    try:
        outcome: Outcome = process.connection.recv()
    except (EOFError, OSError):
        return None
    return outcome


def _next(left: deque[Task], models: Any) -> Task:
    """The first task of these models, or else the first."""
    for n, task in enumerate(left):
        if task.request.models == models:
            del left[n]
            return task
    return left.popleft()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"


def threads_for(workers: int) -> int:
    """The threads of each worker, so that all together have the cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
