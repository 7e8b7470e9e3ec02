"""From requests to files: loads the models, samples, writes the videos and their sidecars."""

from __future__ import annotations

import hashlib
import logging
import textwrap
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from . import runs
from .errors import note_once
from .runs import Output, Refused, Request
from .sampling import (
    OnStep,
    changed,
    check,
    check_words,
    cut_off,
    draw_differences,
    idle,
    in_strong_evaluations,
    load,
    notes,
    pipelines_of,
    plugin_version,
    provenance,
    sample,
    sentences,
)

if TYPE_CHECKING:
    from .pipelines.reflection import Reflection as Pipeline
    from .settings import Variant
    from .video import Frames

logger = logging.getLogger("w2sd_video")
LABELS = {"weak": "weak", "strong": "strong", "w2sd": "W2SD"}


@dataclass(frozen=True)
class Made:
    """The outputs of one request.

    Attributes:
        request: the request.
        paths: its files by format; `json` is the sidecar.
        record: the content of the sidecar.
        kept: whether the files existed already.
        singles: for a comparison, the files of each single video, by variant.
    """

    request: Request
    paths: dict[str, Path]
    record: dict[str, Any]
    kept: bool = False
    singles: Mapping[str, dict[str, Path]] = field(default_factory=dict)


def generate(
    requests: Sequence[Request] | Request,
    out: Path | str = "outputs",
    formats: Sequence[str] = ("mp4",),
    overwrite: bool = False,
    on_step: OnStep | None = None,
    command: Sequence[str] = (),
    hashed: bool = False,
) -> Generator[Made, None, None]:
    """Makes the video or image of each request in the folder `out`, one after another, and yields the outputs.

    Existing outputs of a request are kept unless `overwrite` is set, so an interrupted batch resumes when it is run
    again. Each video has its own random generator, seeded by its request alone. Other processes may write other videos
    to the same folder meanwhile.

    Args:
        requests: the videos and images to make, or one.
        out: the output folder; it is created if it does not exist.
        formats: some of `runs.FORMATS`, for videos; an image is a PNG.
        overwrite: replace existing files.
        on_step: called after each sampling step.
        command: the command line, for the sidecars.
        hashed: compare existing files with the sidecar by their hashes, not only by sizes and times.

    Raises:
        runs.Refused: an argument is not accepted; raised before anything is made.
        FileExistsError: another file has an output's name; raised before anything is made, unless the file appeared
            meanwhile.
        OSError: weights are missing or cannot be read, or a file cannot be written.
    """
    if not isinstance(out, (str, PathLike)):
        raise Refused("out", out, "give the path of a folder")
    out, formats, requests = Path(out), _listed(formats), _listed(requests)
    for kind in formats:
        if kind not in runs.FORMATS:
            raise Refused("formats", kind, f"give some of {', '.join(runs.FORMATS)}, in a list")
    if "differences" in formats:
        import matplotlib  # noqa: F401 - which draws them, and may be missing
    for request in requests:
        if not isinstance(request, Request):
            text = request if isinstance(request, str) else "a red circle"
            raise Refused("requests", request, f"give a `Request`, such as `Request.of({text!r})`")
        request.check()
    if not command:  # which has said it of its options
        for request in requests:
            for line in sentences(idle(request), changed(request)):
                note_once(line)
    runs.usable(out)
    outputs = []
    for output in runs.place(requests, out, formats):
        state = _usable_state(output, overwrite, hashed)
        if state == "new" and not overwrite:
            output = output.widened()
            _usable_state(output, overwrite, hashed)
        outputs.append((output, state == "made" and not overwrite))
    return _generate(outputs, out, overwrite, on_step, command)


def _listed(value: Any) -> list[Any]:
    """What is iterated over as a list; a text, or anything else, as the one thing in it."""
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _usable_state(output: Output, overwrite: bool, hashed: bool = False) -> str:
    """The state of an output; see `Output.state`.

    Raises:
        FileExistsError: its files may not be written.
    """
    state, reason = output.state(hashed)
    if state == "blocked" or (state == "taken" and not overwrite):
        raise FileExistsError(reason)
    return state


