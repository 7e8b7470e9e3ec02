"""Weights that a dimension's network does not have are refused with the file and the first name that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import record_image_reward
import record_viclip
import test_image_reward
import test_mps
import test_viclip
import torch

from w2sd_video.eval.networks import image_reward, mps, viclip

Tensors = dict[str, torch.Tensor]


def load_image_reward(path: Path) -> Any:
    return image_reward.load(path, record_image_reward.write_vocabulary(path.parent), **test_image_reward.SIZES)


# Each network at a tiny size: its weights, and how they are loaded.
NETWORKS: dict[str, tuple[Callable[[], Tensors], Callable[[Path], Any]]] = {
    "MPS": (test_mps.weights_of_mps, lambda path: mps.load(path, **test_mps.SIZES)),
    "ViCLIP": (
        lambda: record_viclip.seeded(test_viclip.GOLD["shapes"]),
        lambda path: viclip.load(path, **test_viclip.SIZES),
    ),
    "ImageReward": (lambda: record_image_reward.seeded(test_image_reward.GOLD["shapes"]), load_image_reward),
}


@pytest.mark.parametrize(
    ("network", "name", "shape", "message"),
    [  # a weight that is left out (no shape), one that no network has, and one of another shape
        (
            "MPS",
            "cross_model.layers.2.1.fn.attn_out.weight",
            None,
            r"1 weights .* cross\.2\.mixing\.out\.weight: missing, where MPS has \(32, 1024\)",
        ),
        ("MPS", "model.more", (1,), r"1 weights .* clip\.more: \(1,\), where MPS has none"),
        (
            "MPS",
            "model.text_model.embeddings.position_embedding.weight",
            (32, 40),
            r"1 weights .*position_embedding\.weight: \(32, 40\), where MPS has \(77, 40\)",
        ),
        (
            "ViCLIP",
            "vision_encoder.transformer.resblocks.1.attn.in_proj_bias",
            None,
            r"3 weights .*vision.*layers\.1.*k_proj\.bias: missing, where ViCLIP has \(32,\)",
        ),
        ("ViCLIP", "text_encoder.more", (1,), r"1 weights .*more: \(1,\), where ViCLIP has none"),
        (
            "ViCLIP",
            "text_encoder.positional_embedding",
            (77, 24),
            r"1 weights .*position_embedding.*: \(77, 24\), where ViCLIP has \(32, 24\)",
        ),
        (
            "ImageReward",
            "blip.text_encoder.encoder.layer.1.crossattention.self.key.bias",
            None,
            r"1 weights .*text\.encoder\.layer\.1\.crossattention\.self\.key\.bias: missing, .* \(24,\)",
        ),
        ("ImageReward", "blip.text_decoder.more", (1,), r"1 weights .*more: \(1,\), where ImageReward has none"),
        (
            "ImageReward",
            "blip.visual_encoder.pos_embed",
            (1, 577, 32),
            r"1 weights .*position_embedding: \(1, 577, 32\), where ImageReward has \(1, 197, 32\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path, network, name, shape, message):
    weights, load = NETWORKS[network]
    state = weights()
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth: {message}"):
        load(tmp_path / "other.pth")
