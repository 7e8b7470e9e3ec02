"""`apply_reflection` on real pipelines of diffusers: exact where one is served, and refused by name elsewhere."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import families
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.callbacks import SDXLCFGCutoffCallback
from diffusers.hooks import apply_first_block_cache
from families import generator
from test_hook import draw, stable_diffusion_3
from torch import Tensor

from w2sd_video.hook import Form, apply_reflection
from w2sd_video.hook.inputs import half
from w2sd_video.methods import S2WD, W2SD, AutoGuidance, ReSampling

SDXL = families.FAMILIES[2]
DPM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}


def wan(experts: int = 1) -> WanPipeline:
    def network() -> WanTransformer3DModel:
        return WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=16,
            ffn_dim=16, num_layers=1, rope_max_seq_len=32,
        ).eval()  # fmt: skip

    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=tiny.seeded(0, network),
        transformer_2=tiny.seeded(1, network) if experts == 2 else None,
        boundary_ratio=0.9 if experts == 2 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_wan(pipe: WanPipeline, videos: int = 1, **call: Any) -> Tensor:
    embeds = {"prompt_embeds": draw(videos, 5, 8, seed=1), "negative_prompt_embeds": draw(videos, 5, 8, seed=2)}
    size = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 4, "output_type": "latent"}
    return pipe(**embeds, **size, generator=generator(), **call).frames


def ltx() -> LTXPipeline:
    def network() -> LTXVideoTransformer3DModel:
        return LTXVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
            num_layers=1, caption_channels=8,
        ).eval()  # fmt: skip

    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=tiny.seeded(0, network).double(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def of_ltx(pipe: LTXPipeline, videos: int = 1, **call: Any) -> Tensor:
    texts = ("prompt_embeds", "negative_prompt_embeds")
    told = {name: draw(videos, 5, 8, seed=i, dtype=torch.float64) for i, name in enumerate(texts)}
    told |= {name: torch.ones(videos, 5) for name in ("prompt_attention_mask", "negative_prompt_attention_mask")}
    size = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 4, "output_type": "latent"}
    latents = draw(videos, 8, 4, seed=7, dtype=torch.float64)
    return pipe(**told, **size, latents=latents, **call).frames


def rescaled(uncond: Tensor, cond: Tensor, w: float, phi: float) -> Tensor:
    """Lin et al. 2023 (arXiv:2305.08891), Eq. 15 and 16."""
    axes = tuple(range(1, cond.ndim))
    mixed = uncond + w * (cond - uncond)
    factor = cond.std(axes, keepdim=True) / mixed.std(axes, keepdim=True)
    return phi * mixed * factor + (1 - phi) * mixed


@torch.no_grad()
def literal(pipe: Any, weak: Any, run: Any, method: str, phi: float, w: tuple[float, float, float]) -> Tensor:
    """Algorithm 1, its swap or Eq. 20 as a loop over a transformer pipeline's own inputs, which a plain run shows."""
    first: dict[str, Any] = {}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        if not first:
            first.update(kwargs)

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    run()
    handle.remove()
    scheduler, x = pipe.scheduler, first.pop("hidden_states").chunk(2)[0]
    final, strong, weaker = w

    def at(network: Any, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        told = {**first, "timestep": t.expand(first["timestep"].shape), "return_dict": False}
        return network(hidden_states=torch.cat([x, x]), **told)[0].chunk(2)

    def mixed(network: Any, x: Tensor, t: Tensor, w: float) -> Tensor:
        uncond, cond = at(network, x, t)
        return uncond + w * (cond - uncond)

    sigmas = scheduler.sigmas.double()
    for i, t in enumerate(scheduler.timesteps):
        h = sigmas[i + 1] - sigmas[i]
        good = rescaled(*at(pipe.transformer, x, t), final, phi)
        if i < len(scheduler.timesteps) - 1:
            if method == "auto_guidance":
                difference = mixed(pipe.transformer, x, t, strong) - mixed(weak, x, t, weaker)
                x = x + h * (good + difference)
                continue
            arms = [(pipe.transformer, strong), (weak, weaker)]
            (there, w_there), (back, w_back) = arms if method == "w2sd" else arms[::-1]
            x_s = x + h * mixed(there, x, t, w_there)
            x = x_s - h * mixed(back, x_s, t, w_back)
            good = rescaled(*at(pipe.transformer, x, t), final, phi)
        x = x + h * good
    return x


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize(("name", "method"), [("w2sd", W2SD), ("s2wd", S2WD), ("auto_guidance", AutoGuidance)])
def test_ltx_is_its_algorithm_and_only_the_final_step_is_rescaled(name, method, phi):
    pipe, weak = ltx(), tiny.seeded(5, lambda: LTXVideoTransformer3DModel(**ltx().transformer.config)).double().eval()

    def run() -> Tensor:
        return of_ltx(pipe, 2, guidance_scale=3.0, guidance_rescale=phi)

    expected = literal(pipe, weak, run, name, phi, (3.0, 4.0, 1.5))
    with apply_reflection(pipe, method(4.0, 1.5), weak=weak):
        ours = run()
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.no_grad()
def test_rescaled_guidance_of_sdxl_acts_on_the_final_step_alone(guidance):
    pipe, x, phi = SDXL.pipeline(), SDXL.latents(), 0.6
    run = families.Literal(SDXL, pipe, main=guidance, strong=3.0, weak=1.0)
    pipe.scheduler.set_timesteps(4)
    at = x
    for i, t in enumerate(pipe.scheduler.timesteps):
        at = families.algorithm_1(run, at, t) if i < 3 else at
        uncond, cond = (run.network("strong", at, t, branch) for branch in ("uncond", "cond"))
        at = run.move(rescaled(uncond, cond, guidance, phi), t, at)
    call = {"guidance_scale": guidance, "strong_guidance_scale": 3.0, "guidance_rescale": phi}
    assert families_close(SDXL(pipe, latents=x, **call), at)


def families_close(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() < 1e-5 * y.abs().max())


@torch.no_grad()
def test_two_experts_are_both_reflected():
    """Without guidance Wan calls one expert once a step; each reflects by itself, against Algorithm 1 by hand."""
    pipe = wan(experts=2)
    x, text = draw(1, 4, 2, 4, 4, seed=4), draw(1, 5, 8, seed=1)
    ours = None
    with apply_reflection(pipe, W2SD(reflection_steps=4)) as group:
        ours = of_wan(pipe, guidance_scale=1.0, latents=x)
    assert group.evaluations.per_video() == {"strong": 8, "weak": 4, "total": 12}
    pipe.scheduler.set_timesteps(4)
    sigmas, used = pipe.scheduler.sigmas, set()
    for i, t in enumerate(pipe.scheduler.timesteps):
        name = "transformer" if t >= 900 else "transformer_2"
        used.add(name)

        network = getattr(pipe, name)

        def u(x: Tensor, t: Tensor = t, network: Any = network) -> Tensor:
            return network(hidden_states=x, timestep=t.expand(1), encoder_hidden_states=text).sample

        h = sigmas[i + 1] - sigmas[i]
        x_s = x + h * u(x)
        x = x_s - h * u(x_s)
        x = x + h * u(x)
    assert len(used) == 2 and (ours - x).abs().max() < 1e-4 * x.abs().max()
    with pytest.raises(ValueError, match="`weak` is one network, and WanPipeline has 2 denoisers"):
        with apply_reflection(pipe, W2SD(), weak=wan().transformer):
            raise AssertionError


@pytest.mark.parametrize("images", [1, 2])
def test_a_third_branch_by_skipped_layers_is_refused(images):
    pipe = stable_diffusion_3()
    skip = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    call = {"num_inference_steps": 4, "guidance_scale": 5.0, "max_sequence_length": 7, "output_type": "latent"}
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline is not supported under a method"):
        with apply_reflection(pipe, W2SD(5.0, 1.0)):
            pipe(["a cat"] * images, **call, **skip)


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2])
def test_a_third_branch_by_perturbed_attention_is_refused(images):
    parts = tiny.components()
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipe = StableDiffusionXLPAGPipeline(
        **{name: parts[name] for name in names}, unet=tiny.unet2d(0), pag_applied_layers="down"
    )
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="StableDiffusionXLPAGPipeline.*a third branch, .* set `pag_scale` to 0"):
        with apply_reflection(pipe, W2SD(5.0, 1.0)):
            pipe(["a cat"] * images, num_inference_steps=4, output_type="latent", height=16, width=16)


