"""The paper's tables: each has its plan, the paper's figures, and a plan on the shipped models to stand in for it."""

from .needs import Needs, needs
from .results import Figure, Result, data, direction, document, mapping, paper_of, paper_of_preset, results, write
from .table import ALWAYS, Part, Table, load, names

__all__ = [
    "ALWAYS",
    "Figure",
    "Needs",
    "Part",
    "Result",
    "Table",
    "data",
    "direction",
    "document",
    "load",
    "mapping",
    "names",
    "needs",
    "paper_of",
    "paper_of_preset",
    "results",
    "write",
]
