"""The study of Re-Sampling on fresh prompts: what it says of rows whose differences are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from w2sd_video.shapes import grammar
from w2sd_video.studies import resampling

TEXTS = grammar.prompts(60)


def lines(right: float, form: float, seed: int, count: int = 60) -> resampling.Lines:
    """Rows of which a share is right, with a form of little noise; the first 20 are right and perfect in every row."""
    rng, made = np.random.default_rng(seed), {}
    for n in range(count):
        first = n < 20
        good = 1.0 if first else float(n % 10 < 10 * right)
        scores = {"right": good, "objects": good, "form": 1.0 if first else form + 0.001 * rng.standard_normal()}
        made[n] = {"prompt": TEXTS[n], "evaluations": 50, "scores": {**scores, "jerk": 1.0, "colour": 1.0}}
    return made


def test_verdicts_are_of_fresh_prompts_alone_and_adjusted_together():
    by = {name: lines(0.3, 0.9, n) for n, name in enumerate(resampling.SAMPLED)}
    by[resampling.ADVANCED] = lines(0.9, 0.95, 7)
    found = resampling.result(by, picked=20)
    of = {(row["method"], row["base"], row["column"]): row for row in found.rows}
    better = of[resampling.ADVANCED, "plain", "right"]
    assert better["difference"] == pytest.approx(0.6) and better["verdict"] == "better" and better["prompts"] == 40
    assert better["difference_where_picked"] == 0
    without = of[resampling.RE, "plain", "right"]
    assert without["verdict"] == "" and without["difference"] == 0
    assert len(found.rows) == 4 * 18  # eighteen pairs of methods
    least = min(found.rows, key=lambda row: row["p"])
    assert least["p_adjusted"] == pytest.approx(72 * least["p"])
    assert "Advanced Re-Sampling against W2SD: better in right, objects, form." in found.outcome
    assert "Nothing is decided of: Re-Sampling against plain; " in found.outcome
    some = {name: own for name, own in by.items() if not name.startswith("ancestral")}
    del some["W2SD, eta 1"]
    outcome = resampling.result(some, picked=20).outcome
    assert outcome.endswith("Not sampled yet on all of them: ancestral noise, ancestral noise, 49 steps, W2SD, eta 1.")


def test_a_method_that_shows_fewer_objects_has_no_verdict_in_its_favour():
    by = {name: lines(0.3, 0.9, n) for n, name in enumerate(resampling.SAMPLED)}
    by[resampling.RE] = lines(0.3, 0.95, 7)
    for n in (25, 35, 45):
        by[resampling.RE][n]["scores"]["form"] = math.nan
    found = resampling.result(by, picked=20)
    (form,) = [r for r in found.rows if (r["method"], r["base"], r["column"]) == (resampling.RE, "plain", "form")]
    assert form["verdict"] == "" and form["p_adjusted"] < 1e-6 and "shows less often than plain" in form["reason"]
    assert "(no verdict of 37)" in str(found.tables)
