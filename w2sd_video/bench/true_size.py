"""SDXL with AnimateDiff's motion module, Wan 2.1 and LTX-Video at their true size, on this machine's device.

All weights are random.

Each part measures one thing together with its baseline. The parts run in order of importance and share the available
time. A part that exceeds its share is cut and keeps its rows; a part that fails or runs out of memory records the
error, and the next one starts. All results are written after each part.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..documents import finite
from ..errors import out_of_memory
from ..provenance import package_versions
from ..runs import write_text
from . import measure
from .bench import GUIDANCE, TIMED, Bench, Row, Skipped, named
from .measure import TimeUp, deadline
from .parts import PARTS

PACKAGES = ("w2sd-video", "torch", "diffusers", "transformers", "accelerate", "numpy", "vbench")
RESERVE = 3.0  # seconds, for the work after the last part

Report = Callable[[str], None]


@dataclass
class Part:
    """The results of a part.

    Args:
        state: "done", "cut", "failed", "out of memory", "skipped", "interrupted" or "not reached".
        why: the reason, if the state is another than "done".
    """

    state: str = "not reached"
    why: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


def run(
    path: Path,
    device: torch.device,
    chosen: Sequence[str] = tuple(PARTS),
    minutes: float = 5.0,
    *,
    small: bool = False,
    sizes: Sequence[int] = (),
    frames: int = 0,
    began: float | None = None,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Measures the chosen parts, in their order of importance, and writes `path` after each.

    Args:
        minutes: for the whole run, from `began` (in `time.monotonic`; default: now).
        small, sizes, frames: see `Bench`. Default: sizes 1024 and 512 with 16 frames; with `small`, 64 and 32 with 4.
        report: called with a line when a part starts and when it ends.

    Returns:
        The content of the file: `card`, `versions`, `settings`, `seconds`, and `parts` by name.

    Raises:
        OSError: the file cannot be written.
    """
    began = time.monotonic() if began is None else began
    until = began + 60 * minutes
    at = tuple(sizes) or ((64, 32) if small else (1024, 512))
    bench = Bench(device, at, frames or (4 if small else 16), small, until)
    parts = {name: Part() for name in PARTS if name in chosen}
    results: dict[str, Any] = {
        "benchmark": "true-size",
        "card": about_card(device),
        "versions": {"python": platform.python_version()}
        | package_versions(PACKAGES)
        | {"torch": torch.__version__},  # includes the build, such as +cu128
        "settings": {
            "small": small,
            "sizes": list(at),
            "frames": bench.frames,
            "minutes": minutes,
            "dtype": named(bench.dtype),
            "guidance": GUIDANCE,
            "timed_steps": TIMED,
        },
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }

    def write() -> None:
        results["seconds"] = round(time.monotonic() - began, 1)
        results["parts"] = {name: vars(part) for name, part in parts.items()}
        write_text(path, json.dumps(finite(results, digits=5), indent=1) + "\n")

    write()  # before the long work, so that a path that cannot be written is refused first
    for name, part in parts.items():
        try:
            _run_part(bench, name, part, report)
        finally:
            write()
    bench.forget()
    return results


def _run_part(bench: Bench, name: str, part: Part, report: Report) -> None:
    """Runs a part until its share of the time is over, and stores its outcome in `part`. Errors are not raised."""
    function, most = PARTS[name]
    most = most if not bench.small else max(most, 600.0)
    left = bench.until - time.monotonic() - RESERVE
    if left < 1:
        part.why = "the time was over before it began"
        report(f"{name}: {part.why}")
        return
    report(f"{name} …")
    bench.rows = part.rows
    started = time.monotonic()
    part.state = "interrupted"
    try:
        with deadline(min(left, most)):
            function(bench)
        part.state = "done"
    except TimeUp:
        part.state, part.why = "cut", f"its {min(left, most):.0f} seconds were over"
    except Skipped as error:
        part.state, part.why = "skipped", str(error)
    except Exception as error:
        lacking = out_of_memory(error)
        part.state, part.why = "out of memory" if lacking else "failed", measure.error_line(error)
    if part.state != "done":
        measure.forget_compiled()
        bench.forget()
    measure.release(bench.device)
    part.seconds = round(time.monotonic() - started, 1)
    report(f"{name}: {part.state}, {part.seconds:.0f} s{f' ({part.why})' * bool(part.why)}")


def about_card(device: torch.device) -> dict[str, Any]:
    """The device's name, memory and versions."""
    if device.type != "cuda":
        return {"device": str(device), "name": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    has = torch.cuda.get_device_properties(device)
    return {
        "device": str(device),
        "name": has.name,
        "gib": round(has.total_memory / measure.GIB, 1),
        "multiprocessors": has.multi_processor_count,
        "capability": f"{has.major}.{has.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cores": os.cpu_count(),
    }
