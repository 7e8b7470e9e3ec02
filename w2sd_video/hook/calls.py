"""Reads a denoiser's call: its latents, the inputs beside them, its time, and which parts of the latents move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..arms import without_peft
from ..levels import Axes, full_precision
from .control import Deferred
from .inputs import TIMES, copied, parameters
from .sent import Latents
from .tape import value

# Residuals computed from x_t outside the denoiser: at x_s and x~_t they are stale. A `ControlHook` defers those of a
# UNet's ControlNet.
STALE_UNDER_REFLECTION = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)

Refuse = Callable[[str], NoReturn]  # raises the error; the text completes "the pipeline …", as "hands its denoiser …"


@dataclass
class Call:
    """One call of a denoiser: its inputs as they came, and the networks that can answer it.

    Args:
        module: the denoiser.
        forward: the denoiser's forward without the hook.
        weak: the weak arm's network. None: the denoiser itself.
        x: (rows, …), the latents in its input, in full precision.
        latents: the argument that they came in.
        inputs: the other arguments, by name.
        control: a deferred call of a ControlNet, if there is one.
        learned_sigma: whether the network predicts a variance too, in as many channels again.
    """

    module: nn.Module
    forward: Callable[..., Any]
    weak: nn.Module | None
    x: Tensor
    latents: Latents
    inputs: dict[str, Any]
    control: Deferred | None
    learned_sigma: bool

    @property
    def answer_shape(self) -> torch.Size:
        """The shape of what the network returns."""
        shape = self.x.shape
        return torch.Size((shape[0], 2 * shape[1], *shape[2:])) if self.learned_sigma else shape


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the argument with the latents, and all arguments by name."""
    names = parameters(type(without_peft(unwrap_module(module))).forward)
    return names[0], {**dict(zip(names, args, strict=False)), **kwargs}


def read_call(
    module: nn.Module,
    forward: Callable[..., Any],
    weak: nn.Module | None,
    name: str,
    inputs: dict[str, Any],
    *,
    axis: int | None,
    refuse: Refuse,
) -> Call:
    """Reads a denoiser's call.

    Args:
        name: the name of the argument with the latents.
        inputs: all arguments by name.
        axis: the axis along which something may follow the latents; see `Form`.

    Raises:
        ValueError: the input is not one tensor of latents, or holds more than latents in an unknown layout.
    """
    inputs = copied(inputs)  # FLUX puts another picture into the same dictionary for its second call
    x = inputs.pop(name)
    listed = isinstance(x, list) and len(x) > 0 and all(isinstance(each, Tensor) for each in x)
    if listed and any(each.shape != x[0].shape for each in x):
        refuse("hands its denoiser latents of several sizes at once")
    x = torch.stack(x) if listed else x
    if not isinstance(x, Tensor):
        refuse(f"hands its denoiser a {type(x).__name__} where others hand one tensor of latents")
    taken, predicted = channels(module)
    beside = None
    if axis is not None and predicted is not None and x.ndim > 1:
        less = predicted < (x.shape[axis] if axis != 1 or taken is None else taken)
        if less and x.shape[axis] != taken and axis == 1:
            raise ValueError(
                f"{type(unwrap_module(module)).__name__} takes {taken} channels and predicts {predicted}, but the"
                f" second axis of its input has length {x.shape[1]}: where the latents lie in it is not known, which is"
                " not supported under a method. Use `method=None`."
            )
        if less:
            x, beside = x.split([predicted, x.shape[axis] - predicted], axis)
    control = inputs.get("down_block_additional_residuals")
    if isinstance(control, Deferred):
        inputs = {key: each for key, each in inputs.items() if each is not control}
    else:
        control = None
    learned = axis == 1 and taken is not None and predicted == 2 * taken
    latents = Latents(name, x.dtype, listed, beside, axis or 1)
    return Call(module, forward, weak, full_precision(value(x)), latents, inputs, control, learned)


def channels(network: nn.Module) -> tuple[int | None, int | None]:
    """How many channels a network takes, and how many it predicts; None if its configuration does not say."""
    config = getattr(network, "config", {})
    taken, predicted = (config.get(name) for name in ("in_channels", "out_channels"))
    if predicted is None:
        predicted = config.get("out_visual_dim")
    if predicted is None and config.get("learn_sigma") and isinstance(taken, int):
        predicted = 2 * taken
    return (taken if isinstance(taken, int) else None, predicted if isinstance(predicted, int) else None)


