"""Which layers of transformers the methods that perturb layers count, and which they refuse before a network runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import any_cases_edit
import any_cases_image
import any_cases_unet
import any_cases_video
import pytest
import tiny
import torch
from any_pipeline import CASES, network, sample
from diffusers.models.embeddings import IPAdapterPlusImageProjection, MultiIPAdapterImageProjection
from test_transformer_families import LARGER, family
from torch import Tensor, nn

from w2sd_video.arms import identity_attention, transformer_blocks
from w2sd_video.hook import apply_reflection
from w2sd_video.methods import PerturbedAttentionGuidance, S2Guidance

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

assert all((any_cases_edit, any_cases_image, any_cases_unet, any_cases_video))  # which fill `CASES`
WITH_TEXT_BLOCKS = ("HunyuanVideoPipeline", "Lumina2Pipeline", "Krea2Pipeline")


class Enough(Exception):
    """Raised after a first step."""


def stop() -> None:
    raise Enough


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value.clone()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from tensors_of(part)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow_unless(case=lambda name: name in WITH_TEXT_BLOCKS)
def test_the_blocks_that_layers_count_see_the_latents(name):
    """Other latents alone give every block other inputs."""
    case = CASES[name]
    pipe = case.build(0)
    module = getattr(pipe, case.denoiser)
    told: list[tuple[Any, dict[str, Any]]] = []
    handle = module.register_forward_pre_hook(lambda _, *given: told.append(copy.deepcopy(given)), with_kwargs=True)
    with pytest.raises(Enough):
        sample(pipe, case, stop)
    handle.remove()
    args, inputs = told[0]
    seen: dict[str, list[list[Tensor]]] = {}
    for each, block in transformer_blocks(module).items():
        block.register_forward_pre_hook(
            lambda _, *given, each=each: seen.setdefault(each, []).append(list(tensors_of(given))), with_kwargs=True
        )
    x_name = next((n for n in ("hidden_states", "sample", "x") if n in inputs), "")
    x = args[0] if args else inputs.pop(x_name)
    other = [each + 1 for each in x] if isinstance(x, list) else x + 1
    for latents in (x, other):
        rest = copy.deepcopy(inputs)
        module(latents, *args[1:], **rest) if args else module(**{x_name: latents}, **rest)
    for each, calls in seen.items():
        first, second = calls[: len(calls) // 2], calls[len(calls) // 2 :]
        pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
        assert any(not torch.equal(a, b) for a, b in pairs), each


def test_the_blocks_of_an_ip_adapter_s_projection_are_not_the_network_s():
    unet = tiny.unet2d()
    before = list(transformer_blocks(unet))
    sizes = {"embed_dims": 8, "output_dims": 8, "hidden_dims": 8, "depth": 1, "dim_head": 4, "heads": 2}
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([IPAdapterPlusImageProjection(**sizes)])
    assert list(transformer_blocks(unet)) == before


HUNYUAN = family("HunyuanVideoPipeline", LARGER["HunyuanVideoPipeline"])
DEEPER = {**HUNYUAN.config, "num_refiner_layers": 2, "num_layers": 2, "num_single_layers": 2}


def test_s2_guidance_draws_from_the_blocks_of_hunyuan_video_without_its_text_refiner():
    pipe = HUNYUAN.pipeline(transformer=network(HUNYUAN.kind, **DEEPER)(0))
    names = [f"{stack}.{i}" for stack in ("transformer_blocks", "single_transformer_blocks") for i in range(2)]
    assert list(transformer_blocks(pipe.transformer)) == names
    drawn = {each for i in range(12) for each in S2Guidance(drop=0.1).perturbed(i, names)}
    assert drawn == set(names[1:])
    steps = sample(pipe, replace(HUNYUAN.of(pipe, method="s2_guidance", drop=0.1), steps=12))[1]
    assert len(steps) == 12 and torch.isfinite(steps[-1]).all()
    assert pipe.evaluations["weak"] == 12


@dataclass(frozen=True)
class Late(S2Guidance):
    """It chooses a layer that the network does not have in its third step alone."""

    def perturbed(self, index: int, layers: Sequence[str]) -> list[str]:
        if index == 2:
            raise ValueError("there is no layer 'late'")
        return super().perturbed(index, layers)


def failing(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: pytest.fail("a network ran"))


@pytest.mark.parametrize("here", [True, False], ids=["a family here", "apply_reflection"])
def test_a_layer_that_only_a_later_step_chooses_is_refused_before_a_network_runs(here, monkeypatch):
    of = family("WanPipeline", LARGER["WanPipeline"])
    pipe = of.pipeline(transformer=of.weak()) if here else CASES["WanPipeline"].build(0)
    pipe.transformer = of.weak()  # of two blocks
    failing(pipe.transformer.blocks[0], monkeypatch)
    with pytest.raises(ValueError, match="there is no layer 'late'"):
        if here:
            sample(pipe, of.of(pipe, method=Late()))
        else:
            with apply_reflection(pipe, Late()):
                sample(pipe, CASES["WanPipeline"])


# PAG

JOINT = "takes more than the latents' tokens, for which no identity map is defined"


@pytest.mark.parametrize(
    "case, layer, says",
    [
        ("CogVideoXPipeline", 0, f"the layer 'transformer_blocks.0' is a Attention that {JOINT}"),
        ("HunyuanVideoPipeline", 0, f"the layer 'transformer_blocks.0' is a Attention that {JOINT}"),
        ("HunyuanVideoPipeline", 1, f"the layer 'single_transformer_blocks.0' is a Attention that {JOINT}"),
        (
            "FluxPipeline",
            1,
            "'single_transformer_blocks.0' is a FluxSingleTransformerBlock, which has no self-attention",
        ),
    ],
)
def test_pag_refuses_blocks_of_texts_and_latents_before_a_network_runs(case, layer, says, monkeypatch):
    of = family(case, LARGER[case])
    pipe = of.pipeline()
    failing(pipe.transformer, monkeypatch)
    with pytest.raises(ValueError, match=says):
        sample(pipe, of.of(pipe, method="pag", layers=layer))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow_unless(
    case=lambda name: name in ("WanPipeline", "Krea2Pipeline", "CogView4Pipeline", "AuraFlowPipeline")
)
def test_pag_runs_through_or_is_refused_by_name_before_a_network_runs(name):
    """By each block in turn: none ends in an error of torch's."""
    case = CASES[name]
    pipe = case.build(0)
    module = getattr(pipe, case.denoiser)
    for each in transformer_blocks(module):
        with apply_reflection(pipe, PerturbedAttentionGuidance(layers=each, reflection_steps=1)) as group:
            try:
                sample(pipe, case)
            except ValueError as error:
                assert f"the layer {each!r} is a" in str(error) and not group.evaluations.strong


def test_pag_refuses_single_streams_and_heads_that_share_values():
    for name, says in (("AuraFlowPipeline", JOINT), ("Krea2Pipeline", "whose heads share their values")):
        blocks = transformer_blocks(CASES[name].build(0).transformer)
        last = list(blocks)[-1]
        with pytest.raises(ValueError, match=says):
            identity_attention({last: blocks[last]})
