"""Attaching a method to a pipeline, and detaching it."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry
from diffusers.utils.torch_utils import randn_tensor, unwrap_module
from torch import Tensor, nn

from ..arms import Overrides, switched, without_peft
from ..methods import Method
from ..schedulers import check_scheduler
from .arguments import (
    DENOISERS,
    check_arguments,
    check_inputs,
    check_same_casting,
    check_same_inputs,
    check_same_place,
    check_same_texts,
    check_settings,
    hooks_of,
    second_guidance,
)
from .binding import Arms, Embedded
from .calls import channels
from .control import ControlHook
from .counter import Counter
from .denoiser import DenoiserHook
from .equal import equal_arms
from .form import Form, form_of, known
from .group import Group
from .host import PipelineHost
from .outermost import OutermostHook
from .recording import Recorder
from .sent import PIPELINES_OWN, Conditioning

HOOK_NAME = "w2sd_video"
_NOISE = 0x5DEECE66D  # keeps a method's noise apart from the initial latents, which the same generator draws

Hook = TypeVar("Hook", bound=OutermostHook)

_busy: set[int] = set()  # networks that a call is using, by id
_lock = threading.Lock()


@contextmanager
def attached(network: nn.Module, hook: Hook) -> Iterator[Hook]:
    """Registers a hook on the network while the context lasts; restores the network afterwards, even on error."""
    had_registry, had_forward = hasattr(network, "_diffusers_hook"), "forward" in vars(network)
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.register_hook(hook, HOOK_NAME)
    hook.registered(network)
    try:
        yield hook
    finally:
        hook.restore()  # what it wraps by now is what the registry gives the network
        registry.remove_hook(HOOK_NAME, recurse=False)
        if not registry.hooks and not had_forward:
            del network.forward  # the registry leaves the bound method behind as an attribute
        if not registry.hooks and not had_registry:
            del network._diffusers_hook
        hook.removed()


@contextmanager
def stepping(group: Group | Counter) -> Iterator[None]:
    """Sends the scheduler's `step` and `set_timesteps` through the group while the context lasts."""
    scheduler = group.host.scheduler

    def restart(set_timesteps: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        group.restart()
        set_timesteps(*args, **kwargs)

    intercepted = {
        "step": _Intercepted(group, scheduler.step, group.step),
        "set_timesteps": _Intercepted(group, scheduler.set_timesteps, restart),
    }
    with switched([(vars(scheduler), name, method) for name, method in intercepted.items()]):
        yield


class _Intercepted:
    """A scheduler's method with another body.

    Args:
        group: the group or counter that the scheduler is stepped through, which says whether it may be copied.
        original: the method.
        body: what is called in its place: it gets the method, and its arguments.
    """

    def __init__(self, group: Group | Counter, original: Callable[..., Any], body: Callable[..., Any]):
        functools.update_wrapper(self, original)  # pipelines look at the signature
        self._group, self._original, self._body = group, original, body

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._body(self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Intercepted:
        self._group.check_copy()
        return _Intercepted(self._group, copy.deepcopy(self._original, memo), self._body)


def check_free(name: str, networks: list[nn.Module]) -> None:
    """Raise the RuntimeError if a call is using one of the networks: two would change the same hooks and settings."""
    if any(id(network) in _busy for network in networks):
        raise RuntimeError(
            f"{name} is in use: a call of it, or an `apply_reflection` around it, or one of a pipeline that shares a"
            " network with it, has not ended. Make one at a time, or give each thread a pipeline of its own"
            " (`copy.deepcopy`)."
        )


@contextmanager
def used(name: str, networks: list[nn.Module]) -> Iterator[None]:
    """Reserves the networks for one call while the context lasts.

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
    weak_settings: Overrides | None = None,
    weak_controlnet_conditioning_scale: float | list[float] | None = None,
    weak_embedded_guidance: float | None = None,
    strong_conditioning: Conditioning | None = None,
    strong_embedded_guidance: float | None = None,
    strong_guidance_2: float | None = None,
    weak_guidance_2: float | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    recorder: Recorder | None = None,
) -> Iterator[Group | Counter]:
    """Applies a method to any supported diffusers pipeline while the context lasts.

    Supported are the pipelines listed in docs/pipelines.md and subclasses that inherit their `__call__`; any other
    pipeline needs a `form`. The scheduler has to be one that `schedulers.read_step` reads. Every step checks what the
    pipeline does between its denoiser and its scheduler, and refuses by name what is not supported.

    An arm's guidance in the reflection can differ from 1 only while the pipeline itself guides, that is, while its own
    guidance is over 1. If the pipeline stops guiding during its call, later steps can still reflect with guidance,
    provided that the pipeline calls its network once for each branch. `guidance_rescale`, normalised guidance and the
    like act on the final step alone; the reflection uses plain guidance. A network that embeds its guidance needs no
    unconditional branch: without guidance, a reflected step takes 3 evaluations.

    Args:
        pipeline: the strong arm, with its scheduler and adapters set.
        method: an instance of one of `methods`, such as `W2SD(strong_guidance=5.5, weak_guidance=1.0)`. None: only
            count evaluations.
        form: how the pipeline calls its denoiser. Default: the known form of its class.
        weak: the weak arm's network. For a pipeline with two denoisers, a dictionary with a network for each, by the
            denoiser's name. Default, also for a name that is left out: the pipeline's own network.
        weak_conditioning: denoiser inputs of the weak arm that replace the pipeline's; see "What each arm is told" in
            docs/pipelines.md.
        weak_settings: attributes to set while the weak arm is evaluated, as the functions of `arms` return them for
            this network, such as `arms.adapter_scales(pipe.unet, {"style": -1.5})`.
        weak_controlnet_conditioning_scale: the weak arm's ControlNet scale. Default: the pipeline's.
        weak_embedded_guidance, strong_embedded_guidance: for networks that embed their guidance, the number of the weak
            arm, and of the strong arm in the reflection, on the scale of the pipeline's `guidance_scale`. Default: the
            pipeline's number.
        strong_conditioning: denoiser inputs of the strong arm that replace the pipeline's in the reflection; the final
            step uses the pipeline's.
        strong_guidance_2, weak_guidance_2: for a pipeline with two denoisers, the arms' guidance in the reflection
            while `transformer_2` runs. Default: the method's.
        generator: the generator of the pipeline's call, for methods that draw noise; its state is left unchanged.
        recorder: records, in numbers, what the method does at every step; see `Recorder`.

    Yields:
        What the pipeline's denoisers are called through: its `evaluations.per_video()` counts the evaluations made in
        the context.

    Raises:
        ValueError: the pipeline is not supported, with the reason; the scheduler has no step that can be reflected;
            `weak` does not fit; or, during its call, the pipeline does something that is not supported.
        RuntimeError: another call is using one of the networks.
    """
    # One function because of its many arguments and their documentation.
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
    if method is None:
        entry = known(type(pipeline))
        counter = Counter(PipelineHost(pipeline, form or (entry and entry.form) or Form()))
        with _Attachment(counter, pipeline, denoisers, weaks):
            yield counter
        return
    form = form or form_of(type(pipeline))
    _check_method(pipeline, method, form, denoisers, weaks)
    for each, network in weaks.items() if weak_settings else ():
        check_settings(weak_settings or [], network, denoisers[each])
    for each, network in weaks.items() if weak_conditioning.cond is None else ():
        check_same_texts(type(pipeline).__name__, network, denoisers[each])
    own: list[object] = [weak_conditioning.cond, weak_conditioning.uncond, weak_settings, strong_conditioning]
    own += [weak_controlnet_conditioning_scale, weak_embedded_guidance, strong_embedded_guidance]
    note = equal_arms(method, weaks, second.values(), own)
    arms = Arms(
        type(pipeline).__name__,
        weak_conditioning,
        weak_settings or [],
        weak_controlnet_conditioning_scale,
        strong_conditioning,
        embedded=lambda: (
            _embedded(pipeline, "strong_embedded_guidance", strong_embedded_guidance),
            _embedded(pipeline, "weak_embedded_guidance", weak_embedded_guidance),
        ),
        second=second,
    )
    group = Group(method, PipelineHost(pipeline, form), arms, following_noise(generator), recorder, note)
    with _Attachment(group, pipeline, denoisers, weaks):
        yield group


def _denoisers(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The pipeline's denoisers, by component name.

    Raises:
        ValueError: it has none.
    """
    if isinstance(pipeline, (str, type)):
        raise ValueError(f"`pipeline` is {pipeline!r}: give the pipeline itself, loaded by `from_pretrained`.")
    if not isinstance(pipeline, DiffusionPipeline):
        raise ValueError(
            f"`pipeline` is a {type(pipeline).__name__}; accepted: a `DiffusionPipeline`, of docs/pipelines.md or with"
            " `form`. A modular pipeline is none."
        )
    networks = {name: without_peft(getattr(pipeline, name, None)) for name in DENOISERS}
    denoisers = {name: network for name, network in networks.items() if isinstance(network, nn.Module)}
    if not denoisers:
        raise ValueError(f"{type(pipeline).__name__} has neither `unet` nor `transformer`.")
    return denoisers


def _weak(
    name: str, denoisers: Mapping[str, nn.Module], weak: nn.Module | Mapping[str, nn.Module] | None
) -> dict[str, nn.Module]:
    """The weak arm's networks, by the denoiser's name; without those that are the pipeline's own.

    Raises:
        ValueError: one network for a pipeline that has several, one for a denoiser that the pipeline does not have, or
            one that is another of its denoisers.
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
    weak = {each: without_peft(network) for each, network in weak.items()}
    if unknown := [each for each in weak if each not in denoisers]:
        raise ValueError(f"`weak` has a network for {unknown[0]!r}; {name} has {', '.join(map(repr, denoisers))}.")
    for each, network in weak.items():
        if other := next((n for n, own in denoisers.items() if own is network and n != each), None):
            raise ValueError(
                f"`weak` has {name}'s own {other!r} as the network for {each!r}: a denoiser of the pipeline is hooked"
                " itself. Accepted: a copy of it (`copy.deepcopy`), or another network."
            )
    return {each: network for each, network in weak.items() if network is not denoisers[each]}


def _embedded(pipeline: DiffusionPipeline, name: str, number: float | None) -> Embedded | None:
    """An arm's embedded guidance beside the pipeline's `guidance_scale`.

    Args:
        name: the argument's name, for the message.

    Raises:
        ValueError: the pipeline's number is 0, which has no other multiple than 0.
    """
    if number is None:
        return None
    check_multiple(name, number, pipeline.guidance_scale)
    return number, pipeline.guidance_scale


def check_multiple(name: str, number: float, guidance: float) -> None:
    """Refuse an arm's embedded guidance beside a `guidance_scale` of 0.

    Each network expects the number in a unit of its own. The hook reads that unit from the pipeline's own number as the
    network gets it, which 0 does not show.
    """
    if guidance == 0 and number != 0:
        raise ValueError(
            f"`{name}` is {number!r} and `guidance_scale` 0, which does not say in which unit the network is told its"
            f" guidance: give a `guidance_scale` other than 0, or no `{name}`."
        )


class _Attachment:
    """Hooks a group to a pipeline's networks and its scheduler while the context lasts.

    It is an object so that no function of it refers to another: such a circle would keep the pipeline, with its
    networks, in memory until Python's collector of circles runs.
    """

    def __init__(
        self,
        group: Group | Counter,
        pipeline: DiffusionPipeline,
        denoisers: Mapping[str, nn.Module],
        weak: Mapping[str, nn.Module],
    ):
        self.group, self.pipeline, self.denoisers, self.weak = group, pipeline, denoisers, weak
        self.free = pipeline.maybe_free_model_hooks
        self.stack = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as stack:  # undoes what is attached so far, if an error ends this
            self._attach(stack)
            self.stack = stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        self.group.end()

    def freed(self) -> None:
        """The pipeline's `maybe_free_model_hooks`, which ends its call."""
        self.stack.close()  # model offload takes away the forward that our hook wraps: ours goes first
        self.free()
        self.__enter__()  # for the next call while the context lasts

    def _attach(self, stack: ExitStack) -> None:
        group, pipeline = self.group, self.pipeline
        stack.enter_context(used(group.host.name, [*self.denoisers.values(), *self.weak.values()]))
        for name, network in self.denoisers.items():
            hook = DenoiserHook(group, self.weak.get(name))
            if (compiled := vars(network).get("_compiled_call_impl")) is not None:
                hook.compiled = compiled
                stack.enter_context(switched([(vars(network), "_compiled_call_impl", None)]))
            stack.enter_context(attached(network, hook))
        form = group.host.form
        if isinstance(group, Group) or form.calls == "batch":  # a step shows how many videos a batch is of
            stack.enter_context(stepping(group))
        if isinstance(group, Group) and getattr(pipeline, "controlnet", None) is not None:
            doubled = group.host.doubled
            stack.enter_context(attached(pipeline.controlnet, ControlHook(lambda: bool(doubled()))))
        stack.enter_context(switched([(vars(pipeline), "maybe_free_model_hooks", self.freed)]))


def _check_method(
    pipeline: DiffusionPipeline,
    method: Method,
    form: Form,
    denoisers: Mapping[str, nn.Module],
    weak: Mapping[str, nn.Module],
) -> None:
    """Refuse a pipeline that a method cannot be applied to, before anything is computed."""
    if form.calls == "batch" and form.flag is not None and not hasattr(type(pipeline), form.flag):
        raise ValueError(
            f"{type(pipeline).__name__} has no `{form.flag}`, which a method needs to know. Accepted: a `form` with"
            " `flag=None`, or with the attribute that says whether it guides."
        )
    check_scheduler(pipeline.scheduler, convention=method.convention)
    _check_denoisers(pipeline, denoisers, weak)
    if method.looks_ahead and len(denoisers) > 1:
        raise ValueError(
            f"{type(method).__name__} evaluates the network at the times of later steps, some of which belong to"
            f" another of the {len(denoisers)} denoisers of {type(pipeline).__name__}. Use another method."
        )


def _check_denoisers(
    pipeline: DiffusionPipeline, denoisers: Mapping[str, nn.Module], weak: Mapping[str, nn.Module]
) -> None:
    """Refuse networks that a method cannot evaluate, before anything is computed."""
    name = type(pipeline).__name__
    for each, network in weak.items():
        check_same_inputs(name, network, denoisers[each])
        check_same_casting(name, network, denoisers[each])
        both = zip(("takes", "predicts"), channels(network), channels(denoisers[each]), strict=True)
        for says, of_weak, of_strong in both:
            if None not in (of_weak, of_strong) and of_weak != of_strong:
                raise ValueError(
                    f"`weak` {says} {of_weak} channels, and {name}'s denoiser {of_strong}. Accepted: a network of the"
                    " same latents."
                )
        # A pipeline does not know it if one of its networks is a plain module.
        check_same_place(name, network, denoisers[each], getattr(pipeline, "_execution_device", None))
    for network in [*denoisers.values(), *weak.values()]:
        kind = type(unwrap_module(network)).__name__
        for _, hook in hooks_of(network):
            if hook._is_stateful:
                raise ValueError(
                    f"{kind} has a {type(hook).__name__}, which reuses what the network computed earlier. A cache is"
                    " not supported under a method, which evaluates the network at several latents in each step. Use"
                    " `disable_cache()`, or `method=None`."
                )


def following_noise(generator: torch.Generator | list[torch.Generator] | None) -> Callable[[Tensor], Tensor]:
    """Draws noise from new generators, one for each of the call's and seeded from it; the call's stay unchanged."""

    def following(generator: torch.Generator) -> torch.Generator:
        ahead = generator.clone_state()
        seed = int(torch.randint(2**62, (), generator=ahead, device=generator.device))
        return torch.Generator(generator.device).manual_seed(seed ^ _NOISE)

    if generator is None:
        return torch.randn_like
    ours = [following(each) for each in generator] if isinstance(generator, list) else following(generator)
    return lambda x: randn_tensor(tuple(x.shape), generator=ours, device=x.device, dtype=x.dtype)
