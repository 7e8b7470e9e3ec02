"""What `w2sd-video check-pair` does first: asks a pair's models at data, and says which way their difference points."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import presets, runs, video
from .eval.results import ENOUGH
from .eval.statistics import Interval, interval
from .eval.videos import find
from .generate import load, scheduler, weak_arm
from .runs import Refused, Request

if TYPE_CHECKING:
    from .alignment import Alignment

LEVELS = 8


def samples(request: Request, count: int, references: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Prompts, and frames (F, H, W, 3) of data for each: of the videos that are given, or rendered by the world.

    Raises:
        Refused: the preset has no world that renders, and no videos with prompts are given.
    """
    if not references:
        if presets.load(request.preset).grammar != "shapes":
            raise Refused("videos", "", f"preset {request.preset} has no data of its own: give videos, with prompts")
        from .shapes import grammar
        from .shapes.world import render

        prompts = grammar.prompts(count)
        return [(p, (render(grammar.parse(p), n) * 255).round().astype(np.uint8)) for n, p in enumerate(prompts)]
    found = find(list(references))[:count]
    silent = [str(each.path) for each in found if not each.prompt]
    if silent:
        raise Refused("videos", silent[0], "name it as its prompt, or put a sidecar beside it")
    return [(str(each.prompt), video.read(each.path)) for each in found]


def alignment(
    request: Request, data: Sequence[tuple[str, np.ndarray]], progress: Callable[[int], None]
) -> list[list[Alignment]]:
    """Of each sample, what the pair's models say of it at guidance 1, noise level by noise level."""
    from PIL import Image

    from .alignment import align, latents_of

    pipe = load(request)["w2sd"]
    pipe.scheduler = scheduler(request, pipe.scheduler.config.get("prediction_type"))
    found = []
    for n, (prompt, frames) in enumerate(data):
        size = (request.width, request.height)
        shown = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames]
        shown = shown[: request.num_frames or 1]
        call: dict[str, Any] = {"prompt": prompt, **weak_arm(request)}
        call |= {"num_frames": len(shown)} if request.video else {}
        call |= {"height": request.height, "width": request.width, "guidance_scale": 1.0}
        found.append(align(pipe, latents_of(pipe, np.stack(shown)), LEVELS, seed=n, **call))
        progress(n + 1)
    return found


def by_level(found: Sequence[Sequence[Alignment]]) -> list[tuple[float, Interval]]:
    """Noise levels sigma, and the mean cosine at each."""
    return [(level[0].sigma, interval(np.array([each.cosine for each in level]))) for level in zip(*found, strict=True)]


def overall(found: Sequence[Sequence[Alignment]]) -> Interval:
    """The mean cosine over levels, of samples."""
    return interval(np.array([np.mean([each.cosine for each in sample]) for sample in found]))


def verdict(mean: Interval) -> str:
    """What an interval of cosines says."""
    if mean.n < ENOUGH:
        return f"too few to say; it takes {ENOUGH}"
    if mean.low > 0:
        return "the models' difference points towards the data"
    if mean.high < 0:
        return "WARNING: the models' difference points away from the data; this pair is likely to hurt"
    if mean.mean == 0 and mean.high == mean.low:
        return "the models are the same: what is left of the pair is guidance, which only the scores below can judge"
    return "no direction is certain: more --samples would tell"


def write(path: Path, found: Sequence[Sequence[Alignment]]) -> None:
    """Every sample and level as a row."""
    with runs.whole({"csv": path}) as staged, open(staged["csv"], "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "sigma", "cosine", "dr", "dd", "rr"])
        for n, sample in enumerate(found):
            rows.writerows([n, each.sigma, each.cosine, each.dr, each.dd, each.rr] for each in sample)
