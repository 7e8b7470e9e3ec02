"""Records a pipeline's arithmetic between its denoiser's answer and its scheduler's step, to replay it.

The pipeline gets its denoiser's answer as a `Traced` tensor. A `Tape` records whatever the pipeline computes with it:
the mixture of guidance, a rescaling or a norm, a sign, the unpacking of tokens. So an answer can be given before its
values are known, and filled in later. And the same arithmetic can be applied to other values: to a displacement, for
example, which it brings into the layout that the scheduler steps in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

# Properties of a tensor that do not depend on its values.
_DESCRIPTIONS = (
    {"shape", "dtype", "device", "layout", "ndim", "requires_grad", "itemsize", "nbytes", "grad_fn", "is_leaf"}
    | {"is_cuda", "is_cpu", "is_mps", "is_xla", "is_xpu", "is_meta", "is_nested", "is_quantized", "is_sparse"}
    | {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "element_size"}
    | {"is_floating_point", "is_complex", "is_inference", "get_device", "__len__", "__hash__"}
)


@dataclass
class Tape:
    """The operations that a pipeline applies to the answers of one step, in order.

    Args:
        read: called when the pipeline reads a value that is not known yet; it has to `fill` the answers.
        refuse: raises the error for an operation that cannot be replayed.
        filled: whether the answers' values are known.
        closed: whether the step is over; later operations are not recorded.
    """

    read: Callable[[], None]
    refuse: Callable[[str], Any]
    filled: bool = False
    closed: bool = False
    values: list[Tensor] = field(default_factory=list)  # by slot, as far as they are known
    answers: list[int] = field(default_factory=list)  # the slots that hold the denoiser's answers
    entries: list[tuple[Callable[..., Any], Any, Any, Any]] = field(default_factory=list)

    def answer(self, value: Tensor) -> Traced:
        """A new answer, with these values or, before they are known, with this shape and dtype."""
        traced = self._trace(value)
        self.answers.append(traced.slot)
        return traced

    def fill(self, values: Sequence[Tensor]) -> None:
        """Sets the answers' values, in the order of the answers, and recomputes all that was computed with them."""
        self.values = self.replay(values)
        self.filled = True

    def replay(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """All values, by slot, recomputed with other answers."""
        known: dict[int, Tensor] = {slot: each.clone() for slot, each in zip(self.answers, answers, strict=True)}

        def now(each: Any) -> Any:
            return known[each.slot] if isinstance(each, _Slot) else each

        def keep(slot: Any, value: Any) -> None:
            if isinstance(slot, _Slot):
                known[slot.slot] = value
            elif isinstance(slot, (list, tuple)):
                for one, other in zip(slot, value, strict=True):
                    keep(one, other)

        for function, args, kwargs, slots in self.entries:
            keep(slots, function(*tree_map(now, args), **tree_map(now, kwargs)))
        return [known[slot] for slot in range(len(self.values))]

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a function of traced tensors on their values so far, and records the call if it makes tensors."""
        name = _name(function)
        plain_args, plain_kwargs = (tree_map(self._value, each) for each in (args, kwargs))
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        in_place = in_place or (name.startswith("__i") and name not in ("__int__", "__index__", "__invert__"))
        if in_place and not isinstance(args[0], Traced) or kwargs.get("out") is not None:
            self.refuse("writes what its denoiser predicts into another tensor before its scheduler gets it")
        result = function(*plain_args, **plain_kwargs)
        if not _has_tensor(result):
            if in_place:
                self.entries.append((function, self._noted(args), self._noted(kwargs), None))
                return result
            if not self.filled and name not in _DESCRIPTIONS:
                self.read()
                return function(*tree_map(self._value, args), **tree_map(self._value, kwargs))
            return result
        inputs = {id(self._value(each)): each for each in args if isinstance(each, Traced) and each.tape is self}
        traced = tree_map(lambda t: self._traced(t, inputs), result)
        slots = tree_map(lambda t: _Slot(t.slot) if isinstance(t, Traced) else None, traced)
        self.entries.append((function, self._noted(args), self._noted(kwargs), slots))
        return traced

    def _trace(self, value: Tensor) -> Traced:
        traced = value.as_subclass(Traced)
        traced.tape, traced.slot = self, len(self.values)
        self.values.append(value)
        return traced

    def _traced(self, each: Any, inputs: Mapping[int, Traced]) -> Any:
        if not isinstance(each, Tensor):
            return each
        return inputs[id(each)] if id(each) in inputs else self._trace(each)  # an in-place result is the input itself

    def _noted(self, tree: Any) -> Any:
        return tree_map(lambda t: _Slot(t.slot) if isinstance(t, Traced) and t.tape is self else self._value(t), tree)

    @staticmethod
    def _value(each: Any) -> Any:
        return each.tape.values[each.slot] if isinstance(each, Traced) else each


@dataclass(frozen=True)
class _Slot:
    slot: int


class Traced(Tensor):
    """A denoiser's answer, or a tensor computed from it. Its values may not be known yet."""

    tape: Tape
    slot: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tapes = [each.tape for each in _tensors((args, kwargs)) if isinstance(each, Traced)]
        open_ = [tape for tape in tapes if not tape.closed]
        with torch._C.DisableTorchFunctionSubclass():
            if not open_:  # the step is over: plain tensors are left
                return func(*tree_map(Tape._value, args), **tree_map(Tape._value, kwargs))
            return open_[-1].run(func, args, kwargs)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.clone()


def value(each: Any) -> Any:
    """A traced tensor's values so far; anything else unchanged."""
    return Tape._value(each)


def _name(function: Callable[..., Any]) -> str:
    """A torch function's name. For a property's getter, the property's name."""
    name = getattr(function, "__name__", "")
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name


def _tensors(tree: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    tree_map(lambda t: tensors.append(t) if isinstance(t, Tensor) else None, tree)
    return tensors


def _has_tensor(tree: Any) -> bool:
    return bool(_tensors(tree))
