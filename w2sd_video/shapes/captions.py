"""Captions with occasional errors, to train a weak model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .world import BACKGROUNDS, CHANGES, COLOURS, MOVING, PASSING, SHAPES, SIZES, SPEEDS, Scene


def exchange(scene: Scene, rng: np.random.Generator, share: float) -> Scene:
    """The scene with attributes exchanged between its objects.

    With probability `share` each, shape, size and motion are shifted by one object, cyclically. With the same
    probability, the first two objects are swapped, which reverses their relation. A scene of one object is returned
    unchanged. So is a scene in which one object passes another, if that object would not move after the exchange.
    """
    if len(scene.things) == 1:
        return scene
    things = scene.things
    for names in (("shape",), ("size",), ("direction", "speed")):
        if rng.random() < share:
            moved = (things[-1], *things[:-1])
            things = tuple(replace(a, **{n: getattr(b, n) for n in names}) for a, b in zip(things, moved, strict=True))
    if rng.random() < share:
        things = (things[1], things[0], *things[2:])
    if scene.relation in PASSING and things[0].direction not in (None, *MOVING):
        return scene
    return replace(scene, things=things)


def mislabel(scene: Scene, rng: np.random.Generator, noise: float) -> Scene:
    """The scene with each attribute that it has replaced, with probability `noise`, by a random one."""
    choices = {"shape": SHAPES, "size": SIZES, "speed": SPEEDS, "direction": MOVING}
    things = []
    for thing in scene.things:
        for name, options in choices.items():
            if getattr(thing, name) not in (None, "still", *CHANGES) and rng.random() < noise:
                thing = replace(thing, **{name: str(rng.choice(list(options)))})
        if rng.random() < noise:
            others = [c for c in COLOURS if c not in {t.colour for t in scene.things}]
            thing = replace(thing, colour=str(rng.choice(others)))
        things.append(thing)
    if len({thing.colour for thing in things}) < len(things):
        return scene
    background = scene.background
    if background and rng.random() < noise:
        background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(tuple(things), scene.relation, background)
