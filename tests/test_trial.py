"""`w2sd-video doctor --try PRESET`: a preset's weights tried, and one report."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_lines import command_lines
from typer.testing import CliRunner

from w2sd_video import cli, presets, trial
from w2sd_video.shapes import WEIGHTS

SHIPPED = [name for name in presets.names() if name.startswith("shapes")]
MISSING = [name for name in presets.builtin() if not name.startswith("shapes")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def doctor(*arguments: str):
    return CliRunner().invoke(cli.app, ["doctor", *arguments])


def block(report: Path) -> dict:
    (found,) = re.findall(r"```json\n(.*?)\n```", report.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found)


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda name: name in ("shapes-image", "shapes-prompt"))
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_preset_is_the_stock_pipeline_when_off_and_its_report_says_what_it_took(name, tmp_path):
    ran = doctor("--try", name, "--device", "cpu")
    assert ran.exit_code == 0, ran.output
    report = tmp_path / f"trial-{name}.md"
    made = block(report)
    checks = {check["check"]: check["ok"] for check in made["checks"]}
    for dtype in ("float32", "bfloat16"):
        assert checks[f"method off is the stock pipeline bit for bit, {dtype}"] is True
    half = next(check for check in made["checks"] if check["check"] == "bfloat16 beside float32, method on")
    assert 0 < half["rms_apart"] <= half["max_apart"] and half["rms_apart"] < half["rms_of_reference"]
    assert {run["run"] for run in made["runs"]} >= {"method on, float32", "method off, bfloat16"}
    assert all(run["seconds"] > 0 and "error" not in run for run in made["runs"])
    assert str(tmp_path) not in report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_trial_passes_its_checks_and_hashes_are_those_of_the_files_loras_too(tmp_path):
    ran = doctor("--try", "shapes-style", "--device", "cpu", "--out", "mine.md")
    assert ran.exit_code == 0, ran.output
    made = block(tmp_path / "mine.md")
    assert sum(check["ok"] is True for check in made["checks"]) == 4
    assert sum("apart" in key for check in made["checks"] for key in check) == 4
    files = {row["component"]: row for row in made["files"]}
    lora = WEIGHTS / "style" / "pytorch_lora_weights.safetensors"
    assert files["adapters.outlines"]["sha256"] == hashlib.sha256(lora.read_bytes()).hexdigest()
    unet = WEIGHTS / "tuned" / "unet" / "diffusion_pytorch_model.safetensors"
    assert files["unet"]["sha256"] == hashlib.sha256(unet.read_bytes()).hexdigest()
    assert not any("published" in row for row in files.values())  # none is known


def test_a_file_of_the_hubs_cache_is_compared_with_the_hash_that_the_hub_knows_it_by(tmp_path):
    class Component:
        def __init__(self, digest: str):
            blob = tmp_path / "blobs" / digest
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(b"weights")
            link = tmp_path / f"{digest[:4]}.safetensors"
            link.symlink_to(blob)
            self._w2sd_files = ((str(link), 7, 0),)

    class Pipe:
        components = {"right": Component(hashlib.sha256(b"weights").hexdigest()), "wrong": Component("0" * 64)}

    class Request:
        models: dict[str, str] = {}

    rows = trial.files(Pipe, Request)
    results = {"checks": [], "runs": [], "files": rows}
    trial._compare({}, "float16", results)
    assert [check["ok"] for check in results["checks"]] == [True, False]
    assert "wrong" in results["checks"][1]["check"]


@pytest.mark.parametrize("name", MISSING)
def test_a_preset_whose_weights_are_not_here_is_refused_by_name_at_once(name, tmp_path):
    ran = doctor("--try", name)
    said = " ".join(ran.output.split())
    assert ran.exit_code == 2 and "Traceback" not in said
    assert name in said and "missing" in said
    assert all(model in said for model in presets.load(name).models.values())
    assert not list(tmp_path.iterdir())


@command_lines("""
    --try shape => did you mean 'shapes'
    --try '' => --try
    --try none.yaml => --try: 'none.yaml' is not accepted; there is no such file
    --try shapes --out . => folder
    --try shapes --device gpu => --device
    --out report.md => --try
    --overwrite => --try
    --device cpu => --try
""")
def test_what_cannot_be_tried_is_refused_in_a_sentence(options, says, tmp_path):
    ran = doctor(*options)
    assert ran.exit_code == 2 and says in " ".join(ran.output.split()) and "Traceback" not in ran.output
    assert not list(tmp_path.glob("*.md"))


def test_a_report_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path):
    (tmp_path / "trial-shapes.md").write_text("mine")
    ran = doctor("--try", "shapes")
    assert ran.exit_code == 2 and "--overwrite" in ran.output
    assert (tmp_path / "trial-shapes.md").read_text() == "mine"


def own_preset(folder: Path) -> str:
    """A preset file of a copy of the shipped picture models, under names of its own."""
    for name in ("tuned", "base"):
        shutil.copytree(WEIGHTS / name, folder / "models" / name)
    (folder / "own.yaml").write_text(
        "extends: shapes-image\ndescription: mine\nsource: me\nstrong: models/tuned\nweak: models/base\n"
    )
    return "own.yaml"


def test_a_preset_file_of_ones_own_is_tried_and_damaged_weights_are_named(tmp_path):
    name = own_preset(tmp_path)
    file = tmp_path / "models" / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    ran = doctor("--try", name, "--device", "cpu")
    assert ran.exit_code == 2 and "weak" in ran.output and "Traceback" not in ran.output
    assert not list(tmp_path.glob("*.md"))


def test_weights_that_are_not_finite_fail_the_trial_and_are_reported(tmp_path):
    from safetensors.torch import load_file, save_file

    name = own_preset(tmp_path)
    file = tmp_path / "models" / "tuned" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})
    ran = doctor("--try", name, "--device", "cpu", "--format", "json")
    assert ran.exit_code == 1, ran.output
    made = block(tmp_path / "trial-own.md")
    assert any(check["ok"] is False and "finite" in check["check"] for check in made["checks"])
    assert any("Non-finite" in run.get("error", "") for run in made["runs"])
