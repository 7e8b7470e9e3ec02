"""What a run says of prompts that are cut off, schedules that models state, and frames that are not finite."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import families
import pytest
import tiny
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline
from original_layout import vae_names
from safetensors.torch import load_file, save_file

from w2sd_video.generation import generate
from w2sd_video.pipelines import W2SDStableDiffusionPipeline
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, scheduler

SD = families.FAMILIES[3]


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = SD.components(weak=False, unet=SD.unet(0))
    del parts["weak_unet"]
    StableDiffusionPipeline(**parts).save_pretrained("strong")


def request(prompt="cat", base="sd15-guidance", **values) -> Request:
    said = {"extends": base, "description": "tiny", "source": "here", "strong": "strong", "weak": None}
    said |= {"height": 16, "width": 16, "dtype": "float32", "num_inference_steps": 3} | values
    Path("mine.yaml").write_text(yaml.safe_dump(said))
    return Request.of(prompt, preset="mine.yaml", device="cpu")


def run(*requests, caplog=None) -> list[dict]:
    return [made.record for made in generate(requests, "outputs", overwrite=True)]


@pytest.mark.slow
def test_what_is_cut_off_a_prompt_is_said_once_and_recorded(caplog):
    """The tiny tokenizer reads five letters, beside the two ends."""
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        first, second, short = run(request("abcdefgh"), request("abcdefgh", weak_guidance_scale=2.0), request("abcde"))
    assert first["cut"] == second["cut"] == {"prompt": "fgh"} and "cut" not in short
    notes = [record.getMessage() for record in caplog.records if record.name == "w2sd_video"]
    assert notes == ["note: the text encoder reads the first 7 tokens of a text; cut off the prompt: 'fgh'"]


@pytest.mark.slow
def test_no_guidance_at_all_is_pointed_out(caplog):
    none = {"guidance_scale": 0.0, "strong_guidance_scale": 0.0, "weak_guidance_scale": 0.0}
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        run(request(**none))
    assert "the prompt has no effect" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        run(request(**none | {"guidance_scale": 1.0}))
    assert "no effect" not in caplog.text


def test_frames_that_are_not_finite_are_an_error_and_nothing_is_written():
    file = Path("strong/vae/diffusion_pytorch_model.safetensors")
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"][:] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match="not finite; give dtype float32, or another vae"):
        run(request())
    assert not Path("outputs").exists()


def stated(**config) -> None:
    file = Path("strong/scheduler/scheduler_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


@pytest.mark.slow
def test_the_schedule_that_a_folder_states_is_sampled_with():
    stated(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    pipe = load(request())["w2sd"]
    used = scheduler(request(), pipe.scheduler.config)
    assert used.config.prediction_type == "v_prediction" and used.config.timestep_spacing == "trailing"
    assert used.alphas_cumprod[-1] == 0  # a signal-to-noise ratio of zero
    assert run(request())[0]["videos"]["w2sd"]["evaluations"]["total"] > 0
    own = dict(request().scheduler) | {"rescale_betas_zero_snr": False}
    asked = request(schedules={"own": own}, schedule="own")
    assert scheduler(asked, pipe.scheduler.config).alphas_cumprod[-1] > 0  # what a request says itself stays


def test_flow_matching_under_another_schedule_is_refused():
    stated(_class_name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(Refused, match="scheduler: .* trained by flow matching: give FlowMatchEulerDiscreteScheduler"):
        run(request())


def test_an_autoencoder_in_one_file_takes_the_scale_of_the_models_own():
    vae = AutoencoderKL.from_pretrained("strong/vae", scaling_factor=0.5)
    vae.register_to_config(scaling_factor=0.5)
    vae.save_pretrained("strong/vae")
    names = {
        n.removeprefix("first_stage_model."): t.contiguous() for n, t in vae_names(tiny.vae(7).state_dict(), 2).items()
    }
    save_file(names, "vae.safetensors")
    pipe = W2SDStableDiffusionPipeline.from_pretrained("strong", vae="vae.safetensors")
    assert pipe.vae.config.scaling_factor == 0.5
    assert torch.equal(pipe.vae.state_dict()["quant_conv.weight"], tiny.vae(7).state_dict()["quant_conv.weight"])
    assert run(request(vae="vae.safetensors"))[0]["weights"]["w2sd"]["vae"].startswith("sha256:")
