"""One pipeline's denoisers and scheduler under a method.

A pipeline keeps its own loop: it calls its denoiser, mixes the predictions by its guidance, and hands the mixture to
`scheduler.step`. The group intercepts two places in that loop. It answers the denoiser's calls with the strong arm's
predictions at x~_t, evaluating the networks as often as the method needs. Then it makes `scheduler.step` start from
x~_t instead of x_t, after the pipeline has mixed, rescaled or normalised the predictions. So the final step is the
pipeline's own, whatever it does with its guidance, and a multistep scheduler keeps a history of predictions at x~_t.

The pipeline's `Form` says how many calls it makes between two steps: one, with [unconditional; conditional] rows while
it guides, or one for each branch. Only the last call, or the scheduler's step, shows what the pipeline needs. So the
group may have to answer a call before it knows the values. It then answers with a traced tensor (`tape`), and replays
the pipeline's arithmetic once the values are known.

The same arithmetic, replayed on x_t, has to give the sample that the scheduler steps from; every step checks this. On a
displacement it gives the displacement in the scheduler's layout, in which latents may be packed, cut or negated. A
pipeline that does anything else is refused by name, at its first step.

Inputs that a network takes beside the latents (a mask and a picture, as in inpainting and image to video) are kept as
they are, and so are the parts of the latents to which the pipeline gives time 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from ..arms import switched
from ..errors import note_once
from ..levels import full_precision
from ..methods import Method
from ..schedulers import stepped_dtype, without_corrector
from .arguments import check_frames
from .arm import Evaluations, Unchanged, check_finite
from .binding import Arms
from .calls import axes_of, check_reflectable, named_inputs, read_call, read_time, shape_in_order
from .form import final_branches
from .host import Host
from .loop import Loop
from .recording import Recorder
from .sent import Branches, Sent
from .stepped import check_stepped, sends_both, stepped_part, tolerance
from .tape import Tape, Traced, value
from .turn import Pending, Turn, check_answer, unconditional_inputs


class Group:
    """One pipeline's denoisers and scheduler under a method.

    Args:
        method: the method.
        host: the pipeline.
        arms: the settings of the strong and the weak arm. Default: the pipeline's own.
        noise: draws standard normal noise of a tensor's shape. Default: from torch's global generator.
        recorder: records, in numbers, what the method does.
        note: what to say, once, where the method changes a step. None: nothing.
    """

    def __init__(
        self,
        method: Method,
        host: Host,
        arms: Arms | None = None,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
        recorder: Recorder | None = None,
        note: str | None = None,
    ):
        self.method = method
        self.host = host
        self.form = host.form
        self.noise = noise
        self.recorder = recorder
        self._note = note
        self._arms = arms or Arms()
        self._loop = Loop(host.scheduler, host.num_steps)
        self._turn: Turn | None = None
        self._foreign = False
        self._checked = False  # what this loop guides by
        self._unconditional: dict[str, Any] = {}  # inputs of the last unconditional call that differ

    @property
    def evaluations(self) -> Evaluations:
        """The network evaluations so far."""
        return self._arms.evaluations

    def restart(self) -> None:
        """Begins a new loop, and drops what an earlier one left when an error ended it."""
        self._turn, self._unconditional = None, {}
        self._loop.restart()
        self._foreign, self._checked = not self.host.running(), False

    def end(self) -> None:
        """Lets go of the pipeline and of all tensors. The method, the form and the evaluations stay."""
        self.host = Host(None, self.form, self.host.name)
        self._arms = Arms(evaluations=self.evaluations)
        self._loop, self.noise = Loop(None), torch.randn_like
        self._turn, self._unconditional = None, {}

    def check_copy(self) -> None:
        """Refuse a copy of the scheduler, or of the pipeline: it would act on the first one.

        Raises:
            ValueError: always.
        """
        if not self.host.running():
            raise ValueError(
                f"{self.host.name}, or its scheduler, was copied while a method is applied to it (in"
                " `apply_reflection`, or during a call): the copy would act on the first one. Copy it before or"
                " afterwards."
            )
        self._refuse("copies its scheduler during the call, and steps of a copy cannot be reflected")

    def answer(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        weak: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The answer to a denoiser's call. If more calls may follow in this step, its values are filled in later.

        Args:
            module: the denoiser.
            forward: the denoiser's forward without the hook.
            weak: the weak arm's network. None: the denoiser itself.
            args, kwargs: the arguments of the call.
        """
        name, inputs = named_inputs(module, args, kwargs)
        if self._foreign or self.host.foreign():
            raise ValueError(
                f"another pipeline uses the networks of {self.host.name}, to which a method is applied:"
                " apply one to that pipeline instead."
            )
        if self.host.replaced():
            raise ValueError(
                f"the scheduler of {self.host.name} was replaced after the method was applied: set it before"
                " `apply_reflection`."
            )
        if not self._checked and (more := self.host.guides_by_more()) is not None:
            self._refuse(more)
        self._checked = True
        call = read_call(module, forward, weak, name, inputs, axis=self.form.axis, refuse=self._refuse)
        if self._turn is None:
            self._turn = Turn(Tape(read=self._fill_early, refuse=self._refuse))
        turn = self._turn
        turn.join(call, self.form, self._refuse)
        shape = call.answer_shape
        guides = self.host.doubled() if self.form.calls == "batch" else None
        output_type: Callable[..., Any] = tuple if inputs.get("return_dict") is False else Transformer2DModelOutput
        more_may_follow = self.form.calls == "apart" and len(turn.calls) < 2
        if self.form.holds or more_may_follow or (self.form.calls == "batch" and guides is None):
            p = turn.tape.answer(torch.full(shape, torch.nan, dtype=call.latents.dtype, device=call.x.device))
        else:
            replies = self._evaluate(turn, guides)
            p = turn.tape.answer(replies[-1])
            turn.tape.fill(replies)
        reply: Any = list(p.unbind(0)) if call.latents.listed else p
        return (reply,) if output_type is tuple else output_type(sample=reply)

    def _fill_early(self) -> None:
        """Fills in the answers because the pipeline reads their values before its scheduler's step."""
        turn = self._turn
        if turn is None or turn.pending is not None:
            return
        if self.form.calls == "batch":
            self._refuse("reads values of what its denoiser predicts, and does not say whether it guides")
        if self.form.holds:
            self._refuse("reads values of what its denoiser predicts before its scheduler says which latents it steps")
        turn.tape.fill(self._evaluate(turn, False))

    def _evaluate(self, turn: Turn, doubled: bool | None, sample: Tensor | None = None) -> list[Tensor]:
        """Runs the method, or the strong arm alone in a step that does not reflect.

        Args:
            doubled: whether the turn is one call with rows of both branches.
            sample: the latents that the scheduler steps, if they are known by now.

        Returns:
            The replies to the turn's calls, each (rows, …).
        """
        first, guided = turn.calls[0], bool(doubled) or len(turn.calls) == 2
        x_t = turn.latents(bool(doubled), self._refuse)
        self.evaluations.settle()
        self.evaluations.videos = len(x_t)
        time, moving = read_time(first.module, first.inputs, x_t, self._refuse)
        axes = axes_of(x_t, first.module, self.form.axis)
        step = replace(self._loop.step(time, self.method), axes=axes)
        if step.index == 0 and not self.host.repeats():
            self.method.check_steps(step.num_steps)
        if moving is None and self.form.holds and sample is not None:
            moving = stepped_part(x_t, sample, tolerance(first.latents.dtype))
        check_finite(x_t, f"the latents before {step.where}")
        sent = self._sent(turn, bool(doubled), x_t, moving)
        sign = self.form.sign * step.sign
        strong, weak = self._arms.bind(self.method, first, sent, step, self._final_branches(guided), sign)
        if self.method.reflects(step.index, step.num_steps, step.level):
            check_reflectable(strong.sent[0].inputs)
            check_frames(self.host.name, first.weak, None if axes.frames is None else x_t.shape[axes.frames])
            if self._note:
                note_once(self._note)
            self.method.check(shape_in_order(x_t, first.module, axes))
        untouched = Unchanged(x_t)
        answer = self._loop.answer(self.method, x_t, step, strong, weak, lambda: self.noise(x_t))
        if not untouched.holds():
            raise ValueError(f"{type(self.method).__name__} changes x_t in place: a method makes new tensors.")
        check_answer(answer, type(self.method).__name__, x_t, guided, step)
        if moving is not None:
            answer = replace(answer, d=None if answer.d is None else sent[0].latents.only_moving(answer.d))
        if self.recorder is not None:
            self.recorder.add(step, x_t, answer, time=axes.frames)
        turn.pending = Pending(step, x_t, answer, tuple(sent[: len(turn.calls)]))
        return turn.replies(sign * answer.p)

    def _sent(self, turn: Turn, doubled: bool, x_t: Tensor, moving: Tensor | None) -> list[Sent]:
        """The turn's calls by branch. After the pipeline stopped guiding, the last unconditional inputs are added."""
        sent = turn.sent(self.form, doubled, x_t, moving)
        if len(sent) == 2:
            self._unconditional = unconditional_inputs(sent[0].inputs, sent[1].inputs)
        elif self._unconditional and not doubled:  # the reflection still guides
            sent.append(replace(sent[0], branches=("uncond",), inputs={**sent[0].inputs, **self._unconditional}))
        return sent

    def _final_branches(self, guided: bool) -> Branches:
        """The branches that the pipeline needs for its own step."""
        if not guided:
            return ("cond",)
        return final_branches(self.form, self.host.guidance(), self.host.rescaled(), self.method.mixes)

    def step(self, scheduler_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step from x~_t, with the method's addition to the prediction.

        Args:
            scheduler_step: the scheduler's own `step`; `args` and `kwargs` are its arguments.
        """
        bound = inspect.signature(type(self.host.scheduler).step).bind(self.host.scheduler, *args, **kwargs)
        output, sample = bound.arguments.get("model_output"), bound.arguments.get("sample")
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor):
            self._refuse("steps its scheduler with something other than tensors")
        turn, self._turn = self._turn, None
        if turn is None:
            self._refuse("makes a step of its scheduler without a call of its denoiser before it (a cache, perhaps)")
        if not isinstance(output, Traced) or output.tape is not turn.tape:
            self._refuse("hands its scheduler something not computed from what its denoiser predicts")
        if turn.pending is None:
            x = turn.calls[0].x
            twice = self.form.calls == "batch" and sends_both(x, value(sample), self.form, self._refuse)
            turn.tape.fill(self._evaluate(turn, twice, value(sample)))
        try:
            return self._displaced_step(scheduler_step, bound, turn, output.slot)
        finally:
            turn.tape.closed = True

    def _displaced_step(
        self, scheduler_step: Callable[..., Any], bound: inspect.BoundArguments, turn: Turn, slot: int
    ) -> Any:
        """Checks and makes the scheduler's step with the method's answer.

        Args:
            bound: the arguments of the step.
            slot: where the pipeline's mixture is on the turn's tape.
        """
        pending, arguments = turn.pending, bound.arguments
        assert pending is not None
        answer = pending.answer
        mixture = value(arguments["model_output"])
        # Of predictions of 0 it is 0, also where the pipeline divides by its own norm.
        mixture = arguments["model_output"] = torch.where(answer.p.any(), mixture, torch.zeros_like(mixture))
        sample = value(arguments["sample"])

        def to_sample(v: Tensor) -> Tensor:
            """The pipeline's arithmetic from its denoiser to its scheduler, applied to a tensor (B, …). Zeros stay 0,
            even if the pipeline divides by a norm or a deviation, as normalised and rescaled guidance do."""
            replayed = turn.tape.replay(turn.replies(v.expand_as(pending.x_t)[None], v.dtype))[slot]
            return replayed.nan_to_num(0.0, torch.inf, -torch.inf)

        sign = check_stepped(
            pending.x_t,
            pending.sent[0].latents,
            pending.step,
            arguments | {"sample": sample},
            form=self.form,
            to_sample=to_sample,
            refuse=self._refuse,
        )
        dtype = stepped_dtype(self.host.scheduler, {**arguments, "sample": sample})
        if answer.d is not None:  # half precision would round the displacement away
            arguments["sample"] = full_precision(sample) + pending.step.scale * sign * to_sample(answer.d)
        if answer.e is not None:
            sign_of_e = self.form.sign * pending.step.sign
            arguments["model_output"] = full_precision(mixture) + sign_of_e * to_sample(answer.e)
        with switched(without_corrector(self.host.scheduler) if answer.d is not None else []):
            output = scheduler_step(*bound.args[1:], **bound.kwargs)
        if isinstance(output, tuple):
            return (output[0].to(dtype), *output[1:])
        output.prev_sample = output.prev_sample.to(dtype)
        return output

    def _refuse(self, does: str) -> NoReturn:
        raise ValueError(f"{self.host.name} is not supported under a method: it {does}. Use it with `method=None`.")
