"""The parts of the benchmark: each measures one thing together with its baseline.

A part adds rows to its benchmark. A row that runs out of memory, or cannot be measured on this device, holds the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import plugins
from ..methods import METHODS
from . import measure
from .bench import TIMED, Bench, Row, distances, named
from .measure import seconds


def card(bench: Bench) -> None:
    """The device's best rates: a large matrix product by dtype, and a copy."""
    for dtype, rate in bench.matrix_rates.items():
        bench.add(what=f"product {bench.product}^3, {named(dtype)}", tflops=rate)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rate = measure.matrix_rate(bench.device, torch.float32, bench.product)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    bench.add(what=f"product {bench.product}^3, float32 by TF32", tflops=rate)
    bench.add(what="copy on the device", tb_per_second=measure.copy_rate(bench.device, 2**22 if bench.small else 2**30))


def memory(bench: Bench) -> None:
    """The memory of the weights of one model, of two, and of two that share tensors, and the peak of a step of each."""
    from . import models

    bench.forget()
    size = bench.sizes[0]
    kinds = {
        "one model": {"weak": False},
        "two models": {"shared": False},
        "two models, one motion module": {"shared": True},
    }
    pipe: Any
    for what, kind in kinds.items():
        with bench.attempt(what=what, size=size) as row:
            before = measure.held(bench.device) or 0.0
            pipe = models.pair(bench.device, bench.dtype, bench.small, **kind)
            row["weights_gib"] = _weights(pipe.components.values())
            held = measure.held(bench.device)
            row["held_gib"] = None if held is None else held - before
            for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
                row[f"{name}_gib"] = _weights([getattr(pipe, name)]) if what == "one model" else None
            row["peak_gib"] = bench.sample(pipe, size, timed=1)["peak_gib"]
            bench.keep(pipe if what == list(kinds)[-1] else None)
        pipe = None
        measure.release(bench.device)


def steps(bench: Bench) -> None:
    """Steps without a method, with W2SD and with each other method: seconds, TFLOP/s and peak memory."""
    plain: dict[int, float] = {}
    others = [name for name in (*METHODS, *plugins.names("method", METHODS)) if name != "w2sd"]
    plans: list[tuple[str, str | None, dict[str, Any]]] = [
        ("plain", None, {}),
        ("w2sd", "w2sd", {}),
        ("w2sd, both arms at guidance 1", "w2sd", {"strong_guidance_scale": 1.0}),
    ]
    first = [(size, plan) for size in bench.sizes for plan in plans]
    later: list[Any] = [(size, (name, name, {})) for size in bench.sizes for name in others]
    for size, (what, method, call) in [*first, *later]:
        with bench.attempt(what=what, size=size) as row:
            timed = TIMED if method in (None, "w2sd") else 1
            row |= bench.rated(bench.sample(bench.pipe(), size, method, timed, **call), size)
            plain[size] = row["seconds"] if what == "plain" else plain.get(size, float("nan"))
            if plain[size] == plain[size]:
                row["of_plain"] = row["seconds"] / plain[size]
            row.pop("first")


