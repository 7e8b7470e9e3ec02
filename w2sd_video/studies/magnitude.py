"""The gap between the arms, and its sign.

The paper varies how far the weak arm is from the strong one: W2SD helps where the gap is over 0, is plain sampling at
0, and hurts below. The same here in closed form, in the plane, with four modes of standard deviation 1 at (±4, ±4).

**Guidance** (Fig. 11, right; Fig. 12). Each mode is a class. The conditional model has confused captions: it puts 0.4
of its mass on the class's own mode and 0.2 on each other. The final step and the strong arm have guidance 5.5, as in
the paper; the weak arm's goes from -10 to 15. A sample is *right* where its nearest mode is that of its class.

**Weights** (Fig. 11, left). The base model has seen the mode at the bottom left a ninth as often as the others, and
the tuned model half as often. A network at scale s predicts ε_base + s (ε_tuned - ε_base), as a LoRA at scale s does
if the prediction is linear in the weights, which for a real LoRA holds only near the scale that it was trained at.
The strong arm has 0.8; the weak one goes from -3.5 to 3.5. To first order W2SD samples at the scale 1.6 less the weak
arm's. Sampling at some scale near 1.5 is ideal, so the gap can be too large as well as too small.

**Both** (Table 6). The strong arm is a tuned conditional model (half of its mass on the own mode) at guidance 2; the
weak arm is the same model at guidance 1 (*condition*), the conditional model from above at guidance 2 (*weights*), or
that at guidance 1 (*both*).

Each unit is an independent draw of 512 starting points, the same for all rows. DDIM, T = 50, λ = 49.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..methods import W2SD, Method
from .figures import COLOURS, figure
from .gauss2d import IDEAL, MEANS
from .gauss2d import mixture as missing
from .points import Exact, Mixture, sample, scheduler, wasserstein
from .study import Mean, Result, Run

PAPER = "Fig. 11 and 12, Table 6"
UNITS, POINTS = 20, 512
GUIDANCE, WEAK_GUIDANCES = 5.5, (-10.0, -5.0, 0.0, 1.0, 3.0, 4.5, 5.5, 6.5, 8.0, 10.0, 15.0)
SCALE, WEAK_SCALES = 0.8, (-3.5, -2.5, -1.5, -1.0, -0.5, 0.0, 0.4, 0.8, 1.2, 1.6, 2.5, 3.5)
BOTH = {"neither": None, "condition": ("tuned", 1.0), "weights": ("base", 2.0), "both": ("base", 1.0)}


def classes(own: float) -> list[Mixture]:
    """The mixtures without a condition and for each class, which has the share `own` of its mass on its own mode."""
    other = (1 - own) / 3
    conditional = [[own if mode == label else other for mode in range(4)] for label in range(4)]
    return [Mixture(weights, MEANS, [1.0] * 4) for weights in ([0.25] * 4, *conditional)]


class Scaled(nn.Module):
    """Predicts base + scale (tuned - base) from two networks' predictions."""

    def __init__(self, base: nn.Module, tuned: nn.Module, scale: float):
        super().__init__()
        self.base, self.tuned, self.scale = base, tuned, scale

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        base, tuned = (each(sample, timestep, class_labels)[0] for each in (self.base, self.tuned))
        return (base + self.scale * (tuned - base),)


def run(run: Run) -> Result:
    units, points = (3, 32) if run.quick else (UNITS, POINTS)
    generator = torch.Generator().manual_seed(run.seed)
    noise = torch.randn((units * points, 2), generator=generator, dtype=torch.float64)
    labels = torch.arange(units * points) % 4 + 1
    steps: Any = {"num_inference_steps": run.steps}
    rows: list[dict[str, Any]] = []
    plain: dict[str, np.ndarray] = {}

    def add(part: str, setting: str, gap: float | None, score: np.ndarray) -> None:
        """Adds a row. `score` is by point (units * points,) or by unit (units,)."""
        run.progress(part, len(rows) / (units * 32))
        score = score.reshape(units, -1).mean(1)
        plain.setdefault(part, score)  # the first row of a part is plain sampling
        for unit, value in enumerate(score):
            row = {"part": part, "weak": setting, "gap": gap, "unit": unit, "score": float(value)}
            rows.append(row | {"less_strong": float(value - plain[part][unit])})

    def right(x: Tensor) -> np.ndarray:
        nearest = torch.cdist(x, torch.tensor(MEANS).to(x)).argmin(1) + 1
        return (nearest == labels).double().numpy()

    def w1(x: Tensor) -> np.ndarray:
        return np.asarray(wasserstein(x.unflatten(0, (units, points)).numpy(), IDEAL))

    confused = Exact(classes(0.4), scheduler())
    for weak in (None, *WEAK_GUIDANCES):
        method = None if weak is None else W2SD(strong_guidance=GUIDANCE, weak_guidance=weak)
        x = sample(confused, None, method, noise, class_labels=labels, guidance_scale=GUIDANCE, **steps)
        add("guidance", "plain" if weak is None else f"{weak:g}", 0 if weak is None else GUIDANCE - weak, right(x))
    base, tuned = (Exact(missing(r), scheduler()) for r in (1 / 9, 1 / 2))
    for scale in (None, *WEAK_SCALES):
        arms = Scaled(base, tuned, SCALE), Scaled(base, tuned, SCALE if scale is None else scale)
        x = sample(*arms, None if scale is None else W2SD(), noise, **steps)
        add("weights", "plain" if scale is None else f"{scale:g}", 0 if scale is None else SCALE - scale, w1(x))
    networks = {"tuned": Exact(classes(0.5), scheduler()), "base": confused}
    for name, arm in BOTH.items():
        network, guidance = arm or ("tuned", 2.0)
        chosen: Method | None = W2SD(strong_guidance=2.0, weak_guidance=guidance) if arm else None
        x = sample(
            networks["tuned"], networks[network], chosen, noise, class_labels=labels, guidance_scale=2.0, **steps
        )
        add("both", name, None, right(x))
    return _result(rows, units)


