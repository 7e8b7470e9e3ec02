"""Input that is damaged or made to do harm: one message that names the argument, the right exit code, no traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from w2sd_video import cli, documents, presets, video
from w2sd_video.errors import Refused
from w2sd_video.runs import Request, read_sidecar, sidecar

PROMPT = "a red circle moving right"
NOWHERE = "/dev/null/out"  # a folder that cannot be made: what is accepted ends here, before models are loaded


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder, without a hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object, code: int, typed: str | None = None) -> str:
    """What a command says, which ends with that exit code and without a traceback."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=typed)
    assert isinstance(result.exception, (SystemExit, type(None))), repr(result.exception)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def generate(*arguments: object, code: int = 2) -> str:
    return run("generate", *arguments, "--out", NOWHERE, code=code)


# Code of a model's folder

CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"


def language_model_with_code(folder: Path, mark: Path) -> Path:
    """A folder whose configuration and tokenizer are classes of its own files."""
    folder.mkdir()
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    tokenizer = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    return folder


@pytest.mark.parametrize("way", ["option", "preset"])
def test_no_code_of_a_refiners_folder_runs_whatever_is_typed(tmp_path, way):
    mark = tmp_path / "ran"
    folder = language_model_with_code(tmp_path / "llm", mark)
    options: list[object] = ["--refine", folder]
    if way == "preset":
        text = f"extends: shapes-image\ndescription: mine\nsource: me\nrefine: {folder}\n"
        Path("mine.yaml").write_text(text)
        options = ["--preset", "mine.yaml"]
    said = run("image", "a red circle", *options, "--out", NOWHERE, code=2, typed="y\ny\ny\n")
    assert not mark.exists() and "--refine" in said and "Do you wish to run" not in said


def test_no_code_of_a_pipelines_folder_runs(tmp_path):
    mark = tmp_path / "ran"
    folder = tmp_path / "strong"
    for part in ("unet", "scheduler", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        (folder / part).mkdir(parents=True)
        (folder / part / "evil.py").write_text(CODE.format(mark=str(mark)))
        (folder / part / "config.json").write_text("{}")
        (folder / part / "model.safetensors").write_bytes(b"")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    parts = {part.name: ["evil", "Evil"] for part in folder.iterdir() if part.is_dir()}
    index = {"_class_name": "StableDiffusionXLPipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipeline.py").write_text(CODE.format(mark=str(mark)))
    CliRunner().invoke(cli.app, ["image", "a red circle", "--strong", str(folder), "--weak", str(folder)], input="y\n")
    assert not mark.exists()
