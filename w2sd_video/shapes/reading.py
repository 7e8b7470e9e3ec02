"""Pre-training of the text encoders, before there is a denoiser: which word describes which object.

A denoiser trains its text encoders slowly, because its prediction hardly depends on which of the objects is the red
one. SDXL's denoiser also starts from pre-trained encoders. Here the encoders learn to classify the objects of a prompt:
linear maps predict the facts of an object from the state of each of its words, and the facts of all objects from the
pooled embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .model import TEXT_WIDTH
from .world import (
    BACKGROUNDS,
    CHANGES,
    COLOURS,
    DIRECTIONS,
    MOST_THINGS,
    PASSING,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Scene,
)

# The facts of an object, and of a scene, with their possible values.
OF_THINGS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "direction": (*DIRECTIONS, *CHANGES),
    "speed": tuple(SPEEDS),
}
OF_SCENES = {"relation": (*RELATIONS, *PASSING), "background": tuple(BACKGROUNDS)}
UNSAID = -100  # a fact that the prompt leaves open, which `cross_entropy` ignores


def _index(value: str | None, options: Sequence[str]) -> int:
    return UNSAID if value is None else options.index(value)


def facts(scenes: Sequence[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """The facts of scenes, as indices into OF_THINGS and OF_SCENES or UNSAID: (B, MOST_THINGS, 5) and (B, 2)."""
    nothing = [UNSAID] * len(OF_THINGS)
    things = [
        [[_index(getattr(thing, name), options) for name, options in OF_THINGS.items()] for thing in scene.things]
        + [nothing] * (MOST_THINGS - len(scene.things))
        for scene in scenes
    ]
    whole = [[_index(getattr(scene, name), options) for name, options in OF_SCENES.items()] for scene in scenes]
    return torch.tensor(things), torch.tensor(whole)


class Reader(torch.nn.Module):
    """Predicts the facts of a prompt from its embeddings. Its output is the text encoders' loss."""

    def __init__(self) -> None:
        super().__init__()
        self.things = [len(options) for options in OF_THINGS.values()]
        self.scenes = [len(options) for options in OF_SCENES.values()]
        self.word = torch.nn.Linear(2 * TEXT_WIDTH, sum(self.things))
        self.prompt = torch.nn.Linear(TEXT_WIDTH, MOST_THINGS * sum(self.things) + sum(self.scenes))

    def forward(
        self,
        embeds: torch.Tensor,
        pooled: torch.Tensor,
        number: torch.Tensor,
        things: torch.Tensor,
        scenes: torch.Tensor,
    ) -> torch.Tensor:
        """The sum of the cross-entropies.

        Args:
            embeds: (B, tokens, both encoders' widths).
            pooled: (B, width).
            number: (B, tokens), the object that a token describes, or UNSAID; see `numbers`.
            things, scenes: see `facts`.
        """
        of_words = torch.gather(things, 1, number.clamp(min=0)[..., None].expand(-1, -1, len(self.things)))
        of_words = torch.where(number[..., None] >= 0, of_words, UNSAID)
        of_things, of_scenes = self.prompt(pooled).tensor_split([-sum(self.scenes)], 1)
        readings = [
            *zip(self.word(embeds).split(self.things, -1), of_words.unbind(-1), strict=True),
            *zip(of_things.unflatten(1, (MOST_THINGS, -1)).split(self.things, -1), things.unbind(-1), strict=True),
            *zip(of_scenes.split(self.scenes, -1), scenes.unbind(-1), strict=True),
        ]
        return torch.stack(
            [
                F.cross_entropy(x.flatten(0, -2), target.flatten(), ignore_index=UNSAID, reduction="sum") / len(x)
                for x, target in readings
            ]
        ).sum()


def numbers(ids: torch.Tensor, article: int, end: int, things: torch.Tensor) -> torch.Tensor:
    """The number of the object that each token describes, (B, tokens); UNSAID if none.

    An object's words start with its article.

    Args:
        ids: (B, tokens), by one tokenizer.
        article: the token "a".
        end: the token that ends and pads a prompt.
        things: see `facts`.
    """
    number = (ids == article).cumsum(1) - 1
    count = (things != UNSAID).any(-1).sum(1, keepdim=True)
    return torch.where((number >= 0) & (number < count) & (ids != end), number, UNSAID)
