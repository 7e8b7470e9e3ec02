"""Pipelines of diffusers with something unusual in their loops, each against Algorithm 1 written for it by hand."""

from __future__ import annotations

from typing import Any

import families
import pytest
import tiny
import torch
from diffusers import (
    AnimateDiffSparseControlNetPipeline,
    AutoencoderKLLTXVideo,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    LTXConditionPipeline,
    SparseControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from test_attaching import families_close, generator, literal, ltx
from test_hook import draw
from torch import Tensor, nn

from w2sd_video.hook import apply_reflection
from w2sd_video.methods import S2WD, W2SD, AutoGuidance

SD = families.FAMILIES[3]
VIDEO = families.FAMILIES[1]
CONTROL = families.FAMILIES[5]


def stock(cls: Any, family: Any, **overrides: Any) -> Any:
    """A pipeline of diffusers in float64, of the family's parts."""
    parts = {name: part for name, part in family.components(weak=False).items() if not name.startswith("weak_")}
    pipe = cls(**{**parts, **overrides}).to(torch.float64)
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
    pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs_of(network: nn.Module, call: Any) -> dict[str, Any]:
    """What a plain call hands to a network at its first step, by name."""
    first: dict[str, Any] = {}

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not first:
            first.update(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
            first.update(kwargs)

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    call()
    handle.remove()
    return first


def loop(scheduler: Any, x: Tensor, strong: Any, weak: Any, w: tuple[float, float, float]) -> Tensor:
    """Algorithm 1 with DDIM, of two networks as functions of x and t that give (uncond, cond)."""

    def mixed(network: Any, x: Tensor, t: Tensor, number: float) -> Tensor:
        uncond, cond = network(x, t)
        return uncond + number * (cond - uncond)

    final, of_strong, of_weak = w
    for i, t in enumerate(scheduler.timesteps):
        if i < 3:
            x_s = scheduler.step(mixed(strong, x, t, of_strong), t, x).prev_sample
            p = mixed(weak, x_s, t, of_weak)
            c = scheduler.step(p, t, torch.zeros_like(x)).prev_sample  # a step is a x + c
            x = (x_s - c) / (scheduler.step(p, t, torch.ones_like(x)).prev_sample - c)
        x = scheduler.step(mixed(strong, x, t, final), t, x).prev_sample
    return x


@pytest.mark.parametrize(("name", "method"), [("w2sd", W2SD), ("s2wd", S2WD), ("auto_guidance", AutoGuidance)])
@torch.no_grad()
def test_a_flow_that_is_stepped_by_its_negative_with_times_per_token(name, method):
    """LTXConditionPipeline without a condition: a time for each token, all alike, and minus the flow to step by."""
    parts, weak = ltx().components, ltx().transformer
    for parameter in weak.parameters():
        parameter.add_(0.1 * draw(*parameter.shape, seed=9, dtype=torch.float64))
    sizes: dict[str, Any] = {"block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    sizes |= {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
    vae = AutoencoderKLLTXVideo(latent_channels=4, **sizes).double()
    pipe = LTXConditionPipeline(**{**parts, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler()})
    pipe.set_progress_bar_config(disable=True)
    texts = ("prompt_embeds", "negative_prompt_embeds")
    call: dict[str, Any] = {text: draw(2, 5, 8, seed=i, dtype=torch.float64) for i, text in enumerate(texts)}
    call |= {mask: torch.ones(2, 5) for mask in ("prompt_attention_mask", "negative_prompt_attention_mask")}
    call |= {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 4, "output_type": "latent"}

    def run() -> Tensor:
        made = pipe(**call, guidance_scale=3.0, guidance_rescale=0.7, generator=generator()).frames
        return made.flatten(2).transpose(1, 2)  # (B, tokens, C)

    expected = literal(pipe, weak, run, name, 0.7, (3.0, 4.0, 1.5))
    with apply_reflection(pipe, method(4.0, 1.5), weak=weak):
        assert families_close(run(), expected)


@pytest.mark.slow
@torch.no_grad()
def test_guidance_counted_from_the_conditional_prediction():
    """Kandinsky 3 mixes (w + 1) cond - w uncond."""

    def network() -> Kandinsky3UNet:
        return Kandinsky3UNet(
            in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
            block_out_channels=(8, 16), cross_attention_dim=4, encoder_hid_dim=8,
        ).double().eval()  # fmt: skip

    unet, weak = tiny.seeded(0, network), tiny.seeded(1, network)
    pipe = Kandinsky3Pipeline(tokenizer=None, text_encoder=None, unet=unet, scheduler=tiny.scheduler(), movq=None)
    pipe.set_progress_bar_config(disable=True)
    texts = ("prompt_embeds", "negative_prompt_embeds")
    call: dict[str, Any] = {text: draw(2, 5, 8, seed=i, dtype=torch.float64) for i, text in enumerate(texts)}
    call |= {mask: torch.ones(2, 5) for mask in ("attention_mask", "negative_attention_mask")}
    call |= {"height": 64, "width": 64, "num_inference_steps": 4, "output_type": "latent", "guidance_scale": 3.0}

    def run() -> Tensor:
        return pipe(**call, generator=generator()).images

    told = inputs_of(unet, run)
    x = told["sample"].chunk(2)[0]
    told = {name: told[name] for name in ("encoder_hidden_states", "encoder_attention_mask")}

    def of(network: Any) -> Any:
        return lambda x, t: network(torch.cat([x, x]), t, **told).sample.chunk(2)

    pipe.scheduler.set_timesteps(4)
    expected = loop(pipe.scheduler, x, of(unet), of(weak), (4.0, 2.5, 0.5))
    with apply_reflection(pipe, W2SD(2.5, 0.5), weak=weak):
        assert families_close(run(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", [W2SD, AutoGuidance])
@torch.no_grad()
def test_a_mask_and_a_picture_beside_the_latents_are_held(method):
    def network(seed: int) -> Any:
        plain = {"addition_embed_type": None, "addition_time_embed_dim": None}
        plain |= {"projection_class_embeddings_input_dim": None, "cross_attention_dim": tiny.TEXT_WIDTH}
        return tiny.unet2d(seed, in_channels=9, **plain).double()

    pipe, weak = stock(StableDiffusionInpaintPipeline, SD, unet=network(0)), network(10)
    shown = {"image": torch.rand(2, 3, 16, 16, generator=generator(1)), "mask_image": torch.ones(2, 1, 16, 16)}
    shown["mask_image"][..., :7] = 0

    def run() -> Tensor:
        call = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 16, "width": 16, "output_type": "latent"}
        return pipe(["a cat", "a dog"], **shown, **call, generator=generator()).images

    told = inputs_of(pipe.unet, run)
    x, beside = told["sample"][:2, :4], told["sample"][:, 4:]
    text = told["encoder_hidden_states"]
    assert beside.std() > 0

    def of(network: Any) -> Any:
        return lambda x, t: network(torch.cat([torch.cat([x, x]), beside], 1), t, text).sample.chunk(2)

    pipe.scheduler.set_timesteps(4)
    if method is W2SD:
        expected = loop(pipe.scheduler, x, of(pipe.unet), of(weak), (3.0, 2.0, 0.0))
    else:
        expected = x
        for i, t in enumerate(pipe.scheduler.timesteps):
            (uncond, cond), (bad, _) = of(pipe.unet)(expected, t), of(weak)(expected, t)
            p = uncond + 3.0 * (cond - uncond)
            p = p + (uncond + 2.0 * (cond - uncond) - bad) * (i < 3)
            expected = pipe.scheduler.step(p, t, expected).prev_sample
    with apply_reflection(pipe, method(2.0, 0.0), weak=weak):
        assert families_close(run(), expected)
    with pytest.raises(ValueError, match="`weak` takes 4 channels, and StableDiffusionInpaintPipeline's denoiser 9"):
        with apply_reflection(pipe, method(2.0, 0.0), weak=SD.unet(1)):
            raise AssertionError


@pytest.mark.slow
@torch.no_grad()
def test_guess_mode_without_guidance():
    """A ControlNet in guess mode fades with depth; only with guidance is it without effect on one of the branches."""
    pipe = stock(StableDiffusionControlNetPipeline, CONTROL)

    def run(guidance: float) -> Tensor:
        call = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "latent", "guess_mode": True}
        return pipe("a cat", image=CONTROL.picture(), **call, generator=generator()).images

    told, shown = inputs_of(pipe.unet, lambda: run(1.0)), inputs_of(pipe.controlnet, lambda: run(1.0))
    assert shown["guess_mode"]
    x, text = told["sample"], told["encoder_hidden_states"]
    shown = {name: shown[name] for name in ("encoder_hidden_states", "controlnet_cond", "guess_mode")}

    def cond(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        down, mid = pipe.controlnet(x, t, **shown, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return (pipe.unet(x, t, text, **residuals).sample,) * 2

    pipe.scheduler.set_timesteps(4)
    expected = loop(pipe.scheduler, x, cond, cond, (1.0, 1.0, 1.0))
    with apply_reflection(pipe, W2SD()):
        assert families_close(run(1.0), expected)
        with pytest.raises(ValueError, match="`guess_mode` is not supported under a method.*no guidance"):
            run(3.0)


@pytest.mark.slow
@torch.no_grad()
def test_a_controlnet_that_takes_videos():
    """SparseCtrl's sees whole videos, where others see their frames as images."""

    def network() -> SparseControlNetModel:
        net = SparseControlNetModel(
            conditioning_channels=4, down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
            block_out_channels=tiny.WIDTHS, layers_per_block=1, cross_attention_dim=tiny.TEXT_WIDTH, norm_num_groups=4,
            attention_head_dim=(2, 4), motion_num_attention_heads=2, motion_max_seq_length=8,
        )  # fmt: skip
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        return net.eval()

    pipe = stock(AnimateDiffSparseControlNetPipeline, VIDEO, controlnet=tiny.seeded(0, network))

    def run() -> Tensor:
        torch.manual_seed(0)  # the pipeline draws the latents of its picture so
        call = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "num_frames": tiny.FRAMES}
        picture = families.picture(torch.rand(1, 3, 16, 16, generator=generator(1)))
        size = {"height": 16, "width": 16, "controlnet_frame_indices": [1]}
        return pipe("a cat", conditioning_frames=[picture], **size, **call, generator=generator()).frames

    told, shown = inputs_of(pipe.unet, run), inputs_of(pipe.controlnet, run)
    x, text = told["sample"][:1], told["encoder_hidden_states"]
    shown = {name: shown[name] for name in ("encoder_hidden_states", "controlnet_cond", "conditioning_mask")}

    def halves(x: Tensor, t: Tensor) -> Any:
        x = torch.cat([x, x])
        down, mid = pipe.controlnet(x, t, **shown, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return pipe.unet(x, t, text, **residuals).sample.chunk(2)

    pipe.scheduler.set_timesteps(4)
    expected = loop(pipe.scheduler, x, halves, halves, (3.0, 2.0, 0.5))
    with apply_reflection(pipe, W2SD(2.0, 0.5)):
        assert families_close(run(), expected)


@pytest.mark.slow
@torch.no_grad()
def test_a_loop_that_starts_later_than_a_call_before_it_ended_counts_its_own_steps():
    pipe = tiny.image_to_image()
    call = {"num_inference_steps": 8, "output_type": "latent", "guidance_scale": 3.0}

    def late() -> Tensor:
        return pipe("a cat", image=draw(1, 4, 8, 8), denoising_start=0.5, generator=generator(), **call).images

    with apply_reflection(pipe, W2SD(5.0, 1.0)):
        expected = late()
    with apply_reflection(pipe, W2SD(5.0, 1.0)):
        pipe("a cat", image=torch.rand(1, 3, 16, 16), strength=1.0, denoising_end=0.4, generator=generator(), **call)
        assert torch.equal(late(), expected)


@torch.no_grad()
def test_a_scheduler_that_is_replaced_under_a_method_is_refused():
    pipe = stock(StableDiffusionPipeline, SD)
    call = {"num_inference_steps": 2, "output_type": "latent"}
    with apply_reflection(pipe, W2SD()):
        first, pipe.scheduler = pipe.scheduler, EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="the scheduler of StableDiffusionPipeline was replaced.*set it before"):
            pipe("a cat", **call)
        pipe.scheduler = first
        pipe("a cat", **call)
    assert isinstance(pipe.scheduler, DDIMScheduler) and "step" not in vars(pipe.scheduler)


@torch.no_grad()
def test_another_pipeline_of_the_same_parts_is_refused_while_a_method_is_applied():
    """Its guidance and its number of steps are not those of the first one."""
    pipe = stock(StableDiffusionPipeline, SD)
    other = StableDiffusionImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 4, "output_type": "latent"}
    with apply_reflection(pipe, W2SD()):
        for _ in range(2):
            with pytest.raises(ValueError, match="another pipeline uses the networks of StableDiff"):
                other("a cat", image=draw(1, 3, 16, 16), strength=0.5, **call)
            pipe("a cat", **call)
            pipe.scheduler.set_timesteps(3)
    with apply_reflection(other, W2SD()):
        other("a cat", image=draw(1, 3, 16, 16), strength=0.5, **call)


@torch.no_grad()
def test_the_strong_network_as_the_weak_one_is_the_default():
    pipe = stock(StableDiffusionPipeline, SD)
    call = {"num_inference_steps": 2, "output_type": "latent"}
    with apply_reflection(pipe, W2SD(3.0, 1.0)):
        expected = pipe("a cat", generator=generator(), **call).images
    with apply_reflection(pipe, W2SD(3.0, 1.0), weak=pipe.unet):
        assert torch.equal(pipe("a cat", generator=generator(), **call).images, expected)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_that_is_compiled_under_a_method():
    pipe = stock(StableDiffusionPipeline, SD)
    call = {"num_inference_steps": 2, "output_type": "latent"}
    torch._dynamo.reset()
    with apply_reflection(pipe, W2SD(3.0, 1.0)):
        expected = pipe("a cat", generator=generator(), **call).images
        pipe.unet.compile(backend="eager")
        assert families_close(pipe("a cat", generator=generator(), **call).images, expected)
