"""Sidecars that earlier versions wrote, of a run in two steps with preset `shapes`, are read by this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from w2sd_video.runs import Request, read_sidecar

GOLDEN = Path(__file__).parent / "golden" / "sidecars"
FILES = {path.stem: path for path in sorted(GOLDEN.glob("*.json"))}


@pytest.mark.parametrize("name", FILES)
def test_a_sidecar_of_an_earlier_version_is_read_and_its_run_can_be_made_again(name):
    request, record = read_sidecar(FILES[name])
    request.check()
    assert record["videos"]["w2sd"]["frames_sha256"]
    assert request.long_stem and request == Request.of(
        "a red circle moving right",
        0,
        "shapes",
        num_inference_steps=2,
        scheduler=request.scheduler,
        guidance_scale=3.0,
        strong_guidance_scale=3.0,
    )


def test_the_very_first_sidecars_which_knew_no_text_encoders_are_read_too(tmp_path):
    data = json.loads(FILES["format-1-one-family"].read_text(encoding="utf-8"))
    del data["request"]["weak_text_encoders"]
    first = tmp_path / "first.json"
    first.write_text(json.dumps(data), encoding="utf-8")
    request, _ = read_sidecar(first)
    assert (request.family, request.method, request.weak_text_encoders) == ("animatediff-sdxl", "w2sd", False)


def test_a_request_of_format_2_without_a_family_is_still_of_another_version(tmp_path):
    data = json.loads(FILES["format-2"].read_text(encoding="utf-8"))
    del data["request"]["family"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="lacks family"):
        read_sidecar(other)
