"""RAFT (Teed & Deng 2020, arXiv:2003.12039): optical flow, and its magnitude for VBench's dynamic_degree.

The networks are torchvision's. Its `RAFT.forward`, like the original, encodes both frames of every pair and upsamples
each of the 20 estimates; here each frame is encoded once, and only the last estimate is upsampled. The part of the
recurrent unit's convolutions that depends only on the context is computed once per pair, not in every iteration.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow import _utils, raft_large

from ..weights import tensors
from .correlations import correlations, on_demand

ITERATIONS = 20
FASTEST = 0.05  # the share of pixels, those with the longest flow, that dynamic_degree uses
# The least side of a padded frame, px. The coarsest of the four correlation levels is 1/64 of it; with a single row or
# column there, the original divides by zero and its flow is NaN everywhere.
LEAST = 128

# The published names (raft-things.pth), and torchvision's names of the same weights.
_NAMES = {
    r"^fnet\.": "feature_encoder.",
    r"^cnet\.": "context_encoder.",
    r"^(feature|context)_encoder\.conv1\.": r"\1_encoder.convnormrelu.0.",
    r"^(feature|context)_encoder\.norm1\.": r"\1_encoder.convnormrelu.1.",
    r"^(feature|context)_encoder\.conv2\.": r"\1_encoder.conv.",
    r"(layer\d\.\d)\.conv(\d)\.": r"\1.convnormrelu\2.0.",
    r"(layer\d\.\d)\.norm([12])\.": r"\1.convnormrelu\2.1.",
    r"^update_block\.encoder\.conv\.": "update_block.motion_encoder.conv.0.",
    r"^update_block\.encoder\.convc(\d)\.": r"update_block.motion_encoder.convcorr\1.0.",
    r"^update_block\.encoder\.convf(\d)\.": r"update_block.motion_encoder.convflow\1.0.",
    r"^update_block\.gru\.conv([zrq])(\d)\.": r"update_block.recurrent_block.convgru\2.conv\1.",
    r"^update_block\.mask\.0\.": "mask_predictor.convrelu.0.",
    r"^update_block\.mask\.2\.": "mask_predictor.conv.",
}


class Frame(NamedTuple):
    """A frame prepared for RAFT: padded to H, W, multiples of 8, in -1..1; and its features."""

    image: Tensor  # (1, 3, H, W)
    features: Tensor  # (1, 256, H/8, W/8)


class Flow(nn.Module):
    """RAFT for consecutive frames, each of which ends one pair and starts the next."""

    def __init__(self) -> None:
        super().__init__()
        self.raft = raft_large()

    @torch.inference_mode()
    def features(self, frame: Tensor) -> Frame:
        """Prepares a frame for `magnitude`.

        Args:
            frame: (1, 3, h, w), RGB, float32, 0-255. It is padded to multiples of 8 by repeating its edges.

        Raises:
            ValueError: the frame is not such a tensor, or is too small.
        """
        if frame.ndim != 4 or frame.shape[:2] != (1, 3):
            raise ValueError(f"frame: shape {tuple(frame.shape)} is not (1, 3, height, width)")
        height, width = frame.shape[-2:]
        down, right = -height % 8, -width % 8
        if min(height + down, width + right) < LEAST:
            raise ValueError(f"frame: {width}x{height} px is too small for RAFT: sides must be {LEAST - 7} px or more")
        padded = F.pad(frame, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        image = 2 * (padded / 255) - 1
        return Frame(image, self.raft.feature_encoder(image))

    @torch.inference_mode()
    def flow(self, before: Frame, after: Frame) -> Tensor:
        """The flow from one padded frame to another, (1, 2, H, W): to the right and down, px."""
        raft = self.raft
        if on_demand(before.features):
            look_up = correlations(before.features, after.features)
        else:
            raft.corr_block.build_pyramid(before.features, after.features)
            look_up = raft.corr_block.index_pyramid
        hidden, context = raft.context_encoder(before.image).chunk(2, 1)
        hidden, context = hidden.tanh(), context.relu()
        recurrent = raft.update_block.recurrent_block
        across, along = _gru(recurrent.convgru1, context), _gru(recurrent.convgru2, context)
        start = _utils.make_coords_grid(1, *context.shape[-2:]).to(context)
        at = start
        for _ in range(ITERATIONS):
            motion = raft.update_block.motion_encoder(at - start, look_up(at))
            hidden = along(across(hidden, motion), motion)
            at = at + raft.update_block.flow_head(hidden)
        return _utils.upsample_flow(at - start, raft.mask_predictor(hidden))

    def magnitude(self, before: Frame, after: Frame) -> float:
        """The mean length of the flow (px) over the 5 % of the padded frame's pixels that move farthest.

        It equals `get_score` of VBench's dynamic_degree.
        """
        lengths = self.flow(before, after).square().sum(1).sqrt().flatten()
        return lengths.topk(int(len(lengths) * FASTEST)).values.mean().item()


def _gru(gru: Any, context: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """One half of the recurrent unit, for a pair: maps (hidden state, motion features) to the hidden state.

    RAFT, section 3.3. A convolution is linear in its input channels, and the context's channels are the same in every
    iteration, so their part is computed once.
    """
    convolutions, channels = (gru.convz, gru.convr, gru.convq), context.shape[1]
    weight = torch.cat([convolution.weight for convolution in convolutions])
    of_hidden, of_context, of_motion = weight.split(channels, 1)
    conv = partial(F.conv2d, padding=gru.convz.padding)
    fixed = conv(context, of_context, torch.cat([convolution.bias for convolution in convolutions]))
    sizes = (2 * channels, channels)
    gates, candidate = torch.cat([of_hidden, of_motion], 1).split(sizes)
    fixed_gates, fixed_candidate = fixed.split(sizes, 1)

    def step(hidden: Tensor, motion: Tensor) -> Tensor:
        z, r = (conv(torch.cat([hidden, motion], 1), gates) + fixed_gates).sigmoid().chunk(2, 1)
        q = (conv(torch.cat([r * hidden, motion], 1), candidate) + fixed_candidate).tanh()
        return hidden.lerp(q, z)

    return step


def load(path: Path) -> Flow:
    """RAFT with published weights, float32, in eval mode, its parameters without gradients.

    Args:
        path: torchvision's `raft_large_C_T_V1-22a6c225.pth` or the original `raft-things.pth`, which hold the same
            weights; or the tensors of either as .safetensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as tensors, or they are not RAFT's.
    """
    state = {}
    for name, tensor in tensors(path).items():
        for theirs, ours in _NAMES.items():
            name = re.sub(theirs, ours, name)
        if ".norm3." not in name:  # the original stores a downsampling block's norm under two names
            state[name] = tensor
    with torch.device("meta"):
        model = Flow()
    try:
        model.raft.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[1:])[:300]
        raise ValueError(f"{path}: not the weights of RAFT (large): {first}") from error
    return model.float().eval().requires_grad_(False)
