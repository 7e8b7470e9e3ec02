"""Options of a run that a preset or the command line sets: method, scheduler, offload, compiled networks, progress."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
from command_lines import command_lines
from typer.testing import CliRunner

from w2sd_video import plugins, presets, settings
from w2sd_video.cli import app
from w2sd_video.cli.options import SCHEDULERS, having
from w2sd_video.families import FAMILIES
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, sample
from w2sd_video.schedulers import check_scheduler

PROMPT = "a red circle moving right"
SMALL = ["--steps", "1", "--frames", "2"]
METHOD = """
from dataclasses import dataclass
from w2sd_video.methods import W2SD


@dataclass(frozen=True)
class Mine(W2SD):
    pass
"""


def preset(folder, **more):
    lines = ["extends: shapes", "description: a pair", "source: here", *(f"{k}: {v}" for k, v in more.items())]
    (folder / "mine.yaml").write_text("\n".join(lines))
    return presets.load(str(folder / "mine.yaml"))


def test_a_preset_carries_a_method_and_its_options(tmp_path):
    pair = preset(tmp_path, method="optimistic", options="{motion_gain: 2.0, still_gain: 0.5}")
    request = Request.of(PROMPT, 0, pair)
    assert (request.method, request.options) == ("optimistic", {"motion_gain": 2.0, "still_gain": 0.5})
    assert Request.of(PROMPT, 0, pair, options={"still_gain": 1.0}).options == {"motion_gain": 2.0, "still_gain": 1.0}
    other = Request.of(PROMPT, 0, pair, method="auto_guidance")
    assert (other.method, other.options) == ("auto_guidance", {})


def test_a_method_that_a_preset_names_wrongly_is_refused(tmp_path):
    with pytest.raises(Refused, match="method: 'optimist' .*optimistic"):
        Request.of(PROMPT, 0, preset(tmp_path, method="optimist"))
    with pytest.raises(Refused, match="option of optimistic: 'gain' is not accepted"):
        Request.of(PROMPT, 0, preset(tmp_path, method="optimistic", options="{gain: 2.0}"))


def test_code_that_a_preset_names_runs_only_where_the_user_names_it(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    file = f"{tmp_path / 'mine.py'}:Mine"
    pair = preset(tmp_path, method=file)
    with pytest.raises(Refused, match="code runs only from a file that is named"):
        Request.of(PROMPT, 0, pair)
    assert Request.of(PROMPT, 0, pair, method="w2sd").method == "w2sd"
    named = plugins.from_file("method", file)
    assert Request.of(PROMPT, 0, pair, method=named.name, method_sha256=named.sha256).method_name == "Mine"


def test_another_scheduler_keeps_what_the_schedule_says():
    pair = presets.load("shapes")
    own = pair.schedules[pair.schedule]
    assert Request.of(PROMPT, scheduler="DDIMScheduler").scheduler == own  # the schedule's own class
    said = Request.of(PROMPT, scheduler="DPMSolverMultistepScheduler use_karras_sigmas=true solver_order=2").scheduler
    kept = {key: value for key, value in own.items() if key not in ("class", "clip_sample", "set_alpha_to_one")}
    assert said == {"class": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "solver_order": 2, **kept}


@command_lines("""
    --scheduler Foo => --scheduler: 'Foo' is not accepted; give a scheduler of diffusers
    --scheduler 'DDIMScheduler eta' => give a diffusers class, and NAME=VALUE with spaces between
    --scheduler 'EulerDiscreteScheduler foo=1' => EulerDiscreteScheduler has no such argument
    --scheduler 'DDIMScheduler class=EulerDiscreteScheduler' => each name once
    --scheduler 'DDIMScheduler clip_sample=no clip_sample=yes' => each name once
    --scheduler FlowMatchEulerDiscreteScheduler => it cannot be told the beta_schedule, beta_start, beta_end
    --offload disk => --offload: 'disk' is not accepted; Available: none, model, sequential, group
    --offload model --device cpu => it needs an accelerator
""")
def test_options_that_cannot_be_served_are_refused(options, says, tmp_path):
    ran = CliRunner().invoke(app, ["generate", PROMPT, "--out", str(tmp_path / "out"), *SMALL, *options])
    assert ran.exit_code == 2 and says in ran.stderr


@pytest.mark.slow
def test_a_batch_says_how_far_it_is_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr("w2sd_video.progress.EVERY", 0.0)
    arguments = ["generate", PROMPT, "--seed", "0-2", "--out", str(tmp_path), "--plain", *SMALL]
    lines = CliRunner().invoke(app, arguments).stderr.splitlines()
    amounts = [re.match(r"videos: (\d)/3(?:, (\d+:\d\d:\d\d) left)? \(.*step \d of \d\)$", line) for line in lines]
    assert all(amounts) and [*dict.fromkeys(each[1] for each in amounts)] == ["1", "2", "3"]
    assert amounts[0][2] is None and amounts[-1][2] == "0:00:00"
    assert CliRunner().invoke(app, arguments).stderr == ""  # all of them are there already


def test_names_of_files_are_what_they_were_before_there_were_these_options():
    of_then = {"num_inference_steps": 15, "guidance_scale": 3.0, "strong_guidance_scale": 3.0}
    assert Request.of(PROMPT, 3, **of_then).long_stem == "a-red-circle-moving-right-seed3-c7d2c9c8830feb89"


@pytest.mark.exhaustive
def test_compiled_blocks_make_the_same_video():
    frames = []
    for compiled in (False, True):
        request = Request.of(PROMPT, num_inference_steps=2, num_frames=4, compile=compiled)
        frames.append(sample(load(request)["w2sd"], request, "w2sd")[0].astype(int))
    assert np.abs(frames[0] - frames[1]).max() <= 1


OTHERS = [
    ("generate --convention pub", "published"),
    ("generate --dtype bf", "bfloat16"),
    ("generate --schedule ", "default"),
    ("generate --inversion x_", "x_s x_t"),
    ("generate --weak-routing w", "worst"),
    ("image --device c", "cpu cuda"),
    ("check-pair --dimensions six,hps_v2_", "six,hps_v2_1"),
    ("eval --backend off", "official"),
    ("eval --format m", "markdown"),
    ("presets --format ", "text json"),
    ("doctor --try shapes-d", "shapes-digits"),
    ("shapes ju", "judge"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, completed",
    [
        ("gen", "generate"),
        ("generate --preset shapes-m", "shapes-motion"),
        ("generate --weak-motion-s", "--weak-motion-scale"),
        ("generate --pair shapes-m", "shapes-motion"),
        ("generate --method opt", "optimistic"),
        ("generate --offload seq", "sequential"),
        ("generate --scheduler Eul", "EulerDiscreteScheduler"),
        *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in OTHERS),
    ],
)
def test_a_shell_completes_commands_options_and_values(words, completed):
    line = ["w2sd-video", *words.split(" ")]
    asked = {"_W2SD_VIDEO_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    program = Path(sys.executable).with_name("w2sd-video")
    ran = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True)
    assert ran.stdout.split() == completed.split()


def test_what_a_shell_completes_without_torch_is_what_there_is():
    for name in SCHEDULERS:
        config = {"clip_sample": False} if "DDIM" in name else {}
        check_scheduler(getattr(diffusers, name)(**config))
    with pytest.raises(ValueError, match=", ".join(SCHEDULERS)):
        check_scheduler(diffusers.DDPMScheduler())
    every = [*having(tuple(FAMILIES))]
    assert {name for name in every if settings.words(name)} == {"dtype", "offload", "convention"}
