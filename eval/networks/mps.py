"""MPS, the multi-dimensional preference score of an image for a prompt, with the weights for overall preference.

Zhang et al. 2024 (arXiv:2405.14705): CLIP's ViT-H/14 encodes the image and the prompt token by token. In a small
transformer, the image's tokens attend to the prompt's tokens that are similar to a condition, a list of words for what
is judged. The resulting class token is compared with the prompt's feature.

CLIP is transformers', and the published weights are renamed when they are loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from w2sd_video.models.bases import clip_tokenizer

from ..weights import assign, tensors
from .clip import LAYOUTS, tokenize

VISION, TEXT = LAYOUTS["H/14"]["vision"], LAYOUTS["H/14"]["text"]
WIDTH = 1024
LAYERS, HEADS, HEAD_WIDTH, EXPANSION = 4, 16, 64, 4  # of the transformer that joins image and prompt

# The words of the overall preference.
CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
# A share of the highest similarity between the prompt's tokens and the condition. This is the value in the network's
# forward pass, which compares two images; the authors' scripts that evaluate accuracies use 0.3.
THRESHOLD = 0.01


def _attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of (n, heads, tokens, 64) to one head of keys and values, (n or 1, others, 64): (n, tokens, width)."""
    shared = [x[:, None].expand(*queries.shape[:2], -1, -1) for x in (keys, values)]
    return F.scaled_dot_product_attention(queries, shared[0], shared[1]).transpose(1, 2).flatten(2)


def _heads(queries: torch.Tensor) -> torch.Tensor:
    """(n, tokens, width) to (n, heads, tokens, 64)."""
    return queries.unflatten(2, (HEADS, HEAD_WIDTH)).transpose(1, 2)


