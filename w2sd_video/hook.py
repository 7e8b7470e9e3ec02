"""Attaches a method to the denoiser of a diffusers pipeline.

The pipeline keeps its own loop. It calls its UNet or transformer once a step; the hook answers that call with
the method's prediction, for which it evaluates the networks as often as the method asks. With batched
guidance the pipeline sends [unconditional; conditional] halves and mixes what comes back,
`uncond + w (cond - uncond)`; the hook returns halves, so the guidance of the final step stays the pipeline's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from .levels import Step, convert, full_precision, read_step, step_index
from .methods.w2sd import Arm

HOOK_NAME = "w2sd_video"

# Residuals computed from x_t outside the denoiser: at x_s and x~_t they are stale.
STALE_UNDER_REFLECTION = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)

Branches = tuple[str, ...]  # of "uncond" and "cond", in this order


class Method(Protocol):
    """What the hook asks of a method; `methods.W2SD` is one."""

    @property
    def strong_guidance(self) -> float: ...
    @property
    def weak_guidance(self) -> float: ...
    @property
    def convention(self) -> str: ...
    def reflects(self, index: int, num_steps: int) -> bool: ...
    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> Tensor: ...


@dataclass(frozen=True)
class Conditioning:
    """What an arm is told instead of the pipeline's own inputs: denoiser arguments by name, nested as there.

    Each tensor is one half: the conditional (or unconditional) inputs of all videos. None: the pipeline's.
    """

    cond: Mapping[str, Any] | None = None
    uncond: Mapping[str, Any] | None = None


@dataclass
class Evaluations:
    """Network evaluations in sample evaluations: one latent video through one network once is one."""

    strong: int = 0
    weak: int = 0
    videos: int = 1

    def per_video(self) -> dict[str, int]:
        strong, weak = self.strong // self.videos, self.weak // self.videos
        return {"strong": strong, "weak": weak, "total": strong + weak}


def branches(w: float) -> Branches:
    """The branches that `uncond + w (cond - uncond)` depends on."""
    if w == 1:
        return ("cond",)
    if w == 0:
        return ("uncond",)
    return ("uncond", "cond")


class DenoiserHook(ModelHook):
    """Answers a denoiser's call with a method's prediction, and counts network evaluations.

    To compile under it, compile the networks' blocks (`compile_repeated_blocks`): around the whole denoiser
    the compiler would trace the method as well, anew for every step's numbers.

    Args:
        method: the method, or None to pass calls through untouched and only count them.
        scheduler: the pipeline's scheduler, read at every step, so it may be reset during the run.
        weak: the weak arm's network. None: the denoiser itself.
        weak_conditioning: what the weak arm is told; by default what the pipeline tells the denoiser.
        guidance: the pipeline's guidance number, read at every step.
        doubled: whether the pipeline sends [unconditional; conditional] halves, read at every step.
        eta: DDIM's noise, as the pipeline passes it to `scheduler.step`.
        num_steps: steps of the current loop, read at every step. Default: all of `scheduler.timesteps`.
    """

    def __init__(
        self,
        method: Method | None,
        scheduler: Any,
        *,
        weak: nn.Module | None = None,
        weak_conditioning: Conditioning = Conditioning(),
        guidance: Callable[[], float] = lambda: 1.0,
        doubled: Callable[[], bool] = lambda: False,
        eta: float = 0.0,
        num_steps: Callable[[], int] | None = None,
    ):
        super().__init__()
        self.method = method
        self.scheduler = scheduler
        self.weak = weak
        self.weak_conditioning = weak_conditioning
        self.guidance = guidance
        self.doubled = doubled
        self.eta = eta
        self.num_steps = num_steps
        self.evaluations = Evaluations()

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        names = _parameters(type(unwrap_module(module)).forward)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        name = names[0]
        x: Tensor = inputs.pop(name)
        doubled = self.doubled()
        self.evaluations.videos = x.shape[0] // 2 if doubled else x.shape[0]
        if self.method is None:
            self.evaluations.strong += x.shape[0]
            return forward(*args, **kwargs)

        x_t = full_precision(x.chunk(2)[0] if doubled else x)
        timestep = inputs["timestep"]
        timestep = timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep
        index = step_index(self.scheduler, timestep)
        num_steps = self.num_steps() if self.num_steps else len(self.scheduler.timesteps)
        reflects = self.method.reflects(index, num_steps)
        convention = self.method.convention if reflects else "exact"
        step = read_step(self.scheduler, timestep, eta=self.eta, convention=convention)

        where = f"step {index + 1} of {num_steps} (timestep {step.timestep:g})"
        _check_finite(x_t, f"the latents before {where}")
        common: dict[str, Any] = {
            "x_name": name,
            "x_dtype": x.dtype,
            "inputs": inputs,
            "doubled": doubled,
            "step": step,
            "where": where,
            "final_guidance": self.guidance() if doubled else 1.0,
            "evaluations": self.evaluations,
        }
        strong = _BoundArm("strong", forward, self.method.strong_guidance, Conditioning(), **common)
        if reflects:
            _check_reflectable(inputs)
            network = forward if self.weak is None else self.weak
            weak = _BoundArm("weak", network, self.method.weak_guidance, self.weak_conditioning, **common)
            p = self.method(x_t, step, strong, weak)
        else:
            p = strong.denoise(x_t)
        if step.prediction == "sample":
            p = convert(p, x_t, step.level, "epsilon", "sample")
        if doubled:
            p = p.expand(2, *p.shape[1:])  # one branch stands for both: their mixture is that branch
        p = p.flatten(0, 1).to(x.dtype)
        _check_finite(p, f"the method's prediction at {where}")
        return (p,) if strong.output_type is tuple else strong.output_type(sample=p)


@dataclass
class _BoundArm:
    """An arm at one step: `x` in, prediction out; everything else is fixed."""

    name: str
    network: Callable[..., Any]
    guidance: float
    conditioning: Conditioning
    x_name: str
    x_dtype: torch.dtype
    inputs: dict[str, Any]
    doubled: bool
    step: Step
    where: str
    final_guidance: float
    evaluations: Evaluations
    output_type: Callable[..., Any] = tuple
    _told: dict[Branches, dict[str, Any]] = field(default_factory=dict)

    def reflect(self, x: Tensor) -> Tensor:
        p = self._predict(x, branches(self.guidance), self.guidance)
        if len(p) == 1:
            return p[0]
        uncond, cond = p
        return uncond + self.guidance * (cond - uncond)

    def denoise(self, x: Tensor) -> Tensor:
        return self._predict(x, branches(self.final_guidance), self.final_guidance)

    def _predict(self, x: Tensor, which: Branches, guidance: float) -> Tensor:
        """Predictions (len(which), B, …) at x (B, …), in float32 or better."""
        if which not in self._told:
            self._told[which] = self._tell(which)
        batch = torch.cat([x.to(self.x_dtype)] * len(which))
        output = self.network(**{self.x_name: batch}, **self._told[which])
        setattr(self.evaluations, self.name, getattr(self.evaluations, self.name) + len(batch))
        self.output_type = type(output)
        p = full_precision(output[0])
        _check_finite(p, f"the {self.name} arm at guidance {guidance:g}, {self.where}")
        p = p.unflatten(0, (len(which), -1))
        if self.step.prediction == "sample":
            p = convert(p, x, self.step.level, "sample", "epsilon")
        return p

    def _tell(self, which: Branches) -> dict[str, Any]:
        """The network's other arguments for these branches."""
        if not self.doubled and which != ("cond",):
            raise ValueError(
                f"The {self.name} arm's guidance {self.guidance:g} needs the unconditional branch, and the"
                f" pipeline sends the conditional one alone ({self.where}). Use a guidance of 1 for both"
                " arms of the reflection, or a pipeline (or callback) that keeps classifier-free guidance on."
            )
        halves = {"uncond": self.conditioning.uncond, "cond": self.conditioning.cond}
        if self.doubled and len(which) == 2 and not any(halves.values()):
            return self.inputs
        told = []
        for branch in which:
            inputs = self.inputs
            if self.doubled:
                batch = 2 * self.evaluations.videos
                inputs = {key: _half(key, value, branch, batch) for key, value in inputs.items()}
            told.append(_override(inputs, halves[branch] or {}))
        return told[0] if len(told) == 1 else _join(told[0], told[1])


