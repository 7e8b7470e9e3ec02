"""The one model of a run's settings: presets and requests as they were, and values that it does not take."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from w2sd_video import documents, presets, settings
from w2sd_video.errors import Refused
from w2sd_video.runs import Request

GOLDEN = json.loads((Path(__file__).parent / "golden" / "presets.json").read_text(encoding="utf-8"))


def as_json(value: object, folder: Path) -> object:
    return json.loads(json.dumps(value).replace(f"{folder.resolve()}/", "{folder}/"))


def test_every_shipped_preset_is_among_the_recorded_ones():
    assert set(GOLDEN) == set(presets.names())


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_preset_gives_the_request_that_it_gave_before_settings_were_one_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = presets.load(name)
    assert as_json(asdict(preset), tmp_path) == GOLDEN[name]["preset"]
    for model in preset.models.values():
        if model.endswith(".safetensors") and "/" not in model:
            Path(model).touch()
    Path("dit-moe-s").mkdir()
    Path("picture.png").touch()
    shown = {"control": preset.controlnet, "ip_image": preset.ip_adapter}
    shown = {what: "picture.png" for what, needed in shown.items() if needed}
    for schedule, expected in GOLDEN[name]["requests"].items():
        request = Request.of("a red circle", preset=name, schedule=schedule, **shown)
        assert as_json(asdict(request), tmp_path) == expected
        assert Request(**json.loads(json.dumps(asdict(request)))) == request  # as a sidecar has it
