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
        self._seen: torch.Size | None = None  # the shape of the denoiser's last input

    def restart(self) -> None:
        """A new loop begins."""

    def end(self) -> None:
        """Lets go of the pipeline. The evaluations stay."""
        self.host = Host(None, self.host.form, self.host.name)
        self._sizes.clear()

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
        """The network's own answer to a denoiser's call; see `Group.answer`."""
        name, inputs = named_inputs(module, args, kwargs)
        x = inputs[name]
        twice = self.host.form.calls == "batch" and self.host.doubled()
        if twice is not None:  # else the scheduler's step shows how many videos there are
            self.evaluations.settle()
        if module not in self._sizes:
            self._sizes[module] = parameters_of(module)
        self.evaluations.videos = len(x) // 2 if twice else len(x)
        self.evaluations.add("strong", len(x), self._sizes[module])
        self._seen = x.shape if isinstance(x, Tensor) else None
        return forward(*args, **kwargs)

    def step(self, scheduler_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's own step. Its latents show how many videos there are, where the pipeline does not say it."""
        sample = inspect.signature(scheduler_step).bind(*args, **kwargs).arguments.get("sample")
        self.evaluations.videos = len(sample) if isinstance(sample, Tensor) else 1
        if isinstance(sample, Tensor) and self._seen is not None and len(self._seen) == sample.ndim + 1:
            self.evaluations.videos = sample.numel() // self._seen[1:].numel()  # frames are stepped as rows
        self.evaluations.settle()
        return scheduler_step(*args, **kwargs)
