"""Where networks can run, and how much memory this process took."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import Refused

if TYPE_CHECKING:
    import torch


def usable_device(name: str | torch.device, auto: Sequence[str] = ("cuda", "mps")) -> torch.device:
    """The device of that name; for "auto" the first of those that is here, else the CPU.

    Raises:
        Refused: it cannot be used here.
    """
    import torch

    if not isinstance(name, (str, torch.device)) or str(name).startswith("meta"):  # which computes nothing
        raise Refused("device", name, "give auto, cpu, or an accelerator such as cuda or cuda:1")
    for each in (*auto, "cpu") if name == "auto" else (name,):
        try:
            return torch.empty(0, device=each).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            said = str(error).partition("\n")[0]
    raise Refused("device", name, f"it cannot be used here: {said}")


def peak_memory() -> int | None:
    """This process's peak memory so far in bytes, without that on accelerators; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
