"""Inception v3 as TensorFlow published it in 2015, for FID and the Inception score; the network is torch-fidelity's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..weights import tensors

if TYPE_CHECKING:
    from ..frames import Batch


def load(path: Path) -> nn.Module:
    """The network with the weights of `weights-inception-2015-12-05-6726825d.pth`.

    Raises:
        ValueError: the file does not hold them.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity would unpickle any object in the file, so the tensors are read here and passed on.
    safe = io.BytesIO()
    torch.save(tensors(path), safe)
    safe.seek(0)
    try:
        return FeatureExtractorInceptionV3("", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of Inception v3: {str(error)[:300]}") from None


def outputs(network: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The last features (n, 2048) of a batch's frames, and their logits without the bias (n, 1008)."""

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        parts = [network(frames.byte()) for frames in batch.frames.split(8)]
        return torch.cat([features for features, _ in parts]), torch.cat([logits for _, logits in parts])

    return batch.once(network, run)
