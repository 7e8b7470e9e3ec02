"""A ControlNet under a method: its residuals are recomputed at every x at which an arm is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .inputs import parameters
from .outermost import OutermostHook


class ControlHook(OutermostHook):
    """Defers a ControlNet's call, so that its residuals are computed at the x at which an arm is evaluated.

    The pipeline gets a `Deferred` in place of the residuals and passes it to its denoiser, whose hook makes the call.

    Args:
        doubled: whether the pipeline guides; called at every step.
    """

    def __init__(self, doubled: Callable[[], bool] = lambda: True):
        super().__init__()
        self.doubled = doubled

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        names = parameters(type(unwrap_module(module)).forward)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        kind = type(unwrap_module(module)).__name__
        if names[0] != "sample":
            raise ValueError(
                f"{kind} is not supported under a method; the only ControlNets that are, are those of UNets. Use"
                " `method=None`."
            )
        if inputs.get("guess_mode") and self.doubled():
            raise ValueError(
                "`guess_mode` is not supported under a method, since it gives the unconditional branch no residuals."
                " Accepted: False, no guidance, or `method=None`."
            )
        x = inputs.pop(names[0])
        deferred = Deferred(self.evaluate, names[0], x.ndim, inputs)
        return deferred, deferred


@dataclass(frozen=True)
class Deferred:
    """A ControlNet's call, to be made later and with other latents."""

    controlnet: Callable[..., Any]
    x_name: str
    x_ndim: int  # 4 for images, 5 for videos
    inputs: dict[str, Any]

    def at_scale(self, scale: float | list[float] | None) -> dict[str, Any]:
        """The inputs with another conditioning scale; empty if it is 0, where the ControlNet has no effect.

        In steps outside of the ControlNet's own (`control_guidance_start`, `control_guidance_end`) the scale stays 0.
        """
        now = self.inputs["conditioning_scale"]
        current = now if isinstance(now, list) else [now]
        if scale is not None:
            scales = scale if isinstance(scale, list) else [scale] * len(current)
            current = [other * (each != 0) for other, each in zip(scales, current, strict=True)]
        if not any(current):
            return {}
        return {**self.inputs, "conditioning_scale": current if isinstance(now, list) else current[0]}

    def __call__(self, x: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        """The residuals at x (B, C, …), by the denoiser's argument names. Most ControlNets take frames as images."""
        x = x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 and self.x_ndim == 4 else x
        down, mid = self.controlnet(**{self.x_name: x}, **inputs)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
