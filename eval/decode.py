"""Decodes videos, by decord, PyAV or Pillow; `decoder` does so in a process of its own.

decord reads first, as VBench does. PyAV, which brings its own FFmpeg, checks every file before that, and reads what
decord cannot open, or has no wheel for; what decord fails at midway, scoring starts again by PyAV. Pillow reads
pictures and animations. The frames of decord and PyAV are the same to the last bit, but for these kinds (levels of 255
by which noise differed); where a video's first frame differs by more than 2, a note says so:

- 4:2:0 of an odd width or height (WebM), by up to 98: decord's FFmpeg is of 2019;
- 4:2:0 of 10 bits, by up to 95, which no two versions of FFmpeg convert alike; ProRes, by 1;
- AV1, GIF, APNG, AVIF and many MPEG transport streams, which only PyAV or Pillow open.

Where an edit list hides frames, decord counts those too, and then fails or gives them; where a file has several video
streams, decord does not take the one that its author marked. PyAV reads both kinds of files, on every platform.
"""

from __future__ import annotations

import faulthandler
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from w2sd_video.video import of_pictures, opened, pictures

from .containers import cut_short

if TYPE_CHECKING:
    from w2sd_video.video import Frames

Frame = TypeVar("Frame")
FOLDER_FPS = 8.0  # of a folder of pictures, which has no clock: VBench takes every picture
ALIKE = 2  # levels of 255, up to which two decoders agree
PATIENCE = 120  # seconds without a frame, after which a decoder counts as crashed
ANIMATIONS = (".gif", ".webp", ".apng", ".avif")
# FFmpeg's readers of lists, which would open the files and addresses that a list names.
LISTS = {"concat", "hls", "dash", "sdp", "rtsp", "imf", "webm_dash_manifest", "image2", "lavfi"}
# Of a stream that was cut at another picture than a key frame, whose frames are whole.
HARMLESS = ("mmco: unref short failure", "Invalid frame dimensions 0x0.")
ALPHA = "it has transparency, which is left out: its colours are scored as if nothing shone through"

NO_CLOCK = "it has no frame rate, and is taken to have {:g} frames a second"


class Facts(NamedTuple):
    """What is known of a video before its frames are scored; `notes` say what is peculiar about it."""

    frames: int
    fps: float
    height: int
    width: int
    decoder: str
    notes: tuple[str, ...]


