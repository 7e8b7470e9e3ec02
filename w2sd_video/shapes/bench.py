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
from ..eval.statistics import interval
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


_COLUMNS = {"pair", "method", "n", "evaluations", "seconds", "scores"}


def read(path: Path, pair: str) -> list[Any]:
    """The rows of a results file.

    Raises:
        ValueError: it holds another pair's, or something else.
    """
    found = rows(path)
    if not all(isinstance(row, dict) and _COLUMNS <= row.keys() and isinstance(row["scores"], dict) for row in found):
        raise ValueError(f"out: {path} holds rows that are not of this command; take another file")
    if others := {row["pair"] for row in found} - {pair}:
        raise ValueError(f"out: {path} holds rows of {', '.join(sorted(others))}, and not of {pair}; take another file")
    return found


def _column(made: list[dict], column: str) -> np.ndarray:
    """A column's values by video; NaN where a video has none."""
    if column.startswith("right ("):
        things = 1 if "one" in column else 2
        return np.array([r["scores"]["right"] if 1 + r["n"] % 2 == things else np.nan for r in made])
    return np.array([r["scores"].get(column, np.nan) for r in made], dtype=float)


def summarise(found: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Of rows: by method and column the mean and interval, and its paired difference from `strong`."""
    by_method: dict[str, dict[int, dict]] = {}
    for row in found:
        by_method.setdefault(row["method"], {})[row["n"]] = row
    summary: dict[str, Any] = {}
    for name, made in by_method.items():
        mine = [made[n] for n in sorted(made)]
        entry: dict[str, Any] = {
            "samples": len(mine),
            "evaluations": mine[0]["evaluations"],
            "seconds": float(np.mean([r["seconds"] for r in mine])),
            "columns": {c: interval(_column(mine, c)) for c in columns},
        }
        strong = by_method.get("strong", {})
        both = [n for n in sorted(made) if n in strong]
        if both and name not in ("strong", "rendered"):
            entry["against strong"] = {
                c: interval(_column([made[n] for n in both], c) - _column([strong[n] for n in both], c))
                for c in columns
            }
        summary[name] = entry
    return summary


def markdown(
    summary: dict[str, Any],
    labels: dict[str, str],
    columns: Sequence[str],
    lower_is_better: Sequence[str],
) -> str:
    """The summary as a Markdown table: a row a measure, a column a method, mean and half-width of the interval.

    A figure is bold where its paired difference from plain strong excludes 0 and is an improvement, in italics where
    it excludes 0 and is not. `motion` has no better or worse, and is only compared.
    """
    names = [n for n in labels if n in summary]
    lines = ["| | " + " | ".join(labels[n] for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines.append("| network evaluations | " + " | ".join(str(summary[n]["evaluations"]) for n in names) + " |")
    for column in columns:
        cells = []
        for name in names:
            found = summary[name]["columns"][column]
            digits = 3 if abs(found.mean) < 10 else 1
            cell = f"{found.mean:.{digits}f} ± {(found.high - found.low) / 2:.{digits}f}"
            paired = summary[name].get("against strong", {}).get(column)
            if paired and column != "motion" and paired.excludes_zero:
                better = (paired.mean < 0) == (column in lower_is_better)
                cell = f"**{cell}**" if better else f"*{cell}*"
            cells.append(cell)
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
