"""The denoiser calls that a pipeline makes between two steps of its scheduler, and the replies to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..levels import Step
from ..methods import Answer
from .arm import check_finite
from .calls import Call, Refuse
from .form import Form
from .inputs import TIMES
from .sent import BOTH, Branches, Sent
from .tape import Tape


@dataclass(frozen=True)
class Pending:
    """A method's answer that the scheduler's step has not used yet."""

    step: Step
    x_t: Tensor
    answer: Answer
    sent: tuple[Sent, ...]  # one for each call


@dataclass
class Turn:
    """One round of a pipeline's loop: the denoiser's calls between two scheduler steps, and the answer to them.

    Args:
        tape: the pipeline's arithmetic with the replies.
        calls: the denoiser's calls so far.
        pending: the method's answer. None: the method has not run yet.
    """

    tape: Tape
    calls: list[Call] = field(default_factory=list)
    pending: Pending | None = None

    def join(self, call: Call, form: Form, refuse: Refuse) -> None:
        """Adds a call; refuses one that the form does not know."""
        if not self.calls:
            self.calls.append(call)
            return
        if form.calls == "batch":
            refuse(
                "calls its denoiser more than once a step (with the prompt and without it, or with layers skipped);"
                " supported is one call, with both in one batch"
            )
        if len(self.calls) > 1:
            refuse("calls its denoiser more than twice a step: a third branch of guidance, perhaps")
        if self.pending is not None:
            refuse("reads values of what its denoiser predicts before it has called it for both branches")
        first = self.calls[0]
        same = first.x.shape == call.x.shape and _equal(first.x, call.x) and first.module is call.module
        if not same:
            refuse("calls its denoiser twice a step, with other latents or another network the second time")
        self.calls.append(call)

    def latents(self, doubled: bool, refuse: Refuse) -> Tensor:
        """x_t (B, …), the latents that both branches see.

        Args:
            doubled: whether the turn is one call with rows of both branches.
        """
        x = self.calls[0].x
        if not doubled:
            return x
        x_t, second = x.chunk(2) if len(x) % 2 == 0 else (x, x[:0])
        if not _equal(x_t, second):
            refuse(
                f"guides and sends its denoiser {len(x)} {'rows' if len(x) != 1 else 'row'} that are"
                " not the same latents twice: one call with the prompt and one without it, or more branches than"
                " two; supported are two branches in one batch"
            )
        return x_t

    def sent(self, form: Form, doubled: bool, x_t: Tensor, moving: Tensor | None) -> list[Sent]:
        """The calls, each with the branches that its rows belong to.

        Args:
            doubled: whether the turn is one call with rows of both branches.
            moving: 1 where the latents x_t move, 0 elsewhere. None: they move everywhere.
        """
        order: Branches = ("cond", "uncond") if form.conditional_first else BOTH
        branches: list[Branches] = [order] if doubled else [("cond",), ("uncond",)]
        sent = []
        for call, of in zip(self.calls, branches, strict=False):
            latents = call.latents
            if moving is not None:
                latents = replace(latents, held=x_t, moving=moving)
            sent.append(Sent(of, latents, call.inputs, call.control))
        return sent

    def replies(self, p: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Predictions (k, B, …) as the network would have returned them to each call: (rows, …).

        Args:
            dtype: the dtype of the replies. Default: that of each call's latents.
        """
        assert self.pending is not None
        replies = []
        for call, sent in zip(self.calls, self.pending.sent, strict=True):
            rows = [p[BOTH.index(branch) if len(p) == 2 else 0] for branch in sent.branches]
            reply = torch.cat(rows)
            if call.learned_sigma:  # the supported schedulers take no variance from the network
                reply = torch.cat([reply, torch.zeros_like(reply)], 1)
            replies.append(reply.to(dtype or call.latents.dtype))
        return replies


def unconditional_inputs(cond: Mapping[str, Any], uncond: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of an unconditional call that differ from those of the conditional call."""
    own = {key for key in uncond if uncond[key] is not cond.get(key) and key not in TIMES}
    return {key: uncond[key] for key in own}


def check_answer(answer: Answer, name: str, x_t: Tensor, guided: bool, step: Step) -> None:
    """Refuse an answer that the scheduler cannot step with, or whose values are not finite.

    Args:
        name: the method's class, for messages.
        guided: whether the pipeline needs both branches.
    """
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
        check_finite(tensor, f"the method's {part} at {step.where}")


def _equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same. Tensors with NaN pass: `check_finite` refuses those with a better message."""
    return x.shape == y.shape and (torch.equal(x, y) or not bool(torch.isfinite(x).all()))


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    """Whether x + y has the shape of y."""
    try:
        return torch.broadcast_shapes(x.shape, y.shape) == y.shape
    except RuntimeError:
        return False
