"""The hook on a pipeline's denoiser, which hands each call to the pipeline's group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch import nn

from ..arms import switched
from .group import Group


class DenoiserHook(ModelHook):
    """Answers one denoiser's calls for its group.

    Networks may be compiled before or after, by `network.compile()`, `torch.compile(network)` or, block by block,
    `network.compile_repeated_blocks()`.

    Args:
        group: the pipeline's.
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
        """The network itself, compiled if `module.compile()` was called: then its forward is, and not the method's."""
        forward = self.fn_ref.original_forward
        if self.compiled is None:
            return forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with switched([(vars(module), "forward", forward)]):
                return self.compiled(*args, **kwargs)

        return run
