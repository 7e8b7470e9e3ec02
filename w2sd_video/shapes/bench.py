"""Measures the shipped pairs, each as its users run it, by its preset: many samples a row, from the same prompts and
seeds, scored without a network where that can be.

The rows are the paper's (weak, strong, W2SD) and the baselines that a sceptic asks for. With equal weights a reflection
is to first order a stronger guidance, by the difference of the arms' (where they have none, here by 2); where the arms
differ in a scale, it is the strong one's at 2 s - w; and it costs more network evaluations, which plain sampling could
spend on more steps. A last row scores the data: what perfect is. The other methods have rows too, for who asks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import presets
from ..columns import Column
from ..eval.verdicts import LEVEL, Values, compare, decide, mean
from ..generate import load, sample
from ..runs import VARIANTS, Request, rows, writable
from .pairs import samples, score

LORA = -1.5  # the paper's scale of LoRAs in the weak arm
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "s2wd": ("S2WD", {"method": "s2wd"}),
    "z-sampling": ("Z-Sampling", {"method": "z_sampling"}),
    "re-sampling": ("Re-Sampling", {"method": "re_sampling"}),
    "advanced-re-sampling": ("Advanced Re-Sampling", {"method": "advanced_re_sampling"}),
    "auto-guidance": ("Auto-guidance", {"method": "auto_guidance"}),
    "optimistic": ("Optimistic", {"method": "optimistic"}),
    "motion-gain-0": ("W2SD, motion gain 0", {"options": {"motion_gain": 0.0}}),
    "motion-gain-2": ("W2SD, motion gain 2", {"options": {"motion_gain": 2.0}}),
}


def preset(pair: str, settings: Mapping[str, Any] | None = None) -> presets.Preset:
    """A pair's preset, with some of its fields set otherwise."""
    return replace(presets.load(pair), **(settings or {}))


def methods(asked: presets.Preset) -> dict[str, tuple[str, dict[str, Any]]]:
    """The rows of a pair's table: a label, and what a request of its preset says beside."""
    final, steps = asked.guidance_scale, asked.num_inference_steps
    arms = (asked.strong_guidance_scale, asked.weak_guidance_scale)
    # A plain step takes 2 evaluations, a reflected one an evaluation or two more by each arm.
    cost = 2 * steps + (steps - 1) * sum(1 if w in (0.0, 1.0) else 2 for w in arms)
    guided = final + (arms[0] - arms[1] or 2.0)
    plain: dict[str, Any] = {"variant": "plain"}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "weak": ("weak", {"variant": "weak"}),
        "strong": ("strong", plain),
        "w2sd": ("W2SD", {}),
        "guidance": (f"strong, guidance {guided:g}", plain | {"guidance_scale": guided}),
        "equal-cost": (f"strong, {math.ceil(cost / 2)} steps", plain | {"num_inference_steps": math.ceil(cost / 2)}),
    }
    scaled = {"adapters": asked.adapters, "controlnet": asked.controlnet, "ip_adapter": asked.ip_adapter}
    for name, each in scaled.items():
        if each:
            of: Any = next(iter(each.values())) if name == "adapters" else each
            alone = partial(dict.fromkeys, each) if name == "adapters" else dict
            raised = 2 * of["strong"] - of["weak"]
            found["raised"] = (f"strong at {raised:g}", plain | {name: alone({**of, "strong": raised})})
            if name == "adapters":  # Table 2's scale
                found["w2sd-paper"] = (f"W2SD, weak at {LORA:g}", {name: alone({**of, "weak": LORA})})
    return found | {"rendered": ("digits of the data" if asked.family == "dit-moe" else "rendered truth", {})}


def run(
    pair: str,
    out: Path,
    count: int,
    which: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
) -> None:
    """Makes and scores `count` videos or pictures by each row; appends a line each to `out`, a JSON Lines file.

    What the file has already is not made again. Sample n is made from prompt n and seed n by every row.

    Args:
        pair: one of `PAIRS`.
        which: some of the rows, by name, or of OTHERS; else all of `methods`.
        settings: fields of the preset, set otherwise.

    Raises:
        Refused: `out` cannot be written to.
        ValueError: the file holds what was made of another pair, or with other settings.
    """
    writable(out.absolute().parent)
    asked = preset(pair, settings)
    known = methods(asked)
    made = {(row["method"], row["n"]): row.get("arguments") for row in read(out, pair)}
    data = list(samples(asked, count, out.with_name(f"{out.stem}-shown")))
    for name in which or known:
        arguments = {} if name == "rendered" else {**(settings or {}), **(known | OTHERS)[name][1]}
        if any(theirs != arguments for (method, _), theirs in made.items() if method == name):
            raise ValueError(f"out: {out} holds {name} made with other settings than {arguments}; take another file")
        pipelines: dict[str, Any] = {}
        for n, each in enumerate(data):
            if (name, n) in made:
                continue
            began, evaluations = time.perf_counter(), 0
            if name == "rendered":
                frames = each.data
            else:
                request = Request.of(each.prompt, n, asked, **(known | OTHERS)[name][1], **each.told)
                pipelines = pipelines or load(request)
                (variant,) = VARIANTS[request.variant]
                began = time.perf_counter()
                frames, counted = sample(pipelines[variant], request, variant)
                evaluations = counted["total"]
            row: dict[str, Any] = {"pair": pair, "method": name, "n": n, "prompt": each.prompt, "arguments": arguments}
            row |= {"evaluations": evaluations, "seconds": time.perf_counter() - began}
            with open(out, "a") as file:
                file.write(json.dumps(row | {"scores": score(pair, frames, each)}) + "\n")
            progress(name, n + 1, count)


