"""What of a reflection can be had from the step before.

W2SD evaluates the arms three times a step: the strong one at x_t, the weak one at x_s, and the strong one at x~_t.
*Optimistic reflection* leaves out the first and uses the last step's difference of the arms, Δ, instead. Here parts of
both methods are removed one by one, on the shipped model of shapes with its preset's 25 steps:

- **Not corrected**: the step starts from where the previous step's Δ leads, and the new Δ is only kept for the next.
- **Weak arm every second step**: the steps between use the last Δ again.
- **First half, second half**: only the noisier, or the less noisy, half of the reflected steps reflect.
- **Half of the places**: in each frame Δ is used only where its norm over channels is above the frame's median.
- **W2SD, unconditional prediction of x_t**: at x~_t only the conditional one is evaluated.

The distance of a video from W2SD's with the same noise is the root mean square difference of their pixels, in levels
of 255. A few prompts are enough to show with it what each part does to a video. To show whether a part makes videos
better takes many more in most scores, which are in the CSV, and is [measured elsewhere](cost.md). In one score a few
are enough: optimistic reflection's objects jerk more than W2SD's, see [results](../results.md).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import presets, sampling
from ..errors import ArgumentError, Refused
from ..levels import Level, Step
from ..methods import W2SD, AutoGuidance, Method, Optimistic
from ..methods.method import Answer, Arm, Noise
from ..methods.optimistic import expected
from ..runs import Request, alone
from ..shapes import bench, grammar, rows
from ..shapes.pairs import sample_of, score
from .figures import COLOURS, figure
from .study import Mean, Result, Run
from .videos import kept_rows, rows_of

PAPER = "none of it; ablations of a method of this project"
PAIR = "shapes"
PROMPTS = 12
DISTANCE = "distance"
REFERENCE = "W2SD"


@dataclass(frozen=True)
class NotCorrected(Optimistic):
    """The step begins from x_t + (b / a) Δ_last: Δ of this step is for the next one alone."""

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        d = expected(step, x_t)
        answer = super().__call__(x_t, step, strong, weak, noise)
        return answer if d is None else replace(answer, d=d)


@dataclass(frozen=True)
class EverySecond(Optimistic):
    """The weak arm is evaluated in every second step; between, the step begins from x_t + (b / a) Δ_last."""

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        d = expected(step, x_t)
        if step.index % 2 == 0 or d is None:
            return super().__call__(x_t, step, strong, weak, noise)
        return Answer(strong.denoise(x_t + d), d, carry=step.carried)


@dataclass(frozen=True)
class Half(Optimistic):
    """Only one half of the steps that would, the noisier or the less noisy one, reflect."""

    noisier: bool = True

    def reflects(self, index: int, num_steps: int, level: Level | None = None) -> bool:
        reflected = self.default_steps(num_steps)
        return super().reflects(index, num_steps, level) and (index < reflected / 2) == self.noisier


@dataclass(frozen=True)
class Places(Optimistic):
    """Δ is used only where its norm over channels is above its median over the frame."""

    def _displacement(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm) -> Tensor:
        d = super()._displacement(x_t, step, strong, weak)
        norms = d.norm(dim=1, keepdim=True)
        medians = norms.flatten(-2).median(-1).values[..., None, None]
        return d * (norms > medians)


@dataclass(frozen=True)
class KeptUnconditional(W2SD):
    """At x~_t the unconditional prediction is that of x_t."""

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        d = self._displacement(x_t, step, strong, weak)
        uncond = strong.guided(x_t, 0)
        return Answer(torch.stack([uncond, strong.guided(x_t + d, 1)]), d)


# Methods by label, with the preset's guidance numbers. None: plain sampling.
METHODS: Mapping[str, Callable[..., Method] | None] = {
    REFERENCE: W2SD,
    "plain": None,
    "auto-guidance": AutoGuidance,
    "optimistic": Optimistic,
    "not corrected": NotCorrected,
    "weak arm every second step": EverySecond,
    "first half": Half,
    "second half": partial(Half, noisier=False),
    "half of the places": Places,
    "W2SD, unconditional of x_t": KeptUnconditional,
}
AGREES = (
    "Farther and nearer are by paired 95 % intervals, not adjusted. The paper has nothing of this. That a video is near"
    " W2SD's says that the reflection was kept, and not that the video is better."
)
COLUMNS = ("right", "objects", "form", "jerk", "background_instability")  # of the CSV


def run(run: Run) -> Result:
    if run.seed:
        raise Refused("seed", run.seed, "sample n has seed n in every run, so that runs can be combined: give 0")
    if run.workers > 1:
        raise Refused("--workers", run.workers, "this study samples in one process: give 1, or 0 to sample nothing")
    texts = grammar.prompts(run.prompts or (2 if run.quick else PROMPTS))
    with kept_rows(run, "reuse") as path:
        lines = _lines(run, path, texts)
        raw = b"" if run.quick else rows.packed(path, PAIR)
    return _result(lines, raw)


def _lines(run: Run, path: Path, texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By method, a line for each prompt. A prompt that lacks a line is sampled with all methods.

    Raises:
        Refused: prompts lack lines, and the run has no workers.
        ArgumentError: the file holds lines of other weights, another judge or other methods.
    """
    preset = bench.preset(PAIR, {"num_inference_steps": 4, "num_frames": 2} if run.quick else {})
    code = "".join(map(inspect.getsource, (NotCorrected, EverySecond, Half, Places, KeptUnconditional)))
    of = {**bench.origin(PAIR), "study": sha256(code.encode()).hexdigest()[:12]}
    with alone(path):
        held = rows.read(path, PAIR, mend=True)
        if changed := {name for each in held for name in of if each.get("of", {}).get(name) != of[name]}:
            said = f"{path} holds rows made with another {' and '.join(sorted(changed))}"
            raise ArgumentError("--out", f"{said}: remove it, or give another folder")
        present = {(each["method"], each["n"]) for each in held}
        known = (each for file in run.rows for each in rows_of(file, PAIR))
        rows.add(path, [each for each in known if each.get("of") == of and (each["method"], each["n"]) not in present])
        lines = {(line["method"], line["n"]): line for line in rows.read(path, PAIR)}
        lacking = [n for n in range(len(texts)) if any((label, n) not in lines for label in METHODS)]
        if lacking and not run.workers:
            raise Refused("--workers", 0, f"{len(lacking)} of {len(texts)} prompts are not sampled yet: give 1")
        pipe = sampling.load(Request.of("a red circle", 0, preset))["w2sd"] if lacking else None
        for done, n in enumerate(lacking):
            run.progress("sampling", done / len(lacking))
            made = _sampled(pipe, preset, n, texts[n], of)
            rows.add(path, [line for line in made if (line["method"], n) not in lines])
            lines |= {(line["method"], n): line for line in made}
    return {label: [lines[label, n] for n in range(len(texts))] for label in METHODS}


