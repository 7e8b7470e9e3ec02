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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils.torch_utils import randn_tensor, unwrap_module
from torch import Tensor, nn

from .arms import Settings, switched
from .levels import Step, check_scheduler, convert, full_precision, read_step, step_index
from .methods import Method

HOOK_NAME = "w2sd_video"
_NOISE = 0x5DEECE66D  # parts a method's noise from that of the latents, which come of the same generator

# Residuals computed from x_t outside the denoiser: at x_s and x~_t they are stale. Those of a ControlNet a
# `ControlHook` defers.
STALE_UNDER_REFLECTION = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)

Hook = TypeVar("Hook", bound=ModelHook)
Branches = tuple[str, ...]  # of "uncond" and "cond", in this order


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
    controlnet: int = 0
    videos: int = 1

    def per_video(self) -> dict[str, int]:
        strong, weak, controlnet = (n // self.videos for n in (self.strong, self.weak, self.controlnet))
        made = {"strong": strong, "weak": weak, "total": strong + weak}
        return made | {"controlnet": controlnet} if controlnet else made


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
        weak_settings: what is set while the weak arm is evaluated; see `arms`.
        weak_control_scale: the weak arm's `controlnet_conditioning_scale`, where a `ControlHook` defers the ControlNet.
            Default: the pipeline's.
        guidance: the pipeline's guidance number, read at every step.
        doubled: whether the pipeline sends [unconditional; conditional] halves, read at every step.
        eta: DDIM's noise, as the pipeline passes it to `scheduler.step`.
        num_steps: steps of the current loop, read at every step. Default: all of `scheduler.timesteps`.
        noise: draws standard normal noise like a tensor. Default: from torch's global generator.
        conditional_first: whether the halves come as [conditional; unconditional], as `DiTPipeline` sends them.
    """

    def __init__(
        self,
        method: Method | None,
        scheduler: Any,
        *,
        weak: nn.Module | None = None,
        weak_conditioning: Conditioning = Conditioning(),
        weak_settings: Settings | None = None,
        weak_control_scale: float | list[float] | None = None,
        guidance: Callable[[], float] = lambda: 1.0,
        doubled: Callable[[], bool] = lambda: False,
        eta: float = 0.0,
        num_steps: Callable[[], int] | None = None,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
        conditional_first: bool = False,
    ):
        super().__init__()
        self.method = method
        self.scheduler = scheduler
        self.weak = weak
        self.weak_conditioning = weak_conditioning
        self.weak_settings = weak_settings or []
        self.weak_control_scale = weak_control_scale
        self.guidance = guidance
        self.doubled = doubled
        self.eta = eta
        self.num_steps = num_steps
        self.noise = noise
        self.conditional_first = conditional_first
        self.evaluations = Evaluations()
        self._first = self._last = -1  # the scheduler's index of the loop's first step, and of the last one seen

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
        index = self._index(timestep)
        num_steps = self.num_steps() if self.num_steps else len(self.scheduler.timesteps)
        step = read_step(self.scheduler, timestep, eta=self.eta)
        reflects = self.method.reflects(index, num_steps, step.level)
        if reflects and self.method.convention != "exact":
            step = read_step(self.scheduler, timestep, eta=self.eta, convention=self.method.convention)

        where = f"step {index + 1} of {num_steps} (timestep {step.timestep:g})"
        _check_finite(x_t, f"the latents before {where}")
        control = inputs.get("down_block_additional_residuals")
        if isinstance(control, Deferred):
            inputs = {key: value for key, value in inputs.items() if value is not control}
        else:
            control = None
        common: dict[str, Any] = {
            "x_name": name,
            "x_dtype": x.dtype,
            "inputs": inputs,
            "control": control,
            "doubled": doubled,
            "conditional_first": self.conditional_first,
            "step": step,
            "where": where,
            "final_guidance": self.guidance() if doubled else 1.0,
            "evaluations": self.evaluations,
        }
        strong = _BoundArm("strong", forward, self.method.strong_guidance, **common)
        asked = strong
        if reflects:
            _check_reflectable(inputs)
            self.method.check(tuple(x_t.shape))
            weak = _BoundArm(
                "weak",
                forward if self.weak is None else self.weak,
                self.method.weak_guidance,
                conditioning=self.weak_conditioning,
                settings=self.weak_settings,
                control_scale=self.weak_control_scale,
                **common,
            )
            p = self.method(x_t, step, strong, weak, lambda: self.noise(x_t))
            asked = strong if strong.was_asked else weak
        else:
            p = strong.denoise(x_t)
        if step.prediction == "sample":
            p = convert(p, x_t, step.level, "epsilon", "sample")
        if doubled:
            p = p.expand(2, *p.shape[1:])  # one branch stands for both: their mixture is that branch
            p = p.flip(0) if self.conditional_first else p
        p = p.flatten(0, 1).to(x.dtype)
        if asked.learned_sigma:  # the supported schedulers take no variance from the network
            p = torch.cat([p, torch.zeros_like(p)], 1)
        _check_finite(p, f"the method's prediction at {where}")
        return (p,) if asked.output_type is tuple else asked.output_type(sample=p)

    def _index(self, timestep: Tensor | float) -> int:
        """Which step of the loop this is, from 0. A loop may start late in the schedule (image to image), or anew."""
        found = step_index(self.scheduler, timestep)
        if self.num_steps is None:
            return found
        if found <= self._last or self._last < 0:
            self._first = found
        self._last = found
        return found - self._first


@dataclass
class _BoundArm:
    """An arm at one step: `x` in, prediction out; everything else is fixed."""

    name: str
    network: Callable[..., Any]
    guidance: float
    x_name: str
    x_dtype: torch.dtype
    inputs: dict[str, Any]
    control: Deferred | None
    doubled: bool
    conditional_first: bool
    step: Step
    where: str
    final_guidance: float
    evaluations: Evaluations
    conditioning: Conditioning = Conditioning()
    settings: Settings = field(default_factory=list)
    control_scale: float | list[float] | None = None
    output_type: Callable[..., Any] = tuple
    learned_sigma: bool = False
    _told: dict[Branches, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)
    _x: Tensor | None = None
    _known: dict[str, Tensor] = field(default_factory=dict)  # predictions at _x, by branch

    @property
    def was_asked(self) -> bool:
        return self._x is not None

    def reflect(self, x: Tensor) -> Tensor:
        p = self._predict(x, branches(self.guidance), self.guidance)
        if len(p) == 1:
            return p[0]
        uncond, cond = p
        return uncond + self.guidance * (cond - uncond)

    def denoise(self, x: Tensor) -> Tensor:
        return torch.stack(self._predict(x, branches(self.final_guidance), self.final_guidance))

    def _predict(self, x: Tensor, which: Branches, guidance: float) -> list[Tensor]:
        """Predictions (B, …) at x (B, …) by branch, in float32 or better; what is known at x is not made anew."""
        if x is not self._x:
            self._x, self._known = x, {}
        new = tuple(branch for branch in which if branch not in self._known)
        if new:
            p = self._evaluate(x, new)
            _check_finite(p, f"the {self.name} arm at guidance {guidance:g}, {self.where}")
            if self.step.prediction == "sample":
                p = convert(p, x, self.step.level, "sample", "epsilon")
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
            output = self.network(**{self.x_name: batch}, **told)
        setattr(self.evaluations, self.name, getattr(self.evaluations, self.name) + len(batch))
        self.output_type = type(output)
        p = full_precision(output[0])
        self.learned_sigma = p.shape[1] == 2 * x.shape[1]
        if self.learned_sigma:
            p = p.chunk(2, 1)[0]
        return p.unflatten(0, (len(which), -1))

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
        halves = {"uncond": self.conditioning.uncond, "cond": self.conditioning.cond}
        if self.doubled and len(which) == 2 and not any(halves.values()) and not self.conditional_first:
            return inputs
        told = []
        for branch in which:
            values = inputs
            if self.doubled:
                batch, second = 2 * self.evaluations.videos, (branch == "cond") ^ self.conditional_first
                values = {key: _half(key, value, second, batch) for key, value in inputs.items()}
            told.append(_override(values, halves[branch] or {}) if inputs else {})
        return told[0] if len(told) == 1 else _join(told[0], told[1])


class ControlHook(ModelHook):
    """Puts a ControlNet's call off, so that its residuals are those of the x at which an arm is evaluated.

    The pipeline hands on what it gets, and the `DenoiserHook` makes the residuals of it, for each x anew.
    """

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        names = _parameters(type(unwrap_module(module)).forward)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        inputs.pop(names[0])
        deferred = Deferred(self.fn_ref.original_forward, names[0], inputs)
        return deferred, deferred


@dataclass(frozen=True)
class Deferred:
    """A call of a ControlNet, to be made with other latents."""

    controlnet: Callable[..., Any]
    x_name: str
    inputs: dict[str, Any]

    def at_scale(self, scale: float | list[float] | None) -> dict[str, Any]:
        """The inputs at this conditioning scale, outside of whose steps it stays 0. Empty: it has no effect."""
        asked = self.inputs["conditioning_scale"]
        if scale is not None:
            several = [scale] * len(asked) if isinstance(asked, list) and not isinstance(scale, list) else scale
            if isinstance(asked, list) and isinstance(several, list):
                asked = [s * (now != 0) for s, now in zip(several, asked, strict=True)]
            else:
                asked = scale * (asked != 0)
        off = not any(asked) if isinstance(asked, list) else asked == 0
        return {} if off else {**self.inputs, "conditioning_scale": asked}

    def __call__(self, x: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        """The residuals at x (B, C, …) as the denoiser takes them; a video's frames are images to the ControlNet."""
        images = x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x
        down, mid = self.controlnet(**{self.x_name: images}, **inputs)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


@contextmanager
def attached(network: nn.Module, hook: Hook) -> Iterator[Hook]:
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


@contextmanager
def apply_reflection(
    pipeline: DiffusionPipeline,
    method: Method | None,
    *,
    weak: nn.Module | None = None,
    weak_conditioning: Conditioning = Conditioning(),
    weak_settings: Settings | None = None,
    weak_controlnet_conditioning_scale: float | list[float] | None = None,
    eta: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Iterator[DenoiserHook]:
    """Puts a method into a pipeline of diffusers that this package does not subclass, while the context lasts.

    It takes a pipeline that evaluates its `unet` or `transformer` once a step, on [unconditional; conditional] halves
    where it guides, and has one of `levels.read_step`'s schedulers. The reflection's guidance can be other than 1 only
    while the pipeline guides, so while its own guidance is over 1.

    Args:
        pipeline: the strong arm, as it is set.
        method: one of `methods`, such as `W2SD(strong_guidance=5.5, weak_guidance=1.0)`. None: only count evaluations.
        weak: the weak arm's network. None: the pipeline's own.
        weak_conditioning, weak_settings: what the weak arm is told, and what is set while it is evaluated (see `arms`).
        weak_controlnet_conditioning_scale: the weak arm's, of a pipeline with a ControlNet.
        eta: DDIM's, as it is given to the pipeline's call.
        generator: as it is given to the pipeline's call, for methods that draw noise; its state stays.

    Yields:
        The hook; `hook.evaluations.per_video()` says what was spent.

    Raises:
        ValueError: the pipeline has no denoiser that is known, or does not say how it guides; or the scheduler has
            no such step.
    """
    denoiser = next((n for n in ("unet", "transformer") if getattr(pipeline, n, None) is not None), None)
    if denoiser is None:
        raise ValueError(f"{type(pipeline).__name__} has neither `unet` nor `transformer`.")
    says = ("guidance_scale", "do_classifier_free_guidance", "num_timesteps")
    if silent := [name for name in says if not hasattr(type(pipeline), name)]:
        raise ValueError(f"{type(pipeline).__name__} does not say its `{silent[0]}`, which a method needs to know.")
    scheduler: Any = pipeline.scheduler
    if method is not None:
        check_scheduler(scheduler, convention=method.convention)
    hook = DenoiserHook(
        method,
        scheduler,
        weak=weak,
        weak_conditioning=weak_conditioning,
        weak_settings=weak_settings,
        weak_control_scale=weak_controlnet_conditioning_scale,
        guidance=lambda: pipeline.guidance_scale,
        doubled=lambda: pipeline.do_classifier_free_guidance,
        eta=eta if "eta" in inspect.signature(scheduler.step).parameters else 0.0,
        num_steps=lambda: pipeline.num_timesteps,
        noise=following_noise(generator),
        conditional_first=getattr(pipeline, "conditional_first", False),
    )
    with ExitStack() as stack:
        stack.enter_context(attached(getattr(pipeline, denoiser), hook))
        if method is not None and getattr(pipeline, "controlnet", None) is not None:
            stack.enter_context(attached(pipeline.controlnet, ControlHook()))
        free = pipeline.maybe_free_model_hooks

        def freed() -> None:
            stack.close()  # model offload takes away the forward that our hook wraps: ours goes first
            free()

        stack.enter_context(switched([(vars(pipeline), "maybe_free_model_hooks", freed)]))
        yield hook


def following_noise(generator: torch.Generator | list[torch.Generator] | None) -> Callable[[Tensor], Tensor]:
    """Draws noise by generators that follow from the call's own, which it leaves as they are: one for each video."""

    def following(given: torch.Generator) -> torch.Generator:
        ahead = given.clone_state()
        seed = int(torch.randint(2**62, (), generator=ahead, device=given.device))
        return torch.Generator(given.device).manual_seed(seed ^ _NOISE)

    if generator is None:
        return torch.randn_like
    ours = [following(each) for each in generator] if isinstance(generator, list) else following(generator)
    return lambda x: randn_tensor(tuple(x.shape), generator=ours, device=x.device, dtype=x.dtype)


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
                f"`{name}` was computed from x_t, and a reflection evaluates the denoiser elsewhere too: such residuals"
                " are not supported under a method that reflects, but for a ControlNet's that a `ControlHook` defers."
                " Use `method=None`, or `reflection_steps=0`."
            )


def _half(key: str, value: Any, second: bool, batch: int) -> Any:
    """The first or second half of every tensor that runs over the doubled batch; the rest as it is.

    Text embeddings and a ControlNet's pictures may be there for every frame: (2 B F, …).
    """
    if isinstance(value, Mapping):
        return {k: _half(k, v, second, batch) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_half(key, v, second, batch) for v in value)
    if isinstance(value, Tensor) and value.ndim > 0:
        repeated = key.startswith(("encoder_", "controlnet_")) and len(value) > 0 and len(value) % batch == 0
        if len(value) == batch or repeated:
            return value.chunk(2)[second]
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
