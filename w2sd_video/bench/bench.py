"""What the parts of the benchmark have in common: the device, the pair, how steps are timed, and how rows are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..errors import out_of_memory
from . import measure

GUIDANCE = {"guidance_scale": 3.0, "strong_guidance_scale": 3.0, "weak_guidance_scale": 1.0}
TIMED = 2  # steps of a loop

Row = dict[str, Any]


class Skipped(Exception):
    """A part that cannot be measured here, with the reason."""


@dataclass
class Bench:
    """The device and the sizes that all parts measure at, and the pair that they have in common.

    Args:
        device: where everything is.
        sizes: pixels a side, of the videos; parts that measure at one size take the first.
        frames: of a video.
        small: networks so narrow that a CPU runs them: whether everything works, and not how fast it is.
        until: the clock's time (`time.monotonic`) at which the run is over.
    """

    device: torch.device
    sizes: tuple[int, ...]
    frames: int
    small: bool
    until: float
    rows: list[Row] = field(default_factory=list)  # of the part that runs
    dtype: torch.dtype = torch.bfloat16
    _pipe: Any = None
    _flops: dict[int, int | None] = field(default_factory=dict)

    def pipe(self) -> Any:
        """The pair in bfloat16, on the device, as the package holds it. Parts leave it as it is."""
        if self._pipe is None:
            from . import models

            self._pipe = models.pair(self.device, self.dtype, self.small)
        return self._pipe

    def keep(self, pipe: Any) -> None:
        """Takes a pair that another part has built."""
        self._pipe = pipe

    def forget(self) -> None:
        """Lets go of the pair, for parts that need the memory, or change it."""
        self._pipe = None
        measure.release(self.device)

    @cached_property
    def matrix_rates(self) -> dict[torch.dtype, float]:
        """TFLOP/s of a product of 8192x8192 matrices, by type."""
        types = [torch.bfloat16, torch.float16, torch.float32]
        return {dtype: measure.matrix_rate(self.device, dtype, self.product) for dtype in types}

    @property
    def product(self) -> int:
        """The width of the matrices that rates are compared with."""
        return 256 if self.small else 8192

    def flops(self, size: int) -> int | None:
        """FLOPs of one evaluation of a UNet for one branch of one video, as torch counts them; None if it cannot."""
        from torch.utils.flop_counter import FlopCounterMode

        if size not in self._flops:
            self._flops[size] = None
            with self.attempt(what="FLOPs of one evaluation", size=size) as row:
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    self.evaluate(self.pipe(), size, 1)
                self._flops[size] = counter.get_total_flops()
                row["tflop"] = counter.get_total_flops() / 1e12
        return self._flops[size]

    def evaluate(self, pipe: Any, size: int, branches: int = 2) -> torch.Tensor:
        """One call of the strong UNet."""
        from . import models

        inputs = models.denoiser_inputs(pipe, size, self.frames, branches, self.device, pipe.unet.dtype)
        return pipe.unet(**inputs).sample

    def sample(self, pipe: Any, size: int, method: str | None = "w2sd", timed: int = TIMED, **call: Any) -> Row:
        """Some steps of the pipeline's loop with a method: `timed` ones, between one before, in which the device warms
        up, and one after, the schedule's last, which no method changes.

        Returns:
            Of a step: `seconds`, the median; network `evaluations`; `peak_gib`; and `first`, the first one's seconds.
            And `latents`, the last ones in float32 on the CPU, which is no part of a row.
        """
        from . import models

        frames = call.pop("frames", self.frames)
        dtype = call.pop("dtype", self.dtype)
        side = size // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        random = torch.Generator("cpu").manual_seed(0)
        latents = torch.randn(1, pipe.unet.config.in_channels, frames, side, side, generator=random)
        of_method = {} if method is None else {**GUIDANCE, **call}
        return self.loop(
            pipe,
            timed,
            **models.embeddings(pipe, self.device, dtype),
            **{"guidance_scale": GUIDANCE["guidance_scale"], **of_method},
            method=method,
            height=size,
            width=size,
            num_frames=frames,
            latents=latents.to(self.device, dtype),
        )

    def loop(self, pipe: Any, timed: int, **call: Any) -> Row:
        """Some steps of any pipeline's loop, and what `sample` returns of them.

        Args:
            call: what the pipeline is called with, but for steps, noise and output.
        """
        ends: list[float] = []
        evaluations = [0]

        def ended(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            measure.synchronize(self.device)
            ends.append(time.perf_counter())
            evaluations.append(pipe.evaluations["total"])
            return tensors

        measure.synchronize(self.device)
        measure.start_peak(self.device)
        ends.append(time.perf_counter())
        latents_after = pipe(
            **call,
            num_inference_steps=timed + 2,
            generator=torch.Generator("cpu").manual_seed(1),
            output_type="latent",
            callback_on_step_end=ended,
        ).frames
        took = [after - before for before, after in zip(ends, ends[1:], strict=False)]
        counted = [after - before for before, after in zip(evaluations, evaluations[1:], strict=False)]
        middle = sorted(took[1:-1])
        return {
            "seconds": middle[len(middle) // 2],
            "first": took[0],
            "evaluations": counted[1],
            "peak_gib": measure.peak(self.device),
            "latents": latents_after.float().cpu(),
        }

    def add(self, **row: Any) -> None:
        """Notes a row of the part that runs. What is None is left out."""
        self.rows.append({name: value for name, value in row.items() if value is not None})

    @contextmanager
    def attempt(self, **row: Any) -> Iterator[Row]:
        """A row that the body fills; where it fails, the row says why, and the part goes on."""
        error = None
        try:
            yield row
        except Exception as failure:
            error = "out of memory" if out_of_memory(failure) else measure.said(failure)
        if error:
            row = row | {"error": error}
        row.pop("latents", None)
        self.add(**row)
        if error:
            measure.release(self.device)

    def rated(self, row: Row, size: int) -> Row:
        """A row of `sample` with its rate of matrix products, and that as a share of a large product's."""
        if (flops := self.flops(size)) is None:
            return row
        rate = row["evaluations"] * flops / row["seconds"] / 1e12
        return row | {"tflops": rate, "of_product": rate / self.matrix_rates[self.dtype]}


def distances(latents: torch.Tensor, reference: torch.Tensor) -> Row:
    """How far latents are from others, as shares of these ones' root mean square: the largest, and the rms."""
    scale = float(reference.square().mean().sqrt())
    apart = latents - reference
    return {"max_apart": float(apart.abs().max()) / scale, "rms_apart": float(apart.square().mean().sqrt()) / scale}


def named(dtype: torch.dtype) -> str:
    """A type's name, without torch's."""
    return str(dtype).removeprefix("torch.")
