"""The methods: each a denoiser made out of denoisers, one file each. Plug-ins bring more; see `w2sd_video.plugins`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .. import plugins
from ..errors import Refused
from .auto_guidance import AutoGuidance
from .method import Answer, Method
from .optimistic import Optimistic
from .re_sampling import AdvancedReSampling, ReSampling
from .s2wd import S2WD
from .w2sd import W2SD, w2sd
from .weak import Weak
from .z_sampling import ZSampling

__all__ = [
    "METHODS",
    "OPTIONS",
    "S2WD",
    "W2SD",
    "AdvancedReSampling",
    "Answer",
    "AutoGuidance",
    "Method",
    "Optimistic",
    "ReSampling",
    "Weak",
    "ZSampling",
    "find",
    "w2sd",
]

METHODS: dict[str, type[Method]] = {
    "w2sd": W2SD,
    "s2wd": S2WD,
    "z_sampling": ZSampling,
    "re_sampling": ReSampling,
    "advanced_re_sampling": AdvancedReSampling,
    "auto_guidance": AutoGuidance,
    "optimistic": Optimistic,
    "weak": Weak,
}
ARMS = ("strong_guidance", "weak_guidance")
# What can be set of the methods beside the arms' guidance, with the defaults; not each takes all.
OPTIONS = {f.name: f.default for method in METHODS.values() for f in fields(method) if not f.name.endswith("_guidance")}


def find(name: str, sha256: str | None = None) -> type[Method]:
    """A method by its name, built in or a plug-in's; of a file's, `FILE.py:CLASS`, with the SHA-256 of the file.

    Raises:
        Refused: there is none of that name, its code raises an error, or it is no `Method`; see `plugins.find`.
    """
    plugin = plugins.find("method", name, METHODS, sha256)
    if plugin is None:
        return METHODS[name]
    if not (isinstance(plugin.value, type) and issubclass(plugin.value, Method)):
        raise Refused(
            "method", name, f"what {plugin.source} has under this name is no class of w2sd_video.methods.Method"
        )
    return plugin.value


def described(name: str) -> dict[str, Any]:
    """The first line of a method's docstring as its `summary`, and its `options` with their defaults."""
    cls = find(name)
    options = {field.name: field.default for field in fields(cls) if field.name not in ARMS}
    return {"summary": (cls.__doc__ or cls.__name__).strip().splitlines()[0], "options": options}
