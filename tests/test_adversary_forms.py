"""Calls of many families of pipelines that gave something else than they say, and do so no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import any_cases
import any_cases_image
import any_cases_video
import pytest
import torch
from accelerate import dispatch_model
from any_pipeline import CASES, TEXT, called, draw, network, sample
from PIL import Image
from test_transformer_families import WAN, arms_of, family, near, two_experts
from torch import Tensor

from w2sd_video import arms
from w2sd_video.hook import Conditioning, Recorder, apply_reflection
from w2sd_video.methods import W2SD, AutoGuidance, CFGZeroStar, Foresight, Method, Weak
from w2sd_video.runs import Request
from w2sd_video.sampling import notes

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


NORMALISED = [("QwenImagePipeline", {}), ("LTXPipeline", {"guidance_rescale": 0.7})]


@pytest.mark.parametrize(
    "method", [W2SD(inversion="x_t"), W2SD(2.0, 1.0, still_gain=0.0, motion_gain=0.0), AutoGuidance()]
)
@pytest.mark.parametrize("name, more", NORMALISED)
def test_no_difference_of_the_arms_changes_nothing_where_guidance_is_normalised(name, more, method: Method):
    """What the pipeline divides by, a norm or a deviation, is 0 of a displacement of 0."""
    case = called(CASES[name], **more)
    pipe = case.build(0)
    plain = sample(pipe, case)[0]
    with apply_reflection(pipe, method):
        assert near(sample(pipe, case)[0], plain)


@pytest.mark.parametrize("name, more", NORMALISED)
def test_a_prediction_of_0_leaves_the_latents_as_they_are_where_guidance_is_normalised(name, more):
    """CFG-Zero*'s first step, of a flow."""
    case = called(CASES[name], **more)
    x = draw(*sample(case.build(0), case)[0].shape, seed=3)
    case = called(case, latents=x)
    with apply_reflection(pipe := case.build(0), CFGZeroStar()):
        assert near(sample(pipe, case)[1][0], x)


def test_a_network_that_counts_time_from_the_noise_on_is_told_that_of_other_latents():
    """Foresight's iteration goes from step 1 over two steps, to timestep 250 of 1000; Lumina2 tells 1 - t / 1000."""
    pipe, told = CASES["Lumina2Pipeline"].build(0), []
    embedding = pipe.transformer.time_caption_embed
    embedding.register_forward_pre_hook(lambda module, args: told.append(float(args[1])))
    with apply_reflection(pipe, Foresight(2.0, 1.0, schedule=((1, 2, 1),))):
        sample(pipe, CASES["Lumina2Pipeline"])
    assert told == [0.0, 0.0, 0.25, 0.25, 0.75, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_a_network_whose_time_is_called_timesteps_is_told_that_of_other_latents():
    """HiDream's. Foresight's iteration goes from step 1 over two steps, to the last timestep."""
    case, told = any_cases_image.CASES["HiDreamImagePipeline"], []
    pipe = case.build(0)
    pipe.transformer.t_embedder.register_forward_pre_hook(lambda module, args: told.append(float(args[0][0])))
    with apply_reflection(pipe, Foresight(2.0, 1.0, schedule=((1, 2, 1),))):
        sample(pipe, case)
    at = pipe.scheduler.timesteps.tolist()
    assert told == [at[step] for step in (0, 0, 1, 3, 1, 1, 2, 2, 3, 3)]  # the weak arm's is the fourth


def test_a_network_that_is_told_a_rounded_time_is_told_that_of_other_latents():
    """Mochi's, in half precision, whose scheduler counts from 0 up and whose network predicts the opposite."""
    case, told = CASES["MochiPipeline"], []
    pipe = case.build(0).to(torch.bfloat16)
    half = {k: v.to(torch.bfloat16) if k.endswith("prompt_embeds") else v for k, v in case.call(pipe).items()}
    pipe.transformer.time_embed.register_forward_pre_hook(lambda module, args: told.append(float(args[0][0])))
    with apply_reflection(pipe, Foresight(2.0, 1.0, schedule=((1, 1, 1),))):
        sample(pipe, replace(case, call=lambda pipe: half, steps=6))
    assert set(told) == set(pipe.scheduler.timesteps.to(torch.bfloat16).tolist())


def test_foresight_is_refused_where_later_steps_belong_to_another_network_or_have_another_end():
    with pytest.raises(
        ValueError, match="Foresight evaluates the network at the times of later steps.* 2 denoisers of"
    ):
        wan = CASES["WanPipeline"].build(0)
        wan.register_modules(transformer_2=any_cases.wan(2))
        wan.register_to_config(boundary_ratio=0.9)
        with apply_reflection(wan, Foresight(2.0, 1.0)):
            pass
    case = any_cases_video.CASES["HunyuanVideo15ImageToVideoPipeline"]
    pipe, weak = case.build(0), case.build(1).transformer
    config = {**any_cases.FIFTEEN, "task_type": "i2v", "target_size": 8, "use_meanflow": True}
    pipe.transformer = network("HunyuanVideo15Transformer3DModel", **config)(0)
    with pytest.raises(ValueError, match="gets `timestep_r`, the time at the step's end"):
        with apply_reflection(pipe, Foresight(2.0, 1.0, schedule=((0, 1, 1),))):
            sample(pipe, case)
    with pytest.raises(ValueError, match="`weak` has `use_meanflow` False, and .*'s denoiser True"):
        with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak):
            pass
    with apply_reflection(pipe, W2SD(2.0, 1.0)):
        assert torch.isfinite(sample(pipe, case)[0]).all()


