"""Scores videos: each is decoded once for all dimensions, and every score is stored as soon as it is computed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2sd_video.devices import usable_device
from w2sd_video.errors import Refused, did_you_mean
from w2sd_video.runs import gone_if_empty, writable

from . import notes
from . import official as vbench_package
from .decoder import Decoder
from .dimensions import GROUPS, SIX, AllSkipped, Chosen, Compared, Dimension, Skipped, chosen, known
from .frames import FACTS, MORE_FACTS
from .inputs import gather, listed
from .passes import Problems, score_here, score_officially, why
from .references import References, compare, references_of
from .scorer import Scorer
from .store import Store, unpacked
from .videos import Video, lacking


@dataclass
class Scores:
    """The result of `evaluate`.

    Attributes:
        dimensions: the dimensions that were computed.
        videos: the videos, also those that could not be scored.
        of: `of[video][column]` is a score, or None if the column does not apply to the video.
        of_groups: `of_groups[group][column]` is the score of a group as a whole, such as FID, and its number of
            pictures.
        facts: by video, its frames, fps, height and width, its decoder, and its peculiarities.
        problems: what could not be scored: (video, dimension, reason); the dimension is empty if it concerns all.
        unasked: (prompt, column) where the column was not to be scored, so that a missing score is no failure.
        skipped: the dimensions that could not be computed, with the reasons.
        notes: cautions about the scores, as sentences.
        weights: by dimension, the hashes of its networks' weights.
        stated: by group and dimension, the mean that VBench's results file states; empty if videos were scored here.
        device: the device that computed the scores.
        seconds: the time it took.
    """

    dimensions: list[Dimension]
    videos: list[Video]
    of: dict[Video, dict[str, float | None]] = field(default_factory=dict)
    of_groups: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    facts: dict[Video, dict[str, Any]] = field(default_factory=dict)
    problems: list[tuple[Video, str, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, dict[str, str]] = field(default_factory=dict)
    unasked: set[tuple[str, str]] = field(default_factory=set)
    stated: dict[str, dict[str, float]] = field(default_factory=dict)
    device: str = "cpu"
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every video has the scores that were asked for: nothing failed, and no dimension was skipped."""
        return not self.problems and not self.skipped


def evaluate(
    videos: Any,
    dimensions: Chosen | Iterable[Chosen] = SIX,
    rows_file: str | Path | None = None,
    prompts: Mapping[str, str] | Sequence[str] | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    official: str | Path | None = None,
    images: bool = False,
    references: str | Path | Iterable[str | Path] = (),
    asked: Mapping[str, Collection[str]] | None = None,
    progress: Callable[[int, int, Video], None] = lambda done, total, video: None,
    say: Callable[[str], None] = lambda note: None,
) -> Scores:
    """Scores videos on dimensions.

    Args:
        videos: files, folders or globs, each of which is a group; or videos as `find` returns them; or videos in
            memory, which are one group: arrays or tensors (F, H, W, 3) or (F, 3, H, W), also with an axis of videos in
            front, uint8 or float in [0, 1]; or lists of PIL images. So `pipe(...).frames` is accepted for every output
            type but latents. A dictionary of videos in memory has groups by name. `memory.in_memory` gives a video in
            memory its own name, group and frame rate.
        dimensions: names of dimensions, or `six` or `vbench`; or your own dimensions, each a `Dimension` class or
            instance, or a function of the frames, (F, H, W, 3) uint8, and of the `prompt` if it has a parameter of that
            name. `ByFunction` names the columns of a function.
        rows_file: a JSON Lines file to which scores are appended as they are computed. Scores that it already holds are
            not computed again. They are identified by the video's bytes (in memory, its frames and frame rate), by the
            dimension, its version and weights, and by the prompt if the dimension uses it. Scores of your own
            dimensions are stored if the dimension has a `version`.
        prompts: prompts by file name; or, if all videos are in memory, a list with one for each video.
        weights: a folder with the networks' weights. Default: the caches of the hub, VBench, torch and OpenAI.
        device: auto, cpu, cuda, cuda:N.
        images: score each picture in folders, arrays and lists by itself, and not as a frame of a video.
        references: pictures to compare with, as files, folders or globs; or one .npz file of their FID statistics.
        asked: by the name of a dimension, the prompts on whose videos alone it is scored, as `vbench.asked_of` returns
            them; a dimension that is not in it is scored on all. It may have names of other dimensions.
        official: the Python executable of an environment with VBench's own package, which then computes the scores, on
            any of its 16 dimensions.
        progress: called as progress(done, total, video) before each video, and once after the last.
        say: called before scoring with each note that is known by then; `Scores.notes` has all notes.

    Raises:
        Refused: an argument is not accepted.
        FileNotFoundError: the weights of every dimension are missing; the message says how to get them.
    """
    began = time.perf_counter()
    _check(images, rows_file=rows_file, weights=weights, official=official)
    pictures = [str(path) for path in listed("references", references)]
    inputs = gather(videos, prompts, images, official)
    asked = _asked(asked, named := chosen(dimensions, official=official is not None))
    names, unasked = _of_videos(named, inputs.videos, asked)
    wanted = vbench_package.dimensions([d.name for d in names], str(official)) if official else names
    scorer = Scorer(wanted, Path(weights) if weights else None, usable_device(device, auto=("cuda",)), unasked)
    against = references_of(scorer, wanted, pictures)
    store = Store(Path(rows_file) if rows_file else None, {d.name for d in wanted if not d.stored})
    todo, problems = to_do(scorer, store, inputs.videos, against.pictures, asked)
    by_path = sorted(inputs.videos, key=_place)  # notes and sums do not depend on the order of the arguments
    with contextlib.ExitStack() as stack:
        if rows_file and any(todo.values()):  # what is scored already is read of another's run, too
            stack.enter_context(gone_if_empty(Path(rows_file).parent))
            writable(Path(rows_file).parent, "rows_file")
        said = list(notes.of_files(by_path, scorer.ready, inputs.arguments, inputs.prompts, images))
        for note in said:
            say(note)
        process = stack.enter_context(contextlib.closing(Decoder()))
        if official:
            problems += score_officially(str(official), scorer, store, todo, process, progress)
        else:
            problems += score_here(scorer, store, todo, process, progress)
    absent = lacking(inputs.arguments, inputs.prompts, images)
    problems += [(video, "", "it is not there, though its sidecar says that it was made") for video in absent]
    every = [*inputs.videos, *absent]
    scores = Scores(scorer.ready, every, problems=problems, skipped=scorer.skipped, weights=scorer.hashes)
    scores.device = str(scorer.device)
    _collect(scores, scorer, store, sorted(todo, key=_place), against, asked)
    problems.sort(key=lambda problem: (str(problem[0].path), problem[0].group, *problem[1:]))
    scores.notes = [*said, *notes.of_scores(scores, images, asked), *notes.of_prompts(scores, asked)]
    scores.seconds = time.perf_counter() - began
    return scores


