"""One arm at one step of a pipeline's loop: its network, with the inputs that the pipeline sends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ..arms import Overrides, switched
from ..levels import Step, all_finite, full_precision
from .inputs import TIMES, copied
from .sent import BOTH, PIPELINES_OWN, Branches, Conditioning, Sent

_COUNTED = ("strong", "weak", "controlnet")


@dataclass
class Evaluations:
    """Counts of network evaluations. One latent video through one network once is one evaluation.

    Args:
        strong, weak, controlnet: the evaluations of all videos.
        videos: how many videos the evaluations are of since `settle` was last called.
        parameters: for each arm, the sum of the parameters of its network over its evaluations.
    """

    strong: int = 0
    weak: int = 0
    controlnet: int = 0
    videos: int = 1
    parameters: dict[str, int] = field(default_factory=lambda: {"strong": 0, "weak": 0})
    _settled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    _each: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(_COUNTED, Fraction(0)))

    def add(self, arm: str, count: int, parameters: int) -> None:
        """Counts evaluations of an arm's network, which has `parameters` parameters."""
        setattr(self, arm, getattr(self, arm) + count)
        self.parameters[arm] += count * parameters

    def of_network(self) -> dict[str, int]:
        """The parameters of each arm's network, by arm, if the arm was evaluated. For an arm of two networks, the mean
        over its evaluations."""
        counts = {"strong": self.strong, "weak": self.weak}
        return {arm: round(self.parameters[arm] / count) for arm, count in counts.items() if count}

    def settle(self) -> None:
        """Shares the evaluations since the last call of this among the `videos`, before their number changes."""
        for name in _COUNTED:
            count = getattr(self, name)
            self._each[name] += Fraction(count - self._settled[name], self.videos)
            self._settled[name] = count

    def per_video(self) -> dict[str, int]:
        """Evaluations for one video, by arm: "strong", "weak", "total", and "controlnet" if there is one. Of several
        calls, it is the sum over the calls, whatever number of videos each made."""
        self.settle()
        strong, weak, controlnet = (int(self._each[name]) for name in _COUNTED)
        counts = {"strong": strong, "weak": weak, "total": strong + weak}
        return counts | {"controlnet": controlnet} if controlnet else counts


def parameters_of(network: nn.Module) -> int:
    """How many parameters a network has, without LoRAs. Quantised weights count as the weights that they encode."""

    def shape(parameter: Any) -> Sequence[int]:
        packed = getattr(parameter, "quant_shape", None) or getattr(
            getattr(parameter, "quant_state", None), "shape", None
        )
        return packed if packed is not None else parameter.shape

    named = network.named_parameters()
    return sum(math.prod(shape(parameter)) for name, parameter in named if ".lora_" not in name)


