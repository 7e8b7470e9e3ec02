"""ViCLIP-L/14: one feature vector for a video and one for a text, whose cosine is VBench's overall_consistency.

InternVid (Wang et al. 2023, arXiv:2307.06942), section 4: CLIP's two encoders, with the image encoder reading the
patches of all frames as one sequence with temporal position embeddings. Both use transformers' CLIP blocks, and the
published weights are renamed when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from w2sd_video.models.bases import clip_tokenizer

from ..weights import assign, tensors
from .clip import LAYOUTS, cleaned, renamed, tokenize

FRAMES = 8
VISION = LAYOUTS["L/14"]["vision"]
TEXT = LAYOUTS["L/14"]["text"] | {"max_position_embeddings": 32}


class ViCLIP(nn.Module):
    """A video encoder and a text encoder with a common feature space.

    Args:
        vision: settings of `CLIPVisionConfig`; the default is L/14.
        text: settings of `CLIPTextConfig`; the default is L/14's.
    """

    def __init__(self, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT) -> None:
        super().__init__()
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision))
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        self.temporal_embedding = nn.Parameter(torch.zeros(1, FRAMES, vision["hidden_size"]))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return clip_tokenizer()

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """Features of videos.

        Args:
            frames: (B, 8, 3, 224, 224), RGB, normalised by CLIP's mean and standard deviation.

        Returns:
            (B, 768), not normalised.

        Raises:
            ValueError: the frames have another number or shape.
        """
        vit = self.vision.vision_model
        side = vit.config.image_size
        if frames.ndim != 5 or frames.shape[1:] != (FRAMES, 3, side, side):
            raise ValueError(f"frames: shape {tuple(frames.shape)} is not (B, {FRAMES}, 3, {side}, {side})")
        x = vit.embeddings(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, 8, 1 + patches, width)
        patches = x[:, :, 1:] + self.temporal_embedding[:, :, None]
        # So far, every frame has the same class token. The video has it once, without a temporal position.
        x = torch.cat([x[:, 0, :1], patches.flatten(1, 2)], dim=1)
        x = vit.encoder(vit.pre_layrnorm(x)).last_hidden_state
        return self.vision.visual_projection(vit.post_layernorm(x[:, 0]))

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Features of prompts, (B, 768), not normalised. Only the first 30 tokens of a prompt are read.

        Raises:
            ImportError: see `tokenize`.
        """
        return self.text(self.tokenize(prompts).to(self.temporal_embedding.device)).text_embeds

    def tokenize(self, prompts: list[str]) -> torch.Tensor:
        """CLIP's token ids, (B, 32).

        Raises:
            ImportError: a prompt needs ftfy, and it is not installed.
        """
        return tokenize(self.tokenizer, [cleaned(p) for p in prompts], self.text.config.max_position_embeddings)


def load(weights: Path, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT) -> ViCLIP:
    """ViCLIP with the published weights, float32, in eval mode, its parameters without gradients.

    Args:
        weights: `ViClip-InternVid-10M-FLT.pth`, or the same tensors as .safetensors.
        vision, text: see `ViCLIP`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as tensors, or they are not ViCLIP's.
    """
    with init_empty_weights(), torch.random.fork_rng(devices=[]):  # building draws a few numbers that are not used
        model = ViCLIP(vision, text)
    assign(model, _renamed(tensors(weights)), weights)
    return model.float().eval().requires_grad_(False)


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with the names here, without the temperature of the training loss."""
    openai = {}
    for name, tensor in state.items():
        name = name.replace("vision_encoder.", "visual.").replace("text_encoder.", "")
        openai[name] = tensor.squeeze(2) if name == "visual.conv1.weight" else tensor  # convolves one frame at a time
    openai.pop("temp", None)
    temporal = openai.pop("visual.temporal_positional_embedding", None)
    own = {} if temporal is None else {"temporal_embedding": temporal}
    for name, tensor in renamed(openai).items():
        own[f"{'vision' if name.startswith('vis') else 'text'}.{name}"] = tensor
    return own
