"""How each diffusers pipeline calls its denoiser: a `Form` for each supported class, a reason for each refused one."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from diffusers import DiffusionPipeline

from .arm import branches
from .sent import BOTH, Branches

TABLE = "pipelines.json"  # beside this file


@dataclass(frozen=True)
class Form:
    """How a pipeline calls its denoiser between two steps of its scheduler.

    Args:
        calls: "batch": one call with the rows of both branches while the pipeline guides. "apart": one call for each
            branch, the conditional one first. A pipeline that does not guide makes one call, with conditional rows.
        conditional_first: for "batch", whether the rows are [conditional; unconditional].
        flag: for "batch", the pipeline's attribute that says whether it guides. None: no attribute is right at every
            step, so the hook compares the number of rows with that of the latents that the scheduler steps.
        axis: the axis of the denoiser's input along which something may follow the latents (a mask, a picture), which
            is kept: it does if the network takes more channels than it predicts. 1: the input is (B, C, …), or tokens
            (B, N, C) that nothing follows. Any other number: the axis of the channels, in tokens or in a video with
            another order than (B, C, F, H, W). None: as 1, but nothing follows the latents, because the network's two
            numbers of channels are not comparable.
        sign: -1 if the pipeline negates the network's prediction before it hands it to its scheduler.
        holds: whether the scheduler steps only a part of the denoiser's input along one axis, and the rest (tokens of
            reference images, or a first frame) is held still.
        third: the argument of its call that adds a third branch, which is refused. None: it has none.

    Raises:
        ValueError: `calls` or `sign` has another value.
    """

    calls: Literal["batch", "apart"] = "batch"
    conditional_first: bool = False
    flag: str | None = "do_classifier_free_guidance"
    axis: int | None = 1
    sign: Literal[1, -1] = 1
    holds: bool = False
    third: str | None = None

    def __post_init__(self) -> None:
        if self.calls not in ("batch", "apart"):
            raise ValueError(f"`calls` has to be 'batch' or 'apart', but is {self.calls!r}.")
        if self.sign not in (1, -1):
            raise ValueError(f"`sign` has to be 1 or -1, but is {self.sign!r}.")

    def in_words(self) -> str:
        """The form, for the table of pipelines."""
        words = ["a call for each branch" if self.calls == "apart" else "both branches in one call"]
        words += ["the conditional one first"] * self.conditional_first
        words += [f"channels along axis {self.axis}"] * (self.axis not in (1, None))
        words += ["the network's prediction is negated"] * (self.sign == -1)
        words += ["what it does not step is held still"] * self.holds
        words += [f"without `{self.third}`"] * (self.third is not None)
        return ", ".join(words)


def final_branches(form: Form, guidance: float | None, rescaled: bool, mixes: bool) -> Branches:
    """The branches that a pipeline's own step needs while it guides.

    Args:
        guidance: its guidance number. None: not known.
        rescaled: whether it rescales its mixture by the conditional prediction.
        mixes: whether a method mixes the branches otherwise; see `Method.mixes`.
    """
    if form.calls == "apart" or form.flag is None or rescaled or guidance is None:
        return BOTH
    return branches(guidance, mixes)


@dataclass(frozen=True)
class Entry:
    """The table's entry for a pipeline class of diffusers.

    Args:
        form: how it calls its denoiser. None: the class is refused.
        refused: why it is refused.
        note: what is supported, if not all of it is.
        test: the file in tests/ that compares it with Algorithm 1, without its "test_".
        source: the SHA-256 of the source text of its `__call__`, as it was tested or read.
    """

    form: Form | None
    refused: str | None
    note: str | None
    test: str | None
    source: str


@functools.cache
def table() -> Mapping[str, Entry]:
    """Every pipeline class of diffusers that has a loop of its own over a denoiser, by name."""
    entries = json.loads((files(__package__) / TABLE).read_text(encoding="utf-8"))["pipelines"]
    return {name: _entry(**entry) for name, entry in entries.items()}


def _entry(
    source: str,
    form: Mapping[str, Any] | None = None,
    refused: str | None = None,
    note: str | None = None,
    test: str | None = None,
) -> Entry:
    return Entry(None if form is None else Form(**form), refused, note, test, source)


def rows() -> list[str]:
    """The table as Markdown: each supported class with its test, and each refused class with the reason."""
    page = ["| pipeline | | how it guides | test |", "|---|---|---|---|"]
    for name, entry in sorted(table().items(), key=lambda item: (item[1].form is None, item[0])):
        if entry.form is None:
            page.append(f"| `{name}` | refused: {entry.refused} | | |")
        else:
            note = f" ({entry.note})" if entry.note else ""
            page.append(f"| `{name}` | exact{note} | {entry.form.in_words()} | `tests/test_{entry.test}.py` |")
    return page


def caller(cls: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """The class whose `__call__` a pipeline of this class runs. For a family here, that is its stock pipeline."""
    cls = getattr(cls, "stock", cls)
    return next(each for each in cls.__mro__ if "__call__" in vars(each))


def known(cls: type[DiffusionPipeline]) -> Entry | None:
    """The table's entry for a pipeline class. None: its loop is not from diffusers."""
    owner = caller(cls)
    return table().get(owner.__name__) if owner.__module__.startswith("diffusers.") else None


def source(cls: type[DiffusionPipeline]) -> str:
    """The SHA-256 of the source text of a class's `__call__`."""
    return hashlib.sha256(inspect.getsource(cls.__call__).encode()).hexdigest()


def form_of(cls: type[DiffusionPipeline]) -> Form:
    """The form of a supported pipeline class.

    Raises:
        ValueError: the class is not supported, with the reason.
    """
    name, owner, entry = cls.__name__, caller(cls), known(cls)
    if entry is None:
        raise ValueError(
            f"{name} is not among the pipelines that were tested under a method: its sampling loop is"
            f" {owner.__name__}'s own. Accepted: a pipeline of docs/pipelines.md, or `form`, a `w2sd_video.hook.Form`"
            " that says how it guides."
        )
    if entry.form is None:
        raise ValueError(f"{name} is not supported under a method: {entry.refused}. Use it with `method=None`.")
    _warn_of_change(owner, entry.source)
    return entry.form


def _warn_of_change(owner: Any, tested: str) -> None:
    try:
        now = source(owner)
    except OSError:  # a program without its source
        return
    if now != tested:
        import diffusers

        warnings.warn(
            f"{owner.__name__}.__call__ of diffusers {diffusers.__version__} differs from the one that was tested under"
            " a method. Each step is checked all the same, but the order of the denoiser's calls is not.",
            stacklevel=4,
        )
