"""scikit-learn's digits in a space of few dimensions, in place of an autoencoder, and measures on points there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

from ..shapes import digits

NEIGHBOURS = 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """The first principal components of some digits, divided by a common scale so that their mean variance is 1.

    Args:
        images: (N, 8, 8) in [0, 1].
        labels: (N,).
        mean: (64,).
        basis: (64, D), unit columns divided by the common scale.
    """

    images: Array
    labels: NDArray[np.int64]
    mean: Array
    basis: Array

    @classmethod
    def of(cls, dimensions: int, classes: tuple[int, ...] = tuple(range(10))) -> Space:
        """The space of the digits of some classes.

        Raises:
            ModuleNotFoundError: scikit-learn, which holds the digits, is not installed.
        """
        images, labels = digits.data()
        chosen = np.isin(labels, classes)
        flat = images[chosen].reshape(-1, 64).astype(float)
        mean = flat.mean(0)
        _, sizes, rows = np.linalg.svd(flat - mean, full_matrices=False)
        signs = np.sign(rows[np.arange(dimensions), np.abs(rows[:dimensions]).argmax(1)])
        scale = np.sqrt((sizes[:dimensions] ** 2).sum() / (len(flat) * dimensions))
        return cls(images[chosen].astype(float), labels[chosen], mean, (rows[:dimensions] * signs[:, None]).T / scale)

    def encode(self, images: Array) -> Array:
        """Points (N, D) of images (N, 8, 8)."""
        points: Array = (images.reshape(-1, 64) - self.mean) @ self.basis
        return points

    def decode(self, points: Array) -> Array:
        """Images (..., 8, 8) of points (..., D)."""
        flat = points @ np.linalg.pinv(self.basis) + self.mean
        return flat.reshape(*points.shape[:-1], 8, 8)

    @property
    def points(self) -> Array:
        """The points (N, D) of the digits themselves."""
        return self.encode(self.images)

    def classify(self, points: Array) -> NDArray[np.int64]:
        """The majority class (n,) of the 3 nearest digits in pixels, as in `shapes.digits.judge`."""
        drawn = self.decode(points).reshape(-1, 64)
        data = self.images.reshape(-1, 64)
        distances = (data**2).sum(1) - 2 * drawn @ data.T  # up to a term that is the same for all digits
        nearest = self.labels[np.argsort(distances, 1, kind="stable")[:, :NEIGHBOURS]]
        return np.array([np.bincount(each).argmax() for each in nearest])


def frechet(points: Array, others: Array) -> float:
    """The Fréchet distance of the Gaussians fitted to two sets of points (n, D) and (m, D), FID's formula:

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    one, two = np.cov(points.T), np.cov(others.T)
    root = linalg.sqrtm(one @ two).real
    return float(((points.mean(0) - others.mean(0)) ** 2).sum() + np.trace(one + two - 2 * root))


def tensor(points: Array) -> Tensor:
    return torch.from_numpy(points).float()
