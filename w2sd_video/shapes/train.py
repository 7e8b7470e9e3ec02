"""Trains the shapes model: the weak `base`, the strong `tuned`, and the motion module they share.

Six stages, each resumable, of 1 to 50 minutes on two CPU cores:

1. `vae`      the autoencoder, on single frames;
2. `decoder`  its decoder alone: to draw sharp edges, and from latents that are a little off;
3. `text`     both text encoders, which learn to read; see `reading`;
4. `image`    the image model and both text encoders, on single frames;
5. `video`    the motion module, together with the image model at the same rate: with the image model at a quarter of
              the rate, objects had their form but wandered. Captions exchange attributes between objects. The result
              is `base`.
6. `tuned`    a short fine-tune of base and its text encoders on correct captions, with the motion module frozen.

So `base` knows almost as well as `tuned` what things look like, but is less sure which attribute belongs to which
object. A pair needs such a difference: both models make an error in the same direction, and the weak one makes more
of it.

The loss is the squared error of the velocity. The direction of motion depends jointly on word, frame and place, and is
decided at noise levels at which almost nothing is visible. Plain training does not learn it within hours at this size.
These measures help:

- Latents with little information beyond the visible. When the encoder was also trained for sharp edges, latents held
  2.6 to 4.2 nats per value instead of 1.6 to 2.2, and after 1,200 steps of the image stage, form was .51 to .58 instead
  of .70 and the objects' colours were mixed.
- Pre-trained text encoders. Without them, the model had not learnt after 4,500 steps which object is the red one; with
  them, 1,200 steps were enough.
- Small latents (`LATENT_STD`), and batches with mostly high noise first and lower noise later (`noisy_share`).
- An image stage that sees only the last frames (`LAST_FRAMES`), so that the model learns to connect word and place
  before it has to take the frame into account.

The batch of step n depends only on (seed, stage, n), so a run that was killed and resumed gives the same weights as an
uninterrupted one. On a GPU, other processes prepare batches ahead, and the networks are compiled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, MotionAdapter, StableDiffusionXLPipeline

from ..models.motion import motion_unet
from ..runs import whole
from .captions import exchange, mislabel
from .denoising import Denoising, encode_prompts
from .grammar import describe
from .model import HERE, LATENT_CHANNELS, build_image_model, build_motion_adapter
from .reading import Reader, facts, numbers
from .recipe import EVENLY, Recipe, noisy_share
from .run import Batch
from .world import Scene, forget, sample_scene

# Latents with a small standard deviation drown in noise at lower timesteps (arXiv:2301.10972). At more timesteps the
# model then has to learn from the prompt where things go, since the noisy video does not show it.
LATENT_STD = 0.5
# How many videos a finished model's loss is measured on.
HELD_OUT = 256
HELD_OUT_KEY = 256  # key of their random numbers; stages have smaller keys
# The first share of the steps of the stage `decoder`, which train on crops around things; the others on whole frames.
CROPPED = 0.3
# How many last frames of a video the image stage sees: there, the direction of motion shows as a place.
LAST_FRAMES = 4
# Prompts in a batch of the stage `text`.
READ = 128
# By stage, the stage from whose models it continues. Stages that do not depend on each other can run in parallel, in
# processes of their own.
AFTER = {"decoder": "vae", "text": "vae", "image": "text", "video": "image", "tuned": "video"}
STAGES = ("vae", *AFTER)

HEAD = """pipeline_tag: text-to-video
---
# Shapes: a small text-to-video model of moving shapes

16 frames of 64x64 pixels, prompts in a small grammar (`w2sd-video shapes words`). `base` is the weak model: trained
on captions that give attributes to the wrong object here and there. `tuned` is the strong one: fine-tuned from base,
text encoders too, on right ones. It holds the autoencoder of both, and `motion` is the motion module of both.

Made by this project, from videos that it renders itself"""


def _crop(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop of a quarter of a frame (height, width, 3) in uint8, which contains a pixel of a thing if there is one."""
    there = np.argwhere(np.ptp(frame.astype(np.int16), axis=-1) > 25)
    sides = np.array(frame.shape[:2]) // 2
    middle = there[rng.integers(len(there))] if len(there) else sides
    top, left = np.clip(middle - rng.integers(sides), 0, sides)
    return frame[top : top + sides[0], left : left + sides[1]]


def _coloured(x: torch.Tensor) -> torch.Tensor:
    """A mask (B, 1, height, width) of 0 and 1 of the things in pictures (B, 3, height, width)."""
    return (x.amax(1, keepdim=True) - x.amin(1, keepdim=True) > 0.1).float()


def _unlike(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The decoder's loss between pictures, both (B, 3, height, width), with more weight near things and at edges."""
    near = F.max_pool2d(_coloured(x), 5, stride=1, padding=2)  # includes both sides of edges, where blur shows
    edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (-1, -2))
    return ((y - x).abs() * (1 + 4 * near)).mean() + edges


