"""Workers that are actors of a Ray cluster: of one that runs, or of one of our own, which lasts as long as the run."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .. import plugins
from ..errors import Refused
from ..interrupts import uninterrupted
from ..runs.files import hidden
from ..sampling.records import versions
from ..threads import threads_for
from .engine import Heard, Outcome, Outcomes, Start, Task, hand_out, logger, started

OBJECTS = 80 * 2**20  # bytes for the objects of a cluster of our own: an outcome has a few thousand
ANSWERS = 10  # seconds in which a cluster at an address has to
Files = Sequence[tuple[plugins.Kind, str]]


def facts(files: Files) -> dict[str, Any]:
    """What has to be the same on all machines: versions, and the hashes of files with code.

    Raises:
        Refused: such a file cannot be used.
    """
    hashes = {file: plugins.from_file(kind, file).sha256 for kind, file in files}
    return versions() | {"the processor": platform.machine()} | hashes


class _Actor:
    """A worker's process. What it has to note goes out with the next outcome."""

    def begin(self, start: Start, threads: int, gpus: float, files: Files, here: str, sign: Path) -> tuple[str, Any]:
        """Loads what it needs, where this machine can take part. Returns its name and its facts, or why it cannot."""
        with suppress(OSError):  # relative paths are those of the run
            os.chdir(here)
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        try:
            own = facts(files) | {"folder": sign.is_dir()}
        except Refused as error:
            return platform.node(), str(error)
        self.notes: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.notes.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        self.work = started(start, threads)
        return platform.node(), own

    def make(self, task: Task) -> tuple[Outcome, list[str]]:
        outcome, notes = self.work.make(task), self.notes[:]
        self.notes.clear()
        return outcome, notes


class _Member:
    """An actor, as the coordinator sees it."""

    def __init__(self, actor: Any, heard: SimpleQueue[Any], *arguments: Any):
        self.actor, self.heard = actor.remote(), heard
        self.ready = False
        self.task: Task | None = None
        self.models: Any = None
        self._expect(self.actor.begin.remote(*arguments))

    def _expect(self, answer: Any) -> None:
        answer.future().add_done_callback(lambda done: self.heard.put((self, done)))

    def hand(self, task: Task) -> None:
        self._expect(self.actor.make.remote(task))

    def end(self) -> None:
        import ray

        ray.kill(self.actor)


def _check_answers(address: str | None) -> None:
    """Refuses HOST:PORT where nothing listens, at once: ray itself tries for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon:  # `auto`, and what ray has to say something of
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise Refused("address", address, f"nothing answers there ({error}): give HOST:PORT of a cluster") from None


class OnRay:
    """Makes tasks on a Ray cluster, within a context.

    Args:
        workers: how many; None: as many as there are GPUs for, or one where there is none.
        address: of a cluster, HOST:PORT, or `auto` for one that this machine belongs to; None: what RAY_ADDRESS says,
            or a cluster of this machine alone, which ends with the context.
        gpus: of each worker, which may be a part of one; 0: none, whatever there is. None: one where there are some.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, gpus: float | None = None):
        self._wanted, self.address, self._gpus = workers, address or os.environ.get("RAY_ADDRESS"), gpus

    def __enter__(self) -> OnRay:
        """Connects.

        Raises:
            Refused: ray is missing, there is no such cluster, or it has other versions.
        """
        if self._gpus and self._gpus > 1 and self._gpus % 1:
            raise Refused("gpus", self._gpus, "give a whole number, or a part of one GPU")
        if self.address is not None and "://" in self.address:
            raise Refused("address", self.address, "give HOST:PORT, or auto on a machine of the cluster")
        _check_answers(self.address)
        # A cluster of our own tells nobody that it runs, and its workers wait for no other program.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        for name, value in own.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise Refused("engine", "ray", 'ray is missing: pip install "w2sd-video[ray]"') from None
        how: dict[str, Any] = {}
        if self.address is None:
            how = {"num_cpus": self._wanted or 1, "object_store_memory": OBJECTS, "_node_ip_address": "127.0.0.1"}
        try:
            with uninterrupted():  # ray sets a handler of SIGTERM
                quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "include_dashboard": False}
                ray.init(self.address or "local", **how, **quiet)
            self._machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        except Exception as error:  # ray has classes of many kinds, and raises bare ones, too
            ray.shutdown()
            why = str(error).strip().partition("\n")[0]
            raise Refused("engine" if self.address is None else "address", self.address or "ray", why) from None
        except BaseException as error:
            ray.shutdown()
            sys.exit(143) if isinstance(error, SystemExit) else None  # ray's own handler says otherwise
            raise
        there = sum(each.get("GPU", 0) for each in self._machines)
        self.gpus = min(1, there) if self._gpus is None else self._gpus
        self.workers = self._wanted or max(1, int(there // self.gpus) if self.gpus else 1)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def threads(self) -> int:
        if self.address is None:
            return threads_for(self.workers)
        most = int(max(each.get("CPU", 0) for each in self._machines))
        return next((n for n in range(most, 1, -1) if self._room(n) >= self.workers), 1)

    def _room(self, threads: int) -> int:
        """How many workers the machines have cores and GPUs for. The cores of a cluster of our own may be shared."""
        of_each = {"GPU": self.gpus, "CPU": 0 if self.address is None else threads}
        needed = [(name, count) for name, count in of_each.items() if count]
        if not needed:
            return self.workers
        return sum(int(min(each.get(name, 0) // count for name, count in needed)) for each in self._machines)

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        """Makes tasks.

        Raises:
            Refused: no machine has room for a worker, or one cannot take part: it does not see the run's folder, or
                has other versions.
            ChildProcessError: no worker starts.
        """
        import ray

        room = self._room(threads)
        if not room:
            accepted = f"no machine of the cluster has {threads} cores and {self.gpus:g} GPUs for a worker: give less"
            raise Refused("threads", threads, accepted)
        if room < self.workers:
            logger.warning("note: the cluster has room for %d workers, and not for %d", room, self.workers)
        cores = 0 if self.address is None else threads
        actor = ray.remote(num_cpus=cores, num_gpus=self.gpus, max_restarts=0)(_Actor)
        heard: SimpleQueue[Any] = SimpleQueue()
        files, noted = plugins.named(), set[str]()
        ours = facts(files) | {"folder": True}
        with hidden(folder) as sign:  # which whoever sees the folder sees
            arguments = (start, threads, self.gpus, files, os.getcwd(), sign.absolute())

            def listen(_: object) -> Heard:
                member, answer = heard.get()
                try:
                    first, second = answer.result()
                except ray.exceptions.RayError as error:
                    member.end()
                    yield member, _death(error)
                    return
                if isinstance(first, Outcome):
                    for note in [note for note in second if note not in noted]:
                        noted.add(note)
                        logger.warning("%s", note)
                    yield member, first
                else:
                    _compare(first, second, ours, folder)
                    yield member, None

            yield from hand_out(tasks, min(room, self.workers), partial(_Member, actor, heard, *arguments), listen)


def _compare(machine: str, theirs: Any, ours: dict[str, Any], folder: Path) -> None:
    """Refuses a machine that would make other videos, or elsewhere."""
    if isinstance(theirs, str):
        raise Refused("engine", "ray", f"on {machine}, {theirs}")
    if not theirs["folder"]:
        accepted = f"{machine} does not see it: give a folder that all machines of the cluster share"
        raise Refused("out", str(folder), accepted)
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise Refused("engine", "ray", f"{name} is {theirs.get(name)} on {machine}, and {value} here")


def _death(error: Exception) -> str:
    """Why a worker died, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