def _gated(x: torch.Tensor) -> torch.Tensor:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202), the second half being the gate."""
    x, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * x


class Reading(nn.Module):
    """Cross-attention from the image's tokens to the prompt's, parallel to a feed-forward network; adds both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, HEADS * HEAD_WIDTH, bias=False)
        self.keys_values = nn.Linear(width, 2 * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, width, bias=False)
        self.widen = nn.Linear(width, 2 * EXPANSION * width, bias=False)
        self.narrow = nn.Linear(EXPANSION * width, width, bias=False)

    def forward(self, image: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        x = self.norm(image)
        read = self.out(_attention(_heads(self.queries(x)), *self.keys_values(prompt).chunk(2, dim=-1)))
        return image + read + self.narrow(_gated(self.widen(x)))


class Mixing(nn.Module):
    """Self-attention of the image's tokens, parallel to a feed-forward network; adds both.

    Queries and keys have rotary position embeddings (Su et al. 2021, arXiv:2104.09864), the class token at position 0.
    """

    frequencies: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = [HEADS * HEAD_WIDTH, HEAD_WIDTH, HEAD_WIDTH, 2 * EXPANSION * width]
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, sum(self.parts), bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, width, bias=False)
        self.narrow = nn.Linear(EXPANSION * width, width, bias=False)
        # The frequencies are published with the weights, and rounded like them.
        self.register_buffer("frequencies", torch.zeros(HEAD_WIDTH // 2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        queries, keys, values, wide = self.inputs(self.norm(image)).split(self.parts, dim=-1)
        angles = torch.outer(torch.arange(image.shape[1], device=image.device), self.frequencies)
        attended = _attention(_rotated(_heads(queries), angles), _rotated(keys, angles), values)
        return image + self.out(attended) + self.narrow(_gated(wide))


def _rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (x[i], x[i + 32]) of (..., tokens, 64) by angles (tokens, 32)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Layer(nn.Module):
    """One of the layers that join image and prompt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width)
        self.mixing = Mixing(width)

    def forward(self, image: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        return self.mixing(self.reading(image, prompt))


class MPS(nn.Module):
    """How much an image is preferred for a prompt. Weights from `load`.

    Args:
        vision: settings of `CLIPVisionConfig`; the default is H/14.
        text: settings of `CLIPTextConfig`; the default is H/14's.
        width: of the features shared by image and text.
    """

    def __init__(self, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT, width: int = WIDTH) -> None:
        super().__init__()
        config = CLIPConfig(vision_config=dict(vision), text_config=dict(text), projection_dim=width)
        self.clip = CLIPModel(config)
        self.cross = nn.ModuleList(Layer(width) for _ in range(LAYERS))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return clip_tokenizer()

    def score(self, images: torch.Tensor, prompt: str) -> torch.Tensor:
        """Scores images for one prompt, independently of each other.

        The softmax of two images' scores gives each one's share of preference.

        Args:
            images: (n, 3, 224, 224), RGB, normalised by CLIP's mean and standard deviation.
            prompt: only its first 75 tokens are read.

        Returns:
            (n,), a cosine times its learnt scale, which is at most 100 in CLIP.

        Raises:
            ValueError: the tensor is not such a batch.
        """
        side = self.clip.config.vision_config.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side) or not images.is_floating_point():
            raise ValueError(
                f"images: {tuple(images.shape)} of {images.dtype} is not (n, 3, {side}, {side}) in floating point"
            )
        tokens, feature = self.encode_prompt(prompt)
        # The encoder's output before the final norm, which belongs to CLIP's own feature.
        x = self.clip.visual_projection(self.clip.vision_model(pixel_values=images).last_hidden_state)
        for layer in self.cross:
            x = layer(x, tokens[None])
        return self.clip.logit_scale.exp() * F.cosine_similarity(x[:, 0], feature[None])

    def encode_prompt(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of a prompt to which images attend, (up to 77, width), and its feature (width,), not normalised.

        Of all 77 tokens, including padding, it selects those whose highest dot product with a token of the condition is
        more than `THRESHOLD` of the highest one of all tokens.
        """
        length = self.clip.config.text_config.max_position_embeddings
        ids = tokenize(self.tokenizer, [prompt, CONDITION], length).to(self.clip.device)
        tokens, condition = self.clip.text_projection(self.clip.text_model(input_ids=ids).last_hidden_state)
        relevance = (tokens @ condition.mT).amax(dim=1)
        end = (ids[0] == self.tokenizer.eos_token_id).int().argmax()  # the first: the others are padding
        return tokens[relevance / relevance.max() > THRESHOLD], tokens[end]


def load(weights: Path, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT, width: int = WIDTH) -> MPS:
    """MPS with the published weights, float32, in eval mode, its parameters without gradients.

    Args:
        weights: `MPS_overall_checkpoint.pth`, or the same tensors as .pth or .safetensors with the same names, with or
            without the prefix "mps.".
        vision, text, width: see `MPS`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or what it holds is not MPS.
    """
    with init_empty_weights(), torch.random.fork_rng(devices=[]):  # building draws a few numbers that are not used
        model = MPS(vision, text, width)
    published = module_tensors(weights)
    # Position ids, which older versions of transformers saved with the weights.
    state = {_renamed(name): tensor for name, tensor in published.items() if not name.endswith(".position_ids")}
    assign(model, state, weights)
    return model.eval().requires_grad_(False)


# The published names and ours in the layers that join image and prompt.
_NAMES = {
    "cross_model.layers.": "cross.",
    ".0.fn.": ".reading.",
    ".1.fn.": ".mixing.",
    ".to_q.": ".queries.",
    ".to_kv.": ".keys_values.",
    ".to_out.": ".out.",
    ".ff.0.": ".widen.",
    ".ff.2.": ".narrow.",
    ".fused_attn_ff_proj.": ".inputs.",
    ".attn_out.": ".out.",
    ".ff_out.1.": ".narrow.",
    ".rotary_emb.inv_freq": ".frequencies",
}


def _renamed(name: str) -> str:
    name = name.removeprefix("mps.")
    if name.startswith("model."):
        return name.replace("model.", "clip.", 1)
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


class _Inert:
    """Replaces every class and function that a pickle names: stores its state, and does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def module_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, as `weights.tensors` returns them, or the state dict of a pickled `nn.Module`.

    Only torch's code runs: nothing that the pickle names beyond tensors is imported, and the module's classes need not
    exist. The module may be under the key "model".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds neither tensors by name nor a module.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return tensors(path)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if foreign:
            inert: list[Callable | tuple[Callable, str]] = [(_Inert, name) for name in foreign]
            with torch.serialization.safe_globals(inert):
                held = torch.load(path, map_location="cpu", weights_only=True)
            state = dict(_state(held["model"] if isinstance(held, dict) else held))
    except Exception as error:  # a hostile pickle may raise anything
        said = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds no module: {type(error).__name__}: {said}") from error
    if not foreign:
        return tensors(path)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _state(module: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The names and tensors of a module's `state_dict`, from its attributes only."""
    held = vars(module)
    for name, tensor in {**held["_parameters"], **held["_buffers"]}.items():
        if tensor is None or name in held.get("_non_persistent_buffers_set", ()):
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{prefix}{name} is not a tensor")
        yield prefix + name, tensor.detach()
    for name, child in held["_modules"].items():
        if child is not None:
            yield from _state(child, f"{prefix}{name}.")
