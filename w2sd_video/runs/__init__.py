"""Runs: what was asked, what was made, what is left; and their files."""

from ..errors import Refused
from ..settings import CONVENTIONS, DTYPES, VARIANTS
from .files import naming, rows, whole, writable
from .outputs import FORMATS, Output, claimed, place
from .request import (
    PACKAGE,
    Request,
    absolute,
    locate,
    split,
    usable_device,
)
from .sidecar import check_files, hashes, read_sidecar, recordable, sidecar

__all__ = [
    "CONVENTIONS",
    "DTYPES",
    "FORMATS",
    "PACKAGE",
    "VARIANTS",
    "Output",
    "Refused",
    "Request",
    "absolute",
    "check_files",
    "claimed",
    "hashes",
    "locate",
    "naming",
    "place",
    "read_sidecar",
    "recordable",
    "rows",
    "sidecar",
    "split",
    "usable_device",
    "whole",
    "writable",
]
