"""Settings of the shipped pairs, tuned on prompts that the bench does not use: guidance of plain sampling, the same at
W2SD's cost, and, with as many settings to try, W2SD's own.

Whoever claims that W2SD is better than guidance has to let guidance be set as well as it can be. One number decides:
`right`, and where it is equal `form`. The grid grows where its best is at its upper end; diffusers' pipelines have no
guidance below 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import presets
from .bench import PLAIN, Row, equal_steps, merit

GUIDANCE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
FINAL = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # of W2SD, whose other two settings are of lambda
SEED = 2027  # of the prompts that settings are tuned on
MOST = 30.0


@dataclass(frozen=True)
class Tuned:
    """A row whose settings are tuned: its label, what its requests always say, and which settings are tried."""

    label: str
    says: dict[str, Any]
    first: tuple[dict[str, Any], ...]
    then: Callable[[dict[str, Any]], tuple[dict[str, Any], ...]] = lambda best: ()


def tuned(preset: presets.Preset) -> dict[str, Tuned]:
    """The rows of a pair that are tuned, by name."""
    steps, equal = preset.num_inference_steps, equal_steps(preset)
    guidance = tuple({"guidance_scale": w} for w in GUIDANCE)
    lambdas = sorted({max(1, round(steps / 3)), max(1, round(2 * steps / 3))})
    return {
        "tuned": Tuned("strong, tuned guidance", PLAIN, guidance),
        "tuned-equal-cost": Tuned(
            f"strong, tuned guidance, {equal} steps", PLAIN | {"num_inference_steps": equal}, guidance
        ),
        "w2sd-tuned": Tuned(
            "W2SD, tuned",
            {},
            tuple({"guidance_scale": w} for w in FINAL),
            lambda best: tuple(best | {"reflection_steps": n} for n in lambdas),
        ),
    }


def name_of(name: str, setting: Mapping[str, Any]) -> str:
    """What a row of one setting is called in a results file."""
    return f"{name}: " + ", ".join(f"{key}={value:g}" for key, value in setting.items())


def best(
    name: str, each: Tuned, score: Callable[[dict[str, Row]], Mapping[str, Sequence[Mapping[str, float]]]]
) -> dict[str, Any]:
    """The setting of a row that is best.

    Args:
        score: makes what is lacking of rows by name, and gives their scores.
    """
    tried = list(each.first)
    scores: dict[str, tuple[float, ...]] = {}

    def choose() -> dict[str, Any]:
        wanted = {name_of(name, setting): Row(each.label, each.says | setting) for setting in tried}
        lacking = {key: row for key, row in wanted.items() if key not in scores}
        for key, rows in score(lacking).items():
            scores[key] = tuple(float(np.mean(values)) for values in zip(*map(_finite, rows), strict=True))
        return max(tried, key=lambda setting: scores[name_of(name, setting)])

    while True:
        chosen = choose()
        high = max(setting["guidance_scale"] for setting in tried)
        if not chosen["guidance_scale"] == high < MOST:
            break
        tried.append({"guidance_scale": high * 1.4})
    if more := each.then(chosen):
        tried += more
        chosen = choose()
    return chosen


def _finite(scores: Mapping[str, float]) -> tuple[float, ...]:
    """What decides, of a sample; 0 where nothing is to be measured."""
    return tuple(value if np.isfinite(value) else 0.0 for value in merit(scores))
