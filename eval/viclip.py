"""ViCLIP-L/14, which VBench's overall_consistency is the cosine of: one vector for a video, one for a text.

InternVid (Wang et al. 2023, arXiv:2307.06942), section 4: CLIP's two encoders, of which the one for images reads the
patches of all frames as one sequence and learns where in time each of them is. Here they are transformers' CLIP blocks,
and the published weights are renamed as they are loaded.
"""

from __future__ import annotations

import html
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

from w2sd_video.loading import clip_tokenizer

from .weights import tensors

FRAMES = 8
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "image_size": 224,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "max_position_embeddings": 32,
}

# The published names, which are those of OpenAI's CLIP, and transformers' for the same weights.
_NAMES = {
    "vision_encoder.temporal_positional_embedding": "temporal_embedding",
    "vision_encoder.proj": "vision.visual_projection.weight",
    "vision_encoder.": "vision.vision_model.",
    "text_encoder.text_projection": "text.text_projection.weight",
    "text_encoder.": "text.text_model.",
    "conv1.": "embeddings.patch_embedding.",
    "token_embedding.": "embeddings.token_embedding.",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "transformer.resblocks.": "encoder.layers.",
    "attn.": "self_attn.",
    "c_fc.": "fc1.",
    "c_proj.": "fc2.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    "ln_final.": "final_layer_norm.",
}


class ViCLIP(nn.Module):
    """A video encoder and a text encoder with one space of features.

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
            ValueError: not that many frames, or not of that shape.
        """
        vit = self.vision.vision_model
        side = vit.config.image_size
        if frames.ndim != 5 or frames.shape[1:] != (FRAMES, 3, side, side):
            raise ValueError(f"frames: shape {tuple(frames.shape)} is not (B, {FRAMES}, 3, {side}, {side})")
        x = vit.embeddings(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, 8, 1 + patches, width)
        patches = x[:, :, 1:] + self.temporal_embedding[:, :, None]
        # Every frame has the same class token so far; the video has it once, and it has no place in time.
        x = torch.cat([x[:, 0, :1], patches.flatten(1, 2)], dim=1)
        x = vit.encoder(vit.pre_layrnorm(x)).last_hidden_state
        return self.vision.visual_projection(vit.post_layernorm(x[:, 0]))

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Features of prompts, (B, 768), not normalised. Only the first 30 tokens of a prompt are read.

        Raises:
            ImportError: as `tokenize`.
        """
        return self.text(self.tokenize(prompts).to(self.temporal_embedding.device)).text_embeds

    def tokenize(self, prompts: list[str]) -> torch.Tensor:
        """CLIP's token ids, (B, 32): a start (49406), at most 30 tokens, an end (49407), and ends as padding.

        Features are read at the first end, which sees nothing behind it, so it does not matter what pads.

        Raises:
            ImportError: a prompt needs ftfy, and it is not installed.
        """
        length = self.text.config.max_position_embeddings
        texts = [_clean(prompt) for prompt in prompts]
        options = {"truncation": True, "padding": "max_length", "max_length": length, "return_tensors": "pt"}
        return self.tokenizer(texts, **options).input_ids


def _clean(prompt: str) -> str:
    """The prompt in lower case with single spaces, its mojibake, curly quotes and HTML entities undone."""
    # All but a few prompts are printable ASCII, in which ftfy would find only entities to change.
    if "&" in prompt or not (prompt.isascii() and prompt.isprintable()):
        try:
            import ftfy  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ImportError(f"prompt {prompt!r}: to clean it as VBench does takes ftfy (pip install ftfy)") from error
        prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(prompt.split()).lower()


def load(weights: Path, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT) -> ViCLIP:
    """ViCLIP with the published weights, float32, in eval mode, its parameters without gradients.

    Args:
        weights: `ViClip-InternVid-10M-FLT.pth`, or the same tensors as .safetensors.
        vision, text: as for `ViCLIP`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as tensors, or they are not ViCLIP's.
    """
    with init_empty_weights(), torch.random.fork_rng(devices=[]):  # what little is still drawn is not used
        model = ViCLIP(vision, text)
    state = _renamed(tensors(weights))
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in want | have if want.get(name) != have.get(name)):
        shapes = f"{have.get(wrong[0], 'missing')}, where ViCLIP-L/14 has {want.get(wrong[0], 'none')}"
        raise ValueError(f"{weights}: {len(wrong)} weights are not ViCLIP-L/14's, such as {wrong[0]}: {shapes}")
    model.load_state_dict(state, assign=True)
    return model.float().eval().requires_grad_(False)


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under transformers' names and in its shapes, without the temperature of the training loss."""
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        if ".in_proj_" in name:  # queries, keys and values, stacked
            for letter, part in zip("qkv", tensor.chunk(3), strict=False):
                renamed[name.replace("in_proj_", f"{letter}_proj.")] = part
        elif name.endswith("_projection.weight"):  # features @ matrix
            renamed[name] = tensor.mT
        elif name.endswith("patch_embedding.weight"):  # a convolution over one frame at a time
            renamed[name] = tensor.squeeze(2)
        elif name != "temp":
            renamed[name] = tensor
    return renamed
