"""The shipped pairs, and what their benches show them and score: see `bench`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from .. import presets
from ..columns import Column
from ..runs import whole
from . import digits
from .columns import DIGITS, SHAPES
from .grammar import describe, parse, prompts, refine
from .judge import filled, judge, read
from .world import COLOURS, HOLE, Scene, complete, edges, grid, render, still

_RIGHT, *_OTHERS = (replace(column, primary=column.name == "right") for column in SHAPES)
COLUMNS = (
    *(replace(_RIGHT, name=f"right ({n})") for n in ("one object", "two objects", "three objects")),
    *(replace(c, primary=c.name in ("form", "background_instability", "jerk")) for c in _OTHERS),
)
# Of a picture's things, what there is to see of them; and what a picture of a given size, in percent, has clipped.
SEEN = tuple(
    column
    for column in SHAPES
    if column.name
    in (
        "right",
        "objects",
        "count",
        "colour",
        "shape",
        "size",
        "relation",
        "background",
        "form",
        "exchanged",
        "clipped",
    )
)
NEAR = 1  # pixels within which an edge agrees


PAIRS: dict[str, tuple[Column, ...]] = {  # what a pair is scored by, by its preset
    "shapes": COLUMNS,
    "shapes-image": SEEN,
    "shapes-guidance": SEEN,
    "shapes-prompt": SEEN,
    "shapes-style": (Column("outlined"), *SEEN),
    "shapes-control": (Column("edges"), *SEEN),
    "shapes-picture": (Column("like the picture", kind="verdict"), *SEEN),
    "shapes-motion": SHAPES,
    "shapes-digits": DIGITS,
}


@dataclass(frozen=True)
class Sample:
    """What a pair is asked for, and what is right.

    Args:
        prompt: the strong arm's.
        data: frames (F, H, W, 3) in `uint8`, such as a perfect model would make.
        told: what a request says beside the prompt: a picture to follow, or the weak arm's prompt.
        scene: what is to be seen; None where no scene says it.
    """

    prompt: str
    data: np.ndarray
    told: dict[str, str] = field(default_factory=dict)
    scene: Scene | None = None


def samples(asked: presets.Preset, count: int, folder: Path) -> Iterator[Sample]:
    """What a preset of the shipped models is asked for; pictures to follow are files in `folder`.

    Sample n does not depend on how many there are.
    """
    return (sample_of(asked, n, text, folder) for n, text in enumerate(prompts(count)))


def sample_of(asked: presets.Preset, n: int, text: str, folder: Path) -> Sample:
    """Sample n, of a prompt of the grammar; of a preset of digits the prompt says nothing."""
    if not asked.textual:
        return Sample(prompt_of(asked, n, text), digits.pictures(n % 10, n // 10))
    prompt, scene, drawn, rng = _drawn(asked, n, text)
    told = {"weak_prompt": describe(_shown(parse(text), asked))} if asked.refine else {}
    if asked.video:
        return Sample(prompt, _pixels(render(drawn, n)), told, scene)
    picture = render(drawn, rng, frames=1, hole=HOLE if "outlines" in asked.adapters else 0.0)
    if followed := _followed(asked):
        shown = _pixels(edges(picture) if followed == "control" else picture)[0]
        # The name is that of what is drawn, so that a picture of another prompt is never taken for this one's.
        path = folder / f"{followed}-{n}-{hashlib.sha256(shown.tobytes()).hexdigest()[:16]}.png"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with whole({"picture": path}) as staged:
                Image.fromarray(shown).save(staged["picture"], format="PNG")
        told[followed] = str(path)
    return Sample(prompt, _pixels(picture), told, scene)


def prompt_of(asked: presets.Preset, n: int, text: str) -> str:
    """The prompt of sample n: see `sample_of`."""
    return _drawn(asked, n, text)[0] if asked.textual else digits.NAMES[n % 10]


def _followed(asked: presets.Preset) -> Literal["control", "ip_image"] | None:
    """What a picture to follow is called in a request of the preset."""
    return "control" if asked.controlnet else "ip_image" if asked.ip_adapter else None


def _drawn(asked: presets.Preset, n: int, text: str) -> tuple[str, Scene, Scene, np.random.Generator]:
    """The prompt of sample n; the scene that is right; the scene that is drawn, which says more where the sample is a
    picture to follow; and what the rest of a picture is drawn with."""
    scene = _shown(parse(text), asked)
    if asked.refine:
        scene = _shown(parse(text := refine(describe(scene))), asked)
    else:
        text = describe(scene)
    rng = np.random.default_rng([7, n])
    if not (followed := _followed(asked)):
        return text, scene, scene, rng
    drawn = complete(scene, rng)
    scene = _shown(drawn, asked)
    return describe(_unsaid(scene) if followed == "ip_image" else scene), scene, drawn, rng


def _pixels(frames: np.ndarray) -> np.ndarray:
    return (frames * 255).round().astype(np.uint8)


def _shown(scene: Scene, asked: presets.Preset) -> Scene:
    """What of a scene a video shows, or a picture."""
    return scene if asked.video else still(scene)


def _unsaid(scene: Scene) -> Scene:
    """A scene without size and background, which a picture is to say."""
    return replace(scene, background=None, things=tuple(replace(t, size=None) for t in scene.things))


def score(pair: str, frames: np.ndarray, sample: Sample) -> dict[str, float]:
    """What a picture (1, height, width, 3), or a video (frames, height, width, 3), in `uint8`, is worth to a pair.

    `outlined` is how empty the things are in their middle; `edges` is how many of the edges shown and made agree within
    a pixel (the harmonic mean of precision and recall); `like the picture` is whether size and background are the
    picture's, in equal parts. The rest is the judge's; outlines are filled for it.
    """
    if sample.scene is None:
        return digits.judge(frames[0], sample.prompt)
    scores = judge(filled(frames) if pair == "shapes-style" else frames, sample.scene)
    if pair == "shapes-style":
        scores["outlined"] = emptiness(frames)
    if pair == "shapes-control":
        made, wanted = (edges(each[0] / np.float32(255))[..., 0] > 0.5 for each in (frames, sample.data))
        scores["edges"] = agreement(made, wanted)
    if pair == "shapes-picture":
        seen = read(frames)
        sizes = {t.colour: t.size for t in seen.tracks}
        sized = np.mean([sizes.get(t.colour) == t.size for t in sample.scene.things])
        scores["like the picture"] = float(np.mean([sized, seen.background == sample.scene.background]))
    return scores


def emptiness(frames: np.ndarray) -> float:
    """How little of a thing's colour there is within 0.3 of its radius from its middle, from 0 to 1; their mean."""
    empty = []
    for track in read(frames).tracks:
        (x, y), radius = track.centre[0], np.sqrt(track.area[0] / np.pi)
        gx, gy = grid(*frames.shape[1:3])
        middle = np.hypot(gx - x, gy - y) <= max(0.3 * radius, 1.0)
        chroma = np.ptp(frames[0].astype(np.float32) / 255, axis=-1) / np.ptp(COLOURS[track.colour])
        empty.append(1 - np.clip(chroma[middle], 0, 1).mean())
    return float(np.mean(empty)) if empty else 0.0


def agreement(made: np.ndarray, wanted: np.ndarray) -> float:
    """The harmonic mean of precision and recall of edges (height, width), which agree within NEAR pixels."""
    if not made.any() or not wanted.any():
        return float(made.any() == wanted.any())
    precision, recall = (made & _grown(wanted)).sum() / made.sum(), (wanted & _grown(made)).sum() / wanted.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _grown(mask: np.ndarray) -> np.ndarray:
    side = 2 * NEAR + 1
    padded = np.pad(mask, NEAR)
    h, w = mask.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(side) for j in range(side)], axis=0)
