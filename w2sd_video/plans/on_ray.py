"""Workers on a Ray cluster: a running one, or a local one that is started for the run and stopped after it."""

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
from .engine import Messages, Outcome, Outcomes, Start, Task, Worker, hand_out, logger, started

OBJECTS = 80 * 2**20  # bytes for the object store of a local cluster: an outcome has a few thousand
ANSWERS = 10  # seconds to wait for a cluster to accept a connection
Files = Sequence[tuple[plugins.Kind, str]]


def facts(files: Files) -> dict[str, Any]:
    """What has to be equal on all machines: package versions, the processor, and the hashes of plug-in files.

    Raises:
        Refused: a plug-in file cannot be used.
    """
    hashes = {file: plugins.from_file(kind, file).sha256 for kind, file in files}
    return versions() | {"the processor": platform.machine()} | hashes


class _Actor:
    """The worker's side of an actor. Its warnings are sent with its next outcome."""

    def begin(self, start: Start, threads: int, gpus: float, files: Files, here: str, sign: Path) -> tuple[str, Any]:
        """Starts the work. Returns the machine's name, and its `facts` or the reason why it cannot take part."""
        with suppress(OSError):  # relative paths are relative to the run's working directory
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


class _Member(Worker):
    """The coordinator's handle of an actor."""

    def __init__(self, actor: Any, answers: SimpleQueue[Any], *arguments: Any):
        self.actor, self.answers = actor.remote(), answers
        self._expect(self.actor.begin.remote(*arguments))

    def _expect(self, answer: Any) -> None:
        answer.future().add_done_callback(lambda done: self.answers.put((self, done)))

    def hand(self, task: Task) -> None:
        self._expect(self.actor.make.remote(task))

    def end(self) -> None:
        import ray

        ray.kill(self.actor)


def _check_answers(address: str | None) -> None:
    """Refuses at once an address HOST:PORT on which nothing listens: ray itself retries for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if not colon:  # `auto`, or a value that ray refuses itself
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise Refused("address", address, f"nothing answers there ({error}): give HOST:PORT of a cluster") from None


class OnRay:
    """Runs tasks on a Ray cluster. Use it as a context manager.

    Args:
        workers: how many. None: as many as the cluster's GPUs allow, or one without GPUs.
        address: HOST:PORT of a cluster, or `auto` for the one that this machine belongs to. None: the address in
            RAY_ADDRESS, or else a local cluster, which stops with the context.
        gpus: GPUs per worker; a fraction shares one. 0: use none. None: one if the cluster has any.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, gpus: float | None = None):
        self._wanted, self.address, self._gpus = workers, address or os.environ.get("RAY_ADDRESS"), gpus

    def __enter__(self) -> OnRay:
        """Connects to the cluster.

        Raises:
            Refused: ray is missing, the cluster does not answer, or ray refuses it, such as for another version.
        """
        if self._gpus and self._gpus > 1 and self._gpus % 1:
            raise Refused("gpus", self._gpus, "give a whole number, or a fraction under 1")
        if self.address is not None and "://" in self.address:
            raise Refused("address", self.address, "give HOST:PORT, or auto on a machine of the cluster")
        _check_answers(self.address)
        # A local cluster sends no usage statistics, and its workers run at normal priority.
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
            with uninterrupted():  # ray installs a handler for SIGTERM
                quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "include_dashboard": False}
                ray.init(self.address or "local", **how, **quiet)
            self._machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        except Exception as error:  # ray raises many classes, bare Exception too
            ray.shutdown()
            why = str(error).strip().partition("\n")[0]
            raise Refused("engine" if self.address is None else "address", self.address or "ray", why) from None
        except BaseException as error:
            ray.shutdown()
            if isinstance(error, SystemExit):  # ray's handler of SIGTERM exits with another code
                sys.exit(143)
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
        """How many workers fit the machines' cores and GPUs. Workers of a local cluster may share cores."""
        of_each = {"GPU": self.gpus, "CPU": 0 if self.address is None else threads}
        needed = [(name, count) for name, count in of_each.items() if count]
        if not needed:
            return self.workers
        return sum(int(min(each.get(name, 0) // count for name, count in needed)) for each in self._machines)

    def _lacking(self, threads: int) -> Refused:
        """The error where no worker fits: it names what no machine has enough of."""
        gpus, cores = (max(each.get(name, 0) for each in self._machines) for name in ("GPU", "CPU"))
        if self.gpus > gpus:
            return Refused("gpus", self.gpus, f"a machine of the cluster has at most {_count(gpus, 'GPU')}: give less")
        beside = "" if threads > cores else f" beside {_count(self.gpus, 'GPU')}"
        return Refused("threads", threads, f"no machine has {_count(threads, 'core')}{beside} for a worker: give less")

    def run(self, tasks: Sequence[Task], start: Start, threads: int, folder: Path) -> Outcomes:
        """Runs tasks.

        Raises:
            Refused: no machine has room for a worker, or one cannot take part because it does not see the run's folder
                or differs in its `facts`.
            ChildProcessError: no worker starts.
        """
        import ray

        room = self._room(threads)
        if not room:
            raise self._lacking(threads)
        if room < self.workers:
            logger.warning("note: the cluster has room for %d workers, and not for %d", room, self.workers)
        cores = 0 if self.address is None else threads
        actor = ray.remote(num_cpus=cores, num_gpus=self.gpus, max_restarts=0)(_Actor)
        answers: SimpleQueue[Any] = SimpleQueue()
        files, noted = plugins.named(), set[str]()
        ours = facts(files) | {"folder": True}
        with hidden(folder) as sign:  # a machine that does not see it does not share the folder
            arguments = (start, threads, self.gpus, files, os.getcwd(), sign.absolute())

            def listen(_: object) -> Messages:
                member, answer = answers.get()
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

            yield from hand_out(tasks, min(room, self.workers), partial(_Member, actor, answers, *arguments), listen)


def _count(number: float, of: str) -> str:
    return f"{number:g} {of}{'s' * (number != 1)}"


def _compare(machine: str, theirs: Any, ours: dict[str, Any], folder: Path) -> None:
    """Refuses a machine that would generate different videos, or write them elsewhere."""
    if isinstance(theirs, str):
        raise Refused("engine", "ray", f"on {machine}, {theirs}")
    if not theirs["folder"]:
        accepted = f"{machine} does not see it: give a folder that all machines of the cluster share"
        raise Refused("out", str(folder), accepted)
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise Refused("engine", "ray", f"{name} is {theirs.get(name)} on {machine}, and {value} here")


def _death(error: Exception) -> str:
    """Why a worker died, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