@pytest.mark.parametrize("arm", ["strong", "weak"])
def test_a_cache_inside_a_network_is_refused(arm):
    pipe, weak = stable_diffusion_3(layers=2), stable_diffusion_3(1, layers=2).transformer
    apply_first_block_cache(pipe.transformer if arm == "strong" else weak, FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(ValueError, match="SD3Transformer2DModel has a FBC.*disable_cache"):
        with apply_reflection(pipe, W2SD(), weak=weak):
            raise AssertionError


def pix2pix() -> StableDiffusionInstructPix2PixPipeline:
    family = families.FAMILIES[3]
    parts = {name: part for name, part in family.components(weak=False).items() if name != "weak_unet"}
    unet = tiny.unet2d(0, in_channels=8, addition_embed_type=None, cross_attention_dim=tiny.TEXT_WIDTH)
    pipe = StableDiffusionInstructPix2PixPipeline(**{**parts, "unet": unet})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("images", [1, 2])
def test_three_branches_of_two_guidances_are_refused(images):
    pipe = pix2pix()
    call = {"image": torch.rand(images, 3, 16, 16), "latents": draw(1, 4, 8, 8).repeat(images, 1, 1, 1)}
    with pytest.raises(ValueError, match="StableDiffusionInstructPix2PixPipeline is not supported under a method"):
        with apply_reflection(pipe, W2SD()):
            pipe(["a cat"] * images, num_inference_steps=2, output_type="latent", **call)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_three_branches_in_one_batch_are_counted_as_many_for_any_number_of_images(images):
    pipe = pix2pix()
    call = {"image": torch.rand(images, 3, 16, 16), "num_inference_steps": 2, "output_type": "latent"}
    with apply_reflection(pipe, None) as counter:
        pipe(["a cat"] * images, **call)
    assert counter.evaluations.per_video()["strong"] == 6


@pytest.mark.parametrize(("guidance", "strong"), [(4.0, 6), (1.0, 3)])
@pytest.mark.parametrize("images", [1, 2])
def test_rows_of_both_branches_that_are_stepped_are_counted(guidance, strong, images):
    """As by DiT's own pipeline, which does not say whether it guides."""
    config = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "patch_size": 2, "sample_size": 4}
    transformer = tiny.seeded(0, lambda: DiTTransformer2DModel(in_channels=4, out_channels=8, **config))
    pipe = DiTPipeline(transformer, tiny.vae(), tiny.scheduler())
    pipe.set_progress_bar_config(disable=True)
    with apply_reflection(pipe, None) as counter:
        pipe([1] * images, guidance_scale=guidance, num_inference_steps=3, output_type="np")
    assert counter.evaluations.per_video()["strong"] == strong


