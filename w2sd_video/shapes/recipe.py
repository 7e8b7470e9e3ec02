"""The settings that decide the weights of the shapes model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..validation import validated

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
# Timesteps from here up, of 1000, count as high noise: see `noisy_share`.
NOISY = 700
EVENLY = 1 - NOISY / 1000


@validated
class Common:
    """The settings that decide the weights of any model trained on the world's videos, besides the code's constants."""

    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    videos: Count = 6000
    image_batch: Count = 64
    video_batch: Count = 16
    unconditional: Share = 0.12
    ema_decay: Share = 0.999


@validated
class Recipe(Common):
    """The settings that decide the weights of the shapes model."""

    vae_steps: Count = 2000
    decoder_steps: Count = 3000
    text_steps: Count = 600
    image_steps: Count = 9000
    video_steps: Count = 4000
    tuned_steps: Count = 6000
    vae_batch: Count = 24
    vae_learning_rate: Rate = 1.5e-3
    text_learning_rate: Rate = 2e-3
    learning_rate: Rate = 8e-4
    encoder_learning_rate: Rate = 2e-4
    tuned_learning_rate: Rate = 4e-4
    exchanged: Share = 0.3
    caption_noise: Share = 0.05
    latent_noise: Share = 0.3
    kl_weight: Rate = 1e-3


def noisy_share(stage: str, step: int, steps: int) -> float:
    """The share of a batch with timesteps uniform from NOISY up; the others are uniform below NOISY.

    Training starts with mostly high noise, which decides where things are, and goes on with lower noise, which decides
    what they look like. Above NOISY nothing of a picture of this size is visible, so a model learns nothing more there
    once it follows the prompt. More is visible of a video, which gets a larger share.
    """
    first = 5 * (step + 1) <= steps
    if stage == "image":
        return 0.5 if first else 0.1
    if stage == "video":
        return 0.8 if first else 0.4
    return EVENLY
