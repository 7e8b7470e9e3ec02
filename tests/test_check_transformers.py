"""Pairs of transformers are checked at data: encoded and noised as each family is trained, by arithmetic of our own."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import any_cases
import diffusers
import numpy as np
import pytest
import torch
from any_cases_image import picture_vae
from any_pipeline import CASES, sample, seeded
from test_transformer_families import LARGER, WAN, family, fast_are, saved, textual
from torch import Tensor
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.alignment import Probe, latents_of
from w2sd_video.cli import app
from w2sd_video.errors import Refused
from w2sd_video.runs import Request

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

STATISTICS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.5, 1.0, 0.8]}


def ltx_vae() -> Any:
    vae = any_cases.ltx_vae()
    vae.latents_mean.copy_(torch.tensor(STATISTICS["latents_mean"]))
    vae.latents_std.copy_(torch.tensor(STATISTICS["latents_std"]))
    return vae


def wan_vae(kind: Any = diffusers.AutoencoderKLWan) -> Any:
    config = dict(base_dim=4, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True])
    return seeded(3, lambda: kind(**config, **STATISTICS))


def mochi_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
    ))  # fmt: skip


def sana_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(4,) * 6, decoder_block_out_channels=(4,) * 6, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
        scaling_factor=0.41, decoder_norm_types="rms_norm",
    ))  # fmt: skip


VAES: dict[str, Any] = {
    "WanPipeline": wan_vae,
    "StableDiffusion3Pipeline": lambda: picture_vae(4),
    "FluxPipeline": lambda: picture_vae(4),
    "LTXPipeline": ltx_vae,
    "CogVideoXPipeline": any_cases.cog_vae,
    "WanImageToVideoPipeline": wan_vae,
    "LTXImageToVideoPipeline": ltx_vae,
    "CogVideoXImageToVideoPipeline": any_cases.cog_vae,
    "HunyuanVideoPipeline": any_cases.hunyuan_vae,
    "HunyuanVideo15Pipeline": any_cases.vae_15,
    "MochiPipeline": mochi_vae,
    "QwenImagePipeline": lambda: wan_vae(diffusers.AutoencoderKLQwenImage),
    "SanaPipeline": sana_vae,
}


def data_of(call: dict[str, Any]) -> np.ndarray:
    shape = (call.get("num_frames", 1), call["height"], call["width"], 3)
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def constant(network: Any, value: float) -> Any:
    """The network, predicting one number everywhere."""
    last = getattr(network.proj_out, "linear", network.proj_out)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)
    return network


def pair(case: str, weak: float = 0.3, strong: float = 0.0) -> tuple[Any, Any]:
    """A family and a pipeline of it whose two networks predict one number each."""
    of = family(case, LARGER[case])
    more = {"in_channels": 12} if case == "MochiPipeline" else {}  # its pipeline's statistics are of 12 channels
    network = constant(of.weak(**more), weak)
    parts = {"transformer": of.weak(0, **{**of.config, **more})} if more else {}
    pipe = of.pipeline(network, vae=VAES[case](), **parts)
    constant(pipe.transformer, strong)
    return of, pipe


@pytest.mark.parametrize("case", LARGER)
@fast_are
def test_the_statistics_are_those_of_the_family_s_own_noising_and_prediction(case):
    """A strong arm that predicts 0 and a weak one that predicts c: with d = -c and r the target itself, g* is known."""
    c, generator = 0.3, torch.Generator().manual_seed(7)
    of, pipe = pair(case, c)
    plain, call = CASES[case], CASES[case].call(pipe)
    z = latents_of(pipe, data_of(call))
    seen: list[Tensor] = []
    forward = pipe.transformer.forward

    def seeing(hidden_states: Tensor, *args: Any, **told: Any) -> Any:
        seen.append(hidden_states.clone())
        return forward(hidden_states, *args, **told)

    pipe.transformer.forward = functools.wraps(forward)(seeing)
    probe = Probe(strong_guidance=1.0, weak_guidance=1.0, reflection_steps=4, data=z, generator=generator)
    with pipe.guiding(1.0):
        sample(pipe, of.of(pipe, **pipe.guided(1.0, None), method=probe))
    assert len(probe.alignments) == 4 and pipe.evaluations == {"strong": 4, "weak": 4, "total": 8}
    generator = torch.Generator().manual_seed(7)
    sign = -1 if case == "MochiPipeline" else 1  # which predicts z - eps
    for i, (said, x) in enumerate(zip(probe.alignments, seen, strict=True)):
        eps = torch.randn(z.shape, generator=generator)
        if case.startswith("CogVideoX"):  # v, on a schedule of cumulative alphas
            bar = float(pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[i])])
            alpha, sigma = bar**0.5, (1 - bar) ** 0.5
            target = alpha * eps - sigma * z
        else:
            sigma = float(pipe.scheduler.sigmas[i])
            sigma = 1 - sigma if case == "MochiPipeline" else sigma
            alpha, target = 1 - sigma, eps - z
        moving = torch.ones_like(z) if plain.moving is None else plain.moving(z, {})
        shown, noised = plain.latents(x), alpha * z + sigma * eps
        assert torch.allclose(moving * shown, moving * noised, atol=1e-5)
        assert torch.equal(shown[moving == 0], seen[0][moving == 0]) if plain.moving else True
        r = moving * target
        expected = {"dr": -sign * c * float(r.sum()), "dd": c**2 * float(moving.sum()), "rr": float((r**2).sum())}
        found = {name: getattr(said, name) for name in expected}
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4) and math.isclose(said.sigma, sigma, abs_tol=1e-6)


@pytest.mark.parametrize("case", LARGER)
@fast_are
def test_data_is_encoded_to_what_the_pipeline_decodes(case):
    """What the pipeline makes of these latents is what the autoencoder makes of its own code of the data."""
    of, pipe = pair(case)
    call = CASES[case].call(pipe)
    frames = data_of(call)
    z = latents_of(pipe, frames)
    if CASES[case].moving is not None:  # of which a still part is the pipeline's own
        z = CASES[case].sampled(pipe, z) if case.startswith("LTX") else z
    told = {"output_type": "pt", "num_inference_steps": 2, "method": None, **pipe.guided(1.0, None)}
    told |= {"generator": torch.Generator().manual_seed(0)}
    step, made = pipe.scheduler.step, []

    def stepped(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        made.append(out[0].shape)
        return (z.to(out[0]),)

    pipe.scheduler.step = stepped
    with pipe.guiding(1.0):
        out = pipe(**{**call, **told})[0]
    assert made == [z.shape] * 2
    vae = pipe.vae
    pixels = torch.as_tensor(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    flat = not any(p.ndim == 5 for p in vae.parameters())
    with torch.no_grad():
        code = vae.encode(pixels[:, :, 0] if flat else pixels)
        code = code.latent if case == "SanaPipeline" else code.latent_dist.mode()
        expected = vae.decode(code)[0]
    expected = (expected if expected.ndim == 4 else expected[0].transpose(0, 1)) / 2 + 0.5
    shown = out[0] if out.ndim == 5 else out
    later = slice(1 if CASES[case].moving is not None else 0, None)
    if later.start:  # a causal decoder sees the still first frame, too: its last frames are far from it
        assert shown.shape == expected.shape
        return
    assert torch.allclose(shown[later], expected.clamp(0, 1)[later], atol=1e-5)


def test_data_of_another_size_than_the_call_s_is_refused_by_name():
    of, pipe = pair("WanPipeline")
    probe = Probe(strong_guidance=1.0, weak_guidance=1.0, data=torch.zeros(1, 4, 1, 4, 4))
    with pytest.raises(ValueError, match=r"`data` is encoded to latents \(1, 4, 1, 4, 4\), and the pipeline samples"):
        sample(pipe, of.of(pipe, guidance_scale=1.0, method=probe))


def test_unequal_gains_of_still_and_moving_are_refused_where_frames_have_no_axis_of_their_own(monkeypatch):
    """Equal ones scale the whole, as check-pair proposes them. A request is refused before weights are read."""
    of = family("LTXPipeline", LARGER["LTXPipeline"])
    pipe = of.pipeline(of.weak())
    half = sample(pipe, of.of(pipe, still_gain=0.5, motion_gain=0.5))[1][-1]
    assert not torch.equal(half, sample(pipe, of.of(pipe))[1][-1])
    monkeypatch.setattr(pipe.transformer, "forward", lambda *args, **kwargs: pytest.fail("a network ran"))
    for gains in ({"motion_gain": 2.0}, {"still_gain": 2.0}):
        with pytest.raises(ValueError, match="frames have no axis of their own in latents"):
            sample(pipe, of.of(pipe, **gains))
        with pytest.raises(Refused, match="frames have no axis of their own in latents"):
            Request.of("a cat", preset="ltx-guidance", options=gains)
        Request.of("a cat", preset="wan21-1.3b-guidance", options=gains)


@pytest.mark.slow
def test_check_pair_checks_a_pair_of_transformers_and_proposes_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strong = saved(WAN, tmp_path / "strong", constant(WAN.pipeline().transformer, 0.0), **textual("WanPipeline"))
    weak = saved(WAN, tmp_path / "weak", constant(WAN.weak(), 0.3), **textual("WanPipeline"))
    for n in range(10):
        video.write_mp4(data_of({"num_frames": 7, "height": 32, "width": 32}), tmp_path / f"a cat {n}.mp4", 8)
    words = ["--strong", str(strong), "--weak", str(weak), "--height", "32", "--width", "32", "--frames", "9"]
    words += ["--preset", "wan21-14b-1.3b", "--dtype", "float32", "--dimensions", "none", "--format", "json"]
    ran = CliRunner().invoke(app, ["check-pair", *map(str, sorted(tmp_path.glob("*.mp4"))), *words])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["strength"]["prompts"] == 10 and "too few" not in said["verdict"] and len(said["levels"]) == 8
    assert said["proposal"]["preset"] == "pair/proposed.yaml"
    assert [each["sigma"] for each in said["levels"]] == sorted((e["sigma"] for e in said["levels"]), reverse=True)
    assert all(math.isfinite(each["strength"]["g"]) for each in said["levels"])
    assert (tmp_path / "pair" / "proposed.yaml").is_file() and (tmp_path / "pair" / "alignment.csv").is_file()
