"""The head of LAION's aesthetic predictor and of ImageReward."""

from __future__ import annotations

from torch import nn


def head(width: int = 768) -> nn.Sequential:
    """The linear layers of a published head, without activations; dropout layers only keep the published numbering.

    Args:
        width: channels of the features.
    """
    sizes, dropout = (width, 1024, 128, 64, 16, 1), nn.Identity
    linear = [nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(linear[0], dropout(), linear[1], dropout(), linear[2], dropout(), linear[3], linear[4])
