"""Samples requests: loads their pipelines, calls them, and records what decides the frames."""

from .call import OnStep, arguments, inputs, sample
from .cost import evaluations, in_strong_evaluations, steps_for, strong_evaluations
from .idle import changed, idle, in_effect, sentences
from .load import check, check_schedule, load, pipelines_of, scheduler
from .method import weak_arm
from .plot import draw_differences
from .records import differences, plugin_version, provenance, versions
from .texts import check_words, cut_off, notes

__all__ = [
    "OnStep",
    "arguments",
    "changed",
    "check",
    "check_schedule",
    "check_words",
    "cut_off",
    "differences",
    "draw_differences",
    "evaluations",
    "idle",
    "in_effect",
    "in_strong_evaluations",
    "inputs",
    "load",
    "notes",
    "pipelines_of",
    "plugin_version",
    "provenance",
    "sample",
    "scheduler",
    "sentences",
    "steps_for",
    "strong_evaluations",
    "versions",
    "weak_arm",
]
