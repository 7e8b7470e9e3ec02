"""The shapes world: one to three coloured shapes on a plain background. Each stands, moves at a constant speed, grows
or shrinks; one can pass in front of another, or behind it.

Everything here is exact and without a network: a `Scene` says what is to be seen, `render` draws it with
antialiasing, `sample_scene` draws a scene at random. Lengths are pixels on a 64 x 64 canvas (they scale with the
canvas), speeds are pixels a frame, colours are RGB in [0, 1]. No channel of the palette comes near 0 or 1, so that a
clipped pixel in a generated video is the model's doing and never the world's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

HOLE = 0.5  # of outlines; see `render`
EDGE = 0.1  # a difference of neighbouring pixels from which on there is an edge
CANVAS = 64
FRAMES = 16

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.75, 0.15),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.85, 0.80, 0.12),
    "magenta": (0.85, 0.15, 0.80),
    "cyan": (0.12, 0.80, 0.85),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 8.0, "large": 12.0}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SPEEDS = {"slowly": 1.0, "quickly": 2.0}
# A thing that changes its size does not move. From the first frame to the last its size goes from 1 - GROWTH to
# 1 + GROWTH of what it is called, or the other way round.
CHANGES = {"growing": 1.0, "shrinking": -1.0}
GROWTH = 0.25
BACKGROUNDS = {"black": 0.10, "grey": 0.45, "white": 0.88}
MOVING = ("left", "right", "up", "down")
RELATIONS = {"above": (0, -1), "below": (0, 1), "to the left of": (-1, 0), "to the right of": (1, 0)}
# Of relations in which the paths cross: whether the first thing is nearer to us.
PASSING = {"passing in front of": True, "passing behind": False}
MOST_THINGS = 3

# How far a shape reaches from its centre, in units of its size: the three have about the same area.
_SQUARE = 0.88
_TRIANGLE = 0.72
MARGIN = 2.0
# Things that do not pass each other are at least so far apart, so that the judge sees two. Where they pass, CLEAR
# frames show them apart, and in MEETING frames their centres are no further apart than CLOSE of the sum of the radii of
# the circles inscribed in them.
GAP = 4.0
CLEAR = 6
MEETING = 2
CLOSE = 0.6
# An object that moves alone starts within this many pixels of the side that it comes from, to have its way before it.
ENTRY = 6.0


@dataclass(frozen=True)
class Thing:
    """One object. `None` means that the prompt does not say: anything will do.

    `direction` is one of DIRECTIONS or of CHANGES; only what moves has a speed.
    """

    colour: str
    shape: str
    size: str | None = None
    direction: str | None = None
    speed: str | None = None

    def __str__(self) -> str:
        if self.direction is None or self.direction in CHANGES:
            motion = self.direction
        elif self.direction == "still":
            motion = "standing still"
        else:
            motion = " ".join(word for word in ("moving", self.direction, self.speed) if word)
        return " ".join(word for word in ("a", self.size, self.colour, self.shape, motion) if word)


@dataclass(frozen=True)
class Scene:
    """One to three objects (of different colours), how the first stands to the second, and the background."""

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None

    def __str__(self) -> str:
        """The scene in words, as `grammar.parse` reads them."""
        text = str(self.things[0])
        for number, thing in enumerate(self.things[1:]):
            text += f" {(number == 0 and self.relation) or 'and'} {thing}"
        return text + (f" on a {self.background} background" if self.background else "")


def reach(shape: str) -> tuple[float, float, float, float]:
    """How far a shape of size 1 reaches (left, right, up, down) from its centre of mass."""
    if shape == "circle":
        return 1.0, 1.0, 1.0, 1.0
    if shape == "square":
        return _SQUARE, _SQUARE, _SQUARE, _SQUARE
    # Equilateral, pointing up, inscribed radius _TRIANGLE: the apex is two inscribed radii above the centre.
    half = _TRIANGLE * np.sqrt(3.0)
    return half, half, 2 * _TRIANGLE, _TRIANGLE


def coverage(shape: str, x: np.ndarray, y: np.ndarray, size: float | np.ndarray) -> np.ndarray:
    """How much of each pixel a shape covers, in [0, 1], from its signed distance.

    Args:
        x, y: pixel centres relative to the shape's centre of mass, y downwards; any broadcastable shapes.
        size: the radius of the circle; the other shapes are scaled to about its area.
    """
    if shape == "circle":
        distance = np.hypot(x, y) - size
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - _SQUARE * size
    elif shape == "triangle":
        slanted = (np.sqrt(3.0) * np.abs(x) - y) / 2
        distance = np.maximum(slanted, y) - _TRIANGLE * size
    else:
        raise ValueError(f"shape: {shape!r} is not one of {', '.join(SHAPES)}")
    return np.clip(0.5 - distance, 0.0, 1.0)


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres, (1, width) and (height, 1)."""
    return np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    options = list(names)
    return options[rng.integers(len(options))]


