"""Scores videos: each is decoded once for all dimensions, and every score is kept as soon as it is made."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.errors import Refused, shown
from w2sd_video.runs import naming, rows, usable_device, writable

from . import memory, notes
from . import official as vbench_package
from .decode import Decoder, first_line
from .dimensions import COMPARED, SIX, Chosen, Compared, Dimension, Skipped, chosen
from .videos import FACTS, MORE_FACTS, Reader, Video, find, lacking
from .weights import hashes

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    # Of a video by a dimension: scores by column, None where it says nothing of it; or features, (frames, channels).
    Made = dict[str, float | None] | NDArray[np.float32]

ACCEPTED = "give files, folders, globs, or videos in memory: arrays, tensors, lists of PIL images"
LARGE = 2**20  # pixels of a frame, above which memory counts


@dataclass
class Scores:
    """What came of scoring: `of[video][column]` is a score, or None where the column says nothing of the video.

    `of_groups[group][column]` are the scores that only a group as a whole has, and of how many pictures. `facts` are
    a video's frames, fps, height and width, its decoder, and what is peculiar about it; `problems` say what could not
    be scored and why, and `notes` what one must know of the rest.
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
    device: str = "cpu"
    seconds: float = 0.0


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
    progress: Callable[[int, int, Video], None] = lambda done, total, video: None,
    say: Callable[[str], None] = lambda note: None,
) -> Scores:
    """Scores videos on dimensions.

    Args:
        videos: files, folders or globs, each a group; or videos as `find` returns them. Videos in memory too: arrays
            or tensors (F, H, W, 3) or (F, 3, H, W), or with an axis of videos before these, uint8 or float in [0, 1];
            or lists of PIL images; so `pipe(...).frames` of any output type but latents. They are one group;
            `memory.in_memory` makes one with a name, a group and a frame rate of its own.
        dimensions: names of dimensions, or `six`, `vbench`; and dimensions of one's own, each an instance or a class
            of `Dimension`, or a function of the frames, (F, H, W, 3) uint8, and, where it has a parameter of that name,
            the `prompt`; `ByFunction` gives one columns.
        rows_file: a JSON Lines file that scores are appended to as they are made. Those that it holds are not made
            again: they are known by the video's bytes, in memory its frames and frame rate, the dimension, its version
            and weights, and, where it counts, the prompt. A dimension of one's own is stored where it says its
            `version`.
        prompts: prompts by file name; or a list, one for each of the videos, all of which are in memory then.
        weights: a folder with the networks' weights; default: the hub's, VBench's, torch's and OpenAI's caches.
        device: auto, cpu, cuda, cuda:N.
        images: whether the pictures in folders, arrays and lists are scored one by one, and not as a video's frames.
        references: pictures to compare with, as files, folders or globs; or one .npz file of their FID statistics.
        official: a Python that has VBench's own package, which then computes the scores, of any of its 16 dimensions.
        progress: called before each video, and once after the last, with how many are done, of how many, and which.
        say: called before scoring with each note that is known by then; `Scores.notes` has all.

    Raises:
        Refused: an argument cannot be used.
        FileNotFoundError: the weights of every dimension are missing; says how to get them.
    """
    began = time.perf_counter()
    entries, held = _held(videos, images)
    asked_for = _listed("videos", entries, Video) if entries else []
    if held and official:
        raise Refused("official", str(official), "VBench's package reads files, and videos are in memory: give None")
    compared_to = [str(path) for path in _listed("references", references)]
    for argument, path in (("rows_file", rows_file), ("weights", weights), ("official", official)):
        if path is not None and not isinstance(path, (str, Path)):
            raise Refused(argument, path, "give a path")
    if weights and not Path(weights).is_dir():
        raise Refused("weights", str(weights), "give a folder")
    if rows_file:
        writable(Path(rows_file).parent)
    given = [replace(video) for video in asked_for if isinstance(video, Video)]  # to be hashed as they are now
    arguments = [v for v in asked_for if not isinstance(v, Video)]
    by_name, held = _prompted(held, prompts, files=bool(asked_for))
    found = given + held + (find(arguments, by_name, images) if arguments or not held else [])
    if not found:
        raise Refused("videos", "", "give files, folders or globs of videos, or videos in memory")
    listed = chosen(dimensions, official=official is not None)
    wanted = vbench_package.dimensions([d.name for d in listed], str(official)) if official else listed
    scorer = Scorer(wanted, Path(weights) if weights else None, usable_device(device, auto=("cuda",)))
    statistics, compared_with = _references(scorer, wanted, compared_to)
    store = Store(Path(rows_file) if rows_file else None, {d.name for d in wanted if not d.stored})
    problems: list[tuple[Video, str, str]] = []
    todo: dict[Video, list[Dimension]] = {}
    mine = set(found)
    for video in [*compared_with, *found]:
        asked = [d for d in scorer.ready if video in mine or (isinstance(d, Compared) and d.referenced)]
        try:
            todo[video] = [dimension for dimension in asked if scorer.key(dimension, video) not in store]
        except OSError as error:
            problems.append((video, "", _why(error)))

    # What is said and summed up from here on does not depend on the order in which videos are given.
    ordered = sorted(todo, key=lambda video: (str(video.path), video.group))
    by_path = sorted(found, key=lambda video: (str(video.path), video.group))
    said = list(notes.of_files(by_path, scorer.ready, arguments, by_name, images))
    for note in said:
        say(note)
    with contextlib.closing(Decoder()) as process:
        if official:
            problems += _officially(str(official), scorer, store, todo, process)
        else:
            problems += _score(scorer, store, todo, process, progress)

    absent = lacking(arguments, by_name, images)
    problems += [(video, "", "it is not there, though its sidecar says that it was made") for video in absent]
    scores = Scores(scorer.ready, [*found, *absent], problems=problems, skipped=scorer.skipped, weights=scorer.hashes)
    scores.device = str(scorer.device)
    for dimension in scorer.ready:
        kept = {v: row for v in ordered if (row := store.rows.get(scorer.key(dimension, v)))}
        for video in (video for video in kept if video in mine):
            scores.of.setdefault(video, {}).update(kept[video]["scores"])
            scores.facts[video] = {name: kept[video][name] for name in (*FACTS, *MORE_FACTS) if name in kept[video]}
        if isinstance(dimension, Compared):
            features = {video: unpacked(row["features"]) for video, row in kept.items()}
            against = statistics.get(dimension.name)
            if against is None:
                theirs = [features[v] for v in compared_with if v in features]
                try:
                    if dimension.referenced and not theirs:
                        raise ValueError("none of the references can be read")
                    against = dimension.gathered(np.concatenate(theirs)) if theirs else None
                except ValueError as error:
                    problems.append((compared_with[0], dimension.name, str(error)))
                    continue
            _compare(dimension, {v: f for v, f in features.items() if v in mine}, against, scores)
    problems.sort(key=lambda problem: (str(problem[0].path), problem[0].group, *problem[1:]))
    scores.notes = [*said, *notes.of_scores(scores, images)]
    scores.seconds = time.perf_counter() - began
    return scores


