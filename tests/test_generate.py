"""What `generate` and `image` write, with tiny models of the real classes, saved as a user would have them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from commands import PROMPT, STEM, STEPS, generate, hashes, listing, run, sidecar
from PIL import Image

from w2sd_video import progress

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_generate_writes_a_video_and_a_sidecar_and_says_where(small):
    said = generate(PROMPT, *small)
    assert listing() == [f"{STEM}.json", f"{STEM}.mp4"]
    assert f"outputs/{STEM}.mp4" in said and f"outputs/{STEM}.json" in said
    meta = next(imageio_ffmpeg.read_frames(f"outputs/{STEM}.mp4"))
    assert meta["size"] == (24, 16) and meta["fps"] == 8 and meta["codec"] == "h264"


def test_off_a_terminal_long_sampling_says_how_far_it_is(small, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    said = generate(PROMPT, "--seed", "0,1", "--compare", *small)
    lines = re.findall(r"videos: ([0-2])/2.* \(\S+ (weak|strong|w2sd): step \d of (\d)\)\n", said)
    assert {(variant, int(steps)) for _, variant, steps in lines} == {(v, STEPS) for v in ("weak", "strong", "w2sd")}
    assert len(lines) == 6 * STEPS and [int(done) for done, *_ in lines] == sorted(int(done) for done, *_ in lines)
    assert "left" in said


def test_the_sidecar_holds_what_it_takes_to_make_the_video_again(small):
    generate(PROMPT, *small, "--seed", 5, "--negative-prompt", "a dog", "--weak-guidance", 0.5)
    made = sidecar("a-red-cat-seed5")
    asked, video = made["request"], made["videos"]["w2sd"]
    assert (asked["prompt"], asked["negative_prompt"]) == (PROMPT, "a dog")
    assert (asked["seed"], asked["preset"]) == (5, "shapes")
    scales = [asked[f"{name}guidance_scale"] for name in ("", "strong_", "weak_")]
    assert scales == [1.5, 1.5, 0.5] and asked["reflection_steps"] == STEPS - 1
    assert (asked["inversion"], asked["convention"], video["method"]) == ("x_s", "exact", "w2sd")
    assert asked["scheduler"]["class"] == "DDIMScheduler" and asked["scheduler"]["timestep_spacing"] == "linspace"
    assert (asked["num_frames"], asked["height"], asked["width"], asked["fps"]) == (3, 16, 24, 8)
    assert (asked["dtype"], made["device"]) == ("float32", "cpu")
    assert {"python", "w2sd-video", "torch", "diffusers", "transformers"} <= made["versions"].keys()
    hashed = made["weights"]["w2sd"]
    assert {"unet", "weak_unet", "vae", "text_encoder"} <= hashed.keys() and hashed["unet"] != hashed["weak_unet"]
    assert made["seconds"] > 0 and made["command"] and made["files"] == ["a-red-cat-seed5.mp4"]


@pytest.mark.parametrize(
    "options, strong, weak",
    [
        # guidance 3 takes 2 evaluations, 1 takes 1; reflection: strong at x_t, weak at x_s, strong at x~_t
        ([], 2 * 4 + 2, 2 * 1),
        (["--strong-guidance", 1], 2 * 3 + 2, 2 * 1),
        (["--reflection-steps", 0], 3 * 2, 0),
        # the last of these timesteps is 0, whose step stays at its level: there is nothing to come back from
        (["--reflection-steps", 3], 2 * 4 + 2, 2 * 1),
        (["--plain"], 3 * 2, 0),
        (["--plain", "--guidance", 1], 3 * 1, 0),
        (["--weak-only"], 3 * 2, 0),
        (["--method", "s2wd"], 2 * 4 + 2, 2 * 1),
        (["--method", "re_sampling"], 2 * 4 + 2, 0),
        (["--method", "z_sampling"], 2 * 4 + 2, 2 * 1),
        (["--method", "auto_guidance"], 2 * 2 + 2, 2 * 1),
    ],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(
    case=lambda options: options in ([], ["--reflection-steps", 3], ["--plain", "--guidance", 1], ["--weak-only"])
)
def test_the_sidecar_counts_network_evaluations_as_the_arithmetic_says(small, options, strong, weak):
    generate(PROMPT, *small, *options)
    (path,) = Path("outputs").glob("*.json")
    (video,) = json.loads(path.read_text())["videos"].values()
    assert video["evaluations"] == {"strong": strong, "weak": weak, "total": strong + weak}


def test_a_sidecar_makes_the_same_frames_again(small):
    options = ["--inversion", 1, "--weak-prompt", "a cat", "--set", "motion_gain=2", "--set", "interval=[0.1,1]"]
    generate(PROMPT, *small, "--seed", 3, "--png", *options)
    name = "a-red-cat-seed3"
    assert sidecar(name)["request"]["options"] == {"motion_gain": 2, "interval": [0.1, 1]}
    said = generate("--from", f"outputs/{name}.json", "--out", "again")
    assert "every frame is the same" in said
    assert hashes(name) == hashes(name, "again")
    for path in Path(f"outputs/{name}-frames").iterdir():
        assert np.array_equal(Image.open(path), Image.open(Path(f"again/{name}-frames") / path.name))
    assert sidecar(name)["request"] == sidecar(name, "again")["request"]


@pytest.mark.slow
def test_a_remade_video_that_differs_is_reported_with_what_differs(small):
    generate(PROMPT, *small)
    other = sidecar()
    other["videos"]["w2sd"]["frames_sha256"] = "0"
    other["versions"]["torch"] = "1.0"
    Path("other.json").write_text(json.dumps(other))
    assert "frames differ from the sidecar's; what differs: versions" in generate("--from", "other.json", "--out", "x")


@pytest.mark.slow
def test_a_seed_gives_the_same_video_whatever_else_is_made(small):
    generate(PROMPT, "a cat", *small, "--seed", "0,2-3")
    generate(PROMPT, *small, "--seed", 3, "--out", "alone")
    assert len(listing()) == 2 * 2 * 3
    assert hashes("a-red-cat-seed3") == hashes("a-red-cat-seed3", "alone")
    assert hashes("a-red-cat-seed3") != hashes("a-red-cat-seed2")


@pytest.mark.slow
def test_plain_and_weak_only_are_the_strong_and_the_weak_model_alone(small, models):
    generate(PROMPT, *small, "--plain")
    generate(PROMPT, *small, "--weak-only")
    generate(PROMPT, *small, "--reflection-steps", 0)
    plain, weak = hashes(f"{STEM}-plain")["strong"], hashes(f"{STEM}-weak")["weak"]
    assert plain == hashes()["w2sd"] != weak
    swapped = [*small]
    swapped[1], swapped[3] = small[3], small[1]
    generate(PROMPT, *swapped, "--plain", "--out", "swapped")
    assert hashes(f"{STEM}-plain", "swapped")["strong"] == weak
    assert sidecar(f"{STEM}-plain")["videos"]["strong"]["method"] is None


@pytest.mark.slow
def test_compare_makes_the_three_videos_that_are_made_alone(small):
    generate(PROMPT, *small, "--compare", "--gif", "--png")
    name = f"{STEM}-compare"
    made = [f"{name}{end}" for end in ("-frames", ".gif", ".json", ".mp4", ".png")]
    assert listing() == [*made, "plain", "w2sd", "weak"]
    for option, variant, stem in (
        ("--plain", "strong", f"{STEM}-plain"),
        ("--weak-only", "weak", f"{STEM}-weak"),
        ("--seed=0", "w2sd", STEM),
    ):
        generate(PROMPT, *small, option, "--out", "alone")
        assert hashes(stem, "alone")[variant] == hashes(name)[variant]
    width, height = next(imageio_ffmpeg.read_frames(f"outputs/{name}.mp4"))["size"]
    assert width > 3 * 256 and height > 16 * 11  # 24 x 16, enlarged 11 times
    sheet = Image.open(f"outputs/{name}.png")
    assert sheet.width > 3 * 144 and sheet.height > 3 * 96
    assert sorted(path.name for path in Path(f"outputs/{name}-frames").iterdir()) == [
        "strong",
        "w2sd",
        "weak",
    ]


@pytest.mark.slow
def test_the_weak_arm_has_its_own_text_encoders_where_it_is_asked_for(small):
    generate(PROMPT, *small, "--weak-text-encoders")
    assert "weak_text_encoder" in sidecar()["weights"]["w2sd"] and sidecar()["request"]["weak_text_encoders"]
    generate(PROMPT, *small, "--no-weak-text-encoders", "--out", "other")
    assert "weak_text_encoder" not in sidecar(folder="other")["weights"]["w2sd"]
    assert hashes() != hashes(folder="other")


def test_the_shipped_model_makes_a_video_from_any_folder_without_a_hub(offline):
    generate("a red circle moving right", "--steps", 2, "--frames", 4)
    assert listing() == [f"a-red-circle-moving-right-seed0.{kind}" for kind in ("json", "mp4")]


def test_prompts_come_from_a_file_too(small):
    Path("prompts.txt").write_text("# animals\na cat\n\n  a dog  \na cat\n")
    generate("a bird", "--prompts", "prompts.txt", *small, "--steps", 1)
    assert [name for name in listing() if name.endswith(".mp4")] == [
        f"{name}-seed0.mp4" for name in ("a-bird", "a-cat", "a-dog")
    ]


def test_gif_and_png_lie_beside_the_video(small):
    generate(PROMPT, *small, "--gif", "--png", "--fps", 5)
    assert listing() == [f"{STEM}{end}" for end in ("-frames", ".gif", ".json", ".mp4")]
    assert [path.name for path in sorted(Path(f"outputs/{STEM}-frames").iterdir())] == [f"000{i}.png" for i in range(3)]
    assert Image.open(f"outputs/{STEM}.gif").info["duration"] == 200
    assert sidecar()["formats"] == ["mp4", "gif", "png"]


@pytest.mark.slow
def test_a_comparison_is_three_groups_that_eval_compares(small):
    generate(PROMPT, *small, "--compare")
    folders = [f"outputs/{name}" for name in ("plain", "weak", "w2sd")]
    assert "(already made)" in generate(PROMPT, *small, "--plain", "--out", folders[0])
    assert "(already made)" in generate(PROMPT, *small, "--compare")
    run("eval", *folders, "--dimensions", "temporal_flickering")
    pairs = json.loads(Path("results.json").read_text())
    assert "outputs/w2sd" in json.dumps(pairs) and f"{PROMPT}, seed 0" in json.dumps(pairs)


@pytest.mark.slow
def test_an_image_comparison_has_single_images(small):
    run("image", "a red circle", "--steps", 1, "--compare", "--device", "cpu")
    name = "a-red-circle-seed0"
    assert listing() == [f"{name}-compare.json", f"{name}-compare.png", "plain", "w2sd", "weak"]
    assert listing("outputs/w2sd") == [f"{name}.json", f"{name}.png"]
