"""Parts that measure pairs of video transformers at their true size, with random weights: Wan 2.1 and LTX-Video.

The number of parameters does not tell how much faster a smaller weak arm is, since attention's share of the time also
changes. So each arm is timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..hook import parameters_of
from ..models import sizes
from . import measure
from .bench import Bench, Skipped

RESERVE = 6 * measure.GIB  # bytes besides the weights, for activations of one evaluation and the device's context


@dataclass(frozen=True)
class Pair:
    """A pair at its true size.

    Args:
        family: the name of the pipeline's class in `pipelines`.
        strong, weak: class and configuration of the transformers, as in `models.sizes.PUBLISHED`.
        call: height, width, frames and guidance.
        scheduler: class and arguments.
        tokens: tokens of the text embeddings.
        width: the key of the text embeddings' width in the transformers' configuration.
        masked: whether the text embeddings have an attention mask.
        small, small_call: replacements in the configuration of both transformers, and in `call`, for a CPU.
    """

    family: str
    strong: dict[str, Any]
    weak: dict[str, Any]
    call: dict[str, Any]
    scheduler: dict[str, Any]
    tokens: int
    width: str
    masked: bool = False
    small: dict[str, Any] = field(default_factory=dict)
    small_call: dict[str, Any] = field(default_factory=dict)

    def narrow(self) -> Pair:
        """The same classes, so narrow that a CPU runs them, with fewer layers in the weak one."""
        of = {name: config | self.small for name, config in (("strong", self.strong), ("weak", self.weak))}
        return replace(
            self, strong=of["strong"] | {"num_layers": 3}, weak=of["weak"] | {"num_layers": 1}, tokens=4,
            call=self.call | self.small_call,
        )  # fmt: skip


FLOW = {"class": "FlowMatchEulerDiscreteScheduler"}
PAIRS = {
    "wan": Pair(
        "W2SDWanPipeline",
        sizes.PUBLISHED["Wan-AI/Wan2.1-T2V-14B-Diffusers"]["transformer"],
        sizes.PUBLISHED["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]["transformer"],
        {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0},
        {
            "class": "UniPCMultistepScheduler",
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
        },
        512,
        "text_dim",
        small={"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 16, "text_dim": 8, "freq_dim": 16},
        small_call={"height": 32, "width": 32, "num_frames": 5},
    ),
    "ltx": Pair(
        "W2SDLTXPipeline",
        sizes.PUBLISHED["Lightricks/LTX-Video"]["transformer"],
        sizes.PUBLISHED["Lightricks/LTX-Video"]["transformer"],
        {"height": 480, "width": 704, "num_frames": 161, "guidance_scale": 3.0},
        FLOW | {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05},
        128,
        "caption_channels",
        masked=True,
        small={"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 8},
        small_call={"height": 64, "width": 64, "num_frames": 9},
    ),
}


def measured(bench: Bench, pair: Pair) -> None:
    """Adds rows for the weights, and for a step of plain sampling, of the weak arm alone, and of W2SD.

    Raises:
        Skipped: the device has too little memory; says how much the pair takes.
    """
    bench.forget()
    pair = pair.narrow() if bench.small else pair
    check_memory(bench.device, pair, bench.dtype)
    pipe = build(pair, bench.device, bench.dtype)
    call = pair.call | texts(pair, bench.device, bench.dtype)
    try:
        counts = {name: parameters_of(getattr(pipe, name)) for name in ("transformer", "weak_transformer")}
        share = counts["weak_transformer"] / counts["transformer"]
        for name, count in counts.items():
            bench.add(what=name, parameters=count, weights_gib=count * bench.dtype.itemsize / measure.GIB)
        plain = once = float("nan")
        arms = {"strong_guidance_scale": 1.0, "weak_guidance_scale": 1.0}
        ways: dict[str, dict[str, Any]] = {
            "plain": {"method": None},
            "weak arm alone": {"method": "weak", "weak_guidance_scale": 1.0},
            "w2sd": {"method": "w2sd", **arms},
        }
        for what, way in ways.items():
            with bench.attempt(what=what, frames=pair.call["num_frames"]) as row:
                row |= bench.loop(pipe, 1, **call, **way)
                row.pop("first")
                if what == "plain":
                    plain, once = row["seconds"], row["seconds"] / row["evaluations"]
                elif what == "weak arm alone":  # its one evaluation, relative to one of the strong network
                    row["of_strong"], row["of_strong_by_parameters"] = row["seconds"] / once, share
                row["of_plain"] = row["seconds"] / plain if plain == plain else None
    finally:
        del pipe
        measure.release(bench.device)


def check_memory(device: torch.device, pair: Pair, dtype: torch.dtype, free: int | None = None) -> None:
    """Refuses a pair that does not fit into the device's memory, before it is built.

    Args:
        free: free memory in bytes. Default: read from a CUDA device; other devices are not checked.

    Raises:
        Skipped: the pair does not fit; says how much it takes.
    """
    if free is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    weights = dtype.itemsize * sizes.total({"strong": sizes.built(pair.strong), "weak": sizes.built(pair.weak)})
    if free is not None and free < weights + RESERVE:
        raise Skipped(
            f"{pair.family} takes {(weights + RESERVE) / 1e9:.0f} GB of memory, {weights / 1e9:.0f} of them for the"
            f" weights of both arms, and {device} has {free / 1e9:.0f} GB free"
        )


def build(pair: Pair, device: torch.device, dtype: torch.dtype) -> Any:
    """The pair's pipeline with random transformers on the device, without text encoders and autoencoder."""
    import diffusers

    from .. import pipelines
    from .models import random_weights

    def network(config: dict[str, Any], seed: int) -> Any:
        kind = getattr(diffusers, config["class"])
        rest = {name: value for name, value in config.items() if name != "class"}
        return random_weights(lambda: kind.from_config(rest), device, dtype, seed)

    settings = {name: value for name, value in pair.scheduler.items() if name != "class"}
    parts = {"tokenizer": None, "text_encoder": None, "vae": None}
    parts["scheduler"] = getattr(diffusers, pair.scheduler["class"])(**settings)
    of_two = {"transformer": network(pair.strong, 1), "weak_transformer": network(pair.weak, 2)}
    pipe = getattr(pipelines, pair.family)(**parts, **of_two)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def texts(pair: Pair, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random text embeddings for one video, (1, tokens, width), as arguments of a call."""
    random = torch.Generator(device).manual_seed(7)
    shape = (1, pair.tokens, pair.strong[pair.width])
    inputs = {
        name: torch.randn(shape, generator=random, device=device).to(dtype) / math.sqrt(shape[-1])
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    if pair.masked:
        mask = torch.ones(shape[:2], device=device)
        inputs |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return inputs
