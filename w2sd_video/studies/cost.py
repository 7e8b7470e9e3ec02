"""Quality against network evaluations, every method on one front.

Videos of the shipped pair of shapes, from the same prompts and seeds by every method at 1, 1.5, 2, 2.5 and 3 times the
network evaluations of plain sampling at the preset's steps. A method has its own defaults at every budget, and takes as
many steps as the budget allows: the fewest that take at least so many evaluations. The rivals that count are plain
guidance with more steps, and guidance tuned: the number with which most is right on other prompts, at the preset's
steps. W2SD has the same: its final guidance, tuned on the same prompts.

Each method is held against tuned guidance at the same budget, prompt by prompt; p is adjusted over everything in the
table. Best of N keeps, of N videos of plain sampling, the one that the judge prefers, by what it is scored on here: a
ceiling, and no method.

The **control** of W2SD is the schedule of guidance that it amounts to ([matched](matched.md)), fitted on other prompts
and run as `guidance_schedule` with as many steps as W2SD's budget allows. What W2SD does beyond its control is not
guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .. import plans, presets, prompts
from ..errors import Failed
from ..eval.evaluate import Scores
from ..eval.results import Summary
from ..eval.videos import Video
from ..methods import W2SD
from ..plans.plan import AS_COSTLY, TUNE, Plan
from ..plans.prepare import prepared
from ..runs import Request
from ..sampling import evaluations, load
from ..verdicts import decide
from .figures import COLOURS, colours, figure, legend_below
from .matched import Watched, fit
from .study import Result, Run

PAPER = "Fig. 13, beside every rival"
BUDGETS = (1.0, 1.5, 2.0, 2.5, 3.0)
PROMPTS, TUNING, FITTED = 100, 100, 8
SEED = 700_000  # of what the control is fitted on: others than a plan's
GRID = [1, 1.5, 2, 2.5, 3, 5]
COLUMNS = {"shapes_right": "right", "shapes_objects": "objects right", "shapes_form": "form", "shapes_jerk": "jerk"}
TRIES = (2, 3)
TUNED, TUNED_W2SD = "tuned guidance", "W2SD, tuned"
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"variant": "plain"},
    TUNED: {"variant": "plain"},
    "W2SD": {},
    TUNED_W2SD: {},
    "optimistic": {"method": "optimistic"},
    "auto-guidance": {"method": "auto_guidance"},
    "Z-Sampling": {"method": "z_sampling"},
    "S2WD": {"method": "s2wd"},
    "Re-Sampling": {"method": "re_sampling"},
    "APG": {"method": "apg"},
    "SLG / STG": {"method": "slg"},
    "PAG": {"method": "pag"},
    "S²-guidance": {"method": "s2_guidance"},
    "P&P": {"method": "predict_and_perturb"},
    "FSG": {"method": "foresight"},
}
CONTROL = "W2SD's schedule of guidance"


def run(run: Run) -> Result:
    with TemporaryDirectory() as temporary:
        return _run(run, Path(temporary) if run.cache is None else run.cache.parent / "cost")


def _run(run: Run, folder: Path) -> Result:
    budgets = BUDGETS[:3:2] if run.quick else BUDGETS
    plan = _tuned(run, folder / "tuned")
    best = {name: plan.tuned[name]["settings"] for name in (TUNED, TUNED_W2SD)}
    schedule = _schedule(run, plan)
    plan = replace(plan, tuning={}, tuned={}, axes={"arm": dict(_arms(run, budgets, best, schedule))})
    tries = replace(plan, seeds=f"1-{max(TRIES) - 1}", axes={"arm": {_label("plain", 1.0): METHODS["plain"]}})
    scores = _made(run, plan, folder / "main")
    again = _made(run, tries, folder / "tries")
    scores = _with_best(scores, again)
    costs = {arm.name: evaluations(arm.template)["total"] for arm in plan.arms}
    costs |= {_label(f"best of {n}", n): n * costs[_label("plain", 1.0)] for n in TRIES}
    steps = {arm.name: arm.template.num_inference_steps for arm in plan.arms}
    summaries = {b: _at(scores, b) for b in budgets}
    return _result(summaries, costs, steps, best, len(plan.suite.prompts), run)


def _label(method: str, budget: float) -> str:
    return f"{method} at {budget:g}"


def _steps(run: Run) -> int:
    return 3 if run.quick else presets.load("shapes").num_inference_steps


def _tuned(run: Run, folder: Path) -> Plan:
    """The plan of all arms, with what is best of those that are tuned."""
    count, tried, grid = (2, 1, GRID[1:3]) if run.quick else (PROMPTS, TUNING, GRID)
    tune = {TUNE: {"guidance_scale": grid}}
    plan = Plan(
        prompts="shapes",
        n=count,
        sample_seed=run.seed,
        settings={"device": "cpu", "num_inference_steps": _steps(run)} | ({"num_frames": 8} if run.quick else {}),
        axes={"arm": {name: METHODS[name] | tune for name in (TUNED, TUNED_W2SD)}},
        dimensions=["shapes"],
        tuning={"n": tried, "by": ["shapes_right", "shapes_form"]},
    )
    plan.check()

    def make(of_tuning: Plan, where: Path) -> plans.Progress:
        return plans.run(of_tuning, where, run.workers, 1, progress=_told(run, "tuning"))

    folder.mkdir(parents=True, exist_ok=True)
    return prepared(plan, plans.Folder(folder), make)


def _arms(
    run: Run, budgets: Sequence[float], best: Mapping[str, Mapping[str, Any]], schedule: Sequence[float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The labels of the plan's axis; the first are those that the budgets are of."""
    for b in budgets:
        yield _label("plain", b), METHODS["plain"] | {"num_inference_steps": round(b * _steps(run))}
    for b in budgets:
        costly = {AS_COSTLY: _label("plain", b)}
        for name, said in list(METHODS.items())[: 5 if run.quick else None]:
            if name != "plain":
                yield _label(name, b), {**said, **best.get(name, {}), **costly}
        yield _label(CONTROL, b), {"method": "guidance_schedule", "guidance": list(schedule), **costly}


