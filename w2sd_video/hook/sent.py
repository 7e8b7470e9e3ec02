"""What a pipeline sends its denoiser in one call: the latents, the inputs beside them, and the conditioning."""

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
    """Denoiser inputs that replace the pipeline's own for one arm.

    Args:
        cond: inputs of the conditional branch, by the denoiser's argument names, in nested dictionaries where the
            pipeline nests them. Tensors hold this branch alone, a row for each video. None: the pipeline's.
        uncond: the same for the unconditional branch.
    """

    cond: Mapping[str, Any] | None = None
    uncond: Mapping[str, Any] | None = None


PIPELINES_OWN = Conditioning()


@dataclass(frozen=True)
class Latents:
    """The denoiser's argument that holds the latents: its layout, and what else it holds.

    Args:
        name: the argument's name.
        dtype: its dtype.
        listed: whether it is a list with a tensor for each row.
        beside: the rest of the argument, which follows the latents along `axis` (a mask and a picture), for every row
            of the call. None: nothing.
        axis: the axis along which `beside` follows.
        held: x_t (B, …), whose parts outside `moving` are held still. None: all of it moves.
        moving: 1 where the latents move, 0 elsewhere; broadcasts to `held`.
    """

    name: str
    dtype: torch.dtype
    listed: bool = False
    beside: Tensor | None = None
    axis: int = 1
    held: Tensor | None = None
    moving: Tensor | None = None

    def holding(self, x: Tensor) -> Tensor:
        """x (B, …), with the parts that are held still set to their values in x_t."""
        if self.held is None or self.moving is None:
            return x
        return torch.where(self.moving.bool(), x, self.held.to(x.dtype))

    def only_moving(self, p: Tensor) -> Tensor:
        """p (B, …), set to 0 where the latents are held still."""
        return p if self.moving is None else p * self.moving.to(p.dtype)


@dataclass(frozen=True)
class Sent:
    """One call of the pipeline to its denoiser.

    Args:
        branches: the branches of the rows, in order; each has a row for each video.
        latents: the argument with the latents.
        inputs: the other arguments, by name.
        control: a deferred call of a ControlNet, if there is one.
    """

    branches: Branches
    latents: Latents
    inputs: dict[str, Any]
    control: Deferred | None = None

    def inputs_for(self, which: Branches, own: Conditioning, inputs: dict[str, Any], videos: int) -> dict[str, Any]:
        """The inputs of an arm for these branches.

        Args:
            own: inputs of the arm that replace the pipeline's.
            inputs: the inputs of the call, or of its ControlNet.
            videos: the number of videos, B.
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
        """The denoiser's argument with the latents x (B, …), once for each of these branches."""
        latents = self.latents
        rows = torch.cat([latents.holding(x).to(latents.dtype)] * len(which))
        if latents.beside is not None:
            parts = latents.beside.chunk(len(self.branches))
            beside = torch.cat([parts[self.branches.index(branch)] for branch in which])
            rows = torch.cat([rows, beside], latents.axis)
        return list(rows.unbind(0)) if latents.listed else rows
