"""The tables of a bench: means with intervals, a row per method, and W2SD compared with its rivals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import tables
from ..claims import not_worse, suggested_margin
from ..columns import Column
from ..tables import Block, Items, Line, Marked, Paragraph, Table, Text
from ..verdicts import LEVEL, NO_VERDICT, Comparison, Values, compare, decide, mean, small
from .columns import OF_OBJECTS
from .grammar import parse

NUMBERS = {"one": 1, "two": 2, "three": 3}
OURS = ("w2sd", "w2sd-tuned")
CHEAPER = "optimistic"
RIVALS = ("strong", "guidance", "tuned", "equal-cost", "tuned-equal-cost", "raised", "auto-guidance", "best-of-3")


def values_of(rows: Mapping[int, dict[str, Any]], column: Column) -> Values:
    """A column's values by prompt and seed; NaN if a video has none.

    `right (two objects)` is `right` for the prompts with two objects. Measures of objects are of videos that show all
    of the prompt's.
    """
    values: dict[str, dict[str, float | None]] = {}
    for n, row in rows.items():
        name = column.name
        if name.startswith("right ("):
            things = NUMBERS[name.removeprefix("right (").split()[0]]
            name = "right" if len(parse(row["prompt"]).things) == things else ""
        lacking = name in OF_OBJECTS and row["scores"].get("colour", 1.0) < 1
        value = None if lacking else row["scores"].get(name)
        values.setdefault(row["prompt"], {})[str(n)] = math.nan if value is None else float(value)
    return values


def _by_method(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows by method and number, without the rows for tuning."""
    by_method: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if not row.get("tuning"):
            by_method.setdefault(row["method"], {})[row["n"]] = row
    return by_method


