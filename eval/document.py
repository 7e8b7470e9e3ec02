"""What scores come to as a document, of which `w2sd_video.tables` makes Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from w2sd_video.tables import Block, Items, Line, Marked, Paragraph, Table, Text
from w2sd_video.verdicts import small

from .totals import lines

if TYPE_CHECKING:
    from .results import Summary
    from .worse import Worse


def document(summary: Summary) -> list[Block]:
    """The means, the differences from the first group, VBench's totals, and what a reader of the tables has to know."""
    blocks: list[Block] = [_means(summary)]
    if summary.comparisons:
        blocks.append(_differences(summary))
    if totals := lines(summary):
        blocks.append(Items([(line,) for line in totals]))
    means = "Means with 95 % intervals" if summary.has_intervals else "Means"
    first = f"{means}; in parentheses how many of a group's {summary.thing}s have a score."
    blocks.append(Paragraph((" ".join([first, *summary.rules("")]),)))
    if any(c.verdict for c in summary.comparisons):
        better = f": better than {summary.base}, "
        blocks.append(Paragraph((Marked("Bold", "better"), better, Marked("italics", "worse"), ": worse, ≠: differs.")))
    return blocks


def _means(summary: Summary) -> Table:
    verdicts = {(c.group, c.column): c.verdict for c in summary.comparisons}
    rows: list[list[Text]] = [["", *map(summary.counted, summary.groups)]]
    for name, column in summary.columns.items():
        means = {group: summary.means[group][name] for group in summary.groups}
        if not any(mean.n for mean in means.values()):
            continue
        alike = len({mean.counted for mean in means.values()}) == 1
        counted = {group: "" if alike or not mean.n else f" ({mean.counted})" for group, mean in means.items()}
        cells = [Marked(f"{mean}{counted[group]}", verdicts.get((group, name), "")) for group, mean in means.items()]
        rows.append([column.label + f" ({means[summary.base].counted})" * alike, *cells])
    return Table(["", *summary.groups], rows)


def _differences(summary: Summary) -> Table:
    head = ["", "group", f"difference from {summary.base}", "pairs", "wins", "adjusted p", "verdict"]
    rows: list[list[Text]] = []
    for c in summary.comparisons:
        column = summary.columns[c.column]
        wins = f"{'' if column.sign else 'higher in '}{c.wins.mean:.0%}"
        wins += "" if c.preference is None else f", preferred {c.preference:.0%}"
        p = "" if math.isnan(c.p_adjusted) else small(c.p_adjusted)
        difference = Marked(c.difference.text(sign="+"), c.verdict)
        verdict = c.verdict or c.reason or "not decided"
        rows.append([column.label, c.group, difference, c.difference.counted, wins, p, verdict])
    return Table(head, rows)


def worse_prompts(summary: Summary) -> Items:
    """The prompts on which groups are worse than the first, by group and column."""
    lines: list[Line | Items] = []
    for group in summary.others:
        listed = [each for each in summary.worse if each.group == group]
        if listed and not any(each.count for each in listed):
            lines.append((f"{group} is worse than {summary.base} on no prompt.",))
        elif listed:
            lines.append((f"Prompts on which {group} is worse than {summary.base}, {summary.listing}",))
            lines.append(Items(list(_by_column(summary, [each for each in listed if each.count]))))
    return Items(lines)


def _by_column(summary: Summary, listed: list[Worse]) -> Iterator[Line | Items]:
    for each in listed:
        yield (f"{summary.columns[each.column].label}: {each.count} of {each.of} prompts",)
        prompts = []
        for prompt in each.prompts:
            pairs = [str(pair) for pair in prompt.pairs[: summary.worst]]
            more = len(prompt.pairs) - len(pairs)
            pairs += [f"and {more} more"] * bool(more)
            prompts.append((f"{prompt.difference:+.4g}  {' '.join(prompt.prompt.split())}  ({'; '.join(pairs)})",))
        yield Items(prompts)
