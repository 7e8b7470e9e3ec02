"""Reads and writes videos and pictures, and composes labelled comparisons of videos.

A video here is an array of `uint8` of shape (F, H, W, 3), RGB. Writers write directly to their path; `runs.whole` makes
a path appear only when it is complete.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .runs.files import FULL, naming

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image, ImageFont

    Frames = NDArray[np.uint8]

PANEL = 256  # pixels; small videos in a comparison are enlarged to at least this, large ones shrunk to twice this
THUMBNAIL = 128  # the same for frames of a contact sheet
SHEET_COLUMNS = 16
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Formats that ffmpeg may read: all with frames inside. Not concat, hls, dash, imf, sdp and svg: they name other files.
CONTAINERS = (
    "mov mp4 m4a 3gp 3g2 mj2 matroska webm avi mpeg mpegts mpegvideo mpegtsraw m4v h261 h263 h264 hevc vvc av1 obu ivf"
    " vc1 avs avs2 avs3 dirac dv ogg flv live_flv asf mxf nut rm wtv gif apng webp_anim webp_pipe png_pipe jpeg_pipe"
    " bmp_pipe tiff_pipe jpegxl_pipe jpegxl_anim mjpeg mjpeg_2000 mpjpeg yuv4mpegpipe swf gxf lxf nuv pva roq smk bink"
    " film_cpk flic rl2 ea mm mtv mv mvi mxg nsv pmp psxstr r3d smjpeg thp tmv vmd xmv cine cdxl cavsvideo amv"
).split()
INK, PAPER, GAP = (20, 20, 20), (250, 250, 250), 4


def ffmpeg() -> str:
    """The path of the ffmpeg program that imageio-ffmpeg installs.

    Raises:
        OSError: there is none.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise OSError(f"ffmpeg: {error}") from None