def _held(videos: Any, images: bool) -> tuple[list[Any], list[Video]]:
    """What of `videos` is not in memory, and what is, as videos.

    Raises:
        Refused: a video in memory cannot be used; names it.
    """
    alone = isinstance(videos, (str, Path, Video)) or memory.is_in_memory(videos)
    if not alone and (isinstance(videos, Mapping) or not isinstance(videos, Iterable)):
        raise Refused("videos", videos, ACCEPTED)
    entries: list[Any] = []
    held: list[Video] = []
    for index, entry in enumerate([videos] if alone else videos):
        if not memory.is_in_memory(entry):
            entries.append(entry)
            continue
        for argument, frames in memory.split(entry, images, "videos" if alone else f"videos[{index}]"):
            held.append(memory.in_memory(frames, name=f"video {len(held)}", argument=argument))
    return entries, held


def _prompted(
    held: list[Video], prompts: Mapping[str, str] | Sequence[str] | None, files: bool
) -> tuple[Mapping[str, str] | None, list[Video]]:
    """Prompts by file name, and the videos in memory with theirs.

    Args:
        files: whether there are others, which are not in memory.

    Raises:
        Refused: they are not one for each of the videos in memory.
    """
    if prompts is None or isinstance(prompts, Mapping):
        if prompts and held and not files:
            raise Refused("prompts", prompts, f"videos in memory have no file name: give a list of {len(held)} texts")
        return prompts, held
    texts = list(prompts) if isinstance(prompts, Sequence) and not isinstance(prompts, (str, bytes)) else None
    if texts is None or files or not held:
        raise Refused("prompts", prompts, "give texts by file name; or a list of texts where all videos are in memory")
    if len(texts) != len(held) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise Refused("prompts", texts, f"give a list of {len(held)} texts, one for each video in memory, none empty")
    return None, [replace(video, prompt=text) for video, text in zip(held, texts, strict=True)]