def _schedule(run: Run, plan: Plan) -> list[float]:
    """The guidance that W2SD amounts to at each step, fitted on prompts that the plan does not have."""
    of = Request.of(plan.suite.prompts[0].text, 0, plan.preset, **plan.settings)
    pipe = load(of)["w2sd"]
    own = {prompt.text for prompt in plan.suite.prompts}
    others = [prompt.text for prompt in prompts.load("shapes").prompts if prompt.text not in own]
    w2sd = W2SD(of.strong_guidance_scale, of.weak_guidance_scale)
    seen: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    for n, text in enumerate(others[: 1 if run.quick else FITTED]):
        watched = Watched(w2sd.strong_guidance, w2sd.weak_guidance, of=w2sd, guidance=of.guidance_scale)
        pipe(
            text,
            method=watched,
            guidance_scale=of.guidance_scale,
            num_inference_steps=of.num_inference_steps,
            num_frames=of.num_frames,
            height=of.height,
            width=of.width,
            generator=torch.Generator().manual_seed(SEED + n),
            output_type="latent",
        )
        seen.append(watched.seen)
        run.progress("fitting the control", (n + 1) / FITTED)
    steps = [
        (torch.cat([c for c, _, _ in each]), torch.cat([u for _, u, _ in each]), torch.cat([p for _, _, p in each]))
        for each in zip(*seen, strict=True)
    ]
    return [of.guidance_scale + kappa for kappa, _ in fit(steps, history=False)[0]]


def _told(run: Run, what: str) -> Callable[[plans.Progress], None]:
    return lambda done: run.progress(what, done.made / max(done.cells, 1))


