"""The results of the study of cost: its table, its front and its figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentError
from ..shapes.bench import Row
from ..shapes.columns import SHAPES
from ..shapes.table import compare_all, values_of
from ..verdicts import ENOUGH, NO_VERDICT, Comparison, Interval, compare, mean
from .figures import COLOURS, figure
from .study import Result

PLAIN, TUNED, W2SD, OPTIMISTIC = "plain", "tuned guidance", "W2SD", "Optimistic W2SD"
CONTROL, CEILING = "control of W2SD", "best of N (a ceiling)"
AUTO, NOISE, W2SD_NOISE = "Auto-guidance", "plain, eta 1", "W2SD, eta 1"
BUDGETS = (1, 1.5, 2, 2.44, 3)  # of tables and figure, as multiples of plain sampling's evaluations
COLUMNS = tuple(
    replace(column, primary=column.name == "right")
    for column in SHAPES
    if column.name in ("right", "objects", "form", "jerk", "background_instability")
)
RIGHT = COLUMNS[0]
LINES = {  # of the figure
    PLAIN: (COLOURS["strong"], "--"),
    TUNED: (COLOURS["strong"], "-"),
    W2SD: (COLOURS["w2sd"], "-"),
    OPTIMISTIC: (COLOURS["optimistic"], "-"),
    AUTO: (COLOURS["auto_guidance"], "-"),
    NOISE: (COLOURS["s2wd"], "--"),
    W2SD_NOISE: (COLOURS["s2wd"], "-"),
    CONTROL: (COLOURS["ideal"], ":"),
    CEILING: (COLOURS["weak"], "--"),
}
Lines = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Point:
    """A method at a budget.

    Args:
        label: the method.
        budget: as a multiple of plain sampling's evaluations.
        name: the name of its row in the results file.
        row: the settings of its requests.
    """

    label: str
    budget: float
    name: str
    row: Row

    @property
    def key(self) -> str:
        return f"{self.label} at {self.budget:g}"

    @property
    def place(self) -> float:
        """The one of BUDGETS where tables and figure have it."""
        return min(BUDGETS, key=lambda budget: abs(budget - self.budget))


def result(
    points: Sequence[Point],
    lines: Mapping[str, Lines],
    absent: Sequence[str] = (),
    explained: Mapping[float, Sequence[float]] | None = None,
) -> Result:
    """The study's result.

    Args:
        lines: by the row's name, its lines by number; all rows have equally many prompts.
        absent: the keys of points that are not sampled yet.
        explained: by budget, of the videos on which the control's schedule is fitted, the share of W2SD's change that
            it explains.
    """
    count = len(lines[points[0].name])
    by = {point.key: lines[point.name] for point in points}
    pairs = [(base.key, point.key) for point in points for base in _rivals(point, points)]
    decided = compare_all(by, pairs, COLUMNS)
    means = {key: {column.name: mean(column, values_of(own, column)) for column in COLUMNS} for key, own in by.items()}
    fronts = _fronts(points, by, means)
    rows = [_row(point, by[point.key], means[point.key], decided) for point in points]
    caption = (
        f"`right`, the share of videos that show all that the prompt says (n = {count} prompts, 95 % intervals, not"
        " adjusted). Above: against network evaluations. Below: with intervals, by budget in times plain sampling's"
        " evaluations; a method that has another is with the nearest."
    )
    tables = {
        "Right, by budget": _grid(points, lambda point: _marked(point, means, decided))
        + [
            [
                "highest mean (methods at this budget not told apart from it)",
                *("{} ({})".format(*fronts[budget]) if budget in fronts else "" for budget in _places(points)),
            ]
        ],
        "W2SD against its rivals": _against(decided, count),
        "Steps and evaluations": _grid(points, lambda point: _steps(point, by[point.key])),
    }
    return Result(
        rows,
        _outcome(decided, fronts, count),
        _agrees(decided, absent, explained or {}),
        _figure(points, means, by),
        caption,
        tables,
    )


def _bases(label: str) -> tuple[str, ...]:
    """The methods with which a method is compared."""
    return (TUNED, CONTROL, AUTO, PLAIN) if label in (W2SD, OPTIMISTIC) else (TUNED,)


def _rivals(point: Point, points: Sequence[Point]) -> list[Point]:
    """What a point is compared with: of each method, its row at the same budget or at the next smaller one."""
    labels = [label for label in _bases(point.label) if label != point.label]
    below = [[p for p in points if p.label == label and p.budget <= point.budget] for label in labels]
    nearest = [max(each, key=lambda p: p.budget) for each in below if each]
    return [each for each in nearest if each.name != point.name]


def evaluations_of(lines: Lines) -> int:
    """The evaluations of a row's videos, which are all equal.

    Raises:
        ArgumentError: they are not.
    """
    counts = sorted({line["evaluations"] for line in lines.values()})
    if len(counts) > 1:
        name = next(iter(lines.values()))["method"]
        raise ArgumentError("--rows", f"{name} has videos of {counts[0]} and of {counts[-1]} evaluations")
    return int(counts[0])


def _fronts(
    points: Sequence[Point], by: Mapping[str, Lines], means: Mapping[str, Mapping[str, Interval]]
) -> dict[float, tuple[str, int]]:
    """By budget, the method with the highest mean of `right` at no higher cost, without ceilings; and for how many
    other methods at the budget the paired interval of the difference, not adjusted, contains 0."""
    fronts = {}
    for budget in _places(points):
        rivals = [point for point in points if point.budget <= budget and point.label != CEILING]
        if not rivals:
            continue
        best = max(rivals, key=lambda point: (means[point.key]["right"].mean, -evaluations_of(by[point.key])))
        like = 0
        for point in rivals:
            if point.place == budget and point.key != best.key:
                both = (values_of(by[each.key], RIGHT) for each in (best, point))
                compared = compare(RIGHT, best.key, point.key, *both)
                like += compared is not None and not compared.difference.high < 0
        fronts[budget] = (best.label + ("" if best.place == budget else f" (run at {best.budget:g})"), like)
    return fronts


def _row(point: Point, lines: Lines, means: Mapping[str, Interval], decided: Sequence[Comparison]) -> dict[str, Any]:
    """A line of the CSV."""
    says = point.row.says
    row: dict[str, Any] = {"method": point.label, "budget": point.budget, "row": point.name}
    row |= {"guidance_scale": says.get("guidance_scale", ""), "tries": point.row.tries}
    row |= {"evaluations": evaluations_of(lines), "prompts": len(lines)}
    against = {c.column: c for c in decided if c.group == point.key and c.base.startswith(TUNED)}
    for name, own in means.items():
        row |= {name: own.mean, f"{name}_low": own.low, f"{name}_high": own.high}
        if compared := against.get(name):
            row |= {f"{name}_less_tuned": compared.difference.mean, f"{name}_p_adjusted": compared.p_adjusted}
    return row


def _grid(points: Sequence[Point], cell: Callable[[Point], str]) -> list[list[str]]:
    """A table with one line per method and one column per budget."""
    budgets = _places(points)
    own = {point.key: f" (at {point.budget:g})" * (point.budget != point.place) for point in points}
    cells = {(point.label, point.place): cell(point) + own[point.key] for point in points}
    head = ["budget, in times plain's", *(f"{budget:g}" for budget in budgets)]
    body = [[label, *(cells.get((label, budget), "") for budget in budgets)] for label in _labels(points)]
    return [head, *body]


def _places(points: Sequence[Point]) -> list[float]:
    """The budgets of tables and figure."""
    return sorted({point.place for point in points})


def _labels(points: Sequence[Point]) -> list[str]:
    """The methods, those of LINES first."""
    labels = [point.label for point in points]
    return [label for label in dict.fromkeys([*LINES, *labels]) if label in labels]


def _marked(point: Point, means: Mapping[str, Mapping[str, Interval]], decided: Sequence[Comparison]) -> str:
    """The mean of `right`, bold if it is better than tuned guidance's, in italics if it is worse."""
    text = means[point.key]["right"].text(2)
    verdicts = [c.verdict for c in decided if (c.group, c.column) == (point.key, "right") and c.base.startswith(TUNED)]
    mark = {"better": "**", "worse": "*"}.get(verdicts[0] if verdicts else "", "")
    return f"{mark}{text}{mark}"


def _steps(point: Point, lines: Lines) -> str:
    steps = point.name.split(", ")[1]
    guidance = f", guidance {point.row.says.get('guidance_scale', 1.5):g}" * (point.label == TUNED)
    return f"{steps}{guidance}: {evaluations_of(lines)}"


def _against(decided: Sequence[Comparison], count: int) -> list[list[str]]:
    """The table of W2SD's comparisons: differences with unadjusted intervals, and verdicts with adjusted p."""
    table = [["", *(column.label for column in COLUMNS)]]
    of_ours = [c for c in decided if c.group.startswith((f"{W2SD} at", f"{OPTIMISTIC} at"))]
    of_ours.sort(key=lambda c: (c.group.startswith(OPTIMISTIC), float(_budget(c))))
    for base, group in dict.fromkeys((c.base, c.group) for c in of_ours):
        own = {c.column: c for c in decided if (c.base, c.group) == (base, group)}
        cells = [cell_of(own[column.name], count) if column.name in own else "" for column in COLUMNS]
        table.append([f"{group} less {base}", *cells])
    return table


def cell_of(compared: Comparison, count: int) -> str:
    """A difference with its verdict, and of how many of `count` prompts it is, if not of all."""
    of = f" of {compared.difference.units}" * (compared.difference.units < count)
    return f"{compared.difference.text(3, '+')} ({verdict_of(compared)}{of})"


def verdict_of(compared: Comparison) -> str:
    """The verdict, "no verdict" where the rules bar one, or "not decided"."""
    barred = compared.difference.units < ENOUGH or compared.reason.startswith(NO_VERDICT)
    return compared.verdict or ("no verdict" if barred else "not decided")