_COLUMNS: dict[str, type | tuple[type, ...]] = {
    "pair": str,
    "method": str,
    "n": int,
    "evaluations": int,
    "seconds": (int, float),
    "scores": dict,
}


def _is_row(row: object) -> bool:
    """Whether it is a row of this command, with scores that are numbers."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in _COLUMNS.items()):
        return False
    return all(value is None or isinstance(value, (int, float)) for value in row["scores"].values())


def read(path: Path, pair: str) -> list[Any]:
    """The rows of a results file.

    Raises:
        ValueError: it holds another pair's, or something else.
    """
    try:
        found = rows(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"out: {error}") from None
    if not all(map(_is_row, found)):
        raise ValueError(f"out: {path} holds rows that are not of this command; take another file")
    if others := {row["pair"] for row in found} - {pair}:
        raise ValueError(f"out: {path} holds rows of {', '.join(sorted(others))}, and not of {pair}; take another file")
    return found


def _values(made: Mapping[int, dict[str, Any]], column: Column) -> Values:
    """A column's values by prompt and seed; NaN where a video has none."""
    values: dict[str, dict[str, float | None]] = {}
    for n, row in made.items():
        name, scores = column.name, row["scores"]
        if name.startswith("right ("):
            things = 1 if "one" in name else 2
            name = "right" if 1 + n % 2 == things else ""
        value = scores.get(name)
        values.setdefault(row["prompt"], {})[str(n)] = math.nan if value is None else float(value)
    return values


def summarise(found: Sequence[dict[str, Any]], columns: Sequence[Column]) -> dict[str, Any]:
    """Of rows: by method and column the mean and interval, and its paired comparison with `strong`."""
    by_method: dict[str, dict[int, dict]] = {}
    for row in found:
        by_method.setdefault(row["method"], {})[row["n"]] = row
    strong = by_method.get("strong", {})
    comparisons = []
    for name, made in by_method.items():
        if name not in ("strong", "rendered"):
            each = (compare(c, "strong", name, _values(strong, c), _values(made, c)) for c in columns)
            comparisons += [comparison for comparison in each if comparison]
    decided = decide(comparisons, {c.name: c for c in columns})
    summary: dict[str, Any] = {}
    for name, made in by_method.items():
        first = made[min(made)]
        summary[name] = {
            "samples": len(made),
            "prompts": len({row["prompt"] for row in made.values()}),
            "evaluations": first["evaluations"],
            "seconds": float(np.mean([row["seconds"] for row in made.values()])),
            "columns": {c.name: mean(c, _values(made, c)) for c in columns},
        }
        if against := {c.column: c for c in decided if c.group == name}:
            summary[name]["against strong"] = against
    return summary


def markdown(summary: dict[str, Any], labels: dict[str, str], columns: Sequence[Column]) -> str:
    """The summary as a Markdown table, and what its marks mean: a row a measure, a column a method.

    A figure is bold where it is better than plain strong sampling's, in italics where it is worse, and marked by ≠
    where it differs and neither side is better.
    """
    names = [n for n in labels if n in summary]
    marks = {"better": "**{}**", "worse": "*{}*", "differs": "{} ≠", "": "{}"}
    lines = ["| | " + " | ".join(labels[n] for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    counts = [f"{summary[n]['samples']} of {summary[n]['prompts']}" for n in names]
    lines.append("| samples, of prompts | " + " | ".join(counts) + " |")
    lines.append("| network evaluations | " + " | ".join(str(summary[n]["evaluations"]) for n in names) + " |")
    for column in columns:
        means = [summary[name]["columns"][column.name] for name in names]
        alike = len({each.counted for each in means}) == 1
        cells = []
        for name, own in zip(names, means, strict=True):
            compared = summary[name].get("against strong", {}).get(column.name)
            cell = own.text(3 if abs(own.mean) < 10 else 1) + ("" if alike else f" ({own.counted})")
            cells.append(marks[compared.verdict if compared else ""].format(cell))
        label = column.name + (f" ({means[0].counted})" if alike else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + _legend(summary, labels)


def _legend(summary: dict[str, Any], labels: dict[str, str]) -> str:
    """What the table's marks mean, and why columns have none."""
    names = [n for n in labels if n in summary]
    comparisons = [c for n in names for c in summary[n].get("against strong", {}).values()]
    units = sorted({each.unit for n in names for each in summary[n]["columns"].values() if each.n})
    over = {"prompt": "prompts", "seed": "seeds of the only prompt", "video": "samples, the ten digits weighted alike"}
    lines = [
        f"Means with 95 % intervals over {' or '.join(over[unit] for unit in units)}, not adjusted; in parentheses how"
        " many of the samples have a score."
    ]
    tested = [c for c in comparisons if not math.isnan(c.p_adjusted)]
    if tested:
        lines.append(
            "**Bold**: better than strong, *italics*: worse, ≠: differs, where the p of paired samples, adjusted by"
            f" Holm's method over all {len(tested)} comparisons of the table, is at most {LEVEL}. Unmarked: not"
            " decided, which is not the same as equal."
        )
    if any(any(c.lost) for c in tested):
        lines.append(
            "Measures of an object are compared where both samples of a pair show it, and never in favour of the method"
            " that shows it in fewer."
        )
    reasons: dict[str, list[str]] = {}
    for c in comparisons:
        if c.reason:
            reasons.setdefault(c.reason.removeprefix("no verdict: "), []).append(f"{c.column} of {labels[c.group]}")
    return " ".join([*lines, *(f"No verdict on {', '.join(on)}: {why}." for why, on in reasons.items())])
