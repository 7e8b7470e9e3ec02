"""Reads a video of the shapes world back, without any network.

Backgrounds are grey and objects are not, so a pixel's chroma (its largest minus its smallest channel) says how much of
an object it shows, and its hue says which. Everything else is counting: area and centroid frame by frame, the shape
whose template of that area and centroid covers best, the slope of the centroid's path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import (
    BACKGROUNDS,
    CANVAS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Scene,
    coverage,
    grid,
)

# A pixel with less of its colour's chroma than this is background; an object with fewer pixels than this is a speck.
FAINT = 0.35
SPECK = 20.0
_RGB = np.array(list(COLOURS.values()), dtype=np.float32)
_CHROMA = np.ptp(_RGB, axis=1)
_HUES = (_RGB - _RGB.min(1, keepdims=True)) / _CHROMA[:, None]


@dataclass(frozen=True)
class Track:
    """One object as it was seen: its colour, and by frame its area (px), centroid (px; x, y) and mean RGB.

    `centre` and `rgb` are NaN in frames where the object is not to be seen.
    """

    colour: str
    area: np.ndarray
    centre: np.ndarray
    rgb: np.ndarray
    shape: str
    scale: float

    @property
    def seen(self) -> np.ndarray:
        """Frames in which the object is there, (frames,) bool."""
        return self.area >= SPECK * self.scale**2

    @property
    def velocity(self) -> np.ndarray:
        """Least-squares velocity (x, y), pixels a frame."""
        time = np.flatnonzero(self.seen)
        if len(time) < 2:
            return np.zeros(2)
        return np.polyfit(time, self.centre[time], 1)[0]

    @property
    def direction(self) -> str:
        vx, vy = self.velocity / self.scale
        if max(abs(vx), abs(vy)) < min(SPEEDS.values()) / 2:
            return "still"
        if abs(vx) > abs(vy):
            return "right" if vx > 0 else "left"
        return "down" if vy > 0 else "up"

    @property
    def speed(self) -> str | None:
        if self.direction == "still":
            return None
        v = np.abs(self.velocity).max() / self.scale
        return min(SPEEDS, key=lambda name: abs(SPEEDS[name] - v))

    @property
    def size(self) -> str:
        radius = np.sqrt(np.median(self.area[self.seen]) / np.pi) / self.scale
        return min(SIZES, key=lambda name: abs(SIZES[name] - radius))


@dataclass(frozen=True)
class Reading:
    """What the judge sees in a video: its objects, largest first, its background, and its clipped channels.

    `greys` is the background's level by frame, (frames,), 0-1; NaN where nothing of it is to be seen.
    """

    tracks: tuple[Track, ...]
    background: str
    greys: np.ndarray
    clipped: float


def read(video: np.ndarray) -> Reading:
    """Reads a video.

    Args:
        video: (frames, height, width, 3), RGB, uint8 in 0-255 or float in 0-1.

    Raises:
        ValueError: the array is not such a video.
    """
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"video: shape {video.shape} is not (frames, height, width, 3)")
    x = video.astype(np.float32) / (255 if video.dtype == np.uint8 else 1)
    height, width = x.shape[1:3]
    scale = min(height, width) / CANVAS

    nearest, cover = _seen(x)
    gx, gy = grid(height, width)
    tracks = []
    for n, colour in enumerate(COLOURS):
        mine = cover * (nearest == n)
        area = mine.sum((1, 2))
        if np.median(area) < SPECK * scale**2:
            continue
        # Edge pixels mix with the background and can take a neighbouring hue: an object is what lies in and around
        # its own colour.
        whole = cover * _around(mine > 0.5)
        area = whole.sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.stack([(whole * gx).sum((1, 2)), (whole * gy).sum((1, 2))], -1) / area[:, None]
            rgb = (x * mine[..., None]).sum((1, 2)) / mine.sum((1, 2))[:, None]
        votes = [_shape(w, a, c) for w, a, c in zip(whole, area, centre, strict=True) if a >= SPECK * scale**2]
        shape = max(SHAPES, key=votes.count) if votes else ""
        tracks.append(Track(colour, area, centre, rgb, shape, scale))
    tracks.sort(key=lambda t: -float(np.median(t.area)))
    bare = np.where(cover == 0, x.mean(-1), np.nan)
    greys = np.array(
        [np.nanmedian(frame) if (there == 0).any() else np.nan for frame, there in zip(bare, cover, strict=True)]
    )
    grey = float(np.nanmedian(bare)) if (cover == 0).any() else 0.0
    background = min(BACKGROUNDS, key=lambda name: abs(BACKGROUNDS[name] - grey))
    clipped = float(((x <= 0) | (x >= 1)).mean())
    return Reading(tuple(tracks), background, greys, clipped)


def _seen(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pixels (..., 3) in [0, 1]: the number of the nearest colour, and how much of it covers them, in [0, 1]."""
    low = x.min(-1, keepdims=True)
    chroma = x.max(-1) - low[..., 0]
    hue = (x - low) / np.maximum(chroma, 1e-6)[..., None]
    nearest = np.stack([np.abs(hue - h).sum(-1) for h in _HUES], -1).argmin(-1)
    cover = np.clip(chroma / _CHROMA[nearest], 0, 1)
    cover[cover < FAINT] = 0
    return nearest, cover


