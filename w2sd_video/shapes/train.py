"""Trains the shapes model: the weak `base`, the strong `tuned`, and the motion module they share.

Four stages, each resumable and each some 10 to 40 minutes on two CPU cores:

1. `vae`    the autoencoder, on single frames;
2. `image`  the image model and both text encoders, on single frames;
3. `video`  AnimateDiff's second stage: the motion module, with the image model learning along. Captions of stages 2
            and 3 are noisy. Their result is `base`.
4. `tuned`  a fine-tune of base, text encoders too, on clean captions, with the motion module frozen.

The loss is the squared error of the velocity. Which way things go is a product of word, frame and place, and is
decided while there is almost nothing but noise to see; trained in the plain way, a model of this size does not find
it in hours. Three things make it learn: small latents (`LATENT_STD`), more steps at high noise (`NOISY`), and an image
stage that sees the last frames only (`LAST_FRAMES`), so that word and place are joined before the frame comes in.

The batch of step n is a function of (seed, stage, n) alone, so that a run that was killed and goes on makes the same
weights as one that was not.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import MotionAdapter, StableDiffusionXLPipeline, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from pydantic import Field
from rich.progress import Progress, track

from ..documents import read_text
from ..errors import Refused
from ..models.motion import motion_unet
from ..runs import rows, usable_device, whole, writable
from ..validation import validated
from .grammar import describe
from .model import HERE, build_image_model, build_motion_adapter
from .world import BACKGROUNDS, CANVAS, COLOURS, SHAPES, SIZES, SPEEDS, Scene, forget, render, sample_scene

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]


@validated
class Recipe:
    """Everything that decides what the trainer makes. The defaults made the shipped weights."""

    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    videos: Count = 8000
    vae_steps: Count = 1500
    image_steps: Count = 4500
    video_steps: Count = 3200
    tuned_steps: Count = 4000
    vae_batch: Count = 64
    image_batch: Count = 64
    video_batch: Count = 16
    vae_learning_rate: Rate = 1.5e-3
    learning_rate: Rate = 8e-4
    tuned_learning_rate: Rate = 8e-4
    caption_noise: Share = 0.12
    unconditional: Share = 0.12
    kl_weight: Rate = 1e-3
    ema_decay: Share = 0.995


CHECKPOINT_EVERY = 200
# Latents of a small standard deviation drown in noise at lower timesteps (arXiv:2301.10972): for more of
# them it is the prompt that says where things go, and no longer what can still be seen of the video.
LATENT_STD = 0.5
# From this timestep up, there is more to learn: see `noisy_share`.
NOISY = 700
# In the last frames of a video a direction has become a place. The image stage sees these.
LAST_FRAMES = 4
STAGES = ("vae", "image", "video", "tuned")

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---
# Shapes: a small text-to-video model of moving shapes

Made by this project, from videos that it renders itself, with

    {command}

16 frames of 64x64 pixels, prompts in a small grammar (`w2sd-video shapes words`). `base` is the weak model: trained
broadly and briefly on captions that are wrong here and there. `tuned` is the strong one: fine-tuned from base, text
encoders too, on right ones. `motion` is the motion module of both. Half precision; load in float32 on a CPU.

| stage | steps | loss | minutes |
|---|---|---|---|
{stages}

On {made}. The recipe:

```json
{recipe}
```
"""


def mislabel(scene: Scene, rng: np.random.Generator, noise: float) -> Scene:
    """The scene with each attribute that it says replaced, with probability `noise`, by one drawn at random."""
    choices = {"shape": SHAPES, "size": SIZES, "speed": SPEEDS, "direction": ("left", "right", "up", "down")}
    things = []
    for thing in scene.things:
        for name, options in choices.items():
            if getattr(thing, name) not in (None, "still") and rng.random() < noise:
                thing = replace(thing, **{name: str(rng.choice(list(options)))})
        if rng.random() < noise:
            others = [c for c in COLOURS if c not in {t.colour for t in scene.things}]
            thing = replace(thing, colour=str(rng.choice(others)))
        things.append(thing)
    if len(things) == 2 and things[0].colour == things[1].colour:
        return scene
    background = scene.background
    if background and rng.random() < noise:
        background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(tuple(things), scene.relation, background)


def noisy_share(stage: str, step: int, steps: int) -> float:
    """The share of a batch whose timesteps are drawn from NOISY up; the rest is drawn evenly.

    First where things go, then what they are.
    """
    if stage == "tuned":
        return 0.0
    return 1.0 if stage == "video" and 3 * (step + 1) <= steps else 0.5