def test_a_scheduler_replaced_where_its_steps_count_the_videos_is_refused_without_a_method():
    pipe = stable_diffusion_3()
    call = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}
    for form, refused in (None, False), (Form(flag=None), True):
        with apply_reflection(pipe, None, form=form) as counter:
            pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
            if refused:
                with pytest.raises(ValueError, match="the scheduler of StableDiffusion3Pipeline was replaced after"):
                    pipe("a cat", **call)
                continue
            pipe("a cat", **call)
            assert counter.evaluations.per_video()["strong"] == 4


def test_a_pipeline_that_copies_its_scheduler_is_refused():
    pipe = stable_diffusion_3()

    def copies(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        copy.deepcopy(pipe.scheduler)
        return kwargs

    call = {"num_inference_steps": 2, "max_sequence_length": 7, "output_type": "latent"}
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline.*copies its scheduler"):
        with apply_reflection(pipe, W2SD()):
            pipe("a cat", callback_on_step_end=copies, **call)
    assert "step" not in vars(pipe.scheduler) and "set_timesteps" not in vars(pipe.scheduler)
    pipe("a cat", callback_on_step_end=copies, **call)


def test_without_a_method_steps_of_a_copied_scheduler_are_counted_too():
    """A pipeline that does not say whether it guides: only its steps show how many videos there are."""
    pipe = stable_diffusion_3()

    def copies(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        return kwargs

    call = {"num_inference_steps": 3, "max_sequence_length": 7, "output_type": "latent", "guidance_scale": 3.0}
    plain = pipe(["a cat", "a dog"], generator=torch.Generator().manual_seed(0), **call).images
    with apply_reflection(pipe, None, form=Form(flag=None)) as counter:
        more = {"generator": torch.Generator().manual_seed(0), "callback_on_step_end": copies}
        assert torch.equal(pipe(["a cat", "a dog"], **more, **call).images, plain)
    assert counter.evaluations.per_video()["total"] == 6


def test_a_pipeline_is_copied_before_or_after_a_method_is_applied_to_it_and_not_meanwhile():
    pipe = stable_diffusion_3()
    with apply_reflection(pipe, W2SD()):
        with pytest.raises(ValueError, match="StableDiffusion3Pipeline.* was copied while a method is applied to it"):
            copy.deepcopy(pipe)
    call = {"num_inference_steps": 2, "max_sequence_length": 7, "output_type": "latent"}
    with apply_reflection(copy.deepcopy(pipe), W2SD()) as group:
        pipe("a cat", **call)
    assert group.evaluations.strong == 0


def test_a_call_that_raised_does_not_spoil_the_next_one_in_the_same_context():
    pipe = stable_diffusion_3()
    call = {"num_inference_steps": 3, "max_sequence_length": 7, "output_type": "latent", "guidance_scale": 5.0}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with apply_reflection(pipe, W2SD(5.0, 1.0)):
        handle = pipe.transformer.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            pipe("a cat", generator=generator(), **call)
        handle.remove()
        after = pipe("a cat", generator=generator(), **call).images
        assert torch.equal(pipe("a cat", generator=generator(), **call).images, after)
    assert not torch.equal(pipe("a cat", generator=generator(), **call).images, after)


def test_masks_of_two_ip_adapters_in_one_tensor_are_not_halves():
    masks = torch.ones(2, 1, 4, 4)
    assert half("ip_adapter_masks", masks, True, 2) is masks
    told = {"ip_adapter_masks": masks, "scale": 1.0}
    assert half("cross_attention_kwargs", told, False, 2) == told


def test_a_tensor_that_may_be_halves_or_not_is_refused_and_not_guessed():
    with pytest.raises(ValueError, match=r"`something` is a tensor of shape \(2, 3\).*SPLIT"):
        half("something", torch.zeros(2, 3), True, 2)
    table = torch.zeros(6, 3)
    assert half("something", table, True, 2) is table
    with pytest.raises(ValueError, match=r"`encoder_hidden_states` is a tensor of shape \(3, 5, 8\)"):
        half("encoder_hidden_states", torch.zeros(3, 5, 8), True, 2)


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        ({}, False),
        ({"reflection_steps": 2}, True),
        ({"interval": (0.98, 1.0)}, True),
        ({"interval": (0.0, 0.98)}, False),
    ],
)
def test_a_callback_that_ends_guidance_while_steps_reflect_is_refused_at_the_start(arguments, served):
    pipe = SDXL.pipeline()
    callback = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    call = {"num_inference_steps": 4, "callback_on_step_end": callback, **arguments}
    call["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
    if served:
        assert SDXL(pipe, **call).isfinite().all()
        return
    ran: list[Any] = []
    pipe.unet.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match="SDXLCFGCutoffCallback, which ends guidance after step 2 of 4"):
        SDXL(pipe, **call)
    assert not ran


