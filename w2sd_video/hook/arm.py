"""One side of a pair at one step of a pipeline's loop: its network, with what the pipeline hands to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..arms import Settings, switched
from ..levels import Step, full_precision
from .control import Deferred
from .inputs import half, join, override

Branches = tuple[str, ...]  # of "uncond" and "cond", in this order
BOTH: Branches = ("uncond", "cond")


@dataclass(frozen=True)
class Conditioning:
    """What an arm is told instead of the pipeline's own inputs: denoiser arguments by name, nested as there.

    Each tensor is one half: the conditional (or unconditional) inputs of all videos. None: the pipeline's.
    """

    cond: Mapping[str, Any] | None = None
    uncond: Mapping[str, Any] | None = None


PIPELINES_OWN = Conditioning()


@dataclass
class Evaluations:
    """Network evaluations in sample evaluations: one latent video through one network once is one."""

    strong: int = 0
    weak: int = 0
    controlnet: int = 0
    videos: int = 1

    def per_video(self) -> dict[str, int]:
        """Evaluations for one of the videos, by arm: "strong", "weak", "total", and "controlnet" if there is one."""
        strong, weak, controlnet = (n // self.videos for n in (self.strong, self.weak, self.controlnet))
        counts = {"strong": strong, "weak": weak, "total": strong + weak}
        return counts | {"controlnet": controlnet} if controlnet else counts


def branches(w: float, mixes: bool = False) -> Branches:
    """The branches that `uncond + w (cond - uncond)` depends on, or another mixture that is `cond` at w = 1."""
    if w == 1:
        return ("cond",)
    if w == 0 and not mixes:
        return ("uncond",)
    return BOTH


@dataclass
class BoundArm:
    """An arm at one step: `x` in, prediction out; everything else is fixed.

    Args:
        name: "strong" or "weak", for messages and counts.
        network: the denoiser's forward.
        guidance: the arm's guidance number in the reflection.
        x_name, x_dtype: the name of the denoiser's argument for the latents, and their type.
        beside: channels that follow the latents' in that argument, of all rows of the pipeline's; None: there are none.
        inputs: the denoiser's other arguments.
        control: a ControlNet's call to be made, if there is one.
        doubled: whether the inputs are of [unconditional; conditional] rows.
        conditional_first: whether of [conditional; unconditional] ones.
        step: the step being made.
        where: that step in words, for messages.
        final: the branches that the pipeline needs for its own step.
        evaluations: where evaluations are counted.
        conditioning, settings, control_scale: what the arm has of its own.
    """

    name: str
    network: Callable[..., Any]
    guidance: float
    x_name: str
    x_dtype: torch.dtype
    beside: Tensor | None
    inputs: dict[str, Any]
    control: Deferred | None
    doubled: bool
    conditional_first: bool
    step: Step
    where: str
    final: Branches
    evaluations: Evaluations
    conditioning: Conditioning = PIPELINES_OWN
    settings: Settings = field(default_factory=list)
    control_scale: float | list[float] | None = None
    output_type: Callable[..., Any] = tuple
    learned_sigma: bool = False
    _told: dict[Branches, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    _x: Tensor | None = None
    _known: dict[str, Tensor] = field(default_factory=dict)  # predictions at _x, by branch

    @property
    def evaluated(self) -> bool:
        """Whether the arm's network has run."""
        return self._x is not None

    def reflect(self, x: Tensor) -> Tensor:
        """The prediction (B, …) at x (B, …), with the guidance of the reflection."""
        return self.guided(x, self.guidance)

    def guided(self, x: Tensor, w: float) -> Tensor:
        """The prediction (B, …) at x (B, …) with guidance w."""
        p = self._predict(x, branches(w), f"at guidance {w:g}")
        if len(p) == 1:
            return p[0]
        uncond, cond = p
        return uncond + w * (cond - uncond)

    def denoise(self, x: Tensor) -> Tensor:
        """The predictions (k, B, …) at x (B, …) that the pipeline mixes by its own guidance; see `methods.Arm`."""
        return torch.stack(self._predict(x, self.final, "of the final step"))

    def at(self, step: Step) -> BoundArm:
        """The arm told the time of another step."""

        def told(inputs: dict[str, Any]) -> dict[str, Any]:
            names = ("timestep", "t")
            return inputs | {name: _time(inputs[name], step.timestep) for name in names if name in inputs}

        control = self.control and replace(self.control, inputs=told(self.control.inputs))
        return replace(self, step=step, inputs=told(self.inputs), control=control, _told={}, _x=None, _known={})

    def _predict(self, x: Tensor, which: Branches, what: str) -> list[Tensor]:
        """Predictions (B, …) at x (B, …) by branch, in float32 or better; what is known at x is not made anew."""
        if x is not self._x:
            self._x, self._known = x, {}
        new = tuple(branch for branch in which if branch not in self._known)
        if new:
            p = self._evaluate(x, new)
            check_finite(p, f"the {self.name} arm {what}, {self.where}")
            self._known.update(zip(new, p, strict=True))
        return [self._known[branch] for branch in which]

    def _evaluate(self, x: Tensor, which: Branches) -> Tensor:
        """The network's predictions (len(which), B, …)."""
        if which not in self._told:
            self._told[which] = self._tell(which)
        told, control = self._told[which]
        batch = torch.cat([x.to(self.x_dtype)] * len(which))
        with switched(self.settings):
            if self.control and control:
                told = told | self.control(batch, control)
                self.evaluations.controlnet += len(batch)
            whole = batch if self.beside is None else torch.cat([batch, self._beside(self.beside, which)], 1)
            output = self.network(**{self.x_name: whole}, **told)
        setattr(self.evaluations, self.name, getattr(self.evaluations, self.name) + len(batch))
        self.output_type = type(output)
        p = full_precision(self._only(output))
        self.learned_sigma = p.shape[1] == 2 * x.shape[1] and p.shape[2:] == x.shape[2:]
        if self.learned_sigma:
            p = p.chunk(2, 1)[0]
        if p.shape != batch.shape:
            raise ValueError(
                f"the {self.name} arm's network takes latents of shape {tuple(batch.shape)} and predicts"
                f" {tuple(p.shape)}: something lies beside the latents in its input, and not in channels of its own,"
                " which is not supported under a method. Use `method=None`."
            )
        return p.unflatten(0, (len(which), -1))

    def _beside(self, beside: Tensor, which: Branches) -> Tensor:
        """What lies beside the latents, for these branches."""
        if not self.doubled:
            return beside
        halves = beside.chunk(2)
        return torch.cat([halves[(branch == "cond") ^ self.conditional_first] for branch in which])

    def _only(self, output: Any) -> Tensor:
        """The one tensor that a network predicts."""
        several = [each for each in (output if isinstance(output, tuple) else output.to_tuple()) if each is not None]
        if len(several) != 1 or not isinstance(several[0], Tensor):
            kinds = ", ".join(type(each).__name__ for each in several)
            raise ValueError(
                f"the {self.name} arm's network returns {kinds}: a network that predicts anything but one tensor of"
                " its latents (lists, or sound beside video) is not supported under a method. Use `method=None`."
            )
        return several[0]

    def _tell(self, which: Branches) -> tuple[dict[str, Any], dict[str, Any]]:
        """The other arguments for these branches: the network's, and the ControlNet's; without it, none."""
        if not self.doubled and which != ("cond",):
            raise ValueError(
                f"The {self.name} arm's guidance {self.guidance:g} needs the unconditional branch, and the"
                f" pipeline sends the conditional one alone ({self.where}). Use a guidance of 1 for both"
                " arms of the reflection, or a pipeline (or callback) that keeps classifier-free guidance on."
            )
        control = self.control.at_scale(self.control_scale) if self.control else {}
        return self._of(which, self.inputs), self._of(which, control)

    def _of(self, which: Branches, inputs: dict[str, Any]) -> dict[str, Any]:
        own = {"uncond": self.conditioning.uncond, "cond": self.conditioning.cond}
        if self.doubled and which == BOTH and not any(own.values()) and not self.conditional_first:
            return inputs
        told = []
        for branch in which:
            values = inputs
            if self.doubled:
                batch, second = 2 * self.evaluations.videos, (branch == "cond") ^ self.conditional_first
                values = {key: half(key, value, second, batch) for key, value in inputs.items()}
            told.append(override(values, own[branch] or {}) if inputs else {})
        return told[0] if len(told) == 1 else join(told[0], told[1])


def _time(told: Any, timestep: float) -> Any:
    """A time as a network is told it, in the place of another one."""
    return torch.full_like(told, timestep) if isinstance(told, Tensor) else timestep


def check_finite(x: Tensor, where: str) -> None:
    """Raise the FloatingPointError for values that are not finite, and say where they are."""
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = x.numel() - int(finite.sum())
        raise FloatingPointError(f"Non-finite values ({bad} of {x.numel()}) in {where}.")