def test_frames_are_those_of_the_axis_that_is_time():
    """CogVideoX's latents are (B, F, C, H, W): two frames of four channels."""
    case, recorder = CASES["CogVideoXPipeline"], Recorder(latents=True)
    with apply_reflection(pipe := case.build(0), W2SD(2.0, 1.0), recorder=recorder):
        sample(pipe, case)
    for row, (_, x_t, d) in zip(recorder.steps, recorder.tensors, strict=True):
        assert x_t.shape[1:3] == (2, 4)
        expected = d[0].flatten(1).norm(dim=1) / x_t[0].flatten(1).norm(dim=1)
        assert row.frames[0] == pytest.approx(expected.tolist(), rel=1e-4)
        still = d[0].mean(0).square().sum() * 2 / d.square().sum()
        assert row.still[0] == pytest.approx(float(still), rel=1e-4)


def test_recorded_latents_are_those_of_their_steps_where_a_pipeline_writes_each_step_into_one_tensor():
    case, recorder = CASES["Kandinsky5T2VPipeline"], Recorder(latents=True)
    pipe, seen = case.build(0), []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, told: seen.append(_first(args, told)), with_kwargs=True
    )
    with apply_reflection(pipe, W2SD(2.0, 1.0), recorder=recorder):
        sample(pipe, case)
    recorded = [x_t for _, x_t, _ in recorder.tensors]
    assert [torch.equal(x_t, x[..., : x_t.shape[-1]]) for x_t, x in zip(recorded, seen[::2], strict=False)] == [
        True
    ] * 3


def _first(args: tuple[Any, ...], told: dict[str, Any]) -> Tensor:
    """A copy of a network's latents."""
    return (args[0] if args else told["hidden_states"]).clone()


def test_a_weak_network_of_another_dtype_or_elsewhere_is_refused_before_anything_runs():
    pipe = CASES["WanPipeline"].build(0)
    for weak, says in (
        (any_cases.wan(1).to(torch.float64), "`weak` is in torch.float64, and WanPipeline's denoiser in torch.float32"),
        (
            any_cases.wan(1).to("meta"),
            "`weak` is on meta, and WanPipeline's denoiser runs on cpu.*`accelerate.dispatch_model",
        ),
    ):
        with pytest.raises(ValueError, match=says), apply_reflection(pipe, W2SD(), weak=weak):
            raise AssertionError
    dispatch_model(pipe.transformer, {"": "cpu"}, force_hooks=True)  # moves the inputs of the strong network alone
    with pytest.raises(ValueError, match=says), apply_reflection(pipe, W2SD(), weak=weak):
        raise AssertionError