@pytest.mark.parametrize(
    "lam, convention, says",
    [
        (99, "exact", "`reflection_steps` has to be from 0 to the number of steps, 4, but is 99"),
        (4, "published", "`reflection_steps` has to be from 0 to 3 under `convention='published'`.*, but is 4"),
    ],
)
def test_more_reflected_steps_than_there_are_are_refused_before_any_network_runs(lam, convention, says):
    pipe = SDXL.pipeline()
    stock = SDXL.stock_of(pipe)
    pipe.unet.forward = None
    method = W2SD(3.0, 1.0, reflection_steps=lam, convention=convention)
    with pytest.raises(ValueError, match=says):
        pipe(**SDXL.call(), method=method)
    with apply_reflection(stock, method), pytest.raises(ValueError, match=says):
        stock(**SDXL.call())


class First(W2SD):
    """A method of one's own, with its own rule of which steps reflect."""

    def reflects(self, index, num_steps, level=None):
        return index == 0


def test_a_rule_of_ones_own_for_which_steps_reflect_is_not_held_to_their_number():
    pipe = SDXL.stock_of(SDXL.pipeline())
    with apply_reflection(pipe, First(3.0, 1.0, reflection_steps=99)) as group:
        pipe(**SDXL.call())
    assert group.evaluations.per_video()["weak"] == 1