def precision(bench: Bench) -> None:
    """Latents after some steps in bfloat16, float16 and float32 by TF32, compared with float32 with equal weights."""
    from . import models

    bench.forget()
    size, frames = min(bench.sizes), min(bench.frames, 8)
    pipe = models.pair(bench.device, bench.dtype, bench.small)
    references: dict[str | None, Row] = {}
    kinds = [("float32", torch.float32), ("float32 by TF32", torch.float32), ("bfloat16", torch.bfloat16)]
    kinds += [("float16", torch.float16)]
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    pipe.to(dtype=torch.float32)  # float32 holds the weights' bfloat16 values exactly, float16 all but the smallest
    try:
        for what, dtype in kinds:
            tf32 = what.endswith("TF32")
            if tf32 and bench.device.type != "cuda":
                continue
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            pipe.to(dtype=dtype)
            for method in (None, "w2sd"):
                with bench.attempt(what=f"{what}, {method or 'plain'}", size=size, frames=frames) as row:
                    row |= bench.sample(pipe, size, method, frames=frames, dtype=dtype)
                    latents = row["latents"]
                    row.pop("first")
                    if what == "float32":
                        references[method] = row | {"latents": latents}
                    elif method in references:
                        row |= distances(latents, references[method]["latents"])
                        row["of_float32"] = row["seconds"] / references[method]["seconds"]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def decode(bench: Bench) -> None:
    """The autoencoder's decoding of a video, in chunks of several sizes."""
    vae = bench.pipe().vae
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    for size in bench.sizes:
        one = float("nan")
        random = torch.Generator(bench.device).manual_seed(3)
        shape = (bench.frames, vae.config.latent_channels, size // scale, size // scale)
        latents = torch.randn(shape, generator=random, device=bench.device).to(bench.dtype)

        def run(chunk: int, latents: torch.Tensor = latents) -> None:
            for part in latents.split(chunk):
                vae.decode(part).sample.cpu()

        for chunk in sorted({1, min(4, bench.frames), bench.frames}):
            with bench.attempt(what=f"{chunk} frames at a time", size=size) as row, torch.no_grad():
                measure.start_peak(bench.device)
                row["seconds"] = seconds(lambda chunk=chunk: run(chunk), bench.device, repeats=2)  # type: ignore[misc]
                row["peak_gib"] = measure.peak(bench.device)
                one = row["seconds"] if chunk == 1 else one
                row["of_one"] = row["seconds"] / one


def attention(bench: Bench) -> None:
    """One UNet call for both branches, by attention kernel, and with the channels-last memory format."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    efficient = SDPBackend.EFFICIENT_ATTENTION
    kernels = {  # in order of preference, since some do not support the motion module's heads
        "flash, else memory-efficient": [SDPBackend.FLASH_ATTENTION, efficient],
        "cuDNN, else memory-efficient": [SDPBackend.CUDNN_ATTENTION, efficient],
        "memory-efficient": [efficient],
        "math": [SDPBackend.MATH],
    }
    size, usual = bench.sizes[0], float("nan")

    def timed(row: Row) -> None:
        measure.start_peak(bench.device)
        row["seconds"] = seconds(lambda: bench.evaluate(bench.pipe(), size), bench.device)
        row["peak_gib"] = measure.peak(bench.device)
        row["of_default"] = row["seconds"] / usual if usual == usual else None

    with torch.no_grad():
        with bench.attempt(what="torch's choice", size=size) as row:
            timed(row)
            usual = row["seconds"]
        for what, kernel in kernels.items():
            with bench.attempt(what=what, size=size) as row, sdpa_kernel(kernel, set_priority=True):
                timed(row)
        with bench.attempt(what="torch's choice, channels last", size=size) as row:
            unet = bench.pipe().unet
            try:
                unet.to(memory_format=torch.channels_last)
                timed(row)
            finally:
                unet.to(memory_format=torch.contiguous_format)


def offload(bench: Bench) -> None:
    """A step of W2SD with the weights on the device, in fp8 with layerwise casting, and streamed from the host."""
    from . import models

    bench.forget()
    size, resident = bench.sizes[0], float("nan")
    reference: torch.Tensor | None = None

    def cast(pipe: Any) -> None:
        for unet in (pipe.unet, pipe.weak_unet):
            unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=bench.dtype)

    def streamed(pipe: Any, **kind: Any) -> None:
        stream = {"use_stream": True} if bench.device.type == "cuda" else {}
        pipe.enable_group_offload(onload_device=bench.device, **kind, **stream)

    ways: dict[str, tuple[bool, Callable[[Any], None]]] = {
        "on the device": (True, lambda pipe: None),
        "fp8 layerwise casting": (True, cast),
        "group offload, streamed by leaves": (False, lambda pipe: streamed(pipe, offload_type="leaf_level")),
        "group offload, streamed by blocks": (
            False,
            lambda pipe: streamed(pipe, offload_type="block_level", num_blocks_per_group=1),
        ),
    }
    pipe: Any
    for what, (on_device, change) in ways.items():
        with bench.attempt(what=what, size=size) as row:
            pipe = models.pair(bench.device, bench.dtype, bench.small)
            if not on_device:
                pipe.to("cpu")
                measure.release(bench.device)
            change(pipe)
            row |= bench.sample(pipe, size, timed=1)
            held = measure.held(bench.device)
            row["held_gib"], row["of_resident"] = held, row["seconds"] / resident if resident == resident else None
            row.pop("first")
            if reference is None:
                reference, resident = row["latents"], row["seconds"]
            else:
                row |= distances(row["latents"], reference)
        pipe = None
        measure.release(bench.device)


def compiled(bench: Bench) -> None:
    """Steps with the repeated blocks compiled (`compile_repeated_blocks`), compared with the same steps uncompiled."""
    import torch._dynamo

    config: Any = torch._dynamo.config  # the same code is compiled once for each width of the blocks: raise the limit
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    before = getattr(config, name)
    size = bench.sizes[0]
    pipe = bench.pipe()
    eager: dict[str | None, Row] = {}
    plans: list[str | None] = [None, "w2sd"]
    for method in plans:
        with bench.attempt(what=f"{method or 'plain'}, eager", size=size) as row:
            row |= eager.setdefault(method, bench.sample(pipe, size, method))
            row.pop("first")
    try:
        setattr(config, name, 64)
        for unet in (pipe.unet, pipe.weak_unet):
            unet.compile_repeated_blocks()
        for method in plans:
            with bench.attempt(what=f"{method or 'plain'}, compiled blocks", size=size) as row:
                row |= bench.sample(pipe, size, method)
                row["compiling"] = row.pop("first") - row["seconds"]
                if method in eager:
                    row["of_eager"] = row["seconds"] / eager[method]["seconds"]
                    row |= distances(row["latents"], eager[method]["latents"])
    finally:
        setattr(config, name, before)
        del pipe
        bench.forget()
        measure.forget_compiled()


def vbench(bench: Bench) -> None:
    """Seconds per video of VBench's six dimensions, by the official functions and by ours, with the same weights."""
    from . import vbench

    vbench.compare(bench)


def wan(bench: Bench) -> None:
    """Steps of Wan 2.1, 14 billion parameters with 1.3 billion as the weak arm, and their memory."""
    from .transformers import PAIRS, measured

    measured(bench, PAIRS["wan"])


def ltx(bench: Bench) -> None:
    """Steps of LTX-Video, 2 billion parameters in both arms, and their memory."""
    from .transformers import PAIRS, measured

    measured(bench, PAIRS["ltx"])


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {  # in order of importance, with their most seconds
    "card": (card, 15),
    "memory": (memory, 40),
    "steps": (steps, 90),
    "precision": (precision, 45),
    "decode": (decode, 30),
    "attention": (attention, 30),
    "offload": (offload, 60),
    "compiled": (compiled, 120),
    "vbench": (vbench, 90),
    "wan": (wan, 180),
    "ltx": (ltx, 60),
}


def _weights(modules: Any) -> float:
    """GiB of the parameters of some modules, each counted once."""
    held = {
        id(p): p.numel() * p.element_size() for m in modules if isinstance(m, torch.nn.Module) for p in m.parameters()
    }
    return sum(held.values()) / measure.GIB
