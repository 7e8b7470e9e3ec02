"""Errors say where a value comes from: the option, the preset and its key, or the sidecar and its field."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from w2sd_video import presets
from w2sd_video.cli import app
from w2sd_video.errors import NotFinite, WeightsError, WeightsNotFound
from w2sd_video.models.sources import Source
from w2sd_video.runs import Refused, Request, sidecar
from w2sd_video.terminal import messages

PROMPT = "a red circle moving right"
SMALL = ["--steps", "2", "--frames", "2"]


def preset(folder: Path, extends: str = "shapes", **values) -> str:
    path = folder / "pair.yaml"
    path.write_text(yaml.safe_dump({"extends": extends, "description": "x", "source": "x", **values}))
    return str(path)


def run(*arguments: object, code: int = 2) -> str:
    ran = CliRunner().invoke(app, list(map(str, arguments)))
    assert ran.exit_code == code, ran.output
    return ran.stderr


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


OF_PRESETS = [  # what a file says, options beside it, and how the error begins
    ({"options": {"cap": -1}}, [], "its options (--set replaces it): cap=-1 is not accepted; `cap` has to be"),
    ({"options": {"cap": -1}}, ["--set", "motion_gain=2"], "its options (--set replaces it): cap=-1 is not"),
    ({"options": {"gain": 1}}, [], "its option of w2sd (--set replaces it): 'gain' is not accepted"),
    ({"method": "s2w"}, [], "its method (--method replaces it): 's2w' is not accepted; did you mean 's2wd'?"),
    ({"reflection_steps": 30}, ["--steps", "5"], "its reflection_steps (--reflection-steps replaces it): 30 is not"),
    ({"guidance_scale": 0.5}, ["--plain"], "its guidance_scale (--guidance replaces it): 0.5 is not accepted"),
    ({"strong": "/no/model"}, [], "its strong (--strong replaces it): '/no/model' is not there"),
    ({"num_frames": 4000}, [], "its num_frames (--frames replaces it): 4000 is not accepted"),
    ({"weak": None, "weak_text_encoders": True}, [], "its weak_text_encoders (--weak-text-encoders replaces it): True"),
    (
        {"schedules": {"a": {"class": "DDIMScheduler", "num_train_timesteps": 0}}, "schedule": "a"},
        [],
        "its schedules.a.num_train_timesteps (--scheduler replaces it): 0 is not accepted",
    ),
    (
        {"adapters": {"one": {"model": "a/one", "strong": 1.0, "weak": -1.0}}},
        ["--weak", "a/weak"],
        "its adapters.one.weak (--lora replaces it): -1.0 is not accepted; it acts on the strong arm's network",
    ),
]


@pytest.mark.parametrize("values, options, says", OF_PRESETS, ids=lambda each: str(each)[:40])
def test_what_a_preset_says_wrongly_is_named_by_the_preset_and_its_key(values, options, says, tmp_path):
    pair = preset(tmp_path, **values)
    assert run("generate", PROMPT, "--preset", pair, *options).startswith(f"Error: preset {pair}: {says}")


@pytest.mark.parametrize(
    "values, options, says",
    [
        ({"options": {"motion_gain": 2}}, ["--set", "cap=-1"], "--set: cap=-1 is not accepted"),
        ({"options": {"cap": -1}}, ["--set", "cap=-2"], "--set: cap=-2 is not accepted"),
        ({"reflection_steps": 3}, ["--reflection-steps", "99"], "--reflection-steps: 99 is not accepted"),
        ({"strong": "/no/model"}, ["--strong", "/none"], "--strong: '/none' is not there"),
        (
            {"adapters": {"one": {"model": "a/one", "strong": 1.0, "weak": 0.0}}},
            ["--weak", "a/weak", "--weak_lora_scale", "-1"],
            "--weak_lora_scale: -1.0 is not accepted; it acts on the strong arm's network",
        ),
        ({}, ["--lora_path", "/no/lora"], "--lora_path: '/no/lora' is not there"),
        ({}, ["--size", "12"], "--size: 12 is not accepted; give a multiple of 8"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_an_option_says_wrongly_is_named_by_the_option_that_was_given(values, options, says, tmp_path):
    assert run("generate", PROMPT, "--preset", preset(tmp_path, **values), *options).startswith(f"Error: {says}")


def test_what_only_the_loaded_model_refuses_is_named_by_where_it_comes_from(tmp_path):
    pair = preset(tmp_path, "shapes-digits", height=64, width=64)
    said = run("image", "3", "--preset", pair)
    assert f"Error: preset {pair}: its height (--height replaces it): 64 is not accepted; the model" in said
    assert "Error: --size: 64 is not accepted" in run("image", "3", "--preset", "shapes-digits", "--size", 64)
    Path("3.json").write_text(sidecar(Request.of("3", preset="shapes-digits", height=64), {}))
    assert "Error: --from: 3.json: its request's height: 64 is not accepted" in run("image", "--from", "3.json")


def test_a_command_names_no_option_that_it_has_not(tmp_path):
    pair = preset(tmp_path, options={"cap": -1})
    assert run("doctor", "--try", pair).startswith(f"Error: preset {pair}: its options: cap=-1 is not accepted")
    pair = preset(tmp_path, method="s2w")
    assert run("check-pair", "--preset", pair).startswith(f"Error: preset {pair}: its method: 's2w' is not accepted")


def test_python_is_told_of_the_preset_too(tmp_path):
    pair = presets.load(preset(tmp_path, options={"cap": -1}))
    with pytest.raises(Refused, match=rf"^preset {pair.name}: its options: \{{'cap': -1\}} is not accepted"):
        Request.of(PROMPT, preset=pair)
    with pytest.raises(Refused, match=r"^options: \{'cap': -2\} is not accepted"):
        Request.of(PROMPT, preset=pair, options={"cap": -2})


def test_an_error_of_weights_says_in_attributes_what_its_message_says():
    with pytest.raises(WeightsNotFound) as raised:
        Request.of(PROMPT, weak="/none")
    error = raised.value
    assert (error.argument, error.source.value, error.origin) == ("weak", "/none", "")
    assert error.what.startswith("is not there") and str(error) == f"weak: '/none' {error.what}"


def test_a_sidecar_names_its_file_and_field_and_no_option(tmp_path):
    record = json.loads(sidecar(Request.of(PROMPT, num_inference_steps=2, num_frames=2), {}))
    record["request"]["options"] = {"cap": -1}
    Path("v.json").write_text(json.dumps(record))
    says = "Error: --from: v.json: its request's options: cap=-1 is not accepted; `cap` has to be"
    assert run("generate", "--from", "v.json").startswith(says)


def test_frames_that_are_not_finite_are_answered_with_options_on_the_command_line_alone(capsys):
    with pytest.raises(typer.Exit) as end, messages():
        raise NotFinite("a-video w2sd: frames of the autoencoder", "give dtype float32, or another vae")
    assert end.value.exit_code == 1
    assert "not finite; give --dtype float32, or another autoencoder by --vae" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.slow
def test_an_option_is_named_as_it_was_typed():
    program = Path(sys.executable).with_name("w2sd-video")
    for typed, name in ((["--T", "0"], "--T: 0"), (["--guidance_scale=1e9"], "--guidance_scale: 1000000000.0")):
        ran = subprocess.run([program, "generate", PROMPT, *typed], capture_output=True, text=True, timeout=300)
        assert ran.returncode == 2 and f"Error: {name} is not accepted" in ran.stderr


@pytest.mark.parametrize(
    "error",
    [
        Refused("seed", -1, "give more"),
        WeightsError(Source("strong", "a/b", None), "is damaged"),
        WeightsNotFound("config='x'", "has no unet/config.json"),
        NotFinite("frames", "give float32"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_another_process_says_the_same(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
