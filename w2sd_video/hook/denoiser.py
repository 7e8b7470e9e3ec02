"""The hook on a pipeline's denoiser, which passes each call to the pipeline's group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..arms import switched
from .counter import Counter
from .group import Group
from .outermost import OutermostHook


class DenoiserHook(OutermostHook):
    """Passes one denoiser's calls to its pipeline's group, or without a method its counter, which answers them.

    Networks may be compiled before or after the hook is attached, by `network.compile()`, `torch.compile(network)` or,
    block by block, `network.compile_repeated_blocks()`.

    Args:
        group: the pipeline's group or counter.
        weak: the weak arm's network. None: the denoiser itself.
    """

    def __init__(self, group: Group | Counter, weak: nn.Module | None = None):
        super().__init__()
        self.group = group
        self.weak = weak
        self.compiled: Any = None

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.group.answer(module, self.evaluate, self.weak, args, kwargs)

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's own forward; the compiled one after `module.compile()`, so that the method is not compiled."""
        if self.compiled is None:
            return forward(*args, **kwargs)
        with switched([(vars(self.network), "forward", forward)]):
            return self.compiled(*args, **kwargs)
