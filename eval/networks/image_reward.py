"""ImageReward (Xu et al. 2023, arXiv:2304.05977): predicts how much people like an image for a prompt.

BLIP's text encoder reads the prompt, and each of its layers attends to the image's features from BLIP's ViT-L/16 (Li et
al. 2022, arXiv:2201.12086). Five linear layers map the first token to a reward. Both encoders are transformers' BLIP
classes, and the published weights are renamed when they are loaded.

The original pads a prompt to 35 tokens and masks the padding. Images that share a prompt need no padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers.implementations import BertWordPieceTokenizer
from torch import nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from ..weights import assign, tensors
from .head import head

TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's output, as published
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}

# The published names, and the names here, of the same weights.
_NAMES = {
    "blip.visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "blip.visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "blip.visual_encoder.patch_embed.proj.": "vision.embeddings.patch_embedding.",
    "blip.visual_encoder.blocks.": "vision.encoder.layers.",
    "blip.visual_encoder.norm.": "vision.post_layernorm.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    "blip.text_encoder.": "text.",
    "mlp.layers.": "head.",
}
# Not used: projections of BLIP's contrastive loss, and position ids, which count from 0.
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


class ImageReward(nn.Module):
    """The reward of an image for a prompt, roughly standard normal according to its authors.

    Args:
        tokenizer: as `tokenizer` returns it.
        vision: settings of `BlipVisionConfig`; the default is L/16's at 224 px.
        text: settings of `BlipTextConfig`; the default is BERT-base's.
    """

    def __init__(
        self, tokenizer: BertWordPieceTokenizer, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        config = BlipTextConfig(**text, encoder_hidden_size=vision["hidden_size"])
        self.text = BlipTextModel(config, add_pooling_layer=False)
        self.head = head(text["hidden_size"])

    def reward(self, images: torch.Tensor, prompt: str) -> torch.Tensor:
        """Rewards of images that share a prompt, such as a video's frames.

        Args:
            images: (n, 3, 224, 224), RGB, normalised by CLIP's mean and standard deviation. The original resizes the
                short side to 224 px with Pillow's bicubic filter in 8 bits, and crops the centre.
            prompt: only its first 33 tokens are read.

        Returns:
            (n,), the higher the better; its authors' first example has 0.58, 0.27, -1.41 and -2.03.

        Raises:
            ValueError: `images` is not of that shape.
        """
        side = self.vision.config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ValueError(f"images: shape {tuple(images.shape)} is not (n, 3, {side}, {side})")
        ids = torch.tensor([self.tokenizer.encode(prompt).ids], device=images.device)
        seen = self.vision(images).last_hidden_state  # (n, 1 + patches, width)
        read = self.text(ids.expand(len(images), -1), encoder_hidden_states=seen).last_hidden_state
        return (self.head(read[:, 0])[:, 0] - MEAN) / STD


def tokenizer(vocabulary: Path) -> BertWordPieceTokenizer:
    """BERT's lower-case tokenizer with BLIP's two tokens after the vocabulary. It returns at most 35 tokens, including
    the start and the end.

    Args:
        vocabulary: `vocab.txt` of the hub's google-bert/bert-base-uncased, one WordPiece per line, or its folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a vocabulary.
    """
    path = vocabulary / "vocab.txt" if vocabulary.is_dir() else vocabulary
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such vocabulary; ImageReward reads google-bert/bert-base-uncased's")
    try:
        bert = BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # tokenizers raises nothing more specific
        raise ValueError(f"{path} is not a vocabulary of BERT's: {error}") from error
    bert.add_special_tokens(["[DEC]", "[ENC]"])
    bert.enable_truncation(TOKENS)
    return bert


def load(
    weights: Path, vocabulary: Path, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT
) -> ImageReward:
    """ImageReward with the published weights, float32, in eval mode, its parameters without gradients.

    Args:
        weights: `ImageReward.pt`, or the same tensors as .safetensors.
        vocabulary: see `tokenizer`.
        vision, text: see `ImageReward`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights cannot be read as tensors, or are not ImageReward's; or the vocabulary is another.
    """
    words = tokenizer(vocabulary)
    if (have := words.get_vocab_size() - 2) != (want := text["vocab_size"] - 2):
        raise ValueError(f"{vocabulary}: {have} tokens, where ImageReward's vocabulary has {want}")
    with init_empty_weights(), torch.random.fork_rng(devices=[]):  # building draws a few numbers that are not used
        model = ImageReward(words, vision, text)
    assign(model, _renamed(tensors(weights)), weights)
    return model.eval().requires_grad_(False)


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with the names here, without those that the reward does not use."""
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(_UNUSED):
            for theirs, ours in _NAMES.items():
                name = name.replace(theirs, ours)
            renamed[name] = tensor
    return renamed