def _result(rows: list[dict[str, Any]], units: int) -> Result:
    def change(part: str, setting: str, column: str = "less_strong") -> Mean:
        return Mean.of([row[column] for row in rows if (row["part"], row["weak"]) == (part, setting)])

    def table(part: str, head: str, score: str) -> list[list[str]]:
        gaps = {row["weak"]: row["gap"] for row in rows if row["part"] == part}
        with_gap = part != "both"  # where the arms differ in one number
        lines = [[head, *["gap"] * with_gap, score, "less plain sampling's"]]
        for setting, gap in gaps.items():
            mean = change(part, setting).text(sign="+") if setting != "plain" else ""
            lines.append([setting, *([f"{gap:g}"] if with_gap else []), str(change(part, setting, "score")), mean])
        return lines

    better, equal, worse = (change("guidance", f"{w:g}") for w in (1.0, GUIDANCE, 10.0))
    small, none, negative, large = (change("weights", f"{s:g}") for s in (0.0, SCALE, 1.6, -3.5))
    both = {name: change("both", name) for name in BOTH}
    outcome = (
        f"Guidance: the share of right samples changes by {better.text(sign='+')} at a gap of 4.5, by"
        f" {equal.text(sign='+')} at 0 and by {worse.text(sign='+')} at -4.5. Weights: W1 changes by"
        f" {small.text(sign='+')} at a gap of 0.8 (less is better), by {none.text(sign='+')} at 0, by"
        f" {negative.text(sign='+')} at -0.8, and by {large.text(sign='+')} at 4.3. Together:"
        f" {both['condition'].text(sign='+')} by condition, {both['weights'].text(sign='+')} by weights,"
        f" {both['both'].text(sign='+')} by both (95 % intervals, n = {units} draws)."
    )
    signs = better.sign == 1 and worse.sign == -1 and small.sign == -1 and negative.sign == 1
    score = {name: np.array([r["score"] for r in rows if (r["part"], r["weak"]) == ("both", name)]) for name in BOTH}
    more = [Mean.of(score["both"] - score[one]) for one in ("condition", "weights")]
    lacks = Mean.of(score["condition"] + score["weights"] - score["neither"] - score["both"])
    most = all(each.sign == 1 for each in more)
    agrees = (
        f"{'Agrees' if signs else 'Does not agree'} with the paper in the sign: a gap over 0 helps and one below 0"
        f" hurts{', with intervals that exclude zero' if signs else ''}; and both together"
        f" {'gain more than each of them, as in Table 6' if most else 'are not shown to gain more than each of them'}"
        f" (by {more[0].text(sign='+')} and {more[1].text(sign='+')}; they lack {lacks.text()} of the sum). Two"
        " differences: at gap 0 sampling is not plain and in weights it hurts, since the inverse evaluates the weak arm"
        " at x_s (see [theory](theory.md)); and in weights a gap that is too large hurts as much as a negative one,"
        " since W2SD goes past the ideal."
    )
    return Result(
        rows,
        outcome,
        agrees,
        _figure(change),
        f"Means with 95 % intervals over n = {units} draws of starting points, against the gap, strong less weak."
        " Dotted: plain sampling by the strong model.",
        {
            "Guidance": table("guidance", "weak arm's guidance", "right"),
            "Weights": table("weights", "weak arm's scale", "sliced W1"),
            "Both": table("both", "difference", "right"),
        },
    )


def _figure(change: Any) -> Any:
    drawn, axes = figure(1, 3, height=2.6)
    sweeps: list[tuple[str, float, tuple[float, ...], str]] = [
        ("guidance", GUIDANCE, WEAK_GUIDANCES, "right (share of samples)"),
        ("weights", SCALE, WEAK_SCALES, "sliced W1 (units of x)"),
    ]
    for ax, (part, strong, weak, label) in zip(axes[0], sweeps, strict=False):
        means = [change(part, f"{value:g}", "score") for value in weak]
        gaps = [strong - value for value in weak]
        ax.errorbar(
            gaps,
            [m.mean for m in means],
            [m.half for m in means],
            fmt="o-",
            color=COLOURS["w2sd"],
            markersize=3,
            label="W2SD",
        )
        plain = change(part, "plain", "score").mean
        ax.axhline(plain, color=COLOURS["strong"], linestyle=":", label="strong")
        ax.axvline(0, color="black", linewidth=0.5)
        ax.set(title=part, xlabel=f"gap (units of {'guidance' if part == 'guidance' else 'scale'})", ylabel=label)
        ax.legend()
    for n, name in enumerate(BOTH):
        mean = change("both", name, "score")
        axes[0, 2].errorbar([n], [mean.mean], [mean.half], fmt="o", color=COLOURS["w2sd" if n else "strong"])
    axes[0, 2].set_xticks(range(len(BOTH)), list(BOTH), rotation=30)
    axes[0, 2].set(title="condition and weights", ylabel="right (share of samples)", xlim=(-0.5, 3.5))
    return drawn
