"""Two classes of digits, one of them seen less often.

The paper trains on CIFAR-10's horses and cars: the strong model on 5,000 and 2,500, the weak one on 5,000 and 500.
Here the classes are zeros and ones of the digits that scikit-learn ships (8 x 8 pixels; CIFAR-10 is not part of the
package), in the paper's ratios: the strong model has 160 zeros and 80 ones, the weak one 160 and 16. Both were
drawn separately for each pair.

The digits are points in the space of their first 12 principal components, which replaces an autoencoder. The models
are small unconditional perceptrons. Each network has its own data, initial weights and noise; the strong and the weak
network of a pair are trained for equally many steps. The class of a generated digit is the majority class of its 3
nearest digits in pixels. DDIM, T = 50, λ = 49, from the same 256 noises for all.

By the rule of [gauss1d](gauss1d.md) W2SD aims at a ratio of ones to zeros of about r_s² / r_w = (1/2)² / (1/10) =
2.5, so it is expected to go past 1 : 1 if the reflections act in full.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .digits import Space, tensor
from .figures import COLOURS, NAMES, bars_and_dots, figure
from .networks import Ensemble, members, train
from .points import METHODS, sample
from .study import Mean, Result, Run

PAPER = "Fig. 6 and 7"
MOST, FEWER = 0, 1  # the classes
COUNTS = {"strong": (160, 80), "weak": (160, 16)}
DIMENSIONS, WIDTH = 12, 96
PAIRS, POINTS, STEPS = 10, 256, 2500
SHOWN = 12  # digits of each method in the figure


def run(run: Run) -> Result:
    pairs, points, steps = (2, 32, 20) if run.quick else (PAIRS, POINTS, STEPS)
    space = Space.of(DIMENSIONS, (MOST, FEWER))
    network = Ensemble(2 * pairs, DIMENSIONS, WIDTH, seed=run.seed)

    def make() -> dict[str, Tensor]:
        rng = np.random.default_rng(run.seed)
        data = [tensor(_drawn(space, counts, rng)) for counts in COUNTS.values() for _ in range(pairs)]
        train(network, data, steps=steps, seed=run.seed + 1, progress=lambda share: run.progress("training", share))
        return network.state_dict()

    recipe = {"counts": COUNTS, "pairs": pairs, "steps": steps, "dimensions": DIMENSIONS, "width": WIDTH}
    network.load_state_dict(run.kept("imbalance", recipe, make))
    network.requires_grad_(False)
    strong, weak = (members(network, range(n * pairs, (n + 1) * pairs)) for n in (0, 1))
    noise = torch.randn((points, DIMENSIONS), generator=torch.Generator().manual_seed(run.seed + 2))
    rows: list[dict[str, Any]] = []
    samples: dict[str, np.ndarray] = {}
    for n, (name, method) in enumerate(METHODS.items()):
        run.progress("sampling", n / len(METHODS))
        x = sample(strong, weak, method, noise.expand(pairs, -1, -1), num_inference_steps=run.steps).double().numpy()
        samples[name] = x[0]
        for pair, each in enumerate(x):
            share = float((space.classify(each) == FEWER).mean())
            rows.append({"pair": pair, "method": name, "ones": share, "from_half": abs(share - 0.5)})
    return _result(rows, samples, space, pairs, points)


def _drawn(space: Space, counts: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random digits, with `counts` of the two classes."""
    chosen = [
        rng.choice(np.flatnonzero(space.labels == label), n, replace=False)
        for label, n in zip((MOST, FEWER), counts, strict=True)
    ]
    return space.points[np.concatenate(chosen)]