def watched(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames. One that takes longer than `PATIENCE` ends this process."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    for frame in frames:
        yield frame
        faulthandler.dump_traceback_later(PATIENCE, exit=True)


def of_pillow(path: Path) -> bool:
    """Whether Pillow reads it."""
    return of_pictures(path) or path.suffix.lower() in ANIMATIONS


def open_video(path: Path, decord: bool) -> tuple[Facts, Iterator[Frames]]:
    """Opens a video file, an animation, a picture or a folder of pictures; reads a file once to its end.

    Args:
        decord: whether decord may read it.

    Raises:
        Exception: it cannot be read, or is damaged; says why.
    """
    if not path.is_dir():
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        if cut_short(path):
            raise ValueError("the file is cut short: it says itself that it is longer")
    if of_pillow(path):
        facts, frames = by_pillow(path)
    else:
        facts, alike = check(path, path.stat().st_size, path.stat().st_mtime_ns)
        if not (decord and alike and (opened := by_decord(path, facts))):
            opened = facts, _by_pyav(path)
        facts, frames = opened
    if not facts.frames:
        raise ValueError("it holds no frame")
    return facts, _of_one_size(facts, frames)


def _of_one_size(facts: Facts, frames: Iterator[Frames]) -> Iterator[Frames]:
    """The frames, of which each must have the size of the first."""
    for index, frame in enumerate(frames):
        if frame.shape != (facts.height, facts.width, 3):
            was, now = f"{facts.width}x{facts.height}", f"{frame.shape[1]}x{frame.shape[0]}"
            raise ValueError(f"frame {index} is {now}, the first is {was}")
        yield frame


@lru_cache
def check(path: Path, size: int, changed: int) -> tuple[Facts, bool]:
    """What PyAV says of a video, which it decodes to its end, and whether decord would take the same stream.

    A file of the same size and time of last change is not decoded again.

    Raises:
        ValueError: it is no video, a list of other files, or damaged, as FFmpeg reports.
    """
    notes: list[str] = []
    frames = corrupt = height = width = 0
    with _container(path) as (container, stream, complaints):
        try:
            for frame in watched(container.decode(stream)):
                if not frames:
                    turned = round(frame.rotation / 90) % 4
                    height, width = (frame.width, frame.height) if turned % 2 else (frame.height, frame.width)
                    if _mirrored(frame):
                        notes.append("it is to be shown mirrored, and is scored as decord reads it, only turned")
                    elif turned:
                        notes.append(f"it is stored turned by {90 * turned} degrees, and scored as it is shown")
                frames += 1
                corrupt += frame.is_corrupt
        except Exception as error:
            raise ValueError(f"it is damaged; ffmpeg reports: {first_line(error)}") from None
        others = {each.codec_context.name for each in container.streams if each.type == "audio" and each.codec_context}
        said = [line.strip() for _, source, line in complaints if source not in others]
        said = [line for line in said if line not in HARMLESS]
        if corrupt or said:
            said.append(f"{corrupt} of {frames} frames are corrupt")
            raise ValueError(f"it is damaged; ffmpeg reports: {said[0]}")
        alpha = any(part.is_alpha for part in stream.format.components) if stream.format else False
        if alpha or stream.metadata.get("alpha_mode") == "1":
            notes.append(ALPHA)
        if (own := stream.sample_aspect_ratio) and (shape := Fraction(own.numerator, own.denominator)) != 1:
            notes.append(f"its pixels are to be shown {shape} as wide as they are high, and are scored as squares")
        videos = _videos(container)
        if len(videos) > 1:
            notes.append(
                f"it has {len(videos)} video streams; number {videos.index(stream) + 1} is scored, which FFmpeg and"
                " players take"
            )
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        bare = _is_bare(container.format)
        clock = not bare or bool(stream.codec_context.framerate)
        rate = None if bare else stream.average_rate  # which is a guess where there are no times
        fps = float(rate or stream.guessed_rate or (frames / length if length > 0 else 0))
    if not (math.isfinite(fps) and fps > 0):
        fps, clock = FOLDER_FPS, False
    if not clock:
        notes.append(NO_CLOCK.format(fps))
    return Facts(frames, fps, height, width, "PyAV", tuple(notes)), len(videos) == 1 and not bare


def _is_bare(form: Any) -> bool:
    """Whether a format has pictures or the bytes of a codec alone, without times."""
    from av.format import Flags

    return bool(form.flags & Flags.no_timestamps.value) or form.name.endswith("_pipe")


@contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any, list[Any]]]:
    """A file and its video stream, opened by PyAV; and what FFmpeg complains of, which grows."""
    import av

    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # which would tell of the file before
    # Before 19, text of a file that is not UTF-8 ends the reading of it.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(av.formats_available - LISTS)}
    with av.logging.Capture() as complaints:
        try:
            container = av.open(f"file:{path}", options=options, **lenient)
        except Exception as error:
            for _, reader, line in complaints:
                if "not on whitelist" in line or "m3u8" in line:
                    kind = reader or "m3u8"
                    raise ValueError(f"it is a list of other files or addresses ({kind}), not a video") from None
            said = complaints[-1][2].strip() if complaints else first_line(error)
            raise ValueError(f"it is not a video that can be decoded ({said[:200]})") from None
        with container:
            if not (videos := _videos(container)):
                raise ValueError("it holds no video")
            stream: Any = container.streams.best("video")
            stream = stream if stream in videos else videos[0]
            if stream.codec_context is None:
                raise ValueError("it is not a video that can be decoded (its codec is not known)")
            stream.codec_context.thread_count = 1  # threads of FFmpeg's would complain elsewhere
            yield container, stream, complaints


def _videos(container: Any) -> list[Any]:
    """The video streams, without cover pictures."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _mirrored(frame: Any) -> bool:
    """Whether a frame's display matrix mirrors: its determinant is negative."""
    from av.sidedata.sidedata import Type

    if (data := frame.side_data.get(Type.DISPLAYMATRIX)) is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4").astype(float)
    return bool(a * d - b * c < 0)


def _by_pyav(path: Path) -> Iterator[Frames]:
    """The frames, converted to RGB as ffmpeg's own program does, and turned as they are to be shown."""
    import av

    graph = last = None
    with _container(path) as (container, stream, _):
        for frame in container.decode(stream):
            kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
            if graph is None or kind != last:
                graph, last = av.filter.Graph(), kind
                source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
                convert = graph.add("scale", "flags=bicubic"), graph.add("format", "pix_fmts=rgb24")
                graph.link_nodes(source, *convert, sink).configure()
            graph.push(frame)
            yield np.rot90(graph.pull().to_ndarray(), round(frame.rotation / 90))


