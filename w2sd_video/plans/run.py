"""Runs a plan in its folder: generates the cells that are missing, and records them."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from .. import runs
from ..errors import Refused, check_whole
from ..settings import Variant
from .arms import Cell
from .cells import Cells, CellTask
from .engine import Engine, Here, Outcome
from .names import check_names, link
from .plan import MOST_BYTES, Plan, check_plan
from .prepare import Line, prepared
from .processes import SideBySide
from .record import MOST_THREADS, NOTE, PROMPTS, RECORD, Folder, Keys, State, line_of
from .stored import note_of, prompts_of
from .tuning import check_tuning

MOST_WORKERS = 10_000

logger = logging.getLogger("w2sd_video")
Shard = tuple[int, int]  # which part, of how many
WHOLE: Shard = (1, 1)


@dataclass
class Progress:
    """The progress of a run.

    Args:
        cells: how many cells the plan, or this shard, has.
        made: how many of them are complete.
        kept: how many of them were complete before this run.
        failed: the record's lines of cells that failed.
        seconds: since the run began.
        first: the seconds until the first new cell, which include loading the models; None before it.
    """

    cells: int
    made: int
    kept: int
    failed: list[dict[str, Any]]
    seconds: float = 0.0
    first: float | None = None

    @property
    def left(self) -> float | None:
        """Estimated seconds until the end; None before the second new cell."""
        new = self.made - self.kept + len(self.failed) - 1  # after the first one
        if self.first is None or new < 1:
            return None
        return (self.seconds - self.first) / new * (self.cells - self.made - len(self.failed))


def run(
    plan: Plan,
    path: str | Path,
    workers: int = 1,
    threads: int | None = None,
    shard: Shard = WHOLE,
    command: Sequence[str] = (),
    engine: Engine | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Generates the cells of a plan that its folder lacks, and retries those that failed.

    Args:
        path: the run's folder; created if it does not exist.
        workers: how many processes run in parallel, each with its own models. 1: only this process.
        threads: per worker. None: as when the run was started; for a new run, the cores divided among the workers.
        shard: `(i, n)` for part i of n, from 1, see `mine`. Runs on n machines that share the folder take one each.
        command: the command line, for sidecars.
        engine: runs the tasks, such as `OnRay`. None: this machine, with `workers`.
        progress: called at the start and after each cell.

    Raises:
        Refused: the plan, the folder or an argument cannot be used.
        Failed: a video for the tuning of an arm could not be generated.
        OSError: weights are missing, or the disk is full; complete cells are kept.
    """
    check_plan(plan)
    folder = Folder(path)
    path = folder.path
    check_threads(threads)
    check_shard(shard)
    engine = engine or on_this_machine(workers)
    plan.check()
    check_tuning(plan)
    if plan.names == "vbench":
        check_names(plan)

    def make(of_tuning: Plan, where: Path) -> list[Line]:
        return run(of_tuning, where, workers, threads, command=command, engine=engine, progress=progress).failed

    part = "run.json" if shard == WHOLE else f"shard-{shard[0]}"
    with recording(folder) as record, runs.alone(path / part):
        # If shards start at the same time, the first one sets the threads and the refined prompts for all.
        with runs.locked(folder.path / RECORD) if shard != WHOLE else nullcontext():
            plan = prepared(plan, folder, make, shard == WHOLE)
            keys = _begin(folder, plan, threads or engine.threads(), threads is not None)
        cells = [(keys.of(cell), cell) for cell in mine(plan, shard)]
        state = folder.state(cells, plan.formats)
        record.writelines(json.dumps(line) + "\n" for line in state.adopted)
        tasks = list(_tasks(plan, folder, cells, state))
        by_key, complete = dict(cells), list(state.complete)
        done = Progress(len(cells), len(state.complete), len(state.complete), [])
        progress(done)
        for arm in dict.fromkeys(cell.arm.folder for _, cell in cells):
            runs.writable(folder.videos / arm)
        began = time.monotonic()
        with closing(engine.run(tasks, partial(Cells, command), keys.threads, path)) as outcomes:
            for outcome in outcomes:
                line = _line(folder, by_key[outcome.task.key], outcome)
                record.write(json.dumps(line) + "\n")
                record.flush()
                if "error" in line:
                    done.failed.append(line)
                else:
                    done.made += 1
                    complete.append(outcome.task.key)
                done.seconds = time.monotonic() - began
                done.first = done.seconds if done.first is None else done.first
                progress(done)
        if plan.names == "vbench":
            placed = [(by_key[key], *folder.place(by_key[key])) for key in complete]
            link(plan, path, [(cell, where / f"{stem}.mp4") for cell, where, stem in placed], shard == WHOLE)
    return done


def check_threads(threads: int | None) -> None:
    """Refuses a number of threads that is not a whole one from 1; None is the default."""
    if threads is not None:
        check_whole("threads", threads, 1, MOST_THREADS)


