"""Requests of the families of transformers: their presets, sizes, counts, and videos of tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import any_cases
import pytest
import torch
from any_pipeline import sample
from PIL import Image
from test_transformer_families import FLUX, LARGER, WAN, family, saved, textual

from w2sd_video import check_pair, doctor, presets, settings
from w2sd_video.errors import Refused, WeightsNotFound
from w2sd_video.families import FAMILIES
from w2sd_video.generation import generate
from w2sd_video.runs import Request
from w2sd_video.sampling import check_schedule, evaluations, load, scheduler
from w2sd_video.schedulers import check_scheduler

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """An empty cache of the hub, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


NAMES = [name for name in presets.names() if presets.FAMILIES[presets.load(name).family].transformer]


def of(preset: str, folder: Path, **fields: Any) -> Request:
    if presets.FAMILIES[presets.load(preset).family].from_image:
        Image.new("RGB", (40, 24), "red").save(folder / "first.png")
        fields.setdefault("image", str(folder / "first.png"))
    return Request.of("a cat", preset=preset, **fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_of_a_transformer_gives_requests_whose_evaluations_are_what_the_arithmetic_says(name, tmp_path):
    """A reflected step is two of the strong arm and one of the weak, each of the branches that its guidance needs."""
    preset = presets.load(name)
    for schedule in preset.schedules:
        request = of(name, tmp_path, schedule=schedule)
        steps = request.num_inference_steps
        branches = [
            2 if w not in (0, 1) else 1
            for w in (request.guidance_scale, request.strong_guidance_scale, request.weak_guidance_scale)
        ]
        strong = (
            (steps - 1) * max(branches[0], branches[1]) if branches[0] == branches[1] else (steps - 1) * branches[1]
        )
        expected = {"strong": steps * branches[0] + strong, "weak": steps - 1}
        assert evaluations(request) == expected | {"total": sum(expected.values())}
        assert type(scheduler(request)).__name__ == preset.schedules[schedule]["class"]
        check_scheduler(scheduler(request))
        assert Request(**json.loads(json.dumps({n: getattr(request, n) for n in settings.names()}))) == request


def test_a_scheduler_that_steps_by_more_than_others_is_taken_by_its_own_pipelines_alone(tmp_path):
    schedule = {"class": "CogVideoXDPMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    usual = of("cogvideox-5b-guidance", tmp_path)
    assert evaluations(replace(usual, scheduler=schedule)) == evaluations(usual)
    with pytest.raises(Refused, match="stable-diffusion cannot step by it: CogVideoXDPMScheduler.step"):
        evaluations(of("sd15-guidance", tmp_path, scheduler=schedule))


def test_trying_a_step_of_a_scheduler_draws_nothing_from_the_callers_random_numbers(tmp_path):
    request = of("sd15-guidance", tmp_path, variant="plain", scheduler={"class": "EulerAncestralDiscreteScheduler"})
    before = torch.get_rng_state()
    check_schedule(request)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_family_of_transformers_has_a_preset():
    transformers = {name for name, family in FAMILIES.items() if family.transformer}
    assert {presets.load(name).family for name in NAMES} == transformers


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        (
            "wan21-14b-1.3b",
            {"num_frames": 80},
            "num_frames: 80 is not accepted; give a multiple of 4 plus 1, such as 41: wan encodes 4 frames as one",
        ),
        ("ltx-guidance", {"num_frames": 85}, "num_frames: 85 is not accepted; give a multiple of 8 plus 1"),
        ("mochi-guidance", {"num_frames": 82}, "num_frames: 82 is not accepted; give a multiple of 6 plus 1"),
        ("mochi-guidance", {"num_inference_steps": 1}, "steps: 1 is not accepted; give a whole number from 2 to"),
        ("qwen-image-guidance", {"num_inference_steps": 1}, "steps: 1 is not accepted; give a whole number from 2 to"),
        ("wan21-14b-1.3b", {"height": 488}, "height: 488 is not accepted; give a multiple of 16, as wan takes"),
        ("ltx-guidance", {"width": 720}, "width: 720 is not accepted; give a multiple of 32, as ltx takes"),
        (
            "wan21-14b-1.3b",
            {"weak_embedded_guidance": 2.0},
            "weak_embedded_guidance: 2.0 is not accepted; wan has none",
        ),
        ("wan21-14b-1.3b", {"image": "x.png"}, "image: .*x.png.* is not accepted; wan has none"),
        ("wan21-14b-1.3b", {"motion_adapter": "a/b"}, "motion_adapter: 'a/b' is not accepted; wan has none"),
        ("wan21-14b-1.3b", {"free_init": 2}, "free_init: 2 is not accepted; wan has none"),
        ("wan21-14b-1.3b", {"weak_text_encoders": True}, "weak_text_encoders: True is not accepted; wan has none"),
        ("wan21-i2v-14b-guidance", {}, "image: None is not accepted; preset wan21-i2v-14b-guidance needs a picture"),
        (
            "sd35-large-medium",
            {"num_frames": 5},
            "num_frames: 5 is not accepted; give none: stable-diffusion-3 makes images",
        ),
    ],
)
def test_what_a_family_does_not_take_is_refused_before_anything_is_loaded(name, fields, says):
    with pytest.raises(Refused, match=says):
        Request.of("a cat", preset=name, **fields)


