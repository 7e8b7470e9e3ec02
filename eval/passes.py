"""Scores videos on their missing dimensions, here or by VBench's own package, and names what fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import official as vbench_package
from .decode import first_line
from .decoder import Decoder
from .dimensions import Dimension
from .scorer import Scorer
from .store import Store
from .videos import Video

LARGE = 2**20  # pixels of a frame, above which memory counts
Problems = list[tuple[Video, str, str]]  # a video, the dimension or "" for all, and why there is no score


def why(error: Exception) -> str:
    """Why a video cannot be scored, worded to follow the video's path."""
    if isinstance(error, OSError):
        return first_line(error)
    return str(error) or "it takes more memory than there is"


def score_here(
    scorer: Scorer,
    store: Store,
    todo: dict[Video, list[Dimension]],
    process: Decoder,
    progress: Callable[[int, int, Video], None],
) -> Problems:
    """Scores what is to do; gives back what could not be scored, and why.

    On a CPU, videos of large frames come last, and are scored by one dimension at a time with its networks alone:
    all together would take twice the memory, and to decode such a video anew takes next to no time of it.
    """
    problems: Problems = []
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
            problems.append((video, "", why(error)))
            return
        scorer.load([dimension for dimension in wanted if dimension in scorer.ready])
        # A dimension may have been skipped, and a video with the same bytes scored, since this was to do.
        new = [d for d in wanted if d in scorer.ready and scorer.key(d, video) not in store]
        try:
            try:
                scores, unmade = scorer.score(video, reader, new)
            except ValueError:
                if reader.decoder != "decord":
                    raise
                video.same()
                # PyAV has decoded it to its end before: what fails is decord, which seeks badly in MPEG streams.
                reader = video.open(by_ffmpeg=True, process=process)
                reader.notes = [*reader.notes, "decord, and VBench by it, cannot read it to its end"]
                scores, unmade = scorer.score(video, reader, new)
            video.same()
        except (ValueError, OSError, MemoryError) as error:
            problems.append((video, "", why(error)))
            large.pop(video, None)
            return
        store.add({scorer.key(d, video): (d.name, scores[d.name]) for d in new if d.name in scores}, reader.facts)
        problems.extend((video, name, problem) for name, problem in unmade.items())

    for video, wanted in waiting:
        score(video, wanted, apart=scorer.device.type == "cpu")
    # What takes most goes first, while nothing is left of the others.
    motion_last = [d for d in scorer.ready if any(d in wanted for wanted in large.values())]
    total += len(large) * (len(motion_last) - 1)
    done -= len(large)
    for dimension in sorted(motion_last, key=lambda d: not d.of_motion):
        scorer.unload()
        for video, wanted in list(large.items()):
            score(video, [dimension] if dimension in wanted else [])
    if waiting:
        progress(total, total, waiting[-1][0])
    return problems


def score_officially(
    python: str,
    scorer: Scorer,
    store: Store,
    todo: dict[Video, list[Dimension]],
    process: Decoder,
    progress: Callable[[int, int, Video], None],
) -> Problems:
    """Has VBench's package score what is to do; gives back what it did not, and why.

    It takes one dimension after another, and `progress` counts a video once for each.
    """
    problems: Problems = []
    facts: dict[Video, dict[str, Any]] = {}
    for video in (video for video, new in todo.items() if new):
        try:
            reader = video.open(process=process)
            if reader.decord_crashed:
                raise ValueError("decord, which VBench's package also uses, crashes on this file")
            facts[video] = reader.facts
        except (ValueError, OSError) as error:
            problems.append((video, "", str(error)))
    done, total = 0, sum(dimension in todo[video] for video in facts for dimension in scorer.ready)

    def started(number: int, video: Video) -> None:
        progress(done + number, total, video)

    for dimension in list(scorer.ready):
        videos = [video for video in facts if dimension in todo[video]]
        if not videos:
            continue
        started(0, videos[0])
        try:
            scores, unmade = vbench_package.score(dimension.name, videos, python, str(scorer.device), started)
        except ValueError as error:
            scorer.skip(dimension, str(error))
            continue
        finally:
            done += len(videos)
        for video, score in scores.items():
            try:
                video.same()
            except (ValueError, OSError) as error:
                problems.append((video, dimension.name, str(error)))
                continue
            store.add({scorer.key(dimension, video): (dimension.name, {dimension.name: score})}, facts[video])
        problems += [(video, dimension.name, why) for video, why in unmade.items()]
        if not scores and not unmade and not any(scorer.key(dimension, video) in store for video in todo):
            scorer.skip(dimension, "it looks for what VBench's own prompts ask for, and no video is of one of them")
    if total:
        progress(total, total, next(reversed(facts)))
    return problems
