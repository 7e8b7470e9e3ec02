"""Arms that certainly do not differ are remarked on, once, and no others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import families
import pytest

from w2sd_video.errors import note_once
from w2sd_video.hook import Conditioning, apply_reflection
from w2sd_video.methods import S2WD, W2SD, AutoGuidance, Method, Optimistic, Weak, ZSampling
from w2sd_video.models.motion import share_parameters

SDXL = families.FAMILIES[2]
SAYS = "the two arms do not differ: both have one network, guidance {} and the same inputs, so {} costs evaluations"


@pytest.fixture
def said(caplog) -> Callable[[], list[str]]:
    note_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if "arms do not differ" in record.getMessage()]


class Own(W2SD):
    """A method of one's own, which may use equal arms."""


def copied(pipe: Any) -> Any:
    """A copy of the pipeline's network with the same parameters, as families make it; it may be set otherwise."""
    network = copy.deepcopy(pipe.unet)
    share_parameters(network, pipe.unet)
    return network


@pytest.mark.parametrize("weak", [None, lambda pipe: pipe.unet], ids=["none", "itself"])
@pytest.mark.parametrize("method", [W2SD(), W2SD(2.5, 2.5, reflection_steps=1), S2WD(), AutoGuidance(), Optimistic()])
def test_equal_arms_are_remarked_on_once(said, weak, method):
    pipe = SDXL.stock_of(SDXL.pipeline())
    for _ in range(2):
        with apply_reflection(pipe, method, weak=weak and weak(pipe)):
            SDXL(pipe, num_inference_steps=2)
    (note,) = said()
    assert note.startswith("note: " + SAYS.format(f"{method.weak_guidance:g}", type(method).__name__))


@pytest.mark.parametrize(
    "method",
    [
        W2SD(2.0, 1.0),
        W2SD(reflection_steps=0),
        W2SD(inversion_noise=0.5),
        W2SD(convention="published"),
        ZSampling(),
        Weak(),
        Own(),
    ],
    ids=str,
)
def test_methods_that_do_not_go_by_the_difference_of_the_arms_alone_are_not_remarked_on(said, method: Method):
    pipe = SDXL.stock_of(SDXL.pipeline())
    with apply_reflection(pipe, method):
        SDXL(pipe, num_inference_steps=2)
    assert not said()


@pytest.mark.parametrize(
    "own",
    [
        {"weak": copied},
        {"weak_settings": lambda pipe: [(vars(pipe.unet), "anything", 1)]},
        {"weak_conditioning": lambda pipe: Conditioning(cond={"encoder_attention_mask": None})},
        {"strong_conditioning": lambda pipe: Conditioning(cond={"encoder_attention_mask": None})},
        {"weak_controlnet_conditioning_scale": lambda pipe: 0.0},
    ],
    ids=lambda own: next(iter(own)),
)
def test_arms_that_may_differ_are_not_remarked_on(said, own):
    pipe = SDXL.stock_of(SDXL.pipeline())
    with apply_reflection(pipe, W2SD(), **{name: make(pipe) for name, make in own.items()}):
        SDXL(pipe, num_inference_steps=2)
    assert not said()


def test_a_call_of_a_family_is_remarked_on_only_where_its_arms_are_equal(said):
    pipe = SDXL.pipeline(weak=False)
    SDXL(pipe, num_inference_steps=2)
    SDXL(pipe, num_inference_steps=2, weak_guidance_scale=3.0, weak_prompt="a dog")
    SDXL(pipe, num_inference_steps=2, weak_guidance_scale=3.0, interval=(0.0, 0.1))
    SDXL(pipe, num_inference_steps=1, weak_guidance_scale=3.0)
    assert not said()
    SDXL(pipe, num_inference_steps=2, weak_guidance_scale=3.0)
    assert [note.startswith(f"note: {SAYS.format('3', 'W2SD')}") for note in said()] == [True]
