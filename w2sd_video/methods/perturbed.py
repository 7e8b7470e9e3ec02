"""Guidance away from the strong model with perturbed layers: SLG and STG, PAG, and S2-guidance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import shown
from ..levels import Step
from .method import Answer, Arm, Method, Noise

Layers = int | str | tuple[int | str, ...] | None


@dataclass(frozen=True)
class Perturbed(Method):
    """The common part of SLG, PAG and S2-guidance: with p' the conditional prediction of the perturbed network,

        p = p_uncond + w (p_cond - p_uncond) + weight (p_cond - p'),

    all at x_t. The strong model's own network is perturbed while p' is evaluated, so the method needs no more weights,
    and one more evaluation a step. A weak model is not used.
    """

    one_model: ClassVar[bool] = True
    guides: ClassVar[bool] = False
    every_step: ClassVar[bool] = True

    weight: float = 1.0

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        return Answer(p, e=self.weight * (strong.guided(x_t, 1.0) - weak.guided(x_t, 1.0)))


@dataclass(frozen=True)
class SkipLayerGuidance(Perturbed):
    """SLG and STG: guidance away from the network with some of its transformer blocks left out.

    Skip layer guidance is Stability AI's (github.com/Stability-AI/sd3.5). Spatiotemporal skip guidance (Hyung et al.
    2024, arXiv:2411.18664) has the same formula for video, with layers of space and of time. Both are as in diffusers'
    `SkipLayerGuidance`. Stability AI skips layers 7, 8 and 9 of SD3.5-medium's 24, in the first fifth of the steps
    (`reflection_steps`).

    Args:
        layers: the transformer blocks to skip, by number from 0 or by name: "mid_block" is every block in it. Numbers
            count the blocks that see the latents in the network's own order (`arms.transformer_blocks`): a U-Net's from
            down to up, in a video U-Net those of motion modules too; a transformer's without those that only prepare
            its texts, such as HunyuanVideo's text refiner. None: the blocks of a U-Net's middle.
        weight: the scale; diffusers uses 2.8.
    """

    perturbation: ClassVar[Literal["skip", "attention"]] = "skip"

    layers: Layers = None
    weight: float = 2.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self.layers)

    def perturbed(self, index: int, layers: Sequence[str]) -> list[str]:
        return select_layers(self.layers, layers)


@dataclass(frozen=True)
class PerturbedAttentionGuidance(SkipLayerGuidance):
    """PAG: guidance away from the network whose self-attention is the identity in some layers (arXiv:2403.17377).

    Ahn et al. 2024, Eq. 14-16: the map softmax(Q K^T / sqrt(d)) becomes the identity, so that each token keeps its own
    value. The authors perturb the U-Net's middle, at scale 3.

    Args:
        layers: the transformer blocks to perturb, as for SLG. None: the blocks of a U-Net's middle.
        weight: the scale s.
    """

    perturbation: ClassVar[Literal["skip", "attention"]] = "attention"

    weight: float = 3.0


@dataclass(frozen=True)
class S2Guidance(Perturbed):
    """S2-guidance: guidance away from the network without some transformer blocks, which are drawn anew in every step.

    Chen et al. 2025, arXiv:2508.12880 (v4: Eq. 4, Algorithm 1). The first block is never left out (their Fig. 7). The
    paper guides in the central 80 % of the steps, which `interval` can select. The draw depends on `mask_seed` and the
    step alone and is the same for all videos, so a video does not depend on the others in its batch.

    Args:
        drop: the share of the blocks to leave out, at least one; the paper uses about a tenth.
        weight: the scale omega.
        mask_seed: the seed of the draw.
    """

    perturbation: ClassVar[Literal["skip", "attention"]] = "skip"

    drop: float = 0.1
    weight: float = 0.25
    mask_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.drop <= 1:
            raise ValueError(f"`drop` has to be over 0 and at most 1, but is {shown(self.drop)}.")

    def perturbed(self, index: int, layers: Sequence[str]) -> list[str]:
        droppable = layers[1:]
        if not droppable:
            raise ValueError(
                f"S2-guidance needs a network of at least 2 transformer blocks, since it keeps the first: this one has"
                f" {len(layers)}."
            )
        count = max(1, round(self.drop * len(droppable)))
        return random.Random(f"{self.mask_seed} {index}").sample(list(droppable), count)


def check_layers(layers: object, argument: str = "layers") -> None:
    """Refuse a value that names no layers."""
    listed = layers if isinstance(layers, (tuple, list)) else [] if layers is None else [layers]
    each_fits = all(isinstance(n, str) or (isinstance(n, int) and not isinstance(n, bool) and n >= 0) for n in listed)
    if not each_fits or (layers is not None and not listed):
        raise ValueError(
            f"`{argument}` has to be numbers from 0 or names of transformer blocks, but is {shown(layers)}."
        )


def select_layers(layers: Layers | list[int | str], known: Sequence[str], argument: str = "layers") -> list[str]:
    """The names of the transformer blocks that `layers` selects.

    Args:
        known: the names of the network's transformer blocks.
        argument: the argument's name, for messages.

    Raises:
        ValueError: a block is not in the network, or `layers` is None and the network has no middle block.
    """
    middle = [name for name in known if name.startswith("mid_block.")]
    if not known:
        raise ValueError(f"`{argument}` cannot be chosen: the network has no transformer blocks that are known.")
    if layers is None and not middle:
        raise ValueError(
            f"`{argument}` has to be given: this network has no middle block, but layers 0 to {len(known) - 1}."
        )
    chosen: list[str] = []
    for each in layers if isinstance(layers, (tuple, list)) else ["mid_block" if layers is None else layers]:
        matching = [known[each]] if isinstance(each, int) and each < len(known) else []
        if isinstance(each, str):
            matching = [name for name in known if name == each or name.startswith(f"{each}.")]
        if not matching:
            examples = ", ".join(known[:3]) + (", …" if len(known) > 3 else "")
            raise ValueError(
                f"`{argument}` names {shown(each)}, which is no transformer block of this network; accepted: 0 to"
                f" {len(known) - 1}, or names: {examples}"
            )
        chosen += [name for name in matching if name not in chosen]
    return chosen