def write_mp4(frames: Frames, path: Path, fps: int) -> None:
    """Writes H.264 in yuv420p with the index in front, as browsers need it, and with colours tagged as BT.601.

    Readers that ignore the tag, such as OpenCV before 5.0, assume BT.601. 4:2:0 needs even sides: an odd one is padded
    by repeating its last row or column.

    Raises:
        OSError: ffmpeg failed, with its message, or with ENOSPC if the disk is full.
    """
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    _, height, width, _ = frames.shape
    command = [ffmpeg(), "-y", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    command += ["-vf", "scale=out_color_matrix=bt601:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12", "-preset", "slow"]
    command += ["-colorspace", "smpte170m", "-color_primaries", "bt709", "-color_trc", "bt709"]
    command += ["-color_range", "tv"]
    # A relative path with a colon would be taken for a protocol.
    command += ["-movflags", "+faststart", "-f", "mp4", str(path.absolute())]
    ran = subprocess.run(command, input=np.ascontiguousarray(frames).tobytes(), capture_output=True)
    if ran.returncode:
        message = ran.stderr.decode(errors="replace").strip()
        full = next((code for code in FULL if os.strerror(code) in message), None)
        raise OSError(full or errno.EIO, os.strerror(full) if full else f"ffmpeg failed: {message}", str(path))


def write_gif(frames: Frames, path: Path, fps: int) -> None:
    """Writes an endlessly looping GIF. The time of a frame, 1/fps, is rounded to hundredths of a second."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    duration = max(10 * round(100 / fps), 20)  # ms; viewers slow down shorter frames
    with naming(path):
        first.save(path, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0)


def write_pngs(frames: Frames, folder: Path) -> None:
    """Writes one PNG per frame: `FOLDER/0000.png`, `0001.png`, …"""
    from PIL import Image

    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        write_picture(Image.fromarray(frame), folder / f"{index:04d}.png")


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG, whatever the path's suffix."""
    with naming(path):
        picture.save(path, format="PNG")


def read(path: Path, most: int | None = None) -> Frames:
    """The frames (F, H, W, 3) of a video file, a GIF, a picture, or a folder of pictures in the order of their names.

    Args:
        most: read at most this many frames, from the first.

    Raises:
        OSError: the path does not exist.
        ValueError: it is not a video that can be read.
    """
    try:
        with closing(stream(path)) as frames:
            frames_read = list(islice(frames, most))
        if not frames_read:
            raise ValueError("it has no frame")
        return np.stack(frames_read)
    except ValueError as error:
        raise ValueError(f"{path} is not a video, a GIF or a folder of pictures of one size ({error})") from None


def stream(path: Path) -> Generator[Frames, None, None]:
    """Yields the frames of `read` one by one, each (H, W, 3).

    Raises:
        OSError: the path does not exist.
        ValueError: a frame cannot be read; says why.
    """
    from PIL import ImageSequence

    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if not path.is_file() and not path.is_dir():  # reading a pipe may never end
        raise ValueError("it is neither a file nor a folder")
    if not of_pictures(path):
        yield from _decoded(path)
        return
    file = path
    try:
        for file in pictures(path) if path.is_dir() else [path]:
            if not file.is_file():
                raise ValueError("it is not a file")
            with opened(file) as picture:
                for frame in [picture] if path.is_dir() else ImageSequence.Iterator(picture):
                    if frame.mode.startswith(("I", "F")):  # Pillow would clip it at 255
                        raise ValueError("it has more than 8 bits a channel")
                    yield np.asarray(frame.convert("RGB"))
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for damaged files
        raise ValueError(f"{file.name} cannot be read: {error}") from None


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """Opens a picture. Reading a truncated one fails, even if another library has set Pillow to accept it."""
    from PIL import Image, ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(file) as picture:
            yield picture
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def as_viewed(path: Path, most: int | None = None) -> Frames:
    """The frames of a picture, a folder of pictures, a GIF or a video, as viewers show them.

    A photograph is rotated by its EXIF orientation; transparent pixels are blended with white; 16 bits per channel
    become 8; CMYK is converted by the colour profile in the file, if there is one. If a file that is no animation holds
    several pictures, such as a photograph with a thumbnail, only the first one is read.

    Args:
        most: read at most this many frames, from the first.

    Returns:
        (F, H, W, 3), RGB in `uint8`.

    Raises:
        OSError: the path does not exist.
        ValueError: it cannot be read, or the pictures of a folder differ in size.
    """
    from PIL import ImageSequence, UnidentifiedImageError

    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    files = pictures(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)})")
    frames: list[Frames] = []
    for file in files[:most]:
        if not file.is_file():
            raise ValueError(f"{file.name} is not a file")
        try:
            with opened(file) as picture:
                animated = not path.is_dir() and picture.format in ("GIF", "WEBP", "PNG")
                for frame in islice(ImageSequence.Iterator(picture) if animated else [picture], most):
                    frames.append(_picture_as_viewed(frame))
        except UnidentifiedImageError as error:
            if of_pictures(path):
                raise ValueError(f"{file.name} cannot be read as a picture: {error}") from None
            return read(path, most)  # a video
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plug-ins raise many kinds of errors for damaged files
            raise ValueError(f"{file.name} cannot be read: {error}") from None
    if len(sizes := {frame.shape[:2] for frame in frames}) > 1:
        raise ValueError(f"{path} holds pictures of {len(sizes)} sizes; give pictures of one size")
    return np.stack(frames)


def _picture_as_viewed(picture: Image.Image) -> Frames:
    """One picture as a viewer shows it, (H, W, 3)."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("F"):
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if picture.mode.startswith("I"):  # 16 bits per channel, which Pillow may hold in 32
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("it has more than 16 bits a channel")
        grey = np.round(deep * (255 / 65535)).astype(np.uint8)
        if (clear := picture.info.get("transparency")) is not None:
            grey[deep == clear] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("CMYK", "LAB"):
        picture = _in_srgb(picture)
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def _in_srgb(picture: Image.Image) -> Image.Image:
    """A picture in RGB, converted by the colour profile in its file or, without a readable one, by Pillow's default."""
    import io

    from PIL import ImageCms

    if profile := picture.info.get("icc_profile"):
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return picture.convert("RGB")