def _listed(argument: str, given: Any, *kinds: type) -> list[Any]:
    """Paths as a list, in which a single one stands for itself.

    Raises:
        Refused: something else is given.
    """
    if isinstance(given, (str, Path, *kinds)):
        return [given]
    listed = list(given) if isinstance(given, Iterable) else [given]
    for each in listed:
        if not isinstance(each, (str, Path, *kinds)):
            raise Refused(argument, each, ACCEPTED if Video in kinds else "give files, folders or globs")
    return listed


def _why(error: Exception) -> str:
    """Why a video cannot be scored, as it is printed after the video's path."""
    if isinstance(error, OSError):
        return first_line(error)
    return str(error) or "it takes more memory than there is"


def _references(scorer: Scorer, wanted: list[Dimension], given: list[str]) -> tuple[dict[str, Any], list[Video]]:
    """What dimensions compare with: statistics by dimension, from a file; else pictures. Skips those without either."""
    statistics: dict[str, Any] = {}
    of_file = Path(given[0]) if len(given) == 1 and given[0].endswith(".npz") else None
    if of_file and not of_file.is_file():
        raise Refused("references", given[0], "there is no such file")
    if given and not any(isinstance(d, Compared) and d.referenced for d in wanted):
        raise Refused("references", given[0], f"it takes {', '.join(COMPARED[:-1])} among the dimensions")
    needed = [d for d in scorer.ready if isinstance(d, Compared) and d.referenced]
    for dimension in needed:
        try:
            if of_file:
                statistics[dimension.name] = dimension.statistics(of_file)
            elif not given:
                raise ValueError("it compares with pictures: give references")
        except ValueError as error:
            scorer.skip(dimension, str(error))
    try:
        pictures = [] if of_file else find(given, images=True)
    except Refused as refused:
        raise Refused("references", refused.value, refused.accepted) from None
    return statistics, pictures if needed else []


def _compare(dimension: Compared, features: dict[Video, NDArray[np.float32]], against: Any, scores: Scores) -> None:
    """Adds what a dimension makes of the features of each video, or of each group."""
    together: dict[Any, list[Video]] = {}
    for video in features:
        together.setdefault(video.group if dimension.of_groups else video, []).append(video)
    for unit, videos in together.items():
        frames = np.concatenate([features[video] for video in videos])
        try:
            score = dimension.compare(frames, against)
        except ValueError as error:
            scores.problems.append((videos[0], dimension.name, str(error)))
            continue
        if dimension.of_groups:
            scores.of_groups.setdefault(unit, {})[dimension.name] = (score, len(frames))
        else:
            scores.of[unit][dimension.name] = score


def _score(
    scorer: Scorer,
    store: Store,
    todo: dict[Video, list[Dimension]],
    process: Decoder,
    progress: Callable[[int, int, Video], None],
) -> list[tuple[Video, str, str]]:
    """Scores what is to do; gives back what could not be scored, and why.

    On a CPU, videos of large frames come last, and are scored by one dimension at a time with its networks alone:
    all together would take twice the memory, and to decode such a video anew takes next to no time of it.
    """
    problems: list[tuple[Video, str, str]] = []
    waiting = [(video, wanted) for video, wanted in todo.items() if wanted]
    large: dict[Video, list[Dimension]] = {}
    done, total = 0, len(waiting)

    def score(video: Video, wanted: list[Dimension], apart: bool = False) -> None:
        nonlocal done
        progress(done, total, video)
        done += 1
        try:
            reader = video.open(process=process)
            if apart and reader.height * reader.width > LARGE:
                large[video] = wanted
                return
        except (ValueError, OSError) as error:
            problems.append((video, "", _why(error)))
            return
        scorer.load([dimension for dimension in wanted if dimension in scorer.ready])
        # A dimension may have been skipped, and a video with the same bytes scored, since this was to do.
        new = [d for d in wanted if d in scorer.ready and scorer.key(d, video) not in store]
        try:
            try:
                made, unmade = scorer.score(video, reader, new)
            except ValueError:
                if reader.decoder != "decord":
                    raise
                video.same()
                # PyAV has decoded it to its end before: what fails is decord, which seeks badly in MPEG streams.
                reader = video.open(by_ffmpeg=True, process=process)
                reader.notes = [*reader.notes, "decord, and VBench by it, cannot read it to its end"]
                made, unmade = scorer.score(video, reader, new)
            video.same()
        except (ValueError, OSError, MemoryError) as error:
            problems.append((video, "", _why(error)))
            large.pop(video, None)
            return
        store.add({scorer.key(d, video): (d.name, made[d.name]) for d in new if d.name in made}, reader.facts)
        problems.extend((video, name, problem) for name, problem in unmade.items())

    for video, wanted in waiting:
        score(video, wanted, apart=scorer.device.type == "cpu")
    # What takes most goes first, while nothing is left of the others.
    asked = [d for d in scorer.ready if any(d in wanted for wanted in large.values())]
    total += len(large) * (len(asked) - 1)
    done -= len(large)
    for dimension in sorted(asked, key=lambda d: not d.of_motion):
        scorer.unload()
        for video, wanted in list(large.items()):
            score(video, [dimension] if dimension in wanted else [])
    if waiting:
        progress(total, total, waiting[-1][0])
    return problems


