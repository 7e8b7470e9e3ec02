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
        """The scheduler's own step. Its latents show how many videos there are: of all rows of the denoiser, which may
        be of more than two branches."""
        sample = inspect.signature(scheduler_step).bind(*args, **kwargs).arguments.get("sample")
        if (videos := self._stepped(sample)) is not None:
            self.evaluations.videos = videos
        self.evaluations.settle()
        self._seen = None
        return scheduler_step(*args, **kwargs)

    def _stepped(self, sample: Any) -> int | None:
        """How many videos the latents of a step are. None: it is known as well by what the pipeline says."""
        x, says = self._seen, self.host.doubled() is not None
        if not isinstance(sample, Tensor):
            return None if says else 1
        if x is None or x.ndim != sample.ndim:
            as_rows = x is not None and x.ndim == sample.ndim + 1  # a video's frames
            return None if says else sample.numel() // x[0].numel() if x is not None and as_rows else len(sample)
        if len(x) == len(sample):  # one branch; or both branches' rows are stepped, as by DiT, which has no flag
            both = self.host.form.flag is not None and len(x) % 2 == 0 and torch.equal(*x.chunk(2))
            return None if says else len(x) // 2 if both else len(x)
        return len(sample) if not says or len(x) % len(sample) == 0 else None