def made(folder: Path, **fields: Any) -> Any:
    out = folder / f"out{len(list(folder.iterdir()))}"
    return next(iter(generate([Request.of("a cat", **fields)], out)))


TINY: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 3, "dtype": "float32", "device": "cpu"}


@pytest.mark.slow
def test_a_video_of_a_tiny_pair_of_two_sizes_is_made_as_the_dry_run_counts(tmp_path):
    strong = saved(WAN, tmp_path / "strong", **textual("WanPipeline"))
    weak = saved(WAN, tmp_path / "weak", WAN.weak(), **textual("WanPipeline"), scheduler=any_cases.euler(shift=5.0))
    fields = TINY | {"preset": "wan21-14b-1.3b", "num_frames": 5, "strong": str(strong), "weak": str(weak)}
    request = Request.of("a cat", **fields, variant="compare")
    (output,) = generate([request], tmp_path / "out")
    counted = {name: video["evaluations"]["total"] for name, video in output.record["videos"].items()}
    assert counted == {"weak": 6, "strong": 6, "w2sd": 10}
    assert sum(counted.values()) == evaluations(request)["total"]
    frames = {name: video["frames_sha256"] for name, video in output.record["videos"].items()}
    assert len({*frames.values()}) == 3
    assert (
        output.paths["mp4"].is_file() and {"transformer", "weak_transformer"} <= output.record["weights"]["w2sd"].keys()
    )


@pytest.mark.slow
def test_a_network_that_embeds_its_guidance_is_told_the_request_s(tmp_path):
    strong = saved(FLUX, tmp_path / "flux", **textual("FluxPipeline"))
    fields = TINY | {"preset": "flux-dev-embedded", "strong": str(strong)}
    first = made(tmp_path, **fields)
    assert first.record["videos"]["w2sd"]["evaluations"] == {"strong": 5, "weak": 2, "total": 7}
    other = made(tmp_path, **fields, weak_embedded_guidance=2.0, seed=0)
    guided = made(tmp_path, **fields, guidance_scale=3.0)
    assert guided.record["videos"]["w2sd"]["evaluations"] == {"strong": 8, "weak": 2, "total": 10}
    hashes = {each.record["videos"]["w2sd"]["frames_sha256"] for each in (first, other, guided)}
    assert len(hashes) == 3


