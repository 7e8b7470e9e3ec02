"""Calls that were tried against the pipelines because nothing had tried them yet."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import diffusers
import families
import pytest
import test_transformer_families as transformer_families
import torch
from any_pipeline import CASES, TEXT, draw, sample
from families import generator
from test_transformer_families import CALLS, LARGER, near, textual
from torch import Tensor

from w2sd_video import presets
from w2sd_video.errors import Refused
from w2sd_video.hook import apply_reflection
from w2sd_video.methods import W2SD
from w2sd_video.runs.request import Request
from w2sd_video.sampling import sample as make

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["WanPipeline", "LTXPipeline"])
def test_embeddings_of_the_weak_arm_are_those_of_every_video_of_their_prompt(case):
    """Stock pipelines repeat what they encode for each prompt's videos, and some of them nothing else.

    The texts are of one length: of several, diffusers' LTX pairs masks and videos wrongly.
    """
    of = transformer_families.family(case, LARGER[case])
    pipe = of.pipeline(of.weak(), **textual(case))
    weak: dict[str, Any] = {"weak_prompt_embeds": draw(2, 8, TEXT, seed=9)}
    if case == "LTXPipeline":
        weak["weak_prompt_attention_mask"] = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])

    def run(rows: slice, videos: int, seeds: list[int]) -> Tensor:
        told = {"prompt": ["a cat", "a dog"][rows], "negative_prompt": ["dog", "cat"][rows]}
        told |= {name: each[rows] for name, each in weak.items()}
        shared = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 8, **CALLS[case]}
        return pipe(**told, **shared, num_videos_per_prompt=videos, generator=[generator(s) for s in seeds]).frames

    alone = [run(slice(i // 2, i // 2 + 1), 1, [i]) for i in range(4)]
    assert near(run(slice(None), 2, [0, 1, 2, 3]), torch.cat(alone))


@pytest.mark.parametrize("name", ["W2SDAnimateDiffSDXLPipeline", "W2SDAnimateDiffPipeline", "CogVideoXPipeline"])
def test_several_videos_of_a_prompt_where_the_stock_pipeline_makes_one_are_refused(name):
    if name in LARGER:
        of = transformer_families.family(name, LARGER[name])
        pipe, call = of.pipeline(of.weak(), **textual(name)), {"prompt": "a cat", **CALLS.get(name, {})}
    else:
        family = next(each for each in families.FAMILIES if each.name == name)
        pipe, call = family.pipeline(dtype=torch.float32), family.call()
    with pytest.raises(ValueError, match="`num_videos_per_prompt` is 2, and .* makes one video of a prompt"):
        pipe(**call, num_videos_per_prompt=2)


@pytest.mark.parametrize("number", ["strong_embedded_guidance", "weak_embedded_guidance"])
def test_an_arms_embedded_guidance_beside_one_of_0_is_refused_before_any_network_runs(number):
    """A network is told a multiple of the pipeline's number, and how many times is read off what it is told."""
    of = transformer_families.family("FluxPipeline", LARGER["FluxPipeline"])
    pipe = of.pipeline(of.weak(guidance_embeds=True))
    refused = f"`{number}` is 3.0 and `guidance_scale` 0, which does not say in which unit"
    with pytest.raises(ValueError, match=refused):
        sample(pipe, of.of(pipe, guidance_scale=0.0, **{number: 3.0}))
    with pytest.raises(RuntimeError, match="there was none"):
        pipe.evaluations  # noqa: B018
    equal = [sample(pipe, of.of(pipe, guidance_scale=0.0, **more))[0] for more in ({}, {number: 0.0})]
    assert torch.equal(*equal)
    stock, case = CASES["FluxPipeline"].build(0), CASES["FluxPipeline"]
    method = W2SD(strong_guidance=2.0, weak_guidance=1.0)
    with apply_reflection(stock, method, **{number: 3.0}), pytest.raises(ValueError, match=refused):
        stock(**{**case.call(stock), "guidance_scale": 0.0}, num_inference_steps=2, output_type="latent")


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4])
def test_a_pipeline_with_a_scheduler_of_its_own_is_refused_too_while_a_method_is_on_its_network(steps):
    """Its steps would not be displaced, and its predictions would be those at other latents."""
    case = CASES["WanPipeline"]
    pipe = case.build(0)
    other = type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    call = {"num_inference_steps": steps, "output_type": "latent", **case.call(pipe)}
    with apply_reflection(pipe, W2SD(strong_guidance=2.0, weak_guidance=1.0)):
        for _ in range(2):
            with pytest.raises(ValueError, match="another pipeline uses the networks of WanPipeline"):
                other(**call)
            pipe(**call)
    with apply_reflection(pipe, None):
        other(**call)


