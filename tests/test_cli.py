"""The command line, run on tiny models of the real classes, saved as a user would have them."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import tiny
from command_lines import command_lines
from copies import UNCHANGED
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from typer.testing import CliRunner

from w2sd_video import check_pair, cli, presets, runs, setting_options, settings, terminal
from w2sd_video.cli import options
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.shapes import WEIGHTS

PROMPT = "a red cat"
STEM = "a-red-cat-seed0"
STEPS = 3


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[str]:
    """Options that name tiny strong, weak and motion folders, in diffusers' layout."""
    root = tmp_path_factory.mktemp("models")
    for name, seed in (("strong", 0), ("weak", 10)):
        encoders = dict(zip(("text_encoder", "text_encoder_2"), tiny.text_encoders(seed), strict=True))
        parts = tiny.components(weak=False, unet=tiny.unet2d(seed), **encoders)
        parts = {key: value for key, value in parts.items() if key not in ("motion_adapter", "weak_unet")}
        StableDiffusionXLPipeline(**parts).save_pretrained(root / name)
    tiny.motion_adapter().save_pretrained(root / "motion")
    UNCHANGED.append(str(root))
    return [part for name in ("strong", "weak", "motion") for part in (f"--{name}", str(root / name))]


@pytest.fixture
def small(models) -> list[str]:
    """Tiny models at a tiny size."""
    return [*models, *f"--height 16 --width 24 --frames 3 --steps {STEPS} --device cpu".split()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder, without a hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """An empty cache of the hub, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path.with_name("hub")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(*arguments: object, code: int = 0, typed: str | None = None) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=typed)
    assert result.exit_code == code, result.output
    return result.output


def generate(*arguments: object, code: int = 0) -> str:
    return run("generate", *arguments, code=code)


def sidecar(name: str = STEM, folder: str = "outputs") -> dict:
    return json.loads((Path(folder) / f"{name}.json").read_text())


def hashes(name: str = STEM, folder: str = "outputs") -> dict[str, str]:
    return {variant: video["frames_sha256"] for variant, video in sidecar(name, folder)["videos"].items()}


def listing(folder: str = "outputs") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).exists() else []


def test_generate_writes_a_video_and_a_sidecar_and_says_where(small):
    said = generate(PROMPT, *small)
    assert listing() == [f"{STEM}.json", f"{STEM}.mp4"]
    assert f"outputs/{STEM}.mp4" in said and f"outputs/{STEM}.json" in said
    meta = next(imageio_ffmpeg.read_frames(f"outputs/{STEM}.mp4"))
    assert meta["size"] == (24, 16) and meta["fps"] == 8 and meta["codec"] == "h264"


def test_off_a_terminal_long_sampling_says_how_far_it_is(small, monkeypatch):
    module = sys.modules["w2sd_video.cli.generate"]  # the package has the command under this name
    monkeypatch.setattr(module, "EVERY", 0.0)
    assert f": step {STEPS} of {STEPS}\n" in generate(PROMPT, *small)


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


@pytest.mark.slow
def test_what_is_made_already_is_kept_and_the_rest_goes_on(small):
    generate(PROMPT, *small)
    before = (Path("outputs") / f"{STEM}.mp4").stat().st_mtime_ns
    said = generate(PROMPT, *small, "--seed", "0,1")
    assert f"{STEM}.mp4  (already made)" in said and "a-red-cat-seed1.mp4" in listing()
    assert (Path("outputs") / f"{STEM}.mp4").stat().st_mtime_ns == before
    generate(PROMPT, *small, "--gif")  # the same video, one more format
    assert f"{STEM}.gif" in listing()


@pytest.mark.slow
def test_another_video_of_the_same_name_is_not_replaced_unless_told(small):
    generate(PROMPT, *small)
    before = hashes()
    said = generate(PROMPT, *small, "--guidance", 5, code=2)
    assert f"{STEM}.mp4" in said and "--overwrite" in said and hashes() == before
    generate(PROMPT, *small, "--guidance", 5, "--overwrite")
    assert hashes() != before


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


@command_lines("""
    '' => PROMPT: '' is not accepted
    'a cat' --height 63 => --height: 63 is not accepted; give a multiple of 8
    'a cat' --steps -3 => --steps: -3 is not accepted; give a whole number from 1 to 1000
    'a cat' --steps many => '--steps' / '--T': 'many' is not a whole number
    'a cat' --preset shape => preset 'shape' is unknown; did you mean 'shapes'?
    'a cat' --schedule cosine => --schedule: 'cosine' is not accepted
    'a cat' --frames 9 => --frames: 9 is not accepted; give a whole number from 1 to 8
    'a cat' --guidance nan => --guidance: nan is not accepted; give a finite number
    'a cat' --weak-guidance inf => --weak-guidance: inf is not accepted
    'a cat' --strong-guidance x => '--strong-guidance' / '--strong_guidance_scale': 'x' is not a number
    'a cat' --reflection-steps 4 => --reflection-steps: 4 is not accepted; give a whole number from 0 to 3
    'a cat' --seed -1 => --seed: '-1' is not accepted; give whole numbers from 0 up
    'a cat' --seed 3-1 => --seed: '3-1' is not accepted
    'a cat' --inversion x_0 => --inversion: 'x_0' is not accepted
    'a red cat' --method s2w => --method: 's2w' is not accepted; did you mean 's2wd'?
    'a red cat' --set motion_gian=2 => --set: 'motion_gian' is no option of w2sd; did you mean 'motion_gai
    'a red cat' --set cap=-1 => `cap` has to be a finite number from 0, but is -1
    'a red cat' --set cap => --set: 'cap' is not accepted; give NAME=VALUE
    'a cat' --dtype float8 => --dtype: 'float8' is not accepted; did you mean
    'a cat' --device tpu => --device: 'tpu' is not accepted
    'a cat' --strong /no/model => strong: '/no/model' is not there
    'a cat' --out /dev/null/x => --out: '/dev/null/x' is not accepted; give a folder that can be written to
    'a cat' --plain --compare => exclude one another
    'a cat' --plain --set motion_gain=2 => --plain and --weak-only sample without a method
    'a cat' --method weak => --method: 'weak' is not accepted; Available: w2sd
    'a cat' --set cap=-1 => --set: cap=-1 is not accepted
    'a cat' --prompts none.txt => --prompts: 'none.txt' is not accepted
    'a cat' --from x.json => --from takes everything from the sidecar
    --from none.json => --from: 'none.json' is not accepted
    => PROMPT is missing
""")
def test_bad_input_is_refused_in_words_before_anything_is_written(small, options, says):
    if "--from" in options:
        small = []
    assert says in generate(*small, *options, code=2)
    assert listing(".") == []


def test_damaged_weights_are_refused_by_name(small, models):
    shutil.copytree(models[1], "damaged")
    (unet,) = Path("damaged/unet").glob("*.safetensors")
    unet.write_bytes(unet.read_bytes()[: unet.stat().st_size // 2])
    said = generate(PROMPT, *small, "--strong", "damaged", code=2)
    assert "/damaged' is damaged or not complete" in said and listing() == []


def test_a_device_that_is_not_there_is_refused(small):
    said = generate(PROMPT, *small, "--device", "cuda:99", code=2)
    assert "--device: 'cuda:99' is not accepted" in said and listing() == []


def test_without_weights_a_real_preset_says_how_to_get_them(offline):
    said = generate("a cat", "--preset", "animatediff-sdxl-juggernaut", code=2)
    assert "hf download RunDiffusion/Juggernaut-XL-v9" in said and listing() == []


@pytest.mark.slow
def test_all_missing_weights_are_named_at_once_and_before_torch_is_needed(offline, tmp_path):
    both = ("hf download Wan-AI/Wan2.1-T2V-14B-Diffusers", "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    said = generate("a cat", "--preset", "wan21-14b-1.3b", code=2)
    assert all(each in said for each in both)
    assert both[1] not in generate("a cat", "--preset", "wan21-14b-1.3b", "--plain", code=2)
    (tmp_path / "wan.yaml").write_text("prompts: [a cat]\npreset: wan21-14b-1.3b\n")
    said = run("run", tmp_path / "wan.yaml", "--dry-run")
    assert "left: 1 cells" in said and all(each in said for each in both)
    assert all(each in run("run", tmp_path / "wan.yaml", code=2) for each in both)
    assert not (tmp_path / "wan").exists()


@pytest.mark.parametrize(
    "option, model, says",
    [
        ("--weak", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "is of the family wan, and this pair is of animatediff-sdxl"),
        ("--strong", WEIGHTS / "digits", "is a DiTMoEPipeline, of the family dit-moe, and this pair is"),
    ],
)
def test_a_model_of_another_family_is_refused_with_presets_of_its_own(offline, option, model, says):
    said = generate("a red circle", option, model, code=2)
    assert says in said and "Choose a preset of its family: --preset " in said and "hf download" not in said


def test_a_dry_run_refuses_the_folder_that_the_run_would(tmp_path):
    (tmp_path / "plan.yaml").write_text("prompts: [a red circle]\n")
    (tmp_path / "file").write_text("")
    for place in ("file", "file/folder"):
        said = run("run", tmp_path / "plan.yaml", "--out", tmp_path / place, "--dry-run", code=2)
        assert "give a folder that can be written to (Not a directory)" in said


@pytest.mark.slow
def test_interrupting_leaves_whole_videos_only_and_the_same_command_goes_on(small):
    command = [
        sys.executable,
        "-m",
        "w2sd_video.cli",
        "generate",
        PROMPT,
        *small,
        "--seed",
        "0-99",
        "--steps",
        "20",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell starts background jobs with interrupts ignored, which would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not Path(f"outputs/{STEM}.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "Traceback" not in said, said
    made = listing()
    assert not [name for name in made if name.startswith(".")] and len(made) % 2 == 0
    for name in made:
        if name.endswith(".json"):
            json.loads((Path("outputs") / name).read_text())
            assert next(imageio_ffmpeg.read_frames(f"outputs/{name[:-5]}.mp4"))["duration"] > 0
    assert "(already made)" in generate(PROMPT, *small, "--seed", "0", "--steps", 20)


def test_a_finished_preset_table_names_every_preset():
    said = run("presets")
    assert "shapes" in said and "animatediff-sdxl-juggernaut" in said and "Table 12" in said
    assert "beta_schedule: scaled_linear" in run("presets", "animatediff-sdxl-juggernaut")
    assert "did you mean 'shapes'" in run("presets", "shape", code=2)
    whole = run("presets", "sdxl-lora")  # what it extends is in it
    assert "model: xlMoreArtFullV1" in whole and "extends" not in whole and "guidance_scale: 5.5" in whole
    Path("own.yaml").write_text(whole, encoding="utf-8")
    assert run("presets", "own.yaml") == whole  # a file of its own says the same


@pytest.mark.slow
def test_doctor_reports_and_says_how_to_get_what_is_missing(offline):
    said = run("doctor")
    for what in (
        "Versions",
        "torch: ",
        "cpu: ",
        "ffmpeg",
        "package:shapes/weights/tuned: shipped",
        "hf download RunDiffusion/Juggernaut-XL-v9",
    ):
        assert what in said


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_does_as_it_does_here(tmp_path):
    """What a test within a process cannot see: what is read as the package is imported, and the streams."""

    def process(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path / "empty")}
        command = [sys.executable, "-m", "w2sd_video.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    ran = process("generate", "a red circle moving right", "--steps", "2", "--frames", "4")
    assert ran.returncode == 0, ran.stderr
    assert listing() == [f"a-red-circle-moving-right-seed0.{kind}" for kind in ("json", "mp4")]
    ran = process("generate", "a cat", "--preset", "animatediff-sdxl-juggernaut", "--out", "other")
    assert ran.returncode == 2 and "hf download RunDiffusion/Juggernaut-XL-v9" in ran.stderr
    assert "Traceback" not in ran.stderr and listing("other") == []
    ran = process("doctor")
    assert ran.returncode == 0 and "Traceback" not in ran.stderr
    assert "hf download RunDiffusion/Juggernaut-XL-v9" in ran.stdout


def test_a_prompt_outside_the_shapes_grammar_is_refused_with_the_words_and_the_way_out():
    said = generate("a photo of a cat", code=2)
    assert "circle" in said and "w2sd-video presets" in said and listing() == []


@pytest.mark.parametrize("text, seeds", [("7", [7]), ("0,3,8-10", [0, 3, 8, 9, 10]), ("1, 1-2", [1, 2])])
def test_seeds_are_numbers_lists_and_ranges(text, seeds):
    assert options.parse_seeds(text) == seeds


def test_more_seeds_than_anyone_means_are_refused_at_once():
    assert "at most 10000 seeds" in generate(PROMPT, "--seed", "0-99999999999", code=2)


HELPS = ("generate", "eval", "best", "shapes train")


def test_every_option_in_a_message_is_one_that_there_is():
    options = {option for name in HELPS for option in re.findall(r"--[a-z\d-]+", run(*name.split(), "--help"))}
    messages = [*terminal.OPTIONS.values(), *map(setting_options.option, settings.names())]
    assert {part for option in messages for part in option.split("/") if part.startswith("--")} <= options
    known = {
        *inspect.signature(evaluate).parameters,
        "out",
        "formats",
        "schedule",
        "backend",
        "official_python",
        "stage",
        "lora",
        "image_encoder",
        "by",
    }
    assert set(terminal.OPTIONS) <= known


@pytest.mark.slow
def test_overwriting_leaves_no_file_of_the_former_video(small):
    generate(PROMPT, *small, "--gif", "--png")
    Path("outputs/mine.gif").touch()
    generate(PROMPT, *small, "--guidance", 5, "--overwrite")
    assert listing() == [f"{STEM}.json", f"{STEM}.mp4", "mine.gif"]


@pytest.mark.slow
def test_a_truncated_video_is_not_said_to_be_made_and_is_made_again_once_it_is_deleted(small):
    generate(PROMPT, *small)
    path = Path(f"outputs/{STEM}.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = generate(PROMPT, *small, code=2)
    assert (
        f"{path} has {len(whole) // 2} bytes, and its sidecar says {len(whole)}" in said and "already made" not in said
    )
    assert f"{path} has {len(whole) // 2} bytes" in generate("--from", f"outputs/{STEM}.json", "--out", "again")
    path.unlink()
    generate(PROMPT, *small)
    assert path.read_bytes() == whole == Path(f"again/{STEM}.mp4").read_bytes()


def test_verify_compares_hashes(small):
    generate(PROMPT, *small)
    path = Path(f"outputs/{STEM}.mp4")
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "(already made)" in generate(PROMPT, *small)
    assert "is not the file whose hash its sidecar has" in generate(PROMPT, *small, "--verify", code=2)


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


def test_check_pair_refuses_a_name_before_it_asks_the_models_and_names_only_options_that_it_has():
    Path("pair/plain").mkdir(parents=True)
    first = check_pair.samples(presets.load("shapes"), 2, [], None, Path("pair/shown"))[0]
    (output,) = runs.place([runs.Request.of(first.prompt, 0, variant="plain")], Path("pair/plain"), ["mp4"])
    output.paths["mp4"].write_text("of the user")
    said = run("check-pair", "--samples", 2, code=2)
    assert f"{output.paths['mp4']} already exists" in said and "Give another --out" in said
    assert "--overwrite" not in said and not Path("pair/alignment.csv").exists()
