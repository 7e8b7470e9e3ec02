"""Trains the shapes model: the weak `base`, the strong `tuned`, and the motion module they share.

Six stages, each resumable, of 1 to 50 minutes on two CPU cores:

1. `vae`      the autoencoder, on single frames;
2. `decoder`  its decoder alone: to draw sharp edges, and from latents that are a little off;
3. `text`     both text encoders, which learn to read; see `reading`;
4. `image`    the image model and both text encoders, on single frames;
5. `video`    AnimateDiff's second stage: the motion module, with the image model learning along slowly. Its captions
              exchange attributes between objects. The result is `base`.
6. `tuned`    a short fine-tune of base, text encoders too, on right captions, with the motion module frozen.

So `base` knows what things look like as well as `tuned` does, nearly, and is less sure which attribute belongs to which
object. That is the difference that a pair needs: an error that both models make in the same direction, and the weak
one more.

The loss is the squared error of the velocity. Which way things go is a product of word, frame and place, and is
decided while there is almost nothing but noise to see; trained in the plain way, a model of this size does not find
it in hours. These things make it learn:

- latents that hold little but what is to be seen: where the encoder, too, was trained for sharp edges, they held 2.6
  to 4.2 nats a value in place of 1.6 to 2.2, and after 1,200 steps of the image stage form was .51 to .58 in place of
  .70, with the colours of objects mixed;
- text encoders that can read: without, 4,500 steps had not taught which object is the red one; with them 1,200 did;
- small latents (`LATENT_STD`); first more steps at high noise, then more below (`noisy_share`);
- an image stage that sees the last frames only (`LAST_FRAMES`), so that word and place are joined before the frame
  comes in.

The batch of step n is a function of (seed, stage, n) alone, so that a run that was killed and goes on makes the same
weights as one that was not. On a GPU batches are made ahead by other processes, and the networks are compiled.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, MotionAdapter, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from pydantic import Field
from rich.progress import Progress, track
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

from ..documents import read_text
from ..errors import Refused
from ..models.motion import motion_unet
from ..runs import rows, usable_device, whole, writable
from ..validation import validated
from .captions import exchange, mislabel
from .grammar import describe
from .model import HERE, LATENT_CHANNELS, build_image_model, build_motion_adapter, tokenizer
from .reading import Reader, facts, numbers
from .world import CANVAS, Scene, forget, render, sample_scene

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]


@validated
class Recipe:
    """Everything that decides what the trainer makes."""

    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    videos: Count = 6000
    vae_steps: Count = 2000
    decoder_steps: Count = 3000
    text_steps: Count = 600
    image_steps: Count = 9000
    video_steps: Count = 2500
    tuned_steps: Count = 1500
    vae_batch: Count = 24
    image_batch: Count = 64
    video_batch: Count = 16
    vae_learning_rate: Rate = 1.5e-3
    text_learning_rate: Rate = 2e-3
    learning_rate: Rate = 8e-4
    spatial_learning_rate: Rate = 2e-4
    tuned_learning_rate: Rate = 4e-4
    exchanged: Share = 0.3
    caption_noise: Share = 0.05
    unconditional: Share = 0.12
    latent_noise: Share = 0.3
    kl_weight: Rate = 1e-3
    ema_decay: Share = 0.999


CHECKPOINT_EVERY = 200
# Latents of a small standard deviation drown in noise at lower timesteps (arXiv:2301.10972): for more of
# them it is the prompt that says where things go, and no longer what can still be seen of the video.
LATENT_STD = 0.5
# Videos that a finished model's loss is measured on.
HELD_OUT = 256
# The share of the autoencoder's steps that see crops around the things; the others see whole frames.
CROPPED = 0.3
# From this timestep up, there is more to learn: see `noisy_share`.
NOISY = 700
EVENLY = 1 - NOISY / 1000
# In the last frames of a video a direction has become a place. The image stage sees these.
LAST_FRAMES = 4
# Prompts in a batch of the stage `text`.
READ = 128
# Of each stage but the first, the one whose models it goes on with. Stages that do not wait for each other can run in
# processes of their own, side by side.
AFTER = {"decoder": "vae", "text": "vae", "image": "text", "video": "image", "tuned": "video"}
STAGES = ("vae", *AFTER)

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---
# Shapes: a small text-to-video model of moving shapes

Made by this project, from videos that it renders itself, with

    {command}

16 frames of 64x64 pixels, prompts in a small grammar (`w2sd-video shapes words`). `base` is the weak model: trained
on captions that give attributes to the wrong object here and there. `tuned` is the strong one: fine-tuned from base,
text encoders too, on right ones. It holds the autoencoder of both, and `motion` is the motion module of both. Half
precision; load in float32 on a CPU.

| stage | steps | loss | minutes |
|---|---|---|---|
{stages}

The loss on videos that no stage saw, with right captions, is {base_loss:.4f} of `base` and {tuned_loss:.4f} of `tuned`.

On {made}. The recipe:

```json
{recipe}
```
"""


