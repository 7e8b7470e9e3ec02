"""Workers in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .. import plugins
from ..interrupts import insist, started_uninterrupted
from ..threads import threads_for
from .engine import Messages, Outcome, Outcomes, Start, Task, Worker, hand_out, started

PATIENCE = 10  # seconds to wait for a worker to end before it is killed


def _outlive(sentinel: int) -> None:
    """Ends this worker once its coordinator has died."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # as the coordinator would: incomplete files are removed
    time.sleep(PATIENCE)
    os._exit(1)


def _serve(connection: Connection, start: Start, threads: int, files: Sequence[tuple[plugins.Kind, str]]) -> None:
    """The body of a worker's process: receives tasks and sends outcomes until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator ends its workers
    sys.stdout = sys.stderr  # stdout is the coordinator's, whose output may be data
    with _ended_by_an_exception():
        if coordinator := multiprocessing.parent_process():  # no signal tells of its death
            threading.Thread(target=_outlive, args=(coordinator.sentinel,), daemon=True).start()
        for kind, file in files:
            plugins.from_file(kind, file)
        work = started(start, threads)
        with suppress(EOFError, OSError):
            connection.send(None)  # it is ready
            while True:
                connection.send(work.make(connection.recv()))


@contextmanager
def _ended_by_an_exception() -> Iterator[None]:
    """SIGTERM raises SystemExit in the body, so that incomplete files are removed, and is ignored afterwards."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    insist()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Process(Worker):
    """A worker in a process of its own."""

    def __init__(self, serve: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        with started_uninterrupted():
            self.process.start()
        theirs.close()

    def hand(self, task: Task) -> None:
        with suppress(OSError):  # the worker has died, which `_listen` reports
            self.connection.send(task)

    def message(self) -> Outcome | str | None:
        """The outcome that it sent, why it died, or None: it is ready."""
        with suppress(EOFError, OSError):
            if self.connection.poll():
                sent: Outcome | None = self.connection.recv()
                return sent
        self.process.join()
        return _death(self.process.exitcode)

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(PATIENCE)
        self.process.kill()  # a process inside a network's native code does not react to SIGTERM
        self.process.join()


class SideBySide:
    """Runs tasks in several processes."""

    def __init__(self, workers: int, serve: Callable[..., None] = _serve):
        self.workers, self.serve = workers, serve

    def threads(self) -> int:
        return threads_for(self.workers)

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        hire = partial(_Process, self.serve, start, threads, plugins.named())
        return hand_out(tasks, self.workers, hire, _listen)


def _listen(crew: Sequence[_Process]) -> Messages:
    ready = wait([end for each in crew for end in (each.connection, each.process.sentinel)])
    for each in list(crew):
        if each.connection in ready or each.process.sentinel in ready:
            yield each, each.message()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