class Trainer(Denoising):
    """Trains the weights of a `Recipe` in a run folder. `train()` resumes from the folder's checkpoints."""

    stages: ClassVar[tuple[str, ...]] = STAGES
    after: ClassVar[Mapping[str, str]] = AFTER
    drawn: ClassVar[int | None] = 2000  # the most videos whose frames the autoencoder trains on
    recipe: Recipe

    def __init__(self, folder: Path, recipe: Recipe | None = None, device: str | None = None):
        super().__init__(folder, recipe or Recipe(), device)

    def export(self, to: Path, command: str) -> None:
        """Writes the models for distribution: `base`, `tuned` and `motion` in half precision, and a model card.

        Raises:
            ValueError: a stage is not done.
        """
        if missing := [stage for stage in self.stages if not self._done(stage).exists()]:
            raise ValueError(f"stages: {', '.join(missing)} not done in {self.folder}; train them first")
        with whole({"weights": Path(to)}) as staged:
            vae = AutoencoderKL.from_pretrained(self.folder / "decoder", torch_dtype=torch.float16)
            for name in ("base", "tuned"):
                pipe = self._load(name).to("cpu", torch.float16)
                # Both share the autoencoder, which is stored with the strong one.
                pipe.register_modules(vae=vae if name == "tuned" else None)
                pipe.save_pretrained(staged["weights"] / name)
                for tokens in ("tokenizer", "tokenizer_2"):  # as vocab.json and merges.txt too, like SDXL's own
                    shutil.copytree(HERE / tokens, staged["weights"] / name / tokens, dirs_exist_ok=True)
            motion = MotionAdapter.from_pretrained(self.folder / "motion", torch_dtype=torch.float16)
            motion.save_pretrained(staged["weights"] / "motion")
            (staged["weights"] / "README.md").write_text(self._card(command))

    def _card(self, command: str) -> str:
        base, tuned = (self.held_out(name) for name in ("base", "tuned"))
        unseen = (
            "The loss on videos that no stage saw, with right captions, is "
            f"{base:.4f} of `base` and {tuned:.4f} of `tuned`.\n\n"
        )
        return self.card(HEAD, command, self.stages, unseen)

    def _vae(self) -> None:
        torch.manual_seed(self.recipe.seed)
        pipe = build_image_model()
        vae, recipe = pipe.vae.to(self.device), self.recipe

        def loss(batch: Batch) -> torch.Tensor:
            x, posterior, z = self._encoded(vae, batch)
            difference = vae.decode(z).sample - x
            error = (difference.abs() + difference.square()) * (1 + 4 * _coloured(x))
            return error.mean() + recipe.kl_weight * posterior.kl().mean() / z[0].numel()

        batch = partial(self._frames_batch, "vae", whole_from=0)
        self.optimise("vae", {vae: recipe.vae_learning_rate}, batch, loss, recipe.vae_steps)
        with torch.no_grad(), self._autocast():
            z = torch.cat([vae.encode(self._pixels(torch.from_numpy(v))).latent_dist.mean for v in self.frames[:64]])
        vae.register_to_config(scaling_factor=round(LATENT_STD / z.float().std().item(), 5))
        self._save(pipe, "vae")

    def _decoder(self) -> None:
        recipe, vae = self.recipe, self._load("vae").vae.requires_grad_(False)
        decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

        def loss(batch: Batch) -> torch.Tensor:
            with torch.no_grad():
                x, _, z = self._encoded(vae, batch)
                # A denoiser's latents are never exact: the decoder learns to correct small errors.
                z = z + recipe.latent_noise * batch["strength"] ** 2 * z.std() * batch["added"]
            return _unlike(vae.decode(z).sample, x)

        batch = partial(self._frames_batch, "decoder", whole_from=int(CROPPED * recipe.decoder_steps))
        self.optimise("decoder", {decoder: recipe.vae_learning_rate}, batch, loss, recipe.decoder_steps)
        self._save(vae, "decoder")

    def _frames_batch(self, stage: str, step: int, whole_from: int) -> Batch:
        """A batch of frames (B, height, width, 3) in uint8, or of crops before the step `whole_from`.

        It also holds noise for the posterior (`sampled`), and noise to add to the latents (`added`) with its strength.
        """
        rng = self.rng_of(stage, step)
        flat = self.frames.reshape(-1, *self.frames.shape[2:])
        whole = step >= whole_from
        # A crop is a quarter of a frame: four crops cost as much as a frame, and show more edges.
        drawn = flat[rng.integers(len(flat), size=self.recipe.vae_batch * (1 if whole else 4))]
        frames = torch.from_numpy(drawn if whole else np.stack([_crop(frame, rng) for frame in drawn]))
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        shape = (len(frames), LATENT_CHANNELS, *(side // 8 for side in frames.shape[1:3]))
        return {
            "frames": frames,
            "sampled": torch.randn(shape, generator=draw),
            "added": torch.randn(shape, generator=draw),
            "strength": torch.rand((len(frames), 1, 1, 1), generator=draw),
        }

    def _encoded(self, vae: AutoencoderKL, batch: Batch) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """The pixels of a batch, the posterior of their latents, and latents drawn from it."""
        x = self._pixels(batch["frames"])
        posterior = vae.encode(x).latent_dist
        return x, posterior, posterior.mean + posterior.std * batch["sampled"]

    def _text(self) -> None:
        pipe = self._load("vae")
        torch.manual_seed(self.recipe.seed + 2)
        reader, first = Reader(), self.tokenizers[0]

        def batch(step: int) -> Batch:
            rng = self.rng_of("text", step)
            scenes = [forget(self.scenes[n], rng) for n in rng.integers(len(self.scenes), size=READ)]
            ids = self._ids([describe(scene) for scene in scenes])
            things, of_scenes = facts(scenes)
            article = first.convert_tokens_to_ids("a</w>")
            number = numbers(ids[0], article, first.eos_token_id, things)
            return {"ids": ids, "number": number, "things": things, "scenes": of_scenes}

        def loss(batch: Batch) -> torch.Tensor:
            ids, *targets = batch.values()
            return reader(*encode_prompts(pipe, ids), *targets)

        encoders = (pipe.text_encoder, pipe.text_encoder_2, reader)
        rates = dict.fromkeys(encoders, self.recipe.text_learning_rate)
        self.optimise("text", rates, batch, loss, self.recipe.text_steps)
        self._save(pipe, "text")

    def _image(self) -> None:
        pipe = self._load("text")
        data, recipe = self.latents(pipe), self.recipe

        def batch(step: int) -> Batch:
            rng = self.rng_of("image", step)
            which = rng.integers(len(data), size=recipe.image_batch)
            frame = data.shape[1] - 1 - rng.integers(min(LAST_FRAMES, data.shape[1]), size=len(which))
            share = noisy_share("image", step, recipe.image_steps)
            scenes = [self.scenes[n] for n in which]
            return self._noised(data[which, frame], scenes, rng, share)

        texts = dict.fromkeys((pipe.text_encoder, pipe.text_encoder_2), recipe.encoder_learning_rate)
        rates = {pipe.unet: recipe.learning_rate, **texts}
        loss = partial(self._loss, pipe, self._compiled(pipe.unet))
        self.optimise("image", rates, batch, loss, recipe.image_steps)
        self._save(pipe, "image")

    def _video(self) -> None:
        pipe = self._load("image")
        torch.manual_seed(self.recipe.seed + 1)
        adapter = build_motion_adapter()
        # The video UNet shares its parameters with the image model and the adapter: training it trains both.
        unet = motion_unet(pipe.unet, adapter)
        rates = dict.fromkeys((adapter, pipe.unet), self.recipe.learning_rate)
        rates |= dict.fromkeys((pipe.text_encoder, pipe.text_encoder_2), self.recipe.encoder_learning_rate)
        self._videos("video", pipe, unet, rates, self._wrong)
        self._save(adapter, "motion")
        self._save(pipe, "base")

    def _wrong(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The scene for a caption with errors, as often as the recipe sets."""
        return mislabel(exchange(scene, rng, self.recipe.exchanged), rng, self.recipe.caption_noise)

    def _tuned(self) -> None:
        pipe = self._load("base")
        adapter = MotionAdapter.from_pretrained(self.folder / "motion")
        unet = motion_unet(pipe.unet, adapter.requires_grad_(False))
        rates = dict.fromkeys((pipe.unet, pipe.text_encoder, pipe.text_encoder_2), self.recipe.tuned_learning_rate)
        self._videos("tuned", pipe, unet, rates)
        self._save(pipe, "tuned")

    @torch.no_grad()
    def held_out(self, name: str) -> float:
        """The loss of a finished model, `base` or `tuned`, on HELD_OUT videos outside the training set, with correct
        captions and uniform timesteps."""
        pipe = self._load(name)
        unet = motion_unet(pipe.unet, MotionAdapter.from_pretrained(self.folder / "motion")).to(self.device).eval()
        self._plain(unet)
        losses = []
        for n in range(HELD_OUT):
            rng = self.rng(HELD_OUT_KEY, n)
            scene = sample_scene(rng)
            video = torch.from_numpy((self._draw(scene, rng) * 255).round().astype(np.uint8))
            with self._autocast():
                x0 = pipe.vae.encode(self._pixels(video)).latent_dist.mean * pipe.vae.config.scaling_factor
                batch = self._noised(x0.cpu().transpose(0, 1)[None], [scene], rng, EVENLY)
                losses.append(self._loss(pipe, unet, {k: v.to(self.device) for k, v in batch.items()}).item())
        return float(np.mean(losses))

    def _load(self, name: str) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline.from_pretrained(self.folder / name, add_watermarker=False).to(self.device)
