"""Reads a video of the shapes world back, without any network.

Backgrounds are grey and objects are not, so a pixel's chroma (its largest minus its smallest channel) says how much of
an object it shows, and its hue says which. Everything else is counting: area and centroid frame by frame, the shape
whose template of that area and centroid covers best, the slope of the centroid's path. What a prompt says has to hold
in MOST frames: a mean alone lets a circle pass that becomes a square halfway.

How well an object is formed is the soft intersection over union of its coverage with the ideal shape of equal area and
centroid, over the frames in which nothing else touches it. That is not free of size: a blur of one pixel costs a small
circle more than a large one. So what counts as that shape is a constant for each shape and size.

Video files store one chroma for each 2 x 2 pixels (4:2:0). For frames that were read from one, the ideal shape is
averaged over the same pixels, so that a video is judged alike before it is written and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import (
    BACKGROUNDS,
    CANVAS,
    CHANGES,
    CLEAR,
    COLOURS,
    FRAMES,
    GROWTH,
    PASSING,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Scene,
    Thing,
    coverage,
    grid,
)

# A pixel with less of its colour's chroma than this is background; an object with fewer pixels than this is a speck.
FAINT = 0.35
SPECK = 20.0
# What is said of a video has to hold in so many of the frames that show it.
MOST = 0.9
# A straight way strays from its line by no more than a quarter of the way of the slowest thing that moves (pixels).
# What moves along an axis goes nearer to it than to a diagonal.
STRAY = min(SPEEDS.values()) * (FRAMES - 1) / 4
DIAGONAL = float(np.tan(np.pi / 8))
# Chroma that varies within 2 x 2 pixels by less than this share of how it varies between them is stored by the four.
HALVED = 0.05
# What of the shape that a prompt names is that shape: half-way between the form of what the world draws and the form of
# the best impostor, which is another of its shapes.
FORMED = {
    ("circle", "small"): 0.916,
    ("circle", "large"): 0.916,
    ("square", "small"): 0.916,
    ("square", "large"): 0.916,
    ("triangle", "small"): 0.844,
    ("triangle", "large"): 0.844,
}
# Something passes another where so much of what is behind is hidden, in some frame, and less than half as much of what
# is in front.
HIDDEN = 0.1
ROUNDING = 1e-3  # by which floats may leave 0-1
_RGB = np.array(list(COLOURS.values()), dtype=np.float32)
_CHROMA = np.ptp(_RGB, axis=1)
_HUES = (_RGB - _RGB.min(1, keepdims=True)) / _CHROMA[:, None]


@dataclass(frozen=True)
class Track:
    """One object as it was seen: its colour, and by frame its area (px), centroid (px; x, y) and mean RGB.

    `centre` and `rgb` are NaN in frames where the object is not to be seen. `touched` says by colour in which frames
    another object touches it, and `cut` in which frames the border does. `nearest` is the shape that it is nearest to
    in each of the frames that show it whole (where there are none, in each that shows it). `form` is, by shape, the
    mean soft intersection over union with the ideal one over the frames that show it whole; NaN where those are fewer
    than CLEAR (or than all, of shorter videos).
    """

    colour: str
    area: np.ndarray
    centre: np.ndarray
    rgb: np.ndarray
    nearest: tuple[str, ...]
    scale: float
    cut: np.ndarray
    touched: dict[str, np.ndarray]
    form: dict[str, float]

    @property
    def shape(self) -> str:
        """The nearest shape in the most frames; empty where none is to be seen."""
        return max(SHAPES, key=self.nearest.count) if self.nearest else ""

    @property
    def seen(self) -> np.ndarray:
        """Frames in which the object is there, (frames,) bool."""
        return self.area >= SPECK * self.scale**2

    @property
    def whole(self) -> np.ndarray:
        """Frames in which it is there, and neither the border nor another object touches it, (frames,) bool."""
        return self.seen & ~self.cut & ~np.any([*self.touched.values(), np.zeros_like(self.cut)], axis=0)

    @property
    def measured(self) -> np.ndarray:
        """Frames in which its way and size are measured, (frames,) bool: where it is whole, if those are enough."""
        return self.whole if self.whole.sum() >= min(CLEAR, len(self.area)) else self.seen

    @property
    def radius(self) -> np.ndarray:
        """Of a circle of its area by frame, (frames,), pixels."""
        return np.sqrt(self.area / np.pi)

    @property
    def velocity(self) -> np.ndarray:
        """Least-squares velocity (x, y), pixels a frame."""
        time = np.flatnonzero(self.measured)
        if len(time) < 2:
            return np.zeros(2)
        return np.polyfit(time, self.centre[time], 1)[0]

    @property
    def expected(self) -> np.ndarray:
        """The radius by frame on a straight line through those that are measured, (frames,), pixels."""
        time = np.flatnonzero(self.measured)
        every = np.arange(len(self.area))
        return np.polyval(np.polyfit(time, self.radius[time], min(1, len(time) - 1)), every) if len(time) else every * 0

    @property
    def growth(self) -> float:
        """How much of its mean radius it gains from the first frame to the last."""
        expected = self.expected
        return float((expected[-1] - expected[0]) / max(expected.mean(), 1e-6))

    @property
    def direction(self) -> str:
        """One of the world's directions, or `growing` or `shrinking` of what does not move."""
        vx, vy = self.velocity / self.scale
        if max(abs(vx), abs(vy)) < min(SPEEDS.values()) / 2:
            if abs(self.growth) < GROWTH:
                return "still"
            return next(name for name, sign in CHANGES.items() if sign * self.growth > 0)
        if abs(vx) > abs(vy):
            return "right" if vx > 0 else "left"
        return "down" if vy > 0 else "up"

    @property
    def straight(self) -> bool:
        """Whether it keeps to a straight way at a constant speed in MOST frames, along an axis if it moves."""
        time = np.flatnonzero(self.measured)
        if len(time) < 2:
            return True
        line = np.polyfit(time, self.centre[time], 1)
        stray = np.linalg.norm(self.centre[time] - time[:, None] * line[0] - line[1], axis=1) / self.scale
        less, more = sorted(np.abs(line[0]))
        along = self.direction in ("still", *CHANGES) or less <= DIAGONAL * more
        return bool(along and (stray <= STRAY).mean() >= MOST)

    @property
    def speed(self) -> str | None:
        if self.direction in ("still", *CHANGES):
            return None
        v = np.abs(self.velocity).max() / self.scale
        return min(SPEEDS, key=lambda name: abs(SPEEDS[name] - v))

    @property
    def size(self) -> str:
        radius = np.median(self.expected) / self.scale
        return min(SIZES, key=lambda name: abs(SIZES[name] - radius))

    def keeps(self, size: str) -> bool:
        """Whether its size is nearest to this one in MOST frames; of what grows or shrinks, without that."""
        time = np.flatnonzero(self.measured)
        radius, expected = self.radius[time] / self.scale, self.expected
        if self.direction in CHANGES:
            radius = radius * np.median(expected) / expected[time]
        off = {name: np.abs(SIZES[name] - radius) for name in SIZES}
        return len(time) > 0 and bool((off[size] <= np.min(list(off.values()), axis=0)).mean() >= MOST)


