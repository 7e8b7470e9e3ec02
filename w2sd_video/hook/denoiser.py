"""The hook on a pipeline's denoiser, which passes each call to the pipeline's group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch import nn

from ..arms import switched
from .group import Group


class DenoiserHook(ModelHook):
    """Passes one denoiser's calls to its group, which answers them.

    Networks may be compiled before or after the hook is attached, by `network.compile()`, `torch.compile(network)` or,
    block by block, `network.compile_repeated_blocks()`.

    Args:
        group: the pipeline's group.
        weak: the weak arm's network. None: the denoiser itself.
    """

    def __init__(self, group: Group, weak: nn.Module | None = None):
        super().__init__()
        self.group = group
        self.weak = weak
        self.compiled: Any = None

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.group.answer(module, self._evaluation(module), self.weak, args, kwargs)

    def _evaluation(self, module: nn.Module) -> Callable[..., Any]:
        """The network's own forward; the compiled one after `module.compile()`, so that the method is not compiled."""
        forward = self.fn_ref.original_forward
        if self.compiled is None:
            return forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with switched([(vars(module), "forward", forward)]):
                return self.compiled(*args, **kwargs)

        return run
