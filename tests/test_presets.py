"""Presets: data that is checked, and says what the paper says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml

from w2sd_video import presets
from w2sd_video.families import FAMILIES
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, sample, scheduler
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


def test_families_with_motion_modules_or_a_first_frame_say_whose_models_they_take():
    assert all((each.models_of is not None) == (each.motion or each.from_image) for each in FAMILIES.values())
    assert {each.models_of for each in FAMILIES.values()} <= {None, *FAMILIES}


def test_table_12_is_in_the_preset_as_printed():
    preset = presets.load(TRUE_PRESET)
    assert (preset.strong_guidance_scale, preset.weak_guidance_scale, preset.num_inference_steps) == (
        3.0,
        1.0,
        50,
    )
    assert preset.reflection_steps is None and Request.of("a cat", preset=preset).reflection_steps == 49
    (table,) = preset.expected
    row = dict(zip(table["columns"], table["w2sd"], strict=True))
    assert row["dynamic degree"] == 8.0 and row["aesthetic quality"] == 59.3736


# The paper's rows (arXiv:2502.00473): of each table the last row and, where there is one, the strong model's. With
# them the settings of its appendix B.1: guidance of the final step, of the two arms, steps.
GUIDANCE, WEIGHTS_ALONE, MIXED = (5.5, 5.5, 0.0, 50), (5.5, 1.0, 1.0, 50), (1.5, 1.0, 1.0, 50)
ROWS = {
    "sd15-dreamshaper": (
        WEIGHTS_ALONE,
        {"Table 1": [30.4924, 6.2478, 21.5727, 53.1304], "Table 8": [28.7901, 5.7847, 21.9057, 52.1192]},
    ),
    "sdxl-juggernaut": (
        WEIGHTS_ALONE,
        {"Table 1": [32.0992, 6.0712, 22.2434, 54.2634], "Table 8": [29.3246, 5.4261, 22.5803, 52.4358]},
    ),
    "sd15-personal-lora": (WEIGHTS_ALONE, {"Table 2": [51.58, 68.04, 27.66]}),
    "dit-moe-s": (MIXED, {"Table 3": [55.5341, 9.1001, 4.5053, 22.3225]}),
    "sd15-guidance": (
        GUIDANCE,
        {"Table 4": [25.5069, 5.5073, 20.2443, 57.8903], "Table 9": [25.8234, 5.2157, 21.2079, 52.2934]},
    ),
    "sdxl-guidance": (
        GUIDANCE,
        {"Table 4": [31.2020, 6.0970, 21.7980, 56.0608], "Table 9": [30.1426, 5.6600, 22.4434, 59.0415]},
    ),
    "sdxl-prompt": (WEIGHTS_ALONE, {"Table 5": [29.4023, 5.8812, 21.8053, 54.2275]}),
    "juggernaut-guidance": (GUIDANCE, {"Table 6": [32.8217, 84]}),
    "sdxl-juggernaut-guidance": (GUIDANCE, {"Table 6": [32.9623, 90]}),
    "sd15-dpo-lora": (
        WEIGHTS_ALONE,
        {"Table 10": [26.0825, 5.6567, 20.5096, 55.7106], "Table 11": [25.9431, 5.3553, 21.2589, 50.6399]},
    ),
    "sdxl-lora": (
        WEIGHTS_ALONE,
        {"Table 10": [33.5959, 6.2252, 22.3644, 51.7770], "Table 11": [32.34857, 5.7595, 22.8301, 52.9588]},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_papers_tables_of_images_has_its_preset(name):
    preset = presets.load(name)
    settings, rows = ROWS[name]
    scales = (preset.guidance_scale, preset.strong_guidance_scale, preset.weak_guidance_scale)
    assert (*scales, preset.num_inference_steps) == settings and preset.reflection_steps is None
    assert {table["table"]: table["w2sd"] for table in preset.expected} == rows
    for table in preset.expected:
        of = {len(table[arm]) for arm in ("weak", "strong", "w2sd") if arm in table}
        assert of == {len(table["columns"])}


def test_the_differences_are_those_of_table_7():
    lora = presets.load("sdxl-lora").adapters["style"]
    assert (lora["strong"], lora["weak"]) == (0.8, -1.5)
    control = presets.load("sdxl-controlnet")
    assert control.controlnet is not None and (control.controlnet["strong"], control.controlnet["weak"]) == (1.0, 0.0)
    assert control.strong_guidance_scale == control.weak_guidance_scale == 0.5
    assert presets.load("dit-moe-s").weak_routing == "worst" and presets.load("sdxl-prompt").refine
    pair = presets.load("sdxl-juggernaut-guidance")
    assert pair.weak is not None and "Juggernaut" in pair.strong and "base-1.0" in pair.weak
    # Each on images and on video, of both bases; diffusers has no AnimateDiff-SDXL with a ControlNet.
    kinds = ("guidance", "lora", "prompt", "ip-adapter", "controlnet")
    for base in ("sdxl", "sd15", "animatediff-sdxl", "animatediff"):
        for kind in kinds:
            there = [name for name in presets.names() if name.startswith(base) and name.endswith(kind)]
            assert bool(there) != ((base, kind) == ("animatediff-sdxl", "controlnet"))


@pytest.mark.parametrize("name, middle, last", [("documented", 0.161, 0.0016), ("original", 0.169, 0.0002)])
def test_both_motion_schedules_have_the_measured_noise_levels(name, middle, last):
    """Alpha-bar at t = 500 and 999, as read off the two configurations in use."""
    noise = scheduler(Request.of("a cat", preset=TRUE_PRESET, schedule=name)).alphas_cumprod
    assert noise[500].item() == pytest.approx(middle, abs=5e-4)
    assert noise[999].item() == pytest.approx(last, abs=5e-5)


OF_UNETS = [name for name in presets.names() if not presets.FAMILIES[presets.load(name).family].transformer]


@pytest.mark.parametrize("name", OF_UNETS)  # those of transformers: `test_transformer_presets`
def test_every_preset_makes_requests_and_every_schedule_is_one_that_diffusers_builds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = presets.load(name)
    for model in preset.models.values():
        if model.endswith(".safetensors") and "/" not in model:
            Path(model).touch()  # a LoRA that is put into the working folder
    (tmp_path / "dit-moe-s").mkdir()
    (tmp_path / "picture.png").touch()
    shown = {"control": preset.controlnet, "ip_image": preset.ip_adapter}
    shown = {what: "picture.png" for what, needed in shown.items() if needed}
    for schedule in preset.schedules:
        request = Request.of("a red circle", preset=name, schedule=schedule, **shown)
        assert isinstance(scheduler(request), diffusers.DDIMScheduler)
        assert request.video == (name.startswith("animatediff") or name in ("shapes", "shapes-motion"))


def test_a_preset_extends_another_and_says_of_itself_what_is_its_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: sdxl-juggernaut\ndescription: mine\nsource: me\nweak_guidance_scale: 0.0\n")
    mine, theirs = presets.load(str(path)), presets.load("sdxl-juggernaut")
    assert (mine.strong, mine.weak, mine.height) == (theirs.strong, theirs.weak, theirs.height)
    assert (mine.description, mine.weak_guidance_scale, list(mine.expected)) == ("mine", 0.0, [])
    assert mine.name == str(path) and Request.of("a cat", preset=mine).preset == str(path)
    path.write_text("extends: sdxl-jugernaut\n")
    with pytest.raises(
        ValueError, match="'sdxl-jugernaut', which is no built-in preset; did you mean 'sdxl-juggernaut'"
    ):
        presets.load(str(path))
    path.write_text("extends: sdxl-juggernaut\nweak_guidance: 0\n")
    with pytest.raises(ValueError, match="'weak_guidance' is unknown; did you mean 'weak_guidance_scale'"):
        presets.load(str(path))
    path.write_text("extends: sdxl-juggernaut\nsteps: 4\n")
    with pytest.raises(ValueError, match="'steps' is unknown; did you mean 'num_inference_steps'"):
        presets.load(str(path))
    path.write_text("extends: sdxl-juggernaut\n")
    with pytest.raises(ValueError, match="description, source missing"):
        presets.load(str(path))
    with pytest.raises(ValueError, match="there is no such file"):
        presets.load(str(tmp_path / "none.yaml"))


def test_presets_that_extend_one_another_in_a_circle_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}\n")
    with pytest.raises(ValueError, match="extends itself"):
        presets.load("a")


def test_what_the_networks_predict_is_theirs_to_say_where_a_schedule_does_not():
    request, v = Request.of("a red circle"), {"prediction_type": "v_prediction"}
    assert scheduler(request, v).config.prediction_type == "v_prediction"
    said = dict(request.scheduler) | {"prediction_type": "sample"}
    assert scheduler(replace(request, scheduler=said), v).config.prediction_type == "sample"
    euler = replace(request, scheduler={"class": "FlowMatchEulerDiscreteScheduler"})
    assert "prediction_type" not in scheduler(euler, v).config


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
        guidance_scale=1.5,
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
    says = "preset: 'shape' is not accepted; did you mean 'shapes'.*animatediff"
    with pytest.raises(Refused, match=says):
        presets.load("shape")
    with pytest.raises(Refused, match=says):
        Request.of("a cat", preset="shape")


def test_what_is_no_preset_and_no_name_of_one_is_refused_by_name():
    with pytest.raises(Refused, match="preset: 3 is not accepted; give the name of a preset"):
        Request.of("a cat", preset=3)


def test_an_unknown_schedule_is_answered_with_those_there_are():
    with pytest.raises(Refused, match="documented, original"):
        Request.of("a cat", preset=TRUE_PRESET, schedule="linear")


def test_a_scheduler_argument_that_diffusers_does_not_know_is_refused():
    config = {"class": "DDIMScheduler", "beta_sched": "linear"}
    with pytest.raises(Refused, match="did you mean 'beta_schedule'"):
        scheduler(Request.of("a cat", preset=TRUE_PRESET, scheduler=config))
    with pytest.raises(Refused, match="'DDIM' is not accepted"):
        scheduler(Request.of("a cat", preset=TRUE_PRESET, scheduler={"class": "DDIM"}))