@dataclass(frozen=True)
class Reading:
    """What the judge sees in a video: its objects, largest first, its background, and its clipped channels.

    `backgrounds` is, of each of the world's, the share of the pixels around the objects that are nearest to it in every
    channel. `greys` is the background's level by frame, (frames,), 0-1; NaN where nothing of it is to be seen.
    """

    tracks: tuple[Track, ...]
    background: str
    backgrounds: dict[str, float]
    greys: np.ndarray
    clipped: float


def read(video: np.ndarray) -> Reading:
    """Reads a video.

    Args:
        video: (frames, height, width, 3), RGB, uint8 in 0-255 or float in 0-1.

    Raises:
        ValueError: the array is not such a video.
    """
    x = _pixels(video)
    height, width = x.shape[1:3]
    scale = min(height, width) / CANVAS
    halved = _halved(x)

    nearest, cover = _seen(x)
    chroma = np.ptp(x, axis=-1)
    gx, gy = grid(height, width)
    speck = SPECK * scale**2
    owned = {colour: cover * (nearest == n) for n, colour in enumerate(COLOURS)}
    owned = {colour: mine for colour, mine in owned.items() if _is_object(mine, speck)}
    # Edge pixels mix with the background and can take a neighbouring hue: an object is what lies in and around its own
    # colour.
    masks = {colour: _around(mine > 0.5) for colour, mine in owned.items()}
    tracks = []
    for colour, mine in owned.items():
        mask = masks[colour]
        around = _around(mask)
        touched = {other: (around & theirs).any((1, 2)) for other, theirs in masks.items() if other != colour}
        cut = np.any([mask[:, [0, -1]].any((1, 2)), mask[:, :, [0, -1]].any((1, 2))], axis=0)
        whole = cover * mask
        area = whole.sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = np.stack([(whole * gx).sum((1, 2)), (whole * gy).sum((1, 2))], -1) / area[:, None]
            rgb = (x * mine[..., None]).sum((1, 2)) / mine.sum((1, 2))[:, None]
        clear = ~np.any([cut, area < speck, *touched.values()], axis=0)
        judged = clear if clear.any() else area >= speck
        uncut = np.clip(chroma / np.ptp(COLOURS[colour]), 0, 1) * (_blocks(mask) > 0 if halved else mask)
        forms = {kind: _forms(uncut[judged], kind, halved) for kind in SHAPES}
        closest = tuple(SHAPES[n] for n in np.argmax(list(forms.values()), axis=0))
        enough = clear.sum() >= min(CLEAR, len(x))
        form = {kind: float(each.mean()) if enough else float("nan") for kind, each in forms.items()}
        tracks.append(Track(colour, area, centre, rgb, closest, scale, cut, touched, form))
    tracks.sort(key=lambda t: -float(np.median(t.area)))
    bare = np.where(cover == 0, x.mean(-1), np.nan)
    greys = np.array(
        [np.nanmedian(frame) if (there == 0).any() else np.nan for frame, there in zip(bare, cover, strict=True)]
    )
    grey = float(np.nanmedian(bare)) if (cover == 0).any() else 0.0
    background = min(BACKGROUNDS, key=lambda name: abs(BACKGROUNDS[name] - grey))
    outside = x[~_around(np.any([*masks.values(), np.zeros(x.shape[:3], bool)], axis=0))]
    levels = np.abs(outside[..., None] - np.array(list(BACKGROUNDS.values()), np.float32)).argmin(-1)
    shares = [float((levels == n).all(-1).mean()) if len(levels) else 0.0 for n in range(len(BACKGROUNDS))]
    clipped = float(((x <= 0) | (x >= 1)).mean())
    return Reading(tuple(tracks), background, dict(zip(BACKGROUNDS, shares, strict=True)), greys, clipped)


