"""Attaches a method to the denoiser and the scheduler of a diffusers pipeline, which keeps its own loop."""

from .arm import Conditioning, Evaluations, branches
from .attach import HOOK_NAME, apply_reflection, attached, check_free, stepping
from .control import ControlHook
from .group import DenoiserHook, Group, perturbation
from .recording import Difference, Recorder

__all__ = [
    "HOOK_NAME",
    "Conditioning",
    "ControlHook",
    "DenoiserHook",
    "Difference",
    "Evaluations",
    "Group",
    "Recorder",
    "apply_reflection",
    "attached",
    "branches",
    "check_free",
    "perturbation",
    "stepping",
]
