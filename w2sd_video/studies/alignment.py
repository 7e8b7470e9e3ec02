"""Digits by training time: does weak to strong point like strong to ideal?

The paper trains a weak, a strong and an ideal model on CIFAR-10 for 100, 300 and 500 epochs, and finds that the
cosine of Δ₁ = strong less weak and Δ₂ = ideal less strong (scores) is positive at every t. The same here, in the
paper's proportions of 1 : 3 : 5, on the digits that scikit-learn ships, in the space of their first 16 principal
components. The networks are one small perceptron at points of its training, in two regimes:

- **early**, after 40, 120 and 200 steps of 128 digits, while further training still improves the predictions;
- **late**, after 200, 600 and 1,000 steps (some 30, 85 and 140 epochs of 900 digits): the strong model is still better
  than the weak one on other digits, but from 600 to 1,000 steps training only fits its own digits more closely.

Each pair is trained on its own random half of the digits. The alignment is measured at the other half, with added
noise.

The regimes were chosen after first looks. At a learning rate of 3e-3, the cosine was over zero at only 3 of 10 times
after 60, 180 and 300 steps and at 4 after 500, 1,500 and 2,500, and W2SD hurt in both. At 3e-4, we looked at the
directions of 6 pairs after 60, 180 and 300 steps and after 100, 300 and 500. Then we fixed these regimes, before any
run of all pairs.

The three models are points on one path of training, which favours agreement. Two controls avoid this: the **ideal of
another pair**, trained on other digits from another start; and the held-out **data**, by denoising: E⟨ε_s - ε_w, ε -
ε_s⟩ is an unbiased estimate of the same product for the true score. Its cosine is not unbiased, so only the strength
is given.

The strength is g⋆ = E⟨Δ₁, Δ₂⟩ / E|Δ₁|²: to first order, a reflection lowers the error of the prediction if g⋆ is over
1/2 (see [theory](theory.md)). The study also measures whether W2SD then generates better digits, by the Fréchet
distance between the Gaussians of 500 generated digits and of the held-out data (FID's formula on the 16 components;
lower is better). DDIM, T = 50, λ = 49.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .digits import Space, frechet, tensor
from .figures import COLOURS, NAMES, bars_and_dots, figure, legend_below
from .networks import Ensemble, members, train
from .points import METHODS, alignment, level_of, sample, scheduler
from .study import Mean, Result, Run

PAPER = "Fig. 19"
DIMENSIONS, WIDTH = 16, 128
PAIRS, POINTS = 10, 500
# Steps of training of the weak, the strong and the ideal network.
REGIMES = {"early": (40, 120, 200), "late": (200, 600, 1000)}
RATE = 3e-4
QUICK = {"early": (4, 12, 20), "late": (10, 30, 50)}
TIMES = range(49, 1000, 100)
KINDS = ("own ideal", "another's ideal", "data")
DRAWS = 4  # draws of noise for each held-out digit


def run(run: Run) -> Result:
    pairs, points, regimes = (2, 40, QUICK) if run.quick else (PAIRS, POINTS, REGIMES)
    space = Space.of(DIMENSIONS)
    rng = np.random.default_rng(run.seed)
    orders = [rng.permutation(len(space.points)) for _ in range(pairs)]
    half = len(space.points) // 2
    held_out = np.stack([space.points[order[half : 2 * half]] for order in orders])

    def make() -> dict[str, Tensor]:
        network = Ensemble(pairs, DIMENSIONS, WIDTH, seed=run.seed)
        data = [tensor(space.points[order[:half]]) for order in orders]
        steps = sorted(n for regime in regimes.values() for n in regime)
        kept = train(
            network,
            data,
            steps=steps[-1],
            seed=run.seed + 1,
            rate=RATE,
            keep=steps,
            progress=lambda share: run.progress("training", share),
        )
        return {f"{n}/{name}": value for n, weights in kept.items() for name, value in weights.items()}

    recipe = {"pairs": pairs, "regimes": regimes, "dimensions": DIMENSIONS, "width": WIDTH, "rate": RATE}
    kept = run.kept("alignment", recipe, make)
    noise = torch.randn((pairs, points, DIMENSIONS), generator=torch.Generator().manual_seed(run.seed + 3))
    rows: list[dict[str, Any]] = []
    for regime, steps in regimes.items():
        weak, strong, ideal = (_network(kept, n, pairs) for n in steps)
        results = _directions(strong, weak, ideal, tensor(held_out), run.seed + 2)
        for n, (name, method) in enumerate({**METHODS, "ideal": None}.items()):
            run.progress(f"sampling, {regime}", n / (len(METHODS) + 1))
            first = ideal if name == "ideal" else strong
            x = sample(first, weak, method, noise, num_inference_steps=run.steps).double().numpy()
            results += [
                {"pair": pair, "method": name, "frechet": frechet(each, held_out[pair])} for pair, each in enumerate(x)
            ]
        rows += [{"regime": regime, **row} for row in results]
    return _result(rows, pairs, points)


def _network(kept: dict[str, Tensor], steps: int, pairs: int) -> Ensemble:
    """The networks of all pairs after `steps` steps of training."""
    network = Ensemble(pairs, DIMENSIONS, WIDTH).requires_grad_(False)
    prefix = f"{steps}/"
    network.load_state_dict({n.removeprefix(prefix): value for n, value in kept.items() if n.startswith(prefix)})
    return network


def _directions(strong: Ensemble, weak: Ensemble, ideal: Ensemble, z: Tensor, seed: int) -> list[dict[str, Any]]:
    """Rows of cosine, strength and size, by time, pair and kind of ideal."""
    pairs = len(z)
    rolled = members(ideal, [(n + 1) % pairs for n in range(pairs)])
    z = z.repeat(1, DRAWS, 1)
    rows: list[dict[str, Any]] = []
    for kind, each in (("own ideal", ideal), ("another's ideal", rolled)):
        results = alignment(strong, weak, each, z, TIMES, seed)
        for t, row in zip(TIMES, results, strict=True):
            values = {name: value.tolist() for name, value in row.items()}
            rows += [{"ideal": kind, "t": t, "pair": n, **{k: v[n] for k, v in values.items()}} for n in range(pairs)]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in TIMES:
            level = level_of(scheduler(), t)
            eps = torch.randn(z.shape, generator=generator)
            x = level.alpha * z + level.sigma * eps
            s, w = (network(x, t)[0] for network in (strong, weak))
            g = ((s - w) * (eps - s)).sum((1, 2)) / (s - w).square().sum((1, 2))
            rows += [{"ideal": "data", "t": t, "pair": n, "g": float(g[n])} for n in range(pairs)]
    return rows


def _result(rows: list[dict[str, Any]], pairs: int, points: int) -> Result:
    def at(regime: str, kind: str, t: int, column: str) -> Mean:
        wanted = (regime, kind, t)
        return Mean.of([r[column] for r in rows if (r["regime"], r.get("ideal"), r.get("t")) == wanted])

    def distances(regime: str, method: str) -> np.ndarray:
        return np.array([r["frechet"] for r in rows if (r["regime"], r.get("method")) == (regime, method)])

    tables: dict[str, list[list[str]]] = {}
    digits = [["regime", "method", "Fréchet distance", "less strong's"]]
    said, change = [], {}
    positive: dict[str, int] = {}  # by regime, at how many times the cosine with another pair's ideal is over 0
    for regime in REGIMES:
        head = ["t", "cosine, own ideal", "cosine, another's", "g⋆, own", "g⋆, another's", "g⋆, data", "size of Δ₁"]
        lines = [head]
        for t in TIMES:
            cells = [at(regime, kind, t, "cosine").text(2) for kind in KINDS[:2]]
            cells += [at(regime, kind, t, "g").text(2) for kind in KINDS]
            lines.append([str(t), *cells, at(regime, "own ideal", t, "size").text()])
        tables[f"Direction and strength, {regime}"] = lines
        for method in (*METHODS, "ideal"):
            mean = change[regime, method] = Mean.of(distances(regime, method) - distances(regime, "strong"))
            cells = [NAMES[method], str(Mean.of(distances(regime, method))), mean.text(sign="+")]
            digits.append([regime, *cells])
        own, positive[regime] = (sum(at(regime, kind, t, "cosine").sign == 1 for t in TIMES) for kind in KINDS[:2])
        strengths = [at(regime, "data", t, "g") for t in TIMES]
        enough = sum(g.mean - g.half > 0.5 for g in strengths)
        said.append(
            f"{regime.capitalize()}, the cosine of Δ₁ and Δ₂ is over zero with its 95 % interval at {own} of"
            f" {len(TIMES)} times with the pair's own ideal and at {positive[regime]} with another's; by the data held"
            f" out g⋆ is over 1/2 at {enough} and below zero at {sum(g.sign == -1 for g in strengths)}; W2SD changes"
            f" the strong model's Fréchet distance by {change[regime, 'w2sd'].text(sign='+')}, S2WD by"
            f" {change[regime, 's2wd'].text(sign='+')}."
        )
    early = [at("early", "own ideal", t, "cosine").sign == 1 for t in TIMES]
    late = [at("late", "own ideal", t, "cosine").sign == 1 for t in TIMES]
    verdicts = {1: "hurts", -1: "helps", 0: "is not decided"}
    agrees = (
        f"{'Agrees' if all(early) else 'Does not agree'} with the paper early (the cosine with the pair's own ideal is"
        f" positive at {'every' if all(early) else 'not every'} t; W2SD {verdicts[change['early', 'w2sd'].sign]}, S2WD"
        f" {verdicts[change['early', 's2wd'].sign]}), but for the control: with an ideal of other digits the cosine is"
        f" over zero at {positive['early']} of {len(TIMES)} times. Late the cosine with the own ideal is positive at"
        f" {sum(late)} of them, with another at {positive['late']}, W2SD {verdicts[change['late', 'w2sd'].sign]} and"
        f" S2WD {verdicts[change['late', 's2wd'].sign]}: a positive cosine alone does not make a pair. There longer"
        " training is no ideal: the late ideal model changes"
        " the strong one's Fréchet distance by"
        f" {change['late', 'ideal'].text(sign='+')}, the early one by {change['early', 'ideal'].text(sign='+')}. So"
        " that a model was trained longer than another does not make a pair: whether it comes nearer to data that"
        " neither has seen has to be measured."
    )
    return Result(
        rows,
        " ".join(said) + f" n = {pairs} independently trained pairs.",
        agrees,
        _figure(at, distances),
        f"Means with 95 % intervals over n = {pairs} independently trained pairs; above early in training, below late."
        " Left: cosine. Second: strength; a reflection helps to first order above the dashed line. Third: size of Δ₁."
        f" Right: Fréchet distance of {points} digits to those held out; dots are pairs.",
        {**tables, "Digits": digits},
    )


def _figure(at: Any, distances: Any) -> Any:
    drawn, axes = figure(2, 4, height=4.6, width=7.6)
    t = [time / 1000 for time in TIMES]
    colours = dict(zip(KINDS, ("#0072B2", "#E69F00", "#000000"), strict=True))
    methods = (*METHODS, "ideal")
    for line, regime in zip(axes, REGIMES, strict=True):
        for kind in KINDS:
            for column, ax in (("cosine", line[0]), ("g", line[1])):
                if column == "cosine" and kind == "data":
                    continue
                means = [at(regime, kind, time, column) for time in TIMES]
                ends = [m.mean for m in means], [m.half for m in means]
                label = "data held out" if kind == "data" else kind
                ax.errorbar(t, *ends, fmt="o-", color=colours[kind], label=label, markersize=3)
        sizes = [at(regime, "own ideal", time, "size") for time in TIMES]
        line[2].errorbar(t, [m.mean for m in sizes], [m.half for m in sizes], fmt="o-", color="#009E73", markersize=3)
        line[2].set_yscale("log")
        for ax, label in zip(line, ("cosine(Δ₁, Δ₂)", "strength g⋆", "|Δ₁| / |score of strong|"), strict=False):
            ax.set(xlim=(1, 0), xlabel="t / T", ylabel=label)
            ax.axhline(0, color="black", linewidth=0.6)
        line[0].set(title=regime, ylim=(-0.6, 1))
        line[1].axhline(0.5, color=COLOURS["w2sd"], linestyle="--", linewidth=0.8)
        dots = [distances(regime, method) for method in methods]
        bars = [float(each.mean()) for each in dots]
        bars_and_dots(line[3], range(len(methods)), bars, dots, [COLOURS[method] for method in methods])
        line[3].set_xticks(range(len(methods)), ["weak", "strong", "W2SD", "S2WD", "auto-g.", "ideal"], rotation=60)
        line[3].set_ylabel("Fréchet distance")
    legend_below(drawn, axes[0, 1])
    return drawn
