"""Calls that were tried against the pipelines because nothing had tried them yet."""

from __future__ import annotations

from typing import Any

import families
import pytest
import test_transformer_families as transformer_families
import torch
from any_pipeline import TEXT, draw
from test_transformer_families import CALLS, LARGER, near, textual
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("case", ["WanPipeline", "LTXPipeline"])
def test_embeddings_of_the_weak_arm_are_those_of_every_video_of_their_prompt(case):
    """Stock pipelines repeat what they encode for each prompt's videos, and some of them nothing else.

    The texts are of one length: of several, diffusers' LTX pairs masks and videos wrongly.
    """
    of = transformer_families.family(case, LARGER[case])
    pipe = of.pipeline(of.weak(), **textual(case))
    weak: dict[str, Any] = {"weak_prompt_embeds": draw(2, 8, TEXT, seed=9)}
    if case == "LTXPipeline":
        weak["weak_prompt_attention_mask"] = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])

    def run(rows: slice, videos: int, seeds: list[int]) -> Tensor:
        told = {"prompt": ["a cat", "a dog"][rows], "negative_prompt": ["dog", "cat"][rows]}
        told |= {name: each[rows] for name, each in weak.items()}
        shared = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 8, **CALLS[case]}
        return pipe(**told, **shared, num_videos_per_prompt=videos, generator=[generator(s) for s in seeds]).frames

    alone = [run(slice(i // 2, i // 2 + 1), 1, [i]) for i in range(4)]
    assert near(run(slice(None), 2, [0, 1, 2, 3]), torch.cat(alone))


@pytest.mark.parametrize("name", ["W2SDAnimateDiffSDXLPipeline", "W2SDAnimateDiffPipeline"])
def test_a_weak_prompt_where_the_stock_pipeline_makes_one_video_whatever_it_is_told(name):
    family = next(each for each in families.FAMILIES if each.name == name)
    pipe = family.pipeline(dtype=torch.float32)
    call = family.call(weak_prompt="a dog", num_inference_steps=2)
    first = pipe(**call)[0]
    assert torch.equal(pipe(**{**call, "generator": generator()}, num_videos_per_prompt=2)[0], first)
