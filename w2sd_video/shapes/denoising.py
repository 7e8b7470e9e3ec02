"""Training data and loss of denoisers of the shapes world: its videos as latents, with captions and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from ..runs import whole
from .grammar import describe
from .model import tokenizer
from .recipe import NOISY, Common, noisy_share
from .run import Batch, Run
from .world import CANVAS, Scene, forget, render, sample_scene

Captioned = Callable[[Scene, np.random.Generator], Scene]


def as_it_is(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene for a correct caption: unchanged."""
    return scene


def encode_prompts(pipe: StableDiffusionXLPipeline, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings (B, tokens, width of both encoders) and pooled embeddings (B, width), with gradients.

    The same as SDXL's `encode_prompt`, which does not compute the gradients that training needs.

    Args:
        ids: (2, B, tokens), by both tokenizers.
    """
    hidden = []
    for each, encoder in zip(ids, (pipe.text_encoder, pipe.text_encoder_2), strict=True):
        out = encoder(each, output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
    return torch.cat(hidden, -1), out[0]


class Denoising(Run):
    """A run whose stages train on the world's videos."""

    drawn: ClassVar[int | None]  # the most videos in `frames`. None: all

    def __init__(self, folder: Path, recipe: Common, device: str | None = None):
        super().__init__(folder, recipe, device)
        self.tokenizers: tuple[CLIPTokenizer, ...] = (tokenizer(), tokenizer("tokenizer_2"))
        self._forget()

    def _forget(self) -> None:
        """Drops cached videos, after `_draw` has changed."""
        self._scenes: list[Scene] = []
        self._frames: np.ndarray | None = None
        self._latents: torch.Tensor | None = None

    def _scene(self, n: int) -> tuple[Scene, np.random.Generator]:
        """The scene of training video n, and the random generator to draw it with."""
        rng = self.rng(0, n)
        return sample_scene(rng), rng

    def _video_of(self, n: int) -> np.ndarray:
        """Training video n, (frames, height, width, 3), uint8."""
        return (self._draw(*self._scene(n)) * 255).round().astype(np.uint8)

    def _draw(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        return render(scene, rng)

    @property
    def scenes(self) -> list[Scene]:
        if not self._scenes:
            self._scenes = [scene for scene, _ in map(self._scene, range(self.recipe.videos))]
        return self._scenes

    @property
    def frames(self) -> np.ndarray:
        """The first `drawn` training videos, (videos, frames, height, width, 3), uint8."""
        if self._frames is None:
            videos = self._each(self._video_of, range(self.recipe.videos)[: self.drawn], "rendering")
            self._frames = np.stack([np.asarray(video) for video in videos])
        return self._frames

    @torch.no_grad()
    def latents(self, pipe: StableDiffusionXLPipeline) -> torch.Tensor:
        """All training videos as scaled latents, (videos, frames, channels, height, width), float16.

        If stages continue from each other, they share one autoencoder, and the latents are stored in the folder.
        """
        kept = self.folder / "latents.safetensors" if self.after else None
        if self._latents is None and kept is not None and kept.exists():
            self._latents = load_file(kept)["latents"]
        if self._latents is None:
            out = []
            with self._autocast():
                for video in self._each(self._video_of, range(self.recipe.videos), "encoding"):
                    x = self._pixels(torch.as_tensor(video))
                    out.append((pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor).half().cpu())
            self._latents = torch.stack(out).contiguous()
            if kept is not None:
                with whole({"latents": kept}) as staged:
                    save_file({"latents": self._latents}, staged["latents"])
        return self._latents

    def _pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B, height, width, 3) in uint8 as (B, 3, height, width) in [-1, 1], on the device."""
        return frames.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _videos(
        self, stage: str, pipe, unet, rates: dict[torch.nn.Module, float], captioned: Captioned = as_it_is
    ) -> None:
        data = self.latents(pipe)
        steps = getattr(self.recipe, f"{stage}_steps")
        unet.to(self.device).train()
        self._plain(unet)

        def batch(step: int) -> Batch:
            rng = self.rng_of(stage, step)
            which = rng.integers(len(data), size=self.recipe.video_batch)
            share = noisy_share(stage, step, steps)
            scenes = [self.scenes[n] for n in which]
            return self._noised(data[which].transpose(1, 2), scenes, rng, share, captioned)

        self.optimise(stage, rates, batch, partial(self._loss, pipe, self._compiled(unet)), steps)

    def _noised(
        self,
        x0: torch.Tensor,
        scenes: Sequence[Scene],
        rng: np.random.Generator,
        noisy: float,
        captioned: Captioned = as_it_is,
        keep: float = 0.6,
    ) -> Batch:
        """A denoiser's batch: latents, noise, timesteps, token ids, and which captions are used.

        Args:
            x0: latents of the scenes, (B, C, H, W) or (B, C, F, H, W).
            noisy: see `noisy_share`.
            captioned: changes a scene, from which `forget` has removed some facts, before it is described.
            keep: as in `world.forget`.
        """
        scenes = [forget(scene, rng, keep) for scene in scenes]
        prompts = [describe(captioned(scene, rng)) for scene in scenes]
        ids = self._ids(prompts)
        said = torch.from_numpy(rng.random(len(scenes)) >= self.recipe.unconditional).float()

        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        eps = torch.randn(x0.shape, generator=draw)
        t = torch.randint(1000, (len(x0),), generator=draw)
        high = torch.rand(len(x0), generator=draw) < noisy
        t = torch.where(high, NOISY + t * (1000 - NOISY) // 1000, t * NOISY // 1000)
        return {"x0": x0.float(), "eps": eps, "t": t, "ids": ids, "said": said}

    def _ids(self, prompts: list[str]) -> torch.Tensor:
        """The prompts' token ids by both tokenizers, (2, B, tokens)."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return torch.stack([tokens(prompts, **options).input_ids for tokens in self.tokenizers])

    def _loss(self, pipe: StableDiffusionXLPipeline, network: Callable[..., Any], batch: Batch) -> torch.Tensor:
        """The mean squared error of the velocity that a network predicts."""
        x0, eps, t, said = (batch[name] for name in ("x0", "eps", "t", "said"))
        embeds, pooled = encode_prompts(pipe, batch["ids"])
        embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        if x0.ndim == 5:
            embeds = embeds.repeat_interleave(x0.shape[2], 0)
        size = torch.tensor([[CANVAS, CANVAS, 0, 0, CANVAS, CANVAS]], device=self.device, dtype=torch.float32)
        prediction = network(
            pipe.scheduler.add_noise(x0, eps, t),
            t,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": size.repeat(len(x0), 1)},
        ).sample
        return F.mse_loss(prediction.float(), pipe.scheduler.get_velocity(x0, eps, t))