def _officially(
    python: str, scorer: Scorer, store: Store, todo: dict[Video, list[Dimension]], process: Decoder
) -> list[tuple[Video, str, str]]:
    """Has VBench's package score what is to do; gives back what it did not, and why."""
    problems: list[tuple[Video, str, str]] = []
    facts: dict[Video, dict[str, Any]] = {}
    for video in (video for video, new in todo.items() if new):
        try:
            reader = video.open(process=process)
            if reader.decord_crashed:
                raise ValueError("decord, which VBench's package also uses, crashes on this file")
            facts[video] = reader.facts
        except (ValueError, OSError) as error:
            problems.append((video, "", str(error)))
    for dimension in list(scorer.ready):
        videos = [video for video in facts if dimension in todo[video]]
        if not videos:
            continue
        try:
            made, unmade = vbench_package.score(dimension.name, videos, python, str(scorer.device))
        except ValueError as error:
            scorer.skip(dimension, str(error))
            continue
        for video, score in made.items():
            try:
                video.same()
            except (ValueError, OSError) as error:
                problems.append((video, dimension.name, str(error)))
                continue
            store.add({scorer.key(dimension, video): (dimension.name, {dimension.name: score})}, facts[video])
        problems += [(video, dimension.name, why) for video, why in unmade.items()]
        if not made and not unmade and not any(scorer.key(dimension, video) in store for video in todo):
            scorer.skip(dimension, "it looks for what VBench's own prompts ask for, and no video is of one of them")
    return problems


class Store:
    """Scores by key, each kept in a JSON Lines file as soon as it is made, but for those of dimensions `passing`."""

    def __init__(self, path: Path | None, passing: Iterable[str] = ()):
        self.path, self._passing = path, set(passing)
        self.rows: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(rows(path) if path else [], 1):
            own = isinstance(row, dict) and row.keys() >= {"key", "scores", *FACTS}
            if not own or not isinstance(row["key"], str) or not isinstance(row["scores"], dict):
                raise ValueError(f"{path}, line {number}, is no score of this program")
            if row.get("dimension") in self._passing:
                continue
            self.rows[row["key"]] = row

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, scored: dict[str, tuple[str, Made]], facts: dict[str, Any]) -> None:
        """Adds a video's scores, by key the dimension and its columns; they are on the disk when it returns."""
        fresh = []
        for key, (name, made) in scored.items():
            said = {"scores": {}, "features": packed(made)} if isinstance(made, np.ndarray) else {"scores": made}
            fresh.append({"key": key, "dimension": name, **facts, **said})
        self.rows |= {row["key"]: row for row in fresh}
        kept = [row for row in fresh if row["dimension"] not in self._passing]
        if self.path and kept:
            with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
                file.flush()
                os.fsync(file.fileno())


def packed(features: NDArray[np.float32]) -> dict[str, Any]:
    """Features (n, channels) as JSON holds them, without loss."""
    data = base64.b64encode(features.astype("<f4").tobytes()).decode()
    return {"shape": features.shape, "float32": data}


def unpacked(features: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(features["float32"]), "<f4").reshape(features["shape"])