def _check(images: object, **paths: object) -> None:
    """Refuses `images` that is not True or False, what is no path, and a folder of weights that is none."""
    if not isinstance(images, bool):
        raise Refused("images", images, "give True or False")
    for argument, path in paths.items():
        if path is not None and (not isinstance(path, (str, Path)) or not str(path)):
            raise Refused(argument, path, "give a path")
        if argument == "weights" and path is not None and not Path(str(path)).is_dir():
            raise Refused(argument, str(path), "give a folder")


def _place(video: Video) -> tuple[str, str]:
    return str(video.path), video.group


def _asked(asked: Any, dimensions: list[Dimension]) -> dict[str, frozenset[str]]:
    """`asked` of `evaluate`.

    Raises:
        Refused: it has other values than prompts, or a name of no dimension.
    """
    if not isinstance(asked, (Mapping, type(None))):
        raise Refused("asked", asked, "give a dictionary: by the name of a dimension, its prompts in a list")
    prompts: dict[str, frozenset[str]] = {}
    names = dict.fromkeys([*(dimension.name for dimension in dimensions), *known()])
    names = {name: None for name in names if name not in GROUPS}
    for name, texts in (asked or {}).items():
        if name not in names:
            raise Refused("asked", name, did_you_mean(str(name), names))
        if isinstance(texts, str) or not isinstance(texts, Collection) or not all(isinstance(t, str) for t in texts):
            raise Refused(f"asked.{name}", texts, "give the prompts in a list")
        prompts[name] = frozenset(texts)
    return prompts


def _of_videos(
    dimensions: list[Dimension], videos: list[Video], asked: Mapping[str, Collection[str]]
) -> tuple[list[Dimension], list[Skipped]]:
    """The dimensions that are asked of at least one of the videos, and the others with the reason.

    Raises:
        AllSkipped: there are others alone.
    """
    skipped = [
        Skipped(d.name, f"no video is of one of the {len(asked[d.name])} prompts that it is asked of")
        for d in dimensions
        if not any(is_asked(d, video, asked) for video in videos)
    ]
    left_out = {each.name for each in skipped}
    if len(left_out) == len(dimensions):
        raise AllSkipped(skipped)
    return [d for d in dimensions if d.name not in left_out], skipped


def is_asked(dimension: Dimension, video: Video, asked: Mapping[str, Collection[str]]) -> bool:
    """Whether a dimension is scored on a video; see `asked` of `evaluate`."""
    return dimension.name not in asked or video.prompt in asked[dimension.name]


def to_do(
    scorer: Scorer,
    store: Store,
    videos: list[Video],
    pictures: list[Video],
    asked: Mapping[str, Collection[str]],
) -> tuple[dict[Video, list[Dimension]], Problems]:
    """The dimensions of each video that have no stored score; and the videos that cannot be read.

    Args:
        pictures: the reference pictures, of which only dimensions that compare with them need features.
        asked: see `evaluate`.
    """
    todo: dict[Video, list[Dimension]] = {}
    problems: Problems = []
    scored, compared = set(videos), set(pictures)
    for video in [*pictures, *videos]:
        needed = [
            d
            for d in scorer.ready
            if (video in scored and is_asked(d, video, asked))
            or (video in compared and isinstance(d, Compared) and d.referenced)
        ]
        try:
            todo[video] = [dimension for dimension in needed if scorer.key(dimension, video) not in store]
        except OSError as error:
            problems.append((video, "", why(error)))
    return todo, problems


def _collect(
    scores: Scores,
    scorer: Scorer,
    store: Store,
    videos: list[Video],
    references: References,
    asked: Mapping[str, Collection[str]],
) -> None:
    """Adds the stored scores of videos to `scores`, what is not asked of them, and the scores of comparisons."""
    scored = set(scores.videos)
    for dimension in scorer.ready:
        others = (video for video in scores.videos if video.prompt and not is_asked(dimension, video, asked))
        scores.unasked |= {(str(video.prompt), column) for video in others for column in dimension.columns}
        kept = {v: row for v in videos if (row := store.rows.get(scorer.key(dimension, v)))}
        own = [video for video in kept if video in scored and is_asked(dimension, video, asked)]
        for video in own:
            scores.of.setdefault(video, {}).update(kept[video]["scores"])
            scores.facts[video] = {name: kept[video][name] for name in (*FACTS, *MORE_FACTS) if name in kept[video]}
        if isinstance(dimension, Compared):
            features = {video: unpacked(row["features"]) for video, row in kept.items()}
            compare(dimension, features, own, references, scores)
