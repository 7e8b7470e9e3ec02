"""Tunes settings of the shipped pairs on prompts that the bench does not use: the guidance of plain sampling, the same
at W2SD's cost, and W2SD's own settings, with as many to try.

A claim that W2SD beats guidance has to compare it with the best guidance. The mean of `right` decides, and `form`
breaks ties. A setting that is clearly worse than another on the first prompts is not tried on the rest. If the largest
guidance is the best, larger ones are tried; diffusers' pipelines have no guidance below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import presets
from .bench import PLAIN, Row, equal_steps, merit, preset, seed_of
from .grammar import prompts
from .pairs import prompt_of

GUIDANCE = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
FINAL = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # guidance of W2SD; two numbers of reflected steps are tried besides
ENOUGH = 200  # prompts to tune on, as the rule asks
HEAT = 50  # prompts after which settings clearly worse than the best are dropped
CLEARLY = 2.0  # standard errors by which a setting is clearly worse
SEED = 2027  # of these prompts
FIRST = 500  # prompts of tables that are never used for tuning, so that a table can grow up to this
MOST = 30.0  # the largest guidance to try


@dataclass(frozen=True)
class Tuned:
    """A row whose settings are tuned.

    Args:
        label: its label in the table.
        says: settings of all its requests.
        first: the settings to try first.
        then: returns further settings to try, from the best of the first.
    """

    label: str
    says: dict[str, Any]
    first: tuple[dict[str, Any], ...]
    then: Callable[[dict[str, Any]], tuple[dict[str, Any], ...]] = lambda best: ()


def tuned(preset: presets.Preset) -> dict[str, Tuned]:
    """The tuned rows of a pair, by name."""
    steps, equal = preset.num_inference_steps, equal_steps(preset, 2.0)
    guidance: tuple[dict[str, Any], ...] = tuple({"guidance_scale": w} for w in GUIDANCE)
    # At guidance 1 a step takes one evaluation, so there are twice as many steps.
    costly = tuple(
        each if (n := equal_steps(preset, each["guidance_scale"])) == equal else each | {"num_inference_steps": n}
        for each in guidance
    )
    lambdas = sorted({max(1, round(steps / 3)), max(1, round(2 * steps / 3))})
    return {
        "tuned": Tuned("strong, tuned guidance", PLAIN, guidance),
        "tuned-equal-cost": Tuned(
            "strong, guidance tuned at W2SD's cost", PLAIN | {"num_inference_steps": equal}, costly
        ),
        "w2sd-tuned": Tuned(
            "W2SD, tuned",
            {},
            tuple({"guidance_scale": w} for w in FINAL),
            lambda best: tuple(best | {"reflection_steps": n} for n in lambdas),
        ),
    }


def prompts_beside(pair: str, count: int, samples: int) -> list[str]:
    """Prompts of the grammar to tune on.

    The models' prompts for them are distinct, and differ from those of a table of `samples`, or of `FIRST` if that is
    more. For digits, the prompts are the same classes, which get other seeds.

    Raises:
        ValueError: there are fewer than `count`.
    """
    pair_preset = preset(pair)
    if not pair_preset.textual:
        return prompts(count, SEED)
    taken = {prompt_of(pair_preset, seed_of(n, False), text) for n, text in enumerate(prompts(max(samples, FIRST)))}
    drawn = 2 * count
    while True:
        texts = set(taken)
        left: list[str] = []
        for text in prompts(drawn, SEED):
            if (own := prompt_of(pair_preset, seed_of(len(left), True), text)) not in texts:
                texts.add(own)
                left.append(text)
        if len(left) >= count:
            return left[:count]
        if drawn > 16 * count:
            raise ValueError(
                f"--tune: {count} is not accepted; beside those of the table, {pair} has {len(left)} prompts"
            )
        drawn *= 2


def name_of(name: str, setting: Mapping[str, Any]) -> str:
    """The name of the row of one setting in a results file."""
    return f"{name}: " + ", ".join(f"{key}={value:g}" for key, value in setting.items())


Scores = Mapping[str, Sequence[Mapping[str, float]]]


def best(name: str, each: Tuned, count: int, score: Callable[[dict[str, Row], int], Scores]) -> dict[str, Any]:
    """The best setting of a row.

    Args:
        name: the row's name.
        count: how many prompts to tune on.
        score: returns the scores of rows, by name, on the first so many prompts, after generating missing samples.
    """
    tried = list(each.first)
    merits: dict[tuple[str, int], np.ndarray] = {}

    def choose() -> dict[str, Any]:
        left = tried
        for heat in sorted({min(HEAT, count), count}):
            wanted = {name_of(name, setting): Row(each.label, each.says | setting) for setting in left}
            new = score({key: row for key, row in wanted.items() if (key, heat) not in merits}, heat)
            merits.update({(key, heat): np.array([_finite(one) for one in rows]) for key, rows in new.items()})
            of = [merits[key, heat] for key in wanted]
            most = max(of, key=_means)
            chosen = left[[each is most for each in of].index(True)]
            left = [setting for setting, mine in zip(left, of, strict=True) if not _clearly_worse(mine, most)]
        return chosen

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


def _means(merits: np.ndarray) -> tuple[float, ...]:
    """Means over prompts, from exact sums, so that the order of prompts does not matter."""
    return tuple(math.fsum(column) / len(column) for column in merits.T)


def _clearly_worse(merits: np.ndarray, best: np.ndarray) -> bool:
    """Whether a setting is worse than the best by more than `CLEARLY` standard errors over prompts: in the first
    number or, if all prompts are equal in it, in the second."""
    for lost in (best - merits).T:
        if len(lost) > 1 and lost.any():
            return bool(lost.mean() > CLEARLY * lost.std(ddof=1) / math.sqrt(len(lost)))
    return False


def _finite(scores: Mapping[str, float]) -> tuple[float, ...]:
    """The `merit` of a sample, with 0 for a measure that does not apply."""
    return tuple(value if math.isfinite(value) else 0.0 for value in merit(scores))


def labels(rows: Mapping[str, Tuned], lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The labels of tuned rows in a results file, with their settings and the number of prompts for tuning."""
    labels = {}
    for line in lines:
        if (name := line["method"]) in rows and name not in labels:
            says = line.get("arguments", {})
            setting = ", ".join(f"{says[key]:g}" for key in ("guidance_scale", "reflection_steps") if key in says)
            tried = {row["n"] for row in lines if row.get("tuning") and row["method"].startswith(f"{name}: ")}
            labels[name] = f"{rows[name].label} ({setting}; on {len(tried)} prompts)"
    return labels
