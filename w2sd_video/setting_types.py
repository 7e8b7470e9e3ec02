"""The types of settings: what a value of each has to be, and what an error says is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from typing_extensions import NotRequired, TypedDict

from .errors import Refused
from .validation import STRICT, plain, refuse

MOST_STEPS = 1_000_000  # also the most training timesteps of a noise schedule
LONGEST = 100_000  # characters of a text
WIDEST = 65_536  # pixels a side, and frames
LARGEST_SEED = 2**63 - 1
STRONGEST = 1e6  # guidance, scales
SCALED = "MODEL[:STRONG[:WEAK]]"
# The scales, in the strong arm and the weak one, of what is named without. Beside another weak model, LoRAs are the
# strong model's alone.
SCALES = {"adapters": (0.8, -1.5), "controlnet": (1.0, 0.0), "ip_adapter": (0.6, 0.0)}


def scales_of(name: str) -> str:
    """Those scales, as a help says them."""
    return ", ".join(f"{scale:g}" for scale in SCALES[name])


def seed_ranges(argument: str, value: object, parts: Iterable[str]) -> Iterator[range]:
    """The seeds that each part says: a number, or the first and the last of several, such as `8-15`.

    Args:
        argument, value: what holds the parts, for messages.

    Raises:
        Refused: a part is neither, or a number is negative or over `LARGEST_SEED`.
    """
    for part in parts:
        match = re.fullmatch(r"\s*(\d{1,19})(?:\s*-\s*(\d{1,19}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST_SEED:
            raise Refused(argument, value, f"give whole numbers from 0 to {LARGEST_SEED}, such as 7 or 0,3,8-15")
        yield range(first, last + 1)


def seeds_of(argument: str, value: object, parts: Iterable[str], most: int) -> list[int]:
    """The seeds that all parts say, each once; see `seed_ranges`.

    Raises:
        Refused: also where there are none, or more than `most`.
    """
    seeds: list[int] = []
    for stretch in seed_ranges(argument, value, parts):
        if len(seeds) + len(stretch) > most:
            raise Refused(argument, value, f"give at most {most} seeds at once")
        seeds += stretch
    if not seeds:
        raise Refused(argument, value, "give at least one")
    return list(dict.fromkeys(seeds))


def _as_dict(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


Model = Annotated[str, Field(max_length=4096)]
Scale = Annotated[float, Field(ge=-STRONGEST, le=STRONGEST)]


class Scaled(TypedDict):
    """A model, and its scale in each arm."""

    model: Model
    strong: Scale
    weak: Scale


class Pictured(Scaled):
    """An IP-Adapter, its scale in each arm, and its image encoder where it is not beside it."""

    image_encoder: NotRequired[Model | None]


setattr(Scaled, "__pydantic_config__", STRICT)  # noqa: B010 - a TypedDict has no other members for mypy
setattr(Pictured, "__pydantic_config__", STRICT)  # noqa: B010


def _inversion(value: object) -> object:
    if value in ("x_s", "x_t"):
        return value
    if isinstance(value, str):
        raise refuse("give x_s, x_t or a number of iterations")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10_000:
        raise refuse("give x_s, x_t or a whole number of iterations from 0 to 10000")
    return value


def _routing(value: object) -> object:
    match value:
        case None | "best" | "worst":
            return value
        case [int() as first, int() as last] if not isinstance(first, bool) and not isinstance(last, bool):
            if 0 <= first <= last <= 100_000:
                return [first, last]
    raise refuse("give worst, or two ranks, the first that runs and the first that does not: 2,4")


def _layers(value: object) -> object:
    rows = [value] if isinstance(value, (int, str)) else value
    fits = isinstance(rows, (list, tuple)) and 0 < len(rows) <= 10_000
    if value is not None and not (fits and all(_layer(each) for each in rows)):  # type: ignore[attr-defined]
        raise refuse("give numbers of transformer blocks from 0, or their names, with commas between: 0,mid_block")
    return None if value is None else list(rows)  # type: ignore[call-overload]


def _layer(value: object) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= 1000
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: object) -> object:
    """A number where a file says one in place of a text, as in `source: 2024`."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Text = Annotated[str, Field(max_length=LONGEST)]
Plain = Annotated[Any, BeforeValidator(plain)]
Names = Annotated[dict[str, Any], BeforeValidator(plain)]
Note = Annotated[str, BeforeValidator(_text), Field(max_length=LONGEST)]
Side = Annotated[int, Field(ge=8, le=WIDEST, multiple_of=8)]
ScaledModel = Annotated[Scaled, BeforeValidator(_as_dict)]
PicturedModel = Annotated[Pictured, BeforeValidator(_as_dict)]
Inversion = Annotated[Any, BeforeValidator(_inversion)]
Routing = Annotated[Any, BeforeValidator(_routing)]
Layers = Annotated[Any, BeforeValidator(_layers)]
Hashes = Annotated[dict[str, Annotated[str, Field(max_length=128)]], BeforeValidator(_as_dict)]
Adapters = Annotated[
    dict[Annotated[str, Field(pattern=r"\A\w+\Z")], ScaledModel],
    BeforeValidator(_as_dict),
    Field(max_length=100),
]
SCALED_ACCEPTED = "give model, strong and weak: the model, and its scale in each arm"
