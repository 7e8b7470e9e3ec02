"""MUSIQ, the multi-scale image quality transformer (Ke et al. 2021, arXiv:2108.05997), as VBench computes it.

A frame is used at three scales: long side 224 px, long side 384 px, and full size. Each is cut into patches of 32 px,
which a small ResNet maps to tokens with embeddings of their position in the picture, hashed to a 10x10 grid, and of
their scale (section 3). A transformer reads the tokens of all scales, and its class token gives the quality.

The original pads each resized scale to a fixed number of tokens and masks the padding. Frames of the same size have
equally many tokens, so a batch of them needs no padding.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..weights import tensors

LONG_SIDES = (224, 384)  # px
PATCH = 32  # px
GRID = 10
WIDTH, DEPTH, HEADS, MLP_WIDTH = 384, 14, 6, 1152
STEM_WIDTH, FEATURES = 64, 256
TOKEN_SIDE = PATCH // 4  # the side of a patch's feature map, after the stem's two strides of 2


class StdConv2d(nn.Conv2d):
    """Convolution with standardised weights (Qiao et al. 2019, arXiv:1903.10520)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), None)


def _conv(inputs: int, outputs: int, kernel: int, eps: float, stride: int = 1, padding: int = 0) -> nn.Sequential:
    conv = StdConv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(32, outputs, eps))


class PatchEncoder(nn.Module):
    """Patches (N, 3, 32, 32) in -1..1 to tokens (N, 384): a ResNet's stem and one bottleneck block, then linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, STEM_WIDTH, 7, 1e-6, stride=2)
        self.narrow = _conv(STEM_WIDTH, STEM_WIDTH, 1, 1e-4)
        self.spatial = _conv(STEM_WIDTH, STEM_WIDTH, 3, 1e-4, padding=1)
        self.widen = _conv(STEM_WIDTH, FEATURES, 1, 1e-4)
        self.shortcut = _conv(STEM_WIDTH, FEATURES, 1, 1e-4)
        self.linear = nn.Linear(FEATURES * TOKEN_SIDE**2, WIDTH)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(_pad_same(patches, 7, 2)))
        x = F.max_pool2d(_pad_same(x, 3, 2), 3, 2)
        y = F.relu(self.spatial(F.relu(self.narrow(x))))
        y = F.relu(self.widen(y) + self.shortcut(x))
        # The weights were trained with channels last.
        return self.linear(y.permute(0, 2, 3, 1).flatten(1))


class MUSIQ(nn.Module):
    """The quality of frames. Weights come from `load`; those trained on SPAQ give 0 (worst) to 100."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_encoder = PatchEncoder()
        self.place = nn.Parameter(torch.zeros(1, GRID**2, WIDTH))
        self.scale = nn.Parameter(torch.zeros(len(LONG_SIDES) + 1, WIDTH))
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, MLP_WIDTH, 0.0, F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH, 1e-6), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Scores frames, independently of each other.

        Args:
            frames: (batch, 3, height, width), RGB in 0-1, float32.

        Returns:
            (batch,), quality.

        Raises:
            ValueError: the tensor is not such a batch.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
            raise ValueError(
                f"frames: {tuple(frames.shape)} of {frames.dtype} is not (batch, 3, height, width) in floating point"
            )
        native = frames * 2 - 1
        scales = [_resized(native, side) for side in LONG_SIDES] + [native]
        tokens = [self._tokens(x) + self.scale[n] for n, x in enumerate(scales)]
        x = torch.cat([self.cls.expand(len(frames), -1, -1), *tokens], 1)
        return self.head(self.encoder(x)[:, 0])[:, 0]

    def _tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """The tokens of one scale with their position embeddings, (batch, rows * columns, 384)."""
        grid = _pad_same(frames, PATCH, PATCH).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        rows, columns = grid.shape[2:4]
        # Frame by frame, to save memory: a patch's feature maps are many times its size.
        tokens = torch.stack([self.patch_encoder(g.flatten(1, 2).transpose(0, 1)) for g in grid])
        cells = [F.interpolate(torch.arange(float(GRID))[None, None], n)[0, 0].long() for n in (rows, columns)]
        places = (cells[0][:, None] * GRID + cells[1]).flatten()
        return tokens + self.place[0, places.to(tokens.device)]


def _resized(frames: torch.Tensor, long_side: int) -> torch.Tensor:
    height, width = frames.shape[2:]
    ratio = long_side / max(height, width)
    # Bicubic as in VBench; the original uses a Gaussian filter.
    return F.interpolate(frames, (round(height * ratio), round(width * ratio)), mode="bicubic")


def _pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zero padding for ceil(n / stride) windows on a side n; an odd pixel of padding goes to the right and bottom."""
    height, width = (max((ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


# The name here, and the name in the published checkpoint.
_PUBLISHED = (
    ("patch_encoder.linear", "embedding"),
    ("patch_encoder.stem.0", "conv_root"),
    ("patch_encoder.stem.1", "gn_root"),
    ("patch_encoder.narrow.0", "block1.conv1"),
    ("patch_encoder.narrow.1", "block1.gn1"),
    ("patch_encoder.spatial.0", "block1.conv2"),
    ("patch_encoder.spatial.1", "block1.gn2"),
    ("patch_encoder.widen.0", "block1.conv3"),
    ("patch_encoder.widen.1", "block1.gn3"),
    ("patch_encoder.shortcut.0", "block1.conv_proj"),
    ("patch_encoder.shortcut.1", "block1.gn_proj"),
    ("place", "transformer_encoder.posembed_input.position_emb"),
    ("scale", "transformer_encoder.scaleembed_input.scale_emb"),
    ("cls", "transformer_encoder.cls"),
    ("encoder.norm", "transformer_encoder.encoder_norm"),
    ("encoder.layers.", "transformer_encoder.transformer.encoderblock_"),
    ("self_attn.out_proj", "attention.out"),
    ("linear1", "mlp.fc1"),
    ("linear2", "mlp.fc2"),
)


def _published(name: str) -> list[str]:
    """The checkpoint's names of a parameter: three for the input projection of an attention, else one."""
    for ours, theirs in _PUBLISHED:
        name = name.replace(ours, theirs)
    if "self_attn.in_proj_" not in name:
        return [name]
    return [name.replace("self_attn.in_proj_", f"attention.{part}.") for part in ("query", "key", "value")]


def load(path: Path) -> MUSIQ:
    """MUSIQ with the weights of `path`: `musiq_spaq_ckpt-358bb6af.pth`, or its tensors as .safetensors.

    A .pth may hold its tensors under "params" or "state_dict". The model is in float32, in eval mode, and frozen.

    Raises:
        ValueError: the file is damaged, holds more than tensors, or its names or shapes are not MUSIQ's.
    """
    published = tensors(path)
    model = MUSIQ()
    names = {name: _published(name) for name in model.state_dict()}
    differing = {part for parts in names.values() for part in parts} ^ set(published)
    if differing:
        raise ValueError(
            f"{path} is not a MUSIQ checkpoint: {len(differing)} names are missing or too many, {min(differing)} first."
        )
    try:
        model.load_state_dict({name: torch.cat([published[part] for part in parts]) for name, parts in names.items()})
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is not a MUSIQ checkpoint: {' '.join(str(error).split())}") from error
    return model.eval().requires_grad_(False)