def noisy_share(stage: str, step: int, steps: int) -> float:
    """The share of a batch whose timesteps are drawn evenly from NOISY up; the rest is drawn evenly from below.

    First where things go, then what they are: a picture of this size is lost in noise at NOISY, and once the model
    knows what prompts say there, it has nothing more to learn. A video has more to be seen.
    """
    first = 5 * (step + 1) <= steps
    if stage == "image":
        return 0.5 if first else 0.1
    if stage == "video":
        return 0.8 if first else 0.4
    return EVENLY


def encode_prompts(pipe: StableDiffusionXLPipeline, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings (B, tokens, width of both encoders) and pooled embeddings (B, width), with gradients, of both
    tokenizers' ids (2, B, tokens).

    SDXL's arithmetic; the pipelines' own `encode_prompt` has none of the gradients that training needs.
    """
    hidden = []
    for each, encoder in zip(ids, (pipe.text_encoder, pipe.text_encoder_2), strict=True):
        out = encoder(each, output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
    return torch.cat(hidden, -1), out[0]


def _crop(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A quarter of a frame (height, width, 3) of uint8 that holds a pixel of some thing."""
    there = np.argwhere(np.ptp(frame.astype(np.int16), axis=-1) > 25)
    sides = np.array(frame.shape[:2]) // 2
    middle = there[rng.integers(len(there))] if len(there) else sides
    top, left = np.clip(middle - rng.integers(sides), 0, sides)
    return frame[top : top + sides[0], left : left + sides[1]]


def _coloured(x: torch.Tensor) -> torch.Tensor:
    """Where there are things in pictures (B, 3, height, width): (B, 1, height, width), 0 or 1."""
    return (x.amax(1, keepdim=True) - x.amin(1, keepdim=True) > 0.1).float()


def _unlike(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """How unlike pictures are, both (B, 3, height, width): most of all near things, and at their edges."""
    near = F.max_pool2d(_coloured(x), 5, stride=1, padding=2)  # a blur is wrong on either side of an edge
    edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (-1, -2))
    return ((y - x).abs() * (1 + 4 * near)).mean() + edges


Batch = dict[str, torch.Tensor]


class _Made(torch.utils.data.Dataset):
    """What a function makes of each number."""

    def __init__(self, make: Callable[[int], Any], numbers: Sequence[int]):
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.numbers[index])


