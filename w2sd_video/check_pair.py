"""What `w2sd-video check-pair` does first: asks a pair's models at data, and says which way their difference points."""

from __future__ import annotations

import csv
import glob
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import presets, runs, video
from .columns import Column
from .eval.videos import find
from .runs import Refused, Request
from .sampling import inputs, load, scheduler, weak_arm
from .settings import FAMILIES
from .shapes import pairs
from .shapes.pairs import Sample
from .verdicts import ENOUGH, Comparison, Interval, by_prompt, compare, decide, mean

if TYPE_CHECKING:
    from .alignment import Alignment

LEVELS = 8
COSINE = Column("cosine")
SHIPPED = "package:"
COSINES = "alignment.csv"


def samples(
    preset: presets.Preset, count: int, references: Sequence[str], control: Path | None, folder: Path
) -> list[Sample]:
    """Prompts, and data for each: of the videos or pictures that are given, or else drawn by the world of shapes.

    Args:
        references: files and folders, whose prompts are in sidecars or names.
        control: a folder of what the ControlNet is shown for each of them, under the same names.
        folder: where the world of shapes draws what a pair is shown.

    Raises:
        Refused: the preset has no data of its own, and none with prompts, and with what its ControlNet takes, is given.
    """
    if FAMILIES[preset.family].transformer:
        accepted = "a pair of U-Nets or of a mixture: how data is encoded for transformers is not known here"
        raise Refused("preset", preset.name, f"it is one of transformers; give {accepted}")
    if not references:
        if preset.grammar != "shapes" and not preset.strong.startswith(SHIPPED):
            kinds = f"{preset.kind}s"
            raise Refused("videos", None, f"preset {preset.name} has no data of its own: give {kinds}, with prompts")
        return list(pairs.samples(preset, count, folder))
    listed = []
    for each in find(list(references), images=not preset.video)[:count]:
        if not each.prompt:
            raise Refused("videos", str(each.path), "name it as its prompt, or put a sidecar beside it")
        arguments = {}
        if preset.controlnet is not None:
            arguments["control"] = str(_beside(each.path, control))
        if preset.ip_adapter is not None:  # what it is trained to be shown: the picture itself
            arguments["ip_image"] = str(each.path)
        listed.append(Sample(each.prompt, video.shown(each.path), arguments))
    return listed


def _beside(path: Path, folder: Path | None) -> Path:
    """What a folder has under the name of a file in another."""
    if folder is None:
        raise Refused("control", None, "give a folder with what the ControlNet is shown, named as the videos are")
    named = sorted(folder.glob(f"{glob.escape(path.stem)}.*"))
    if not named:
        raise Refused("control", str(folder), f"it has no file of the name of {path.name}: {path.stem}.png, say")
    return named[0]


def alignment(
    requests: Sequence[Request], data: Sequence[np.ndarray], progress: Callable[[int], None]
) -> list[list[Alignment]]:
    """Of each request and its data, what the pair's models say of it at guidance 1, noise level by noise level."""
    from PIL import Image

    from .alignment import align, latents_of

    pipe = load(requests[0])["w2sd"]
    pipe.scheduler = scheduler(requests[0], pipe.scheduler.config)
    alignments = []
    for n, (request, frames) in enumerate(zip(requests, data, strict=True)):
        size = (request.width, request.height)
        resized = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames]
        resized = resized[: request.num_frames or 1]
        if request.video:
            request = replace(request, num_frames=len(resized))
        call = inputs(pipe, request) | weak_arm(request)
        alignments.append(align(pipe, latents_of(pipe, np.stack(resized)), LEVELS, seed=n, **call, guidance_scale=1.0))
        progress(n + 1)
    return alignments


def usual_dimensions(preset: presets.Preset) -> list[str]:
    """What a pair's videos or pictures are scored by, unless something else is asked."""
    if preset.grammar == "shapes":
        return ["shapes"]  # whose judge counts what is clipped too
    if not preset.textual and preset.strong.startswith(SHIPPED):
        return ["digits", "clipped"]
    return ["six" if preset.video else "images", "clipped"]


def by_level(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> list[tuple[float, Interval]]:
    """Noise levels sigma, and the mean cosine at each, over the samples' prompts."""
    levels = zip(*alignments, strict=True)
    return [(level[0].sigma, mean(COSINE, by_prompt(prompts, [each.cosine for each in level]))) for level in levels]


def overall(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> Comparison:
    """The mean cosine over levels of samples with these prompts, against 0."""
    cosines = [math.fsum(each.cosine for each in sample) / len(sample) for sample in alignments]
    none = by_prompt(prompts, [0.0] * len(prompts))
    compared = compare(COSINE, "0", "cosine", none, by_prompt(prompts, cosines))
    assert compared is not None  # there are samples
    (decided,) = decide([compared], {COSINE.name: COSINE})
    return decided


def verdict(cosine: Comparison) -> str:
    """What cosines say."""
    if cosine.difference.units < ENOUGH:
        return f"too few to say; it takes {ENOUGH} {cosine.difference.unit}s"
    if cosine.verdict == "better":
        return "the models' difference points towards the data"
    if cosine.verdict == "worse":
        return "WARNING: the models' difference points away from the data; this pair is likely to hurt"
    if cosine.difference.low == cosine.difference.high == 0:
        return "the models are the same: what is left of the pair is guidance, which only the scores below can judge"
    return "no direction is certain: more --samples would tell"


def writable(folder: Path) -> None:
    """Refuses, before anything long, a folder in which `write` will fail.

    Raises:
        Refused: something in it that is no file has the name of the cosines' file.
    """
    if (path := folder / COSINES).is_dir():
        raise Refused("out", str(folder), f"{path} is a folder: give another one")


def write(path: Path, alignments: Sequence[Sequence[Alignment]]) -> None:
    """Every sample and level as a row."""
    with runs.whole({"csv": path}) as staged, open(staged["csv"], "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sample", "sigma", "cosine", "dr", "dd", "rr"])
        for n, sample in enumerate(alignments):
            rows.writerows([n, each.sigma, each.cosine, each.dr, each.dd, each.rr] for each in sample)
