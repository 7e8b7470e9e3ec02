"""The methods: each a denoiser made out of denoisers, one file each. Plug-ins bring more; see `w2sd_video.plugins`."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field
from typing import Any

from .. import method_names, plugins
from ..errors import Refused, nearest, shown
from .apg import APG
from .auto_guidance import AutoGuidance
from .cfg_zero_star import CFGZeroStar
from .foresight import Foresight
from .guidance_schedule import GuidanceSchedule
from .method import Answer, Method, own_options
from .optimistic import Optimistic
from .perturbed import PerturbedAttentionGuidance, S2Guidance, SkipLayerGuidance
from .predict_and_perturb import PredictAndPerturb
from .re_sampling import AdvancedReSampling, ReSampling
from .s2wd import S2WD
from .w2sd import W2SD
from .weak import Weak
from .z_sampling import ZSampling

__all__ = [
    "APG",
    "METHODS",
    "S2WD",
    "W2SD",
    "AdvancedReSampling",
    "Answer",
    "AutoGuidance",
    "CFGZeroStar",
    "Foresight",
    "GuidanceSchedule",
    "Method",
    "Optimistic",
    "PerturbedAttentionGuidance",
    "PredictAndPerturb",
    "ReSampling",
    "S2Guidance",
    "SkipLayerGuidance",
    "Weak",
    "ZSampling",
]

# By name, in the order of `method_names`; "weak" is no method of a request, but its variant.
METHODS: dict[str, type[Method]] = {name: globals()[cls] for name, cls in method_names.METHODS.items()} | {"weak": Weak}


def _options() -> dict[str, Any]:
    """The options of all methods, beside the arms' guidance, with their defaults. Where methods have different
    defaults for one option, None stands for the method's own."""
    defaults: dict[str, Any] = {}
    for field in (field for method in METHODS.values() for field in own_options(method)):
        same = defaults.setdefault(field.name, field.default) == field.default
        defaults[field.name] = field.default if same else None
    return defaults


OPTIONS = _options()


def find(name: str, sha256: str | None = None) -> type[Method]:
    """The class of a method by name: built in, from a plug-in, or from a file, `FILE.py:CLASS`.

    Args:
        sha256: the SHA-256 that the file must have.

    Raises:
        Refused: no method has that name, its code raises an error, or it is no `Method` that can be called; see
            `plugins.find`.
    """
    plugin = plugins.find("method", name, METHODS if name == "weak" else method_names.METHODS, sha256)
    if plugin is None:
        return METHODS[name]
    cls = plugin.value
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise Refused("method", name, f"it is {_what(cls)}, and has to be a subclass of w2sd_video.methods.Method")
    called = "a method is called with x_t, step, strong, weak and noise"
    if cls.__call__ is Method.__call__:
        raise Refused("method", name, f"it has no `__call__` of its own; {called}")
    try:
        inspect.signature(cls.__call__).bind(*range(6))
    except TypeError:
        takes = ", ".join([*inspect.signature(cls.__call__).parameters][1:])
        raise Refused("method", name, f"its `__call__` takes {takes or 'nothing'}; {called}") from None
    return cls


def refuse_options(
    method: str, sha256: str | None, unknown: Mapping[str, Any], settings: Collection[str], others: Mapping[str, str]
) -> None:
    """Refuses names that are no settings where they are, or are nearly, options of a method.

    Args:
        unknown: their values by name.
        settings: the names of all settings.
        others: further names of settings; see `errors.nearest`.
    """
    try:
        cls = find(method, sha256)
    except Refused:  # the request's check says why
        return
    options = [field.name for field in own_options(cls) if field.name not in settings]
    for name, value in unknown.items():
        near = nearest(name, [*options, *settings], others)
        if near in options:
            accepted = f"it is no setting. Options of {method} are given as options={{{near!r}: ...}}"
            raise Refused(name, value, accepted)


def _what(value: object) -> str:
    """A value's kind in words, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def no_method(value: object, *, by_name: bool = True) -> ValueError:
    """The error for an argument `method` that is no method.

    Args:
        by_name: whether names are accepted too.
    """
    if isinstance(value, type) and issubclass(value, Method):
        problem = f"is the class {value.__name__}: write {value.__name__}()"
    elif not by_name and isinstance(value, str) and value in METHODS:
        kind = METHODS[value].__name__
        problem = f"is {value!r}: write {kind}(strong_guidance=…, weak_guidance=…), which has its guidance"
    else:
        problem = f"is {shown(value)}"
    names = ", ".join(map(repr, [*METHODS, *plugins.installed("method")])) if by_name else ""
    accepted = f"one of {names}, None, or an object of a method" if by_name else "an object of a method, or None"
    return ValueError(f"`method` has to be {accepted}, such as W2SD(strong_guidance=5.5), but {problem}.")


def described(name: str) -> dict[str, Any]:
    """The first paragraph of a method's docstring as its `summary`, and its `options` with their defaults."""
    cls = find(name)
    options = {field.name: _default(field) for field in own_options(cls)}
    return {"summary": plugins.first_paragraph(cls.__doc__ or cls.__name__), "options": options}


def _default(field: Field) -> Any:
    """A field's default, as it is listed."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return "(needed)" if field.default is MISSING else field.default