def conflicts(
    requests: Sequence[Request], out: Path, formats: Sequence[str], hashed: bool = False
) -> list[tuple[str, str]]:
    """What keeps these requests from being written to `out`: for each, its `Output.state` and the reason in words."""
    states = [output.state(hashed) for output in runs.place(requests, out, formats)]
    return [(state, reason) for state, reason in states if reason]


class Maker:
    """Makes outputs one after another, and keeps the last models loaded.

    Args:
        on_step: called after each sampling step.
        command: the command line, for the sidecars.
    """

    def __init__(self, on_step: OnStep | None = None, command: Sequence[str] = ()):
        self.on_step, self.command = on_step, command
        self.pipelines: dict[str, Pipeline] = {}
        self._loaded: tuple[Variant, str] | None = None
        self._noted: set[str] = set()

    def load(self, request: Request, variant: Variant) -> bool:
        """Loads the pipelines of a request for a variant, unless they are loaded already.

        Returns:
            Whether they had to be loaded.

        Raises:
            OSError, ValueError: see `sampling.load`.
        """
        wanted = (variant, request.loading)
        if wanted == self._loaded:
            check(request, self.pipelines)
            return False
        self._loaded = None
        self.pipelines.clear()  # let go of one pair before the next is loaded
        self.pipelines = load(request, variant)
        self._loaded = wanted
        return True

    def make(
        self,
        output: Output,
        overwrite: bool = False,
        variant: Variant | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Made:
        """Makes one output.

        Args:
            variant: load the pipelines of this variant, which must be able to make the request: those of "w2sd" also
                make "plain", and those of "compare" make all. None: the request's own variant.
            facts: further entries of the sidecar.
        """
        request = output.request
        self.load(request, variant or request.variant)
        pipelines = pipelines_of(request, self.pipelines)
        check_words(request, pipelines)
        cut = cut_off(request, pipelines)
        for note in notes(request, cut, pipelines):
            if note not in self._noted:
                logger.warning("note: %s", note)
                self._noted.add(note)
        origin = provenance(pipelines, self.command) | ({"cut": cut} if cut else {}) | dict(facts or {})
        return _make(output, pipelines, overwrite, self.on_step, origin)


def _generate(
    outputs: Sequence[tuple[Output, bool]],
    out: Path,
    overwrite: bool,
    on_step: OnStep | None,
    command: Sequence[str],
) -> Generator[Made, None, None]:
    """Makes outputs.

    Args:
        outputs: each with whether it exists already.
    """
    maker = Maker(on_step, command)
    missing = [output for output, kept in outputs if not kept]
    with ExitStack() as stack:
        if missing:
            stack.enter_context(runs.gone_if_empty(out))
            runs.writable(out)
            stack.enter_context(runs.claimed(out, missing))
        for output, kept in outputs:
            request = output.request
            # Another process may have made the same output meanwhile.
            if kept or (_usable_state(output, overwrite) == "made" and not overwrite):
                yield Made(request, output.paths, runs.read_sidecar(output.paths["json"])[1], kept=True)
                continue
            if maker.load(request, request.variant):
                for each in (of for of, _ in outputs if of.request.loading == request.loading):
                    # What the models do not take is refused before the first output is made.
                    next(iter(maker.pipelines.values())).check_prompt(each.request.prompt)
                    if each.request.variant == request.variant:
                        check(each.request, maker.pipelines)
            yield maker.make(output, overwrite)


def _make(
    output: Output,
    pipelines: dict[str, Pipeline],
    overwrite: bool,
    on_step: OnStep | None,
    origin: dict[str, Any],
) -> Made:
    """Samples an output and writes its files; `origin` are further entries of its sidecar."""
    from . import video

    request = output.request
    started = time.perf_counter()
    videos: dict[str, Frames] = {}
    by_variant: dict[str, Any] = {}
    strong = _strong_parameters(request, pipelines)
    for variant in runs.VARIANTS[request.variant]:
        began, recorder = time.perf_counter(), None
        if "differences" in output.formats and variant == "w2sd":
            from .hook import Recorder

            recorder = Recorder()
        frames, evaluations = sample(pipelines[variant], request, variant, on_step, recorder)
        videos[variant] = frames
        by_variant[variant] = {
            "method": request.method if variant == "w2sd" else None,
            "evaluations": evaluations,
            "parameters": (parameters := pipelines[variant].parameters),
            "strong_evaluations": in_strong_evaluations(evaluations, parameters, strong),
            "seconds": round(time.perf_counter() - began, 3),
            "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
        }
        if recorder is not None:
            by_variant[variant]["differences"] = recorder.rows()
    compared = len(videos) > 1
    labels = LABELS if request.method == "w2sd" else LABELS | {"w2sd": request.method_name}
    labelled = {labels[variant]: frames for variant, frames in videos.items()}
    caption = f"{request.prompt}  (seed {request.seed})"
    origin["versions"] |= plugin_version(request)
    every = {**output.singles, "": output}
    finals = {(name, kind): path for name, each in every.items() for kind, path in each.paths.items()}
    stale = [path for each in every.values() for path in each.stale()]
    with runs.whole(finals, stale, lambda: _usable_state(output, overwrite)) as staged:
        for name, each in every.items():
            files = {kind: staged[name, kind] for kind in each.paths}
            record: dict[str, Any] = {"videos": by_variant, "seconds": 0.0, **origin}
            if name:  # a single video of a comparison
                of, frames = {name: videos[name]}, videos[name]
                record |= {"videos": {name: by_variant[name]}, "seconds": by_variant[name]["seconds"]}
                record["weights"] = {name: origin["weights"][name]}
            else:
                of, frames = videos, video.side_by_side(labelled, caption) if compared else next(iter(videos.values()))
                record["seconds"] = round(time.perf_counter() - started, 3)
                if "sheet" in files:
                    video.write_picture(video.contact_sheet(labelled, caption), files["sheet"])
            _write(each.request, frames, of, files)
            if "differences" in files:
                steps = [step for of_video in record["videos"].values() for step in of_video.get("differences", [])]
                title = f"{textwrap.shorten(request.prompt, 100)}  (seed {request.seed})"
                draw_differences(steps, title, files["differences"])
                if not steps:
                    logger.warning("note: the method changes no step, and there is nothing to record")
            record["files"] = [path.name for kind, path in each.paths.items() if kind != "json"]
            record["formats"] = list(each.formats) if request.video else ["png"]
            record["hashes"] = runs.hashes(path for kind, path in files.items() if kind != "json")
            with runs.naming(files["json"]):
                files["json"].write_text(runs.sidecar(each.request, record), encoding="utf-8")
    return Made(request, output.paths, record, singles={name: each.paths for name, each in output.singles.items()})


def _strong_parameters(request: Request, pipelines: Mapping[str, Pipeline]) -> int | None:
    """How many parameters the pair's strong network has; for two experts, their mean. None: it is not loaded."""
    from .hook import parameters_of

    for variant, pipe in pipelines.items():
        if variant != "weak" or not request.weak_alone:  # a weak model alone has a pipeline of its own
            return round(fmean(parameters_of(network) for network in pipe._strong_networks().values()))
    return None


def _write(request: Request, frames: Frames, videos: dict[str, Frames], files: dict[str, Path]) -> None:
    """Writes a video's or an image's files, in the formats of `files`."""
    from PIL import Image

    from . import video

    if not request.video:
        video.write_picture(Image.fromarray(frames[0]), files["png"])
        return
    assert request.fps is not None
    if "mp4" in files:
        video.write_mp4(frames, files["mp4"], request.fps)
    if "gif" in files:
        video.write_gif(frames, files["gif"], request.fps)
    if "png" in files:
        for variant, single in videos.items():
            video.write_pngs(single, files["png"] / variant if len(videos) > 1 else files["png"])