def axes_of(x_t: Tensor, network: nn.Module, axis: int | None) -> Axes:
    """The axes of the latents x_t (B, …) that a network takes.

    Latents of three axes are tokens (B, N, C), of five a video's. The frames' axis is None if it is not known which of
    five axes it is.

    Args:
        axis: the form's; see `Form`. Of a video at 1, a network with another number of channels overrules it.
    """
    counts = channels(network)

    def fits(at: int) -> bool:
        return None in counts or x_t.shape[at] in counts

    if axis not in (1, None):
        at = axis % x_t.ndim
    elif x_t.ndim == 3:
        at = 1 if None not in counts and fits(1) and not fits(2) else 2
    elif x_t.ndim == 5 and axis == 1:
        at = next((at for at in (1, 2, 4) if fits(at)), 1)
    else:
        at = 1
    known = x_t.ndim == 5 and (axis != 1 or fits(at))
    return Axes(at, (2 if at == 1 else 1) if known else None)


def shape_in_order(x_t: Tensor, network: nn.Module, axes: Axes) -> tuple[int, ...]:
    """The shape of latents as `Method.check` takes it; see there."""
    order = [0, axes.channels, *([] if axes.frames is None else [axes.frames])]
    order += [axis for axis in range(x_t.ndim) if axis not in order]
    shape = [x_t.shape[axis] for axis in order]
    if axes.frames is None and (x_t.ndim == 5 or (x_t.ndim == 3 and _takes_frames(network))):
        return (*shape[:2], math.prod(shape[2:]))
    return (*shape, 1) if x_t.ndim == 3 else tuple(shape)


def _takes_frames(network: nn.Module) -> bool:
    """Whether a network is told the number of frames, as one of a video's tokens is."""
    return "num_frames" in parameters(type(without_peft(unwrap_module(network))).forward)


def check_reflectable(inputs: Mapping[str, Any]) -> None:
    """Refuse a call with residuals that were computed from x_t."""
    for name in STALE_UNDER_REFLECTION:
        if inputs.get(name) is not None:
            raise ValueError(
                f"`{name}` was computed from x_t, and a reflection evaluates the denoiser elsewhere too: such"
                " residuals are not supported under a method that reflects, except those of a UNet's ControlNet, which"
                " `ControlHook` defers. Use `method=None`, or `reflection_steps=0`."
            )


def read_time(module: nn.Module, inputs: Mapping[str, Any], x_t: Tensor, refuse: Refuse) -> tuple[Any, Tensor | None]:
    """The time of a call, None if it has none; and a mask of where x_t (B, …) moves, None if all of it does."""
    time = next((inputs[name] for name in TIMES if inputs.get(name) is not None), None)
    if not isinstance(time, Tensor) or time.numel() == 1:
        return time, None
    times = time[: len(x_t)] if time.ndim > 1 else time
    time = time.flatten().max()
    return time, _moving(module, times, time, x_t, refuse) if bool((times != time).any()) else None


def _moving(module: nn.Module, times: Tensor, time: Tensor, x_t: Tensor, refuse: Refuse) -> Tensor:
    """A mask of where x_t moves: 0 where its time is 0, 1 elsewhere; it broadcasts to x_t.

    Args:
        times: (B, tokens), the time of each token. For videos (B, C, F, H, W), a token is a patch of the network's.
        time: the greatest of them.
    """
    if bool(((times != time) & (times != 0)).any()):
        refuse("gives parts of the latents times of their own that are not 0, the time at which parts are held still")
    moving = (times != 0).to(x_t.dtype)
    moving = moving.expand(len(x_t), *moving.shape[1:])
    if x_t.ndim == 3 and moving.shape == x_t.shape[:2]:
        return moving[..., None]
    patch = getattr(getattr(unwrap_module(module), "config", None), "patch_size", None)
    if x_t.ndim == 5 and isinstance(patch, (tuple, list)) and len(patch) == 3:
        grid = [size // each for size, each in zip(x_t.shape[2:], patch, strict=True)]
        if moving[0].numel() == grid[0] * grid[1] * grid[2]:
            moving = moving.reshape(len(x_t), 1, *grid)
            for axis, each in enumerate(patch, 2):
                moving = moving.repeat_interleave(each, axis)
            return moving
    refuse("gives parts of the latents times of their own, in a layout that is not known")
