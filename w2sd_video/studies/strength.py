"""Does check-pair know which pairs help.

Twice twelve networks learn the plane of [gauss2d](gauss2d.md): the mode at the bottom left has 1/9, 1/5, 1/3, 1/2, 3/4
or all of the weight of each of the others, and training stops after 300 or after 3,000 steps. Each of them is paired,
as the strong model, with each of the others of its twelve as the weak one. So there are pairs that point towards the
data, that overshoot, and that point away.

Each pair is checked as by `w2sd-video check-pair`, with the same code, on 256 points of the data (each a unit, as
a prompt is) at 8 noise levels, with the mean of 64 draws of noise: g⋆ = E⟨d, r⟩ / E|d|² of d = ε_strong - ε_weak and
r = ε - ε_strong, with Fieller's bounds, a call by these bounds, and a proposal. Then it samples 1,024 points with the
strong model alone, with W2SD (T = 50, λ = 49) and as proposed. The gain is the decrease of the sliced Wasserstein
distance to the data, as a share of the strong model's distance.

The rule was fixed before any pair was trained: pairs are ranked by the lower bound of 2 g⋆ - 1, and the check predicts
that W2SD helps if it is above 0. How many draws of noise it takes was decided on the first twelve networks (with one
draw no pair was called, and the areas were 0.835 and 0.837); the second twelve, of another seed, were trained later and
tested as the rule stood. The area under the curve is the chance that a pair that W2SD helps ranks higher than one that
it hurts. Pairs that share a network are not independent, so intervals come from resampling networks. That the proposal
is not worse than plain sampling means that the lower end of the interval of its mean gain is above -1 %.

A limit of g⋆ over all levels is that it weighs each level as the denoising loss does. Small networks differ most at low
noise, where their errors hardly affect to which mode a point goes. That is decided at high noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..methods import W2SD
from ..strength import Proposal, Strength, proposal, strength
from .figures import COLOURS, figure
from .gauss2d import DATA, IDEAL, mixture
from .networks import Ensemble, members, train
from .points import level_of, normal_points, sample, scheduler, wasserstein
from .study import Result, Run

PAPER = "none of its figures; the condition of its section 4, that the pair points towards the data"
SHARES = (1 / 9, 1 / 5, 1 / 3, 1 / 2, 3 / 4, 1.0)
SHORT, LONG = 300, 3000
UNITS, DRAWS, LEVELS, POINTS = 256, 64, 8, 1024
RESAMPLED = 1000
SETS = ("first", "fresh")  # of networks; seeds follow each other
MARGIN = 0.01  # of the strong model's distance
CALLS = {"helps": "W2SD helps", "overshoots": "overshoots", "away": "points away", "open": "not certain"}
MARKS = {"helps": COLOURS["w2sd"], "overshoots": COLOURS["optimistic"], "away": COLOURS["strong"], "open": "#999999"}


def run(run: Run) -> Result:
    points = 64 if run.quick else POINTS
    rows = [row for number, name in enumerate(SETS) for row in _of_set(run, number, name, points)]
    return _result(rows, run.seed, points)


def _of_set(run: Run, number: int, name: str, points: int) -> list[dict[str, Any]]:
    """The rows of the pairs of one set of networks, which are counted on from those of the sets before."""
    seed, network = run.seed + number, _trained(run, run.seed + number)
    z = IDEAL.draw(16 if run.quick else UNITS, torch.Generator().manual_seed(seed + 3))
    noise = normal_points(points, 2, seed).float()[None]
    pairs = list(permutations(range(network.config.members), 2))[:: 12 if run.quick else 1]
    alone = {n: _distance(sample(members(network, [n]), None, None, noise, num_inference_steps=run.steps))
             for n in {pair[0] for pair in pairs}}  # fmt: skip
    rows = []
    for n, (s, w) in enumerate(pairs):
        strong, weak = members(network, [s]), members(network, [w])
        dr, dd, sigmas, cosine = _checked(strong, weak, z, seed + 4)
        of, best = strength(dr.sum(1), dd.sum(1)), proposal(dr, dd, sigmas)
        full, as_proposed = (
            _distance(sample(strong, weak, method, noise, num_inference_steps=run.steps)) if method else alone[s]
            for method in (W2SD(), _method(best))
        )
        rows.append(
            {
                "networks": name,
                "strong": s + number * network.config.members,
                "weak": w + number * network.config.members,
                "g": of.g,
                "low": of.low,
                "high": of.high,
                "cosine": cosine,
                "call": _call(of),
                "proposed_strength": best.strength,
                "sigma_low": best.low,
                "sigma_high": best.high,
                "w1_strong": alone[s],
                "gain_w2sd": 1 - full / alone[s],
                "gain_proposed": 1 - as_proposed / alone[s],
            }
        )
        run.progress("sampling", (number + (n + 1) / len(pairs)) / len(SETS))
    return rows


def _trained(run: Run, seed: int) -> Ensemble:
    """The networks of all shares after short training, followed by those after long training."""
    long = 20 if run.quick else LONG
    short = 10 if run.quick else SHORT
    recipe = {"shares": SHARES, "data": DATA, "steps": [short, long], "seed": seed}
    network = Ensemble(2 * len(SHARES), 2, scale=4.0, seed=seed)

    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed + 1)
        part = Ensemble(len(SHARES), 2, scale=4.0, seed=seed)
        data = [mixture(share).draw(DATA, generator) for share in SHARES]
        early = train(
            part, data, steps=long, seed=seed + 2, keep=[short], progress=lambda s: run.progress("training", s)
        )[short]
        late = {name: p.detach() for name, p in part.named_parameters()}
        return {name: torch.cat([early[name], late[name]]) for name in late}

    network.load_state_dict(run.kept("strength", recipe, make))
    return network.requires_grad_(False)


@torch.no_grad()
def _checked(
    strong: Ensemble, weak: Ensemble, z: Tensor, seed: int
) -> tuple[np.ndarray, np.ndarray, list[float], float]:
    """<d, r> and |d|^2, each (units, levels), the levels' sigmas, and the mean cosine, at data (units, D)."""
    steps = scheduler()
    steps.set_timesteps(LEVELS)
    generator = torch.Generator().manual_seed(seed)
    inner, square, cosines, sigmas = [], [], [], []
    for t in steps.timesteps:
        level = level_of(steps, t)
        eps = torch.randn((DRAWS, *z.shape), generator=generator)
        x = (level.alpha * z + level.sigma * eps).flatten(0, 1)[None]
        p_s, p_w = (network(x, t)[0][0] for network in (strong, weak))
        d, r = (p_s - p_w).double(), (eps.flatten(0, 1) - p_s).double()
        dr, dd, rr = ((a * b).sum(1).unflatten(0, (DRAWS, -1)) for a, b in ((d, r), (d, d), (r, r)))
        inner.append(dr.mean(0).numpy())
        square.append(dd.mean(0).numpy())
        cosines.append(float((dr / (dd * rr).sqrt()).mean()))
        sigmas.append(level.sigma)
    return np.stack(inner, 1), np.stack(square, 1), sigmas, float(np.mean(cosines))


