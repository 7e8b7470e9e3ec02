"""Quality against network evaluations.

The paper's Fig. 13 compares methods at equal cost: it gives W2SD fewer steps, so that it takes as long as plain
sampling. Here methods sample videos of the shipped model of shapes at the same **budgets**, as multiples of the 50
evaluations of plain sampling (25 steps at guidance 1.5): 1, 1.5, 2, 2.44 and 3. W2SD has its preset's 25 steps at
2.44 times, optimistic W2SD and auto-guidance at 1.5. Each of these runs with the most steps that do not exceed the
budget. The other methods have the preset's 25 steps first, and their budget is what that costs; then they run at the
other budgets too, but for S2WD. Evaluations of the denoiser are counted; the autoencoder, the text encoders and the
tuning are not.

- **Tuned guidance** is plain sampling with the best guidance by `right`, with ties broken by `form`, on 200 other
  prompts and seeds. Tried are 1, 1.5, 2, 2.5, 3, 4, 5 and 7, and larger numbers for as long as the largest is best. It
  is tuned at the budget 1, and the other budgets use the same guidance. Nothing else is tuned: W2SD and the other
  methods have the preset's guidance numbers and their defaults.
- **The control** is plain guidance with the schedule that is nearest to W2SD, w_t = w + κ_t, as in [methods and
  schedules](matched.md): κ_t is fitted by least squares to W2SD at the same budget on 8 of the other prompts, and
  stretched to the control's steps. The share of the square of W2SD's change that it explains is said above; the rest
  no schedule of guidance can do.
- **eta 1** is plain sampling, or W2SD, with fresh noise in each step of DDIM. Both rows were added when they were known
  from [another study](resampling.md).
- **Best of N** samples as many videos as the budget allows and keeps the best one by the same judge that scores here.
  It is an upper bound, not a method.

Every method starts from the same noise for a prompt. Rows that [results](../results.md) also have are the same
videos, so the two pages are not independent evidence. The judge of the shapes world scores videos, without a network.
The primary column was declared beforehand: `right`, whether the video shows everything that the prompt says. Units are
prompts. The rows were looked at after 32 prompts, and some were added after 75, among them other methods at more than
one budget; 100 are planned. `form` and `jerk` are
compared where both videos show all objects, and where that is not in all prompts, their number is said. CFG-Zero* is
made for flow matching, and the shipped model predicts v, for which its reasons do not hold.

The front at a budget is the method with the highest mean that costs no more. A method picked as the best looks better
than it is, so the front is a description, not a verdict. Verdicts are the comparisons of each method with tuned
guidance, and of W2SD and optimistic W2SD with the control, auto-guidance and plain sampling too, adjusted together.
Each is compared with the rival's row at the same budget or, if there is none, at the next smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import presets
from ..errors import Refused
from ..runs import Request, alone
from ..sampling import arguments, evaluations, load, sample, steps_for
from ..shapes import bench, rows, tuning
from ..shapes.bench import OTHERS, Row, seed_of
from ..shapes.bench import PLAIN as PLAIN_SETTINGS
from ..shapes.grammar import prompts
from ..shapes.pairs import prompt_of
from .cost_table import AUTO, CEILING, CONTROL, NOISE, OPTIMISTIC, PLAIN, TUNED, W2SD, W2SD_NOISE, Point, result
from .matched import Watched, fit
from .study import Result, Run
from .videos import Videos, kept_rows, named

PAPER = "Fig. 13, against more rivals"
PAIR = "shapes"
PROMPTS = 100
METHODS = {
    PLAIN: PLAIN_SETTINGS,
    W2SD: {},
    NOISE: PLAIN_SETTINGS | {"eta": 1.0},
    W2SD_NOISE: {"eta": 1.0},
    **{row.label: row.says for row in OTHERS.values()},
}
OWN: tuple[float, ...] = ()  # in place of budgets: what the preset's steps cost
RIVALS = dict.fromkeys(
    [*(label for label in bench.METHODS.values() if label not in (OPTIMISTIC, AUTO)), NOISE, W2SD_NOISE], OWN
)
CHANGES = "what W2SD changes"  # replaces the method's name in lines that hold a video's κ_t

Stage = Mapping[str, Sequence[float]]  # by method, its budgets as multiples of plain sampling's evaluations


@dataclass(frozen=True)
class Size:
    """The size of the study.

    Args:
        prompts: how many prompts, unless a run sets it.
        tuning: how many other prompts are used to tune guidance.
        calibrated: which of them are used to fit the control's schedule.
        stages: the rows, in order of importance. A stage is finished before the next starts, and in it all rows of a
            prompt before the next prompt, so that an interrupted run has whole prompts.
        tuned_at: the budgets at which guidance is tuned; other budgets use the nearest one below.
        grid: the guidance numbers to try.
        settings: fields that replace the preset's.
    """

    prompts: int
    tuning: int
    calibrated: range
    stages: tuple[Stage, ...]
    tuned_at: tuple[float, ...]
    grid: tuple[float, ...]
    settings: Mapping[str, Any]


FULL = Size(
    PROMPTS,
    tuning=tuning.ENOUGH,
    calibrated=range(16, 24),
    stages=(
        {
            PLAIN: (1, 2.44),
            TUNED: (1, 2.44),
            OPTIMISTIC: (1.5,),
            AUTO: (1.5,),
            W2SD: (2.44,),
            CONTROL: (2.44,),
        },
        RIVALS,
        {
            PLAIN: (1.5, 2, 3),
            TUNED: (1.5, 2, 3),
            OPTIMISTIC: (1, 2, 2.44, 3),
            AUTO: (2.44,),
            W2SD: (1, 1.5, 2, 3),
            CONTROL: (1.5,),
            CEILING: (2, 3),
        },
        {NOISE: (1.5, 2, 2.44, 3), W2SD_NOISE: (1, 1.5, 2, 3)},
        {
            **dict.fromkeys(("APG", "CFG-Zero*"), (1.5, 2, 2.44, 3)),
            **dict.fromkeys(("SLG", "PAG", "S2-guidance", "P&P"), (1, 2, 2.44, 3)),
            "Re-Sampling": (1, 1.5, 2.44, 3),
            **dict.fromkeys(("Advanced Re-Sampling", "Z-Sampling", "FSG"), (1, 1.5, 2, 3)),
        },
    ),
    tuned_at=(1,),
    grid=tuning.GUIDANCE,
    settings={},
)
QUICK = Size(
    2,
    tuning=1,
    calibrated=range(1),
    stages=(
        {PLAIN: (1, 2.44), W2SD: (1, 2.44), OPTIMISTIC: (2.44,), CONTROL: (2.44,)},
        {TUNED: (1, 2.44), CEILING: (2.44,), **RIVALS},
    ),
    tuned_at=(1,),
    grid=(1.5, 2.0),
    settings={"num_inference_steps": 3, "num_frames": 2},
)


def run(run: Run) -> Result:
    if run.seed:
        raise Refused("seed", run.seed, "sample n has seed n in every run, so that runs can be combined: give 0")
    size = QUICK if run.quick else FULL
    count = run.prompts or size.prompts
    if count > tuning.FIRST:
        raise Refused("--prompts", count, f"give at most {tuning.FIRST}: settings are tuned on the others")
    points: list[Point] = []
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    texts = prompts(tuning.FIRST)
    with kept_rows(run, "cost") as path:
        sampling = Sampling(run, size, path)
        for stage in sampling.stages:
            points += sampling.points(stage)
            lines |= sampling.videos.lines({p.name: p.row for p in points}, texts, count)
        raw = b"" if run.quick else rows.packed(path, PAIR)
        whole = [point for point in points if len(lines[point.name]) == count]
        explained = {point.budget: sampling.explained(point.budget) for point in whole if point.label == CONTROL}
    if not whole:
        raise Refused("--workers", run.workers, f"no row has {count} prompts yet: give 1 or more, which samples them")
    keys = {point.key for point in whole}
    plan = [f"{label} at {budget:g}" for stage in sampling.stages for label, each in stage.items() for budget in each]
    return replace(result(whole, lines, [key for key in plan if key not in keys], explained), raw=raw)


@dataclass(frozen=True)
class Sampling:
    """Samples everything for the study into one results file.

    Args:
        path: the results file. Samples that it holds are not generated again.
    """

    run: Run
    size: Size
    path: Path

    @cached_property
    def videos(self) -> Videos:
        return Videos(self.run, self.path, PAIR, self.size.settings)

    @property
    def preset(self) -> presets.Preset:
        return self.videos.preset

    @cached_property
    def others(self) -> list[str]:
        """The other prompts, for tuning guidance and for fitting schedules."""
        return tuning.prompts_beside(PAIR, self.size.tuning, tuning.FIRST)

    def points(self, stage: Stage) -> list[Point]:
        """The rows of a stage, after tuning guidance and fitting schedules for them."""
        points: list[Point] = []
        for label, budgets in stage.items():
            for budget in budgets:
                most = self._most(budget)
                if label == CEILING:
                    points.append(self._point(label, budget, PLAIN_SETTINGS, most // self._cost))
                    continue
                if label == TUNED:
                    says = self._tuned(self._most(max(each for each in self.size.tuned_at if each <= budget)))
                elif label == CONTROL:
                    says = self._control(most)
                else:
                    says = METHODS[label]
                if says is not None and (steps := self._steps(says, most)):
                    points.append(self._point(label, budget, {**says, "num_inference_steps": steps}))
        # Rows of plain sampling come first, so that the pair is loaded only once per prompt.
        return sorted(points, key=lambda point: "variant" not in point.row.says)

    @cached_property
    def _cost(self) -> int:
        """Plain sampling's evaluations, the unit of budgets."""
        return evaluations(self._request(PLAIN_SETTINGS))["total"]

    def _most(self, budget: float) -> int:
        """The most evaluations within a budget."""
        return int(budget * self._cost + 1e-6)

    @cached_property
    def stages(self) -> list[Stage]:
        """The size's stages, with the budgets of methods that have the preset's steps."""

        def own(label: str) -> float:
            return evaluations(self._request(METHODS[label]))["total"] / self._cost

        return [{label: each or (own(label),) for label, each in stage.items()} for stage in self.size.stages]

    def _request(self, says: Mapping[str, Any]) -> Request:
        return Request.of("a red circle", 0, self.preset, **says)

    def _steps(self, says: Mapping[str, Any], most: int) -> int:
        """The most steps with which a method takes at most `most` evaluations; 0 if a single step takes more."""
        return steps_for(self._request(says), most + 1) - 1

    def _point(self, label: str, budget: float, says: Mapping[str, Any], tries: int = 1) -> Point:
        row = Row(label, {k: v for k, v in says.items() if v != getattr(self.preset, k, None)}, tries)
        return Point(label, budget, self.videos.name_of(row), row)

    def _tuned(self, most: int) -> dict[str, Any] | None:
        """Settings of plain sampling with the best guidance for `most` evaluations; None if it is not known yet."""
        steps = {w: self._steps({**PLAIN_SETTINGS, "guidance_scale": w}, most) for w in self.size.grid}
        grid = tuple({"guidance_scale": w, "num_inference_steps": n} for w, n in steps.items())
        says = PLAIN_SETTINGS | {"num_inference_steps": min(steps.values())}  # of guidance beyond the grid

        def score(wanted: dict[str, Row], count: int) -> tuning.Scores:
            points = {key: self._point("", 0, row.says) for key, row in wanted.items()}
            lines = self.videos.lines({p.name: p.row for p in points.values()}, self.others, count, tuned=True)
            return {key: [lines[p.name][n]["scores"] for n in range(count)] for key, p in points.items()}

        try:
            best = tuning.best(TUNED, tuning.Tuned(TUNED, says, grid), self.size.tuning, score)
        except KeyError:  # a line that is not there
            if self.run.workers:
                raise
            return None
        return {**PLAIN_SETTINGS, "guidance_scale": best["guidance_scale"]}

    def explained(self, budget: float) -> list[float]:
        """The share of W2SD's change that the nearest schedule explains, of each video that it is fitted to."""
        name = named(self.preset, self._fitted(self._most(budget)))
        lines = [line for line in self.videos.read(self.path, tuned=True) if line["method"] == name]
        return [line["scores"]["explained"] for line in lines]

    def _fitted(self, most: int) -> dict[str, Any]:
        """The settings of the lines that a schedule is fitted to, of W2SD with `most` evaluations."""
        return {**self.size.settings, "num_inference_steps": self._steps({}, most), "method": CHANGES}

    def _control(self, most: int) -> dict[str, Any] | None:
        """Settings of plain guidance with the schedule nearest to W2SD with `most` evaluations; None if not known
        yet."""
        arguments = self._fitted(most)
        name, steps = named(self.preset, arguments), arguments["num_inference_steps"]
        says = {key: value for key, value in arguments.items() if key != "method"}
        needs = ["explained", *(f"{of} {i}" for i in range(steps - 1) for of in ("kappa", "u"))]
        self.videos.adopt({name: arguments}, self.others, tuned=True, needs=needs, numbers=needs)
        lines = {line["n"]: line for line in self.videos.read(self.path, tuned=True) if line["method"] == name}
        chosen = self.size.calibrated
        for n in chosen:
            if n not in lines and not self.run.workers:
                return None
            if n not in lines:
                self.run.progress(f"schedule of {steps} steps", (n - chosen[0]) / len(chosen))
                seed = seed_of(n, True)
                request = self._request(says)
                text = prompt_of(self.preset, seed, self.others[n])
                lines[n] = {"pair": PAIR, "method": name, "n": n, "prompt": text, "seed": seed, "arguments": arguments}
                lines[n] |= {"tuning": True, "of": bench.origin(PAIR), "evaluations": 0, "seconds": 0.0}
                lines[n] |= {"scores": changes(replace(request, prompt=text, seed=seed))}
                with alone(self.path):
                    rows.add(self.path, [lines[n]])
        scores = [lines[n]["scores"] for n in chosen]
        kappas = []
        for i in range(steps - 1):
            weights = [each[f"u {i}"] for each in scores]  # none where W2SD changes no video in this step
            kappas.append(np.average([each[f"kappa {i}"] for each in scores], weights=weights) if any(weights) else 0.0)
        guidance = [round(self.preset.guidance_scale + float(kappa), 3) for kappa in [*kappas, 0.0]]
        return {"method": "guidance_schedule", "options": {"guidance": guidance}}


def changes(request: Request) -> dict[str, float]:
    """W2SD's change of the prediction at each step of a video, expressed as guidance.

    Returns:
        κ by least squares, the weight |u|² of the video in a fit over many, and the share of all changes that κ u
        explains.
    """
    pipe = load(request)["w2sd"]
    method = arguments(pipe, request, "w2sd")["method"]
    watched = Watched(method.strong_guidance, method.weak_guidance, of=method, plain=request.guidance_scale)
    sample(pipe, request, "w2sd", method=watched)
    coefficients, explained = fit(watched.seen, history=False)
    scores = {"explained": explained}
    for i, ((kappa, _), (_, u, _)) in enumerate(zip(coefficients, watched.seen, strict=True)):
        scores |= {f"kappa {i}": kappa, f"u {i}": float(u.double().square().sum())}
    return {name: float(f"{value:.5g}") for name, value in scores.items()}