def _made(run: Run, plan: Plan, folder: Path) -> Scores:
    """The scores of a plan's videos, which are made where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    done = plans.run(plan, folder, run.workers, 1, progress=_told(run, folder.name))
    if done.failed:
        raise Failed(f"{len(done.failed)} of {done.cells} videos could not be made: {done.failed[0]['error']}")
    kept = folder / "scores" / "scores.jsonl"
    kept.parent.mkdir(exist_ok=True)
    return plans.scorer(plan)(plans.videos(plan, folder), plan.dimensions, rows_file=kept)


def _with_best(scores: Scores, again: Scores) -> Scores:
    """The scores, with groups of those that the judge prefers of the first two and three videos of plain sampling."""
    by_prompt: dict[str | None, list[tuple[Video, Scores]]] = {}
    for of in (scores, again):
        for video in of.videos:
            if video.group == _label("plain", 1.0):
                by_prompt.setdefault(video.prompt, []).append((video, of))
    found = replace(scores, videos=list(scores.videos), of=dict(scores.of), facts=dict(scores.facts))
    for n in TRIES:
        for each in by_prompt.values():
            kept, of = max(each[:n], key=lambda pair: _preferred(pair[1].of[pair[0]]))
            video = replace(kept, group=_label(f"best of {n}", n), pair=each[0][0].pair)
            found.videos.append(video)
            found.of[video], found.facts[video] = of.of[kept], of.facts[kept]
    return found


def _preferred(score: Mapping[str, float | None]) -> tuple[float, float]:
    form = score["shapes_form"]
    return score["shapes_right"] or 0.0, -1.0 if form is None or form != form else form


def _at(scores: Scores, budget: float) -> Summary:
    """What is compared at a budget, with tuned guidance."""
    end = _label("", budget)
    base = _label(TUNED, budget)
    videos = [video for video in scores.videos if video.group.endswith(end)]
    return Summary(replace(scores, videos=sorted(videos, key=lambda video: video.group != base)), worst=0)


def _result(
    summaries: Mapping[float, Summary],
    costs: Mapping[str, int],
    steps: Mapping[str, int],
    best: Mapping[str, Mapping[str, Any]],
    count: int,
    run: Run,
) -> Result:
    columns = next(iter(summaries.values())).columns
    shown = [(b, c) for b, summary in summaries.items() for c in summary.comparisons if c.column in COLUMNS]
    decided = decide([c for _, c in shown], columns)
    compared = {(b, c.group, c.column): c for (b, _), c in zip(shown, decided, strict=True)}
    rows: list[dict[str, Any]] = []
    for b, summary in summaries.items():
        for group in sorted(summary.groups, key=list(summary.groups).index):
            for column in COLUMNS:
                mean, c = summary.means[group][column], compared.get((b, group, column))
                row: dict[str, Any] = {"method": group.removesuffix(_label("", b)), "budget": b}
                row |= {"evaluations": costs[group], "steps": steps.get(group, ""), "column": column}
                row |= {"mean": mean.mean, "low": mean.low, "high": mean.high, "n": mean.units}
                if c:
                    d = c.difference
                    row |= {"difference": d.mean, "difference_low": d.low, "difference_high": d.high}
                    row |= {"p_adjusted": c.p_adjusted, "verdict": c.verdict}
                rows.append(row)
    raw = [
        {"group": video.group, "prompt": video.prompt, "pair": video.pair, **summary.scores.of[video]}
        for summary in summaries.values()
        for video in summary.scores.videos
    ]
    means = {c: _table_of(rows, list(summaries), c) for c in COLUMNS}
    tables = {f"{COLUMNS[c].capitalize()}, by budget": table for c, table in means.items()}
    said = {name: ", ".join(f"{value:g}" for value in settings.values()) for name, settings in best.items()}
    outcome = _outcome(rows, count)
    agrees = (
        f"Guidance was tuned on {1 if run.quick else TUNING} other prompts: {said[TUNED]}; for W2SD's final step"
        f" {said[TUNED_W2SD]}. The paper's Fig. 13 compares with plain sampling at the same time alone."
    )
    caption = (
        "Means by network evaluations, as multiples of plain sampling's; bars are 95 % intervals over prompts"
        f" (n = {count} prompts, one seed each)."
    )
    return Result(rows, outcome, agrees, _figure(rows, list(summaries)), caption, tables, raw)


def _table_of(rows: Sequence[Mapping[str, Any]], budgets: Sequence[float], column: str) -> list[list[str]]:
    """A row a method: its mean at each budget, bold where it is better than tuned guidance, in italics where worse."""
    table = [["method", *(f"{b:g} x" for b in budgets)]]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for b in budgets:
            here = [r for r in rows if (r["method"], r["budget"], r["column"]) == (method, b, column)]
            text = f"{here[0]['mean']:.3f}" if here and here[0]["n"] else ""
            mark = {"better": "**", "worse": "*"}.get(here[0].get("verdict", ""), "") if here else ""
            cells.append(f"{mark}{text}{mark}")
        table.append([method, *cells])
    return table


def _outcome(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """Who is better and who is worse than tuned guidance, and what W2SD does."""
    lines = []
    for verdict in ("better", "worse"):
        found: dict[str, list[str]] = {}
        for row in rows:
            if row.get("verdict") == verdict and not row["method"].startswith("best of"):
                found.setdefault(row["method"], []).append(f"{COLUMNS[row['column']]} at {row['budget']:g} x")
        of = "; ".join(f"{method} ({', '.join(where)})" for method, where in found.items()) or "none"
        lines.append(f"{verdict.capitalize()} than tuned guidance at equal cost: {of}.")
    return f"{' '.join(lines)} (n = {count} prompts; p is adjusted for all comparisons.)"


def _figure(rows: Sequence[Mapping[str, Any]], budgets: Sequence[float]) -> Any:
    drawn, axes = figure(2, 2, height=5.4)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    main = {"plain": "#000000", TUNED: COLOURS["strong"], "W2SD": COLOURS["w2sd"]}
    main |= {"optimistic": COLOURS["optimistic"], "auto-guidance": COLOURS["auto_guidance"]}
    rest = dict(zip([m for m in methods if m not in main], colours(len(methods) - len(main)), strict=True))
    plain = {row["budget"]: row["evaluations"] for row in rows if row["method"] == "plain"}[budgets[0]] / budgets[0]
    for ax, (column, label) in zip(axes.flat, COLUMNS.items(), strict=True):
        for method in methods:
            own = [row for row in rows if (row["method"], row["column"]) == (method, column)]
            x, y = [row["evaluations"] / plain for row in own], [row["mean"] for row in own]
            if method in main:
                errors = [[m - row["low"] for m, row in zip(y, own, strict=True)],
                          [row["high"] - m for m, row in zip(y, own, strict=True)]]  # fmt: skip
                ax.errorbar(x, y, errors, marker="o", markersize=3, color=main[method], label=method, capsize=2)
            else:
                ax.plot(x, y, marker=".", markersize=3, linewidth=0.7, color=rest[method], label=method)
        unit = {"shapes_jerk": " (px a frame³)", "shapes_form": " (IoU)"}.get(column, " (share)")
        ax.set(xlabel="network evaluations (multiples of plain sampling's)", ylabel=f"{label}{unit}")
    legend_below(drawn, axes[0, 0], 5)
    return drawn
