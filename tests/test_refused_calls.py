"""Calls of transformers and their like that are refused by name before any network runs, and right ones beside them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import any_cases
import any_cases_unet
import diffusers
import pytest
import torch
from any_pipeline import CASES, TEXT, Case, called, draw, sample
from families import FAMILIES
from peft import LoraConfig, get_peft_model
from test_transformer_families import LARGER, WAN, family, near
from torch import Tensor

from w2sd_video.hook import Conditioning, Form, apply_reflection
from w2sd_video.methods import W2SD, SkipLayerGuidance

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


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


@pytest.mark.slow
def test_more_frames_than_the_weak_network_takes_are_refused_by_name_and_served_with_free_noise():
    case = any_cases_unet.CASES["AnimateDiffVideoToVideoPipeline"]
    pipe, other = (diffusers.AnimateDiffPipeline(**case.build(seed).components) for seed in range(2))
    pipe.set_progress_bar_config(disable=True)
    told = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    free_noise = {"context_length": 4, "context_stride": 2}
    pipe.enable_free_noise(**free_noise)
    for frames, says in (8, None), (10, "`weak` takes at most 8 frames at once, and AnimateDiffPipeline makes 10"):
        with apply_reflection(pipe, W2SD(strong_guidance=2.0), weak=other.unet):
            if says is None:
                pipe("a", frames, **told)
            else:
                with pytest.raises(ValueError, match=says):
                    pipe("a", frames, **told)
    other.enable_free_noise(**free_noise)
    with apply_reflection(pipe, W2SD(strong_guidance=2.0), weak=other.unet):
        assert pipe("a", 10, **told).frames.isfinite().all()
