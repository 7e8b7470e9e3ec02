"""Runs: what was asked, what was made, what is left; and their files."""

from ..errors import Refused
from ..models.sources import absolute
from .files import rows, whole, writable
from .request import (
    CONVENTIONS,
    DTYPES,
    FORMATS,
    VARIANTS,
    Request,
    read_sidecar,
    sidecar,
    usable_device,
)

__all__ = [
    "CONVENTIONS",
    "DTYPES",
    "FORMATS",
    "VARIANTS",
    "Refused",
    "Request",
    "absolute",
    "read_sidecar",
    "rows",
    "sidecar",
    "usable_device",
    "whole",
    "writable",
]
