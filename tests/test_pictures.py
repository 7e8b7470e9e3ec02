"""Pictures for ControlNets and IP-Adapters are read as viewers show them; golden pixels are written by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from w2sd_video import video

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shown(path, picture=None, **options):
    if picture is not None:
        picture.save(path, **options)
    from pathlib import Path

    return video.as_viewed(Path(path))


def two(first=RED, second=WHITE) -> Image.Image:
    """Two pixels beside each other."""
    picture = Image.new("RGB", (2, 1), second)
    picture.putpixel((0, 0), first)
    return picture


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, [[RED, WHITE]]), (3, [[WHITE, RED]]), (6, [[RED], [WHITE]]), (8, [[WHITE], [RED]])],
)
def test_a_photograph_is_turned_as_its_orientation_says(orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert shown("p.png", two(), exif=exif).tolist() == [[[list(p) for p in row] for row in expected]]


def test_what_is_transparent_lies_over_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    assert shown("a.png", clear)[0].tolist() == [[list(RED), list(WHITE)]]
    assert shown("a.webp", clear, lossless=True)[0].tolist() == [[list(RED), list(WHITE)]]
    assert shown("p.png", palette, transparency=1)[0].tolist() == [[list(RED), list(WHITE)]]
    assert shown("p.gif", palette, transparency=1)[0].tolist() == [[list(RED), list(WHITE)]]
    assert shown("g.png", grey)[0].tolist() == [[[0] * 3, [255] * 3]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert shown("h.png", half)[0].tolist() == [[[127] * 3]]


def test_sixteen_bits_become_eight_and_are_not_cut_off():
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    for name in ("d.png", "d.tiff"):
        assert shown(name, deep)[0].tolist() == [[[n] * 3 for n in (0, 1, 128, 255)]]
    with pytest.raises(ValueError, match="f.tiff cannot be read: its pixels are floating-point numbers"):
        shown("f.tiff", Image.fromarray(np.ones((1, 1), np.float32)))


def test_cmyk_is_converted_by_the_profile_in_the_file_or_else_as_pillow_does():
    assert shown("c.tiff", Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0].tolist() == [[list(RED)]]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of another mode: is passed over
    file = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(file, "JPEG", icc_profile=profile, quality=100)
    open("c.jpg", "wb").write(file.getvalue())
    assert np.abs(shown("c.jpg")[0].astype(int) - RED).max() < 8


def test_palettes_one_bit_and_grey_are_rgb():
    assert shown("p.png", two().quantize(2))[0].tolist() == [[list(RED), list(WHITE)]]
    assert shown("b.png", Image.new("1", (1, 1), 1))[0].tolist() == [[list(WHITE)]]
    assert shown("g.jpg", Image.new("L", (8, 8), 90))[0, 0, 0].tolist() == [90] * 3


def test_animations_give_every_frame_and_other_files_of_several_pictures_the_first():
    rest = {"save_all": True, "append_images": [two(WHITE, RED)]}
    assert len(shown("a.gif", two(), **rest)) == 2
    assert len(shown("a.webp", two(), **rest, lossless=True)) == 2
    assert len(shown("a.png", two(), **rest)) == 2
    assert len(shown("a.tiff", two(), **rest)) == 1
    assert len(shown("a.mpo", two(), **rest)) == 1


def test_folders_and_videos_are_read_and_what_is_neither_is_refused(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()
    for n in range(3):
        two().save(f"frames/{n}.png")
    assert shown("frames").shape == (3, 1, 2, 3)
    Image.new("RGB", (5, 5)).save("frames/3.png")
    with pytest.raises(ValueError, match="frames holds pictures of 2 sizes"):
        shown("frames")
    video.write_mp4(np.zeros((2, 16, 16, 3), np.uint8), tmp_path / "v.mp4", 8)
    assert shown("v.mp4").shape == (2, 16, 16, 3)
    (tmp_path / "none").mkdir()
    for name, content in (("text.png", b"text"), ("text.mp4", b"text"), ("empty.jpg", b""), ("none", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            shown(name)
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:1000])
    for filled in (False, True):  # as VBench's own modules tell Pillow, in the whole process
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", filled)
        with pytest.raises(ValueError, match="cut.png cannot be read"):
            shown("cut.png")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is filled
