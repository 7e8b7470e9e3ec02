"""The methods: each a denoiser made out of denoisers, one file each."""

from __future__ import annotations

from dataclasses import fields

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
# What can be set of the methods beside the arms' guidance, with the defaults; not each takes all.
OPTIONS = {f.name: f.default for method in METHODS.values() for f in fields(method) if not f.name.endswith("_guidance")}