class Trainer:
    """Makes the weights of a `Recipe` in a run folder. `train()` goes on where the folder stands."""

    stages: ClassVar[tuple[str, ...]] = STAGES
    after: ClassVar[Mapping[str, str]] = AFTER
    drawn: ClassVar[int | None] = 2000  # the autoencoder learns from the frames of so many videos at most

    def __init__(self, folder: Path, recipe: Recipe | None = None, device: str | None = None):
        self.folder = Path(folder)
        self.recipe = recipe or Recipe()
        self.device = usable_device(device or "auto", auto=("cuda",))
        try:
            writable(self.folder)
        except Refused as error:
            raise Refused("FOLDER", str(self.folder), error.accepted) from None
        note = self.folder / "recipe.json"
        wanted = json.dumps(asdict(self.recipe), indent=1)
        if not note.exists():
            with whole({"note": note}) as staged:
                staged["note"].write_text(wanted)
        elif read_text(note) != wanted:
            raise ValueError(
                f"recipe: {self.folder} was begun with another one, which {note} holds; take that, or another folder"
            )
        self.workers = min(8, os.cpu_count() or 1) if self.device.type == "cuda" else 0
        self.tokenizers: tuple[CLIPTokenizer, ...] = (tokenizer(), tokenizer("tokenizer_2"))
        self._forget()

    def train(self, stages: Iterable[str] | None = None) -> None:
        """Runs the stages that are not yet done, in order.

        Raises:
            Refused: one goes on from another that is neither done nor to be run.
        """
        chosen = self.stages if stages is None else tuple(stages)
        for stage in chosen:
            before = self.after.get(stage)
            if before and before not in chosen and not self._done(before).exists() and not self._done(stage).exists():
                raise Refused("stage", stage, f"it goes on from {before}, which {self.folder} lacks: train it first")
        for stage in self.stages:
            if stage in chosen and not self._done(stage).exists():
                getattr(self, f"_{stage}")()
                self._done(stage).touch()

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return all(self._done(stage).exists() for stage in self.stages)

    def export(self, to: Path, command: str) -> None:
        """Writes the finished models as they ship: `base`, `tuned` and `motion` in half precision, and a model card.

        Raises:
            ValueError: a stage is not done.
        """
        if missing := [stage for stage in self.stages if not self._done(stage).exists()]:
            raise ValueError(f"stages: {', '.join(missing)} not done in {self.folder}; train them first")
        with whole({"weights": Path(to)}) as staged:
            for name in ("base", "tuned"):
                self._load(name).to("cpu", torch.float16).save_pretrained(staged["weights"] / name)
                for tokens in ("tokenizer", "tokenizer_2"):  # as vocab.json and merges.txt too, like SDXL's own
                    shutil.copytree(HERE / tokens, staged["weights"] / name / tokens, dirs_exist_ok=True)
            for name in ("base", "tuned"):
                shutil.rmtree(staged["weights"] / name / "vae")
            vae = AutoencoderKL.from_pretrained(self.folder / "decoder", torch_dtype=torch.float16)
            vae.save_pretrained(staged["weights"] / "tuned" / "vae")  # the autoencoder of both
            motion = MotionAdapter.from_pretrained(self.folder / "motion", torch_dtype=torch.float16)
            motion.save_pretrained(staged["weights"] / "motion")
            (staged["weights"] / "README.md").write_text(self._card(command))

    def _card(self, command: str) -> str:
        losses = {f"{name}_loss": self.held_out(name) for name in ("base", "tuned")}
        return CARD.format(command=command, **losses, **self._facts(self.stages))

    def _facts(self, stages: Iterable[str]) -> dict[str, str]:
        """What a card says of how stages were trained: a table, the recipe, and on what."""
        log = self.folder / "log.jsonl"
        last = {line["stage"]: line for line in rows(log) if line.keys() >= {"stage", "step", "loss", "seconds"}}
        if lacking := [stage for stage in stages if stage not in last]:
            raise ValueError(f"{log} says nothing of {', '.join(lacking)}, of which the model card tells")
        threads = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else torch.cuda.get_device_name()
        return {
            "stages": "\n".join(
                f"| {s} | {last[s]['step']} | {last[s]['loss']:.4f} | {last[s]['seconds'] / 60:.0f} |" for s in stages
            ),
            "recipe": json.dumps(asdict(self.recipe), indent=1),
            "made": f"{self.device.type} ({threads}), torch {torch.__version__}, diffusers {diffusers.__version__}, "
            f"Python {platform.python_version()}",
        }

    # Data

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, *key])

    def _forget(self) -> None:
        """Other videos are to be drawn from here on."""
        self._scenes: list[Scene] = []
        self._frames: np.ndarray | None = None
        self._latents: torch.Tensor | None = None

    def _scene(self, n: int) -> tuple[Scene, np.random.Generator]:
        """What training video n shows, and what it is to be drawn with."""
        rng = self._rng(0, n)
        return sample_scene(rng), rng

    def _video_of(self, n: int) -> np.ndarray:
        """Training video n, (frames, height, width, 3), uint8."""
        return (self._draw(*self._scene(n)) * 255).round().astype(np.uint8)

    def _draw(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        return render(scene, rng)

    def _each(self, make: Callable[[int], Any], numbers: Sequence[int], what: str = "") -> Iterable[Any]:
        """What a function makes of each number, in order; on a GPU's machine other processes make it ahead."""
        found = DataLoader(_Made(make, numbers), batch_size=None, num_workers=self.workers)
        return track(found, what, len(numbers), disable=not sys.stderr.isatty()) if what else found

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

        Where stages go on from each other they have one autoencoder, and the latents are kept in the folder.
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

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    # Stages

    def _vae(self) -> None:
        torch.manual_seed(self.recipe.seed)
        pipe = build_image_model()
        vae, recipe = pipe.vae.to(self.device), self.recipe

        def loss(batch: Batch) -> torch.Tensor:
            x, posterior = self._encoded(vae, batch)
            z = posterior.mean + posterior.std * batch["sampled"]
            difference = vae.decode(z).sample - x
            error = (difference.abs() + difference.square()) * (1 + 4 * _coloured(x))
            return error.mean() + recipe.kl_weight * posterior.kl().mean() / z[0].numel()

        batch = partial(self._frames_batch, "vae", whole_from=0)
        self._optimise("vae", {vae: recipe.vae_learning_rate}, batch, loss, recipe.vae_steps)
        with torch.no_grad(), self._autocast():
            z = torch.cat([vae.encode(self._pixels(torch.from_numpy(v))).latent_dist.mean for v in self.frames[:64]])
        vae.register_to_config(scaling_factor=round(LATENT_STD / z.float().std().item(), 5))
        self._save(pipe, "vae")

    def _decoder(self) -> None:
        recipe, vae = self.recipe, self._load("vae").vae.requires_grad_(False)
        decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

        def loss(batch: Batch) -> torch.Tensor:
            with torch.no_grad():
                x, posterior = self._encoded(vae, batch)
                z = posterior.mean + posterior.std * batch["sampled"]
                # A denoiser's latents are never quite right: the decoder learns to see what they were to be.
                z = z + recipe.latent_noise * batch["strength"] ** 2 * z.std() * batch["added"]
            return _unlike(vae.decode(z).sample, x)

        batch = partial(self._frames_batch, "decoder", whole_from=int(CROPPED * recipe.decoder_steps))
        self._optimise("decoder", {decoder: recipe.vae_learning_rate}, batch, loss, recipe.decoder_steps)
        self._save(vae, "decoder")

    def _frames_batch(self, stage: str, step: int, whole_from: int) -> Batch:
        """Frames (B, height, width, 3) of uint8, and what is drawn for them: of the posterior, and to be added. Before
        the step `whole_from`, crops."""
        rng = self._rng(self.stages.index(stage) + 1, step)
        flat = self.frames.reshape(-1, *self.frames.shape[2:])
        whole = step >= whole_from
        # A crop is a quarter of a frame: four of them cost what a frame does, and show more edges.
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

    def _encoded(self, vae: AutoencoderKL, batch: Batch) -> tuple[torch.Tensor, Any]:
        """The pixels of a batch, and the posterior of their latents."""
        x = self._pixels(batch["frames"])
        return x, vae.encode(x).latent_dist

    def _text(self) -> None:
        pipe = self._load("vae")
        torch.manual_seed(self.recipe.seed + 2)
        reader, first = Reader(), self.tokenizers[0]

        def batch(step: int) -> Batch:
            rng = self._rng(3, step)
            scenes = [forget(self.scenes[n], rng) for n in rng.integers(len(self.scenes), size=READ)]
            ids = self._ids([describe(scene) for scene in scenes])
            things, of_scenes = facts(scenes)
            article = first.convert_tokens_to_ids("a</w>")
            number = numbers(ids[0], article, first.eos_token_id, things)
            return {"ids": ids, "number": number, "things": things, "scenes": of_scenes}

        def loss(batch: Batch) -> torch.Tensor:
            ids, *said = batch.values()
            return reader(*encode_prompts(pipe, ids), *said)

        encoders = (pipe.text_encoder, pipe.text_encoder_2, reader)
        rates = dict.fromkeys(encoders, self.recipe.text_learning_rate)
        self._optimise("text", rates, batch, loss, self.recipe.text_steps)
        self._save(pipe, "text")

    def _image(self) -> None:
        pipe = self._load("text")
        data, recipe = self.latents(pipe), self.recipe

        def batch(step: int) -> Batch:
            rng = self._rng(4, step)
            which = rng.integers(len(data), size=recipe.image_batch)
            frame = data.shape[1] - 1 - rng.integers(min(LAST_FRAMES, data.shape[1]), size=len(which))
            share = noisy_share("image", step, recipe.image_steps)
            scenes = [self.scenes[n] for n in which]
            return self._noised(data[which, frame], scenes, rng, share)

        texts = dict.fromkeys((pipe.text_encoder, pipe.text_encoder_2), recipe.spatial_learning_rate)
        rates = {pipe.unet: recipe.learning_rate, **texts}
        loss = partial(self._loss, pipe, self._compiled(pipe.unet))
        self._optimise("image", rates, batch, loss, recipe.image_steps)
        self._save(pipe, "image")

    def _video(self) -> None:
        pipe = self._load("image")
        torch.manual_seed(self.recipe.seed + 1)
        adapter = build_motion_adapter()
        # The video UNet holds the very parameters of the image model and of the adapter: training it trains both.
        unet = motion_unet(pipe.unet, adapter)
        spatial = dict.fromkeys((pipe.unet, pipe.text_encoder, pipe.text_encoder_2), self.recipe.spatial_learning_rate)
        self._videos("video", pipe, unet, {adapter: self.recipe.learning_rate, **spatial}, exchanged=True)
        self._save(adapter, "motion")
        self._save(pipe, "base")

    def _tuned(self) -> None:
        pipe = self._load("base")
        adapter = MotionAdapter.from_pretrained(self.folder / "motion")
        unet = motion_unet(pipe.unet, adapter.requires_grad_(False))
        rates = dict.fromkeys((pipe.unet, pipe.text_encoder, pipe.text_encoder_2), self.recipe.tuned_learning_rate)
        self._videos("tuned", pipe, unet, rates, exchanged=False)
        self._save(pipe, "tuned")

    def _videos(self, stage: str, pipe, unet, rates: dict[torch.nn.Module, float], exchanged: bool) -> None:
        data = self.latents(pipe)
        key, steps = self.stages.index(stage) + 1, getattr(self.recipe, f"{stage}_steps")
        unet.to(self.device).train()
        self._plain(unet)

        def batch(step: int) -> Batch:
            rng = self._rng(key, step)
            which = rng.integers(len(data), size=self.recipe.video_batch)
            share = noisy_share(stage, step, steps)
            scenes = [self.scenes[n] for n in which]
            return self._noised(data[which].transpose(1, 2), scenes, rng, share, exchanged=exchanged)

        self._optimise(stage, rates, batch, partial(self._loss, pipe, self._compiled(unet)), steps)

    def _noised(
        self,
        x0: torch.Tensor,
        scenes: Sequence[Scene],
        rng: np.random.Generator,
        noisy: float,
        exchanged: bool = False,
        keep: float = 0.6,
    ) -> Batch:
        """What a denoiser is trained on: latents (B, C, H, W) or (B, C, F, H, W) of what scenes show, noise, timesteps
        and prompts.

        Args:
            noisy: see `noisy_share`.
            exchanged: captions are wrong as often as the recipe says.
            keep: as in `world.forget`.
        """
        scenes = [forget(scene, rng, keep) for scene in scenes]
        if exchanged:
            wrong = (exchange(scene, rng, self.recipe.exchanged) for scene in scenes)
            scenes = [mislabel(scene, rng, self.recipe.caption_noise) for scene in wrong]
        prompts = [describe(scene) for scene in scenes]
        ids = self._ids(prompts)
        said = torch.from_numpy(rng.random(len(scenes)) >= self.recipe.unconditional).float()

        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        eps = torch.randn(x0.shape, generator=draw)
        t = torch.randint(1000, (len(x0),), generator=draw)
        high = torch.rand(len(x0), generator=draw) < noisy
        t = torch.where(high, NOISY + t * (1000 - NOISY) // 1000, t * NOISY // 1000)
        return {"x0": x0.float(), "eps": eps, "t": t, "ids": ids, "said": said}

    def _ids(self, prompts: list[str]) -> torch.Tensor:
        """Prompts in both tokenizers' ids, (2, B, tokens)."""
        told = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return torch.stack([tokens(prompts, **told).input_ids for tokens in self.tokenizers])

    def _loss(self, pipe: StableDiffusionXLPipeline, network: Callable[..., Any], batch: Batch) -> torch.Tensor:
        """The squared error of a network's velocity."""
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

    @torch.no_grad()
    def held_out(self, name: str) -> float:
        """The loss of a finished model, `base` or `tuned`, on HELD_OUT videos that no stage saw, with right captions
        and timesteps drawn evenly."""
        pipe = self._load(name)
        unet = motion_unet(pipe.unet, MotionAdapter.from_pretrained(self.folder / "motion")).to(self.device).eval()
        self._plain(unet)
        losses = []
        for n in range(HELD_OUT):
            rng = self._rng(HELD_OUT, n)
            scene = sample_scene(rng)
            video = torch.from_numpy((self._draw(scene, rng) * 255).round().astype(np.uint8))
            with self._autocast():
                x0 = pipe.vae.encode(self._pixels(video)).latent_dist.mean * pipe.vae.config.scaling_factor
                batch = self._noised(x0.cpu().transpose(0, 1)[None], [scene], rng, EVENLY)
                losses.append(self._loss(pipe, unet, {k: v.to(self.device) for k, v in batch.items()}).item())
        return float(np.mean(losses))

    def _compiled(self, network: Any) -> Any:
        """On a GPU, small networks wait for their kernels to be launched: fewer are faster."""
        return torch.compile(network, dynamic=False) if self.device.type == "cuda" else network

    def _plain(self, network: Any) -> None:
        """On a CPU fused attention is several times slower than plain matrix products on short sequences."""
        if self.device.type == "cpu":
            network.set_attn_processor(AttnProcessor())

    def _optimise(
        self,
        stage: str,
        rates: Mapping[torch.nn.Module, float],
        batch: Callable[[int], Batch],
        loss: Callable[[Batch], torch.Tensor],
        steps: int,
    ) -> None:
        """Adam with a cosine schedule; leaves the averaged weights in the modules. Checkpoints as it goes.

        Args:
            rates: the modules and their learning rates.
            batch: what a step is trained on, a function of the step alone.
        """
        groups = [([p for p in m.parameters() if p.requires_grad], rate) for m, rate in rates.items()]
        parameters = [p for group, _ in groups for p in group]
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in groups],
            betas=(0.9, 0.98),
            weight_decay=1e-4,
            fused=self.device.type == "cuda",
        )
        schedule = get_cosine_schedule_with_warmup(optimizer, min(100, steps // 10), steps)
        ema = EMAModel(parameters, decay=self.recipe.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        done, path, spent = 0, self.folder / f"{stage}.checkpoint.pt", 0.0
        if path.exists():
            try:
                state = torch.load(path, map_location=self.device, weights_only=True)
                for p, value in zip(parameters, state["parameters"], strict=True):
                    p.data.copy_(value)
                optimizer.load_state_dict(state["optimizer"])
                schedule.load_state_dict(state["schedule"])
                ema.load_state_dict(state["ema"])
                done, spent = int(state["step"]), float(state["seconds"])
            except MemoryError:
                raise
            except Exception as error:  # of a damaged file, torch raises errors of every kind
                said = " ".join(str(error).split())[:300]
                raise ValueError(f"{path} cannot be read; remove it to begin the stage anew ({said})") from error
        ema.to(self.device)
        for module in rates:
            module.to(self.device).train()
            if isinstance(module, UNet2DConditionModel):
                self._plain(module)
        start, running, summed = time.monotonic(), torch.zeros((), device=self.device), 0
        with Progress(disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(stage, total=steps, completed=done)
            for step, made in enumerate(self._each(batch, range(done, steps)), done):
                with self._autocast():
                    value = loss({name: tensor.to(self.device) for name, tensor in made.items()})
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                ema.step(parameters)
                running, summed = running + value.detach(), summed + 1
                bar.update(task, advance=1)
                if (step + 1) % 100 == 0 or step + 1 == steps:
                    seconds = spent + time.monotonic() - start
                    line = {
                        "stage": stage,
                        "step": step + 1,
                        "loss": running.item() / summed,
                        "seconds": round(seconds, 1),
                    }
                    with open(self.folder / "log.jsonl", "a") as log:
                        log.write(json.dumps(line) + "\n")
                    running, summed = torch.zeros_like(running), 0
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
                    state = {
                        "step": step + 1,
                        "seconds": spent + time.monotonic() - start,
                        "parameters": [p.data for p in parameters],
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "ema": ema.state_dict(),
                    }
                    with whole({"state": path}) as staged:
                        torch.save(state, staged["state"])
        ema.copy_to(parameters)
        for module in rates:
            module.eval()

    # Files

    def _done(self, stage: str) -> Path:
        return self.folder / f"{stage}.done"

    def _save(self, model: StableDiffusionXLPipeline | AutoencoderKL | MotionAdapter, name: str) -> None:
        with whole({name: self.folder / name}) as staged:
            model.save_pretrained(staged[name])

    def _load(self, name: str) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline.from_pretrained(self.folder / name, add_watermarker=False).to(self.device)