def test_a_weak_network_to_which_accelerate_brings_its_inputs_is_the_same():
    """As on another GPU, of which there is none here."""
    pipe = WAN.pipeline(WAN.weak())
    expected = sample(pipe, WAN.of(pipe))[0]
    dispatch_model(pipe.weak_transformer, {"": "cpu"}, force_hooks=True)
    assert torch.equal(sample(pipe, WAN.of(pipe))[0], expected)


def test_each_of_two_experts_has_its_own_guidance_in_the_reflection():
    """Of the strong arm by default that of its final step; evaluations are those of the numbers."""
    parts = {"transformer_2": any_cases.wan(2), "boundary_ratio": 0.9}
    weak, second = WAN.weak(5), WAN.weak(6)
    pipe = WAN.pipeline(weak, weak_transformer_2=second, **parts)
    weaks = weak, second

    def ours(**more: Any) -> Tensor:
        return sample(pipe, WAN.of(pipe, guidance_scale_2=2.0, reflection_steps=4, **more))[1][-1]

    turns = ours(), sum(1 for t in pipe.scheduler.timesteps if t >= 900)
    assert near(turns[0], two_experts(pipe, weaks, (3.0, 1.0), (2.0, 1.0))) and 0 < turns[1] < 4
    assert near(ours(strong_guidance_scale=1.5), two_experts(pipe, weaks, (1.5, 1.0)))
    both = ours(strong_guidance_scale_2=1.5, weak_guidance_scale_2=2.5)
    assert near(both, two_experts(pipe, weaks, (3.0, 1.0), (1.5, 2.5)))
    assert pipe.evaluations == {"strong": 16, "weak": turns[1] + 2 * (4 - turns[1]), "total": 20 + 4 - turns[1]}
    one = WAN.pipeline(weak)
    with pytest.raises(ValueError, match="`strong_guidance_scale_2` is 2.0, and this W2SDWanPipeline has one expert"):
        sample(one, WAN.of(one, strong_guidance_scale_2=2.0))


@pytest.mark.parametrize(
    "case, channels, says",
    [
        (
            "WanPipeline",
            12,
            "takes 12 channels and predicts 4, as one does that is shown a picture; W2SDWanPipeline",
        ),
        (
            "CogVideoXPipeline",
            8,
            "as one does that is shown a picture; W2SDCogVideoXPipeline takes a network",
        ),
        ("WanImageToVideoPipeline", 4, "is not shown a picture; W2SDWanImageToVideoPipeline .* from a picture"),
    ],
)
def test_a_network_of_the_other_kind_of_video_is_refused_before_it_runs(case, channels, says):
    of = family(case, {})
    pipe = of.pipeline(transformer=of.weak(in_channels=channels, out_channels=4))
    with pytest.raises(ValueError, match=says):
        sample(pipe, of.of(pipe))


@pytest.mark.parametrize("case", ["SanaPipeline", "HunyuanVideo15Pipeline"])
def test_a_block_is_left_out_that_diffusers_does_not_know_how_to(case):
    deep = family(case, {"num_layers": 2})
    pipe, weak = deep.pipeline(transformer=deep.weak(0)), deep.weak(0)
    del weak.transformer_blocks[1]
    expected = deep.pipeline(weak, transformer=deep.weak(0))
    assert near(
        sample(pipe, deep.of(pipe, weak_skip_layers="transformer_blocks.1"))[0], sample(expected, deep.of(expected))[0]
    )


def test_a_picture_that_is_stretched_is_said(tmp_path):
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    fields = {"preset": "wan21-i2v-14b-guidance", "image": str(tmp_path / "wide.png"), "width": 64}
    (said,) = notes(Request.of("a cat", **fields, height=64), {}, {})
    assert said.startswith("the picture is 64x32, and is stretched to 64x64")
    assert not list(notes(Request.of("a cat", **fields, height=32), {}, {}))


