"""What decides the weights of the shapes model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..validation import validated

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
# From this timestep up, there is more to learn: see `noisy_share`.
NOISY = 700
EVENLY = 1 - NOISY / 1000


@validated
class Common:
    """What decides the weights of whatever learns from the world's videos, beside the constants of the code."""

    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    videos: Count = 6000
    image_batch: Count = 64
    video_batch: Count = 16
    unconditional: Share = 0.12
    ema_decay: Share = 0.999


@validated
class Recipe(Common):
    """What decides the weights of the shapes model."""

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
    """The share of a batch whose timesteps are drawn evenly from NOISY up; the rest is drawn evenly from below.

    At first mostly high noise, where it is decided where things go, and later lower noise, where it is decided what
    they are: above NOISY a picture of this size cannot be seen, and once the model knows what prompts say of it there,
    it has no more to learn. Of a video more can be seen.
    """
    first = 5 * (step + 1) <= steps
    if stage == "image":
        return 0.5 if first else 0.1
    if stage == "video":
        return 0.8 if first else 0.4
    return EVENLY
