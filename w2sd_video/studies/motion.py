"""Whether motion falls, and what keeps it.

The paper's dynamic degree falls from 45 to 13 % with its strong model, and to 8 % with W2SD. Here the judge of the
world of shapes measures `motion`, how far the objects of a video move in px, and four measures of steadiness. Each is
of videos that show all objects of the prompt, and is compared in prompts for which both methods' videos do.

The shipped pair is sampled with W2SD's settings that could keep or restore motion: gains on the displacement's part
that all frames share (*still*) and on the rest (*motion*), and intervals of noise levels that reflect. The pair with
another motion module is the shipped strong model with its motion module trained on, against the one that it ships with.

- **Keeps motion**: the mean motion is within 2 % of plain sampling's, by two one-sided tests.
- **Keeps the gain**: at least 80 % of W2SD's gain over plain sampling, in each measure of steadiness in which W2SD's
  gain is decided.

These claims are each at a one-sided p of at most 0.05, and not adjusted. A setting that keeps both would be a
candidate for a default, to be confirmed on fresh prompts. Every method starts from the same noise for a prompt.
Prompts are the units, and verdicts are adjusted together by Holm's method. No verdict is in favour of a method that
shows all objects in fewer videos than plain sampling does. Jerk is in px/frame³. A setting's mean is of all its
prompts, whose number the table says; a difference is of those in which both methods show all objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..claims import gain, suggested_margin, within
from ..errors import Refused
from ..shapes import rows, tuning
from ..shapes.bench import OTHERS, PLAIN, Row
from ..shapes.columns import SHAPES
from ..shapes.grammar import prompts
from ..shapes.pairs import sample_of, score
from ..shapes.table import compare_all, values_of
from ..verdicts import LEVEL, Comparison, mean
from .cost_table import verdict_of
from .figures import COLOURS, figure
from .study import Result, Run
from .videos import Videos, kept_rows

PAPER = "the dynamic degree of Table 12"
PAIR, MODULES = "shapes", "shapes-motion"
PROMPTS = 200
OTHER_PROMPTS = 60  # of rows whose settings the bench's table does not have
BASE, W2SD, TRUTH = "plain", "W2SD", "rendered truth"
MOTION, *STEADINESS = (
    replace(column, primary=column.name == "motion")
    for name in ("motion", "jerk", "area_instability", "colour_instability", "background_instability")
    for column in SHAPES
    if column.name == name
)
SHARE = 0.02  # of plain sampling's motion


@dataclass(frozen=True)
class Setting:
    """A row of the study.

    Args:
        says: settings of its requests that replace the preset's.
        pair: the pair's preset.
        few: whether it is sampled for at most OTHER_PROMPTS prompts.
    """

    says: Mapping[str, Any]
    pair: str = PAIR
    few: bool = True


SETTINGS = {
    BASE: Setting(PLAIN, few=False),
    "weak": Setting({"variant": "weak"}, few=False),
    "guidance 3": Setting({**PLAIN, "guidance_scale": 3.0}, few=False),
    "guidance 7": Setting({**PLAIN, "guidance_scale": 7.0}, few=False),
    "auto-guidance": Setting(OTHERS["auto-guidance"].says, few=False),
    "optimistic W2SD": Setting(OTHERS["optimistic"].says, few=False),
    W2SD: Setting({}, few=False),
    "W2SD, motion gain 0": Setting(OTHERS["motion-gain-0"].says, few=False),
    "W2SD, motion gain 0.5": Setting({"options": {"motion_gain": 0.5}}),
    "W2SD, motion gain 2": Setting(OTHERS["motion-gain-2"].says, few=False),
    "W2SD, still gain 0": Setting({"options": {"still_gain": 0.0}}),
    "W2SD, noise from 0.9 up": Setting({"options": {"interval": [0.9, 1.0]}}),
    "W2SD, noise up to 0.9": Setting({"options": {"interval": [0.0, 0.9]}}),
    "motion modules: plain": Setting(PLAIN, MODULES),
    "motion modules: W2SD": Setting({}, MODULES),
}
BASES = {MODULES: "motion modules: plain"}
QUICK = {"num_inference_steps": 3, "num_frames": 4}
Lines = dict[int, dict[str, Any]]


def run(run: Run) -> Result:
    if run.seed:
        raise Refused("seed", run.seed, "sample n has seed n in every run, so that runs can be combined: give 0")
    count = run.prompts or (2 if run.quick else PROMPTS)
    texts = prompts(max(count, tuning.FIRST) if run.rows else count)  # rows of more prompts than `count` are kept
    by: dict[str, Lines] = {}
    raw = b""
    for pair in (PAIR, MODULES):
        with kept_rows(run, f"motion-{pair}") as path:
            videos = Videos(run, path, pair, QUICK if run.quick else {})
            for few in (False, True):
                own = {
                    name: Row(name, dict(each.says))
                    for name, each in SETTINGS.items()
                    if each.pair == pair and each.few == few
                }
                lines = videos.lines(
                    {videos.name_of(row): row for row in own.values()},
                    texts,
                    min(count, OTHER_PROMPTS) if few else count,
                )
                by |= {name: lines[videos.name_of(row)] for name, row in own.items()}
            if not run.quick:
                raw += rows.packed(path, pair)
            if pair == PAIR:
                by[TRUTH] = truth(videos, texts[:count])
    if not by[BASE]:
        raise Refused("--workers", run.workers, "no prompt has a row yet: give 1 or more, which samples them")
    return result({name: by[name] for name in (*SETTINGS, TRUTH) if by[name]}, raw)


def truth(videos: Videos, texts: Sequence[str]) -> Lines:
    """The scores of the rendered videos of the texts, by number."""
    lines = {}
    for n, text in enumerate(texts):
        sample = sample_of(videos.preset, n, text, Path())
        lines[n] = {"prompt": sample.prompt, "scores": score(videos.pair, sample.data, sample)}
    return lines


def base_of(name: str) -> str:
    """Plain sampling of the same pair."""
    return BASES.get(SETTINGS[name].pair, BASE)


def result(by: Mapping[str, Lines], raw: bytes = b"") -> Result:
    """The study's result.

    Args:
        by: the lines of each setting, and of the rendered truth, by number.
    """
    pairs = [(base_of(name), name) for name in by if name in SETTINGS and name != base_of(name)]
    decided = {(c.group, c.column): c for c in compare_all(by, pairs, (MOTION, *STEADINESS))}
    gains = [column for column in STEADINESS if (c := decided.get((W2SD, column.name))) and c.verdict == "better"]
    kept = {name: _keeps(name, by, gains) for _, name in pairs}
    table, text = [], [["", "prompts", "motion (px)", "less plain's (px)", *(c.name for c in STEADINESS), "keeps"]]
    for name, lines in by.items():
        columns = {c.name: mean(c, values_of(lines, c)) for c in (MOTION, *STEADINESS)}
        row: dict[str, Any] = {"setting": name, "prompts": len(lines)}
        for column, own in columns.items():
            row |= {column: own.mean, f"{column}_low": own.low, f"{column}_high": own.high, f"{column}_n": own.n}
            if c := decided.get((name, column)):
                half = c.difference.high - c.difference.mean
                row |= {f"{column}_difference": c.difference.mean, f"{column}_half": half, f"{column}_p": c.p_adjusted}
        table.append(row)
        moved = decided.get((name, "motion"))
        text.append(
            [
                name,
                str(len(lines)),
                f"{columns['motion'].mean:.1f}",
                _words(moved, 2) if moved else "",
                *(_words(decided.get((name, c.name)), 3) for c in STEADINESS),
                " and ".join(word for word, p in kept.get(name, {}).items() if p <= LEVEL) or "nothing shown",
            ]
        )
    text[1:] = [row if row[0] in kept else [*row[:-1], ""] for row in text[1:]]
    caption = (
        "Motion and jerk (left is steadier) less those of plain sampling with the same noise, in prompts for which both"
        f" videos show all objects; their number is in parentheses (n = {max(map(len, by.values()))} prompts or fewer,"
        " 95 % intervals, not adjusted)."
    )
    return Result(
        table,
        _outcome(by, decided, gains, kept),
        _agrees(decided),
        _figure(decided, pairs),
        caption,
        {"By setting": text},
        raw,
    )


def _keeps(name: str, by: Mapping[str, Lines], gains: Sequence[Any]) -> dict[str, float]:
    """The p of the claims that a setting keeps motion, and that it keeps W2SD's gain in steadiness."""
    base, own = by[base_of(name)], by[name]
    motion = within(MOTION, values_of(own, MOTION), values_of({n: base[n] for n in own if n in base}, MOTION), SHARE)
    claims = {"motion": 1.0 if motion.holds is None else motion.p}
    if gains and W2SD in by and SETTINGS[name].pair == PAIR and name != W2SD:
        each = []
        for column in gains:
            arms = [{n: lines[n] for n in own if n in lines} for lines in (own, base, by[W2SD])]
            strong, weak = (mean(column, values_of(by[arm], column)).mean for arm in (BASE, "weak"))
            ours, plain, better = (values_of(arm, column) for arm in arms)
            claim = gain(column, ours, plain, better, suggested_margin(strong, weak))
            each.append(1.0 if claim.holds is None else claim.p)
        claims["the gain"] = max(each)
    return claims


