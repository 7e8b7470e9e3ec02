"""Attaches a method to the denoiser and the scheduler of a diffusers pipeline, which keeps its own loop."""

from .arm import Evaluations, branches, parameters_of
from .attach import DENOISERS, HOOK_NAME, apply_reflection, attached, check_free, check_multiple, stepping
from .binding import perturbation
from .control import ControlHook
from .denoiser import DenoiserHook
from .form import Form
from .group import Group
from .recording import Difference, Recorder
from .sent import Conditioning

__all__ = [
    "DENOISERS",
    "HOOK_NAME",
    "Conditioning",
    "ControlHook",
    "DenoiserHook",
    "Difference",
    "Evaluations",
    "Form",
    "Group",
    "Recorder",
    "apply_reflection",
    "attached",
    "branches",
    "check_free",
    "check_multiple",
    "parameters_of",
    "perturbation",
    "stepping",
]
