"""A request's pipelines, what they are told, and what is recorded of it."""

from .call import OnStep, arguments, inputs, sample
from .cost import evaluations, steps_for
from .load import load, scheduler
from .method import weak_arm
from .plot import draw_differences
from .records import differences, plugin_version, provenance, versions
from .texts import check_words, cut_off, notes

__all__ = [
    "OnStep",
    "arguments",
    "check_words",
    "cut_off",
    "differences",
    "draw_differences",
    "evaluations",
    "inputs",
    "load",
    "notes",
    "plugin_version",
    "provenance",
    "sample",
    "scheduler",
    "steps_for",
    "versions",
    "weak_arm",
]