def decided(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> list[Comparison]:
    """All comparisons that a bench shows, of methods with `strong` and of W2SD with its rivals, decided together."""
    by_method = _by_method(rows)
    others = [name for name in by_method if name not in ("strong", "rendered")]
    with_strong = [("strong", name) for name in others]
    return compare_all(by_method, list(dict.fromkeys([*with_strong, *_rivals(by_method)])), columns)


def summarise(
    rows: Sequence[dict[str, Any]], columns: Sequence[Column], compared: Sequence[Comparison] | None = None
) -> dict[str, Any]:
    """By method, the numbers of samples, the means of columns with intervals, and the comparisons with `strong`.

    Args:
        compared: what `decided` returns for these rows, if it is known.
    """
    by_method = _by_method(rows)
    compared = decided(rows, columns) if compared is None else compared
    summary: dict[str, Any] = {}
    for name, of_method in by_method.items():
        first = of_method[min(of_method)]
        summary[name] = {
            "samples": len(of_method),
            "prompts": len({row["prompt"] for row in of_method.values()}),
            "evaluations": first["evaluations"],
            "seconds": float(np.mean([row["seconds"] for row in of_method.values()])),
            "columns": {c.name: mean(c, values_of(of_method, c)) for c in columns},
            "decided together": compared,
        }
        if against := {c.column: c for c in compared if (c.base, c.group) == ("strong", name)}:
            summary[name]["against strong"] = against
    return summary


def rivalry(
    rows: Sequence[dict[str, Any]], columns: Sequence[Column], compared: Sequence[Comparison] | None = None
) -> list[Comparison]:
    """Paired comparisons of W2SD, with its preset's and tuned settings, with plain sampling at several settings, and
    of both with noise in each step.

    Args:
        compared: what `decided` returns for these rows, if it is known.
    """
    pairs = _rivals(_by_method(rows))
    compared = decided(rows, columns) if compared is None else compared
    return sorted((c for c in compared if (c.base, c.group) in pairs), key=lambda c: pairs.index((c.base, c.group)))


def _rivals(by_method: Mapping[str, dict[int, dict]]) -> list[tuple[str, str]]:
    """The pairs (rival, W2SD) for which there are rows."""
    arguments = {name: of_method[min(of_method)].get("arguments", {}) for name, of_method in by_method.items()}
    plain = [name for name, each in arguments.items() if each.get("variant") == "plain" and name not in RIVALS]
    pairs = [(rival, ours) for ours in OURS for rival in (*RIVALS, *plain)] + [("noise", "w2sd-noise")]
    return [pair for pair in pairs if by_method.keys() >= set(pair)]


def compare_all(
    by_method: Mapping[str, dict[int, dict]], against: Sequence[tuple[str, str]], columns: Sequence[Column]
) -> list[Comparison]:
    """The comparisons of all pairs (base, group) for which there are rows, decided together."""
    comparisons = []
    for base, group in against:
        if base in by_method and group in by_method:
            both = by_method[base], by_method[group]
            each = (compare(c, base, group, *(values_of(rows, c) for rows in both)) for c in columns)
            comparisons += [comparison for comparison in each if comparison]
    return decide(comparisons, {c.name: c for c in columns})


def document(summary: dict[str, Any], labels: dict[str, str], columns: Sequence[Column]) -> list[Block]:
    """The summary as tables of primary columns and of the others, with one row per method, and a legend.

    A figure is marked if it is better or worse than plain strong sampling's, or differs without a better side.
    """
    names = [n for n in labels if n in summary]
    families = ([c for c in columns if c.primary], [c for c in columns if not c.primary])
    shown = [_table(summary, names, labels, family) for family in families if family]
    return [*shown, Paragraph(_legend(summary, labels, columns))]


def _table(
    summary: Mapping[str, Any], names: Sequence[str], labels: Mapping[str, str], columns: Sequence[Column]
) -> Table:
    """A table of some columns. What all methods have as many of stands in its head."""
    sizes = [f"{summary[n]['samples']} samples of {summary[n]['prompts']} prompts" for n in names]
    one_size = len(set(sizes)) == 1
    head = [sizes[0] if one_size else "", "network evaluations"]
    rows: list[list[Text]] = [
        [labels[n] + f" ({size})" * (not one_size), str(summary[n]["evaluations"])]
        for n, size in zip(names, sizes, strict=True)
    ]
    for column in columns:
        means = [summary[name]["columns"][column.name] for name in names]
        alike = len({each.counted for each in means}) == 1
        head.append(column.name + (f" ({means[0].counted})" if alike else ""))
        for row, name, own in zip(rows, names, means, strict=True):
            compared = summary[name].get("against strong", {}).get(column.name)
            cell = own.text(3 if abs(own.mean) < 10 else 1) + ("" if alike else f" ({own.counted})")
            row.append(Marked(cell, compared.verdict if compared else ""))
    return Table(head, rows)


def rivals(compared: Sequence[Comparison], labels: Mapping[str, str], columns: Sequence[Column]) -> Items:
    """W2SD's comparisons in words: what it does not improve first, and of that first the rivals of which nothing is
    decided, together.

    Of columns without a better side only differences are said.
    """
    signed = {c.name for c in columns if c.sign}
    lines: list[Line] = []
    undecided: dict[tuple[str, int], list[str]] = {}  # rivals, by W2SD's row and the number of columns
    for base, group in dict.fromkeys((c.base, c.group) for c in compared):
        own = [c for c in compared if (c.base, c.group) == (base, group)]
        count = sum(c.column in signed for c in own)
        if not any(c.verdict for c in own):
            undecided.setdefault((group, count), []).append(labels[base])
            continue
        parts = []
        for verdict in ("worse", "", "differs", "better"):
            some = [c for c in own if c.verdict == verdict and (verdict or c.column in signed)]
            words = [f"{c.column} ({c.difference.text(3, '+')})" for c in some]
            if some:
                parts.append(
                    f"{verdict} in {', '.join(words)}" if verdict else f"not decided in {len(some)} of {count} columns"
                )
        lines.append((f"{labels[group]} against {labels[base]}: {'; '.join(parts)}.",))
    first: list[Line] = [
        (f"{labels[group]} against {'; '.join(bases)}: nothing is decided, in {count} columns.",)
        for (group, count), bases in undecided.items()
    ]
    return Items([*first, *lines])


def as_good(rows: Sequence[dict[str, Any]], labels: Mapping[str, str], columns: Sequence[Column]) -> Items:
    """In words, in which columns with a better side the cheaper reflection is shown to be as good as W2SD."""
    by_method = _by_method(rows)
    if not {"weak", "strong", "w2sd", CHEAPER} <= by_method.keys():
        return Items([])
    by_verdict: dict[bool, list[str]] = {True: [], False: []}
    alike = []
    for column in columns:
        weak, strong, ours, base = (values_of(by_method[name], column) for name in ("weak", "strong", CHEAPER, "w2sd"))
        margin = suggested_margin(mean(column, strong).mean, mean(column, weak).mean)
        if not margin and column.sign:
            alike.append(column.name)
        if column.sign and margin > 0:
            claim = not_worse(column, ours, base, margin)
            if claim.holds is not None:
                by_verdict[claim.holds].append(f"{column.name} (by {margin:.3g}, p {small(claim.p)})")
    if not any(by_verdict.values()):
        return Items([])
    words = [f"{'' if held else 'not '}shown in {', '.join(some)}" for held, some in by_verdict.items() if some]
    claimed = (
        f"That {labels[CHEAPER]} is worse than {labels['w2sd']} by less than a tenth of what strong and weak differ by"
        " in these rows"
    )
    left = f" There is no margin for {', '.join(alike)}, in which strong and weak have one mean." * bool(alike)
    return Items([(f"{claimed} is {'; '.join(words)}.{left}",)])


def markdown(summary: dict[str, Any], labels: dict[str, str], columns: Sequence[Column]) -> str:
    """`document` as Markdown."""
    return tables.markdown(document(summary, labels, columns))


def verdicts(compared: Sequence[Comparison], labels: Mapping[str, str], columns: Sequence[Column]) -> str:
    """`rivals` as Markdown."""
    return tables.markdown([rivals(compared, labels, columns)])


def _families(tested: Sequence[Comparison], columns: Sequence[Column]) -> str:
    """The families over which p is adjusted, in words: primary columns, and the others."""
    primary = {column.name for column in columns if column.primary}
    names = ", ".join(dict.fromkeys(c.column for c in tested if c.column in primary))
    first = sum(c.column in primary for c in tested)
    if first in (0, len(tested)):
        return f"all {len(tested)} comparisons"
    others = len(tested) - first
    return f"the {first} comparisons in primary columns ({names}), and apart from them over the other {others}"


def _legend(summary: dict[str, Any], labels: dict[str, str], columns: Sequence[Column]) -> Line:
    """The meaning of the table's marks, and the reasons for missing verdicts."""
    names = [n for n in labels if n in summary]
    comparisons = [c for n in names for c in summary[n].get("against strong", {}).values()]
    units = sorted({each.unit for n in names for each in summary[n]["columns"].values() if each.n})
    over = {"prompt": "prompts", "seed": "seeds of the only prompt", "video": "samples, the ten digits weighted alike"}
    line: list[Text] = [
        f"Means with 95 % intervals over {' or '.join(over[unit] for unit in units)}, not adjusted; in parentheses how"
        " many of the samples have a score."
    ]
    together = [c for n in names[:1] for c in summary[n]["decided together"] if not math.isnan(c.p_adjusted)]
    tested = [c for c in comparisons if not math.isnan(c.p_adjusted)]
    if tested:
        line += [" ", Marked("Bold", "better"), ": better than strong, ", Marked("italics", "worse")]
        line.append(
            ": worse, ≠: differs, where the p of paired samples, adjusted by Holm's method over"
            f" {_families(together, columns)}, is at most {LEVEL}. Unmarked: not decided, which is not the same as"
            " equal."
        )
    if len(together) > len(tested):
        line.append(" The comparisons of W2SD with its rivals are among them.")
    if any(any(c.lost) for c in tested):
        line.append(
            " Measures of objects are of samples that show all objects of the prompt. They are compared where both"
            " samples of a pair do, and never in favour of the method that does in fewer."
        )
    reasons: dict[str, list[str]] = {}
    for c in comparisons:
        if c.reason:
            reasons.setdefault(c.reason.removeprefix(NO_VERDICT), []).append(f"{c.column} of {labels[c.group]}")
    for why, on in reasons.items():
        line.append(" No verdict" + f" on {', '.join(on)}" * (len(on) < len(comparisons)) + f": {why}.")
    return line
