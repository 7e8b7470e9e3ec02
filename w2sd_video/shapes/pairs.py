"""The shipped pairs, and what their benches show them and score: see `bench`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from . import digits
from .grammar import describe, parse, prompts
from .judge import LOWER_IS_BETTER, SCORES, judge, read
from .world import COLOURS, Scene, complete, edges, grid, render

COLUMNS = ("right (one object)", "right (two objects)", *(score for score in SCORES if score != "right"))
# Of a picture's things, what there is to see of them; and what a picture of a given size, in percent, has clipped.
SEEN = ("right", "count", "colour", "shape", "size", "relation", "background", "clipped")
SHOWN = {"control": "control", "picture": "ip_image"}  # the field of a request that a pair's picture is for
NEAR = 1  # pixels within which an edge agrees


@dataclass(frozen=True)
class Measured:
    """A pair and what it is scored by.

    Args:
        preset: its name.
        columns: scores, by which the table's rows go.
        lower: those of them that are better when lower.
    """

    preset: str
    columns: tuple[str, ...]
    lower: tuple[str, ...] = ("clipped",)


PAIRS = {
    "video": Measured("shapes", COLUMNS, LOWER_IS_BETTER),
    "image": Measured("shapes-image", SEEN),
    "style": Measured("shapes-style", ("outlined", *SEEN)),
    "control": Measured("shapes-control", ("edges", *SEEN)),
    "picture": Measured("shapes-picture", ("like the picture", *SEEN)),
    "motion": Measured("shapes-motion", SCORES, LOWER_IS_BETTER),
    "digits": Measured("shapes-digits", ("right", "distance"), ("distance",)),
}


def samples(pair: str, count: int, folder: Path) -> Iterator[tuple[str, dict[str, str], Scene | None]]:
    """Prompts, the pictures that go with them (files in `folder`), and what they should show."""
    for n, text in enumerate(prompts(count)):
        if pair == "digits":
            yield digits.NAMES[n % 10], {}, None
            continue
        if pair in ("video", "motion"):
            yield text, {}, parse(text)
            continue
        scene, rng = _still(parse(text)), np.random.default_rng([7, n])
        if pair not in SHOWN:
            yield describe(scene), {}, scene
            continue
        scene = complete(scene, rng)
        drawn = render(scene, rng, frames=1)[0]
        drawn = edges(drawn) if pair == "control" else drawn
        path = folder / f"{pair}-{n}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((drawn * 255).round().astype(np.uint8)).save(path)
        scene = said = _still(scene)
        if pair == "picture":
            said = replace(scene, background=None, things=tuple(replace(t, size=None) for t in scene.things))
        yield describe(said), {SHOWN[pair]: str(path)}, scene


def _still(scene: Scene) -> Scene:
    """What a picture can show of a scene."""
    return replace(scene, things=tuple(replace(t, direction=None, speed=None) for t in scene.things))


def score(pair: str, frames: np.ndarray, text: str, scene: Scene | None, shown: dict[str, str]) -> dict[str, float]:
    """What a picture (1, height, width, 3), or a video (frames, height, width, 3), in `uint8`, is worth.

    `outlined` is how empty the things are in their middle; `edges` is how many of the edges shown and made agree within
    a pixel (the harmonic mean of precision and recall); `like the picture` is whether size and background are the
    picture's, in equal parts. The rest is the judge's.
    """
    if scene is None:
        return digits.judge(frames[0], text)
    scores = judge(frames, scene)
    if pair == "style":
        scores["outlined"] = emptiness(frames)
    if pair == "control":
        wanted = np.asarray(Image.open(shown["control"]))[..., 0] > 127
        scores["edges"] = agreement(edges(frames[0] / np.float32(255))[..., 0] > 0.5, wanted)
    if pair == "picture":
        seen = read(frames)
        sizes = {t.colour: t.size for t in seen.tracks}
        right = [sizes.get(t.colour) == t.size for t in scene.things] + [seen.background == scene.background]
        scores["like the picture"] = float(np.mean([np.mean(right[:-1]), right[-1]]))
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