def by_decord(path: Path, checked: Facts) -> tuple[Facts, Iterator[Frames]] | None:
    """A video by decord; by PyAV with a note where edit lists hide frames; None where decord does not open it."""

    def frame(index: int) -> Frames:
        # Narrow frames come with their rows filled up, taken for a fourth channel.
        rows = reader[index].asnumpy().reshape(checked.height, -1)
        return rows[:, : 3 * checked.width].reshape(checked.height, checked.width, 3)

    def decoded() -> Iterator[Frames]:
        yield first
        for index in range(1, checked.frames):
            try:
                yield frame(index)
            except Exception as error:
                raise ValueError(f"frame {index} of {checked.frames} cannot be decoded ({first_line(error)})") from None

    try:
        import decord

        # It would put what is at hand in the place of a frame that it cannot decode, but for this many of them.
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-6)
        frames, fps, shape = len(reader), float(reader.get_avg_fps()), reader[0].shape[:2]
        if frames != checked.frames:
            note = f"decord, and VBench by it, counts {frames} frames; {checked.frames} are shown and scored"
            return checked._replace(notes=(*checked.notes, note)), _by_pyav(path)
        if shape != (checked.height, checked.width):
            return None
        first = frame(0)
    except Exception:
        return None
    levels = int(np.abs(first.astype(int) - next(_by_pyav(path))).max())
    if levels > ALIKE:
        note = "it is read by decord, as by VBench; the FFmpeg of today reads the colours of its first frame otherwise,"
        checked = checked._replace(notes=(*checked.notes, f"{note} by up to {levels} of 255"))
    return checked._replace(fps=fps if math.isfinite(fps) and fps > 0 else checked.fps, decoder="decord"), decoded()


def by_pillow(path: Path) -> tuple[Facts, Iterator[Frames]]:
    """A picture or an animation, or a folder of pictures in the order of their names, by Pillow."""
    moving = not path.is_dir()
    files = [path] if moving else pictures(path)
    if not files:
        raise ValueError("it holds no picture")
    frames, milliseconds, notes = 0, 0.0, []
    height = width = 0
    # Of a folder the first picture says what the video is like, of an animation all.
    for frame in watched(_pillow_frames(files[:1], moving)):
        frames += 1
        milliseconds += frame.info.get("duration") or 0
        height, width = frame.height, frame.width
        if frame.has_transparency_data and frame.convert("RGBA").getextrema()[3][0] < 255 and ALPHA not in notes:
            notes.append(ALPHA)
        if frame.getexif().get(0x0112, 1) != 1 and frames == 1:
            notes.append("its EXIF orientation, by which viewers turn it, is left out, as VBench leaves it out")
    fps = 1000 * frames / milliseconds if milliseconds else FOLDER_FPS
    if frames > 1 and not milliseconds:
        notes.append(NO_CLOCK.format(fps))
    count = frames if moving else len(files)
    return Facts(count, fps, height, width, "Pillow", tuple(notes)), _rgb(files, moving)


def _pillow_frames(files: list[Path], moving: bool) -> Iterator[Any]:
    """The pictures of files, `moving` ones with all their frames, loaded: only then `info` has a frame's duration."""

    for file in files:
        try:
            with opened(file) as picture:
                # An APNG's picture for viewers that show no animation is none of its frames.
                first, count = getattr(picture, "default_image", False), getattr(picture, "n_frames", 1)
                for index in range(first, count) if moving else [0]:
                    picture.seek(index)
                    picture.load()
                    yield picture
        except Exception as error:
            raise ValueError(f"{file.name} cannot be read: {first_line(error)}") from None


def _rgb(files: list[Path], moving: bool) -> Iterator[Frames]:
    for picture in _pillow_frames(files, moving):
        if picture.mode.startswith(("I", "F")):  # Pillow would cut it off at 255
            raise ValueError(f"{Path(picture.filename).name} cannot be read: it has more than 8 bits a channel")
        yield np.asarray(picture.convert("RGB"))


def first_line(error: BaseException) -> str:
    """What a library said, without the dumps that some add."""
    said = str(getattr(error, "strerror", None) or error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0][-200:] if lines else type(error).__name__
