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

from ..shapes.bench import OTHERS, PLAIN
from ..shapes.columns import SHAPES
from .cost_table import NOISE as NOISY
from .cost_table import PLAIN as BASE
from .cost_table import TUNED, W2SD, Lines, verdict_of
from .cost_table import W2SD_NOISE as NOISY_W2SD
from .fresh import Fresh, sampled
from .study import Result, Run

PAPER = "Algorithms 2 and 3, Table 14"
PROMPTS, PICKED = 200, 75  # the methods were picked on the first of them
RE, ADVANCED, NOISE, NOISE_49 = "Re-Sampling", "Advanced Re-Sampling", "ancestral noise", "ancestral noise, 49 steps"
EULER = "Euler, without noise"
NOISY_TUNED = "tuned guidance, eta 1"
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
    NOISY: OTHERS["noise"].says,
    NOISY_TUNED: PLAIN | {"guidance_scale": 5.0, "eta": 1.0},
    NOISY_W2SD: OTHERS["w2sd-noise"].says,
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


def run(run: Run) -> Result:
    count, picked = run.prompts or (3 if run.quick else PROMPTS), 2 if run.quick else PICKED
    by, raw = sampled(run, "resampling", [SAMPLED], count, picked, (BASE, TUNED, W2SD, ADVANCED))
    return replace(result(by, picked), raw=raw)


def result(by: Mapping[str, Lines], picked: int = PICKED) -> Result:
    """The study's result.

    Args:
        by: the lines of each method, by number.
        picked: how many of the first prompts the methods were picked on.
    """
    fresh = Fresh(by, picked, PAIRS, COLUMNS, ours=(ADVANCED,))
    outcome = f"On {fresh.count} fresh prompts, of {len(COLUMNS)} columns. {fresh.verdicts(SAMPLED)}"
    return fresh.result(outcome, _agrees(fresh))


def _agrees(fresh: Fresh) -> str:
    text = (
        "In the paper's Table 14, of pictures by SDXL, Advanced Re-Sampling is below W2SD in two of three comparable"
        " scores; the same with noise against the displacement is below W2SD in all three. It has no"
        " Re-Sampling with noise as drawn."
    )
    for base, group in ((BASE, ADVANCED), (W2SD, ADVANCED), (RE, ADVANCED)):
        objects = fresh.of(base, group).get("objects")
        if objects is not None:
            text += f" Here {group} less {base} is {objects.difference.text(3, '+')} of the objects"
            text += f" ({verdict_of(objects)})."
    return text
