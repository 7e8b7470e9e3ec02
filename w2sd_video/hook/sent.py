"""What a pipeline sends its denoiser in one call: the latents, what lies beside them, and what else it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .control import Deferred
from .inputs import half, join, override

Branches = tuple[str, ...]  # of "uncond" and "cond"
BOTH: Branches = ("uncond", "cond")


@dataclass(frozen=True)
class Conditioning:
    """What an arm is told instead of the pipeline's own inputs: denoiser arguments by name, nested as there.

    Each tensor is one half: the conditional (or unconditional) inputs of all videos. None: the pipeline's.
    """

    cond: Mapping[str, Any] | None = None
    uncond: Mapping[str, Any] | None = None


PIPELINES_OWN = Conditioning()


@dataclass(frozen=True)
class Latents:
    """The denoiser's argument that holds the latents: what else is in it, and in which form it is handed over.

    Args:
        name, dtype: of the argument.
        listed: whether it is a list, of a tensor for each row.
        beside: what follows the latents along `axis` (a mask and a picture), for every row of the call. None: nothing.
        axis: see there.
        held: latents (B, …) of which parts do not move. None: all move.
        moving: where they do, 1, and elsewhere 0; its shape broadcasts to theirs.
    """

    name: str
    dtype: torch.dtype
    listed: bool = False
    beside: Tensor | None = None
    axis: int = 1
    held: Tensor | None = None
    moving: Tensor | None = None

    def holding(self, x: Tensor) -> Tensor:
        """x (B, …), with the parts that do not move where they are."""
        if self.held is None or self.moving is None:
            return x
        return torch.where(self.moving.bool(), x, self.held.to(x.dtype))

    def only_moving(self, p: Tensor) -> Tensor:
        """p (B, …), and 0 where nothing moves."""
        return p if self.moving is None else p * self.moving.to(p.dtype)


@dataclass(frozen=True)
class Sent:
    """One call of the pipeline's, to its denoiser.

    Args:
        branches: those that the rows are of, in their order: each has as many rows as there are videos.
        latents: the argument with the latents.
        inputs: the other arguments, by name.
        control: a ControlNet's call to be made, if there is one.
    """

    branches: Branches
    latents: Latents
    inputs: dict[str, Any]
    control: Deferred | None = None

    def inputs_for(self, which: Branches, own: Conditioning, inputs: dict[str, Any], videos: int) -> dict[str, Any]:
        """The inputs for these branches, each with what the arm has of its own.

        Args:
            inputs: the call's, or its ControlNet's.
            videos: how many there are.
        """
        owns = {"uncond": own.uncond, "cond": own.cond}
        if not inputs or (which == self.branches and not any(owns.values())):
            return inputs
        parts = []
        for branch in which:
            values = inputs
            if len(self.branches) == 2:
                second = self.branches.index(branch) == 1
                values = {key: half(key, value, second, 2 * videos) for key, value in inputs.items()}
            parts.append(override(values, owns[branch] or {}))
        return parts[0] if len(parts) == 1 else join(parts[0], parts[1])

    def input(self, x: Tensor, which: Branches) -> Any:
        """The latents x (B, …) for these branches, as the denoiser takes them."""
        latents = self.latents
        rows = torch.cat([latents.holding(x).to(latents.dtype)] * len(which))
        if latents.beside is not None:
            parts = latents.beside.chunk(len(self.branches))
            beside = torch.cat([parts[self.branches.index(branch)] for branch in which])
            rows = torch.cat([rows, beside], latents.axis)
        return list(rows.unbind(0)) if latents.listed else rows
