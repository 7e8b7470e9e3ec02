"""The videos of a run for scoring: one per cell of its plan. Cells without a video count as failed."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from ..errors import Refused
from ..eval.videos import Video
from ..runs import check_files, read_sidecar
from .plan import Plan, check_plan
from .record import Folder, Keys
from .stored import with_stored

logger = logging.getLogger("w2sd_video")


def videos(plan: Plan, path: str | Path) -> list[Video]:
    """The videos or pictures of a plan's cells, grouped by arm, the base first.

    Raises:
        Refused: no cell of the plan is complete yet, or a file differs from its sidecar's hash.
    """
    check_plan(plan)
    folder = Folder(path)
    if "mp4" not in plan.formats:
        raise Refused("formats", plan.formats, "videos are scored as mp4: add it, and run the plan again")
    threads = folder.threads()
    if threads is None:
        raise Refused("RUN", str(path), "nothing is made yet: start it with w2sd-video run")
    keys, plan = Keys(threads), with_stored(plan, folder)
    cells = [(keys.of(cell), cell) for cell in plan.cells()]
    complete = folder.state(cells).complete
    if not complete:
        raise Refused("RUN", str(path), "nothing of the plan is made yet: continue it with w2sd-video run")
    first = plan.base or plan.arms[0].name
    videos, devices = [], Counter[str]()
    for key, cell in sorted(cells, key=lambda each: each[1].arm.name != first):
        where, stem = folder.place(cell)
        if key in complete:
            record = read_sidecar(where / f"{stem}.json")[1]
            if wrong := check_files(where, record, hashed=True):
                accepted = f"{min(wrong)} has changed since it was written: delete it, and run the plan again"
                raise Refused("RUN", str(path), accepted)
            devices[str(record.get("device_name"))] += 1
        file = where / f"{stem}{'.mp4' if cell.arm.template.video else '.png'}"
        pair = f"{cell.prompt.text}, seed {cell.seed}"
        # The file of a cell that is not complete may exist, from other weights or from a failed attempt.
        there = file if key in complete else where / f"{stem} was not made"
        videos.append(Video(there, cell.arm.name, pair, cell.prompt.text, "plan"))
    if len(devices) > 1:
        counts = ", ".join(f"{count} on {device}" for device, count in sorted(devices.items()))
        logger.warning("note: videos come from different machines, whose frames differ in the last digits: %s", counts)
    return videos
