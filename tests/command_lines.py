"""Tables of command lines, each with what the program says to it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest


def command_lines(table: str) -> Any:
    """Runs a test for each line `OPTIONS => WHAT IS SAID` of a table, as its arguments `options` and `says`.

    The options are a list, split as by a shell.
    """
    rows = [line.partition("=>") for line in table.strip().splitlines()]
    cases = [pytest.param(shlex.split(typed), said.strip(), id=typed.strip()[:80]) for typed, _, said in rows]
    return pytest.mark.parametrize(("options", "says"), cases)
