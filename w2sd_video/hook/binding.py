"""Binds the two arms of a pipeline to the denoiser's calls of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..arms import Overrides, identity_attention, skipped, transformer_blocks
from ..levels import Step
from ..methods import Method
from .arm import BoundArm, Evaluations, parameters_of
from .calls import Call
from .sent import PIPELINES_OWN, Branches, Conditioning, Sent

Embedded = tuple[float, float]  # an arm's guidance number that its network embeds, and the pipeline's


@dataclass
class Arms:
    """The settings of the strong and the weak arm, which are the same at every step. By default, the pipeline's.

    Args:
        name: the pipeline's name, for messages.
        weak_conditioning: denoiser inputs of the weak arm that replace the pipeline's.
        weak_settings: attributes to set while the weak arm is evaluated; see `arms`.
        weak_control_scale: the weak arm's `controlnet_conditioning_scale`, where a `ControlHook` defers the ControlNet.
            Default: the pipeline's.
        strong_conditioning: denoiser inputs of the strong arm that replace the pipeline's in the reflection.
        embedded: for networks that embed their guidance, the numbers of the strong arm (in the reflection alone) and of
            the weak arm, each with the pipeline's number. None leaves the `guidance` input as it is.
        second: by the second denoiser, where there is one, the guidance of the strong and the weak arm in the
            reflection while it runs. None: the method's.
        evaluations: counts the evaluations of both.
    """

    name: str = "The pipeline"
    weak_conditioning: Conditioning = PIPELINES_OWN
    weak_settings: Overrides = field(default_factory=list)
    weak_control_scale: float | list[float] | None = None
    strong_conditioning: Conditioning | None = None
    embedded: Callable[[], tuple[Embedded | None, Embedded | None]] = lambda: (None, None)
    second: Mapping[nn.Module, tuple[float | None, float | None]] = field(default_factory=dict)
    evaluations: Evaluations = field(default_factory=Evaluations)
    _sizes: dict[int, int] = field(default_factory=dict)  # parameters of the networks, by id
    _blocks: dict[int, dict[str, nn.Module]] = field(default_factory=dict)  # of this loop's networks, by id

    def parameters(self, network: nn.Module) -> int:
        """How many parameters a network has."""
        if id(network) not in self._sizes:
            self._sizes[id(network)] = parameters_of(network)
        return self._sizes[id(network)]

    def bind(
        self, method: Method, call: Call, sent: Sequence[Sent], step: Step, final: Branches, sign: float
    ) -> tuple[BoundArm, BoundArm]:
        """The strong and the weak arm at one step.

        Args:
            call: the step's first call.
            sent: all of the step's calls, by branch.
            final: the branches that the pipeline needs for its own step.
            sign: -1 if the networks predict the opposite of the convention of `levels`.
        """
        common: dict[str, Any] = {"sent": sent, "step": step, "final": final, "sign": sign}
        common["evaluations"] = self.evaluations
        numbers = [_embedding(sent[0].inputs, each, self.name) for each in self.embedded()]
        strong_guidance, weak_guidance = self.second.get(call.module, (None, None))
        in_reflection, conditioning = self.strong_conditioning, self.weak_conditioning
        if numbers[0] is not None:
            in_reflection = _with(in_reflection or PIPELINES_OWN, numbers[0])
        if numbers[1] is not None:
            conditioning = _with(conditioning, numbers[1])
        strong = BoundArm(
            "strong",
            call.forward,
            method.strong_guidance if strong_guidance is None else strong_guidance,
            in_reflection=in_reflection,
            parameters=self.parameters(call.module),
            **common,
        )
        own = None if method.one_model else call.weak
        network = call.module if own is None else own
        weak = BoundArm(
            "weak",
            call.forward if own is None else own,
            method.weak_guidance if weak_guidance is None else weak_guidance,
            conditioning=conditioning,
            settings=self.weak_settings + self._perturbation(network, method, step),
            control_scale=self.weak_control_scale,
            parameters=self.parameters(network),
            **common,
        )
        return strong, weak

    def _perturbation(self, network: nn.Module, method: Method, step: Step) -> Overrides:
        """The settings by which a method perturbs layers of the weak arm's network at a step.

        Raises:
            ValueError: see `check_perturbation`.
        """
        if method.perturbation is None:
            return []
        if step.index == 0:
            self._blocks.clear()
        if id(network) not in self._blocks:
            self._blocks[id(network)] = check_perturbation(network, method, step.num_steps)
        reflects = method.reflects(step.index, step.num_steps, step.level)
        return _perturbed(self._blocks[id(network)], method, step.index) if reflects else []


def check_perturbation(network: nn.Module, method: Method, num_steps: int) -> dict[str, nn.Module]:
    """Refuse layers that a method cannot perturb in one of `num_steps` steps.

    Returns:
        The network's transformer blocks, by name.

    Raises:
        ValueError: it names a layer that the network does not have, or one that cannot be perturbed.
    """
    blocks = transformer_blocks(network)
    for index in range(num_steps):  # layers may be drawn anew in every step
        if method.reflects(index, num_steps):
            _perturbed(blocks, method, index)
    return blocks


def _perturbed(blocks: Mapping[str, nn.Module], method: Method, index: int) -> Overrides:
    """The settings that perturb those of a network's blocks that a method chooses at step `index`."""
    chosen = {name: blocks[name] for name in method.perturbed(index, list(blocks))}
    return skipped(chosen) if method.perturbation == "skip" else identity_attention(chosen)


def _embedding(inputs: Mapping[str, Any], embedded: Embedded | None, name: str) -> dict[str, Tensor] | None:
    """The `guidance` input of a network that embeds it, for another number. None: the input stays as it is."""
    if embedded is None:
        return None
    value = inputs.get("guidance")
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} gives its denoiser no `guidance` input to embed: leave out the arms' embedded guidance."
        )
    number, own = embedded
    return {"guidance": value if number == own else torch.full_like(value, number) * _unit(value, own)}


def _unit(value: Tensor, number: float) -> float:
    """What a pipeline multiplies its guidance number by to get the input `value` of its network.

    It is the roundest factor that gives the value up to its rounding: HunyuanVideo multiplies by 1000 in the network's
    dtype, and bfloat16 has 6016 for 6000.
    """
    sent = float(value.flatten()[0])
    rounding = torch.finfo(value.dtype).eps * abs(sent) if value.is_floating_point() else 0.0
    units = (float(f"{sent / number:.{digits}g}") for digits in range(1, 17))
    return next((unit for unit in units if abs(unit * number - sent) <= rounding), sent / number)


def _with(conditioning: Conditioning, inputs: Mapping[str, Any]) -> Conditioning:
    """A conditioning with these inputs added in both branches."""
    return Conditioning({**(conditioning.cond or {}), **inputs}, {**(conditioning.uncond or {}), **inputs})