@torch.no_grad()
def test_a_guider_that_counts_from_the_conditional_prediction_has_one_more_guidance_here():
    """cond + 2 (cond - uncond) is uncond + 3 (cond - uncond): the reflection's default is the same number."""
    of = transformer_families.family("HunyuanVideo15Pipeline", LARGER["HunyuanVideo15Pipeline"])
    pipe = of.pipeline(of.weak())
    usual = sample(pipe, of.of(pipe))[0]
    pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=2.0, use_original_formulation=True)
    assert near(sample(pipe, of.of(pipe))[0], usual)
    guider = pipe.guider
    for fails in (True, False):
        with contextlib.suppress(KeyboardInterrupt), pipe.guiding(1.0):
            alone = sample(pipe, of.of(pipe, **pipe.guided(1.0)))[0]
            if fails:
                raise KeyboardInterrupt
        assert pipe.guider is guider
    assert pipe.evaluations == {"strong": 7, "weak": 3, "total": 10}
    pipe.guider = diffusers.ClassifierFreeGuidance(guidance_scale=1.0)
    assert near(sample(pipe, of.of(pipe))[0], alone)


@pytest.mark.parametrize("name", ["wan21-14b-1.3b", "sana-1.6b-0.6b"])
def test_another_scheduler_of_a_flow_model_is_one_of_flows_with_its_shift(name):
    """A UniPC by its defaults would take what a flow network predicts for noise."""
    pair = presets.load(name)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for told, expected in {
        "UniPCMultistepScheduler": {"flow_shift": 3.0, **flow},
        "DPMSolverMultistepScheduler flow_shift=5": {"flow_shift": 5, **flow},
        "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
        "FlowMatchEulerDiscreteScheduler shift=1.5": {"shift": 1.5},
    }.items():
        scheduler = Request.of("a cat", 0, pair, scheduler=told).scheduler
        assert scheduler == {"class": told.split()[0], **expected}
    with pytest.raises(Refused, match="it cannot be told the use_flow_sigmas of the preset's schedule"):
        Request.of("a cat", 0, pair, scheduler="DDIMScheduler")


@pytest.mark.parametrize(
    ("name", "lost"), [("mochi-guidance", "invert_sigmas"), ("ltx-guidance", "base_shift, max_shift")]
)
def test_a_scheduler_that_would_lose_the_levels_of_a_flow_is_refused(name, lost):
    with pytest.raises(Refused, match=f"it cannot be told the {lost}.* of the preset's schedule"):
        Request.of("a cat", 0, presets.load(name), scheduler="UniPCMultistepScheduler")


def test_a_request_sets_the_guider_for_its_call_alone(monkeypatch):
    """No argument of HunyuanVideo 1.5's call sets the guidance of the final step."""
    of = transformer_families.family("HunyuanVideo15Pipeline", LARGER["HunyuanVideo15Pipeline"])
    embeddings = CASES["HunyuanVideo15Pipeline"].call(None)
    monkeypatch.setattr("w2sd_video.sampling.call.inputs", lambda *_: embeddings)
    pipe = of.pipeline(of.weak())
    numbers: list[float] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: numbers.append(pipe.guider.guidance_scale))
    size = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2, "dtype": "float32", "device": "cpu"}
    request = Request.of("a cat", preset="hunyuan-video-15-guidance", guidance_scale=4.0, **size)
    before = pipe.guider
    make(pipe, request, "strong")
    assert {*numbers} == {4.0} and before.guidance_scale == 3.0 and pipe.guider is before