def branches(w: float, mixes: bool = False) -> Branches:
    """The branches that `uncond + w (cond - uncond)` depends on.

    Args:
        mixes: whether the mixture is another, which is `cond` at w = 1 and needs both branches elsewhere.
    """
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
        sent: the pipeline's calls in this step, from which the arm takes its inputs.
        step: the step being made.
        final: the branches that the pipeline needs for its own step.
        evaluations: counts the evaluations.
        conditioning: inputs of the arm that replace the pipeline's.
        settings: attributes to set while the arm is evaluated.
        control_scale: the arm's ControlNet scale. None: the pipeline's.
        in_reflection: inputs that replace the pipeline's in the reflection alone. None: `conditioning`.
        sign: -1 if the network predicts the opposite of the convention of `levels`.
        parameters: how many parameters the network has.
    """

    name: str
    network: Callable[..., Any]
    guidance: float
    sent: Sequence[Sent]
    step: Step
    final: Branches
    evaluations: Evaluations
    conditioning: Conditioning = PIPELINES_OWN
    settings: Overrides = field(default_factory=list)
    control_scale: float | list[float] | None = None
    in_reflection: Conditioning | None = None
    sign: float = 1.0
    parameters: int = 0
    _at: Unchanged | None = None  # the last x
    # Predictions at this x, by branch and whether in the reflection.
    _known: dict[tuple[str, bool], Tensor] = field(default_factory=dict)
    _inputs: dict[tuple[Branches, bool], tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def reflect(self, x: Tensor) -> Tensor:
        """The prediction (B, …) at x (B, …), with the guidance of the reflection."""
        return self.guided(x, self.guidance)

    def guided(self, x: Tensor, w: float) -> Tensor:
        """The prediction (B, …) at x (B, …) with guidance w."""
        p = self._predict(x, branches(w), self.in_reflection is not None, f"at guidance {w:g}")
        p = [self.only_moving(each) for each in p]
        if len(p) == 1:
            return p[0].clone()  # so that changing it in place changes no other answer
        uncond, cond = p
        return uncond + w * (cond - uncond)

    def only_moving(self, x: Tensor) -> Tensor:
        """x (B, …), set to 0 where the pipeline holds the latents still."""
        return self.sent[0].latents.only_moving(x)

    def denoise(self, x: Tensor) -> Tensor:
        """The predictions (k, B, …) at x (B, …) that the pipeline mixes by its own guidance; see `methods.Arm`."""
        return torch.stack(self._predict(x, self.final, False, "of the final step"))

    def at(self, step: Step) -> BoundArm:
        """The arm with the time of another step in its inputs.

        Raises:
            ValueError: the network also gets the time of the step's end (MeanFlow), which would be another's; or it
                gets no time by a name that is known.
        """
        without = next((each for each in self.sent if all(each.inputs.get(name) is None for name in TIMES)), None)
        if without is not None:
            raise ValueError(
                f"the {self.name} arm's network gets {', '.join(without.inputs) or 'its latents alone'}, and no time as"
                f" {', '.join(TIMES)}: a method that evaluates it at the times of later steps is not supported. Use"
                " another method, or `method=None`."
            )
        if any(each.inputs.get("timestep_r") is not None for each in self.sent):
            raise ValueError(
                f"the {self.name} arm's network gets `timestep_r`, the time at the step's end: a method that evaluates"
                " it at the times of later steps is not supported. Use another method, or `method=None`."
            )

        def retimed(inputs: dict[str, Any]) -> dict[str, Any]:
            times = self.step.timestep, step.timestep
            own = {name: inputs[name] for name in TIMES if inputs.get(name) is not None}
            return inputs | {name: _time(time, *times, self.sign) for name, time in own.items()}

        sent = [
            replace(
                each,
                inputs=retimed(each.inputs),
                control=each.control and replace(each.control, inputs=retimed(each.control.inputs)),
            )
            for each in self.sent
        ]
        return replace(self, step=step, sent=sent, _inputs={}, _at=None, _known={})

    def _predict(self, x: Tensor, which: Branches, reflecting: bool, what: str) -> list[Tensor]:
        """Predictions (B, …) at x (B, …) of these branches, in float32 or better. Each is evaluated once at each x.

        Args:
            reflecting: whether to use the inputs `in_reflection`.
            what: the evaluation in words, for messages.
        """
        if self._at is None or x is not self._at.x or not self._at.holds():
            self._at, self._known = Unchanged(x), {}
        new = tuple(branch for branch in which if (branch, reflecting) not in self._known)
        missing = [branch for branch in new if not any(branch in sent.branches for sent in self.sent)]
        if missing:
            raise ValueError(
                f"the {self.name} arm {what} needs the unconditional branch, and the pipeline sends the conditional one"
                f" alone ({self.step.where}). Use a guidance of 1 for both arms of the reflection, or a pipeline (or"
                " callback) that keeps classifier-free guidance on."
            )
        for sent in self.sent:
            rows = tuple(branch for branch in new if branch in sent.branches)
            if rows:
                p = self._evaluate(x, rows, sent, reflecting)
                check_finite(p, f"the {self.name} arm {what}, {self.step.where}")
                self._known.update(zip([(branch, reflecting) for branch in rows], p, strict=True))
        return [self._known[branch, reflecting] for branch in which]

    def _evaluate(self, x: Tensor, which: Branches, sent: Sent, reflecting: bool) -> Tensor:
        """The network's predictions (len(which), B, …) at x (B, …), by the inputs of one of the pipeline's calls."""
        videos = self.evaluations.videos
        if (which, reflecting) not in self._inputs:
            own = self.in_reflection if reflecting and self.in_reflection is not None else self.conditioning
            control = sent.control.at_scale(self.control_scale) if sent.control else {}
            self._inputs[which, reflecting] = (
                sent.inputs_for(which, own, sent.inputs, videos),
                sent.inputs_for(which, own, control, videos),
            )
        inputs, control = self._inputs[which, reflecting]
        count, shape = len(which) * len(x), (len(which) * len(x), *x.shape[1:])
        with switched(self.settings):
            if sent.control and control:
                inputs = inputs | sent.control(torch.cat([x.to(sent.latents.dtype)] * len(which)), control)
                self.evaluations.controlnet += count
            # Copied because some networks empty lists, or change dictionaries.
            output = self.network(**{sent.latents.name: sent.input(x, which)}, **copied(inputs))
        self.evaluations.add(self.name, count, self.parameters)
        p = self.sign * full_precision(self._only(output))
        if p.shape[1] == 2 * x.shape[1] and p.shape[2:] == x.shape[2:]:  # a variance too
            p = p.chunk(2, 1)[0]
        if p.shape != shape:
            raise ValueError(
                f"the {self.name} arm's network takes latents of shape {shape} and predicts {tuple(p.shape)}: its input"
                " holds more than the latents, and not in extra channels, which is not supported under a method. Use"
                " `method=None`."
            )
        return p.unflatten(0, (len(which), -1))

    def _only(self, output: Any) -> Tensor:
        """The one tensor that a network predicts. A list of a tensor for each row is stacked."""
        several = [each for each in (output if isinstance(output, tuple) else output.to_tuple()) if each is not None]
        if len(several) == 1 and isinstance(several[0], list) and self.sent[0].latents.listed:
            several = [torch.stack(several[0])]
        if len(several) != 1 or not isinstance(several[0], Tensor):
            kinds = ", ".join(type(each).__name__ for each in several)
            raise ValueError(
                f"the {self.name} arm's network returns {kinds}: a network that predicts anything but one tensor of"
                " its latents (lists, or sound beside video) is not supported under a method. Use `method=None`."
            )
        return several[0]


def _time(time: Any, now: float, then: float, sign: float) -> Any:
    """A network's time input at timestep `then`, from its value `time` at timestep `now`.

    Networks get the scheduler's timestep, or a multiple of it. Some that predict the opposite (`sign` -1) get 1 minus
    such a multiple.
    """
    if not isinstance(time, Tensor):
        return _time(torch.tensor(time, dtype=torch.float64), now, then, sign).item()
    rounding = torch.finfo(time.dtype).eps * abs(now) if time.is_floating_point() else 0.0
    if ((time - now).abs() <= rounding).all():
        return torch.full_like(time, then)
    return time * (then / now) if sign > 0 else 1 - (1 - time) * (then / now)


class Unchanged:
    """Whether a tensor is still as it was when this was made."""

    def __init__(self, x: Tensor):
        self.x = x
        # torch counts a tensor's changes in place, except under `torch.inference_mode`.
        self._before: int | Tensor = x.clone() if x.is_inference() else x._version

    def holds(self) -> bool:
        """Whether the tensor was not changed in place since."""
        before = self._before
        return torch.equal(self.x, before) if isinstance(before, Tensor) else self.x._version == before


def check_finite(x: Tensor, where: str) -> None:
    """Raise a FloatingPointError if x has values that are not finite; `where` is part of the message."""
    if not all_finite(x):
        bad = x.numel() - int(torch.isfinite(x).sum())
        raise FloatingPointError(f"Non-finite values ({bad} of {x.numel()}) in {where}.")
