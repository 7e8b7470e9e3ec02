"""What the first 200 prompts show, on 300 fresh ones.

[Results](../results.md) compares 27 methods and settings with the strong model on 200 prompts. With so many comparisons
adjusting them leaves little decided, and settings and methods were chosen while these videos were looked at. So a few
claims are tested on 300 further prompts alone, of which no video of this pair had been sampled when this page's
comparisons, columns and margins were fixed. The rows are sampled in an order of importance: the page says which are not
there yet, and a page of fewer prompts is a look in between.

- **Better**: one method less another, as in the table's first column, in `right` (the primary column) and in `objects`,
  `colour`, `form` and `jerk`. Two-sided paired tests, prompts as units. p is adjusted by Holm's method over all pairs,
  those without rows among them: of `right` by itself, of the other four columns together.
- **As good**: optimistic reflection less W2SD. It holds in a column if a loss is shown to be smaller than a margin
  (one-sided p of at most 0.05, not adjusted, since a claim of all of them needs each). Margins are a tenth of what the
  strong and the weak model differ by on the first 200 prompts. Left out are `background`, `colour` and `exchanged`,
  whose margins are so small that 300 prompts without any difference would not show it, and `clipped`, which is 0 in all
  of their first 200 videos. There jerk is worse by more than its margin, so all of them together are not expected to
  hold.

Tuned guidance is 5, at W2SD's cost 4, and the final guidance of tuned W2SD is 4: each had most right on 200 other
prompts, with ties broken by `form`. Everything else has the preset's 25 steps at guidance 1.5 and its methods'
defaults. Every method starts from the same noise for a prompt. Measures of objects, such as `form` and `jerk`
(px/frame³), are compared where both videos show all objects; no verdict or claim is in favour of a method that shows
them in fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..claims import Claim, not_worse, nothing_worse
from ..shapes.bench import METHODS, OTHERS, PLAIN
from ..shapes.columns import SHAPES
from ..shapes.table import values_of
from ..verdicts import small
from .cost_table import AUTO, NOISE, OPTIMISTIC, TUNED, W2SD, W2SD_NOISE, Lines, verdict_of
from .cost_table import PLAIN as BASE
from .fresh import Fresh, sampled
from .study import Result, Run

PAPER = "its claim that W2SD is better than the strong model, and than plain sampling of equal cost"
PROMPTS, CHOSEN = 500, 200  # settings were chosen, and methods looked at, on the first of them
MORE, TUNED_MORE = "plain, 61 steps", "tuned guidance, 61 steps"
W2SD_TUNED, PERTURBED, S2 = "W2SD, tuned", METHODS["predict_and_perturb"], METHODS["s2_guidance"]
STAGES = (
    {BASE: PLAIN, W2SD: {}, OPTIMISTIC: OTHERS["optimistic"].says, NOISE: OTHERS["noise"].says},
    {
        MORE: PLAIN | {"num_inference_steps": 61},
        TUNED: PLAIN | {"guidance_scale": 5.0},
        W2SD_NOISE: OTHERS["w2sd-noise"].says,
    },
    {W2SD_TUNED: {"guidance_scale": 4.0}, TUNED_MORE: PLAIN | {"num_inference_steps": 61, "guidance_scale": 4.0}},
    {
        name: OTHERS[row].says
        for name, row in ((AUTO, "auto-guidance"), (PERTURBED, "predict-and-perturb"), (S2, "s2-guidance"))
    },
)
PAIRS = [
    *[(base, W2SD) for base in (BASE, MORE, TUNED, NOISE)],
    *[(base, OPTIMISTIC) for base in (BASE, TUNED, AUTO, PERTURBED, S2)],
    *[(BASE, NOISE), (NOISE, W2SD_NOISE)],
    *[(BASE, W2SD_TUNED), (TUNED_MORE, W2SD_TUNED)],
]
COLUMNS = tuple(
    replace(column, primary=column.name == "right")
    for column in SHAPES
    if column.name in ("right", "objects", "colour", "form", "jerk")
)
# A tenth of what the strong and the weak model differ by on the first 200 prompts, in the unit of the column; of the
# columns with a better side in which 300 prompts can show that a loss is smaller.
MARGINS = {
    "right": 0.015,
    "objects": 0.023,
    "count": 0.012,
    "shape": 0.028,
    "size": 0.018,
    "direction": 0.021,
    "speed": 0.021,
    "relation": 0.041,
    "form": 0.0027,
    "edge_error": 0.024,
    "area_instability": 0.0054,
    "colour_instability": 0.00027,
    "background_instability": 0.00047,
    "jerk": 0.083,
}


def run(run: Run) -> Result:
    count, chosen = run.prompts or (3 if run.quick else PROMPTS), 2 if run.quick else CHOSEN
    by, raw = sampled(run, "confirm", STAGES, count, chosen, (BASE, W2SD, OPTIMISTIC))
    return replace(result(by, chosen), raw=raw)


def result(by: Mapping[str, Lines], chosen: int = CHOSEN) -> Result:
    """The study's result.

    Args:
        by: the lines of each method, by number.
        chosen: how many of the first prompts settings were chosen on.
    """
    fresh = Fresh(by, chosen, PAIRS, COLUMNS, ours=(W2SD, OPTIMISTIC, W2SD_NOISE, W2SD_TUNED))
    claims = as_good(fresh)
    planned = [name for stage in STAGES for name in stage]
    outcome = f"On {fresh.count} of {PROMPTS - CHOSEN} fresh prompts. {fresh.verdicts(planned)}"
    found = fresh.result(outcome, _agrees(fresh))
    margins = [["", "margin", "p", "shown"]]
    margins += [[name, f"{MARGINS[name]:g}", small(c.p), _shown(c)] for name, c in claims.items()]
    every = nothing_worse(claims.values())
    margins.append(["all of them", "", small(every.p), _shown(every)])
    heading = f"{OPTIMISTIC} as good as {W2SD}, {fresh.count} prompts"
    return replace(found, tables={**found.tables, heading: margins})


def as_good(fresh: Fresh) -> dict[str, Claim]:
    """By column, the claim that optimistic reflection is worse than W2SD by less than the column's margin."""
    ours, base = (fresh.own[name] for name in (OPTIMISTIC, W2SD))
    columns = [column for column in SHAPES if column.name in MARGINS]
    return {c.name: not_worse(c, values_of(ours, c), values_of(base, c), MARGINS[c.name]) for c in columns}


def _shown(claim: Claim) -> str:
    return {True: "yes", False: "no", None: "too few prompts"}[claim.holds]


def _agrees(fresh: Fresh) -> str:
    text = "The paper has W2SD better than its strong model in nearly every score, and than more steps of equal cost."
    for base in (BASE, MORE):
        if right := fresh.of(base, W2SD).get("right"):
            text += f" Here {W2SD} less {base} is {right.difference.text(3, '+')} of the videos right"
            text += f" ({verdict_of(right)})."
    return text
