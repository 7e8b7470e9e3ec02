"""CLIP (Radford et al. 2021, arXiv:2103.00020): both encoders in transformers' classes, with normalised features.

Weights are a folder in transformers' layout, or a file with OpenAI's names, which open_clip also uses.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from w2sd_video.models.bases import clip_tokenizer

from ..weights import assign, shared, tensors
from .first_token import read_first_token

if TYPE_CHECKING:
    from ..frames import Batch


def _layout(
    patch: int, vision: tuple[int, int, int], text: tuple[int, int], projection: int, act: str
) -> dict[str, dict[str, Any]]:
    """Settings of both encoders: `vision` is width, layers and heads; `text` is width and layers."""
    settings = {}
    for kind, (width, layers, heads) in {"vision": vision, "text": (*text, text[0] // 64)}.items():
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        settings[kind] = {"projection_dim": projection, "hidden_act": act, "num_attention_heads": heads, **sizes}
    settings["vision"] |= {"image_size": 224, "patch_size": patch}
    return settings


# Configurations for files, which hold none: OpenAI's B/32 and L/14, and LAION's H/14.
LAYOUTS = {
    "B/32": _layout(32, (768, 12, 12), (512, 12), 512, "quick_gelu"),
    "L/14": _layout(14, (1024, 24, 16), (768, 12), 768, "quick_gelu"),
    "H/14": _layout(14, (1280, 32, 16), (1024, 24), 1024, "gelu"),
}

# OpenAI's names, and transformers' for the same weights. The temperature and three further numbers are not used.
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_NAMES = {
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
_UNUSED = ("logit_scale", "input_resolution", "context_length", "vocab_size")


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with OpenAI's names, converted to the names and shapes of transformers' `CLIPModel`."""
    weights = {}
    for name, tensor in state.items():
        if name in _PROJECTIONS:  # features @ matrix
            weights[_PROJECTIONS[name]] = tensor.transpose(0, -1)
        elif name not in _UNUSED:
            model = "vision_model" if name.startswith("visual.") else "text_model"
            name = name.removeprefix("visual.")
            for theirs, ours in _NAMES.items():
                name = name.replace(theirs, ours)
            if ".in_proj_" in name:  # queries, keys and values, stacked
                for letter, part in zip("qkv", tensor.chunk(3), strict=False):
                    weights[f"{model}.{name.replace('in_proj_', f'{letter}_proj.')}"] = part
            else:
                weights[f"{model}.{name}"] = tensor
    return weights


def image_encoder(path: Path, layout: str) -> CLIPVisionModelWithProjection:
    """CLIP's image encoder in float32: frames (n, 3, 224, 224) to `image_embeds` (n, channels).

    Args:
        path: a folder in transformers' layout, of the encoder or of the whole model; or a file with OpenAI's names.
        layout: the configuration of a file, one of `LAYOUTS`.

    Raises:
        ValueError: the path does not hold such weights.
    """
    arguments = ("visual_projection.weight", path, layout)
    network = _encoder("vision", CLIPVisionModelWithProjection, CLIPVisionConfig, *arguments)
    read_first_token(network, network.config)
    return network


def text_encoder(path: Path, layout: str) -> CLIPTextModelWithProjection:
    """CLIP's text encoder in float32: tokens (n, length) to `text_embeds` (n, channels); see `image_encoder`."""
    return _encoder("text", CLIPTextModelWithProjection, CLIPTextConfig, "text_projection.weight", path, layout)


def _encoder(kind: str, model: Any, config_class: Any, projection: str, path: Path, layout: str) -> Any:
    if path.is_dir():
        state, config = tensors(path), config_class.from_pretrained(path)
    else:
        state, config = renamed(tensors(path)), config_class(**LAYOUTS[layout][kind])
    own = {name: tensor for name, tensor in state.items() if name.startswith((f"{kind}_model.", projection))}
    own.pop(f"{kind}_model.embeddings.position_ids", None)  # saved by older versions
    if projection in own:  # the encoder's configuration within a whole model may give another width
        config.projection_dim = len(own[projection])
    with init_empty_weights(), torch.random.fork_rng(devices=[]):  # building draws a few numbers that are not used
        network = model(config)
    assign(network, own, path)
    return network.eval().requires_grad_(False)


def features(network: CLIPVisionModelWithProjection, batch: Batch) -> torch.Tensor:
    """Features of length 1 (n, channels) of a batch's frames, after CLIP's own preprocessing."""
    return batch.once(network, lambda: F.normalize(network(batch.clip_by_pillow).image_embeds, dim=-1))


class Clip:
    """Both encoders, with features of length 1."""

    def __init__(self, path: Path, device: torch.device, layout: str, clean: bool = True):
        """`path` and `layout`: see `image_encoder`. `clean`: whether to clean prompts as OpenAI's tokenizer does."""
        self.device, self.clean = device, clean
        self.vision = shared(image_encoder, path, device, layout)
        self.words = shared(text_encoder, path, device, layout)
        self._texts: dict[str, torch.Tensor] = {}

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return clip_tokenizer()

    def images(self, frames: torch.Tensor) -> torch.Tensor:
        """Features (n, channels) of frames (n, 3, 224, 224), normalised by CLIP's mean and deviation."""
        return F.normalize(self.vision(frames).image_embeds, dim=-1)

    def text(self, prompt: str) -> torch.Tensor:
        """Features (channels,) of a prompt, of which the first 75 tokens count. The last prompt's are cached."""
        if prompt not in self._texts:
            ids = tokenize(self.tokenizer, [cleaned(prompt) if self.clean else prompt], 77).to(self.device)
            self._texts = {prompt: F.normalize(self.words(ids).text_embeds[0], dim=-1)}
        return self._texts[prompt]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], length: int) -> torch.Tensor:
    """Token ids (n, length): a start (49406), the text cut to fit, and an end (49407), which also serves as padding.

    Features are read at the first end. It does not attend to later tokens, so the padding does not matter.
    """
    options = {"truncation": True, "padding": "max_length", "max_length": length, "return_tensors": "pt"}
    return tokenizer(texts, **options).input_ids


def cleaned(prompt: str) -> str:
    """The prompt in lower case with single spaces, its mojibake, curly quotes and HTML entities undone.

    Raises:
        ImportError: a prompt needs ftfy, and it is not installed.
    """
    # Most prompts are printable ASCII, in which ftfy would change nothing but entities.
    if "&" in prompt or not (prompt.isascii() and prompt.isprintable()):
        try:
            import ftfy  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ImportError(f"prompt {prompt!r}: cleaning it as CLIP does needs ftfy (pip install ftfy)") from error
        prompt = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return " ".join(prompt.split()).lower()
