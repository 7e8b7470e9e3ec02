"""Putting a method on a pipeline, and taking it off again."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils.torch_utils import randn_tensor, unwrap_module
from torch import Tensor, nn

from ..arms import Settings, switched
from ..levels import check_scheduler
from ..methods import Method
from .arguments import check_arguments, check_inputs, check_same_inputs, check_same_place, hooks_of, second_guidance
from .calls import channels
from .control import ControlHook
from .denoiser import DenoiserHook
from .form import Form, form_of, known
from .group import Group
from .recording import Recorder
from .sent import PIPELINES_OWN, Conditioning

HOOK_NAME = "w2sd_video"
DENOISERS = ("unet", "transformer", "transformer_2")  # a pipeline's networks that predict; the last is a second expert
_NOISE = 0x5DEECE66D  # parts a method's noise from that of the latents, which come of the same generator

Hook = TypeVar("Hook", bound=ModelHook)

_busy: set[int] = set()  # networks that a call is using, by id
_lock = threading.Lock()


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
def stepping(group: Group) -> Iterator[None]:
    """The group between the pipeline and its scheduler, while the context lasts."""
    scheduler = group.scheduler

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        group.restart()
        theirs["set_timesteps"](*args, **kwargs)

    theirs = {name: getattr(scheduler, name) for name in ("step", "set_timesteps")}
    ours: dict[str, Callable[..., Any]] = {
        "step": functools.partial(group.step, theirs["step"]),
        "set_timesteps": set_timesteps,
    }
    seams = [(vars(scheduler), name, _Seam(group, theirs[name], ours[name])) for name in ours]
    with switched(seams):
        yield


class _Seam:
    """A scheduler's method, gone through by ours. It stays with its scheduler: a copy would act on the first one."""

    def __init__(self, group: Group, theirs: Callable[..., Any], ours: Callable[..., Any]):
        functools.update_wrapper(self, theirs)  # pipelines look at the signature
        self._group, self._ours = group, ours

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ours(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self._group.running():
            raise ValueError(
                f"{self._group.name}, or its scheduler, was copied while a method is applied to it (in"
                " `apply_reflection`, or during a call): the copy would act on the first one. Copy it before or"
                " afterwards."
            )
        raise ValueError(
            f"{self._group.name} is not supported under a method: it copies its scheduler during the call, and steps of"
            " a copy cannot be reflected. Use it with `method=None`."
        )


def check_free(name: str, networks: list[nn.Module]) -> None:
    """Raise the RuntimeError for networks that a call is using: two would change the same hooks and settings."""
    if any(id(network) in _busy for network in networks):
        raise RuntimeError(
            f"{name} is in use: another call of it, or of a pipeline that shares a network with it, has not ended."
            " Make one call at a time, or give each thread a pipeline of its own (`copy.deepcopy`)."
        )


@contextmanager
def used(name: str, networks: list[nn.Module]) -> Iterator[None]:
    """The networks, refused to other calls while the context lasts.

    Raises:
        RuntimeError: a call is using one of them.
    """
    ids = {id(network) for network in networks}
    with _lock:
        check_free(name, networks)
        _busy.update(ids)
    try:
        yield
    finally:
        with _lock:
            _busy.difference_update(ids)


@contextmanager
def apply_reflection(
    pipeline: DiffusionPipeline,
    method: Method | None,
    *,
    form: Form | None = None,
    weak: nn.Module | Mapping[str, nn.Module] | None = None,
    weak_conditioning: Conditioning = PIPELINES_OWN,
    weak_settings: Settings | None = None,
    weak_controlnet_conditioning_scale: float | list[float] | None = None,
    weak_embedded_guidance: float | None = None,
    strong_conditioning: Conditioning | None = None,
    strong_embedded_guidance: float | None = None,
    strong_guidance_2: float | None = None,
    weak_guidance_2: float | None = None,
    eta: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    recorder: Recorder | None = None,
) -> Iterator[Group]:
    """Puts a method into a pipeline of diffusers that this package does not subclass, while the context lasts.

    It takes the pipelines that docs/pipelines.md lists as served, and subclasses that inherit their `__call__`; others
    with `form`. Their scheduler has to be one of `levels.read_step`'s. What a pipeline does between its denoiser and
    its scheduler is checked at every step: what is not supported is refused by name, at the first step at the latest.

    The reflection's guidance can be other than 1 only where the pipeline guides, so while its own guidance is over 1;
    of a pipeline that stops to guide during its call, in the steps after as well if it calls its network once for each
    branch. `guidance_rescale`, norms and the like act on the final step alone; the reflection mixes its predictions
    plainly. A network that embeds its guidance needs no other: without guidance, a reflected step is 3 evaluations.

    Args:
        pipeline: the strong arm, as it is set.
        method: one of `methods`, such as `W2SD(strong_guidance=5.5, weak_guidance=1.0)`. None: only count evaluations.
        form: how the pipeline calls its denoiser. Default: as is known of its class.
        weak: the weak arm's network; of a pipeline with two that take turns, one for each, by the name of the
            pipeline's. None, or none of a name: the pipeline's own.
        weak_conditioning: what the weak arm is told, by the denoiser's own arguments; see "What each arm is told" of
            docs/pipelines.md.
        weak_settings: what is set on a network while the weak arm is evaluated: a list, of what functions of `arms`
            return for this network, such as `arms.adapter_scales(pipe.unet, {"style": -1.5})`.
        weak_controlnet_conditioning_scale: the weak arm's, of a pipeline with a ControlNet.
        weak_embedded_guidance, strong_embedded_guidance: of networks that embed their guidance, the number for the weak
            arm, and for the strong one in the reflection, in the unit of the pipeline's `guidance_scale`. Default: its.
        strong_conditioning: what the strong arm is told in the reflection; in the final step it is told the pipeline's.
        strong_guidance_2, weak_guidance_2: of a pipeline with two denoisers that take turns, the arms' guidance in the
            reflection while `transformer_2` has its turn. Default: the method's, as with the first.
        eta: without effect, since the scheduler makes the final step with the `eta` of the pipeline's call.
        generator: as it is given to the pipeline's call, for methods that draw noise; its state stays.
        recorder: keeps what the method does at every step, in numbers; see `Recorder`.

    Yields:
        The group of the pipeline's denoisers; its `evaluations.per_video()` says what was spent in the context.

    Raises:
        ValueError: the pipeline is not served, and why; the scheduler has no step that can be reflected; `weak` does
            not fit; or, during the pipeline's call, the pipeline does something that is not supported.
        RuntimeError: another call is using one of the networks.
    """
    # One function because of its arguments, and what is said of them.
    check_arguments(
        method,
        form=form,
        weak=weak,
        weak_conditioning=weak_conditioning,
        weak_settings=weak_settings,
        weak_controlnet_conditioning_scale=weak_controlnet_conditioning_scale,
        weak_embedded_guidance=weak_embedded_guidance,
        strong_conditioning=strong_conditioning,
        strong_embedded_guidance=strong_embedded_guidance,
        strong_guidance_2=strong_guidance_2,
        weak_guidance_2=weak_guidance_2,
        generator=generator,
        recorder=recorder,
    )
    denoisers = _denoisers(pipeline)
    second = second_guidance(type(pipeline).__name__, denoisers, strong_guidance_2, weak_guidance_2)
    weaks = _weak(type(pipeline).__name__, denoisers, weak)
    check_inputs("weak_conditioning", weak_conditioning, [*denoisers.values(), *weaks.values()])
    check_inputs("strong_conditioning", strong_conditioning or PIPELINES_OWN, [*denoisers.values()])
    if form is None and method is None:
        entry = known(type(pipeline))
        form = entry.form if entry is not None else None
    elif form is None:
        form = form_of(type(pipeline))
    form = form or Form()
    if method is not None:
        if form.calls == "batch" and form.flag is not None and not hasattr(type(pipeline), form.flag):
            raise ValueError(f"{type(pipeline).__name__} does not say its `{form.flag}`, which a method needs to know.")
        check_scheduler(pipeline.scheduler, convention=method.convention)
        _check_denoisers(type(pipeline).__name__, denoisers, weaks)
    group = _group(
        pipeline,
        method,
        form,
        weak_conditioning=weak_conditioning,
        weak_settings=weak_settings,
        weak_control_scale=weak_controlnet_conditioning_scale,
        strong_conditioning=strong_conditioning,
        embedded=lambda: (
            _multiple(pipeline, "strong_embedded_guidance", strong_embedded_guidance),
            _multiple(pipeline, "weak_embedded_guidance", weak_embedded_guidance),
        ),
        second=second,
        noise=following_noise(generator),
        recorder=recorder,
    )
    free = pipeline.maybe_free_model_hooks
    stack = ExitStack()

    def attach() -> None:
        _attach(stack, group, pipeline, denoisers, weaks)
        stack.enter_context(switched([(vars(pipeline), "maybe_free_model_hooks", freed)]))

    def freed() -> None:
        stack.close()  # model offload takes away the forward that our hook wraps: ours goes first
        free()
        attach()  # for the next call while the context lasts

    with stack:
        attach()
        yield group


def _denoisers(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The pipeline's networks that predict, by name.

    Raises:
        ValueError: it has none.
    """
    if isinstance(pipeline, (str, type)):
        raise ValueError(f"`pipeline` is {pipeline!r}: give the pipeline itself, loaded by `from_pretrained`.")
    denoisers = {n: network for n in DENOISERS if isinstance(network := getattr(pipeline, n, None), nn.Module)}
    if not denoisers:
        raise ValueError(f"{type(pipeline).__name__} has neither `unet` nor `transformer`.")
    return denoisers


def _weak(
    name: str, denoisers: Mapping[str, nn.Module], weak: nn.Module | Mapping[str, nn.Module] | None
) -> dict[str, nn.Module]:
    """The weak arm's networks, by the name of the pipeline's; none where the two are the same.

    Raises:
        ValueError: one network for a pipeline that has several, or one for a network that the pipeline does not have.
    """
    if weak is None:
        return {}
    if not isinstance(weak, Mapping):
        if len(denoisers) > 1:
            raise ValueError(
                f"`weak` is one network, and {name} has {len(denoisers)} denoisers, which take turns. Accepted: a"
                f" network for each, {{{', '.join(f'{each!r}: …' for each in denoisers)}}}, or None."
            )
        weak = {next(iter(denoisers)): weak}
    if unknown := [each for each in weak if each not in denoisers]:
        raise ValueError(f"`weak` has a network for {unknown[0]!r}; {name} has {', '.join(map(repr, denoisers))}.")
    return {each: network for each, network in weak.items() if network is not denoisers[each]}


def _multiple(pipeline: DiffusionPipeline, name: str, number: float | None) -> float | None:
    """An embedded guidance as a multiple of the pipeline's own.

    Raises:
        ValueError: of 0, there is no such multiple; `name` is the argument.
    """
    if number is None:
        return None
    check_multiple(name, number, pipeline.guidance_scale)
    return number / (pipeline.guidance_scale or 1.0)


def check_multiple(name: str, number: float, guidance: float) -> None:
    """Raise the ValueError for an arm's embedded guidance beside a `guidance_scale` of 0: networks are told it in a
    unit of their own, which is read off what the pipeline tells them of its own number."""
    if guidance == 0 and number != 0:
        raise ValueError(
            f"`{name}` is {number!r} and `guidance_scale` 0, which does not say in which unit the network is told its"
            f" guidance: give a `guidance_scale` other than 0, or no `{name}`."
        )


def _group(pipeline: DiffusionPipeline, method: Method | None, form: Form, **own: Any) -> Group:
    """The group of a pipeline's denoisers, which reads the pipeline's state at every step; `own` is the caller's."""

    def positive(attribute: str) -> Callable[[], bool]:
        return lambda: (getattr(pipeline, attribute, None) or 0) > 0

    flag = form.flag if hasattr(type(pipeline), form.flag or "") else None

    def guidance() -> float | None:
        number = getattr(pipeline, "guidance_scale", None) if flag else None
        return float(number) if isinstance(number, (int, float)) else None

    return Group(
        method,
        pipeline.scheduler,
        form=form,
        name=type(pipeline).__name__,
        current=lambda: pipeline.scheduler,
        running=lambda: _calls(pipeline),
        foreign=lambda: _foreign(pipeline),
        guidance=guidance,
        doubled=lambda: bool(getattr(pipeline, flag)) if flag else None,
        rescaled=positive("guidance_rescale"),
        perturbed=positive("do_perturbed_attention_guidance"),
        num_steps=lambda: getattr(pipeline, "num_timesteps", None),
        **own,
    )


def _attach(
    stack: ExitStack,
    group: Group,
    pipeline: DiffusionPipeline,
    denoisers: Mapping[str, nn.Module],
    weak: Mapping[str, nn.Module],
) -> None:
    """Puts a group's hooks on the pipeline's networks and its seams on the scheduler, until the stack is closed."""
    stack.enter_context(used(group.name, [*denoisers.values(), *weak.values()]))
    for name, network in denoisers.items():
        hook = DenoiserHook(group, weak.get(name))
        if (compiled := vars(network).get("_compiled_call_impl")) is not None:
            hook.compiled = compiled
            stack.enter_context(switched([(vars(network), "_compiled_call_impl", None)]))
        stack.enter_context(attached(network, hook))
    silent = group.form.calls == "batch" and not hasattr(type(pipeline), group.form.flag or "")
    if group.method is not None or silent:  # where nothing says whether it guides, its latents' number is counted
        stack.enter_context(stepping(group))
    if group.method is not None:
        if getattr(pipeline, "controlnet", None) is not None:
            stack.enter_context(attached(pipeline.controlnet, ControlHook(lambda: bool(group.doubled()))))


def _running() -> Iterator[Any]:
    """The objects whose methods are being run, in this thread, from the innermost out."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        yield frame.f_locals.get("self")


def _calls(pipeline: DiffusionPipeline) -> bool:
    """Whether a method of the pipeline is being run, in this thread."""
    return any(each is pipeline for each in _running())


def _foreign(pipeline: DiffusionPipeline) -> bool:
    """Whether a method of another pipeline is being run, in this thread, and none of this one."""
    running = [each for each in _running() if isinstance(each, DiffusionPipeline)]
    return bool(running) and all(each is not pipeline for each in running)


def _check_denoisers(name: str, denoisers: Mapping[str, nn.Module], weak: Mapping[str, nn.Module]) -> None:
    """Refuse networks that a method cannot evaluate, before anything is computed."""
    for each, network in weak.items():
        check_same_inputs(name, network, denoisers[each])
        for says, ours, theirs in zip(("takes", "predicts"), channels(network), channels(denoisers[each]), strict=True):
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(
                    f"`weak` {says} {ours} channels, and {name}'s denoiser {theirs}: accepted is a network of the same"
                    " latents."
                )
        check_same_place(name, network, denoisers[each])
    for network in [*denoisers.values(), *weak.values()]:
        kind = type(unwrap_module(network)).__name__
        for _, hook in hooks_of(network):
            if hook._is_stateful:
                raise ValueError(
                    f"{kind} has a {type(hook).__name__}, which keeps what the network computed at one place for"
                    " another: a cache is not supported under a method, which evaluates the network at several"
                    " places a step. Use `disable_cache()`, or `method=None`."
                )


def following_noise(generator: torch.Generator | list[torch.Generator] | None) -> Callable[[Tensor], Tensor]:
    """Draws noise by generators that follow from the call's own, which it leaves as they are: one for each video."""

    def following(generator: torch.Generator) -> torch.Generator:
        ahead = generator.clone_state()
        seed = int(torch.randint(2**62, (), generator=ahead, device=generator.device))
        return torch.Generator(generator.device).manual_seed(seed ^ _NOISE)

    if generator is None:
        return torch.randn_like
    ours = [following(each) for each in generator] if isinstance(generator, list) else following(generator)
    return lambda x: randn_tensor(tuple(x.shape), generator=ours, device=x.device, dtype=x.dtype)