def _outcome(decided: Sequence[Comparison], fronts: Mapping[float, tuple[str, int]], count: int) -> str:
    """The outcome in words, starting with the rivals that W2SD does not beat."""
    if count < ENOUGH:
        return f"With {count} prompts there is no verdict on any method; it takes {ENOUGH} at least."
    parts = [f"By `right`, of {count} prompts"]
    for group in (W2SD, OPTIMISTIC):
        for base in _bases(group):
            if verdicts := _verdicts(decided, base, group):
                parts.append(f"{group} against {base}: {verdicts}")
    leads = "; ".join(f"at {budget:g} {label}" for budget, (label, _) in fronts.items())
    return ". ".join([*parts, f"The highest means, which is no verdict: {leads}"]) + "."


def _verdicts(decided: Sequence[Comparison], base: str, group: str) -> str:
    """In words, the budgets at which a group is worse than a base in `right`, not decided, and better."""
    own = _right(decided, base, group)
    at = {verdict: ", ".join(_budget(c) for c in own if c.verdict == verdict) for verdict in ("worse", "", "better")}
    return "; ".join(f"{verdict or 'not decided'} at {budgets}" for verdict, budgets in at.items() if budgets)


def _right(decided: Sequence[Comparison], base: str, group: str) -> list[Comparison]:
    """The comparisons of two methods in `right`, by budget."""
    keys = f"{base} at ", f"{group} at "
    own = [c for c in decided if c.column == "right" and c.base.startswith(keys[0]) and c.group.startswith(keys[1])]
    return sorted(own, key=lambda compared: float(_budget(compared)))


def _budget(compared: Comparison) -> str:
    return compared.group.rpartition(" at ")[2]


def _agrees(decided: Sequence[Comparison], absent: Sequence[str], explained: Mapping[float, Sequence[float]]) -> str:
    differences = "; ".join(f"{c.difference.text(2, '+')} at {_budget(c)}" for c in _right(decided, PLAIN, W2SD))
    text = (
        "The paper's Fig. 13 has W2SD above plain sampling that takes as long. Here the difference of `right` between"
        f" them is {differences} times plain sampling's evaluations (95 % intervals, not adjusted). Not decided is not"
        " the same as equal."
    )
    if explained:
        shares = " and ".join(
            f"{sum(each) / len(each):.0%} at {budget:g} ({min(each):.0%} to {max(each):.0%} in {len(each)} videos)"
            for budget, each in explained.items()
        )
        text += f" The schedule of guidance nearest to W2SD explains {shares} of the square of its change."
    budgets: dict[str, list[str]] = {}
    for key in absent:
        label, _, budget = key.rpartition(" at ")
        budgets.setdefault(label, []).append(budget)
    lacking = "; ".join(f"{label} at {', '.join(each)}" for label, each in budgets.items())
    return text + f" Not sampled yet for all of these prompts: {lacking}." * bool(absent)


def _figure(points: Sequence[Point], means: Mapping[str, Mapping[str, Interval]], by: Mapping[str, Lines]) -> Any:
    labels, budgets = _labels(points), _places(points)
    below = 0.8 + 0.15 * len(labels)
    drawn, axes = figure(2, len(budgets), height=2.6 + below, height_ratios=(2.6, below), sharex="row", sharey="row")
    for each in axes[0]:
        each.remove()
    above = drawn.add_subplot(axes[0][0].get_gridspec()[0, :])
    for label in reversed(labels):  # those of LINES above the others
        own = sorted((p for p in points if p.label == label), key=lambda p: p.budget)
        colour, style = LINES.get(label, (COLOURS["other"], "-"))
        costs = [evaluations_of(by[p.key]) for p in own]
        rights = [means[p.key]["right"].mean for p in own]
        width = 1.3 if label in LINES else 0.5
        above.plot(costs, rights, style, linewidth=width, marker="o", markersize=3, color=colour, label=label)
    drawn_as = dict(zip(reversed(labels), above.get_lines(), strict=True))
    named = {label: drawn_as[label] for label in labels if label in LINES}
    if others := [line for label, line in drawn_as.items() if label not in LINES]:
        named["other methods"] = others[0]
    room = 1.4 * max(own["right"].mean for own in means.values())  # the legend's
    above.set(xlabel="network evaluations a video", ylabel="right (share of videos)", ylim=(0, room or 1))
    above.legend(named.values(), named, loc="upper left", ncols=4)
    for ax, budget in zip(axes[1], budgets, strict=True):
        for point in points:
            if point.place == budget:
                each, colour = means[point.key]["right"], LINES.get(point.label, (COLOURS["other"], ""))[0]
                y = labels.index(point.label)
                ax.plot([each.low, each.high], [y, y], color=colour, linewidth=0.8)
                ax.plot(each.mean, y, "o", color=colour, markersize=3.5)
        ax.set(title=f"{budget:g} times plain", xlabel="right (share)")
    axes[1][0].set_yticks(range(len(labels)), labels)
    axes[1][0].invert_yaxis()
    return drawn