def _words(c: Comparison | None, digits: int) -> str:
    if c is None:
        return ""
    half = c.difference.high - c.difference.mean
    return f"{c.difference.mean:+.{digits}f} ± {half:.{digits}f} ({verdict_of(c)})"


def _outcome(
    by: Mapping[str, Lines],
    decided: Mapping[tuple[str, str], Comparison],
    gains: Sequence[Any],
    kept: Mapping[str, Mapping[str, float]],
) -> str:
    plain = mean(MOTION, values_of(by[BASE], MOTION)).mean
    parts = []
    if moved := decided.get((W2SD, "motion")):
        falls = (
            {True: "rises", False: "falls"}[moved.difference.mean > 0] if moved.verdict else "is not decided to change"
        )
        half = moved.difference.high - moved.difference.mean
        parts.append(
            f"Under W2SD motion {falls}: {moved.difference.mean:+.2f} ± {half:.2f} px of plain sampling's {plain:.1f}"
            f" ({moved.difference.units} prompts in which both show all objects)"
        )
        if not moved.verdict:
            # Two one-sided tests at .05, each passed in 90 of 100 runs if nothing changes: 1.645 + 1.282 errors.
            needed = math.ceil(moved.difference.units * (2.927 * half / (1.96 * SHARE * plain)) ** 2)
            parts.append(
                f"if it does not change, some {needed} such prompts would show that it stays within {SHARE:.0%}, in 80"
                " of 100 runs"
            )
    others = {name: c for name in kept if name != W2SD and (c := decided.get((name, "motion"))) and c.verdict}
    changed = ", ".join(f"{name} ({c.difference.mean:+.2f} px)" for name, c in others.items())
    parts.append(f"other settings whose motion is decided to differ: {changed or 'none'}")
    still = [name for name, claims in kept.items() if claims["motion"] <= LEVEL]
    parts.append(f"settings shown to keep motion: {', '.join(still) or 'none'}")
    names = ", ".join(column.name for column in gains)
    parts.append(f"W2SD's gain in steadiness is decided in {names or 'none of four measures'}")
    both = [name for name, claims in kept.items() if len(claims) > 1 and max(claims.values()) <= LEVEL]
    parts.append(f"settings shown to keep motion and the gain: {', '.join(both) or 'none'}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _agrees(decided: Mapping[tuple[str, str], Comparison]) -> str:
    moved = decided.get((W2SD, "motion"))
    if moved is None or not moved.verdict:
        return "The paper's W2SD moves less than its strong model. Here no change is decided; not decided is not equal."
    if moved.difference.mean < 0:
        return "That agrees with the paper, whose W2SD moves less than its strong model."
    return "That is opposite to the paper, whose W2SD moves less than its strong model."


def _figure(decided: Mapping[tuple[str, str], Comparison], pairs: Sequence[tuple[str, str]]) -> Any:
    drawn, axes = figure(columns=2, height=3.4, sharey=True)
    names = [name for _, name in pairs if (name, "motion") in decided]
    known = {W2SD: "w2sd", "optimistic W2SD": "optimistic", "auto-guidance": "auto_guidance", "weak": "weak"}
    for ax, column in zip(axes[0], ("motion", "jerk"), strict=True):
        for place, name in enumerate(names):
            if c := decided.get((name, column)):
                half = c.difference.high - c.difference.mean
                colour = COLOURS[known.get(name, "strong" if name.startswith("guidance") else "other")]
                ax.errorbar(c.difference.mean, place, xerr=half, fmt="o", color=colour, markersize=4, capsize=2)
        ax.axvline(0, color="0.6", linewidth=0.8)
    counts = {name: decided[name, "motion"].difference.units for name in names}
    axes[0][0].set_yticks(range(len(names)), [f"{name} ({counts[name]})" for name in names])
    axes[0][0].invert_yaxis()
    axes[0][0].set(xlabel="motion less plain sampling's (px)")
    axes[0][1].set(xlabel="jerk less plain sampling's (px/frame³)")
    return drawn
