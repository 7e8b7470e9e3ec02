"""The table of diffusers' pipelines: every class is served, by a test, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import any_cases_edit
import any_cases_image
import any_cases_unet
import any_cases_video
import diffusers
import pytest
from any_cases import CASES
from packaging import version
from record_pipelines import FILE, changed, walk

from w2sd_video.hook import Form
from w2sd_video.hook.form import Entry, form_of, rows, table

assert any_cases_edit and any_cases_image and any_cases_unet and any_cases_video  # they add their cases
HERE = Path(__file__).parent
TWELVE = """WanPipeline WanImageToVideoPipeline LTXPipeline LTXImageToVideoPipeline CogVideoXPipeline
CogVideoXImageToVideoPipeline HunyuanVideoPipeline HunyuanVideo15Pipeline MochiPipeline StableDiffusion3Pipeline
FluxPipeline QwenImagePipeline SanaPipeline StableVideoDiffusionPipeline Kandinsky5T2VPipeline ChromaPipeline
CogView4Pipeline Lumina2Pipeline SkyReelsV2Pipeline AuraFlowPipeline PixArtAlphaPipeline PixArtSigmaPipeline""".split()


def recorded() -> str:
    """The diffusers that the table is of."""
    return str(json.loads(FILE.read_text(encoding="utf-8"))["diffusers"])


def test_every_served_class_names_the_test_that_holds_it_to_algorithm_1():
    served = {name: entry for name, entry in table().items() if entry.form is not None}
    assert {*TWELVE} <= {*served} and len(served) >= 25
    for name, entry in served.items():
        assert entry.test is not None
        if entry.test == "any_pipeline":
            assert name in {case.partition(",")[0] for case in CASES}
        else:
            family = name if entry.test != "families" else f"W2SD{name}"
            assert family in (HERE / f"test_{entry.test}.py").read_text() + (HERE / "families.py").read_text()
    tested = {case.partition(",")[0] for case in CASES}
    assert {name for name, entry in served.items() if entry.test == "any_pipeline"} == tested


def test_every_refused_class_says_why():
    refused = {name: entry for name, entry in table().items() if entry.form is None}
    assert all(entry.refused and entry.test is None for entry in refused.values())


def test_the_page_has_a_row_for_every_class():
    page = rows()
    assert len(page) == len(table()) + 2
    assert any(row.startswith("| `WanPipeline` | exact |") and "test_any_pipeline" in row for row in page)
    assert any(row.startswith("| `LTX2Pipeline` | refused: it denoises sound") for row in page)


@pytest.mark.slow
def test_every_pipeline_class_of_the_installed_diffusers_is_served_or_refused_by_name():
    if version.parse(diffusers.__version__) < version.parse(recorded()):
        pytest.skip(f"the table is of diffusers {recorded()}")
    known = {name: entry.source for name, entry in table().items()}
    differs = changed(known)
    assert not differs, f"read what changed, and bring the table up to it (tests/record_pipelines.py): {differs}"
    for name, cls in walk().items():
        try:
            assert isinstance(form_of(cls), Form)
        except ValueError as error:
            assert f"{name} is not supported under a method: {table()[name].refused}" in str(error)


def test_a_diffusers_with_another_call_is_told_apart(monkeypatch):
    from diffusers import FluxPipeline

    entry = table()["FluxPipeline"]
    other = {**table(), "FluxPipeline": Entry(entry.form, None, None, entry.test, "0" * 64)}
    monkeypatch.setattr("w2sd_video.hook.form.table", lambda: other)
    with pytest.warns(UserWarning, match=r"FluxPipeline.__call__ of diffusers .* differs from the one that was tested"):
        form_of(FluxPipeline)