def complete(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with everything that it does not say drawn at random."""
    things = []
    for number, thing in enumerate(scene.things):
        direction = thing.direction
        if direction is None:
            passes = scene.relation in PASSING and number == 0
            moves = passes or thing.speed is not None
            direction = _pick(rng, MOVING if moves else (*MOVING, *MOVING, "still", *CHANGES))
        speed = thing.speed or _pick(rng, SPEEDS) if direction in MOVING else None
        things.append(replace(thing, size=thing.size or _pick(rng, SIZES), direction=direction, speed=speed))
    relation = scene.relation
    if len(things) > 1 and relation is None:
        relation = _pick(rng, RELATIONS)
    return Scene(tuple(things), relation, scene.background or _pick(rng, BACKGROUNDS))


def still(scene: Scene) -> Scene:
    """What a single picture shows of the scene: nothing moves, changes its size or passes anything."""
    things = tuple(replace(thing, direction=None, speed=None) for thing in scene.things)
    return replace(scene, things=things, relation=None if scene.relation in PASSING else scene.relation)


def forget(scene: Scene, rng: np.random.Generator, keep: float = 0.6) -> Scene:
    """The scene with each optional thing said only with probability `keep`, as people write prompts.

    That things pass each other is always said.
    """
    things = []
    for thing in scene.things:
        size = thing.size if rng.random() < keep else None
        direction = thing.direction if rng.random() < (1 + keep) / 2 else None
        speed = thing.speed if direction is not None and rng.random() < keep else None
        things.append(replace(thing, size=size, direction=direction, speed=speed))
    said = rng.random() < (1 + keep) / 2 or scene.relation in PASSING
    return Scene(tuple(things), scene.relation if said else None, scene.background if rng.random() < keep else None)


def sample_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """A complete scene that `render` has room for. `things`: 1 to 3, or None for one of them at random."""
    count = things or int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    while True:
        colours = rng.permutation(list(COLOURS))[:count]
        relation = _pick(rng, PASSING) if count > 1 and rng.random() < 0.2 else None
        scene = complete(Scene(tuple(Thing(str(c), _pick(rng, SHAPES)) for c in colours), relation), rng)
        if _paths(scene, rng, CANVAS, CANVAS, FRAMES, tries=200, least=2) is not None:
            return scene


def sizes(thing: Thing, frames: int = FRAMES) -> np.ndarray:
    """A complete thing's size by frame, (frames,), pixels on a canvas of 64."""
    assert thing.size
    change = CHANGES.get(thing.direction or "", 0.0) * GROWTH
    way = np.linspace(-1, 1, frames) if frames > 1 else np.zeros(1)
    return SIZES[thing.size] * (1 + change * way)


def _paths(
    scene: Scene, rng: np.random.Generator, height: int, width: int, frames: int, tries: int = 2000, least: int = 1
) -> np.ndarray | None:
    """Centres (things, frames, 2) of a complete scene that stay inside and stand as they should; None where fewer than
    `least` of `tries` do."""
    scale = min(height, width) / CANVAS
    time = np.arange(frames)
    low, high, moves, reaches = [], [], [], []
    for thing in scene.things:
        assert thing.direction
        radius = sizes(thing, frames) * scale
        speed = SPEEDS[thing.speed] if thing.speed else 0.0
        velocity = np.array(DIRECTIONS.get(thing.direction, (0, 0))) * speed * scale
        left, right, up, down = (radius.max() * r + MARGIN * scale for r in reach(thing.shape))
        travel = velocity * (frames - 1)
        low.append(np.array([left, up]) - np.minimum(travel, 0))
        high.append(np.array([width - right, height - down]) - np.maximum(travel, 0))
        moves.append(velocity)
        reaches.append(radius[:, None] * np.array(reach(thing.shape)))
    if any((h < lo).any() for lo, h in zip(low, high, strict=True)):
        return None
    if len(scene.things) == 1:
        low[0], high[0] = (
            np.where(moves[0] < 0, np.maximum(low[0], high[0] - ENTRY * scale), low[0]),
            np.where(moves[0] > 0, np.minimum(high[0], low[0] + ENTRY * scale), high[0]),
        )
    starts = np.stack([lo + rng.random((tries, 2)) * (h - lo) for lo, h in zip(low, high, strict=True)], 1)
    paths = starts[:, :, None, :] + np.array(moves)[None, :, None, :] * time[None, None, :, None]
    good = np.full(tries, True)
    for j in range(len(scene.things)):
        for i in range(j):
            sides = _beside(paths[:, j] - paths[:, i], reaches[i], reaches[j], GAP * scale)
            apart = np.any(list(sides.values()), axis=0)
            if (i, j) != (0, 1):
                good &= apart.all(1)
            elif scene.relation in PASSING:
                distance = np.linalg.norm(paths[:, 1] - paths[:, 0], axis=-1)
                close = CLOSE * (reaches[0].min(1) + reaches[1].min(1))
                good &= ((distance <= close).sum(1) >= MEETING) & (apart.sum(1) >= CLEAR)
            else:
                assert scene.relation
                good &= sides[scene.relation].all(1)
    which = np.flatnonzero(good)
    return paths[which[0]] if len(which) >= least else None


def _beside(offset: np.ndarray, first: np.ndarray, second: np.ndarray, gap: float) -> dict[str, np.ndarray]:
    """By relation: whether the first thing stands so to the second, with a gap between them.

    Args:
        offset: from the first's centre to the second's, (..., frames, 2).
        first, second: how far they reach (left, right, up, down), (frames, 4).
    """
    x, y = offset[..., 0], offset[..., 1]
    return {
        "above": y >= first[:, 3] + second[:, 2] + gap,
        "below": -y >= first[:, 2] + second[:, 3] + gap,
        "to the left of": x >= first[:, 1] + second[:, 0] + gap,
        "to the right of": -x >= first[:, 0] + second[:, 1] + gap,
    }


def _placed(
    scene: Scene, rng: np.random.Generator, height: int, width: int, frames: int
) -> tuple[Scene, np.ndarray] | None:
    """The scene completed so that there is room for it, and its paths; None where there seems to be no such."""
    for _ in range(50):
        full = complete(scene, rng)
        paths = _paths(full, rng, height, width, frames)
        if paths is not None:
            return full, paths
    return None


def fitting(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene completed so that `render` has room for it, or as it may be where there is no such."""
    found = _placed(scene, rng, CANVAS, CANVAS, FRAMES)
    return complete(scene, rng) if found is None else found[0]


def render(
    scene: Scene,
    seed: int | np.random.Generator = 0,
    frames: int = FRAMES,
    height: int = CANVAS,
    width: int = CANVAS,
    hole: float = 0.0,
) -> np.ndarray:
    """Draws a scene; what it does not say is drawn at random, and so is where things are.

    Args:
        hole: things are outlines, with a hole of their own shape in the middle that is so much smaller than they are.

    Returns:
        Frames (frames, height, width, 3), float32 RGB in [0, 1].

    Raises:
        ValueError: the canvas has no room for the scene.
    """
    rng = np.random.default_rng(seed)
    found = _placed(scene, rng, height, width, frames)
    if found is None:
        raise ValueError(
            f"scene: no room on {width}x{height} pixels in {frames} frames for {str(scene)!r}; its objects would leave"
            " the picture or not stand to each other as it says: take smaller, slower or fewer ones, or fewer frames"
        )
    full, paths = found
    scale = min(height, width) / CANVAS
    x, y = grid(height, width)
    assert full.background
    video = np.full((frames, height, width, 3), BACKGROUNDS[full.background], dtype=np.float32)
    drawn = list(zip(full.things, paths, strict=True))
    if PASSING.get(full.relation or ""):
        drawn.reverse()
    for thing, path in drawn:
        dx, dy = x[None] - path[:, 0, None, None], y[None] - path[:, 1, None, None]
        size = sizes(thing, frames)[:, None, None] * scale
        cover = coverage(thing.shape, dx, dy, size)
        if hole:
            cover = cover - coverage(thing.shape, dx, dy, hole * size)
        cover = cover[..., None].astype(np.float32)
        video = video * (1 - cover) + np.array(COLOURS[thing.colour], dtype=np.float32) * cover
    return video


def edges(pictures: np.ndarray) -> np.ndarray:
    """The edges of pictures (..., height, width, 3) in [0, 1], of the same shape: white where a channel changes by more
    than EDGE from one pixel to the next, across or down, on black."""
    across = np.abs(np.diff(pictures, axis=-2, append=pictures[..., -1:, :])).max(-1)
    down = np.abs(np.diff(pictures, axis=-3, append=pictures[..., -1:, :, :])).max(-1)
    return np.repeat((np.maximum(across, down) > EDGE).astype(np.float32)[..., None], 3, -1)
