"""A mode that is almost missing in the plane.

The data are four Gaussians of standard deviation 1 at (±4, ±4), as many points in each. The strong model has seen the
one at the bottom left a third as often as each of the others, and the weak one a ninth as often. The pair is aligned:
with r_s² / r_w = 1, W2SD aims at equal weights (see [gauss1d](gauss1d.md) for pairs that are not aligned).

As in gauss1d, **exact** networks are the closed form of E[eps | x], and **trained** ones are small perceptrons, each
with points of its own; the pairs are the units of the intervals. DDIM, T = 50, λ = 49, from 1,024 points that fill
the normal distribution evenly. The divergence is the sliced Wasserstein distance: the mean of W1 over 32 projections,
each against the exact quantiles of the ideal mixture.

The alignment is that of the scores at noised points of the ideal mixture: Δ₁ = strong less weak, Δ₂ = ideal less
strong. A reflection helps to first order where g⋆ = E⟨Δ₁, Δ₂⟩ / E|Δ₁|² is over 1/2; the cosine does not have this in
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .figures import COLOURS, NAMES, bars_and_dots, figure
from .networks import Ensemble, members, train
from .points import METHODS, Exact, Mixture, alignment, normal_points, sample, scheduler, wasserstein
from .study import Mean, Result, Run

PAPER = "Fig. 5 and 20"
MEANS = [[-4.0, -4.0], [4.0, -4.0], [-4.0, 4.0], [4.0, 4.0]]
PAIRS, POINTS, DATA, STEPS = 12, 1024, 3000, 3000
PATHS = 60  # paths in the figure
TIMES = range(49, 1000, 50)


def mixture(r: float) -> Mixture:
    """The mixture in which the mode at the bottom left has r times the weight of each of the others."""
    return Mixture([r, 1.0, 1.0, 1.0], MEANS, [1.0] * 4)


IDEAL, STRONG, WEAK = mixture(1.0), mixture(1 / 3), mixture(1 / 9)


def run(run: Run) -> Result:
    pairs, points = (2, 64) if run.quick else (PAIRS, POINTS)
    noise = normal_points(points, 2, run.seed)
    strong, weak = (Exact(each, scheduler()) for each in (STRONG, WEAK))
    trained = _trained(run, pairs)
    trained_s, trained_w = (members(trained, range(n * pairs, (n + 1) * pairs)) for n in (0, 1))
    rows: list[dict[str, Any]] = []
    paths: dict[str, np.ndarray] = {}
    for name, method in METHODS.items():
        latents: list[Tensor] = []
        x = sample(strong, weak, method, noise, num_inference_steps=run.steps, callback=latents.append)
        paths[name] = torch.stack(latents).numpy()
        rows += [_row("exact", 0, name, x)]
        of_networks = sample(
            trained_s, trained_w, method, noise.float().expand(pairs, -1, -1), num_inference_steps=run.steps
        )
        rows += [_row("trained", n, name, x) for n, x in enumerate(of_networks)]
    ideal = Exact(IDEAL, scheduler())
    latents = []
    rows.append(
        _row(
            "exact",
            0,
            "ideal",
            sample(ideal, None, None, noise, num_inference_steps=run.steps, callback=latents.append),
        )
    )
    paths["ideal"] = torch.stack(latents).numpy()
    z = IDEAL.draw(4 * points, torch.Generator().manual_seed(run.seed + 3)).double()[None]
    aligned = alignment(strong, weak, ideal, z, TIMES, run.seed)
    rows += [
        {"model": "exact", "t": t, **{name: float(value) for name, value in row.items()}}
        for t, row in zip(TIMES, aligned, strict=True)
    ]
    return _result(rows, paths, pairs, points)


def _row(model: str, pair: int, method: str, x: Tensor) -> dict[str, Any]:
    points = x.double().numpy()
    missing = float((points < 0).all(1).mean())
    return {
        "model": model,
        "pair": pair,
        "method": method,
        "w1": float(wasserstein(points, IDEAL)),
        "bottom_left": missing,
    }


def _trained(run: Run, pairs: int) -> Ensemble:
    """The strong networks of all pairs, followed by the weak ones."""
    recipe = {"pairs": pairs, "data": DATA, "steps": 20 if run.quick else STEPS}
    network = Ensemble(2 * pairs, 2, scale=4.0, seed=run.seed)

    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(run.seed + 1)
        data = [each.draw(DATA, generator) for each in (STRONG, WEAK) for _ in range(pairs)]
        train(network, data, steps=recipe["steps"], seed=run.seed + 2, progress=lambda s: run.progress("training", s))
        return network.state_dict()

    network.load_state_dict(run.kept("gauss2d", recipe, make))
    return network.requires_grad_(False)


def _result(rows: list[dict[str, Any]], paths: dict[str, np.ndarray], pairs: int, points: int) -> Result:
    def values(model: str, method: str, column: str = "w1") -> np.ndarray:
        return np.array([r[column] for r in rows if (r["model"], r.get("method")) == (model, method)])

    table = [["method", "model", "sliced W1", "times strong's", "W1 less strong's", "mass at the bottom left"]]
    change = {}
    for method in METHODS:
        exact, strong = values("exact", method), values("exact", "strong")
        table.append(
            [
                NAMES[method],
                "exact",
                f"{exact[0]:.3f}",
                f"{exact[0] / strong[0]:.2f}",
                f"{exact[0] - strong[0]:+.3f}",
                f"{values('exact', method, 'bottom_left')[0]:.3f}",
            ]
        )
        w1, strong = values("trained", method), values("trained", "strong")
        change[method] = Mean.of(w1 - strong)
        table.append(
            [
                NAMES[method],
                f"trained, {pairs} pairs",
                str(Mean.of(w1)),
                f"{w1.mean() / strong.mean():.2f}",
                change[method].text(sign="+"),
                str(Mean.of(values("trained", method, "bottom_left"))),
            ]
        )
    share = {method: Mean.of(values("trained", method, "bottom_left")).text() for method in METHODS}
    outcome = (
        f"W2SD gives the missing mode {share['w2sd']} of the points, the strong model {share['strong']}, the data 0.25;"
        f" the sliced W1 differs from the strong model's by {change['w2sd'].text(sign='+')} with W2SD and by"
        f" {change['s2wd'].text(sign='+')} with S2WD (95 % intervals, n = {pairs} trained pairs)."
    )
    good = change["w2sd"].sign == -1 and change["s2wd"].sign == 1
    strong, w2sd = (values("trained", method, "bottom_left").mean() for method in ("strong", "w2sd"))
    filled = (w2sd - strong) / (0.25 - strong)
    cosines = [row["cosine"] for row in rows if "t" in row]
    strengths = [row["g"] for row in rows if "t" in row]
    agrees = (
        f"{'Agrees' if good else 'Does not agree'} with the paper: W2SD gives the missing mode {100 * filled:.0f} % of"
        " what the strong model's share of it lacks, and S2WD takes from it. The cosine of Δ₁ and Δ₂ is between"
        f" {min(cosines):.2f} and {max(cosines):.2f} at all times, and g⋆ between {min(strengths):.2f} and"
        f" {max(strengths):.2f}. Auto-guidance with weight 1, which is W2SD to first order,"
        f" differs from the strong model by {change['auto_guidance'].text(sign='+')}."
    )
    return Result(
        rows,
        outcome,
        agrees,
        _figure(paths, values, rows),
        f"Above: {points} points with exact scores, and the last half of {PATHS} of their paths. Below: sliced W1 to"
        f" the ideal mixture and mass of the missing mode (bars: exact scores; dots: n = {pairs} independently trained"
        " pairs; dashed: ideal), and how the pair lies to the data, exact scores.",
        {"Results": table},
    )


def _figure(paths: dict[str, np.ndarray], values: Any, rows: list[dict[str, Any]]) -> Any:
    drawn, axes = figure(2, 4, height=4.0)
    for ax, name in zip(axes[0], ("weak", "strong", "w2sd", "s2wd"), strict=True):
        path = paths[name]
        for n in range(0, path.shape[1], max(1, path.shape[1] // PATHS)):
            ax.plot(*path[len(path) // 2 :, n].T, color="#cccccc", linewidth=0.5, zorder=1)
        ax.plot(*path[-1].T, ".", color=COLOURS[name], markersize=1, zorder=2)
        ax.set(title=NAMES[name], xlim=(-8, 8), ylim=(-8, 8), xlabel="x₁", aspect="equal")
    axes[0, 0].set_ylabel("x₂")
    labels = ["weak", "strong", "W2SD", "S2WD", "auto-g."]
    ideals = {"w1": values("exact", "ideal")[0], "bottom_left": 0.25}
    titles = {"w1": "sliced W1 (units of x)", "bottom_left": "mass at the bottom left"}
    for ax, column in zip(axes[1], titles, strict=False):
        bars = [values("exact", method, column)[0] for method in METHODS]
        dots = [values("trained", method, column) for method in METHODS]
        bars_and_dots(ax, range(len(METHODS)), bars, dots, [COLOURS[method] for method in METHODS])
        ax.axhline(ideals[column], color="black", linestyle="--", linewidth=0.8)
        ax.set_xticks(range(len(METHODS)), labels, rotation=45)
        ax.set_ylabel(titles[column])
    t = [row["t"] / 1000 for row in rows if "t" in row]
    for ax, column, label in ((axes[1, 2], "cosine", "cosine(Δ₁, Δ₂)"), (axes[1, 3], "g", "g⋆")):
        ax.plot(t, [row[column] for row in rows if "t" in row], color="black")
        ax.set(xlabel="t / T", ylabel=label, xlim=(0, 1), ylim=(0, None))
        ax.invert_xaxis()
    axes[1, 2].set_ylim(0, 1.05)
    axes[1, 3].axhline(0.5, color="#D55E00", linestyle="--", linewidth=0.8, label="helps above")
    axes[1, 3].legend(loc="lower left")
    return drawn
