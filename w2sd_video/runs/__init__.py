"""Runs: what was asked, what was made, what is left; and their files."""

from ..errors import Refused
from ..settings import CONVENTIONS, DTYPES, VARIANTS
from .files import rows, whole, writable
from .request import (
    FORMATS,
    PACKAGE,
    Request,
    absolute,
    locate,
    read_sidecar,
    sidecar,
    split,
    usable_device,
)

__all__ = [
    "CONVENTIONS",
    "DTYPES",
    "FORMATS",
    "PACKAGE",
    "VARIANTS",
    "Refused",
    "Request",
    "absolute",
    "locate",
    "read_sidecar",
    "rows",
    "sidecar",
    "split",
    "usable_device",
    "whole",
    "writable",
]
