"""A pipeline that was called is freed as soon as nothing refers to it, without Python's collector of circles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import families
import pytest
import test_transformer_families as transformers
import torch
from any_pipeline import CASES
from torch import Tensor

from w2sd_video.hook import apply_reflection
from w2sd_video.methods import W2SD

BY_NAME = {each.name: each for each in families.FAMILIES}


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors_of(pipe: Any) -> list[str]:
    """The attributes of a pipeline that hold tensors, however deep, beside its components and the last timestep."""
    kept, todo, seen = [], [(name, each) for name, each in vars(pipe).items() if name not in pipe.components], set()
    for name, each in todo:
        if id(each) in seen or isinstance(each, (type, torch.nn.Module)) or name == "_current_timestep":
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            kept.append(name)
        more = each.values() if isinstance(each, dict) else each if isinstance(each, (list, tuple)) else ()
        todo += [(name, one) for one in more] + [(name, one) for one in getattr(each, "__dict__", {}).values()]
    return kept


@pytest.mark.parametrize("method", [None, "w2sd", "apg"])
@pytest.mark.parametrize("name", ["W2SDStableDiffusionPipeline", "W2SDStableDiffusionControlNetPipeline"])
def test_a_pipeline_of_a_pair_that_was_called_is_freed_with_its_networks(name, method):
    of = BY_NAME[name]
    pipe = of.pipeline(dtype=torch.float32)
    weak = {"weak_prompt": "b", "weak_guidance_scale": 2.0} if method == "w2sd" else {}
    of(pipe, method=method, num_inference_steps=2, **weak)
    assert not tensors_of(pipe) and pipe.evaluations["strong"] > 0
    networks = [weakref.ref(each) for each in pipe.denoisers()]
    del pipe
    assert not any(each() for each in networks)


def test_a_pipeline_whose_call_failed_is_freed_with_its_networks():
    of = BY_NAME["W2SDStableDiffusionPipeline"]
    pipe = of.pipeline(dtype=torch.float32)

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe.weak_unet.conv_in.register_forward_pre_hook(fails)
    try:
        of(pipe)
    except KeyboardInterrupt:
        pass
    assert pipe.evaluations == {"strong": 2, "weak": 0, "total": 2}
    networks = [weakref.ref(each) for each in pipe.denoisers()]
    del pipe
    assert not any(each() for each in networks)


@torch.no_grad()
@pytest.mark.parametrize("case", ["WanPipeline", "StableDiffusion3Pipeline"])
def test_a_stock_pipeline_is_freed_also_while_the_count_of_its_evaluations_is_kept(case):
    pipe = CASES[case].build(0)
    weak = transformers.family(case, transformers.LARGER[case]).weak()
    with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak) as group:
        for _ in range(2):
            pipe(**CASES[case].call(pipe), num_inference_steps=4, output_type="latent")
    # Not Wan's own transformer: its pipeline makes diffusers keep a registry in it, which refers to it in turn.
    parts = [weakref.ref(each) for each in (pipe, weak, *[pipe.transformer] * (case != "WanPipeline"))]
    del pipe, weak
    assert not any(each() for each in parts) and group.evaluations.weak == 6
