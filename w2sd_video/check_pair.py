"""The first part of `w2sd-video check-pair`: whether the difference of a pair's models points towards data."""

from __future__ import annotations

import csv
import glob
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import presets, runs, video
from .columns import Column
from .eval.videos import find
from .families import FAMILIES
from .runs import Refused, Request
from .sampling import inputs, load, scheduler, weak_arm
from .shapes import pairs
from .shapes.pairs import Sample
from .statistics import holm
from .strength import Proposal, Strength, products, strength
from .verdicts import ENOUGH, LEVEL, Interval, by_prompt, mean

if TYPE_CHECKING:
    from .alignment import Alignment

LEVELS = 8
COSINE = Column("cosine")
SHIPPED = "package:"
COSINES = "alignment.csv"
PROPOSED = "proposed.yaml"


@dataclass(frozen=True)
class Level:
    """The alignment of a pair's models at one noise level.

    Args:
        sigma: the noise level.
        strength: the strength of the models' difference; see `strength`.
        cosine: the mean cosine between the models' difference and the strong model's error on single samples. The noise
            of single samples makes it far smaller than the cosine with the strong model's mean error.
    """

    sigma: float
    strength: Strength
    cosine: Interval


def samples(
    preset: presets.Preset, count: int, references: Sequence[str], control: Path | None, folder: Path
) -> list[Sample]:
    """Prompts with data: from `references`, or else drawn by the world of shapes.

    Args:
        count: how many, at most.
        references: videos or pictures, or folders of them, with their prompts in sidecars or file names.
        control: a folder with the ControlNet's input for each reference, under the same name.
        folder: the folder for pictures that the world of shapes draws as inputs of the pair.

    Raises:
        Refused: there are no references and the preset has no data of its own, or a reference lacks its prompt or its
            ControlNet input.
    """
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
        if FAMILIES[preset.family].from_image:  # `image` is the first frame of the video
            arguments["image"] = str(each.path)
        if preset.ip_adapter is not None:  # an IP-Adapter is trained on the picture itself
            arguments["ip_image"] = str(each.path)
        listed.append(Sample(each.prompt, video.as_viewed(each.path), arguments))
    return listed


def _beside(path: Path, folder: Path | None) -> Path:
    """The file in `folder` whose stem is that of `path`.

    Raises:
        Refused: there is no folder, or no such file.
    """
    if folder is None:
        raise Refused("control", None, "give a folder with the ControlNet's inputs, named as the videos are")
    named = sorted(folder.glob(f"{glob.escape(path.stem)}.*"))
    if not named:
        raise Refused("control", str(folder), f"it has no file for {path.name}: add one, such as {path.stem}.png")
    return named[0]


