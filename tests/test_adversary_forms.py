"""Calls of many families of pipelines that gave something else than they say, and do so no more."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import any_cases
import any_cases_video
import diffusers
import pytest
import torch
from accelerate import dispatch_model
from any_pipeline import CASES, TEXT, Case, draw, network, sample
from families import FAMILIES
from peft import LoraConfig, get_peft_model
from PIL import Image
from test_transformer_families import LARGER, WAN, arms_of, family, near, two_experts
from torch import Tensor

from w2sd_video import arms
from w2sd_video.hook import Conditioning, Form, Recorder, apply_reflection
from w2sd_video.methods import W2SD, AutoGuidance, CFGZeroStar, Foresight, Method, SkipLayerGuidance, Weak
from w2sd_video.runs import Request
from w2sd_video.sampling import notes

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


NORMALISED = [("QwenImagePipeline", {}), ("LTXPipeline", {"guidance_rescale": 0.7})]


def called(case: Case, **more: Any) -> Case:
    return replace(case, call=lambda pipe: {**case.call(pipe), **more})


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


@pytest.mark.parametrize(
    "parts, says",
    [
        ({"boundary_ratio": 0.9}, "`boundary_ratio` is 0.9, with no `transformer_2`"),
        ({"transformer_2": any_cases.wan(2)}, "`boundary_ratio` is None, with a `transformer_2`"),
    ],
)
def test_a_second_expert_that_is_missing_or_never_runs_is_refused_before_any_network_runs(parts, says):
    pipe = WAN.pipeline(**parts)
    pipe.transformer.forward = None
    with pytest.raises(ValueError, match=says):
        sample(pipe, WAN.of(pipe))


def test_layers_that_sd3_skips_as_a_third_branch_are_refused_before_any_network_runs():
    of = family("StableDiffusion3Pipeline", {})
    pipe = of.pipeline()
    pipe.transformer.forward = None
    with pytest.raises(ValueError, match=r"`skip_guidance_layers` is \[0\], a third branch"):
        sample(pipe, of.of(pipe, skip_guidance_layers=[0]))


@pytest.mark.parametrize(
    "case, says",
    [
        (called(CASES["StableDiffusion3Pipeline"], skip_guidance_layers=[0]), r"`skip_guidance_layers` \[0\]"),
        ({"start": 0.5}, "it does not guide before step 3, by its ClassifierFreeGuidance; set its `start` to 0"),
        (
            diffusers.AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5),
            "mixes the predictions of earlier steps, .* set its `adaptive_projected_guidance_momentum` to None",
        ),
        (diffusers.SkipLayerGuidance(skip_layer_guidance_layers=[0]), "changes its network's layers"),
        (diffusers.PerturbedAttentionGuidance(perturbed_guidance_layers=[0]), "changes its network's layers"),
    ],
)
def test_guidance_by_more_than_two_branches_is_refused_before_the_first_step_wherever_it_begins(case, says):
    if not isinstance(case, Case):
        guider = diffusers.ClassifierFreeGuidance(**case) if isinstance(case, dict) else case
        of = CASES["HunyuanVideo15Pipeline"]
        pipe = of.build(0)
        pipe.guider = guider
    else:
        of, pipe = case, case.build(0)
    pipe.transformer.forward = None
    with apply_reflection(pipe, W2SD()), pytest.raises(ValueError, match=says):
        sample(pipe, of)


@torch.no_grad()
def test_a_guider_that_stops_or_carries_nothing_is_served():
    case = replace(CASES["HunyuanVideo15Pipeline"], w=None)
    for guider in (diffusers.ClassifierFreeGuidance(stop=0.5), diffusers.AdaptiveProjectedMixGuidance(enabled=False)):
        pipe = case.build(0)
        pipe.guider = guider
        with apply_reflection(pipe, W2SD(1.0, 1.0)) as group:
            sample(pipe, case)
        assert group.evaluations.per_video()["weak"] == 3


@pytest.mark.parametrize("case", LARGER)
def test_embeddings_of_another_width_are_refused_before_any_network_runs(case):
    of = family(case, {})
    pipe, told = of.pipeline(), CASES[case].call(None)
    right = {
        f"weak_{sign}{name}": told[name]
        for sign in ("", "negative_")
        for name in ("prompt_embeds", "pooled_prompt_embeds")
        if name in told
    }
    pipe.transformer.forward = None
    for name, embeds in right.items():
        *shape, width = embeds.shape
        with pytest.raises(ValueError, match=f"`{name}` has width {width + 1}; accepted: {width}"):
            sample(pipe, of.of(pipe, **{**right, name: draw(*shape, width + 1)}))
    if case == "WanPipeline":
        with pytest.raises(ValueError, match=f"`prompt_embeds` has width {TEXT + 1}; accepted: {TEXT}"):
            sample(pipe, of.of(pipe, prompt_embeds=draw(1, 5, TEXT + 1), negative_prompt_embeds=draw(1, 5, TEXT + 1)))


def test_weak_embeddings_of_another_length_are_refused_where_positions_are_of_one_length():
    of = family("CogVideoXPipeline", {})
    pipe = of.pipeline()
    pipe.transformer.forward = None
    length = pipe.transformer.config.max_text_seq_length
    with pytest.raises(ValueError, match=f"`weak_prompt_embeds` has {length + 1} tokens; accepted: {length}"):
        sample(pipe, of.of(pipe, weak_prompt_embeds=draw(1, length + 1, TEXT)))


def test_embeddings_of_another_length_are_refused_where_a_rotary_network_also_learned_positions_of_one_length():
    """CogVideoX 5B from a picture."""
    of = family("CogVideoXImageToVideoPipeline", {"attention_head_dim": 16, "use_rotary_positional_embeddings": True})
    learned = of.weak(0, use_learned_positional_embeddings=True)
    pipe = of.pipeline(transformer=learned)
    sample(pipe, of.of(pipe))
    learned.forward = None
    with pytest.raises(ValueError, match="`weak_prompt_embeds` has 6 tokens; accepted: 5"):
        sample(pipe, of.of(pipe, weak_prompt_embeds=draw(1, 6, TEXT)))
    pipe = of.pipeline(of.weak(1), transformer=of.weak(0, use_learned_positional_embeddings=True))
    sample(pipe, of.of(pipe, weak_prompt_embeds=draw(1, 6, TEXT)))


def test_embeddings_that_a_unet_projects_have_the_width_before_its_projection():
    of = next(each for each in FAMILIES if each.name == "W2SDStableDiffusionPipeline")
    unet = of.unet(0)
    width = unet.config.cross_attention_dim
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    unet = type(unet)(**{**config, "encoder_hid_dim": width + 1, "encoder_hid_dim_type": "text_proj"}).eval()
    pipe = of.cls(**{**of.components(weak=False), "unet": unet})
    pipe.set_progress_bar_config(disable=True)

    def made(width: int) -> Any:
        embeds = {f"{sign}prompt_embeds": draw(1, 5, width, seed=1) for sign in ("", "negative_")}
        return pipe(**embeds, num_inference_steps=2, output_type="latent", guidance_scale=2.0)[0]

    assert torch.isfinite(made(width + 1)).all()
    with pytest.raises(ValueError, match=f"`prompt_embeds` has width {width}; accepted: {width + 1}"):
        made(width)


def test_a_guider_that_guides_by_the_timestep_is_told_it():
    class Late(diffusers.ClassifierFreeGuidance):
        @property
        def num_conditions(self) -> int:
            return 1 if self._step is not None and float(self._timestep) > 800 else super().num_conditions

    of = CASES["HunyuanVideo15Pipeline"]
    pipe = of.build(0)
    pipe.guider = Late(guidance_scale=3.0)
    with (
        apply_reflection(pipe, W2SD()),
        pytest.raises(ValueError, match="does not guide before step [2-4], by its Late"),
    ):
        sample(pipe, of)


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
def test_another_pipeline_of_the_same_networks_is_refused_by_name_in_a_callback_too(last):
    """A preview, by a scheduler of its own."""
    case = CASES["WanPipeline"]
    pipe = case.build(0)
    other = type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})

    def preview(_: Any, i: int, *args: Any) -> dict[str, Any]:
        if i == (case.steps - 1) * last:
            sample(other, case)
        return {}

    with (
        apply_reflection(pipe, W2SD()),
        pytest.raises(ValueError, match="another pipeline uses the networks of WanPipeline"),
    ):
        sample(pipe, called(case, callback_on_step_end=preview))


@pytest.mark.parametrize("name", ["WanPipeline", "WanImageToVideoPipeline"])
def test_networks_in_a_model_of_peft_are_those_with_the_same_lora(name):
    case, method = CASES[name], SkipLayerGuidance(weight=0.5, layers="blocks.0")
    lora = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    results: list[Tensor] = []
    for wrap in (False, True):
        for how in (W2SD(2.0, 1.0), method):
            pipe, weak = case.build(0), case.build(1).transformer
            for seed, each in enumerate((pipe.transformer, weak)):
                any_cases.tiny.seeded(seed, lambda each=each: each.add_adapter(lora))
            if wrap:
                states = [each.state_dict() for each in (pipe.transformer, weak)]
                pipe.transformer, weak = (get_peft_model(case.build(seed).transformer, lora) for seed in range(2))
                for each, state in zip((pipe.transformer, weak), states, strict=True):
                    each.get_base_model().load_state_dict(state)
            with apply_reflection(pipe, how, weak=weak if how is not method else None):
                results.append(sample(pipe, case)[0])
    assert near(results[2], results[0]) and near(results[3], results[1]) and not near(results[0], results[1])


def test_a_compiled_model_of_peft_is_served():
    case = CASES["WanImageToVideoPipeline"]
    results = []
    for wrap in (False, True):
        pipe = case.build(0)
        if wrap:
            model = get_peft_model(pipe.transformer, LoraConfig(r=2, target_modules=["to_q"]))  # its product is 0
            pipe.transformer = torch.compile(model, backend="eager")
        with apply_reflection(pipe, W2SD(2.0, 1.0)):
            results.append(sample(pipe, case)[0])
    assert near(*results)


def test_a_modular_pipeline_is_refused_by_name_with_a_form_too():
    pipe = diffusers.ModularPipeline.__new__(diffusers.WanModularPipeline)
    for form in (None, Form("apart")):
        with (
            pytest.raises(ValueError, match="`pipeline` is a WanModularPipeline; accepted: a `DiffusionPipeline`"),
            apply_reflection(pipe, W2SD(), form=form),
        ):
            raise AssertionError


@pytest.mark.parametrize(
    "case, told, says",
    [
        ("WanPipeline", {"weak_prompt_embeds": [draw(5, TEXT)]}, "`weak_prompt_embeds` is a list; accepted: a tensor"),
        ("SanaPipeline", {"weak_prompt_attention_mask": torch.ones(1, 5)}, "needs `weak_prompt_embeds` beside it"),
        ("HunyuanVideo15Pipeline", {"weak_prompt_embeds_2": draw(1, 5, TEXT)}, "needs `weak_prompt_embeds` beside it"),
        (
            "SanaPipeline",
            {"weak_prompt_embeds": draw(1, 5, TEXT), "weak_prompt_attention_mask": torch.ones(1, 4)},
            "`weak_prompt_attention_mask` has 4 tokens, and `weak_prompt_embeds` 5",
        ),
    ],
)
def test_tensors_of_the_weak_arms_text_that_do_not_fit_together_are_refused_before_any_network_runs(case, told, says):
    of = family(case, {})
    pipe = of.pipeline()
    pipe.transformer.forward = None
    with pytest.raises(ValueError, match=says):
        sample(pipe, of.of(pipe, **told))


def test_a_weak_network_of_other_texts_is_refused_unless_it_is_told_its_own():
    for case, key in (("WanPipeline", "text_dim"), ("StableDiffusion3Pipeline", "joint_attention_dim")):
        pipe, of = CASES[case].build(0), family(case, LARGER[case])
        weak = of.weak(**{key: TEXT + 1})
        with pytest.raises(
            ValueError, match=f"`weak` has {key} {TEXT + 1}, and {case}'s denoiser {TEXT}.*conditioning"
        ):
            with apply_reflection(pipe, W2SD(), weak=weak):
                raise AssertionError("it was accepted")
        with apply_reflection(
            pipe, W2SD(), weak=weak, weak_conditioning=Conditioning(cond={"encoder_hidden_states": None})
        ):
            pass
