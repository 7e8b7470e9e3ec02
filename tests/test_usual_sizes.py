"""Where a call says no size, what is checked beforehand is the size that the stock pipeline then makes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from any_pipeline import CASES, sample
from families import FAMILIES
from test_transformer_families import LARGER, family, fast_are


def sides(pipe: Any, run: Any) -> tuple[list[Any], list[Any]]:
    """What `check_inputs` is told of height and width: before, by us; and then by the stock pipeline."""
    told: list[Any] = []
    check = pipe.check_inputs

    def checking(*args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(pipe).check_inputs).bind(pipe, *args, **kwargs).arguments
        told.append([bound.get("height"), bound.get("width")])
        check(*args, **kwargs)
        if len(told) == 2:
            raise InterruptedError

    checking.__signature__ = inspect.signature(check)
    pipe.check_inputs = checking
    with pytest.raises(InterruptedError):
        run()
    return told[0], told[1]


@pytest.mark.parametrize("case", LARGER)
@fast_are
def test_a_transformer_s_usual_size_is_what_its_pipeline_makes(case):
    of = family(case, {})
    pipe = of.pipeline()
    call = CASES[case].call(pipe)
    defaults = inspect.signature(of.cls.stock.__call__).parameters
    if defaults["height"].default is not None:  # a size that a call has taken away is refused by name
        with pytest.raises(ValueError, match=f"`height` is None: give pixels; .* is {defaults['height'].default}"):
            sample(pipe, of.of(pipe, height=None))
        return
    ours, theirs = sides(pipe, lambda: pipe(**{**call, "height": None, "width": None}, num_inference_steps=2))
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES[:4], ids=str)
def test_a_unet_s_usual_size_is_what_its_pipeline_makes(family):
    pipe = family.pipeline(dtype=torch.float32)
    call = {**family.call(), "height": None, "width": None}
    ours, theirs = sides(pipe, lambda: pipe(**call))
    assert ours == theirs and None not in ours


def test_a_width_without_a_height_is_refused_as_the_stock_pipeline_refuses_it_before_anything_runs():
    of = family("HunyuanVideo15Pipeline", {})
    pipe = of.pipeline()
    with pytest.raises(ValueError, match="[Ww]idth"):
        sample(pipe, of.of(pipe, height=None))