def encode_prompts(pipe: StableDiffusionXLPipeline, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings (B, tokens, width of both encoders) and pooled embeddings (B, width), with gradients.

    SDXL's arithmetic; the pipelines' own `encode_prompt` has none of the gradients that training needs.
    """
    hidden = []
    for tokens, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        ids = tokens(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        out = encoder(ids.to(encoder.device), output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
    return torch.cat(hidden, -1), out[0]


class Trainer:
    """Makes the weights of a `Recipe` in a run folder. `train()` goes on where the folder stands."""

    stages: ClassVar[tuple[str, ...]] = STAGES
    each_goes_on: ClassVar[bool] = True  # whether a stage needs those before it

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
        self._scenes: list[Scene] = []
        self._frames: np.ndarray | None = None
        self._latents: torch.Tensor | None = None

    def train(self, stages: Iterable[str] | None = None) -> None:
        """Runs the stages that are not yet done, in order.

        Raises:
            Refused: one goes on from another that is neither done nor to be run.
        """
        chosen = self.stages if stages is None else tuple(stages)
        for number, stage in enumerate(self.stages):
            earlier = [name for name in self.stages[:number] if name not in chosen and not self._done(name).exists()]
            if self.each_goes_on and stage in chosen and earlier and not self._done(stage).exists():
                raise Refused(
                    "stage", stage, f"it goes on from {earlier[-1]}, which {self.folder} lacks: train it first"
                )
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
            motion = MotionAdapter.from_pretrained(self.folder / "motion", torch_dtype=torch.float16)
            motion.save_pretrained(staged["weights"] / "motion")
            (staged["weights"] / "README.md").write_text(self._card(command))

    def _card(self, command: str) -> str:
        return CARD.format(command=command, **self._facts(self.stages))

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

    @property
    def scenes(self) -> list[Scene]:
        self._render()
        return self._scenes

    @property
    def frames(self) -> np.ndarray:
        """All training videos, (videos, frames, height, width, 3), uint8."""
        self._render()
        assert self._frames is not None
        return self._frames

    def _render(self) -> None:
        if self._scenes:
            return
        videos, scenes = [], []
        for n in track(range(self.recipe.videos), "rendering", disable=not sys.stderr.isatty()):
            rng = self._rng(0, n)
            scene = sample_scene(rng)
            videos.append((self._draw(scene, rng) * 255).round().astype(np.uint8))
            scenes.append(scene)
        self._frames, self._scenes = np.stack(videos), scenes

    def _draw(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        return render(scene, rng)

    @torch.no_grad()
    def latents(self, pipe: StableDiffusionXLPipeline) -> torch.Tensor:
        """All training videos as scaled latents, (videos, frames, channels, height, width), float16."""
        if self._latents is None:
            out = []
            with self._autocast():
                for video in track(self.frames, "encoding", disable=not sys.stderr.isatty()):
                    x = self._pixels(video)
                    out.append((pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor).half())
            self._latents = torch.stack(out).cpu()
        return self._latents

    def _pixels(self, frames: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float()
        return x / 127.5 - 1

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    # Stages

    def _vae(self) -> None:
        torch.manual_seed(self.recipe.seed)
        pipe = build_image_model()
        vae = pipe.vae.to(self.device)
        flat = self.frames.reshape(-1, *self.frames.shape[2:])

        def loss(step: int) -> torch.Tensor:
            rng = self._rng(1, step)
            x = self._pixels(flat[rng.integers(len(flat), size=self.recipe.vae_batch)])
            torch.manual_seed(int(rng.integers(2**31)))
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
            coloured = (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) > 0.1
            error = ((y - x).abs() + (y - x).square()) * (1 + 4 * coloured)
            return error.mean() + self.recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()

        self._optimise("vae", [vae], loss, self.recipe.vae_steps, self.recipe.vae_learning_rate)
        with torch.no_grad(), self._autocast():
            z = torch.cat([vae.encode(self._pixels(v)).latent_dist.mean for v in self.frames[:64]]).float()
        vae.register_to_config(scaling_factor=round(LATENT_STD / z.std().item(), 5))
        self._save(pipe, "vae")

    def _image(self) -> None:
        pipe = self._load("vae")
        unet = pipe.unet
        data = self.latents(pipe)

        def loss(step: int) -> torch.Tensor:
            rng = self._rng(2, step)
            which = rng.integers(len(data), size=self.recipe.image_batch)
            frame = data.shape[1] - 1 - rng.integers(min(LAST_FRAMES, data.shape[1]), size=len(which))
            share = noisy_share("image", step, self.recipe.image_steps)
            return self._denoising_loss(pipe, unet, data[which, frame], which, rng, self.recipe.caption_noise, share)

        modules = [unet, pipe.text_encoder, pipe.text_encoder_2]
        self._optimise("image", modules, loss, self.recipe.image_steps, self.recipe.learning_rate)
        self._save(pipe, "image")

    def _video(self) -> None:
        pipe = self._load("image")
        torch.manual_seed(self.recipe.seed + 1)
        adapter = build_motion_adapter()
        # The video UNet holds the very parameters of the image model and of the adapter: training it trains both.
        unet = motion_unet(pipe.unet, adapter)
        self._videos("video", pipe, unet, self.recipe.learning_rate, self.recipe.caption_noise)
        self._save(adapter, "motion")
        self._save(pipe, "base")

    def _tuned(self) -> None:
        pipe = self._load("base")
        adapter = MotionAdapter.from_pretrained(self.folder / "motion")
        unet = motion_unet(pipe.unet, adapter.requires_grad_(False))
        self._videos("tuned", pipe, unet, self.recipe.tuned_learning_rate, 0.0)
        self._save(pipe, "tuned")

    def _videos(self, stage: str, pipe, unet, learning_rate: float, caption_noise: float) -> None:
        data = self.latents(pipe)
        key, steps = self.stages.index(stage) + 1, getattr(self.recipe, f"{stage}_steps")

        def loss(step: int) -> torch.Tensor:
            rng = self._rng(key, step)
            which = rng.integers(len(data), size=self.recipe.video_batch)
            x = data[which].transpose(1, 2)
            return self._denoising_loss(pipe, unet, x, which, rng, caption_noise, noisy_share(stage, step, steps))

        self._optimise(stage, [unet, pipe.text_encoder, pipe.text_encoder_2], loss, steps, learning_rate)

    def _denoising_loss(self, pipe, unet, x0, which, rng, caption_noise, noisy, keep=0.6) -> torch.Tensor:
        """Velocity loss on latents (B, C, H, W) or (B, C, F, H, W), a share `noisy` at timesteps from NOISY up; `keep`
        as in `world.forget`."""
        scenes = (forget(self.scenes[n], rng, keep) for n in which)
        prompts = [describe(mislabel(s, rng, caption_noise)) for s in scenes]
        said = torch.from_numpy(rng.random(len(which)) >= self.recipe.unconditional).float().to(self.device)
        embeds, pooled = encode_prompts(pipe, prompts)
        embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]

        x0 = x0.to(self.device).float()
        draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
        eps = torch.randn(x0.shape, generator=draw).to(self.device)
        t = torch.randint(1000, (len(x0),), generator=draw)
        high = torch.rand(len(x0), generator=draw) < noisy
        t = torch.where(high, NOISY + t * (1000 - NOISY) // 1000, t).to(self.device)
        xt = pipe.scheduler.add_noise(x0, eps, t)
        if x0.ndim == 5:
            embeds = embeds.repeat_interleave(x0.shape[2], 0)
        size = torch.tensor([[CANVAS, CANVAS, 0, 0, CANVAS, CANVAS]], device=self.device, dtype=torch.float32)
        prediction = unet(
            xt,
            t,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": size.repeat(len(x0), 1)},
        ).sample
        return F.mse_loss(prediction.float(), pipe.scheduler.get_velocity(x0, eps, t))

    def _optimise(
        self,
        stage: str,
        modules: list[torch.nn.Module],
        loss: Callable[[int], torch.Tensor],
        steps: int,
        learning_rate: float,
    ) -> None:
        """Adam with a cosine schedule; leaves the averaged weights in the modules. Checkpoints as it goes."""
        parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
        schedule = get_cosine_schedule_with_warmup(optimizer, min(100, steps // 10), steps)
        ema = EMAModel(parameters, decay=self.recipe.ema_decay, use_ema_warmup=True, power=0.75)
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
        for module in modules:
            module.train()
            if self.device.type == "cpu" and isinstance(module, UNet2DConditionModel | UNetMotionModel):
                # The CPU's fused attention is several times slower than plain matrix products on short sequences.
                module.set_attn_processor(AttnProcessor())
        start, running, summed = time.monotonic(), 0.0, 0
        with Progress(disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(stage, total=steps, completed=done)
            for step in range(done, steps):
                with self._autocast():
                    value = loss(step)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                ema.step(parameters)
                running, summed = running + value.item(), summed + 1
                bar.update(task, advance=1)
                if (step + 1) % 100 == 0 or step + 1 == steps:
                    seconds = spent + time.monotonic() - start
                    line = {
                        "stage": stage,
                        "step": step + 1,
                        "loss": running / summed,
                        "seconds": round(seconds, 1),
                    }
                    with open(self.folder / "log.jsonl", "a") as log:
                        log.write(json.dumps(line) + "\n")
                    running, summed = 0.0, 0
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
        for module in modules:
            module.eval()

    # Files

    def _done(self, stage: str) -> Path:
        return self.folder / f"{stage}.done"

    def _save(self, model: StableDiffusionXLPipeline | MotionAdapter, name: str) -> None:
        with whole({name: self.folder / name}) as staged:
            model.save_pretrained(staged[name])

    def _load(self, name: str) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline.from_pretrained(self.folder / name, add_watermarker=False).to(self.device)
