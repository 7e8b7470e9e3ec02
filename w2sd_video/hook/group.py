"""What a pipeline calls between two steps of its scheduler, and the method's answer to it.

A pipeline keeps its own loop: it calls its denoiser, mixes what comes back by its guidance, and hands the mixture to
`scheduler.step`. Two places in that loop are ours. The denoiser's calls are answered with the strong arm's predictions
at x~_t, for which the networks are evaluated as often as the method needs; and `scheduler.step` then goes from x~_t
instead of x_t, after the pipeline has mixed, rescaled or normalised. So the final step is the pipeline's own, whatever
it does with its guidance, and a multistep scheduler keeps a history of predictions at x~_t.

How many calls there are between two steps is a matter of the pipeline's `Form`: one, of [unconditional; conditional]
rows where it guides, or one for each branch. Only with the last one, or at the step, is it known what the pipeline
needs. So an answer may be given before it is known (`tape`), and the pipeline's arithmetic is done again with its
values. The same arithmetic, applied to x_t, has to give what the scheduler steps from: this is checked at every step,
and leads a displacement from the network's latents to the scheduler's, packed, cut or negated as they may be there. A
pipeline that does anything else is refused by name, at its first step.

What a network takes beside the latents and after them (a mask and a picture, as in inpainting and image to video) is
held as it is, and so are parts of the latents whose time the pipeline says is 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from diffusers.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..arms import Settings, identity_attention, skipped, switched, transformer_blocks
from ..levels import Step, check_invertible, full_precision, read_step, step_index
from ..methods import Answer, Method
from .arm import BoundArm, Evaluations, branches, check_finite, parameters_of
from .control import Deferred
from .form import Form
from .inputs import parameters
from .recording import Recorder
from .sent import BOTH, PIPELINES_OWN, Branches, Conditioning, Latents, Sent
from .tape import Tape, Traced, value

# Residuals computed from x_t outside the denoiser: at x_s and x~_t they are stale. Those of a ControlNet a
# `ControlHook` defers.
STALE_UNDER_REFLECTION = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)


# Networks whose latents are (B, F, C, H, W): methods that part still from moving take time to be the third axis.
FRAMES_FIRST = ("CogVideoXTransformer3DModel", "ConsisIDTransformer3DModel", "UNetSpatioTemporalConditionModel")

TIMES = ("timestep", "timesteps", "t")  # a denoiser's names for the time


@dataclass
class Call:
    """One call of a denoiser: its inputs as they came, and the answer that the pipeline has of it."""

    hook: DenoiserHook
    module: nn.Module
    x: Tensor  # (rows, …), the latents in its input, in full precision
    latents: Latents
    inputs: dict[str, Any]
    control: Deferred | None
    learned_sigma: bool


@dataclass(frozen=True)
class Pending:
    """A method's answer, that the scheduler has not stepped with yet."""

    step: Step
    where: str
    x_t: Tensor
    answer: Answer
    sent: tuple[Sent, ...]


@dataclass
class Turn:
    """What the pipeline calls between two steps of its scheduler."""

    tape: Tape
    calls: list[Call] = field(default_factory=list)
    pending: Pending | None = None


