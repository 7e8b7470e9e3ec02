"""Presets: data that is checked, and says what the paper says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline

from w2sd_video import presets
from w2sd_video.generate import load, sample, scheduler
from w2sd_video.runs import Refused, Request
from w2sd_video.shapes import WEIGHTS

TRUE_PRESET = "animatediff-sdxl-juggernaut"
MODELS = {"strong": "a/strong", "weak": "a/weak", "motion_adapter": "a/motion"}


def changed(folder: Path, remove: str | None = None, **values) -> Path:
    data = yaml.safe_load((presets.FOLDER / f"{TRUE_PRESET}.yaml").read_text())
    data.pop(remove, None)
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump(data | values))
    return path


def test_shapes_is_the_default_and_comes_first():
    assert presets.names()[0] == presets.DEFAULT == "shapes"


def test_table_12_is_in_the_preset_as_printed():
    preset = presets.load(TRUE_PRESET)
    assert (preset.strong_guidance_scale, preset.weak_guidance_scale, preset.num_inference_steps) == (
        3.0,
        1.0,
        50,
    )
    assert preset.reflection_steps is None and Request.of("a cat", preset=preset).reflection_steps == 49
    assert preset.expected is not None
    row = dict(zip(preset.expected["columns"], preset.expected["w2sd"], strict=True))
    assert row["dynamic degree"] == 8.0 and row["aesthetic quality"] == 59.3736


@pytest.mark.parametrize("name, middle, last", [("documented", 0.161, 0.0016), ("original", 0.169, 0.0002)])
def test_both_motion_schedules_have_the_measured_noise_levels(name, middle, last):
    """Alpha-bar at t = 500 and 999, as read off the two configurations in use."""
    noise = scheduler(Request.of("a cat", preset=TRUE_PRESET, schedule=name)).alphas_cumprod
    assert noise[500].item() == pytest.approx(middle, abs=5e-4)
    assert noise[999].item() == pytest.approx(last, abs=5e-5)


@pytest.mark.parametrize("name", presets.names())
def test_every_schedule_of_every_preset_is_one_that_diffusers_builds(name):
    for schedule in presets.load(name).schedules:
        request = Request.of("a red circle", preset=name, schedule=schedule, **MODELS)
        assert isinstance(scheduler(request), diffusers.DDIMScheduler)


def test_what_the_networks_predict_is_theirs_to_say_where_a_schedule_does_not():
    request = Request.of("a red circle")
    assert scheduler(request, "v_prediction").config.prediction_type == "v_prediction"
    said = dict(request.scheduler) | {"prediction_type": "sample"}
    assert scheduler(replace(request, scheduler=said), "v_prediction").config.prediction_type == "sample"
    euler = replace(request, scheduler={"class": "FlowMatchEulerDiscreteScheduler"})
    assert "prediction_type" not in scheduler(euler, "v_prediction").config


def test_the_shapes_preset_samples_as_the_shipped_model_does_by_itself():
    """The preset repeats the schedule that the pipeline gives the shipped model, which predicts v."""
    request = Request.of("a red circle moving right", num_inference_steps=3, num_frames=2)
    pipe = load(request)["w2sd"]
    frames, evaluations = sample(pipe, request, "w2sd")
    own = W2SDAnimateDiffSDXLPipeline.from_pretrained(
        WEIGHTS / "tuned", weak=WEIGHTS / "base", motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
    )
    assert pipe.scheduler.config == own.scheduler.config  # as it was
    expected = own(
        request.prompt,
        num_frames=2,
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.0,
        weak_guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]
    assert evaluations == own.evaluations
    # Rounded from the same values; half of a level can fall to either side.
    assert np.abs(frames - expected * 255).max() < 0.5 + 1e-3


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(ValueError, match="'weak_guidance' is unknown; did you mean 'weak_guidance_scale'"):
        presets.read(changed(tmp_path, weak_guidance=1.0))


def test_a_missing_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fps missing"):
        presets.read(changed(tmp_path, remove="fps"))


def test_a_schedule_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schedule 'orignal' is not among.*did you mean 'original'"):
        presets.read(changed(tmp_path, schedule="orignal"))


def test_an_unknown_preset_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="'shape' is unknown; did you mean 'shapes'.*animatediff"):
        presets.load("shape")


def test_an_unknown_schedule_is_answered_with_those_there_are():
    with pytest.raises(Refused, match="documented, original"):
        Request.of("a cat", preset=TRUE_PRESET, schedule="linear")


def test_a_scheduler_argument_that_diffusers_does_not_know_is_refused():
    config = {"class": "DDIMScheduler", "beta_sched": "linear"}
    with pytest.raises(Refused, match="did you mean 'beta_schedule'"):
        scheduler(Request.of("a cat", preset=TRUE_PRESET, scheduler=config))
    with pytest.raises(Refused, match="'DDIM' is not accepted"):
        scheduler(Request.of("a cat", preset=TRUE_PRESET, scheduler={"class": "DDIM"}))