def _sampled(pipe: Any, preset: presets.Preset, n: int, text: str, of: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of a prompt, by all methods from the same noise."""
    sample = sample_of(preset, n, text, Path())
    request = Request.of(sample.prompt, n, preset)
    guidance = {"strong_guidance": request.strong_guidance_scale, "weak_guidance": request.weak_guidance_scale}
    reference: np.ndarray | None = None
    lines = []
    for label, method in METHODS.items():
        variant, made = ("w2sd", method(**guidance)) if method else ("strong", None)
        began = time.perf_counter()
        frames, counted = sampling.sample(pipe, request, variant, method=made)
        reference = frames if reference is None else reference
        difference = frames.astype(float) - reference
        scores = score(PAIR, frames, sample) | {DISTANCE: float(np.sqrt(np.mean(difference**2)))}
        seconds = time.perf_counter() - began
        lines.append(rows.line_of(PAIR, label, n, sample.prompt, n, scores, counted["total"], seconds, of))
    return lines


def _result(lines: Mapping[str, Sequence[Mapping[str, Any]]], raw: bytes) -> Result:
    count = len(lines[REFERENCE])
    cost = {label: max(line["evaluations"] for line in own) for label, own in lines.items()}
    far = {label: Mean.of([line["scores"][DISTANCE] for line in own]) for label, own in lines.items()}
    table, text = [], [["", "evaluations", "times plain", "levels from W2SD's video"]]
    for label, own in lines.items():
        row: dict[str, Any] = {"method": label, "evaluations": cost[label], "prompts": count}
        row |= {DISTANCE: far[label].mean, f"{DISTANCE}_half": far[label].half}
        for name in COLUMNS:
            seen = [value for line in own if (value := line["scores"].get(name)) is not None and not math.isnan(value)]
            row |= {name: float(np.mean(seen)) if seen else "", f"{name}_videos": len(seen)}
        table.append(row)
        distance = "" if label == REFERENCE else far[label].text(1)
        text.append([label, str(cost[label]), f"{cost[label] / cost['plain']:.2f}", distance])
    caption = (
        f"How far videos are from W2SD's of the same noise (n = {count} prompts, 95 % intervals); in parentheses the"
        " network evaluations of a video."
    )
    return Result(table, _outcome(lines, cost), AGREES, _figure(far, cost), caption, {"By method": text}, raw)


def _less(lines: Mapping[str, Sequence[Mapping[str, Any]]], first: str, second: str) -> Mean:
    """How much farther from W2SD's the first method's videos are than the second's, paired by prompt."""
    both = zip(lines[first], lines[second], strict=True)
    return Mean.of([a["scores"][DISTANCE] - b["scores"][DISTANCE] for a, b in both])


def _outcome(lines: Mapping[str, Sequence[Mapping[str, Any]]], cost: Mapping[str, int]) -> str:
    far = {label: Mean.of([line["scores"][DISTANCE] for line in own]).mean for label, own in lines.items()}
    optimistic, price = far["optimistic"], cost["optimistic"] / cost[REFERENCE]
    parts = [
        f"At {price:.0%} of its evaluations optimistic reflection is {optimistic:.1f} levels from W2SD's videos; plain"
        f" sampling is {far['plain']:.1f}, auto-guidance {far['auto-guidance']:.1f}"
    ]
    changes = {label: _less(lines, label, "optimistic") for label in METHODS if label not in (REFERENCE, "optimistic")}
    words = {1: "farther", -1: "nearer", 0: "not told apart"}
    for sign, word in words.items():
        labels = [f"{label} ({mean.mean:+.1f})" for label, mean in changes.items() if mean.sign == sign]
        if labels:
            parts.append(
                f"{word} than it: {', '.join(labels)}" if sign else f"not told apart from it: {', '.join(labels)}"
            )
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _figure(far: Mapping[str, Mean], cost: Mapping[str, int]) -> Any:
    drawn, axes = figure(height=3.0)
    ax = axes[0][0]
    known = {"plain": "strong", "auto-guidance": "auto_guidance", "optimistic": "optimistic"}
    labels = sorted((label for label in far if label != REFERENCE), key=lambda label: cost[label])
    for place, label in enumerate(labels):
        mean, colour = far[label], COLOURS[known.get(label, "other")]
        ax.errorbar(mean.mean, place, xerr=mean.half, fmt="o", color=colour, markersize=5, capsize=2)
    ax.set_yticks(range(len(labels)), [f"{label} ({cost[label]})" for label in labels])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set(xlabel="distance from W2SD's video (RMS, levels of 255)", ylabel=f"(evaluations; W2SD {cost[REFERENCE]})")
    return drawn
