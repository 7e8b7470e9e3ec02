"""Requests, their files, and what is written with them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from w2sd_video import runs, video
from w2sd_video.runs import Refused, Request

PROMPT = "a red circle moving right"


def request(**values) -> Request:
    """A request as the shapes preset makes it, without its weights."""
    values = {
        "prompt": PROMPT,
        "strong": "a/strong",
        "weak": "a/weak",
        "motion_adapter": "a/motion",
        **values,
    }
    return Request.of(**values)


def frames(count: int = 4, height: int = 64, width: int = 64) -> np.ndarray:
    """A red square that moves right over grey."""
    made = np.full((count, height, width, 3), 128, dtype=np.uint8)
    for index in range(count):
        made[index, 8:24, 8 + 4 * index : 24 + 4 * index] = (220, 30, 40)
    return made


def read(path: Path, pix_fmt: str = "rgb24") -> tuple[np.ndarray, dict]:
    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt=pix_fmt)
    meta = next(reader)
    width, height = meta["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]), meta


def test_an_mp4_is_h264_in_yuv420p_with_its_index_in_front(tmp_path):
    video.write_mp4(frames(), tmp_path / "v.mp4", fps=8)
    said = subprocess.run([video.ffmpeg(), "-i", tmp_path / "v.mp4"], capture_output=True, text=True).stderr
    assert "Video: h264" in said and "yuv420p(tv, smpte170m" in said and "8 fps" in said
    data = (tmp_path / "v.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_an_mp4_gives_back_the_frames_and_their_colours(tmp_path):
    video.write_mp4(frames(6), tmp_path / "v.mp4", fps=8)
    back, meta = read(tmp_path / "v.mp4")
    assert back.shape == (6, 64, 64, 3) and meta["fps"] == 8
    for index, frame in enumerate(back.astype(int)):
        assert np.abs(frame[12:20, 12 + 4 * index : 20 + 4 * index] - (220, 30, 40)).max() <= 4
        assert np.abs(frame[40:, :] - 128).max() <= 2


def test_an_mp4_has_the_same_colours_for_readers_that_heed_no_tag(tmp_path):
    video.write_mp4(frames(6), tmp_path / "v.mp4", fps=8)
    untagged = ["-bsf:v", "h264_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2"]
    command = [video.ffmpeg(), "-loglevel", "error", "-i", tmp_path / "v.mp4", "-c", "copy", *untagged]
    subprocess.run([*command, tmp_path / "untagged.mp4"], check=True)
    said = subprocess.run([video.ffmpeg(), "-i", tmp_path / "untagged.mp4"], capture_output=True, text=True).stderr
    assert "yuv420p(tv" in said and "smpte170m" not in said
    assert np.array_equal(read(tmp_path / "v.mp4")[0], read(tmp_path / "untagged.mp4")[0])


@pytest.mark.parametrize("height, width", [(33, 65), (64, 65), (33, 64), (1, 1)])
def test_an_mp4_of_odd_sides_repeats_the_last_row_and_column(tmp_path, height, width):
    flat = np.full((3, height, width, 3), (200, 40, 90), dtype=np.uint8)
    video.write_mp4(flat, tmp_path / "v.mp4", fps=8)
    back, _ = read(tmp_path / "v.mp4")
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(back.astype(int) - (200, 40, 90)).max() <= 4


def test_a_gif_loops_for_ever_at_the_frame_rate(tmp_path):
    video.write_gif(frames(4), tmp_path / "v.gif", fps=8)
    with Image.open(tmp_path / "v.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (4, 0, 120)  # 125 ms in hundredths


def test_pngs_are_the_frames_bit_for_bit(tmp_path):
    made = frames(3)
    video.write_pngs(made, tmp_path / "frames")
    back = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())]
    assert np.array_equal(np.stack(back), made)


def test_a_video_is_read_back_from_mp4_gif_and_pngs(tmp_path):
    made = frames(5, 32, 48)
    video.write_pngs(made, tmp_path / "frames")
    assert np.array_equal(video.read(tmp_path / "frames"), made)
    video.write_gif(made, tmp_path / "v.gif", fps=8)
    assert np.array_equal(video.read(tmp_path / "v.gif"), made)  # two colours fit a palette
    video.write_mp4(made, tmp_path / "v.mp4", fps=8)
    assert np.array_equal(video.read(tmp_path / "v.mp4"), read(tmp_path / "v.mp4")[0])


def test_what_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "v.mp4").write_text("no video")
    (tmp_path / "v.gif").write_text("no video")
    for name in ("empty", "v.mp4", "v.gif"):
        with pytest.raises(ValueError, match=f"{name} is not a video"):
            video.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.mp4 is not there"):
        video.read(tmp_path / "none.mp4")


def test_videos_side_by_side_are_enlarged_by_a_whole_factor_and_labelled():
    videos = {"weak": frames(), "strong": frames()[::-1], "W2SD": frames()}
    made = video.side_by_side(videos, "a caption")
    assert made.shape[0] == 4 and made.shape[2] == 3 * (256 + video.GAP) + video.GAP
    top = 48  # two lines of text
    for column, one in enumerate(videos.values()):
        left = video.GAP + column * (256 + video.GAP)
        assert np.array_equal(made[:, top : top + 256 : 4, left : left + 256 : 4], one)
        label = made[0, 24:48, left : left + 256]
        assert label.min() < 60 < 240 < label.max()  # ink on paper


def test_a_contact_sheet_has_a_row_for_each_video_and_a_column_for_each_frame():
    videos = {"weak": frames(5), "strong": frames(5)}
    sheet = np.asarray(video.contact_sheet(videos, "a caption"))
    assert sheet.shape[0] == 48 + 2 * (128 + video.GAP)
    margin = sheet.shape[1] - 5 * (128 + video.GAP) - video.GAP
    left = margin + video.GAP + 3 * (128 + video.GAP)
    assert np.array_equal(sheet[48 : 48 + 128 : 2, left : left + 128 : 2], videos["weak"][3])


def test_a_contact_sheet_of_many_large_frames_stays_viewable():
    sheet = video.contact_sheet({"weak": frames(40, 512, 768)}, "a caption" * 100)
    assert sheet.width < 16 * (256 + video.GAP) + 100 and sheet.height < 300


def test_files_appear_whole_or_not_at_all(tmp_path):
    finals = {"mp4": tmp_path / "v.mp4", "png": tmp_path / "v-frames", "json": tmp_path / "v.json"}
    with pytest.raises(KeyboardInterrupt), runs.whole(finals) as staged:
        staged["mp4"].write_text("half")
        staged["png"].mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with runs.whole(finals) as staged:
            staged["mp4"].write_text(text)
            staged["png"].mkdir()
            (staged["png"] / text).touch()
            staged["json"].write_text(text)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["v-frames", "v.json", "v.mp4"]
        assert finals["mp4"].read_text() == text and [p.name for p in finals["png"].iterdir()] == [text]


def test_what_was_there_survives_a_failed_replacement(tmp_path):
    finals = {"mp4": tmp_path / "v.mp4", "json": tmp_path / "v.json"}
    for path in finals.values():
        path.write_text("old")
    with pytest.raises(OSError), runs.whole(finals) as staged:
        staged["mp4"].write_text("new")
        raise OSError
    assert [path.read_text() for path in finals.values()] == ["old", "old"]


def test_a_sidecar_gives_back_the_request(tmp_path):
    asked = request(seed=7, guidance_scale=2.5, inversion=2, weak_prompt="a blue square")
    (tmp_path / "v.json").write_text(runs.sidecar(asked, {"seconds": 1.0}))
    back, data = runs.read_sidecar(tmp_path / "v.json")
    assert back == asked and data["seconds"] == 1.0


def test_a_sidecar_with_unknown_or_missing_fields_is_refused(tmp_path):
    path = tmp_path / "v.json"
    data = json.loads(runs.sidecar(request(), {}))
    path.write_text(json.dumps({"request": data["request"] | {"strength": 1}}))
    with pytest.raises(ValueError, match="has unknown strength"):
        runs.read_sidecar(path)
    data["request"].pop("seed")
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="lacks seed"):
        runs.read_sidecar(path)
    for text in ("{", "[]", '{"a": 1}', '"text"'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a sidecar"):
            runs.read_sidecar(path)
    path.write_text('{"request": {}, "request": {}}')
    with pytest.raises(ValueError, match="is not a sidecar, .*: not a JSON file: key 'request' stands twice"):
        runs.read_sidecar(path)


def test_the_state_of_an_output_is_read_off_the_folder(tmp_path):
    def state(of: Request, *formats: str) -> str:
        (output,) = runs.place([of], tmp_path, formats or ["mp4"])
        return output.state()[0]

    asked = request()
    assert state(asked) == "new"
    (output,) = runs.place([asked], tmp_path, ["mp4"])
    output.paths["mp4"].touch()
    assert state(asked) == "taken"  # no sidecar says what this is
    output.paths["json"].write_text(runs.sidecar(asked, {}))
    assert state(asked) == "made"
    assert state(asked, "mp4", "gif") == "new"  # the GIF is still to make
    assert state(replace(asked, guidance_scale=4.0)) == "taken"
    assert state(replace(asked, seed=1)) == "new"


def test_different_prompts_seeds_and_variants_have_different_names():
    assert request(seed=3).stem == "a-red-circle-moving-right-seed3"
    prompts = [
        "a cat",
        "A cat",
        "a cat!",
        "a  cat",
        "a-cat",
        "猫",
        "狗",
        "a " * 50 + "cat",
        "a " * 50 + "dog",
        "../a",
    ]
    stems = {request(prompt=prompt, variant=v).stem for prompt in prompts for v in runs.VARIANTS}
    assert len(stems) == len(prompts) * len(runs.VARIANTS)
    assert all(len(stem) < 100 and "/" not in stem and not stem.startswith((".", "-")) for stem in stems)


BAD = {
    "prompt": ["", "  ", None, 3],
    "seed": [-1, 1.5, True, 2**63],
    "num_inference_steps": [0, -3, 1001, 2.0],
    "reflection_steps": [-1, 21],
    "guidance_scale": [float("nan"), float("inf"), "3", None],
    "weak_guidance_scale": [float("-inf")],
    "num_frames": [0, -1],
    "height": [0, 63, 65, -8],
    "width": [4],
    "fps": [0, 8.5],
    "dtype": ["float8"],
    "device": ["gpu", "cuda:"],
    "variant": ["strongest"],
    "inversion": ["x_0", "1", -1],
    "convention": ["publishd"],
    "strong": [" "],
    "weak_text_encoders": ["no"],
    "family": ["animatedif", None],
    "motion_adapter": [None],
    "weak_motion_scale": ["0", float("nan")],
    "weak_routing": ["worst"],
    "adapters": [["a/lora"]],
    "controlnet": [{"model": "a/net", "strong": 1.0, "weak": 0.0}],  # AnimateDiff-SDXL has none
    "ip_adapter": [{"model": "a/ip", "strong": 1.0}, "a/ip"],
    "control": ["edges.png"],
    "ip_image": ["red.png"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values])
def test_what_cannot_be_used_is_refused_by_name_and_value(name, value):
    with pytest.raises(Refused) as caught:
        replace(request(num_inference_steps=20), **{name: value}).check()
    assert caught.value.argument == name and str(caught.value).startswith(f"{name}: {value!r} is not accepted; ")


def test_more_frames_than_the_motion_module_has_positions_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"motion_max_seq_length": 24}')
    assert request(motion_adapter=str(tmp_path), num_frames=24).num_frames == 24
    with pytest.raises(Refused, match="num_frames: 25 .* from 1 to 24"):
        request(motion_adapter=str(tmp_path), num_frames=25)


def test_lambda_defaults_to_all_steps_but_the_last():
    assert request(num_inference_steps=12).reflection_steps == 11
    assert request(num_inference_steps=1).reflection_steps == 0
    assert request(num_inference_steps=12, reflection_steps=12).reflection_steps == 12
    with pytest.raises(Refused, match="from 0 to 11"):
        request(num_inference_steps=12, reflection_steps=12, convention="published")


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id():
    for path in ("./models/x", "/no/such/place", "model.safetensors", "a/b/c", "package:nothing"):
        with pytest.raises(OSError, match="strong: "):
            request(strong=path)


def test_an_output_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="out: .*file.* is not accepted; give a folder that can be written to"):
        runs.writable(tmp_path / "file" / "below")


@pytest.mark.parametrize("check", [runs.placeable, runs.usable, runs.writable])
def test_an_output_folder_whose_name_is_too_long_is_refused_where_its_parent_is_missing_too(check, tmp_path):
    for name in ("x" * 300, f"missing/{'x' * 300}", f"missing/below/{'x' * 300}/more"):
        with pytest.raises(Refused, match=r"page: .*give a folder that can be written to \(File name too long\)"):
            check(tmp_path / name, "page")
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_no_rows_is_left_as_it_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    for held in (b"\x89PNG\r\n\x1a\n\x00\x01", b"some text", b"a line\nand another\n", b'{"a": 1}\nnot a row'):
        path.write_bytes(held)
        with pytest.raises(ValueError, match="is no file of rows of JSON"):
            runs.rows(path)
        assert path.read_bytes() == held
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert runs.rows(path) == [{"a": 1}] and path.read_bytes() == b'{"a": 1}\n'
    assert runs.rows(tmp_path / "none") == []
