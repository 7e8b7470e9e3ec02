"""The base of the hooks here: a hook that stays the outermost while hooks beneath it are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.hooks import ModelHook
from torch import nn


class OutermostHook(ModelHook):
    """A hook with a `new_forward` that survives the removal of the hook beneath it.

    When diffusers' registry removes a hook, it gives what that hook wrapped to the next hook in place of that hook's
    own forward, so a hook with a `new_forward` is lost. It happens during a call: with streams, group offload has a
    hook that removes itself in the network's first evaluation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fn_ref: Any = None  # the registry sets it
        self.network: Any = None
        self._own: Any = None

    def registered(self, network: nn.Module) -> None:
        """To be called when the hook is in the network's registry, before it is used."""
        self.network, self._own = network, self.fn_ref.forward

    def removed(self) -> None:
        """To be called when the hook has left the registry: it lets go of the network, which it refers to in a circle
        that would keep the network in memory."""
        self.network = self._own = self.fn_ref = None

    def restore(self) -> None:
        """Puts this hook back on top, if the registry replaced it."""
        if self.fn_ref.forward is not self._own:
            self.fn_ref.original_forward, self.fn_ref.forward = self.fn_ref.forward, self._own

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.restore()  # a hook may have been removed between two calls
        return args, kwargs

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward without this hook."""
        try:
            return self._run(self.fn_ref.original_forward, *args, **kwargs)
        finally:
            self.restore()

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)