def _pixels(video: np.ndarray) -> np.ndarray:
    """A video as float32 in 0-1."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or not video.size:
        raise ValueError(f"video: shape {video.shape} is not (frames, height, width, 3), each at least 1")
    if video.dtype == np.uint8:
        return video.astype(np.float32) / 255
    if not np.issubdtype(video.dtype, np.floating):
        raise ValueError(f"video: {video.dtype} is not accepted; give uint8 in 0-255 or floats in 0-1")
    low, high = float(video.min()), float(video.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # neither is true of NaN
        raise ValueError(f"video: floats from {low:.4g} to {high:.4g} are not accepted; give uint8 or floats in 0-1")
    return video.astype(np.float32)


def _is_object(mine: np.ndarray, speck: float) -> bool:
    """Whether what there is of a colour, (frames, height, width), is an object, if only in some frames.

    A speck is none, and neither is the seam of two other colours, which mix where they meet: it has no core.
    """
    there = mine.sum((1, 2)) >= speck
    core = (~_around(mine <= 0.5)).any((1, 2))
    return bool(there.mean() > 0.5 or (~(there & core)).mean() < MOST)


def _halved(x: np.ndarray) -> bool:
    """Whether a video (frames, height, width, 3) has one chroma for each 2 x 2 pixels, as decoders of 4:2:0 give it.

    Differences of channels do not depend on luma, whatever the matrix. Where a channel is clipped that is not so.
    """
    frames, height, width, _ = x.shape
    if height % 2 or width % 2:
        return False
    free = np.all((x > 0) & (x < 1), axis=-1).reshape(frames, height // 2, 2, width // 2, 2).all((2, 4))
    within = across = 0.0
    for channel in (0, 2):
        chroma = x[..., channel] - x[..., 1]
        means = _blocks(chroma)
        off = ((chroma - means) ** 2).reshape(frames, height // 2, 2, width // 2, 2).sum((2, 4))
        within += float(off[free].sum())
        across += sum(float((np.diff(means[:, ::2, ::2], axis=axis) ** 2).sum()) for axis in (1, 2))
    return within < HALVED * across


def _blocks(x: np.ndarray) -> np.ndarray:
    """Means (frames, height, width) over 2 x 2 pixels, in each of the four."""
    frames, height, width = x.shape
    means = x.reshape(frames, height // 2, 2, width // 2, 2).mean((2, 4))
    return means.repeat(2, 1).repeat(2, 2)


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


def _forms(cover: np.ndarray, kind: str, halved: bool) -> np.ndarray:
    """The soft intersection over union (F,) of coverages (F, height, width) with a shape's of equal area and centroid;
    `halved`: with its means over 2 x 2 pixels."""
    x, y = grid(*cover.shape[1:])
    area = cover.sum((1, 2))
    cx, cy = ((cover * axis).sum((1, 2)) / area for axis in (x, y))
    size = np.sqrt(area / _UNIT_AREA[kind])
    ideal = coverage(kind, x - cx[:, None, None], y - cy[:, None, None], size[:, None, None])
    if halved:
        ideal = _blocks(ideal)
    return np.minimum(cover, ideal).sum((1, 2)) / np.maximum(cover, ideal).sum((1, 2))


def _is_there(track: Track, hidden: bool) -> bool:
    """Whether it is to be seen in MOST frames; of what can be hidden, in half of them."""
    return bool(track.seen.mean() >= (0.5 if hidden else MOST))


def _is_formed(track: Track, kind: str, meets: bool) -> bool:
    """Whether it is nearer to the shape than to the others in MOST frames, and near enough; in which what meets another
    is trusted."""
    form, share = track.form[kind], track.nearest.count(kind) / max(len(track.nearest), 1)
    return share >= MOST and bool(form >= FORMED[kind, track.size] or (meets and np.isnan(form)))


def judge(video: np.ndarray, scene: Scene) -> dict[str, float]:
    """Scores a video against the scene that its prompt describes.

    Verdicts are 0 or 1, and count only what the scene says (an attribute that it leaves open is left out):
    `colour`, `shape`, `size`, `direction`, `speed` (each the mean over the scene's objects), `relation`, `background`,
    `count` (the scene's number of objects, no more), `objects` (the share of the objects of which all is right), and
    `right`: all of them. A `shape` is right if it is the nearest of the world's in MOST frames and formed well enough
    (FORMED), a `size` if it is the nearest in MOST frames, a `direction` if the way is straight and along it, a
    `background` if MOST of the pixels around the objects are nearest to it.

    Measures, over the objects that are there (NaN where none is):
    `form`: soft intersection over union of the coverage with the ideal of the shape that the scene names, of equal area
    and centroid, over the frames that show the object whole (of those fewer than CLEAR have none);
    `edge_error`: (1 - form) times the radius, pixels on a canvas of 64: how far the edge is off;
    `exchanged`: of what the scene says differently of its objects, the share where an object shows another's;
    `area_instability`: standard deviation over mean of the area, over frames (from what it grows to, if it is to);
    `colour_instability`: standard deviation over frames of the mean RGB, root mean square over channels;
    `background_instability`: standard deviation over frames of the background's level, of all of them;
    `jerk`: mean length of the centroid's third difference, pixels a frame cubed;
    `motion`: mean length of the centroid's way from the first to the last frame, pixels;
    `clipped`: percentage of channel values at the ends of their range.

    Args:
        video: (frames, height, width, 3), RGB, uint8 in 0-255 or float in 0-1.
        scene: what it should show, as `grammar.parse` reads it.

    Raises:
        ValueError: the array is not such a video.
    """
    seen = read(video)
    # Of objects that pass each other, both are touched and the one behind is hidden; of a third, neither.
    passing = scene.relation in PASSING
    meets = [passing and number < 2 for number in range(len(scene.things))]
    behind = scene.things[1 if PASSING[scene.relation] else 0].colour if passing and scene.relation else None
    there = [t for t in seen.tracks if _is_there(t, t.colour == behind)]
    by_colour = {t.colour: t for t in there}
    scores: dict[str, float] = {"count": float(len(seen.tracks) == len(there) == len(scene.things))}

    pairs = [(thing, by_colour.get(thing.colour)) for thing in scene.things]
    scores["colour"] = float(np.mean([t is not None for _, t in pairs]))
    if len(scene.things) == 1 and pairs[0][1] is None and there:
        pairs = [(scene.things[0], there[0])]  # of the wrong colour, its other attributes can still be right
    verdicts = [_verdicts(thing, t, meet) for (thing, t), meet in zip(pairs, meets, strict=True)]
    for name in ("shape", "size", "direction", "speed"):
        if said := [each[name] for each in verdicts if name in each]:
            scores[name] = float(np.mean(said))
    whole = [all(each.values()) and thing.colour in by_colour for each, (thing, _) in zip(verdicts, pairs, strict=True)]
    scores["objects"] = float(np.mean(whole))
    if scene.relation is not None:
        first, second = (t for _, t in pairs[:2])
        holds = _passes if passing else _stands
        scores["relation"] = float(first is not None and second is not None and holds(first, second, scene.relation))
    if scene.background is not None:
        scores["background"] = float(seen.backgrounds[scene.background] >= MOST)
    scores["right"] = float(all(v == 1.0 for v in scores.values()))

    found = [(thing, t, meet) for (thing, t), meet in zip(pairs, meets, strict=True) if t is not None]
    forms = [(t.form[thing.shape], np.median(t.radius[t.measured]) / t.scale) for thing, t, _ in found]
    forms = [(form, radius) for form, radius in forms if not np.isnan(form)]
    scores["form"] = _mean([form for form, _ in forms])
    scores["edge_error"] = _mean([(1 - form) * radius for form, radius in forms])
    if exchanged := _exchanged(pairs):
        scores["exchanged"] = float(np.mean(exchanged))
    scores["area_instability"] = _mean([_unsteady(t, thing.direction in CHANGES, meet) for thing, t, meet in found])
    scores["colour_instability"] = _mean([float(np.sqrt(np.nanvar(t.rgb, axis=0).mean())) for _, t, _ in found])
    levels = seen.greys[~np.isnan(seen.greys)]
    scores["background_instability"] = float(levels.std()) if len(levels) else float("nan")
    used = [(t.centre, t.measured if meet else t.seen) for _, t, meet in found]
    scores["jerk"] = _mean([each for each in (_jerk(centre, frames) for centre, frames in used) if not np.isnan(each)])
    ways = [centre[frames][[0, -1]] for centre, frames in used]
    scores["motion"] = _mean([float(np.linalg.norm(w[1] - w[0])) for w in ways])
    scores["clipped"] = 100 * seen.clipped
    return scores


def _verdicts(thing: Thing, track: Track | None, meets: bool) -> dict[str, bool]:
    """Of each attribute that is said of a thing beside its colour: whether the track shows it."""
    verdicts = {"shape": track is not None and _is_formed(track, thing.shape, meets)}
    if thing.size is not None:
        verdicts["size"] = track is not None and track.keeps(thing.size)
    if thing.direction is not None:
        verdicts["direction"] = track is not None and track.direction == thing.direction and track.straight
    if thing.speed is not None:
        verdicts["speed"] = track is not None and track.speed == thing.speed
    return verdicts


def _exchanged(pairs: list[tuple[Thing, Track | None]]) -> list[bool]:
    """Of each attribute of the things that are there in which they are said to differ: whether it is another's."""
    found = []
    for thing, track in pairs:
        for name in ("shape", "size", "direction", "speed"):
            own = getattr(thing, name)
            others = {getattr(other, name) for other, _ in pairs} - {own, None}
            if track is not None and own is not None and others:
                found.append(getattr(track, name) in others)
    return found


def _unsteady(track: Track, grows: bool, meets: bool) -> float:
    """Standard deviation over mean of the area; from what is expected of a thing that is to grow."""
    frames = track.measured if meets else np.full(len(track.area), True)
    area = track.area[frames]
    off = area - np.pi * track.expected[frames] ** 2 if grows else area
    return float(off.std() / area.mean())


def _jerk(centre: np.ndarray, frames: np.ndarray) -> float:
    """Mean length of the third difference of a way (F, 2) over runs of four frames; NaN where there are none."""
    third = np.linalg.norm(np.diff(np.where(frames[:, None], centre, np.nan), 3, axis=0), axis=1)
    return float(np.nanmean(third)) if not np.isnan(third).all() else float("nan")


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _stands(first: Track, second: Track, relation: str) -> bool:
    """Whether, in MOST of the frames that show both, the first object lies clear of the second on that side."""
    both = first.seen & second.seen
    ahead = (first.centre - second.centre)[both] @ np.array(RELATIONS[relation])
    radii = first.radius[both] + second.radius[both]
    return len(ahead) > 0 and bool((ahead > 0.75 * radii).mean() >= MOST)


def _passes(first: Track, second: Track, relation: str) -> bool:
    """Whether the two come to touch, and there the one hides the other."""
    meeting = first.touched.get(second.colour, np.zeros(len(first.area), bool))
    if not meeting.any() or not all(t.whole.sum() >= 2 for t in (first, second)):
        return False
    front, behind = (first, second) if PASSING[relation] else (second, first)
    lost = [1 - t.area[meeting] / np.maximum(np.pi * t.expected[meeting] ** 2, 1e-6) for t in (front, behind)]
    most = lost[1].argmax()
    return bool(lost[1][most] >= HIDDEN and lost[0][most] <= lost[1][most] / 2)
