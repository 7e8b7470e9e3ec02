"""A pipeline's own sampling, of which the network evaluations are counted: what `method=None` attaches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .arm import Evaluations, parameters_of
from .calls import named_inputs
from .host import Host


class Counter:
    """Passes the calls of a pipeline's denoisers through untouched, and counts them.

    Args:
        host: the pipeline.
    """

    def __init__(self, host: Host):
        self.host = host
        self.evaluations = Evaluations()
        self._sizes: dict[nn.Module, int] = {}  # parameters of the networks
        self._seen: Tensor | None = None  # the denoiser's last input, until the step

    def restart(self) -> None:
        """A new loop begins."""

    def end(self) -> None:
        """Lets go of the pipeline. The evaluations stay."""
        self.host = Host(None, self.host.form, self.host.name)
        self._sizes.clear()
        self._seen = None

    def check_copy(self) -> None:
        """The scheduler may be copied: steps of the copy are counted too."""

    def answer(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        weak: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The network's own answer to a denoiser's call; see `Group.answer`.

        Raises:
            ValueError: only the scheduler's step shows how many videos there are, and it was replaced.
        """
        name, inputs = named_inputs(module, args, kwargs)
        x = inputs[name]
        twice = self.host.form.calls == "batch" and self.host.doubled()
        # A copy of the scheduler, as some pipelines make, is stepped through this counter too.
        if twice is None and self.host.replaced() and "step" not in vars(self.host.current_scheduler()):
            raise ValueError(
                f"the scheduler of {self.host.name} was replaced after `apply_reflection`, which counts the videos by"
                " its steps: set it before."
            )
        if twice is not None:  # else the scheduler's step shows how many videos there are
            self.evaluations.settle()
        if module not in self._sizes:
            self._sizes[module] = parameters_of(module)
        self.evaluations.videos = len(x) // 2 if twice else len(x)
        self.evaluations.add("strong", len(x), self._sizes[module])
        self._seen = x if isinstance(x, Tensor) else None
        return forward(*args, **kwargs)

    def step(self, scheduler_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's own step, whose latents show how many videos there are."""
        sample = inspect.signature(scheduler_step).bind(*args, **kwargs).arguments.get("sample")
        if self.host.doubled() is None:
            self.evaluations.videos = self._unflagged(sample) if isinstance(sample, Tensor) else 1
        elif isinstance(sample, Tensor) and self._several_branches(sample):  # more than its flag tells of
            self.evaluations.videos = len(sample)
        self.evaluations.settle()
        self._seen = None
        return scheduler_step(*args, **kwargs)

    def _several_branches(self, sample: Tensor) -> bool:
        """Whether the denoiser's rows are a multiple of the latents' rows."""
        x = self._seen
        if x is None or x.ndim != sample.ndim:
            return False
        return len(x) > len(sample) and len(x) % len(sample) == 0

    def _unflagged(self, sample: Tensor) -> int:
        """How many videos the latents of a step are, where no flag says how many the denoiser's rows are."""
        x = self._seen
        if x is not None and x.ndim == sample.ndim + 1:  # a row of the latents is a frame
            return sample.numel() // x[0].numel()
        if x is not None and x.ndim == sample.ndim and len(x) == len(sample) and self.host.form.flag is not None:
            # One branch; or the scheduler steps the rows of both, as in DiT's pipeline, which has no flag.
            both = len(x) % 2 == 0 and torch.equal(*x.chunk(2))
            return len(x) // 2 if both else len(x)
        return len(sample)
