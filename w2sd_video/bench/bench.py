"""The state that the benchmark's parts share: the device, the pair, the timing of steps, and the rows of results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median_high
from typing import Any

import torch

from ..errors import out_of_memory
from . import measure

GUIDANCE = {"guidance_scale": 3.0, "strong_guidance_scale": 3.0, "weak_guidance_scale": 1.0}
TIMED = 2  # timed steps per loop

Row = dict[str, Any]


class Skipped(Exception):
    """Raised by a part that cannot be measured on this machine, with the reason."""


@dataclass
class Bench:
    """The device, the sizes and the pair of all parts.

    Args:
        device: the device of networks and inputs.
        sizes: the videos' height and width in pixels; parts that measure at a single size use the first.
        frames: frames of a video.
        small: whether to use networks so narrow that a CPU runs them, to test that everything works.
        until: the time (`time.monotonic`) at which the run has to end.
    """

    device: torch.device
    sizes: tuple[int, ...]
    frames: int
    small: bool
    until: float
    rows: list[Row] = field(default_factory=list)  # of the current part
    dtype: torch.dtype = torch.bfloat16
    _pipe: Any = None
    _flops: dict[int, int | None] = field(default_factory=dict)

    def pipe(self) -> Any:
        """The shared pair in bfloat16 on the device. Parts must not change it."""
        if self._pipe is None:
            from . import models

            self._pipe = models.pair(self.device, self.dtype, self.small)
        return self._pipe

    def keep(self, pipe: Any) -> None:
        """Makes a pair that a part has built the shared one."""
        self._pipe = pipe

    def forget(self) -> None:
        """Releases the shared pair, for parts that need the memory or change it."""
        self._pipe = None
        measure.release(self.device)

    @cached_property
    def matrix_rates(self) -> dict[torch.dtype, float]:
        """TFLOP/s of a product of two large square matrices, by dtype."""
        types = [torch.bfloat16, torch.float16, torch.float32]
        return {dtype: measure.matrix_rate(self.device, dtype, self.product) for dtype in types}

    @property
    def product(self) -> int:
        """The width of the matrices in `matrix_rates`."""
        return 256 if self.small else 8192

    def flops(self, size: int) -> int | None:
        """FLOPs of one UNet evaluation for one branch of one video, counted by torch; None if that fails."""
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
        """The output of one call of the strong UNet on random inputs."""
        from . import models

        inputs = models.denoiser_inputs(pipe, size, self.frames, branches, self.device, pipe.unet.dtype)
        return pipe.unet(**inputs).sample

    def sample(self, pipe: Any, size: int, method: str | None = "w2sd", timed: int = TIMED, **call: Any) -> Row:
        """Times steps of the pipeline's loop with a method.

        The loop has `timed` steps between a first one, in which the device warms up, and the schedule's last one, which
        no method changes.

        Returns:
            Per timed step, the median `seconds` and the network `evaluations`; the `first` step's seconds; `peak_gib`
            of the loop; and the final `latents` in float32 on the CPU, which do not go into a row.
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
        """Times steps of any pipeline's loop; returns the same as `sample`.

        Args:
            call: the pipeline's arguments, except for steps, generator and output.
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
        took = [after - before for before, after in pairwise(ends)]
        counted = [after - before for before, after in pairwise(evaluations)]
        return {
            "seconds": median_high(took[1:-1]),
            "first": took[0],
            "evaluations": counted[1],
            "peak_gib": measure.peak(self.device),
            "latents": latents_after.float().cpu(),
        }

    def add(self, **row: Any) -> None:
        """Adds a row to the current part, without values that are None."""
        self.rows.append({name: value for name, value in row.items() if value is not None})

    @contextmanager
    def attempt(self, **row: Any) -> Iterator[Row]:
        """Adds a row that the body fills. If the body fails, the row holds the error, and the part continues."""
        error = None
        try:
            yield row
        except Exception as failure:
            error = "out of memory" if out_of_memory(failure) else measure.error_line(failure)
        if error:
            row = row | {"error": error}
        row.pop("latents", None)
        self.add(**row)
        if error:
            measure.release(self.device)

    def rated(self, row: Row, size: int) -> Row:
        """A row of `sample` with its TFLOP/s, also as a share of a large matrix product's."""
        if (flops := self.flops(size)) is None:
            return row
        rate = row["evaluations"] * flops / row["seconds"] / 1e12
        return row | {"tflops": rate, "of_product": rate / self.matrix_rates[self.dtype]}


def distances(latents: torch.Tensor, reference: torch.Tensor) -> Row:
    """The largest and the root mean square difference of latents from a reference, in units of the reference's rms."""
    scale = float(reference.square().mean().sqrt())
    apart = latents - reference
    return {"max_apart": float(apart.abs().max()) / scale, "rms_apart": float(apart.square().mean().sqrt()) / scale}


def named(dtype: torch.dtype) -> str:
    """The name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")
