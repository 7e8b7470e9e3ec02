"""What Re-Sampling gains, and whether it is of its noise or of the weak model's direction.

Of the 19 rows that [cost](cost.md) had on the first 75 prompts, Advanced Re-Sampling (Algorithm 3) has the highest mean
of `right`. A row that is picked as the best of many looks better than it is. So it is sampled on the next 125 prompts,
and compared on them alone, in `right`, `objects`, `form` and `jerk`.

Both Re-Samplings take a step with the strong model, go back to the step's noise level by fresh noise, and step from
there. Re-Sampling (Algorithm 2) takes the noise as it is drawn, and has no weak model. Advanced Re-Sampling turns noise
round that points away from W2SD's displacement, for which it evaluates the weak model. So only what Advanced
Re-Sampling gains beyond Re-Sampling can be of the direction.

Fresh noise at every step is no invention of Re-Sampling: an ancestral sampler adds it, and so does DDIM at eta 1, by
the same formula, without an evaluation more. Euler's ancestral sampler also has other timesteps than this preset's DDIM
and ends at no noise, so Euler without noise is a control. At eta 1 all but the noise stays as it was. Is there anything
that W2SD or guidance gain beside that noise? For this they are sampled at eta 1 too.

The first thirteen comparisons of the table were fixed one group after another, each before its videos were looked at;
the last five were added when all others were known. All are adjusted together, each column of each comparison.

All are of the shipped model of shapes with its preset's 25 steps at guidance 1.5. Tuned guidance is 5, which had most
right on 200 other prompts without noise; nothing else is tuned. The videos of plain sampling, tuned guidance and W2SD
are those of [results](../results.md), where plain sampling with as many evaluations is too; some of them were looked at
while they were made. Every method starts from the same noise for a prompt. Prompts are the units. `form` and `jerk`
(px/frame³) are compared where both videos show all objects; no verdict is in favour of a method that shows them in
fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import Refused
from ..shapes import rows, tuning
from ..shapes.bench import OTHERS, PLAIN, Row
from ..shapes.columns import SHAPES
from ..shapes.grammar import prompts
from ..shapes.table import compare_all, values_of
from ..verdicts import Comparison, mean
from .cost_table import cell_of, evaluations_of
from .figures import COLOURS, figure
from .study import Result, Run
from .videos import Videos, kept_rows

PAPER = "Algorithms 2 and 3, Table 14"
PAIR = "shapes"
PROMPTS, PICKED = 200, 75  # the methods were picked on the first of them
BASE, TUNED, W2SD = "plain", "tuned guidance", "W2SD"
RE, ADVANCED, NOISE, NOISE_49 = "Re-Sampling", "Advanced Re-Sampling", "ancestral noise", "ancestral noise, 49 steps"
EULER = "Euler, without noise"
NOISY, NOISY_TUNED, NOISY_W2SD = "plain, eta 1", "tuned guidance, eta 1", "W2SD, eta 1"
ANCESTRAL = PLAIN | {"scheduler": "EulerAncestralDiscreteScheduler"}
SAMPLED = {
    BASE: PLAIN,
    "plain, 61 steps": PLAIN | {"num_inference_steps": 61},
    TUNED: PLAIN | {"guidance_scale": 5.0},
    W2SD: {},
    RE: OTHERS["re-sampling"].says,
    ADVANCED: OTHERS["advanced-re-sampling"].says,
    EULER: PLAIN | {"scheduler": "EulerDiscreteScheduler"},
    NOISE: ANCESTRAL,
    NOISE_49: ANCESTRAL | {"num_inference_steps": 49},
    NOISY: PLAIN | {"eta": 1.0},
    NOISY_TUNED: PLAIN | {"guidance_scale": 5.0, "eta": 1.0},
    NOISY_W2SD: {"eta": 1.0},
}
PAIRS = [
    *[(base, ADVANCED) for base in (BASE, TUNED, W2SD)],
    *[(base, RE) for base in (BASE, TUNED, W2SD)],
    (RE, ADVANCED),
    *[(BASE, NOISE), (BASE, NOISE_49), (NOISE_49, RE)],
    *[(NOISY, NOISY_W2SD), (NOISY_TUNED, NOISY_W2SD), (NOISY, NOISY_TUNED)],
    *[(BASE, NOISY), (W2SD, NOISY), (TUNED, NOISY), (BASE, EULER), (EULER, NOISE)],  # added when the others were known
]
COLUMNS = tuple(column for column in SHAPES if column.name in ("right", "objects", "form", "jerk"))
STEPS = "num_inference_steps"
QUICK, MORE = {STEPS: 3, "num_frames": 4}, {STEPS: 4}  # the latter for rows of more steps
Lines = dict[int, dict[str, Any]]


def run(run: Run) -> Result:
    if run.seed:
        raise Refused("seed", run.seed, "sample n has seed n in every run, so that runs can be combined: give 0")
    count, picked = run.prompts or (3 if run.quick else PROMPTS), 2 if run.quick else PICKED
    if not picked < count <= tuning.FIRST:
        accepted = f"give {picked + 1} to {tuning.FIRST}: the first {picked} are those on which the methods were picked"
        raise Refused("--prompts", count, accepted)
    with kept_rows(run, "resampling") as path:
        videos = Videos(run, path, PAIR, QUICK if run.quick else {})
        wanted = {
            name: Row(name, {**says, **(MORE if run.quick and STEPS in says else {})}) for name, says in SAMPLED.items()
        }
        lines = videos.lines({videos.name_of(row): row for row in wanted.values()}, prompts(tuning.FIRST), count)
        raw = b"" if run.quick else rows.packed(path, PAIR)
    every = {name: lines[videos.name_of(row)] for name, row in wanted.items()}
    by = {name: own for name, own in every.items() if len(own) == count}
    if lacking := [name for name in (BASE, TUNED, W2SD, ADVANCED) if name not in by]:
        accepted = (
            f"{lacking[0]} has {len(every[lacking[0]])} of {count} prompts yet: give 1 or more, which samples them"
        )
        raise Refused("--workers", run.workers, accepted)
    return replace(result(by, picked), raw=raw)


def result(by: Mapping[str, Lines], picked: int = PICKED) -> Result:
    """The study's result.

    Args:
        by: the lines of each method, by number.
        picked: how many of the first prompts the methods were picked on.
    """
    fresh = {name: {n: line for n, line in own.items() if n >= picked} for name, own in by.items()}
    first = {name: {n: line for n, line in own.items() if n < picked} for name, own in by.items()}
    count = len(fresh[BASE])
    decided = compare_all(fresh, PAIRS, COLUMNS)
    before = {(c.base, c.group, c.column): c for c in compare_all(first, PAIRS, COLUMNS)}
    table, text = [], [["", *(column.label for column in COLUMNS)]]
    for base, group in _pairs(by):
        own = {c.column: c for c in decided if (c.base, c.group) == (base, group)}
        text.append([f"{group} less {base}", *(cell_of(own[c.name], count) if c.name in own else "" for c in COLUMNS)])
        for c in own.values():
            earlier = before.get((base, group, c.column))
            row = {"method": group, "base": base, "column": c.column, "prompts": count, "pairs": c.difference.units}
            row |= {"difference": c.difference.mean, "low": c.difference.low, "high": c.difference.high}
            row |= {"p": c.p, "p_adjusted": c.p_adjusted, "verdict": c.verdict, "reason": c.reason}
            row["difference_where_picked"] = earlier.difference.mean if earlier else ""
            table.append(row)
    means = [["", "evaluations", *(column.label for column in COLUMNS)]]
    for name, each in fresh.items():
        cells = [mean(column, values_of(each, column)).text(3) for column in COLUMNS]
        means.append([name, str(evaluations_of(each)), *cells])
    caption = (
        f"Differences on the {count} prompts on which nothing was picked (95 % intervals, not adjusted; right of 0 is"
        f" better for right, objects and form, left for jerk). Hollow: on the {picked} prompts before."
    )
    return Result(
        table,
        _outcome(decided, count, by),
        _agrees(decided),
        _figure(decided, before, _pairs(by)),
        caption,
        {f"Differences, {count} prompts": text, f"Means, {count} prompts": means},
    )


def _pairs(by: Mapping[str, Lines]) -> list[tuple[str, str]]:
    """The pairs that are compared, of methods for which there are rows."""
    return [pair for pair in PAIRS if set(pair) <= by.keys()]


def _outcome(decided: list[Comparison], count: int, by: Mapping[str, Lines]) -> str:
    parts, undecided = [], []
    for base, group in _pairs(by):
        own = [c for c in decided if (c.base, c.group) == (base, group)]
        said = [
            f"{verdict} in {', '.join(c.column for c in own if c.verdict == verdict)}"
            for verdict in ("worse", "better")
            if any(c.verdict == verdict for c in own)
        ]
        if said:
            parts.append(f"{group} against {base}: {'; '.join(said)}")
        else:
            undecided.append(f"{group} against {base}")
    if undecided:
        parts.append(f"There is no verdict on: {'; '.join(undecided)}")
    if absent := [name for name in SAMPLED if name not in by]:
        parts.append(f"Not sampled yet on all of them: {', '.join(absent)}")
    return f"On {count} fresh prompts, of {len(COLUMNS)} columns. {'. '.join(parts)}."


def _agrees(decided: list[Comparison]) -> str:
    text = (
        "In the paper's Table 14, of pictures by SDXL, Advanced Re-Sampling is below W2SD in two of three comparable"
        " scores; the same with noise against the displacement is below W2SD in all three. It has no"
        " Re-Sampling with noise as drawn."
    )
    for base, group in ((BASE, ADVANCED), (W2SD, ADVANCED), (RE, ADVANCED)):
        objects = next((c for c in decided if (c.base, c.group, c.column) == (base, group, "objects")), None)
        if objects is not None:
            verdict = objects.verdict or "not decided"
            text += f" Here {group} less {base} is {objects.difference.text(3, '+')} of the objects ({verdict})."
    return text


def _figure(
    decided: list[Comparison], before: Mapping[tuple[str, str, str], Comparison], pairs: list[tuple[str, str]]
) -> Any:
    drawn, axes = figure(columns=len(COLUMNS), height=1 + 0.2 * len(pairs), sharey=True)
    for ax, column in zip(axes[0], COLUMNS, strict=True):
        for place, (base, group) in enumerate(pairs):
            colour = COLOURS["w2sd" if group == ADVANCED else "other"]
            if c := before.get((base, group, column.name)):
                ax.plot(c.difference.mean, place, "o", color=colour, markersize=4, markerfacecolor="white")
            if c := next((c for c in decided if (c.base, c.group, c.column) == (base, group, column.name)), None):
                ends = [[c.difference.mean - c.difference.low], [c.difference.high - c.difference.mean]]
                ax.errorbar(c.difference.mean, place, xerr=ends, fmt="o", color=colour, markersize=4, capsize=2)
        ax.axvline(0, color="0.6", linewidth=0.8)
        unit = "px/frame³" if column.name == "jerk" else "IoU" if column.name == "form" else "share"
        ax.set(xlabel=f"{column.name} ({unit})")
    axes[0][0].set_yticks(range(len(pairs)), [f"{group} less {base}" for base, group in pairs])
    axes[0][0].invert_yaxis()
    return drawn