@pytest.mark.parametrize(("interval", "refused"), [((0.0, 1.0), True), ((0.8, 1.0), False)])
def test_a_last_step_without_an_inverse_is_refused_only_if_it_is_in_the_interval(interval, refused):
    """A network that predicts z has none where no noise is left; the last step starts from sigma 0.69."""
    scheduler = tiny.scheduler(timestep_spacing="trailing", prediction_type="sample", set_alpha_to_one=True)
    pipe = SDXL.pipeline(dtype=torch.float32, scheduler=scheduler)
    stock = SDXL.stock_of(pipe)
    call = {**SDXL.call(), "num_inference_steps": 4}
    method = W2SD(3.0, 1.0, reflection_steps=4, interval=interval)
    if refused:
        with pytest.raises(ValueError, match="cannot be reflected: the network predicts 'sample'"):
            pipe(**call, method=method)
        with apply_reflection(stock, method), pytest.raises(ValueError, match="the network predicts 'sample'"):
            stock(**call)
        return
    expected = pipe(**call, method=replace(method, reflection_steps=3))[0]
    call["generator"] = torch.Generator().manual_seed(0)
    assert torch.equal(pipe(**call, method=method)[0], expected) and pipe.evaluations["weak"] == 3


@pytest.mark.parametrize("method", [None, W2SD(2.0, 1.0)], ids=["off", "on"])
@pytest.mark.parametrize("form", [None, Form(flag=None)], ids=["by its flag", "by the scheduler"])
def test_evaluations_of_calls_of_several_numbers_of_videos_are_summed_for_each_video(method, form):
    pipe, counts = stable_diffusion_3(), []
    call = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}
    for videos in (1, 3):
        with apply_reflection(pipe, method, form=form) as group:
            pipe(["a cat"] * videos, **call)
        counts.append(group.evaluations.per_video())
    assert counts[0] == counts[1]
    with apply_reflection(pipe, method, form=form) as group:
        for videos in (2, 3, 1):
            pipe(["a cat"] * videos, **call)
    assert group.evaluations.per_video() == {name: 3 * count for name, count in counts[0].items()}


