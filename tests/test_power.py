"""How many prompts a difference takes, against simulations and against another source."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.power import POWER, prompts_needed, t_test_power
from w2sd_video.verdicts import by_prompt

MEASURE, VERDICT = Column("measure"), Column("verdict", kind="verdict")


def groups(differences):
    """Values of two groups, a seed a prompt, with these differences."""
    prompts = [str(n) for n in range(len(differences))]
    return by_prompt(prompts, [0.0] * len(prompts)), by_prompt(prompts, [float(d) for d in differences])


def test_power_is_that_of_published_tables():
    # Cohen (1988), Statistical Power Analysis, table 2.3.5, for one sample (d = d4 / sqrt 2 of n pairs).
    assert t_test_power(34, 0.5, 0.05) == pytest.approx(0.81, abs=0.01)
    assert t_test_power(199, 0.2, 0.05) == pytest.approx(0.80, abs=0.005)


@pytest.mark.parametrize("comparisons", [1, 16])
def test_so_many_prompts_show_the_difference_in_80_of_100_simulated_runs(comparisons):
    rng = np.random.default_rng(0)
    seen = rng.normal(0.1, 2, 400)
    n = prompts_needed(MEASURE, *groups(seen), size=0.5, comparisons=comparisons)
    assert n is not None
    runs = 4000
    p = stats.ttest_1samp(rng.normal(0.5, seen.std(ddof=1), (runs, n)), 0, axis=1).pvalue
    assert (p <= 0.05 / comparisons).mean() == pytest.approx(POWER, abs=3 * (0.8 * 0.2 / runs) ** 0.5)


@pytest.mark.parametrize(("discordant", "size"), [(0.3, 0.1), (0.5, 0.2)])
def test_the_exact_test_of_verdicts_has_nearly_that_power(discordant, size):
    n10, n01 = round(1000 * (discordant + size) / 2), round(1000 * (discordant - size) / 2)
    seen = [1] * n10 + [-1] * n01 + [0] * (1000 - n10 - n01)
    first = by_prompt([str(n) for n in range(1000)], [float(d < 0) for d in seen])
    second = by_prompt([str(n) for n in range(1000)], [float(d > 0) for d in seen])
    n = prompts_needed(VERDICT, first, second, size)
    rng, runs = np.random.default_rng(1), 4000
    differ = rng.binomial(n, discordant, runs)
    up = rng.binomial(differ, (1 + size / discordant) / 2)
    p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(up, differ - up), differ, 0.5))
    assert 0.74 < (p <= 0.05).mean() < 0.84


def test_what_cannot_be_told_is_said_and_fewer_than_ten_prompts_never_do():
    assert prompts_needed(MEASURE, *groups([1.0]), size=0.5) is None
    assert prompts_needed(MEASURE, *groups([1.0, 1.0, 1.0]), size=0.5) is None
    assert prompts_needed(MEASURE, *groups([0.0, 1.0]), size=1e-6) is None
    assert prompts_needed(MEASURE, *groups([0.0, 1.0, 2.0]), size=1e9) == 10
    for size in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(Refused, match="power"):
            prompts_needed(MEASURE, *groups([0.0, 1.0]), size=size)
    for size, comparisons, name in (("0.5", 1, "power"), (0.5, 0, "comparisons"), (0.5, -1, "comparisons")):
        with pytest.raises(Refused, match=f"{name}: .* is not accepted"):
            prompts_needed(MEASURE, *groups([0.0, 1.0]), size, comparisons)