def filled(video: np.ndarray) -> np.ndarray:
    """A video (frames, height, width, 3) in `uint8`, with what a colour encloses painted in that colour.

    So outlines can be judged as the things that they are of.
    """
    nearest, cover = _seen(video.astype(np.float32) / 255)
    painted = video.copy()
    for n, colour in enumerate(COLOURS.values()):
        wall = (nearest == n) & (cover > 0.5)
        # What can be reached from the rim without passing the colour is outside.
        outside = np.zeros_like(wall)
        outside[:, [0, -1]], outside[:, :, [0, -1]] = True, True
        outside &= ~wall
        while (grown := _around(outside) & ~wall).sum() > outside.sum():
            outside = grown
        within = ~outside & ~wall
        painted[within] = np.round(np.array(colour) * 255)
    return painted


def _around(mask: np.ndarray) -> np.ndarray:
    """The mask grown by one pixel in each direction."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    h, w = mask.shape[1:]
    return np.any([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


# Area of each shape at size 1, drawn once on a fine grid.
_FINE = (np.arange(400) + 0.5) / 50 - 4
_UNIT_AREA = {s: float(coverage(s, _FINE[None] * 50, _FINE[:, None] * 50, 50.0).sum() / 2500) for s in SHAPES}


def _shape(cover: np.ndarray, area: float, centre: np.ndarray) -> str:
    """The shape whose template of the same area and centroid differs least from a frame's coverage."""
    x, y = grid(*cover.shape)
    return min(
        SHAPES,
        key=lambda s: np.abs(cover - coverage(s, x - centre[0], y - centre[1], np.sqrt(area / _UNIT_AREA[s]))).sum(),
    )


def _is_there(track: Track) -> bool:
    return bool(track.seen.mean() >= 0.9)


def judge(video: np.ndarray, scene: Scene) -> dict[str, float]:
    """Scores a video against the scene that its prompt describes.

    Verdicts are 0 or 1, and count only what the scene says (an attribute that it leaves open is left out):
    `colour`, `shape`, `size`, `direction`, `speed` (each the mean over the scene's objects), `relation`, `background`,
    `count` (the scene's number of objects, no more), and `right`: all of them.

    Measures, over the objects that are there (NaN where none is):
    `area_instability`: standard deviation over mean of the area, over frames;
    `colour_instability`: standard deviation over frames of the mean RGB, root mean square over channels;
    `background_instability`: standard deviation over frames of the background's level, of all of them;
    `jerk`: mean length of the centroid's third difference, pixels a frame cubed;
    `motion`: mean length of the centroid's way from the first to the last frame, pixels;
    `clipped`: percentage of channel values at the ends of their range.

    Args:
        video: (frames, height, width, 3), RGB, uint8 in 0-255 or float in 0-1.
        scene: what it should show, as `grammar.parse` reads it.
    """
    seen = read(video)
    there = [t for t in seen.tracks if _is_there(t)]
    by_colour = {t.colour: t for t in there}
    scores: dict[str, float] = {"count": float(len(seen.tracks) == len(there) == len(scene.things))}

    pairs: list[Track | None] = [by_colour.get(thing.colour) for thing in scene.things]
    scores["colour"] = float(np.mean([t is not None for t in pairs]))
    if len(scene.things) == 1 and pairs[0] is None and there:
        pairs = [there[0]]  # of the wrong colour, its other attributes can still be right
    for name in ("shape", "size", "direction", "speed"):
        asked = [(getattr(thing, name), t) for thing, t in zip(scene.things, pairs, strict=True)]
        verdicts = [float(t is not None and getattr(t, name) == want) for want, t in asked if want is not None]
        if verdicts:
            scores[name] = float(np.mean(verdicts))
    if scene.relation is not None:
        first, second = pairs
        scores["relation"] = float(first is not None and second is not None and _stands(first, second, scene.relation))
    if scene.background is not None:
        scores["background"] = float(seen.background == scene.background)
    scores["right"] = float(all(v == 1.0 for v in scores.values()))

    found = [t for t in pairs if t is not None]
    scores["area_instability"] = _mean([float(t.area.std() / t.area.mean()) for t in found])
    scores["colour_instability"] = _mean([float(np.sqrt(np.nanvar(t.rgb, axis=0).mean())) for t in found])
    levels = seen.greys[~np.isnan(seen.greys)]
    scores["background_instability"] = float(levels.std()) if len(levels) else float("nan")
    jerks = [np.linalg.norm(np.diff(t.centre[t.seen], 3, axis=0), axis=1) for t in found]
    scores["jerk"] = _mean([float(j.mean()) for j in jerks if len(j)])
    ways = [t.centre[t.seen][[0, -1]] for t in found]
    scores["motion"] = _mean([float(np.linalg.norm(w[1] - w[0])) for w in ways])
    scores["clipped"] = 100 * seen.clipped
    return scores


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _stands(first: Track, second: Track, relation: str) -> bool:
    """Whether, in 90 % of the frames that show both, the first object lies clear of the second on that side."""
    both = first.seen & second.seen
    ahead = (first.centre - second.centre)[both] @ np.array(RELATIONS[relation])
    radii = np.sqrt(first.area[both] / np.pi) + np.sqrt(second.area[both] / np.pi)
    return len(ahead) > 0 and bool((ahead > 0.75 * radii).mean() >= 0.9)