def alignment(
    requests: Sequence[Request], data: Sequence[np.ndarray], progress: Callable[[int], None]
) -> list[list[Alignment]]:
    """The alignment of the pair's models at guidance 1, by request and then by noise level.

    Args:
        requests: one for each sample.
        data: the frames of each sample, (F, H, W, 3) in uint8.
        progress: called with the number of samples done.
    """
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
            stride = FAMILIES[request.family].stride
            resized = resized[: (len(resized) - 1) // stride * stride + 1]
            request = replace(request, num_frames=len(resized))
        call = inputs(pipe, request) | weak_arm(request) | pipe.guided(1.0, request.embedded_guidance)
        with pipe.guiding(1.0):
            alignments.append(align(pipe, latents_of(pipe, np.stack(resized)), LEVELS, seed=n, **call))
        progress(n + 1)
    return alignments


def usual_dimensions(preset: presets.Preset) -> list[str]:
    """The default dimensions for a pair's videos or pictures."""
    if preset.grammar == "shapes":
        return ["shapes"]  # its judge also counts clipped pixels
    if not preset.textual and preset.strong.startswith(SHIPPED):
        return ["digits", "clipped"]
    return ["six" if preset.video else "images", "clipped"]


def by_level(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> list[Level]:
    """The alignment at each noise level over the samples' prompts, from the noisiest level down."""
    dr, dd = products(alignments, prompts)
    levels = []
    for n, level in enumerate(zip(*alignments, strict=True)):
        cosine = mean(COSINE, by_prompt(prompts, [each.cosine for each in level]))
        levels.append(Level(level[0].sigma, strength(dr[:, n], dd[:, n]), cosine))
    return levels


def overall(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> Strength:
    """The strength over all levels, each with its weight in the networks' training loss."""
    dr, dd = products(alignments, prompts)
    return strength(dr.sum(1), dd.sum(1))


def mean_cosine(alignments: Sequence[Sequence[Alignment]], prompts: Sequence[str]) -> Interval:
    """The mean cosine over levels and samples, with its interval over prompts."""
    cosines = [math.fsum(each.cosine for each in sample) / len(sample) for sample in alignments]
    return mean(COSINE, by_prompt(prompts, cosines))


def verdict(whole: Strength, levels: Sequence[Level] = ()) -> str:
    """The strengths in words. A level that points away is mentioned if its p, adjusted by Holm, is under 0.05."""
    if whole.prompts < ENOUGH:
        return f"too few to say; it takes {ENOUGH} prompts"
    if math.isnan(whole.g):
        return "the models are the same: what is left of the pair is guidance, which only the scores below can judge"
    adjusted = holm([each.strength.p for each in levels])
    away = [each for each, p in zip(levels, adjusted, strict=True) if p < LEVEL and each.strength.g < 0]
    at = f"; at sigma {', '.join(f'{each.sigma:.3f}' for each in away)} it points away" if away else ""
    if whole.p < LEVEL and whole.g < 0:
        away_from = "the models' difference points away from the data"
        return f"WARNING: {away_from}; to first order this pair hurts, which only scores of samples can confirm"
    if whole.p >= LEVEL:
        return f"no direction is certain{at}: more --samples would tell"
    if whole.low > 0.5:
        full = "and a reflection's full strength is not too much"
    elif whole.high < 0.5:
        full = "but a reflection's full strength overshoots"
    else:
        full = "and whether a reflection's full strength overshoots is not certain"
    return f"the models' difference points towards the data, {full}{at}"


def proposed(preset: presets.Preset, proposal: Proposal, fields: Mapping[str, Any]) -> presets.Preset:
    """The preset with the settings that were checked, and the proposed strength and noise levels.

    Args:
        fields: settings that replace the preset's; those that no preset has are ignored.
    """
    own = {each.name for each in dataclass_fields(presets.Preset)}
    replaced = {name: value for name, value in fields.items() if name in own}
    presets.find_beside(replaced, Path.cwd())  # makes paths absolute, since the preset is written elsewhere
    changes: dict[str, Any] = replaced | {"expected": []}
    changes["description"] = f"{preset.description.strip()} Strength and noise levels are what check-pair proposed."
    if proposal.strength:
        interval = [math.floor(proposal.low * 1000) / 1000, min(1.0, math.ceil(proposal.high * 1000) / 1000)]
        gains = {name: proposal.strength for name in ("still_gain", "motion_gain")[: 1 + preset.video]}
        changes["options"] = {**preset.options, **replaced.get("options", {}), "interval": interval, **gains}
    else:
        changes["reflection_steps"] = 0
    return replace(preset, **changes)


def writable(folder: Path) -> None:
    """Refuses a folder in which `write` would fail, before the long computation.

    Raises:
        Refused: it has a folder with the name of a file that `write` writes.
    """
    for name in (COSINES, PROPOSED):
        if (path := folder / name).is_dir():
            raise Refused("out", str(folder), f"{path} is a folder: give another one")


def write(folder: Path, alignments: Sequence[Sequence[Alignment]], preset: presets.Preset | None) -> None:
    """Writes a row for every sample and level, and the proposed preset; without one, an earlier check's is removed."""
    files = {"csv": folder / COSINES} | ({"yaml": folder / PROPOSED} if preset else {})
    with runs.whole(files) as staged:
        with open(staged["csv"], "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["sample", "sigma", "cosine", "dr", "dd", "rr"])
            for n, sample in enumerate(alignments):
                rows.writerows([n, each.sigma, each.cosine, each.dr, each.dd, each.rr] for each in sample)
        if preset:
            staged["yaml"].write_text(presets.text(preset), encoding="utf-8")
    if not preset:
        (folder / PROPOSED).unlink(missing_ok=True)