def of_pictures(path: Path) -> bool:
    """Whether Pillow reads the path (a folder of pictures, a picture or a GIF) and not a video decoder."""
    return path.is_dir() or path.suffix.lower() in (*PICTURES, ".gif")


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, sorted by name with 9 before 10, without hidden ones."""
    paths = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    return sorted(paths, key=lambda p: [int(n) if n.isdecimal() else n for n in re.split(r"(\d+)", p.name)] + [p.name])


def _decoded(path: Path) -> Iterator[Frames]:
    """Yields every stored frame once, whatever its timestamp. ffmpeg sends PPM pictures, which hold their own size.

    ffmpeg detects the format from the content, whatever the name says, so formats that refer to other files are
    refused.
    """
    command = [ffmpeg(), "-loglevel", "error", "-nostdin", "-protocol_whitelist", "file"]
    command += ["-format_whitelist", ",".join(CONTAINERS), "-i", f"file:{path}", "-fps_mode", "passthrough"]
    command += ["-vf", "settb=1,setpts=N*1000"]  # it would complain of timestamps that do not increase
    command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        try:
            while process.stdout.readline():  # P6
                width, height = map(int, process.stdout.readline().split())
                process.stdout.readline()  # 255
                pixels = process.stdout.read(3 * width * height)
                yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
            failed = process.wait() != 0
        finally:
            process.kill()
        log.seek(0)
        complaint = log.read().decode(errors="replace").strip()
        if failed or complaint:  # it may skip the damaged frames of a file and still exit with 0
            if "not on whitelist" in complaint:
                raise ValueError("it names other files, or is of a format that is not read")
            complaint = re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\]", "", complaint)  # names and addresses of ffmpeg's components
            raise ValueError(" ".join(complaint.split())[:300])


def side_by_side(videos: Mapping[str, Frames], caption: str) -> Frames:
    """One video with all videos side by side, each under its label, and the caption above."""
    panels = {label: _resized(frames, PANEL) for label, frames in videos.items()}
    frames_of = list(panels.values())
    height, width = frames_of[0].shape[1:3]
    line = 24
    page = _page(len(panels) * (width + GAP) + GAP, height + 2 * line + GAP, caption, line)
    for column, label in enumerate(panels):
        _text(page, label, GAP + column * (width + GAP), line, width, line)
    video = np.repeat(np.asarray(page)[None], len(frames_of[0]), axis=0)
    for column, frames in enumerate(frames_of):
        left = GAP + column * (width + GAP)
        video[:, 2 * line : 2 * line + height, left : left + width] = frames
    return video


def contact_sheet(videos: Mapping[str, Frames], caption: str) -> Image.Image:
    """A picture with videos as rows and frames as columns: all frames, or 16 evenly spaced ones, numbered from 1."""
    from PIL import Image

    count = min(len(frames) for frames in videos.values())
    columns = np.unique(np.linspace(0, count - 1, min(count, SHEET_COLUMNS)).round().astype(int))
    rows = {label: _resized(frames[columns], THUMBNAIL) for label, frames in videos.items()}
    height, width = next(iter(rows.values())).shape[1:3]
    line = 24
    margin = 2 * GAP + max(int(_font(line).getlength(label)) for label in rows)
    page = _page(margin + len(columns) * (width + GAP) + GAP, 2 * line + len(rows) * (height + GAP), caption, line)
    for column, index in enumerate(columns):
        _text(page, str(index + 1), margin + GAP + column * (width + GAP), line, width, line)
    for row, (label, frames) in enumerate(rows.items()):
        top = 2 * line + row * (height + GAP)
        _text(page, label, GAP, top + (height - line) // 2, margin, line)
        for column, frame in enumerate(frames):
            page.paste(Image.fromarray(frame), (margin + GAP + column * (width + GAP), top))
    return page


def _resized(frames: Frames, side: int) -> Frames:
    """Enlarges small frames to at least `side` by a whole factor, so that pixels stay square, and shrinks large ones
    to twice `side`."""
    from PIL import Image

    height, width = frames.shape[1:3]
    if max(height, width) < side:
        factor = -(-side // max(height, width))
        return frames.repeat(factor, axis=1).repeat(factor, axis=2)
    if max(height, width) <= 2 * side:
        return frames
    ratio = 2 * side / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames])


def _font(line: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=round(line * 0.7))


def _page(width: int, height: int, caption: str, line: int) -> Image.Image:
    from PIL import Image

    page = Image.new("RGB", (width, height), PAPER)
    _text(page, caption, GAP, 0, width - 2 * GAP, line)
    return page


def _text(page: Image.Image, text: str, left: int, top: int, width: int, line: int) -> None:
    """Draws one line of text, shortened with an ellipsis if it is too long; line ends become spaces."""
    from PIL import ImageDraw

    font = _font(line)
    text = " ".join(text[: 16 * width].splitlines())  # cut first: measuring a long text is slow
    if font.getlength(text) > width:
        fitting = bisect_left(range(len(text)), True, key=lambda end: font.getlength(text[:end] + "…") > width)
        text = text[: max(fitting - 1, 0)] + "…"
    ImageDraw.Draw(page).text((left, top + line // 2), text, fill=INK, font=font, anchor="lm")
