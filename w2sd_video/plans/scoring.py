"""Scores the videos of a run, with parallel workers too, and stores the scores in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..devices import usable_device
from ..errors import Refused
from ..eval import official as vbench_package
from ..eval.decoder import Decoder
from ..eval.dimensions import OFFICIAL, chosen, expand
from ..eval.evaluate import Scores, to_do
from ..eval.passes import score_here
from ..eval.scorer import Scorer
from ..eval.store import Store
from ..eval.videos import Video
from ..runs import writable
from ..threads import torch_threads
from .by_dimension import asked_by, by_dimension
from .engine import Engine, Here, Outcome
from .plan import Plan, check_plan
from .record import Folder
from .run import check_threads, on_this_machine
from .scored import videos


@dataclass(frozen=True)
class VideoTask:
    """A video to score on dimensions, by name."""

    key: str
    video: Video
    dimensions: tuple[str, ...]
    models: None = None

    @property
    def stem(self) -> str:
        return self.video.path.stem


class Scoring:
    """Scores videos one after another, and keeps the networks of the dimensions loaded."""

    def __init__(self, dimensions: Sequence[str], weights: Path | None, device: str):
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self.scorer = Scorer(chosen(dimensions), weights, usable_device(device, auto=("cuda",)))
        self.decoder = Decoder()

    def make(self, task: VideoTask) -> Outcome:
        store = Store(None)
        wanted = [dimension for dimension in self.scorer.ready if dimension.name in task.dimensions]
        try:
            score_here(self.scorer, store, {task.video: wanted}, self.decoder, lambda done, total, video: None)
        except Exception as error:  # `evaluate` scores the video again, and reports the error
            return Outcome(task, error=f"{type(error).__name__}: {error}")
        return Outcome(task, store.rows)


def score(
    plan: Plan,
    path: str | Path,
    dimensions: str | Sequence[str] | None = None,
    workers: int = 1,
    threads: int | None = None,
    engine: Engine | None = None,
    weights: Path | None = None,
    device: str = "auto",
    official: str | None = None,
    progress: Callable[[int, int, Video], None] = lambda done, total, video: None,
    say: Callable[[str], None] = lambda note: None,
) -> Scores:
    """Scores the videos of a run. Its folder keeps the scores, and what it has already is not computed again.

    Args:
        path: the run's folder.
        dimensions: as for `evaluate`, by name. None: the plan's.
        workers: how many processes score in parallel, each with its own networks. 1: only this process.
        threads: per worker. None: those of the run; they decide the last digits of scores, too.
        engine: runs the workers, such as `OnRay`; its own errors are raised too. None: this machine, with `workers`.
        weights: a folder with the weights of the dimensions' networks. Default: the caches.
        device: auto, cpu, cuda, cuda:N.
        official: a Python that has VBench's package. None: dimensions that only it computes are skipped.
        progress: called as progress(done, total, video).
        say: called before scoring with each note that is known by then.

    Raises:
        Refused: nothing of the plan is generated yet, or an argument cannot be used.
        FileNotFoundError: the weights of every dimension are missing; or `official` does not have VBench's package.
    """
    check_plan(plan)
    folder = Folder(path)
    path = folder.path
    if dimensions is None and not plan.dimensions:
        raise Refused("dimensions", None, "the plan names none: give some of `w2sd-video dimensions`")
    names = expand(plan.dimensions if dimensions is None else dimensions)
    check_threads(threads)
    engine = engine or on_this_machine(workers)
    own = [name for name in names if name not in OFFICIAL]
    if official and len(own) < len(names):
        vbench_package.dimensions([name for name in names if name not in own], official)
    found = videos(plan, path)
    rows_file = path / "scores" / "scores.jsonl"
    writable(rows_file.parent)
    threads = threads or folder.threads() or engine.threads()
    if not isinstance(engine, Here):
        _by_workers(plan, path, found, own, rows_file, engine, threads, weights, device, progress)
    images = not plan.arms[0].template.video
    how = {"rows_file": rows_file, "weights": weights, "device": device, "images": images}
    with torch_threads(threads):
        return by_dimension(plan, found, names, official, progress=progress, say=say, **how)


def _by_workers(
    plan: Plan,
    path: Path,
    found: Sequence[Video],
    dimensions: Sequence[str],
    rows_file: Path,
    engine: Engine,
    threads: int,
    weights: Path | None,
    device: str,
    progress: Callable[[int, int, Video], None],
) -> None:
    """Computes the scores that are missing and that can be stored. `evaluate` then reads them and computes the rest."""
    if not dimensions:
        return
    scorer = Scorer(chosen(dimensions), weights, usable_device(device, auto=("cuda",)))
    store = Store(rows_file)
    tasks: list[VideoTask] = []
    known: set[str] = set()
    for video, missing in to_do(scorer, store, list(found), [], asked_by(plan, dimensions))[0].items():
        new = {scorer.key(each, video): each.name for each in missing if each.stored}
        if new := {key: name for key, name in new.items() if key not in known}:
            known |= new.keys()
            tasks.append(VideoTask(str(video.path), video, tuple(new.values())))
    if not tasks:
        return
    ready = [each.plugin or each.name for each in scorer.ready]  # a file's have to be read by each worker, too
    start = partial(Scoring, ready, weights, device)
    progress(0, len(tasks), tasks[0].video)
    with closing(engine.run(tasks, start, threads, path)) as outcomes:
        for number, outcome in enumerate(outcomes, 1):
            store.keep((outcome.record or {}).values())
            progress(number, len(tasks), outcome.task.video)


__all__ = ["score"]
