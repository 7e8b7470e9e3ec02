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
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..arms import Settings, switched
from ..levels import full_precision
from ..methods import Answer, Method
from .arm import BoundArm, Evaluations, branches, check_finite
from .binding import Arms
from .calls import check_reflectable, named_inputs, read_call, read_time, shape_in_time
from .form import Form
from .loop import Loop
from .recording import Recorder
from .sent import BOTH, PIPELINES_OWN, Branches, Conditioning, Sent
from .stepped import check_stepped, sends_both, stepped_part, tolerance, without_corrector
from .tape import Tape, Traced, value
from .turn import Pending, Turn, check_answer, unconditional_inputs, version


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
        second: the guidance of the arms in the reflection, strong and weak, while a second denoiser has its turn, by
            that denoiser. None: the method's.
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
        second: Mapping[nn.Module, tuple[float | None, float | None]] | None = None,
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
        self.guidance = guidance
        self.doubled = doubled
        self.rescaled = rescaled
        self.perturbed = perturbed
        self.noise = noise
        self.recorder = recorder
        self._arms = Arms(
            name,
            weak_conditioning,
            weak_settings or [],
            weak_control_scale,
            strong_conditioning,
            embedded,
            second or {},
        )
        self._loop = Loop(scheduler, num_steps)
        self._turn: Turn | None = None
        self._foreign = False
        self._seen: torch.Size | None = None  # the shape of what the denoiser was sent last, without a method
        self._unconditional: dict[str, Any] = {}  # of calls apart, what the unconditional one was told otherwise
        self._carried: tuple[int, Any] = (-1, None)  # the last step's place in the loop, and what its answer carries

    @property
    def evaluations(self) -> Evaluations:
        """What was spent."""
        return self._arms.evaluations

    def restart(self) -> None:
        """A new loop begins: what an earlier one left, ended by an error, does not count."""
        self._turn, self._unconditional = None, {}
        self._loop.restart()
        self._foreign = not self.running()

    def answer(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        weak: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The denoiser's call, answered: at once if it is known to be the step's last, and else before it is known what
        the answer's values are.

        Args:
            module: the denoiser, and `forward`, what it computes without a hook.
            weak: the weak arm's network. None: the denoiser itself.
            args, kwargs: of the call.
        """
        name, inputs = named_inputs(module, args, kwargs)
        if self._foreign or (self.method is not None and self.foreign()):
            raise ValueError(
                f"another pipeline uses the networks of {self.name}, to which a method is applied:"
                " apply one to that pipeline instead."
            )
        if self.method is None:
            x = inputs[name]
            self.evaluations.videos = len(x) // 2 if self.form.calls == "batch" and self.doubled() else len(x)
            self.evaluations.add("strong", len(x), self._arms.parameters(module))
            self._seen = x.shape if isinstance(x, Tensor) else None
            return forward(*args, **kwargs)
        if self.current() is not self.scheduler:
            raise ValueError(
                f"the scheduler of {self.name} was replaced after the method was applied: set it before"
                " `apply_reflection`."
            )
        if self.perturbed():
            self._refuse("evaluates a third branch, with its attention perturbed; set `pag_scale` to 0")
        call = read_call(module, forward, weak, name, inputs, axis=self.form.axis, refuse=self._refuse)
        if self._turn is None:
            self._turn = Turn(Tape(read=lambda: self._read(self._turn), refuse=self._refuse))
        turn = self._turn
        turn.join(call, self.form, self._refuse)
        shape = call.answer_shape
        guides = self.doubled() if self.form.calls == "batch" else None
        output_type: Any = tuple if inputs.get("return_dict") is False else None
        single = self.form.calls == "apart" and len(turn.calls) < 2
        if self.form.holds or single or self.form.calls == "batch" and guides is None:
            p = turn.tape.answer(torch.full(shape, torch.nan, dtype=call.latents.dtype, device=call.x.device))
        else:
            replies, arm = self._answered(turn, guides)
            output_type = arm.output_type
            p = turn.tape.answer(replies[-1])
            turn.tape.fill(replies)
        reply: Any = list(p.unbind(0)) if call.latents.listed else p
        if output_type is None:
            output_type = _output_type()
        return (reply,) if output_type is tuple else output_type(sample=reply)

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
        first, guided = turn.calls[0], bool(doubled) or len(turn.calls) == 2
        x_t = turn.latents(bool(doubled), self._refuse)
        self.evaluations.videos = len(x_t)
        time, moving = read_time(first.module, first.inputs, x_t, self._refuse)
        step = self._loop.step(time, self.method)
        if moving is None and self.form.holds and sample is not None:
            moving = stepped_part(x_t, sample, tolerance(first.latents.dtype))
        where = f"step {step.index + 1} of {step.num_steps} (timestep {step.timestep:g})"
        check_finite(x_t, f"the latents before {where}")
        sent = self._sent(turn, bool(doubled), x_t, moving)
        sign = self.form.sign * step.sign
        strong, weak = self._arms.bind(self.method, first, sent, step, where, self._final(guided), sign)
        arm = strong
        if self.method.reflects(step.index, step.num_steps, step.level):
            before, carried = self._carried
            step = replace(step, carried=carried if before == step.index - 1 else None)
            check_reflectable(strong.sent[0].inputs)
            self.method.check(shape_in_time(x_t, first.module, self.form.axis))
            before_it = version(x_t)
            answer = self.method(x_t, step, strong, weak, lambda: self.noise(x_t))
            if version(x_t) != before_it:
                raise ValueError(f"{type(self.method).__name__} changes x_t in place: a method makes new tensors.")
            arm = strong if strong.evaluated else weak
        else:
            answer = Answer(strong.denoise(x_t))
        check_answer(answer, type(self.method).__name__, x_t, guided, where)
        if moving is not None:
            answer = replace(answer, d=None if answer.d is None else sent[0].latents.only_moving(answer.d))
        self._carried = (step.index, answer.carry)
        if self.recorder is not None:
            in_time = len(shape_in_time(x_t, first.module, self.form.axis)) == 5
            self.recorder.add(step.index, step, x_t, answer, time=2 if in_time else 1)
        turn.pending = Pending(step, x_t, answer, tuple(sent[: len(turn.calls)]))
        for call in turn.calls:
            call.learned_sigma = arm.learned_sigma
        return turn.replies(arm.sign * answer.p), arm

    def _sent(self, turn: Turn, doubled: bool, x_t: Tensor, moving: Tensor | None) -> list[Sent]:
        """The turn's calls by branch; of a pipeline that stopped to guide, with the unconditional one as it was."""
        sent = turn.sent(self.form, doubled, x_t, moving)
        if len(sent) == 2:
            self._unconditional = unconditional_inputs(sent[0].inputs, sent[1].inputs)
        elif self._unconditional and not doubled:  # the reflection goes on as the method says
            sent.append(replace(sent[0], branches=("uncond",), inputs={**sent[0].inputs, **self._unconditional}))
        return sent

    def _final(self, guided: bool) -> Branches:
        """The branches that the pipeline needs for its own step."""
        if not guided:
            return ("cond",)
        if self.form.calls != "batch" or self.rescaled() or (guidance := self.guidance()) is None:
            return BOTH
        return branches(guidance, self.method is not None and self.method.mixes)

    def step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step: from x~_t where the method displaced x_t, with what it adds to the prediction."""
        bound = inspect.signature(type(self.scheduler).step).bind(self.scheduler, *args, **kwargs)
        output, sample = bound.arguments.get("model_output"), bound.arguments.get("sample")
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
            x = turn.calls[0].x
            twice = self.form.calls == "batch" and sends_both(x, value(sample), self.form, self._refuse)
            turn.tape.fill(self._answered(turn, twice, value(sample))[0])
        try:
            return self._stepped(step, bound, turn, output.slot)
        finally:
            turn.tape.closed = True

    def _stepped(self, step: Callable[..., Any], bound: inspect.BoundArguments, turn: Turn, slot: int) -> Any:
        """The scheduler's step, with the pipeline's mixture, which is at a slot of the turn's tape."""
        pending, arguments = turn.pending, bound.arguments
        assert pending is not None
        answer = pending.answer
        mixture = value(arguments["model_output"])
        if not bool(answer.p.any()):  # whatever the pipeline divides it by
            mixture = torch.zeros_like(mixture)
        arguments["model_output"] = mixture
        sample = value(arguments["sample"])

        def led(v: Tensor) -> Tensor:
            """What the pipeline makes of a tensor (B, …) of its denoiser's for its scheduler: 0 where that is 0, also
            where the pipeline divides by a norm or a deviation of it, as normalised and rescaled guidance do."""
            replayed = turn.tape.replay(turn.replies(v.expand_as(pending.x_t)[None], v.dtype))[slot]
            return replayed.nan_to_num(0.0, torch.inf, -torch.inf)

        way = check_stepped(
            pending.x_t,
            pending.sent[0].latents,
            pending.step,
            arguments | {"sample": sample},
            form=self.form,
            led=led,
            refuse=self._refuse,
        )
        dtype = torch.promote_types(sample.dtype, mixture.dtype)
        if answer.d is not None:  # half precision would round away what tells x~_t from x_t
            arguments["sample"] = full_precision(sample) + pending.step.scale * way * led(answer.d)
        if answer.e is not None:
            arguments["model_output"] = full_precision(mixture) + self.form.sign * pending.step.sign * led(answer.e)
        with switched(without_corrector(self.scheduler) if answer.d is not None else []):
            output = step(*bound.args[1:], **bound.kwargs)
        if answer.d is None and answer.e is None:
            return output
        if isinstance(output, tuple):
            return (output[0].to(dtype), *output[1:])
        output.prev_sample = output.prev_sample.to(dtype)
        return output

    def _refuse(self, does: str) -> NoReturn:
        raise ValueError(f"{self.name} is not supported under a method: it {does}. Use it with `method=None`.")


def _output_type() -> Callable[..., Any]:
    """What networks of diffusers return, as far as pipelines look: `sample`, or the first item."""
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput
