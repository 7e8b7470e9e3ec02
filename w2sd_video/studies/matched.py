"""Is a method more than a schedule of guidance.

Any method that pushes samples towards their prompt resembles guidance, so it has to be compared with the guidance to
which it is equivalent. At each step a method changes the prediction by c: the difference between the prediction that
the step uses and that of plain sampling at the same x_t (a displacement d counts as (a / b) d). Two coefficients per
step, the same for all points, are fitted to it: c ≈ κ_t u + η_t h, where u = ε_cond - ε_uncond and h is the plain
prediction minus that of the step before. The rest of the square of c is what neither a schedule of guidance nor a
multistep solver can do.

What a method is called is by this fit alone: a schedule of guidance if κ_t u explains at least 99 % of the square of
c, a schedule and history if both terms do, and else more. Whether what is more is of use is another question. For it
there is the **control**: plain guidance with this schedule, w_t = w + κ_t (and η_t h where the fit needs it), fitted on
one set of points and run on others. What a method gains beyond a schedule of guidance is what it is better by than
its control.

Two fakes test the procedure: a guidance that changes with time, and an extrapolation from the last two predictions.

The task has a closed form: the data are four Gaussians at (±4, ±4), and the two on the left are the class. The strong
model gives the one at the bottom left half of its weight, and the weak model a quarter and too wide a spread;
guidance is 2, DDIM, T = 50, λ = 49. The divergence is the sliced Wasserstein distance to the class; units are batches
of points. Intervals of the table are 95 % ones, not adjusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..levels import Step
from ..methods import (
    APG,
    S2WD,
    W2SD,
    AutoGuidance,
    CFGZeroStar,
    Method,
    Optimistic,
    ZSampling,
)
from ..methods.method import Answer, Arm, Noise
from ..statistics import holm, t_test
from ..verdicts import LEVEL
from .figures import COLOURS, colours, figure
from .points import Exact, Mixture, sample, scheduler, wasserstein
from .study import Mean, Result, Run

PAPER = "none of it; a control that its comparisons lack"
GUIDANCE = 2.0
BATCHES, POINTS = 12, 512
FULL = 0.99  # a method is equivalent to a fit that explains at least this share of c's square
LEFT = [[-4.0, -4.0], [-4.0, 4.0]]
RIGHT = [[4.0, -4.0], [4.0, 4.0]]


def _model(share: float, spread: float) -> list[Mixture]:
    """The mixtures without a class and of the class, whose bottom left mode has a share of the other's weight."""
    everything = Mixture([share, 1.0, 1.0, 1.0], LEFT + RIGHT, [spread] * 4)
    return [everything, Mixture([share, 1.0], LEFT, [spread] * 2)]


IDEAL = _model(1.0, 1.0)[1]
STRONG, WEAK = _model(1 / 2, 1.0), _model(1 / 4, 1.3)


@dataclass(frozen=True)
class TimeVarying(Method):
    """A fake: guidance that is stronger in the middle, without the weak model."""

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        return Answer(p, e=float(np.sin(np.pi * step.level.sigma)) * (p[1] - p[0]))


@dataclass(frozen=True)
class History(Method):
    """A fake: a prediction extrapolated from the last two, without the weak model."""

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        plain = _mixed(p)
        return Answer(p, e=None if step.carried is None else 0.5 * (plain - step.carried), carry=plain)


METHODS: dict[str, Method] = {
    "W2SD, weights": W2SD(GUIDANCE, GUIDANCE),
    "W2SD, guidance 3 / 1": W2SD(3.0, 1.0),
    "optimistic, weights": Optimistic(GUIDANCE, GUIDANCE),
    "S2WD, weights": S2WD(GUIDANCE, GUIDANCE),
    "auto-guidance": AutoGuidance(GUIDANCE, GUIDANCE),
    "Z-Sampling": ZSampling(3.0, 0.0),
    "APG": APG(GUIDANCE, GUIDANCE),
    "CFG-Zero*": CFGZeroStar(GUIDANCE, GUIDANCE),
    "fake: in time": TimeVarying(),
    "fake: history": History(),
}

ONE_MODEL = ("W2SD, guidance 3 / 1",)  # both arms are the strong model


def _mixed(p: Tensor, w: float = GUIDANCE) -> Tensor:
    return p[0] + w * (p[1] - p[0])


@dataclass(frozen=True)
class Watched(Method):
    """Wraps a method and records how it changes each step, compared with plain sampling from the same x_t with guidance
    `plain`."""

    of: Method = field(default_factory=W2SD)
    plain: float = GUIDANCE
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # c, u, the plain prediction

    def reflects(self, index: int, num_steps: int, level: Any = None) -> bool:
        return self.of.reflects(index, num_steps, level)

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        answer = self.of(x_t, step, strong, weak, noise)
        p = strong.denoise(x_t)
        c = _mixed(answer.p, self.plain) - _mixed(p, self.plain)
        if answer.d is not None:
            c = c + step.forward.a / step.forward.b * answer.d
        if answer.e is not None:
            c = c + answer.e
        self.seen.append((c, p[1] - p[0], _mixed(p, self.plain)))
        return answer


@dataclass(frozen=True)
class Scheduled(Method):
    """Plain guidance with the fitted schedule of a method: adds κ u and η h at each step."""

    coefficients: Sequence[tuple[float, float]] = ()

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        plain = _mixed(p)
        n, before = step.carried or (0, plain)
        kappa, eta = self.coefficients[n]
        return Answer(p, e=kappa * (p[1] - p[0]) + eta * (plain - before), carry=(n + 1, plain))


def fit(seen: Sequence[tuple[Tensor, Tensor, Tensor]], history: bool) -> tuple[list[tuple[float, float]], float]:
    """κ and η of each step by least squares over all points, and the share of the square of c that they explain."""
    coefficients, left, total = [], 0.0, 0.0
    before = seen[0][2]
    for c, u, plain in seen:
        parts = [u, plain - before] if history else [u]
        a, b = torch.stack([each.flatten() for each in parts], 1).double(), c.flatten().double()
        gram = a.T @ a
        weights = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ (a.T @ b)
        left += float((b - a @ weights).square().sum())
        total += float(b.square().sum())
        kappa, eta = (*weights.tolist(), 0.0)[:2]
        coefficients.append((kappa, eta))
        before = plain
    return coefficients, 1 - left / total if total else 1.0


def run(run: Run) -> Result:
    batches, points = (3, 64) if run.quick else (BATCHES, POINTS)
    strong, weak = Exact(STRONG, scheduler()), Exact(WEAK, scheduler())
    generator = torch.Generator().manual_seed(run.seed)
    noises = torch.randn((batches + 1, points, 2), generator=generator, dtype=torch.float64)
    labels = torch.ones(points, dtype=torch.long)

    def samples(method: Method | None, noise: Tensor, one_model: bool = False) -> Tensor:
        call: dict[str, Any] = {"class_labels": labels, "guidance_scale": GUIDANCE, "num_inference_steps": run.steps}
        return sample(strong, None if one_model else weak, method, noise, **call)

    def distances(method: Method | None, one_model: bool = False) -> np.ndarray:
        return np.array([wasserstein(samples(method, each, one_model).numpy(), IDEAL) for each in noises[1:]])

    plain, rows = distances(None), []
    kappas: dict[str, list[float]] = {}
    for number, (name, method) in enumerate(METHODS.items()):
        one = name in ONE_MODEL or method.one_model
        watched = Watched(method.strong_guidance, method.weak_guidance, of=method)
        samples(watched, noises[0], one)
        (guided, by_guidance), (both, by_both) = (fit(watched.seen, history) for history in (False, True))
        uses_history = by_guidance < FULL <= by_both
        control = Scheduled(coefficients=both if uses_history else guided)
        of, matched = distances(method, one), distances(control)
        kappas[name] = [kappa for kappa, _ in guided]
        for batch, (w1, w1_plain, w1_control) in enumerate(zip(of, plain, matched, strict=True)):
            rows.append(
                {
                    "method": name,
                    "batch": batch,
                    "w1": float(w1),
                    "w1_plain": float(w1_plain),
                    "w1_control": float(w1_control),
                    "explained_by_guidance": by_guidance,
                    "explained_with_history": by_both,
                }
            )
        run.progress("sampling", (number + 1) / len(METHODS))
    return _result(rows, kappas, batches, points)