def _call(of: Strength) -> str:
    if of.low > 0.5:
        return "helps"
    if of.low > 0 and of.high < 0.5:
        return "overshoots"
    return "away" if of.high < 0 else "open"


def _method(best: Proposal) -> W2SD | None:
    if not best.strength:
        return None
    return W2SD(still_gain=best.strength, interval=(best.low, min(1.0, best.high)))


def _distance(points: Tensor) -> float:
    return float(wasserstein(points[0].double().numpy(), IDEAL))


def area(ranks: np.ndarray, helped: np.ndarray) -> float:
    """The area under the ROC curve: the chance that a helped pair ranks above one that was not; ties count half."""
    good, bad = ranks[helped], ranks[~helped]
    if not len(good) or not len(bad):
        return math.nan
    return float((np.sign(good[:, None] - bad[None]) / 2 + 0.5).mean())


def _area(ranks: np.ndarray, helped: np.ndarray, pairs: np.ndarray) -> float:
    return area(ranks[pairs], helped[pairs])


def _interval(statistic: Callable[[np.ndarray], float], models: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval over networks of a statistic of pairs, by their indices.

    Args:
        models: (pairs, 2), the networks of each pair. A pair counts as often as both are drawn.
    """
    rng, count, values = np.random.default_rng(seed), int(models.max()) + 1, []
    for _ in range(RESAMPLED):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        values.append(statistic(np.repeat(np.arange(len(models)), times[models[:, 0]] * times[models[:, 1]])))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _areas(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, tuple[float, float, float]]:
    """The area under the curve with its 95 % interval, by what pairs are ranked by."""
    helped, models = np.array([row["gain_w2sd"] > 0 for row in rows]), _models(rows)
    ranked = {"lower bound of 2 g⋆ - 1": 2 * _of(rows, "low") - 1, "mean cosine": _of(rows, "cosine")}
    areas = {}
    for name, ranks in ranked.items():
        low, high = _interval(partial(_area, ranks, helped), models, seed)
        areas[name] = area(ranks, helped), low, high
    return areas


def _gain(rows: Sequence[dict[str, Any]], seed: int) -> tuple[float, float, float]:
    """The area of the rule less that of the cosine, with its 95 % interval."""
    helped, models = _of(rows, "gain_w2sd") > 0, _models(rows)
    low, cosine = _of(rows, "low"), _of(rows, "cosine")

    def gain(pairs: np.ndarray) -> float:
        return _area(low, helped, pairs) - _area(cosine, helped, pairs)

    return gain(np.arange(len(rows))), *_interval(gain, models, seed)


def _models(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The networks of each pair, counted from 0."""
    models = np.array([(row["strong"], row["weak"]) for row in rows])
    return models - models.min()


def _of(rows: Sequence[dict[str, Any]], column: str) -> np.ndarray:
    return np.array([row[column] for row in rows])


def _result(rows: Sequence[dict[str, Any]], seed: int, points: int) -> Result:
    gains, ours, call = _of(rows, "gain_w2sd"), _of(rows, "gain_proposed"), _of(rows, "call")
    helped = gains > 0
    sets = {name: [row for row in rows if row["networks"] == name] for name in SETS} | {"all": list(rows)}
    areas = {name: _areas(some, seed) for name, some in sets.items()}
    ranking = [["networks", "pairs", "of them helped", "ranked by", "area under the curve", "95 % interval"]]
    for name, some in sets.items():
        counts = [str(len(some)), str(int((_of(some, "gain_w2sd") > 0).sum()))]
        for by, (value, low, high) in areas[name].items():
            ranking.append([name, *counts, by, f"{value:.3f}", f"{low:.3f} to {high:.3f}"])
    calls = [["check-pair's call", "pairs", "of them helped by W2SD", "mean gain of W2SD", "mean gain as proposed"]]
    for each, words in CALLS.items():
        if (chosen := call == each).any():
            parts = [f"{gains[chosen].mean():+.3f}", f"{ours[chosen].mean():+.3f}"]
            calls.append([words, str(chosen.sum()), str(int(helped[chosen].sum())), *parts])
    called, over = call == "helps", call == "overshoots"
    reflects = _of(rows, "proposed_strength") > 0
    (by_rule, low, high), (cosine, *_) = areas[SETS[-1]].values()
    (more, *ends), (before, *_) = (_gain(sets[name], seed) for name in reversed(SETS))
    least, most = _interval(lambda n: float(ours[n].mean()) if len(n) else math.nan, _models(rows), seed)
    right = f", and it helps {int(helped[called].sum())} of them" if called.any() else ""
    verdict = "not worse" if least > -MARGIN else "not shown to be not worse"
    outcome = (
        f"Of {len(rows)} pairs of {_models(rows).max() + 1} networks W2SD helps {helped.sum()}. The lower bound of"
        f" 2 g⋆ - 1 ranks those of the fresh networks with an area under the curve of {by_rule:.3f}"
        f" [{low:.3f}, {high:.3f}], the mean cosine with {cosine:.3f}. check-pair says of {called.sum()} pairs that"
        f" W2SD helps{right}. As proposed, {int((ours < -MARGIN).sum())} pairs lose more than {100 * MARGIN:g} %, and"
        f" the mean gain is {ours.mean():+.3f} [{least:+.3f}, {most:+.3f}]: {verdict} than plain sampling by"
        f" {100 * MARGIN:g} %. With W2SD at full strength it is {gains.mean():+.3f}."
    )
    agrees = (
        "The paper asks that the difference points towards the data, and pairs of which it does so less are helped less"
        " often. A strength over 1/2 is a stronger condition. As a rank, its area less the cosine's is"
        f" {more:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}] on the fresh networks and {before:+.3f} on the first"
        f"{'' if ends[0] > 0 or ends[1] < 0 else ': not decided'}. Of the {over.sum()} pairs that it"
        f" says overshoot, with which W2SD should hurt, W2SD helps {int(helped[over].sum())}. What check-pair proposes"
        f" is safe, since it is a reflection for {int(reflects.sum())} of the pairs and none for the others. So it"
        f" gives away most of what W2SD gains: over the {helped.sum()} pairs that W2SD helps, the mean gain is"
        f" {gains[helped].mean():+.3f} by W2SD and {ours[helped].mean():+.3f} as proposed."
    )
    caption = (
        f"Left: gain of W2SD in sliced W1 against g⋆ with its 95 % bounds (n = {len(rows)} pairs, {points} points"
        " each)."
        " Right: gain as check-pair proposes against gain at full strength; above the line the proposal is better"
        f" ({int((gains < -1).sum())} pairs with a gain under -100 % are to its left)."
    )
    return Result(list(rows), outcome, agrees, _figure(rows), caption, {"Ranking": ranking, "Calls": calls})


def _figure(rows: Sequence[dict[str, Any]]) -> Any:
    drawn, axes = figure(1, 2, height=3.0)
    left, right = axes[0]
    for call, colour in MARKS.items():
        some = [row for row in rows if row["call"] == call]
        g = np.array([row["g"] for row in some])
        bounds = np.array([[row["g"] - row["low"], row["high"] - row["g"]] for row in some]).reshape(-1, 2).T
        gain = [100 * row["gain_w2sd"] for row in some]
        left.errorbar(g, gain, xerr=np.minimum(bounds, 10), fmt=".", color=colour, linewidth=0.5, label=CALLS[call])
        right.plot(gain, [100 * row["gain_proposed"] for row in some], ".", color=colour)
    left.axvline(0.5, color="black", linestyle="--", linewidth=0.8)
    left.axhline(0, color="black", linewidth=0.5)
    left.set(xlabel="strength g⋆", ylabel="gain of W2SD (% of strong's W1)", xlim=(-2, 1.5))
    left.set_yscale("symlog", linthresh=20)
    left.legend(loc="lower right")
    ends = [-100, 60]
    right.plot(ends, ends, color="black", linestyle="--", linewidth=0.8)
    right.axhline(0, color="black", linewidth=0.5)
    left.set_yticks([-1000, -100, -10, 0, 10], ["-1000", "-100", "-10", "0", "10"])
    right.set(xlabel="gain of W2SD (%)", ylabel="gain as proposed (%)", xlim=ends, ylim=(-10, 10))
    return drawn
