"""Measures W2SD on the shipped model: many videos a method, from the same prompts and seeds, read by the judge.

The methods are the paper's rows (weak, strong, W2SD) and the two baselines that a sceptic asks for: with equal weights
a reflection is to first order a stronger guidance, 2 w_s - w_w; and it costs more network evaluations, which plain
sampling could spend on more steps. A last row judges the renderer's own videos of the same prompts: what perfect is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..eval.statistics import interval
from ..runs import rows
from . import WEIGHTS
from .grammar import describe, parse
from .judge import LOWER_IS_BETTER, SCORES, judge
from .world import forget, render, sample_scene

COLUMNS = ("right (one object)", "right (two objects)", *(score for score in SCORES if score != "right"))


@dataclass(frozen=True)
class Method:
    """A row of the table: which model samples, and with which arguments of the pipeline's call."""

    label: str
    arguments: dict[str, Any]
    weak_model: bool = False


def methods(steps: int, strong: float, weak: float) -> dict[str, Method]:
    """The table's methods, for a number of steps and the reflection's two guidance scales."""
    plain = {"method": None, "guidance_scale": strong, "num_inference_steps": steps}
    # A reflected step costs 2 (strong, guided) + 1 (weak, conditional) + 2 evaluations, a plain one 2.
    reflected = sum(1 if w in (0.0, 1.0) else 2 for w in (strong, weak))
    cost = 2 * steps + (steps - 1) * reflected
    raised = 2 * strong - weak
    return {
        "weak": Method(f"weak (base, guidance {strong:g})", plain, weak_model=True),
        "strong": Method(f"strong (tuned, guidance {strong:g})", plain),
        "w2sd": Method(
            f"W2SD ({strong:g} / {weak:g})",
            {
                "method": "w2sd",
                "guidance_scale": strong,
                "weak_guidance_scale": weak,
                "num_inference_steps": steps,
            },
        ),
        "guidance": Method(f"strong, guidance {raised:g}", plain | {"guidance_scale": raised}),
        "equal-cost": Method(
            f"strong, {math.ceil(cost / 2)} steps", plain | {"num_inference_steps": math.ceil(cost / 2)}
        ),
    }


def prompts(count: int, seed: int = 2026) -> list[str]:
    """`count` prompts, every other one of two objects. Prompt n does not depend on how many there are."""
    result = []
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        result.append(describe(forget(sample_scene(rng, things=1 + n % 2), rng)))
    return result


def load() -> tuple[Any, Any]:
    """The shipped pair as a pipeline, and the weak model alone, with its own text encoders."""
    import torch

    from ..pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline

    def pipeline(strong: str, weak: Path | None) -> Any:
        pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(
            WEIGHTS / strong, weak=weak, motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return pipeline("tuned", WEIGHTS / "base"), pipeline("base", None)


def run(
    out: Path,
    pipeline: Any,
    weak_pipeline: Any,
    which: list[str],
    videos: int = 500,
    steps: int = 15,
    strong: float = 3.0,
    weak: float = 1.0,
    batch: int = 10,
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
) -> None:
    """Makes and judges `videos` videos by each method in `which`; appends a line a video to `out`, a JSONL file.

    Videos already in the file are not made again. Video n is made from prompt n and seed n by every method.

    Raises:
        ValueError: the file holds videos that were made with other settings.
    """
    import torch

    earlier = rows(out)
    made = {(row["method"], row["n"]) for row in earlier}
    chosen = methods(steps, strong, weak)
    for row in earlier:
        if row["method"] in chosen and row["arguments"] != chosen[row["method"]].arguments:
            raise ValueError(
                f"out: {out} holds {row['method']} videos made with {row['arguments']}, not with"
                f" {chosen[row['method']].arguments}; go on with those settings, or take another file"
            )
    texts = prompts(videos)
    for name in which:
        todo = [n for n in range(videos) if (name, n) not in made]
        for start in range(0, len(todo), batch):
            ns = todo[start : start + batch]
            began = time.perf_counter()
            evaluations, arguments = 0, {}
            if name == "rendered":
                frames = [render(parse(texts[n]), n) for n in ns]
            else:
                method = chosen[name]
                arguments = method.arguments
                pipe = weak_pipeline if method.weak_model else pipeline
                generators = [torch.Generator().manual_seed(n) for n in ns]
                result = pipe([texts[n] for n in ns], generator=generators, output_type="np", **method.arguments)
                frames, evaluations = result.frames, pipe.evaluations["total"]
            seconds = (time.perf_counter() - began) / len(ns)
            with open(out, "a") as file:
                for n, video in zip(ns, frames, strict=True):
                    pixels = (np.asarray(video) * 255).round().astype(np.uint8)
                    row = {"method": name, "n": n, "prompt": texts[n], "arguments": arguments}
                    row |= {"evaluations": evaluations, "seconds": seconds, "scores": judge(pixels, parse(texts[n]))}
                    file.write(json.dumps(row) + "\n")
            progress(name, start + len(ns), len(todo))


def _column(made: list[dict], column: str) -> np.ndarray:
    """A column's values by video; NaN where a video has none."""
    if column.startswith("right"):
        things = 1 if "one" in column else 2
        return np.array([r["scores"]["right"] if 1 + r["n"] % 2 == things else np.nan for r in made])
    return np.array([r["scores"].get(column, np.nan) for r in made], dtype=float)


def summarise(path: Path) -> dict[str, Any]:
    """Reads a results file: by method and column the mean and interval, and its paired difference from `strong`."""
    by_method: dict[str, dict[int, dict]] = {}
    for row in rows(path):
        by_method.setdefault(row["method"], {})[row["n"]] = row
    summary: dict[str, Any] = {}
    for name, made in by_method.items():
        mine = [made[n] for n in sorted(made)]
        entry: dict[str, Any] = {
            "videos": len(mine),
            "evaluations": mine[0]["evaluations"],
            "seconds": float(np.mean([r["seconds"] for r in mine])),
            "columns": {c: interval(_column(mine, c)) for c in COLUMNS},
        }
        strong = by_method.get("strong", {})
        both = [n for n in sorted(made) if n in strong]
        if both and name not in ("strong", "rendered"):
            entry["against strong"] = {
                c: interval(_column([made[n] for n in both], c) - _column([strong[n] for n in both], c))
                for c in COLUMNS
            }
        summary[name] = entry
    return summary


def markdown(summary: dict[str, Any], labels: dict[str, str]) -> str:
    """The summary as a Markdown table: a row a measure, a column a method, mean and half-width of the interval.

    A figure is bold where its paired difference from plain strong excludes 0 and is an improvement, in italics where
    it excludes 0 and is not. `motion` has no better or worse, and is only compared.
    """
    names = [n for n in labels if n in summary]
    lines = ["| | " + " | ".join(labels[n] for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines.append("| network evaluations | " + " | ".join(str(summary[n]["evaluations"]) for n in names) + " |")
    for column in COLUMNS:
        cells = []
        for name in names:
            found = summary[name]["columns"][column]
            digits = 3 if abs(found.mean) < 10 else 1
            cell = f"{found.mean:.{digits}f} ± {(found.high - found.low) / 2:.{digits}f}"
            paired = summary[name].get("against strong", {}).get(column)
            if paired and column != "motion" and paired.excludes_zero:
                better = (paired.mean < 0) == (column in LOWER_IS_BETTER)
                cell = f"**{cell}**" if better else f"*{cell}*"
            cells.append(cell)
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
