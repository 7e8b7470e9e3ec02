"""Runs: requests, their outputs, and their files."""

from ..errors import Refused
from ..models.sources import absolute
from ..settings import VARIANTS
from .files import (
    alone,
    gone_if_empty,
    gone_on_error,
    locked,
    naming,
    placeable,
    usable,
    whole,
    writable,
    write_text,
)
from .growing import rows
from .outputs import FORMATS, Output, claimed, place
from .request import Request
from .sidecar import check_files, hashes, read_sidecar, sidecar

__all__ = [
    "FORMATS",
    "VARIANTS",
    "Output",
    "Refused",
    "Request",
    "absolute",
    "alone",
    "check_files",
    "claimed",
    "gone_if_empty",
    "gone_on_error",
    "hashes",
    "locked",
    "naming",
    "place",
    "placeable",
    "read_sidecar",
    "rows",
    "sidecar",
    "usable",
    "whole",
    "writable",
    "write_text",
]
