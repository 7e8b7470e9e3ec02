"""Pairs of video models from presets, saved as users have them, against the pipelines' own calls."""

from __future__ import annotations

import copy
from pathlib import Path

import families
import numpy as np
import pytest
import tiny
import torch
from diffusers import MotionAdapter
from pair_models import ANIMATE, SIDE, animate, scaled, video_call
from peft.utils import get_peft_model_state_dict
from PIL import Image

from w2sd_video import arms
from w2sd_video.models.motion import unshare_parameters
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, sample

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.slow
def test_videos_with_a_controlnet_show_it_one_picture_or_a_frame_each(sd):
    request = animate(sd, "animatediff-controlnet", controlnet=scaled(sd["controlnet"], 1.0, 0.5))
    made, _ = sample(load(request)["w2sd"], request, "w2sd")
    family = next(f for f in families.FAMILIES if f.control and f.video)
    own = family.cls.from_pretrained(
        sd["strong"], motion_adapter=sd["motion"], controlnet=sd["controlnet"], torch_dtype=torch.float32
    )
    frames = [Image.open(sd["picture"]).resize((SIDE, SIDE))] * tiny.FRAMES
    arms = {"strong_guidance_scale": 0.5, "weak_guidance_scale": 0.5, "weak_controlnet_conditioning_scale": 0.5}
    assert np.array_equal(made, video_call(own, conditioning_frames=frames, **arms))
    Path("frames").mkdir()
    for n in range(2):
        Image.open(sd["picture"]).save(f"frames/{n}.png")
    short = Request.of("a cat", preset=request.preset, control="frames")
    with pytest.raises(Refused, match="it has 2 frames; give 3, or one picture for all"):
        sample(load(short)["w2sd"], short, "w2sd")


@pytest.mark.slow
def test_the_weak_arm_with_another_motion_module_or_none(sd):
    request = animate(sd, "animatediff-guidance", weak_motion_adapter=sd["weak_motion"], weak_guidance_scale=1.0)
    pair = load(request)["w2sd"]
    # All but the motion modules is held once; those are the other adapter's.
    ours, theirs = dict(pair.weak_unet.named_parameters()), dict(pair.unet.named_parameters())
    other = dict(tiny.motion_adapter(7).named_parameters())
    for name, parameter in ours.items():
        if ".motion_modules." in name:
            assert torch.equal(parameter, other[name])
        else:
            assert parameter is theirs[name]
    assert pair.unet._repeated_blocks == pair.weak_unet._repeated_blocks == ["BasicTransformerBlock"]
    made, _ = sample(pair, request, "w2sd")
    own = ANIMATE.cls.from_pretrained(
        sd["strong"], weak=sd["strong"], motion_adapter=sd["motion"], torch_dtype=torch.float32
    )
    unshare_parameters(own.weak_unet, own.unet)
    own.weak_unet.load_state_dict(other, strict=False)
    assert np.array_equal(made, video_call(own, weak_guidance_scale=1.0))
    off = animate(sd, "animatediff-motion")
    made, _ = sample(load(off)["w2sd"], off, "w2sd")
    plain = ANIMATE.cls.from_pretrained(sd["strong"], motion_adapter=sd["motion"], torch_dtype=torch.float32)
    assert np.array_equal(made, video_call(plain, weak_motion_scale=0.0, strong_guidance_scale=1.0))


@pytest.mark.slow
def test_a_lora_beside_another_motion_module_is_the_strong_arms(sd):
    values = {"weak_motion_adapter": sd["weak_motion"], "weak_guidance_scale": 1.0}
    lora = animate(sd, "animatediff-guidance", **values, adapters={"style": scaled(sd["lora"], 0.8, 0.0)})
    made, _ = sample(load(lora)["w2sd"], lora, "w2sd")
    pair = load(animate(sd, "animatediff-guidance", **values))["w2sd"]
    pair.load_lora_weights(sd["lora"], adapter_name="style")
    pair.set_adapters(["style"], [0.8])
    assert np.array_equal(made, video_call(pair, weak_guidance_scale=1.0))
    with pytest.raises(Refused, match="give 0 for the weak arm"):
        animate(sd, "animatediff-guidance", weak=sd["weak"], adapters={"style": scaled(sd["lora"], 0.8, -1.5)})


@pytest.mark.slow
def test_a_motion_module_of_another_layout_for_the_weak_arm(sd, tmp_path):
    """AnimateDiff's first one has none in the middle block, the second has."""
    config = {
        **tiny.motion_adapter().config,
        "use_motion_mid_block": not tiny.motion_adapter().config.use_motion_mid_block,
    }
    tiny.seeded(9, lambda: MotionAdapter.from_config(config)).save_pretrained(tmp_path / "other")
    request = animate(sd, "animatediff-guidance", weak_motion_adapter=str(tmp_path / "other"), weak_guidance_scale=1.0)
    pair = load(request)["w2sd"]
    assert pair.weak_unet.config.use_motion_mid_block is not pair.unet.config.use_motion_mid_block
    assert sample(pair, request, "w2sd")[0].shape[1:] == (SIDE, SIDE, 3)