def _result(
    rows: list[dict[str, Any]], samples: dict[str, np.ndarray], space: Space, pairs: int, points: int
) -> Result:
    def values(method: str, column: str) -> np.ndarray:
        return np.array([row[column] for row in rows if row["method"] == method])

    strong = values("strong", "from_half")
    change = {method: Mean.of(values(method, "from_half") - strong) for method in METHODS}
    share = {method: Mean.of(values(method, "ones")) for method in METHODS}
    table = [["method", "share of ones", "ones : zeros", "distance of the share from 1/2, less strong's"]]
    for method in METHODS:
        ratio = share[method].mean / (1 - share[method].mean)
        table.append([NAMES[method], str(share[method]), f"{ratio:.2f} : 1", change[method].text(sign="+")])
    outcome = (
        f"Of the strong models' digits {share['strong']} are ones, of the weak ones' {share['weak']}, with W2SD"
        f" {share['w2sd']} and with S2WD {share['s2wd']}; the distance from 1/2 changes by"
        f" {change['w2sd'].text(sign='+')} with W2SD and by {change['s2wd'].text(sign='+')} with S2WD (95 % intervals,"
        f" n = {pairs} independently trained pairs)."
    )
    past = share["w2sd"].mean - share["w2sd"].half > 0.5
    good = change["w2sd"].sign == -1 and change["s2wd"].sign == 1
    agrees = (
        f"{'Agrees' if good else 'Does not agree'} with the paper: W2SD"
        f" {'brings' if change['w2sd'].sign == -1 else 'does not bring'} the classes nearer to 1 : 1, and S2WD"
        f" {'takes' if change['s2wd'].sign == 1 else 'does not take'} them further apart"
        f"{', with intervals that exclude zero' if good else ''}. W2SD"
        f" {'goes past 1 : 1, as its rule says' if past else 'does not go past 1 : 1'};"
        " S2WD has the weak models' share, since it samples the weak model to first order whatever the pair"
        " (see [theory](theory.md))."
    )
    return Result(
        rows,
        outcome,
        agrees,
        _figure(values, samples, space),
        f"Left: share of ones; dots are n = {pairs} independently trained pairs, bars their means, dashed 1 : 1. Right:"
        f" the digits of the first pair ({points} for each method) on the data's two first principal components; below,"
        f" {SHOWN} of them.",
        {"Results": table},
    )


def _figure(values: Any, samples: dict[str, np.ndarray], space: Space) -> Any:
    methods = ("strong", "w2sd", "s2wd")
    drawn, axes = figure(2, 4, height=3.2, height_ratios=(2.6, 1), width_ratios=(1.3, 1, 1, 1))
    grid = axes[0, 0].get_gridspec()
    for each in axes[:, 0]:
        each.remove()
    shares = drawn.add_subplot(grid[:, 0])
    dots = [values(method, "ones") for method in METHODS]
    bars = [float(each.mean()) for each in dots]
    bars_and_dots(shares, range(len(METHODS)), bars, dots, [COLOURS[method] for method in METHODS])
    shares.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    labels = ["weak", "strong", "W2SD", "S2WD", "auto-g."]
    shares.set_xticks(range(len(METHODS)), labels, rotation=45)
    shares.set(ylabel="ones (share of digits)", title="classes")
    data = space.points
    for n, method in enumerate(methods, 1):
        ax, strip = axes[0, n], axes[1, n]
        ax.plot(*data[:, :2].T, ".", color="#cccccc", markersize=2, label="data")
        is_one = space.classify(samples[method]) == FEWER
        for chosen, colour, label in ((~is_one, COLOURS["strong"], "zeros"), (is_one, COLOURS["w2sd"], "ones")):
            ax.plot(*samples[method][chosen, :2].T, ".", color=colour, markersize=2.5, label=label)
        ax.set(title=NAMES[method], xlabel="component 1", xticks=[], yticks=[])
        images = space.decode(samples[method][:SHOWN]).clip(0, 1)
        pad = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        rows = [np.concatenate(list(each), 1) for each in np.array_split(pad, 2)]
        strip.imshow(np.concatenate(rows), cmap="gray_r", vmin=0, vmax=1)
        strip.set(xticks=[], yticks=[], xlabel="samples")
    axes[0, 1].set_ylabel("component 2")
    axes[0, 1].legend(loc="lower left", fontsize=6, markerscale=2)
    return drawn