def ip_adapter(transformer: Any) -> dict[str, Any]:
    """A random IP-Adapter checkpoint for a transformer of FLUX: four tokens of a picture of width 6."""
    width, inner, blocks = transformer.config.joint_attention_dim, transformer.inner_dim, transformer.config.num_layers
    layers = {
        f"{i}.to_{each}_ip.{kind}": draw(inner, *[width] * (kind == "weight"), seed=i)
        for i in range(blocks)
        for each in ("k", "v")
        for kind in ("weight", "bias")
    }
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    projection = {"proj.weight": draw(4 * width, 6, seed=8), "proj.bias": torch.zeros(4 * width)}
    return {"image_proj": projection | norm, "ip_adapter": layers}


def test_each_branch_sees_its_own_picture_where_the_pipeline_changes_one_dictionary_between_its_calls():
    """FLUX with an IP-Adapter. Arms that do not differ change nothing."""
    pictures = {"ip_adapter_image_embeds": [draw(1, 1, 6, seed=1)]}
    case = called(CASES["FluxPipeline"], **pictures, negative_ip_adapter_image_embeds=[draw(1, 1, 6, seed=2)])
    pipe = case.build(0)
    pipe.transformer._load_ip_adapter_weights([ip_adapter(pipe.transformer)])
    plain = sample(pipe, case)[0]
    same = called(case, negative_ip_adapter_image_embeds=pictures["ip_adapter_image_embeds"])
    assert not near(sample(pipe, same)[0], plain)
    with apply_reflection(pipe, W2SD(2.0, 2.0, inversion="x_t")):
        assert near(sample(pipe, case)[0], plain)
    with apply_reflection(pipe, Weak(weak_guidance=3.0), weak_settings=arms.ip_adapter_scale(pipe.transformer, 0.0)):
        without = sample(pipe, case)[0]
    assert near(without, sample(CASES["FluxPipeline"].build(0), CASES["FluxPipeline"])[0]) and not near(without, plain)


def test_a_denoiser_of_the_pipeline_is_no_weak_network_of_another_one():
    pipe = WAN.pipeline(transformer_2=any_cases.wan(2), boundary_ratio=0.9)
    with (
        pytest.raises(ValueError, match=r"'transformer' as the network for 'transformer_2'.*copy\.deepcopy"),
        apply_reflection(pipe, W2SD(), weak={"transformer_2": pipe.transformer}),
    ):
        raise AssertionError("it was accepted")


@pytest.mark.parametrize("case", ["SanaPipeline", "MochiPipeline", "HunyuanVideoPipeline"])
def test_embeddings_of_the_weak_arm_without_a_mask_are_all_tokens(case):
    of = family(case, {})
    pipe, embeds = of.pipeline(), CASES[case].call(None)["prompt_embeds"]
    told = {"weak_prompt_embeds": draw(*embeds.shape, seed=9), **arms_of(CASES[case].reflection)}
    if "pooled_prompt_embeds" in CASES[case].call(None):
        told["weak_pooled_prompt_embeds"] = draw(1, TEXT, seed=8)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    ours, all_tokens = (
        sample(pipe, of.of(pipe, **told, **more))[0] for more in ({}, {"weak_prompt_attention_mask": mask})
    )
    assert torch.equal(ours, all_tokens)


def test_branches_that_one_batch_cannot_hold_are_refused_by_name():
    of = family("LTXPipeline", {})
    pipe = of.pipeline()
    longer = draw(1, 7, TEXT, seed=9)
    says = r"`encoder_hidden_states` is of shape \(1, 5, 8\) in an arm's unconditional branch and of shape \(1, 7, 8\)"
    with pytest.raises(ValueError, match=says):
        sample(pipe, of.of(pipe, weak_prompt_embeds=longer, weak_guidance_scale=1.5))
    case, mask = CASES["LTXPipeline"], Conditioning(cond={"encoder_attention_mask": None})
    with (
        pytest.raises(ValueError, match="`encoder_attention_mask` is of shape .* and None in its conditional one"),
        apply_reflection(stock := case.build(0), W2SD(2.0, 2.0), weak_conditioning=mask),
    ):
        sample(stock, case)