class Group:
    """One pipeline's denoisers and scheduler, under a method.

    Args:
        method: the method, or None to pass calls through untouched and only count them.
        scheduler: the pipeline's scheduler, read at every step, so it may be reset during the run.
        form: how the pipeline calls its denoiser.
        current: the scheduler that the pipeline has now, read at every step. Default: that one.
        running: whether it is the pipeline's own call that sets the scheduler's timesteps, read when they are set.
        foreign: whether it is another pipeline that calls the denoiser, read at every call.
        name: the pipeline's, for messages.
        weak_conditioning: what the weak arm is told; by default what the pipeline tells the denoiser.
        weak_settings: what is set while the weak arm is evaluated; see `arms`.
        weak_control_scale: the weak arm's `controlnet_conditioning_scale`, where a `ControlHook` defers the ControlNet.
            Default: the pipeline's.
        strong_conditioning: what the strong arm is told in the reflection alone. None: what the pipeline tells it.
        embedded: the numbers of the strong arm (in the reflection alone) and the weak one, as multiples of the
            pipeline's, which a network that embeds its guidance is told as `guidance`, read at every step. None: its.
        guidance: the pipeline's guidance number, read at every step. None: it is not known, or not one number.
        doubled: whether the pipeline sends rows of both branches in one call, read at every step. None: not known
            before its scheduler steps.
        rescaled: whether it scales its mixture, by both branches (`guidance_rescale`), read at every step.
        perturbed: whether it evaluates a third branch (PAG), read at every step.
        num_steps: steps of the current loop, read at every step. None: it is not known, and the loop goes on to the end
            of `scheduler.timesteps`. Default: all of them.
        noise: draws standard normal noise like a tensor. Default: from torch's global generator.
        recorder: keeps what the method does, in numbers.
    """

    def __init__(
        self,
        method: Method | None,
        scheduler: Any,
        *,
        form: Form | None = None,
        name: str = "The pipeline",
        current: Callable[[], Any] | None = None,
        running: Callable[[], bool] = lambda: True,
        foreign: Callable[[], bool] = lambda: False,
        weak_conditioning: Conditioning = PIPELINES_OWN,
        weak_settings: Settings | None = None,
        weak_control_scale: float | list[float] | None = None,
        strong_conditioning: Conditioning | None = None,
        embedded: Callable[[], tuple[float | None, float | None]] = lambda: (None, None),
        guidance: Callable[[], float | None] = lambda: 1.0,
        doubled: Callable[[], bool | None] = lambda: False,
        rescaled: Callable[[], bool] = lambda: False,
        perturbed: Callable[[], bool] = lambda: False,
        num_steps: Callable[[], int | None] | None = None,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
        recorder: Recorder | None = None,
    ):
        self.method = method
        self.scheduler = scheduler
        self.form = form or Form()
        self.name = name
        self.current = current or (lambda: scheduler)
        self.running = running
        self.foreign = foreign
        self._foreign = False
        self.weak_conditioning = weak_conditioning
        self.weak_settings = weak_settings or []
        self.weak_control_scale = weak_control_scale
        self.strong_conditioning = strong_conditioning
        self.embedded = embedded
        self.guidance = guidance
        self.doubled = doubled
        self.rescaled = rescaled
        self.perturbed = perturbed
        self.num_steps = num_steps
        self.noise = noise
        self.recorder = recorder
        self.evaluations = Evaluations()
        self._sizes: dict[int, int] = {}  # parameters of the networks, by id
        self._turn: Turn | None = None
        self._seen: torch.Size | None = None  # the shape of what the denoiser was sent last, without a method
        self._unconditional: dict[str, Any] = {}  # of calls apart, what the unconditional one was told otherwise
        self._first = self._last = -1  # the scheduler's index of the loop's first step, and of the last one seen
        self._carried: tuple[int, Any] = (-1, None)  # the last step's place in the loop, and what its answer carries

    def restart(self) -> None:
        """A new loop begins: what an earlier one left, ended by an error, does not count."""
        self._turn, self._unconditional = None, {}
        self._first = self._last = -1
        self._foreign = not self.running()

    def answer(self, hook: DenoiserHook, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call, answered: at once if it is known to be the step's last, and else before it is known what
        the answer's values are."""
        names = parameters(type(unwrap_module(module)).forward)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        x = inputs.pop(names[0])
        if self._foreign or (self.method is not None and self.foreign()):
            raise ValueError(
                f"another pipeline uses the networks of {self.name}, to which a method is applied:"
                " apply one to that pipeline instead."
            )
        if self.method is None:
            self.evaluations.videos = len(x) // 2 if self.form.calls == "batch" and self.doubled() else len(x)
            self.evaluations.add("strong", len(x), self._parameters(module))
            self._seen = x.shape if isinstance(x, Tensor) else None
            return hook.evaluation(module)(*args, **kwargs)
        call = self._call(hook, module, names[0], x, inputs)
        turn = self._joined(call)
        rows = call.x.shape if not call.learned_sigma else (len(call.x), 2 * call.x.shape[1], *call.x.shape[2:])
        doubled = self.doubled() if self.form.calls == "batch" else None
        output_type: Any = tuple if inputs.get("return_dict") is False else None
        single = self.form.calls == "apart" and len(turn.calls) < 2
        if self.form.holds or single or self.form.calls == "batch" and doubled is None:
            p = turn.tape.answer(torch.full(rows, torch.nan, dtype=call.latents.dtype, device=call.x.device))
        else:
            values, running = self._answered(turn, doubled)
            output_type = running.output_type
            p = turn.tape.answer(values[-1])
            turn.tape.fill(values)
        reply: Any = list(p.unbind(0)) if call.latents.listed else p
        if output_type is None:
            output_type = _output_type()
        return (reply,) if output_type is tuple else output_type(sample=reply)

    def _call(self, hook: DenoiserHook, module: nn.Module, name: str, x: Any, inputs: dict[str, Any]) -> Call:
        """A denoiser's call, read."""
        if self.current() is not self.scheduler:
            raise ValueError(
                f"the scheduler of {self.name} was replaced after the method was applied: set it before"
                " `apply_reflection`."
            )
        if self.perturbed():
            self._refuse("evaluates a third branch, with its attention perturbed; set `pag_scale` to 0")
        listed = isinstance(x, list) and len(x) > 0 and all(isinstance(each, Tensor) for each in x)
        if listed and any(each.shape != x[0].shape for each in x):
            self._refuse("hands its denoiser latents of several sizes at once")
        x = torch.stack(x) if listed else x
        if not isinstance(x, Tensor):
            self._refuse(f"hands its denoiser a {type(x).__name__} where others hand one tensor of latents")
        taken, predicted = channels(module)
        beside, axis = None, self.form.axis
        if axis is not None and predicted is not None and x.ndim > 1:
            less = predicted < (x.shape[axis] if axis != 1 or taken is None else taken)
            if less and x.shape[axis] != taken and axis == 1:
                raise ValueError(
                    f"{type(unwrap_module(module)).__name__} takes {taken} channels and predicts {predicted}, and not"
                    " along the second axis: what lies beside the latents in its input (as in image to video) is not"
                    " known, which is not supported under a method. Use `method=None`."
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
        return Call(hook, module, full_precision(value(x)), latents, inputs, control, learned)

    def _joined(self, call: Call) -> Turn:
        """The turn that a call is of, with the call in it; refused is one that the form does not know."""
        turn = self._turn
        if turn is None:
            tape = Tape(read=lambda: self._read(self._turn), refuse=self._refuse)
            self._turn = turn = Turn(tape, [call])
            return turn
        if self.form.calls == "batch":
            self._refuse(
                "calls its denoiser more than once a step (with the prompt and without it, or with layers skipped);"
                " supported is one call, with both in one batch"
            )
        if len(turn.calls) > 1:
            self._refuse("calls its denoiser more than twice a step: a third branch of guidance, perhaps")
        if turn.pending is not None:
            self._refuse("reads values of what its denoiser predicts before it has called it for both branches")
        first = turn.calls[0]
        same = first.x.shape == call.x.shape and _equal(first.x, call.x) and first.module is call.module
        if not same:
            self._refuse("calls its denoiser twice a step, with other latents or another network the second time")
        turn.calls.append(call)
        return turn

    def _read(self, turn: Turn | None) -> None:
        """The pipeline reads an answer's values, so that they have to be known now."""
        if turn is None or turn.pending is not None:
            return
        if self.form.calls == "batch":
            self._refuse("reads values of what its denoiser predicts, and does not say whether it guides")
        if self.form.holds:
            self._refuse("reads values of what its denoiser predicts before its scheduler says which latents it steps")
        turn.tape.fill(self._answered(turn, False)[0])

    def _answered(
        self, turn: Turn, doubled: bool | None, sample: Tensor | None = None
    ) -> tuple[list[Tensor], BoundArm]:
        """What the turn's calls are answered with, each (rows, …), and by which arm.

        Args:
            doubled: of one call, whether its rows are of both branches.
            sample: what the scheduler steps, if that is known by now.
        """
        assert self.method is not None
        first = turn.calls[0]
        guided = bool(doubled) or len(turn.calls) == 2
        x_t = first.x
        if doubled:
            x_t, second = first.x.chunk(2) if len(first.x) % 2 == 0 else (first.x, first.x[:0])
            if not _equal(x_t, second):
                self._refuse(
                    f"guides and sends its denoiser {len(first.x)} {'rows' if len(first.x) != 1 else 'row'} that are"
                    " not the same latents twice: one call with the prompt and one without it, or more branches than"
                    " two; supported are two branches in one batch"
                )
        self.evaluations.videos = len(x_t)
        index, num_steps, step, still = self._step(self.method, first.module, first.inputs, x_t)
        if still is None and self.form.holds and sample is not None:
            still = _stepped_part(x_t, sample, _tolerance(first.latents.dtype))
        where = f"step {index + 1} of {num_steps} (timestep {step.timestep:g})"
        check_finite(x_t, f"the latents before {where}")
        sent = self._sent(turn, bool(doubled), x_t, still)
        strong, weak = self._arms(self.method, first, sent, index, step, where, guided)
        running = strong
        if self.method.reflects(index, num_steps, step.level):
            before, carried = self._carried
            step = replace(
                step,
                index=index,
                num_steps=num_steps,
                later=later(self.scheduler, index if self.num_steps is None else self._last, num_steps - 1 - index),
                carried=carried if before == index - 1 else None,
            )
            answer = self._reflected(self.method, first.module, x_t, step, strong, weak)
            running = strong if strong.evaluated else weak
        else:
            answer = Answer(strong.denoise(x_t))
        self._check_answer(answer, x_t, guided, where)
        if still is not None:
            answer = replace(answer, d=None if answer.d is None else sent[0].latents.only_moving(answer.d))
        self._carried = (index, answer.carry)
        if self.recorder is not None:
            self.recorder.add(index, step, x_t, answer)
        turn.pending = Pending(step, where, x_t, answer, tuple(sent[: len(turn.calls)]))
        for call in turn.calls:
            call.learned_sigma = running.learned_sigma
        return self._replies(turn, running.sign * answer.p), running

    def _sent(self, turn: Turn, doubled: bool, x_t: Tensor, still: Tensor | None) -> list[Sent]:
        """The turn's calls, by the branches of their rows."""
        order: Branches = ("cond", "uncond") if self.form.conditional_first else BOTH
        each_of: list[Branches] = [order] if doubled else [("cond",), ("uncond",)]
        sent = []
        for call, of in zip(turn.calls, each_of, strict=False):
            latents = call.latents
            if still is not None:
                latents = replace(latents, held=x_t, moving=still)
            sent.append(Sent(of, latents, call.inputs, call.control))
        if len(sent) == 2:
            cond, uncond = (each.inputs for each in sent)
            own = {key for key in uncond if uncond[key] is not cond.get(key) and key not in TIMES}
            self._unconditional = {key: uncond[key] for key in own}
        elif self._unconditional and not doubled:  # it stopped to guide; the reflection goes on as the method says
            sent.append(replace(sent[0], branches=("uncond",), inputs={**sent[0].inputs, **self._unconditional}))
        return sent

    def _parameters(self, network: nn.Module) -> int:
        if id(network) not in self._sizes:
            self._sizes[id(network)] = parameters_of(network)
        return self._sizes[id(network)]

    @property
    def _mixes(self) -> bool:
        return self.method is not None and self.method.mixes

    def _arms(
        self, method: Method, call: Call, sent: list[Sent], index: int, step: Step, where: str, guided: bool
    ) -> tuple[BoundArm, BoundArm]:
        """The strong and the weak arm, bound to the pipeline's calls; with what each has of its own."""
        final: Branches = BOTH if guided else ("cond",)
        if guided and self.form.calls == "batch" and not self.rescaled():
            guidance = self.guidance()
            final = BOTH if guidance is None else branches(guidance, self._mixes)
        bound: dict[str, Any] = {"sent": sent, "step": step, "where": where, "final": final}
        bound |= {"evaluations": self.evaluations, "sign": self.form.sign * step.sign}
        forward = call.hook.evaluation(call.module)
        numbers = [_embedding(sent[0].inputs, number, self.name) for number in self.embedded()]
        in_reflection = self.strong_conditioning
        if numbers[0] is not None:
            in_reflection = _with(in_reflection or PIPELINES_OWN, numbers[0])
        conditioning = self.weak_conditioning
        if numbers[1] is not None:
            conditioning = _with(conditioning, numbers[1])
        strong = BoundArm(
            "strong",
            forward,
            method.strong_guidance,
            in_reflection=in_reflection,
            parameters=self._parameters(call.module),
            **bound,
        )
        own = call.hook.weak if call.hook.weak is not None and not method.one_model else None
        weak = BoundArm(
            "weak",
            forward if own is None else own,
            method.weak_guidance,
            conditioning=conditioning,
            settings=self.weak_settings + perturbation(call.module if own is None else own, method, index),
            control_scale=self.weak_control_scale,
            parameters=self._parameters(call.module if own is None else own),
            **bound,
        )
        return strong, weak

    def _reflected(
        self, method: Method, module: nn.Module, x_t: Tensor, step: Step, strong: BoundArm, weak: BoundArm
    ) -> Answer:
        """The method's answer to a step that it changes."""
        self._check_reflectable(strong.sent[0].inputs)
        frames_first = type(unwrap_module(module)).__name__ in FRAMES_FIRST
        method.check(tuple(x_t.flatten(1, 2).shape if frames_first else x_t.shape))
        return method(x_t, step, strong, weak, lambda: self.noise(x_t))

    def _check_answer(self, answer: Any, x_t: Tensor, guided: bool, where: str) -> None:
        """Refuse an answer that the scheduler cannot step with, and values that are not finite."""
        name = type(self.method).__name__
        if not isinstance(answer, Answer):
            raise ValueError(f"{name} returns a {type(answer).__name__}: a method returns an `Answer`.")
        shape = tuple(x_t.shape)
        for part, tensor in (("prediction", answer.p), ("displacement", answer.d), ("correction", answer.e)):
            if tensor is None and part != "prediction":
                continue
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name} answers with a {part} that is a {type(tensor).__name__}: give a tensor.")
            accepted = [(k, *shape) for k in range(1, 2 + guided)] if part == "prediction" else [shape]
            fits = tuple(tensor.shape) in accepted if part == "prediction" else _broadcasts(tensor, x_t)
            if not fits:
                way = ", as `denoise` gives it" if part == "prediction" else ", that of x_t"
                raise ValueError(
                    f"{name} answers with a {part} of shape {tuple(tensor.shape)}: give one of"
                    f" {' or '.join(map(str, accepted))}{way}."
                )
            check_finite(tensor, f"the method's {part} at {where}")

    def _replies(self, turn: Turn, p: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Predictions (k, B, …) as the networks would have returned them, to each of the turn's calls: (rows, …).

        Args:
            dtype: of what is returned. Default: the calls' own.
        """
        assert turn.pending is not None
        replies = []
        for call, sent in zip(turn.calls, turn.pending.sent, strict=True):
            rows = [p[BOTH.index(branch) if len(p) == 2 else 0] for branch in sent.branches]
            reply = torch.cat(rows)
            if call.learned_sigma:  # the supported schedulers take no variance from the network
                reply = torch.cat([reply, torch.zeros_like(reply)], 1)
            replies.append(reply.to(dtype or call.latents.dtype))
        return replies

    def step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step: from x~_t where the method displaced x_t, with what it adds to the prediction."""
        bound = inspect.signature(type(self.scheduler).step).bind(self.scheduler, *args, **kwargs)
        given = bound.arguments
        output, sample = given.get("model_output"), given.get("sample")
        if self.method is None:  # of a pipeline without a flag: its latents say how many videos there are
            self.evaluations.videos = len(sample) if isinstance(sample, Tensor) else 1
            if isinstance(sample, Tensor) and self._seen is not None and len(self._seen) == sample.ndim + 1:
                self.evaluations.videos = sample.numel() // self._seen[1:].numel()  # frames are stepped as rows
            return step(*args, **kwargs)
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor):
            self._refuse("steps its scheduler with something else than tensors")
        turn, self._turn = self._turn, None
        if turn is None:
            self._refuse("makes a step of its scheduler without a call of its denoiser before it (a cache, perhaps)")
        if not isinstance(output, Traced) or output.tape is not turn.tape:
            self._refuse("hands its scheduler something that it has not computed from what its denoiser predicts")
        if turn.pending is None:
            doubled = self.form.calls == "batch" and self._doubled(turn.calls[0].x, value(sample))
            turn.tape.fill(self._answered(turn, doubled, value(sample))[0])
        pending = turn.pending
        assert pending is not None
        try:
            return self._stepped(step, bound, turn, pending, output, value(sample))
        finally:
            turn.tape.closed = True

    def _doubled(self, x: Tensor, sample: Tensor) -> bool:
        """Whether one call's x has rows of both branches: twice what the scheduler steps."""
        if self.form.holds:
            branches, rest = divmod(len(x), len(sample))
        else:  # the scheduler may step a video's frames as rows
            branches, rest = divmod(x.numel(), sample.numel())
        if branches not in (1, 2) or rest:
            self._refuse(
                f"sends its denoiser latents {tuple(x.shape)}, and steps {tuple(sample.shape)}: supported is one branch"
                " of guidance, or two in one batch"
            )
        return branches == 2

    def _stepped(
        self, step: Callable[..., Any], bound: Any, turn: Turn, pending: Pending, output: Traced, sample: Tensor
    ) -> Any:
        given, answer, mixture = bound.arguments, pending.answer, value(output)
        given["model_output"] = mixture

        def led(v: Tensor) -> Tensor:
            """What the pipeline makes of a tensor (B, …) of its denoiser's for its scheduler."""
            replies = self._replies(turn, v.expand_as(pending.x_t)[None], v.dtype)
            return turn.tape.replay(replies)[output.slot]

        way = self._check_stepped(pending, given, mixture, sample, led)
        dtype = torch.promote_types(sample.dtype, mixture.dtype)
        if answer.d is not None:  # half precision would round away what tells x~_t from x_t
            given["sample"] = full_precision(sample) + pending.step.scale * way * led(answer.d)
        if answer.e is not None:
            given["model_output"] = full_precision(mixture) + self.form.sign * pending.step.sign * led(answer.e)
        with switched(_without_corrector(self.scheduler) if answer.d is not None else []):
            made = step(*bound.args[1:], **bound.kwargs)
        if answer.d is None and answer.e is None:
            return made
        if isinstance(made, tuple):
            return (made[0].to(dtype), *made[1:])
        made.prev_sample = made.prev_sample.to(dtype)
        return made

    def _check_stepped(
        self, pending: Pending, given: Mapping[str, Any], mixture: Tensor, sample: Tensor, led: Callable[..., Tensor]
    ) -> float:
        """Refuse a step of other latents, or at another time, than those of the denoiser's calls.

        Returns:
            -1 if the pipeline negates what its denoiser predicts, else 1.
        """
        time, x = given.get("timestep"), pending.x_t
        if time is not None and abs(float(time) - pending.step.timestep) > 1e-3 * max(1.0, abs(float(time))):
            self._refuse(
                f"tells its denoiser another time than its scheduler, which it steps from timestep {float(time):g}"
            )
        if mixture.shape != sample.shape:
            self._refuse(
                "hands its scheduler a prediction of another shape than the latents that it steps, or of more branches"
            )
        latents = pending.sent[0].latents
        tolerance = _tolerance(latents.dtype)
        seen, expected = led(latents.only_moving(x)), full_precision(sample)
        if latents.moving is not None:  # where nothing moves, the pipeline may step what it likes
            moving = led(latents.moving.to(x.dtype)).abs().round().nan_to_num()
            seen, expected = seen * moving, expected * moving
        elif seen.numel() < x.numel():
            self._refuse("steps fewer latents than its denoiser sees (reference tokens, or a frame that is held still)")
        per_token = given.get("per_token_timesteps") is not None  # with which the scheduler steps by minus the flow
        for way in (1.0, -1.0):
            if _near(expected, pending.step.scale * way * seen, tolerance):
                if way != self.form.sign * (-1 if per_token else 1):
                    does = "negates" if way < 0 else "does not negate"
                    self._refuse(f"{does} what its denoiser predicts before its scheduler gets it, unlike its form")
                return way
        self._refuse(
            "hands its scheduler other latents than its denoiser, or something else than a mixture of what its denoiser"
            " predicts whose weights sum to 1"
        )

    def _step(
        self, method: Method, module: nn.Module, inputs: Mapping[str, Any], x_t: Tensor
    ) -> tuple[int, int, Step, Tensor | None]:
        """Which step of the loop this is, from 0; of how many; the step; and where the latents move, if not all do."""
        told = next((inputs[name] for name in TIMES if inputs.get(name) is not None), None)
        still = None
        if isinstance(told, Tensor):
            times = told[: len(x_t)] if told.ndim > 1 else told
            told = told.flatten().max()
            if bool((times != told).any()):
                still = self._moving(module, times, told, x_t)
        try:
            if told is None:
                raise ValueError
            found = step_index(self.scheduler, told)
        except (ValueError, IndexError):
            found = 0  # a time in units of its own, before the scheduler counts: `_check_stepped` sees whether it is
        index = found
        num_steps = len(self.scheduler.timesteps)
        if self.num_steps is not None:
            known = self.num_steps()
            starts = self._last < 0 and told is not None and float(told) <= 1
            if starts and known is not None and found + known > num_steps:
                found = 0  # a share of the training steps, which is the last timestep by chance
            if found <= self._last or self._last < 0:  # a loop may start late in the schedule, or anew
                self._first = found
            num_steps = known or num_steps - self._first  # if it is not known, the loop goes on to the schedule's end
            self._last = found
            index = found - self._first
        timesteps = self.scheduler.timesteps
        step = read_step(self.scheduler, timesteps[found], index=found)
        last = found - index + num_steps - 1
        if index == 0 and method.inverts and method.reflects(num_steps - 1, num_steps) and last < len(timesteps):
            check_invertible(read_step(self.scheduler, timesteps[last], index=last))
        if method.convention != "exact" and method.reflects(index, num_steps, step.level):
            step = read_step(self.scheduler, timesteps[found], convention=method.convention, index=found)
        return index, num_steps, step, still

    def _moving(self, module: nn.Module, times: Tensor, time: Tensor, x_t: Tensor) -> Tensor:
        """Where the latents x_t move: 1, and 0 where their own time is 0. Shaped to be broadcast to x_t.

        Args:
            times: (B, tokens), of which `time` is the greatest. Of videos (B, C, F, H, W), a token is a patch of the
                network's.
        """
        if bool(((times != time) & (times != 0)).any()):
            self._refuse("gives parts of the latents times of their own, and not only 0, at which they are held still")
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
        self._refuse("gives parts of the latents times of their own, and which parts these are is not known")

    def _check_reflectable(self, inputs: Mapping[str, Any]) -> None:
        for name in STALE_UNDER_REFLECTION:
            if inputs.get(name) is not None:
                raise ValueError(
                    f"`{name}` was computed from x_t, and a reflection evaluates the denoiser elsewhere too: such"
                    " residuals are not supported under a method that reflects, but for a ControlNet's that a"
                    " `ControlHook` defers. Use `method=None`, or `reflection_steps=0`."
                )

    def _refuse(self, does: str) -> NoReturn:
        raise ValueError(f"{self.name} is not supported under a method: it {does}. Use it with `method=None`.")


def perturbation(network: nn.Module, method: Method, index: int) -> Settings:
    """What a method sets on the layers of the weak arm's network at step `index`.

    Raises:
        ValueError: it names a layer that the network does not have, or one that cannot be perturbed.
    """
    if method.perturbation is None:
        return []
    blocks = transformer_blocks(network)
    chosen = {name: blocks[name] for name in method.perturbed(index, list(blocks))}
    return skipped(chosen) if method.perturbation == "skip" else identity_attention(chosen)


def later(scheduler: Any, index: int, most: int) -> Callable[[int], Step]:
    """Reads the steps after the one at an index of a scheduler's timesteps, of which `most` are left."""

    def step(n: int) -> Step:
        at = index + min(n, most)
        return read_step(scheduler, scheduler.timesteps[at], index=at)

    return step


class DenoiserHook(ModelHook):
    """Answers one denoiser's calls for its group.

    Networks may be compiled before or after, by `network.compile()`, `torch.compile(network)` or, block by block,
    `network.compile_repeated_blocks()`.

    Args:
        group: the pipeline's.
        weak: the weak arm's network. None: the denoiser itself.
    """

    def __init__(self, group: Group, weak: nn.Module | None = None):
        super().__init__()
        self.group = group
        self.weak = weak
        self.compiled: Any = None

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.group.answer(self, module, args, kwargs)

    def evaluation(self, module: nn.Module) -> Callable[..., Any]:
        """The network itself, compiled if `module.compile()` was called: then its forward is, and not the method's."""
        forward = self.fn_ref.original_forward
        if self.compiled is None:
            return forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with switched([(vars(module), "forward", forward)]):
                return self.compiled(*args, **kwargs)

        return run


def channels(network: nn.Module) -> tuple[int | None, int | None]:
    """How many channels a network takes, and how many it predicts; None where its configuration does not say."""
    config = getattr(network, "config", {})
    taken, predicted = (config.get(name) for name in ("in_channels", "out_channels"))
    if predicted is None:
        predicted = config.get("out_visual_dim")
    return (taken if isinstance(taken, int) else None, predicted if isinstance(predicted, int) else None)


def _without_corrector(scheduler: Any) -> Settings:
    """UniPC without its corrector, in the step that it is at. The corrector builds x_t anew from the last sample, and
    would lose the displacement. What is left is the predictor, a step like DPM-Solver++'s. In steps that are not
    displaced, and under methods that only add to the prediction, the corrector stays."""
    before = getattr(scheduler, "disable_corrector", None)
    if before is None or scheduler.step_index is None:
        return []
    return [(vars(scheduler), "disable_corrector", [*before, scheduler.step_index - 1])]


def _output_type() -> Callable[..., Any]:
    """What networks of diffusers return, as far as pipelines look: `sample`, or the first item."""
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput


def _embedding(inputs: Mapping[str, Any], times: float | None, name: str) -> dict[str, Tensor] | None:
    """The `guidance` that a network embeds, at that multiple of what the pipeline tells it."""
    if times is None:
        return None
    if not isinstance(inputs.get("guidance"), Tensor):
        raise ValueError(
            f"{name} tells its denoiser no `guidance` to embed: an arm can have no embedded guidance of its own there."
        )
    return {"guidance": times * inputs["guidance"]}


def _with(conditioning: Conditioning, inputs: Mapping[str, Any]) -> Conditioning:
    """A conditioning that holds these inputs as well, in both branches."""
    return Conditioning({**(conditioning.cond or {}), **inputs}, {**(conditioning.uncond or {}), **inputs})


def _equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same; NaN, which is not equal to NaN, is looked for elsewhere."""
    return x.shape == y.shape and (torch.equal(x, y) or not bool(torch.isfinite(x).all()))


def _stepped_part(x: Tensor, sample: Tensor, tolerance: float) -> Tensor | None:
    """Where in x (B, …) the latents lie that a scheduler steps, as 1, and 0 elsewhere: at the start of one axis (before
    the tokens of reference images) or at its end (after a first frame). None: they are all of x, or no such part."""
    axes = [axis for axis in range(1, x.ndim) if x.ndim == sample.ndim and x.shape[axis] != sample.shape[axis]]
    if len(axes) != 1 or len(x) != len(sample) or sample.shape[axes[0]] > x.shape[axes[0]]:
        return None
    (axis,), size = axes, sample.shape[axes[0]]
    parts = [x.narrow(axis, start, size) for start in (0, x.shape[axis] - size)]
    apart = [float((part - full_precision(sample)).norm()) for part in parts]  # frames of a still video are alike
    nearer = int(apart[1] < apart[0])
    if not _near(parts[nearer], sample, tolerance):
        return None
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    stepped = x.new_zeros(shape)
    stepped.narrow(axis, nearer * (x.shape[axis] - size), size).fill_(1)
    return stepped


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    """Whether x can be added to y and leave its shape."""
    try:
        return torch.broadcast_shapes(x.shape, y.shape) == y.shape
    except RuntimeError:
        return False


def _tolerance(dtype: torch.dtype) -> float:
    """How far latents may be, relative to their norm, from those that a network of this type is shown."""
    return max(16 * torch.finfo(dtype).eps, 1e-4)


def _near(x: Tensor, y: Tensor, tolerance: float) -> bool:
    x, y = full_precision(x), full_precision(y)
    return bool((x - y).norm() <= tolerance * y.norm() + torch.finfo(x.dtype).tiny)
