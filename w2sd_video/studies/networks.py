"""Small networks that are trained within a study: many at a time, each with data, a start and noise of its own.

An `Ensemble` of M perceptrons is one module whose weights have an axis of length M, so that some tens of networks
train at once. They share nothing: the loss is a sum of theirs, and Adam treats each number by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .points import scheduler

FREQUENCIES = 8
BATCH = 128
RATE = 3e-3


class Ensemble(ModelMixin, ConfigMixin):
    """M noise predictors of points (D,), as one network of samples (M, n, D), or (k M, n, D) with k branches.

    Each is a perceptron of three hidden layers on x and the logarithm of sigma / alpha, around the best linear
    prediction for data of the standard deviation `scale` (after Karras et al. 2022, arXiv:2206.00364, Table 1).

    Args:
        members: M.
        dimension: D.
        width: of the hidden layers.
        classes: how many labels there are, with that of no condition, 0. 0: it takes none.
        scale: the standard deviation of the data.
        seed: of the weights.
    """

    @register_to_config
    def __init__(
        self, members: int, dimension: int, width: int = 64, classes: int = 0, scale: float = 1.0, seed: int = 0
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [dimension + 2 * FREQUENCIES + classes, width, width, width, dimension]
        self.weights = nn.ParameterList(
            torch.randn((members, i, o), generator=generator) * math.sqrt((2 if o == width else 0.01) / i)
            for i, o in zip(sizes, sizes[1:], strict=False)
        )
        self.biases = nn.ParameterList(torch.zeros((members, 1, o)) for o in sizes[1:])
        self.register_buffer("alpha_bar", scheduler().alphas_cumprod.double(), persistent=False)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Predictions of samples (k M, n, D), at one timestep or one for each point (k M, n); labels (k M, n)."""
        bar = self.alpha_bar[torch.as_tensor(timestep).long()].to(sample)
        alpha, sigma = (part.sqrt().expand(sample.shape[:-1])[..., None] for part in (bar, 1 - bar))
        scale = self.config.scale
        norm = (alpha**2 * scale**2 + sigma**2).sqrt()
        log = (sigma / alpha).log() / 4
        turns = log * torch.arange(1, FREQUENCIES + 1).to(sample) * (math.pi / 4)
        parts = [sample / norm, turns.sin(), turns.cos()]
        if self.config.classes:
            labels = torch.zeros(sample.shape[:-1], dtype=torch.long) if class_labels is None else class_labels
            parts.append(nn.functional.one_hot(labels, self.config.classes).to(sample))
        members = self.config.members
        hidden = torch.cat(parts, -1)
        hidden = hidden.unflatten(0, (-1, members)).transpose(0, 1).flatten(1, 2)  # (M, k n, .)
        for n, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias.to(sample), hidden, weight.to(sample))
            hidden = nn.functional.silu(hidden) if n + 1 < len(self.weights) else hidden
        out = hidden.unflatten(1, (-1, sample.shape[1])).transpose(0, 1).flatten(0, 1)
        return (sigma / norm**2 * sample + alpha * scale / norm * out,)


def train(
    network: Ensemble,
    data: Sequence[Tensor],
    labels: Sequence[Tensor] | None = None,
    *,
    steps: int,
    seed: int,
    rate: float = RATE,
    unlabelled: float = 0.1,
    keep: Sequence[int] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> dict[int, dict[str, Tensor]]:
    """Trains each member on its own data; the loss is the mean square error of the noise prediction.

    Args:
        data: of each member, points (N, D); members may have different numbers.
        labels: of each member (N,), from 1 up.
        rate: of learning, reached after 100 steps.
        unlabelled: the share of points whose label is left out.
        keep: numbers of steps after which the weights are kept, an average over the steps of late.

    Returns:
        The weights at the steps of `keep`. The network has the last ones.
    """
    generator = torch.Generator().manual_seed(seed)
    members = network.config.members
    sizes = torch.tensor([len(each) for each in data])
    most = int(sizes.max())
    padded = torch.stack([nn.functional.pad(each.float(), (0, 0, 0, most - len(each))) for each in data])
    if labels is not None:
        known = torch.stack([nn.functional.pad(each.long(), (0, most - len(each))) for each in labels])
    optimiser = torch.optim.Adam(network.parameters(), rate)
    average = {name: p.detach().clone() for name, p in network.named_parameters()}
    kept: dict[int, dict[str, Tensor]] = {}
    rows = torch.arange(members)[:, None]
    for step in range(steps):
        which = (torch.rand((members, BATCH), generator=generator) * sizes[:, None]).long()
        z = padded[rows, which]
        eps = torch.randn(z.shape, generator=generator)
        t = torch.randint(1000, (members, BATCH), generator=generator)
        said = None
        if labels is not None:
            said = known[rows, which] * (torch.rand((members, BATCH), generator=generator) >= unlabelled)
        bar = network.alpha_bar[t].to(z)[..., None]
        p = network(bar.sqrt() * z + (1 - bar).sqrt() * eps, t, said)[0]
        loss = (p - eps).square().mean((1, 2)).sum()
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, p_ in network.named_parameters():
                average[name].lerp_(p_, 1 - decay)
        if step + 1 in keep:
            kept[step + 1] = {name: value.clone() for name, value in average.items()}
        if step % 50 == 49:
            progress((step + 1) / steps)
    network.load_state_dict(average)
    return kept


def members(network: Ensemble, chosen: Sequence[int]) -> Ensemble:
    """Some of an ensemble's networks, as an ensemble."""
    config: dict[str, Any] = dict(network.config)
    part = Ensemble(**{k: v for k, v in config.items() if not k.startswith("_")} | {"members": len(chosen)})
    part.load_state_dict({name: value[list(chosen)] for name, value in network.state_dict().items()})
    return part.requires_grad_(False)
