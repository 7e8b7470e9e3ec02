"""The work of a worker that generates cells."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..devices import peak_memory
from ..errors import WeightsNotFound
from ..generation import Maker
from ..interrupts import of_plugin
from ..plugins import place_of
from ..runs import Output, Request
from ..settings import Variant
from ..terminal import MACHINE, quiet
from .engine import Outcome

logger = logging.getLogger("w2sd_video")


@dataclass(frozen=True)
class CellTask:
    """A cell to generate, as it is sent to a worker."""

    key: str
    request: Request
    folder: Path
    stem: str
    formats: tuple[str, ...]
    models: str  # `Request.loading`
    variant: Variant  # the variant to load, whose pipelines serve all tasks with these models


class Cells:
    """Generates cells one after another, and keeps the models of the last one loaded."""

    def __init__(self, command: Sequence[str] = ()):
        quiet()
        self.maker = Maker(command=command)

    def make(self, task: CellTask) -> Outcome:
        output = Output(task.request, task.folder, task.formats, task.stem)
        try:
            result = self.maker.make(output, overwrite=True, variant=task.variant, facts={"cell": task.key})
        except SystemExit as error:
            return Outcome(task, error=str(of_plugin(error)))
        except Exception as error:  # a network or a plug-in may raise anything, which fails this cell only
            logger.debug("%s", traceback.format_exc())
            of_all = isinstance(error, WeightsNotFound) or (isinstance(error, OSError) and error.errno in MACHINE)
            # Only errors that all cells share are sent on, since not every exception can be pickled.
            raised = error if of_all else None
            place = place_of(error)  # of a plug-in's code
            return Outcome(task, error=f"{type(error).__name__}: {error}{f' ({place})' * bool(place)}", raised=raised)
        return Outcome(task, result.record, memory=_memory(str(result.record.get("device", ""))))


def _memory(device: str) -> int | None:
    """This process's peak memory so far in bytes, on the GPU if it uses one; None on Windows without a GPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    return peak_memory()