class Scorer:
    """Dimensions with their networks.

    `ready` are the dimensions whose weights are there; `skipped` the others, with the reasons.

    Raises:
        FileNotFoundError: none is ready; with the reasons.
    """

    def __init__(self, wanted: list[Dimension], folder: Path | None, device: torch.device):
        self.device = device
        self.ready = wanted
        self.skipped: list[Skipped] = []
        self.hashes: dict[str, dict[str, str]] = {}
        self._loaded: dict[Dimension, dict[str, Any]] = {}  # with what each had of its own before
        self._paths: dict[str, dict[str, Path]] = {}
        for dimension in wanted:
            try:
                paths = {each.name: each.find(folder) for each in dimension.weights}
                found = {name: hashes(path) for name, path in paths.items() if path}
            except ValueError as error:
                self.skip(dimension, str(error))
                continue
            missing = [each for each in dimension.weights if paths[each.name] is None]
            lacking = [each for each in dimension.weights if not each.importable]
            if missing or lacking:
                ways = [f"the weights of {w.name} are missing; get them with: {w.command}" for w in missing]
                ways += [f"{w.name} needs: pip install {w.needs}" for w in lacking]
                self.skip(dimension, "; ".join(ways))
                continue
            self._paths[dimension.name] = {name: path for name, path in paths.items() if path}
            self.hashes[dimension.name] = found

    def skip(self, dimension: Dimension, reason: str) -> None:
        """Leaves out a dimension that cannot be computed.

        Raises:
            FileNotFoundError: it was the last one.
        """
        self.ready = [each for each in self.ready if each is not dimension]
        self.skipped.append(Skipped(dimension.name, reason))
        if not self.ready:
            raise FileNotFoundError("\n".join(f"{each.name}: {each.reason}" for each in self.skipped))

    def load(self, dimensions: list[Dimension]) -> None:
        """Loads the networks that are not yet; those whose weights cannot be used are skipped.

        Raises:
            FileNotFoundError: none is ready; with the reasons.
        """
        for dimension in dimensions:
            if dimension in self._loaded:
                continue
            before = dict(vars(dimension))
            try:
                dimension.load(self._paths[dimension.name], self.device)
                self._loaded[dimension] = before
            except (ValueError, OSError, ImportError) as error:
                self.skip(dimension, str(error))

    def unload(self) -> None:
        """Forgets all networks."""
        for dimension, before in self._loaded.items():
            vars(dimension).clear()
            vars(dimension).update(before)
        self._loaded.clear()
        gc.collect()  # transformers' networks refer to themselves

    def key(self, dimension: Dimension, video: Video) -> str:
        """What a score is known by: all that decides it."""
        parts = [video.sha256, dimension.name, str(dimension.version), *self.hashes[dimension.name].values()]
        parts += [dimension.source] if dimension.source else []
        return " ".join([*parts, json.dumps(video.prompt)] if dimension.prompted else parts)

    def score(self, video: Video, reader: Reader, todo: list[Dimension]) -> tuple[dict[str, Made], dict[str, str]]:
        """A video's scores by dimension and column, or its features, and by dimension why there are none.

        Raises:
            ValueError: the video cannot be read to its end; says why.
        """
        import torch

        scores: dict[str, Made] = {}
        problems: dict[str, str] = {}
        running: dict[str, Any] = {}

        by_name = {dimension.name: dimension for dimension in todo}

        def advance(name: str, batch: Any) -> None:
            try:
                try:
                    running[name].send(batch)
                except StopIteration as done:
                    scores[name] = _columns(by_name[name], done.value)
                    del running[name]
            except (ValueError, ImportError) as error:
                problems[name] = str(error)
                del running[name]
            except Exception as error:  # what no dimension foresaw in one video must not end the run for the rest
                problems[name] = f"{type(error).__name__}: {first_line(error)}"
                del running[name]

        with torch.inference_mode(), _exact():
            for dimension in todo:
                if dimension.prompted and not video.prompt:
                    problems[dimension.name] = "it has no prompt"
                    continue
                if reader.frames < dimension.least_frames:
                    has = f"it has {reader.frames} frame{'s' * (reader.frames > 1)}"
                    problems[dimension.name] = f"{has}, and at least {dimension.least_frames} are compared"
                    continue
                running[dimension.name] = dimension.score(video, reader)
                advance(dimension.name, None)
            if running:
                for batch in reader.batches(self.device):
                    for name in list(running):
                        advance(name, batch)
                    if not running:
                        break
            for name in list(running):
                advance(name, None)
        return scores, problems


def _columns(dimension: Dimension, returned: Any) -> Made:
    """What a dimension returned, as columns without NaN, or as features.

    Raises:
        ValueError: it returned something else.
    """
    if isinstance(dimension, Compared) and isinstance(returned, np.ndarray):
        return returned
    columns = returned if isinstance(returned, dict) else dict.fromkeys(dimension.columns[:1], returned)
    if not set(columns) <= set(dimension.columns) or (returned is not columns and len(dimension.columns) != 1):
        names = ", ".join(map(str, columns)) if returned is columns else "one score"
        raise ValueError(f"it returned {names}, and its columns are {', '.join(dimension.columns)}")
    scores: dict[str, float | None] = {}
    for column, value in columns.items():
        try:
            score = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"its score {column} is {shown(value)}, and has to be a number") from None
        if math.isinf(score):
            raise ValueError(f"its score {column} is {score}, and has to be finite, or NaN where there is none")
        scores[column] = None if math.isnan(score) else score
    return scores


@contextlib.contextmanager
def _exact():
    """Convolutions in full float32: TF32, the default on recent GPUs, can turn a verdict."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