@contextmanager
def attached(network: nn.Module, hook: DenoiserHook) -> Iterator[DenoiserHook]:
    """The hook on the network while the context lasts; however it is left, the network is then as it was."""
    had_registry, had_forward = hasattr(network, "_diffusers_hook"), "forward" in vars(network)
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.register_hook(hook, HOOK_NAME)
    try:
        yield hook
    finally:
        registry.remove_hook(HOOK_NAME, recurse=False)
        if not registry.hooks and not had_forward:
            del network.forward  # the registry leaves the bound method behind as an attribute
        if not registry.hooks and not had_registry:
            del network._diffusers_hook


@functools.cache
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def _check_finite(x: Tensor, where: str) -> None:
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = x.numel() - int(finite.sum())
        raise FloatingPointError(f"Non-finite values ({bad} of {x.numel()}) in {where}.")


def _check_reflectable(inputs: Mapping[str, Any]) -> None:
    for name in STALE_UNDER_REFLECTION:
        if inputs.get(name) is not None:
            raise ValueError(
                f"`{name}` was computed from x_t, and a reflection evaluates the denoiser elsewhere too:"
                " ControlNet and adapter residuals are not supported under a method that reflects. Use"
                " `method=None`, or `reflection_steps=0`."
            )


def _half(key: str, value: Any, branch: str, batch: int) -> Any:
    """The branch's half of every tensor that runs over the doubled batch; the rest as it is.

    Text embeddings may be repeated for every frame: (2 B F, …).
    """
    if isinstance(value, Mapping):
        return {k: _half(k, v, branch, batch) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_half(key, v, branch, batch) for v in value)
    if isinstance(value, Tensor) and value.ndim > 0:
        repeated = key.startswith("encoder_") and len(value) > 0 and len(value) % batch == 0
        if len(value) == batch or repeated:
            return value.chunk(2)[branch == "cond"]
    return value


def _override(inputs: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(inputs)
    for key, value in values.items():
        merged[key] = _override(inputs[key], value) if isinstance(value, Mapping) else value
    return merged


def _join(uncond: Any, cond: Any) -> Any:
    """Two branches' arguments as one batch. What is one and the same object in both stays as it is."""
    if uncond is cond:
        return cond
    if isinstance(cond, Mapping):
        return {key: _join(uncond[key], cond[key]) for key in cond}
    if isinstance(cond, (list, tuple)):
        return type(cond)(_join(u, c) for u, c in zip(uncond, cond, strict=True))
    if isinstance(cond, Tensor):
        return torch.cat([uncond, cond])
    return cond
