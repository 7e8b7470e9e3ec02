"""What a pipeline calls between two steps of its scheduler, and what these calls are answered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..levels import Step
from ..methods import Answer
from .arm import check_finite
from .calls import TIMES, Call, Refuse
from .form import Form
from .sent import BOTH, Branches, Sent
from .tape import Tape


@dataclass(frozen=True)
class Pending:
    """A method's answer, that the scheduler has not stepped with yet."""

    step: Step
    x_t: Tensor
    answer: Answer
    sent: tuple[Sent, ...]  # one for each call


@dataclass
class Turn:
    """The calls between two steps, the pipeline's arithmetic with their answers, and the method's answer."""

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
        """x_t (B, …), the latents of each branch.

        Args:
            doubled: of one call, whether its rows are of both branches.
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
        """The calls, by the branches of their rows.

        Args:
            moving: where the latents x_t move. None: everywhere.
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
        """Predictions (k, B, …) as the networks would have returned them, to each of the calls: (rows, …).

        Args:
            dtype: of what is returned. Default: the calls' own.
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
    """Of calls apart, the inputs of the unconditional one that differ from the conditional one's."""
    own = {key for key in uncond if uncond[key] is not cond.get(key) and key not in TIMES}
    return {key: uncond[key] for key in own}


def version(x: Tensor) -> int:
    """How often a tensor was changed in place; 0 where torch does not count, as under `torch.inference_mode`."""
    return 0 if x.is_inference() else x._version


def check_answer(answer: Any, name: str, x_t: Tensor, guided: bool, where: str) -> None:
    """Refuse an answer of the method `name` that the scheduler cannot step with, and values that are not finite."""
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


def _equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same; NaN, which is not equal to NaN, is looked for elsewhere."""
    return x.shape == y.shape and (torch.equal(x, y) or not bool(torch.isfinite(x).all()))


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    """Whether x can be added to y and leave its shape."""
    try:
        return torch.broadcast_shapes(x.shape, y.shape) == y.shape
    except RuntimeError:
        return False