def test_two_calls_at_once_on_one_pipeline_are_refused_and_the_first_is_unchanged():
    pipe = SDXL.pipeline()
    expected = SDXL(pipe, latents=SDXL.latents(), guidance_scale=0.5)
    inside, refused, done = threading.Event(), threading.Event(), []

    def wait(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        inside.set()
        refused.wait(600)
        return kwargs

    def first() -> None:
        done.append(SDXL(pipe, latents=SDXL.latents(), guidance_scale=0.5, callback_on_step_end=wait))

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(600)
    try:
        for call in (lambda: SDXL(pipe, latents=SDXL.latents()), lambda: apply_reflection(pipe, None).__enter__()):
            with pytest.raises(RuntimeError, match="W2SDStableDiffusionXLPipeline is in use"):
                call()
    finally:
        refused.set()
        thread.join(600)
    assert torch.equal(done[0], expected)
    assert torch.equal(SDXL(pipe, latents=SDXL.latents(), guidance_scale=0.5), expected)


def test_a_lora_that_is_loaded_and_unloaded_leaves_the_weak_arm_trainable(tmp_path):
    from peft.utils import get_peft_model_state_dict

    donor = SDXL.pipeline(weak=False)
    families.add_lora(donor.unet)
    layers = get_peft_model_state_dict(donor.unet, adapter_name="style")
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe = SDXL.pipeline()
    shared = {id(p) for p in pipe.unet.parameters()} & {id(p) for p in pipe.weak_unet.parameters()}
    before = [p.requires_grad for p in pipe.weak_unet.parameters()]
    assert shared and all(before)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert [p.requires_grad for p in pipe.weak_unet.parameters()] == before
    with pytest.raises(ValueError, match="'style', which was loaded into `unet`.*pipe.weak_unet.load_lora_adapter"):
        SDXL(pipe, weak_adapter_scales={"style": 0.5})
    pipe.unload_lora_weights()
    assert [p.requires_grad for p in pipe.weak_unet.parameters()] == before


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda way: way == "repeated blocks")
@pytest.mark.parametrize("way", ["compile", "repeated blocks", "wrapper"])
def test_compiled_networks_give_the_same_video(way):
    family = families.FAMILIES[1 if way == "repeated blocks" else 3]  # tracing a whole network takes long
    pipe, x = family.pipeline(), family.latents()
    # Of one sample, or of two: a network is traced for each.
    call = {"latents": x, "num_inference_steps": 2, "guidance_scale": 1.0 if way == "repeated blocks" else 3.0}
    expected = family(pipe, **call)
    for name in ("unet", "weak_unet"):
        network = getattr(pipe, name)
        if way == "compile":
            network.compile(backend="eager")
        elif way == "repeated blocks":
            network.compile_repeated_blocks(backend="eager")
        else:
            setattr(pipe, name, torch.compile(network, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert families_close(family(pipe, **call), expected)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 2
    assert pipe.unet.conv_in is not None


def test_the_cap_of_s2wd_goes_by_the_strong_prediction():
    """With a weak arm of predictions ten times too large, a cap of 0.1 by the strong one binds ten times tighter."""

    class Arm:
        def __init__(self, scale: float):
            self.scale = scale

        def reflect(self, x: Tensor) -> Tensor:
            return self.scale * torch.ones_like(x)

        def denoise(self, x: Tensor) -> Tensor:
            return self.reflect(x)[None]

    from w2sd_video.levels import Level, Step, first_order

    t, s = Level(0.6, 0.8), Level(0.8, 0.6)
    order = first_order(t, s)
    answer = S2WD(cap=0.1)(torch.zeros(1, 4), Step(0.0, "epsilon", t, s, order, order), Arm(1.0), Arm(10.0), None)
    assert (order.a / order.b * answer.d).norm().item() == pytest.approx(0.1 * 2.0, rel=1e-5)


@torch.no_grad()
def test_a_multistep_scheduler_steps_from_the_displaced_latents_with_its_history():
    """DPM-Solver++ 2M: its own step from x~_t, by the prediction there; the reflection is of the first-order step."""
    pipe, x = SDXL.pipeline(), SDXL.latents()
    pipe.scheduler = DPMSolverMultistepScheduler(**DPM)
    ours = SDXL(pipe, latents=x)
    run = families.Literal(SDXL, pipe)
    pipe.scheduler.set_timesteps(4)
    sigmas = pipe.scheduler.sigmas.double()
    for i, t in enumerate(pipe.scheduler.timesteps):
        if i < 3:
            alphas = 1 / (1 + sigmas[i : i + 2] ** 2).sqrt()
            (alpha_t, alpha_s), (sigma_t, sigma_s) = alphas, alphas * sigmas[i : i + 2]
            a = alpha_s / alpha_t
            b = sigma_s - a * sigma_t
            x_s = a * x + b * run.strong_at(x, t)
            x = (x_s - b * run.weak_at(x_s, t)) / a
        x = pipe.scheduler.step(run.guided("strong", x, t, run.main), t, x).prev_sample
    assert families_close(ours, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [W2SD(inversion_noise=0.5, reflection_steps=4), ReSampling(reflection_steps=4)],
    ids=lambda m: type(m).__name__,
)
def test_a_step_that_stays_at_its_level_is_not_reflected(method):
    """DDIM's last step goes from timestep 0 to the level of timestep 0: noise that is added there would stay."""
    x, ends = SDXL.latents(), []
    for chosen in (method, replace(method, reflection_steps=3)):
        pipe = SDXL.pipeline()
        pipe.scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False, set_alpha_to_one=False)
        ends.append(SDXL(pipe, latents=x, method=chosen, generator=generator()))
    assert torch.equal(*ends)
