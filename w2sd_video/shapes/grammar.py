"""The prompts of the shapes world: a small grammar of English, read and written.

    prompt   = object [ relation object [ "and" object ] ] [ "on a" background "background" ]
    object   = "a" [ size ] colour shape [ motion ]
    motion   = "moving" direction [ speed ] | "standing still" | "growing" | "shrinking"
    relation = "above" | "below" | "to the left of" | "to the right of" | "passing in front of" | "passing behind"
             | "and"

`parse(describe(scene)) == scene` for every scene.
"""

from __future__ import annotations

import difflib
import hashlib

import numpy as np

from ..errors import ArgumentError, shown
from .world import (
    BACKGROUNDS,
    CHANGES,
    COLOURS,
    MOST_THINGS,
    MOVING,
    PASSING,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    Scene,
    Thing,
    fitting,
    forget,
    sample_scene,
)

_SYNONYMS = {"an": "a", "gray": "grey", "slow": "slowly", "fast": "quickly"}
WORDS = {
    "size": list(SIZES),
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "motion": [*(f"moving {d}" for d in MOVING), "standing still", *CHANGES],
    "speed": list(SPEEDS),
    "relation": [*RELATIONS, *PASSING, "and"],
    "background": [f"on a {b} background" for b in BACKGROUNDS],
}
VOCABULARY = sorted({word for phrases in WORDS.values() for phrase in phrases for word in phrase.split()} | {"a", "on"})


def describe(scene: Scene) -> str:
    """The scene in words."""
    return str(scene)


def refine(prompt: str) -> str:
    """The prompt with all said that it leaves open, so that there is room for it: a refiner, see `w2sd_video.refine`.
    What is said is drawn at random by the prompt itself.

    Raises:
        ValueError: the prompt is not in the grammar.
    """
    digits = hashlib.sha256(prompt.encode()).hexdigest()
    return describe(fitting(parse(prompt), np.random.default_rng(int(digits, 16))))


def help_text() -> str:
    """The grammar as a person needs it: the form of a prompt and the words that can stand in it."""
    lines = ["a [size] colour shape [motion [speed]] [relation another object [and a third]] [background], where"]
    lines += [f"  {kind}: {', '.join(words)}" for kind, words in WORDS.items()]
    lines.append('for example "a large red circle moving right quickly above a blue square on a grey background"')
    return "\n".join(lines)


def parse(prompt: str, argument: str = "prompt") -> Scene:
    """Reads a prompt of the grammar, which errors call as the argument is called.

    Raises:
        ValueError: the prompt is not in the grammar; says which word, and what could stand there.
    """
    words = [_SYNONYMS.get(w, w) for w in prompt.lower().replace(",", " ").replace(".", " ").split()]
    at = 0

    def fail(expected: str) -> ArgumentError:
        got = f"{shown(words[at], 60)} (word {at + 1})" if at < len(words) else "the end"
        near = difflib.get_close_matches(words[at], VOCABULARY, 1) if at < len(words) else []
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != words[at] else ""
        return ArgumentError(
            argument,
            f"{shown(prompt)} is outside the shapes world: at {got}, expected {expected}{hint}\n"
            f"It knows: {help_text()}",
        )

    def take(*phrases: str) -> str | None:
        """The longest of the phrases that stands next, and past it."""
        nonlocal at
        for phrase in sorted(phrases, key=len, reverse=True):
            parts = phrase.split()
            if words[at : at + len(parts)] == parts:
                at += len(parts)
                return phrase
        return None

    def need(kind: str, *phrases: str) -> str:
        found = take(*phrases)
        if found is None:
            raise fail(f"{kind} ({', '.join(phrases)})")
        return found

    def thing() -> Thing:
        need("an object", "a")
        size = take(*SIZES)
        colour = need("a colour" if size else "a size or a colour", *COLOURS)
        shape = need("a shape", *SHAPES)
        direction = speed = None
        if take("standing still"):
            direction = "still"
        elif take("moving"):
            direction = need("a direction", *MOVING)
            speed = take(*SPEEDS)
        else:
            direction = take(*CHANGES)
        return Thing(colour, shape, size, direction, speed)

    things, relation = [thing()], None
    joined = take(*RELATIONS, *PASSING, "and")
    if joined:
        relation = None if joined == "and" else joined
        things.append(thing())
        while len(things) < MOST_THINGS and take("and"):
            things.append(thing())
        if len({each.colour for each in things}) < len(things):
            raise ArgumentError(argument, f"{shown(prompt)}: the objects need different colours, to tell them apart")
        if relation in PASSING and things[0].direction not in (None, *MOVING):
            raise ArgumentError(argument, f"{shown(prompt)}: what is {relation} another object has to move")
    background = None
    if take("on a"):
        background = need("a background", *(f"{b} background" for b in BACKGROUNDS)).split()[0]
    if at < len(words):
        raise fail("a motion, a relation, a background or the end")
    return Scene(tuple(things), relation, background)


def prompts(count: int, seed: int = 2026) -> list[str]:
    """`count` different prompts: of four in a row one has one object, two have two, one has three. Prompt n does not
    depend on how many there are."""
    result: dict[str, None] = {}
    n = 0
    while len(result) < count:
        rng = np.random.default_rng([seed, n])
        scene = forget(sample_scene(rng, things=(1, 2, 2, 3)[len(result) % 4]), rng)
        result.setdefault(describe(scene))
        n += 1
    return list(result)