def called(by_guidance: float, by_both: float) -> str:
    """The kind of schedule to which a method is equivalent, in words."""
    if by_guidance >= FULL:
        return "a schedule of guidance"
    return "a schedule and history" if by_both >= FULL else "more"


def _result(rows: list[dict[str, Any]], kappas: Mapping[str, list[float]], batches: int, points: int) -> Result:
    head = ["method", "by guidance", "and history", "it is", "W1 less plain's", "W1 less its control's"]
    table, fakes = [head], []
    means: list[float] = []
    p: list[float] = []
    for name in METHODS:
        own = [row for row in rows if row["method"] == name]
        shares = own[0]["explained_by_guidance"], own[0]["explained_with_history"]
        w1, plain, control = (np.array([row[key] for row in own]) for key in ("w1", "w1_plain", "w1_control"))
        over_plain, over_control = Mean.of(w1 - plain), Mean.of(w1 - control)
        for each in (w1 - plain, w1 - control):
            means.append(float(each.mean()))
            p.append(float(t_test(each.mean(), each.var(ddof=1) / batches, batches - 1, batches)))
        said = called(*shares)
        fakes += [said] if name.startswith("fake") else []
        cells = [f"{100 * share:.1f} %" for share in shares]
        table.append([name, *cells, said, over_plain.text(sign="+"), over_control.text(sign="+")])
    less = (np.array(means) < 0) & (holm(p) <= LEVEL)  # than plain and than its control, method by method
    better = [name for n, name in enumerate(METHODS) if less[2 * n] and less[2 * n + 1]]
    caught = fakes == ["a schedule of guidance", "a schedule and history"]
    outcome = (
        f"The two fakes are {'both' if caught else 'not both'} called what they are."
        f" Better than plain guidance and than their own schedule of it are: {'; '.join(better) or 'none'}"
        f" (p adjusted by Holm's method over the {len(p)} differences of the table, at most {LEVEL}; n = {batches}"
        f" batches of {points} points)."
    )
    agrees = (
        "The paper compares with one constant guidance. Here the weak model's own difference is what a schedule of"
        " guidance cannot repeat; what a pair of guidance numbers does, much of it can."
    )
    caption = (
        "Left: the share of a method's change that two numbers a step explain. Right: the guidance that it amounts to,"
        f" κ_t, in the first half of the steps (n = {points} points)."
    )
    return Result(rows, outcome, agrees, _figure(rows, kappas), caption, {"Results": table})


def _figure(rows: list[dict[str, Any]], kappas: Mapping[str, list[float]]) -> Any:
    drawn, axes = figure(1, 2, height=3.2)
    left, right = axes[0]
    names = list(METHODS)
    first = {name: next(row for row in rows if row["method"] == name) for name in names}
    for key, colour, label, offset in (
        ("explained_by_guidance", COLOURS["strong"], "by κ_t u", -0.2),
        ("explained_with_history", COLOURS["w2sd"], "by κ_t u + η_t h", 0.2),
    ):
        places = [place + offset for place in range(len(names))]
        left.barh(places, [100 * first[name][key] for name in names], 0.4, color=colour, label=label)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="explained (% of |c|²)", xlim=(0, 100))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    for (name, kappa), colour in zip(kappas.items(), colours(len(kappas)), strict=True):
        half = kappa[: len(kappa) // 2]  # later u is almost 0, so its multiples mean little
        right.plot(range(len(half)), half, label=name, linewidth=1, color=colour)
    right.set(xlabel="step", ylabel="κ_t (units of guidance)", ylim=(-2, 4))
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn
