"""Checks of a scheduler's step against the denoiser's calls before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..levels import Step, full_precision
from .calls import Refuse
from .form import Form
from .sent import Latents


def check_stepped(
    x_t: Tensor,
    latents: Latents,
    step: Step,
    arguments: Mapping[str, Any],
    *,
    form: Form,
    to_sample: Callable[[Tensor], Tensor],
    refuse: Refuse,
) -> float:
    """Refuse a step of other latents, or at another time, than those of the denoiser's calls.

    Args:
        x_t: (B, …), the latents that the denoiser was called with.
        latents: the argument that they came in.
        step: the step that the calls were answered for.
        arguments: the arguments of the scheduler's step, by name.
        to_sample: the pipeline's arithmetic from its denoiser to its scheduler, of a tensor (B, …).

    Returns:
        -1 if the pipeline negates what its denoiser predicts, else 1.
    """
    time, mixture, sample = arguments.get("timestep"), arguments["model_output"], arguments["sample"]
    if time is not None and abs((at := float(time)) - step.timestep) > 1e-3 * max(1.0, abs(at)):
        refuse(f"tells its denoiser another time than its scheduler, which it steps from timestep {at:g}")
    if mixture.shape != sample.shape:
        refuse("hands its scheduler a prediction of another shape than the latents that it steps, or of more branches")
    seen, expected = to_sample(latents.only_moving(x_t)), full_precision(sample)
    if latents.moving is not None:  # parts that are held still do not matter
        moving = to_sample(latents.moving.to(x_t.dtype)).abs().round()
        seen, expected = seen * moving, expected * moving
    elif seen.numel() < x_t.numel():
        refuse("steps fewer latents than its denoiser sees (reference tokens, or a frame that is held still)")
    per_token = arguments.get("per_token_timesteps") is not None  # then the scheduler negates the flow
    for sign in (1.0, -1.0):
        if near(expected, step.scale * sign * seen, tolerance(latents.dtype)):
            if sign != form.sign * (-1 if per_token else 1):
                does = "negates" if sign < 0 else "does not negate"
                refuse(f"{does} what its denoiser predicts before its scheduler gets it, unlike its form")
            return sign
    refuse(
        "hands its scheduler other latents than its denoiser, or something other than a mixture of what its denoiser"
        " predicts whose weights sum to 1"
    )


def sends_both(x: Tensor, sample: Tensor, form: Form, refuse: Refuse) -> bool:
    """Whether a call's latents x hold rows of both branches, twice as many as the scheduler steps."""
    if form.holds:
        branches, rest = divmod(len(x), len(sample))
    else:  # the scheduler may step a video's frames as rows
        branches, rest = divmod(x.numel(), sample.numel())
    if branches not in (1, 2) or rest:
        refuse(
            f"sends its denoiser latents {tuple(x.shape)}, and steps {tuple(sample.shape)}: supported is one branch"
            " of guidance, or two in one batch"
        )
    return branches == 2


def stepped_part(x: Tensor, sample: Tensor, within: float) -> Tensor | None:
    """A mask of the part of x (B, …) that the scheduler steps: 1 there, 0 elsewhere, broadcastable to x.

    The part lies at the start of one axis (before the tokens of reference images) or at its end (after a first frame).

    Returns:
        None if the scheduler steps all of x, or a part that lies elsewhere.
    """
    axes = [axis for axis in range(1, x.ndim) if x.ndim == sample.ndim and x.shape[axis] != sample.shape[axis]]
    if len(axes) != 1 or len(x) != len(sample) or sample.shape[axes[0]] > x.shape[axes[0]]:
        return None
    (axis,), size = axes, sample.shape[axes[0]]
    parts = [x.narrow(axis, start, size) for start in (0, x.shape[axis] - size)]
    apart = [float((part - full_precision(sample)).norm()) for part in parts]  # frames of a still video are alike
    nearer = int(apart[1] < apart[0])
    if not near(parts[nearer], sample, within):
        return None
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    stepped = x.new_zeros(shape)
    stepped.narrow(axis, nearer * (x.shape[axis] - size), size).fill_(1)
    return stepped


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative distance of the scheduler's latents from those that a network of this dtype saw.

    Four roundings to the dtype, of up to eps / 2 each. In bfloat16 it is 1.6 %; the tested pipelines reach 0.3 %.
    """
    return max(2 * torch.finfo(dtype).eps, 1e-4)


def near(x: Tensor, y: Tensor, within: float) -> bool:
    """Whether |x - y| is at most `within` times |y|."""
    x, y = full_precision(x), full_precision(y)
    return bool((x - y).norm() <= within * y.norm() + torch.finfo(x.dtype).tiny)