def check_shard(shard: object) -> None:
    """Refuses a shard that is not two whole numbers, the first from 1 to the second."""
    numbers = shard if isinstance(shard, (tuple, list)) and len(shard) == 2 else (0, 0)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers) or not 1 <= numbers[0] <= numbers[1]:
        raise Refused("shard", shard, "give (i, n), with i from 1 to n")


def on_this_machine(workers: int) -> Engine:
    check_whole("workers", workers, 1, MOST_WORKERS)
    return Here() if workers == 1 else SideBySide(workers)


def _line(folder: Folder, cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """The record's line of a task.

    Raises:
        OSError: the task failed for a reason that every cell shares, such as a full disk.
    """
    task = outcome.task
    if outcome.raised:
        raise outcome.raised
    if outcome.record is not None:
        memory = {} if outcome.memory is None else {"memory": outcome.memory}
        return line_of(task.key, cell, task.folder, outcome.record) | memory
    return {
        "cell": task.key,
        "arm": cell.arm.name,
        "prompt": cell.prompt.id,
        "seed": cell.seed,
        "error": outcome.error,
    }


@contextmanager
def recording(folder: Folder) -> Iterator[Any]:
    """Opens a new file in the record for this process to append lines to; removes it if it stays empty, and folders
    that were not there before."""
    name = f"{time.time_ns():x}-{socket.gethostname()}-{os.getpid()}.jsonl"
    path = folder.path / RECORD / name
    with runs.gone_if_empty(path.parent):
        runs.writable(folder.path)
        runs.writable(path.parent)
        try:
            with open(path, "x", encoding="utf-8") as file:
                yield file
        finally:
            with suppress(FileNotFoundError):
                if not path.stat().st_size:
                    path.unlink()


def _begin(folder: Folder, plan: Plan, threads: int, chosen: bool) -> Keys:
    """Writes the plan and its note into the run's folder.

    Args:
        threads: per cell, if the run is new.
        chosen: whether the caller set `threads`; if so, it also replaces the number of a run that was started before.
    """
    begun = folder.threads()
    if chosen and begun not in (None, threads):
        logger.warning("note: the run was begun with %d threads; with %d, it makes all its cells again", begun, threads)
    keys = Keys(threads if chosen else begun or threads)
    text = yaml.safe_dump(asdict(plan), sort_keys=False, allow_unicode=True)
    if len(text.encode()) > MOST_BYTES:
        raise Refused("prompts", f"{len(plan.suite.prompts)} texts", "the plan is too large with them: give a file")
    names = {"plan": "plan.yaml", "run": NOTE}
    if (of_prompts := prompts_of(plan)) is not None:
        names = {"prompts": PROMPTS, **names}
    with runs.whole({each: folder.path / name for each, name in names.items()}) as staged:
        staged["plan"].write_text(text, encoding="utf-8")
        if of_prompts is not None:
            staged["prompts"].write_text(of_prompts, encoding="utf-8")
        note = {"format": 1, "threads": keys.threads, **note_of(plan, staged["plan"], staged.get("prompts"), keys)}
        staged["run"].write_text(json.dumps(note) + "\n", encoding="utf-8")
    return keys


def mine(plan: Plan, shard: Shard) -> Iterator[Cell]:
    """The cells of a shard.

    Each arm is spread evenly over all shards. So shards take equally long, and a difference between machines does not
    appear as one between arms.
    """
    arms = len(plan.arms)
    for cell in plan.cells():
        if (cell.number % arms + cell.number // arms) % shard[1] == shard[0] - 1:
            yield cell


def _tasks(plan: Plan, folder: Folder, cells: Sequence[tuple[str, Cell]], state: State) -> Iterator[CellTask]:
    """The tasks of cells that are not complete, grouped by models, else in the plan's order."""
    missing = [(key, cell) for key, cell in cells if key not in state.complete]
    by_models: dict[str, list[tuple[str, Cell]]] = {}
    for key, cell in missing:
        by_models.setdefault(cell.arm.template.loading, []).append((key, cell))
    for models, of_models in by_models.items():
        variant = _variant({cell.arm.template.variant for _, cell in of_models}, of_models[0][1].arm.template.offload)
        for key, cell in of_models:
            where, stem = folder.place(cell)
            own = cell.arm.template.variant
            yield CellTask(key, cell.request(), where, stem, tuple(plan.formats), models, variant or own)


def _variant(wanted: set[Variant], offload: str) -> Variant | None:
    """One variant whose pipelines can generate all the wanted variants; None if each task loads its own."""
    if len(wanted) == 1 or (offload != "none" and "weak" in wanted):
        return None
    return "w2sd" if wanted == {"plain", "w2sd"} else "compare"


__all__ = ["WHOLE", "Progress", "Shard", "mine", "run"]
