"""The command line as a whole: its options, the table of presets, `doctor`, and a process of its own."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import listing, run

from w2sd_video import setting_options, settings, terminal
from w2sd_video.cli import options
from w2sd_video.eval.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_finished_preset_table_names_every_preset():
    said = run("presets")
    assert "shapes" in said and "animatediff-sdxl-juggernaut" in said and "Table 12" in said
    assert "beta_schedule: scaled_linear" in run("presets", "animatediff-sdxl-juggernaut")
    assert "did you mean 'shapes'" in run("presets", "shape", code=2)
    whole = run("presets", "sdxl-lora")  # what it extends is in it
    assert "model: xlMoreArtFullV1" in whole and "extends" not in whole and "guidance_scale: 5.5" in whole
    Path("own.yaml").write_text(whole, encoding="utf-8")
    assert run("presets", "own.yaml") == whole  # a file of its own says the same


def test_doctor_of_a_preset_says_what_that_preset_has_and_lacks(offline):
    said = run("doctor", "shapes")
    assert said.startswith("Weights\n") and said.count(": shipped") == 3 and "torch:" not in said
    assert "hf download RunDiffusion/Juggernaut-XL-v9" in run("doctor", "animatediff-sdxl-juggernaut")
    assert "did you mean 'shapes'" in run("doctor", "shape", code=2)
    assert "give it alone, or --try PRESET" in run("doctor", "shapes", "--try", "shapes", code=2)
    assert "hf download Qwen/Qwen2.5-1.5B-Instruct" in run("doctor", "sdxl-prompt")  # its refiner
    assert "no preset is given: give it alone" in run("doctor", "shapes", "--weights", ".", code=2)
    assert "'nowhere' is not accepted; give a folder" in run("doctor", "--weights", "nowhere", code=2)


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
    Path("raft_model/models").mkdir(parents=True)
    Path("raft_model/models/raft-things.pth").touch()
    said = run("doctor", "--weights", ".")
    assert "dynamic_degree: RAFT (things), 21 MB, BSD-3-Clause; found: raft_model/models/raft-things.pth" in said
    assert "--local-dir facebook/dino-vitb16  (or have it as dino_model/dino_vitbase16_pretrain.pth)" in said


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_does_as_it_does_here(tmp_path):
    """What a test within a process cannot see: what is read as the package is imported, and the streams."""

    def process(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path / "empty")}
        command = [sys.executable, "-m", "w2sd_video", *arguments]
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


@pytest.mark.parametrize("text, seeds", [("7", [7]), ("0,3,8-10", [0, 3, 8, 9, 10]), ("1, 1-2", [1, 2])])
def test_seeds_are_numbers_lists_and_ranges(text, seeds):
    assert options.parse_seeds(text) == seeds


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