def test_doctor_says_how_to_get_a_weak_transformer_and_what_a_pair_takes(tmp_path, monkeypatch):
    rows = dict(doctor.weights())
    command = 'hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --include "*.json"'  # which a preset has as its strong one
    assert command in rows["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]
    weak = rows["stabilityai/stable-diffusion-3.5-medium"]
    assert '--include "transformer*/*.json" --include "transformer*/*.safetensors"' in weak and "unet" not in weak
    assert '--include "vae/config.json"' in weak  # which says whether the latents are the same
    saved(WAN, tmp_path / "strong", **textual("WanPipeline"))
    saved(WAN, tmp_path / "weak", transformer := WAN.weak(), **textual("WanPipeline"))
    text = presets.text(replace(presets.load("wan21-14b-1.3b"), strong="strong", weak="weak"))
    (tmp_path / "own.yaml").write_text(text)
    own = presets.load(str(tmp_path / "own.yaml"))
    monkeypatch.setattr(presets, "every", lambda: ([own], []))
    ((_, said),) = doctor.memory()
    count = sum(p.numel() for p in transformer.parameters()) / 1e9
    assert f"weak_transformer {count:.2f}" in said and "text_encoder" in said and "weak_vae" not in said
    assert said.startswith("0.0 GB in bfloat16 (0.0 GB in float32) of weights") and "unknown" not in said


@pytest.mark.slow
def test_a_video_begins_with_the_picture_of_the_request(tmp_path):
    of_picture = family("LTXImageToVideoPipeline", LARGER["LTXImageToVideoPipeline"])
    strong = saved(of_picture, tmp_path / "ltx", **textual("LTXPipeline"))
    hashes = []
    for colour in ("red", "blue"):
        Image.new("RGB", (70, 64), colour).save(tmp_path / f"{colour}.png")
        fields = TINY | {"height": 64, "width": 64, "num_frames": 17, "preset": "ltx-image-guidance"}
        output = made(tmp_path, **fields, strong=str(strong), image=str(tmp_path / f"{colour}.png"))
        assert output.record["videos"]["w2sd"]["evaluations"]["total"] == 12
        hashes.append(output.record["videos"]["w2sd"]["frames_sha256"])
    assert hashes[0] != hashes[1]


def test_a_pair_of_transformers_needs_data_to_be_checked(tmp_path):
    with pytest.raises(Refused, match="videos: None is not accepted; preset wan21-14b-1.3b has no data of its own"):
        check_pair.samples(presets.load("wan21-14b-1.3b"), 1, [], None, tmp_path)


UNTOLD = {"strong_embedded_guidance": None, "weak_embedded_guidance": None}


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        (
            "flux-dev-embedded",
            {"weak_guidance_scale": 0.0},
            "weak_guidance_scale: 0.0 is not accepted; give 1, or a guid",
        ),
        ("flux-dev-embedded", {"guidance_scale": 0.5}, "guidance_scale: 0.5 .* flux has no unconditional branch"),
        (
            "flux-dev-embedded",
            {"method": "foresight"},
            "method: 'foresight' is not accepted; it guides by 0: give a guid",
        ),
        (
            "flux-dev-embedded",
            {"method": "guidance_schedule", "options": {"guidance": [1.0, 1.0, 3.0]}},
            "method: 'guidance_schedule' is not accepted; it guides by 3",
        ),
        (
            "flux-dev-embedded",
            {"variant": "weak", "weak_guidance_scale": 3.0} | UNTOLD,
            "weak_guidance_scale: 3.0 is not acc",
        ),
        ("cogvideox-5b-guidance", {"guidance_scale": 1.0}, "strong_guidance_scale: 6.0 is not accepted"),
        ("hunyuan-video-15-guidance", {"guidance_scale": 1.0}, "strong_guidance_scale: 6.0 is not accepted"),
        ("wan21-14b-1.3b", {"guidance_scale": 0.5}, "is neither a path nor a hub repository"),
        ("hunyuan-video-15-guidance", {"guidance_scale": 0.5}, "is neither a path nor a hub repository"),
    ],
)
def test_guidance_that_a_family_has_no_branch_for_is_refused_before_anything_is_loaded(name, fields, says, offline):
    with pytest.raises((Refused, WeightsNotFound), match=says):
        load(Request.of("a cat", preset=name, **fields))


@pytest.mark.parametrize("guidance", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.0), (0.0, 0.0, 1.0), (3.0, 1.0, 0.0)], ids=str)
@pytest.mark.parametrize("name", ["wan21-14b-1.3b", "sd35-large-medium", "flux-dev-embedded", "cogvideox-5b-guidance"])
@pytest.mark.slow_unless(case=lambda name, guidance: name.startswith("wan"))
def test_what_a_dry_run_counts_is_what_a_pipeline_evaluates_at_every_kind_of_guidance(name, guidance):
    cases = {"wan": "WanPipeline", "sd3": "StableDiffusion3Pipeline", "flu": "FluxPipeline", "cog": "CogVideoXPipeline"}
    case = cases[name[:3]]
    main, strong, weak = guidance
    request = Request.of(
        "a cat", preset=name, num_inference_steps=4, guidance_scale=main, strong_guidance_scale=strong,
        weak_guidance_scale=weak,
    )  # fmt: skip
    of_case = family(case, LARGER[case])
    if not of_case.cls.can_be_made_to_guide() and main <= 1 and guidance != (1.0, 1.0, 1.0):
        with pytest.raises(Refused, match="has no unconditional branch"):
            load(request)
        return
    pipe = of_case.pipeline(of_case.weak())
    told = pipe.guided(main) | {"strong_guidance_scale": strong, "weak_guidance_scale": weak}
    with pipe.guiding(main):
        sample(pipe, of_case.of(pipe, **told))
    assert pipe.evaluations == evaluations(request)