@pytest.mark.slow
def test_a_lora_is_in_both_arms_beside_another_motion_module(sd):
    """As it is when each arm is loaded by itself, by diffusers."""
    scaled_lora = {"style": {"model": sd["lora"], "strong": 0.8, "weak": 0.5}}
    own = {"weak_motion_adapter": sd["weak_motion"], "adapters": scaled_lora, "strong_guidance_scale": 3.0}
    request = animate(sd, "animatediff-guidance", weak_guidance_scale=1.0, **own)
    made, _ = sample(load(request)["w2sd"], request, "w2sd")
    stock = {}
    for name, motion, scale in (("strong", "motion", 0.8), ("weak", "weak_motion", 0.5)):
        adapter = MotionAdapter.from_pretrained(sd[motion])
        stock[name] = ANIMATE.stock.from_pretrained(sd["strong"], motion_adapter=adapter)
        stock[name].load_lora_weights(sd["lora"], adapter_name="style")
        stock[name].set_adapters(["style"], [scale])
    pair = ANIMATE.cls.from_pretrained(sd["strong"], motion_adapter=sd["motion"])
    pair.register_modules(unet=stock["strong"].unet, weak_unet=stock["weak"].unet)
    assert np.array_equal(made, video_call(pair, strong_guidance_scale=3.0, weak_guidance_scale=1.0))
    alone = ANIMATE.cls.from_pretrained(sd["strong"], motion_adapter=sd["motion"])
    with pytest.raises(ValueError, match="`into_weak` is True, and the weak arm has no UNet of its own"):
        alone.load_lora_weights(sd["lora"], adapter_name="style", into_weak=True)


@pytest.mark.slow
def test_a_lora_leaves_both_arms(sd):
    models = {"motion_adapter": sd["motion"], "weak_motion_adapter": sd["weak_motion"]}
    pair = ANIMATE.cls.from_pretrained(sd["strong"], **models)
    before = video_call(pair)
    for drop in (lambda: pair.unload_lora_weights(), lambda: pair.delete_adapters("style")):
        pair.load_lora_weights(sd["lora"], adapter_name="style", into_weak=True)
        assert not np.array_equal(video_call(pair), before)
        drop()
        assert np.array_equal(video_call(pair), before)


def two_loras(unet) -> list[dict[str, torch.Tensor]]:
    loras = []
    for seed in (40, 41):
        network = copy.deepcopy(unet)
        families.add_lora(network, seed=seed)
        named = get_peft_model_state_dict(network, adapter_name="style")
        loras.append({f"unet.{name}": tensor.detach().clone() for name, tensor in named.items()})
    return loras


def active(network) -> dict[str, float]:
    return {name: layers[0].scaling[name] for name, layers in arms.adapters(network).items()}


@pytest.mark.slow
def test_loras_of_both_arms_are_active_in_both_or_in_neither():
    pipe = tiny.pipeline()
    first, second = two_loras(pipe.unet)
    pipe.load_lora_weights(first, adapter_name="first", into_weak=True)
    pipe.load_lora_weights(second, adapter_name="second", into_weak=True)
    assert active(pipe.weak_unet) == active(pipe.unet)
    pipe.set_adapters(["first", "second"], [0.5, 2.0])
    assert active(pipe.unet) == {"first": 0.5, "second": 2.0}
    assert active(pipe.weak_unet) == {"first": 1.0, "second": 1.0}
    pipe(**tiny.call(weak_adapter_scales={"first": 0.2, "second": 0.3}))
    families.add_lora(pipe.weak_unet, "own")  # the weak arm's alone
    pipe.set_adapters("first")
    assert active(pipe.weak_unet) == {"own": 1.0, "first": 1.0}
    pipe.disable_lora()
    without = tiny.pipeline()
    assert torch.equal(pipe(**tiny.call()).frames, without(**tiny.call()).frames)
    pipe.enable_lora()
    assert not torch.equal(pipe(**tiny.call()).frames, without(**tiny.call()).frames)


@pytest.mark.slow
def test_a_lora_without_a_name_has_one_name_in_both_arms():
    pipe = tiny.pipeline()
    first, second = two_loras(pipe.unet)
    pipe.load_lora_weights(first)
    pipe.load_lora_weights(second, into_weak=True)
    assert [*pipe.unet.peft_config] == ["default_0", "default_1"] and [*pipe.weak_unet.peft_config] == ["default_1"]
    pipe.delete_adapters("default_0")
    assert [*pipe.unet.peft_config] == [*pipe.weak_unet.peft_config] == ["default_1"]
    families.add_lora(pipe.weak_unet, "style")
    with pytest.raises(ValueError, match="`adapter_name` is 'style', and `weak_unet` has a LoRA of this name"):
        pipe.load_lora_weights(first, adapter_name="style", into_weak=True)
    assert "style" not in pipe.unet.peft_config


@pytest.mark.slow
def test_loras_of_both_arms_are_fused_in_both():
    """`fuse_lora`, then `unload_lora_weights`, is how a LoRA becomes a part of the weights in diffusers."""
    pipe = tiny.pipeline()
    pipe.load_lora_weights(two_loras(pipe.unet)[0], adapter_name="style", into_weak=True)
    before = pipe(**tiny.call()).frames
    pipe.fuse_lora()
    pipe.unfuse_lora()
    torch.testing.assert_close(pipe(**tiny.call()).frames, before, rtol=1e-3, atol=1e-3)
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="names 'style', which is fused"):
        pipe(**tiny.call(weak_adapter_scales={"style": 0.5}))
    pipe.unload_lora_weights()
    torch.testing.assert_close(pipe(**tiny.call()).frames, before, rtol=1e-3, atol=1e-3)
