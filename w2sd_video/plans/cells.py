"""What a worker does that makes cells."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightsNotFound
from ..generate import Maker
from ..runs import Output, Request
from ..settings import Variant
from ..terminal import MACHINE, quiet
from .engine import Outcome

logger = logging.getLogger("w2sd_video")


@dataclass(frozen=True)
class CellTask:
    """A cell to make, as a worker is told it."""

    key: str
    request: Request
    folder: Path
    stem: str
    formats: tuple[str, ...]
    variant: Variant  # whose pipelines are loaded: those of all tasks with these models

    @property
    def models(self) -> Any:
        return self.request.models


class Cells:
    """Makes cells one after another, and holds the models of the last."""

    def __init__(self, command: Sequence[str] = ()):
        quiet()
        self.maker = Maker(command=command)

    def make(self, task: CellTask) -> Outcome:
        output = Output(task.request, task.folder, task.formats, task.stem)
        try:
            result = self.maker.make(output, overwrite=True, variant=task.variant, facts={"cell": task.key})
        except Exception as error:  # of a cell, whatever a network or a plug-in raises
            logger.debug("%s", traceback.format_exc())
            of_all = isinstance(error, WeightsNotFound) or (isinstance(error, OSError) and error.errno in MACHINE)
            # Only those go to another process: not every error can be sent.
            raised = error if of_all else None
            return Outcome(task, error=f"{type(error).__name__}: {error}", raised=raised)
        return Outcome(task, result.record, memory=_memory(str(result.record.get("device", ""))))


def _memory(device: str) -> int | None:
    """The most bytes that this process has had so far, of a GPU or of the machine; None where nothing tells."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
