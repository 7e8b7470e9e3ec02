"""FID (Heusel et al. 2017, arXiv:1706.08500): how far two sets of pictures are apart, by Inception features.

It takes many: of fewer pictures than features, 2048, the covariance is singular, and the distance is biased upwards.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..networks.inception import outputs
from .of_inception import OfInception

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..frames import Batch


CHANNELS = 2048


class Moments(NamedTuple):
    mean: NDArray[np.float64]  # (channels,)
    covariance: NDArray[np.float64]  # (channels, channels), over n - 1


class FID(OfInception):
    name = "fid"
    enough = CHANNELS

    def features(self, batch: Batch) -> torch.Tensor:
        return outputs(self.network, batch)[0]

    def gathered(self, references: NDArray[np.float32]) -> Moments:
        return moments(references)

    def compare(self, features: NDArray[np.float32], references: Moments) -> float:
        return distance(moments(features), references)

    def statistics(self, path: Path) -> Moments:
        """Mean and covariance as the common files have them, under "mu" and "sigma"."""
        try:
            with np.load(path, allow_pickle=False) as file:
                known = Moments(*(file[name].astype(np.float64, casting="same_kind") for name in ("mu", "sigma")))
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} does not hold the arrays mu and sigma: {error}") from None
        if known.mean.shape != (CHANNELS,) or known.covariance.shape != (CHANNELS, CHANNELS):
            raise ValueError(f"{path} holds mu {known.mean.shape} and sigma {known.covariance.shape}, not {CHANNELS}")
        if not (np.isfinite(known.mean).all() and _is_covariance(known.covariance)):
            raise ValueError(f"{path} holds no mean and covariance of features")
        return known


DIMENSION = FID


def _is_covariance(matrix: NDArray[np.float64]) -> bool:
    largest = np.abs(matrix).max()
    if not np.isfinite(largest) or np.abs(matrix - matrix.T).max() > 1e-3 * largest:
        return False
    try:
        np.linalg.cholesky(matrix + (1e-3 * largest + 1e-30) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:  # it has a negative eigenvalue
        return False
    return True


def moments(features: NDArray[np.float32]) -> Moments:
    """Mean and covariance of features (n, channels).

    Raises:
        ValueError: there are fewer than two.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"FID is of two sets of 2 pictures or more, and one has {n}")
    mean = features.mean(0, dtype=np.float64)
    parts = np.array_split(features, -(-n // 4096))  # not all of them in double precision at once
    return Moments(mean, sum((part - mean).T @ (part - mean) for part in parts) / (n - 1))


def distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (AB)^1/2), the squared Frechet distance of two normal distributions (Eq. 6).

    The trace of the root is the sum of the roots of AB's eigenvalues, which are those of A^1/2 B A^1/2.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * common)
