"""Intervals, tests and verdicts: each formula against another source, and what simulations say of the whole rule."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from w2sd_video import claims
from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.eval import report
from w2sd_video.eval.dimensions import Dimension, get
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video
from w2sd_video.shapes.columns import DIGITS
from w2sd_video.statistics import bounded, half_width, holm, korn_graubard, pseudo_prompts, sign_flip, t_test
from w2sd_video.verdicts import Comparison, Values, by_prompt, compare, decide, mean

MEASURE, VERDICT = Column("measure"), Column("verdict", kind="verdict")
SIZES = [(20, 5), (10, 1), (93, 5)]  # prompts and seeds


def by_row(rows: np.ndarray) -> Values:
    """Values (prompts, seeds); rows may be lists of None and NaN."""
    return {
        f"prompt {i}": {str(s): None if v is None else float(v) for s, v in enumerate(r)} for i, r in enumerate(rows)
    }


def between(base: object, group: object, column: Column = MEASURE) -> Comparison:
    found = compare(column, "base", "group", by_row(base), by_row(group))
    assert found is not None
    return found


def verdict(base: object, group: object, column: Column = MEASURE) -> Comparison:
    (found,) = decide([between(base, group, column)], {column.name: column})
    return found


# Formulas


def test_the_exact_test_is_fishers_of_darwins_maize():
    """Fisher, The Design of Experiments (1935), section 21: of 32,768 sums, 1,726 are as far from 0 as 314."""
    eighths_of_an_inch = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sum(eighths_of_an_inch) == 314
    assert sign_flip(eighths_of_an_inch) == 1726 / 32768


def test_the_t_test_is_that_of_students_sleep_data():
    """R's documentation of `sleep`: t.test(..., paired = TRUE) gives p = 0.002833 and -2.4598858 to -0.7001142."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = between([[v] for v in second], [[v] for v in first])
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    interval = found.difference.mean, found.difference.low, found.difference.high
    assert interval == pytest.approx((-1.58, -2.4598858, -0.7001142), abs=5e-8)


def test_a_share_without_an_effect_of_prompts_has_clopper_and_pearsons_interval():
    """R's documentation of `binom.test`, Mendel's 682 of 925: 0.7076683 to 0.7654066."""
    low, high = korn_graubard(682 / 925, 0.0, 924, 925, 925)
    assert (low, high) == (pytest.approx(0.7076683, abs=5e-8), pytest.approx(0.7654066, abs=5e-8))


def test_a_mean_of_prompts_has_students_interval():
    rows = np.random.default_rng(0).normal(3, 1, (12, 5))
    found = mean(MEASURE, by_row(rows))
    low, high = stats.ttest_1samp(rows.mean(1), 0).confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx((rows.mean(), low, high), rel=1e-12)
    assert (found.n, found.of, found.units, found.unit, found.counted) == (60, 60, 12, "prompt", "60 of 60")


def test_a_difference_of_measures_has_the_p_of_the_paired_t_test_over_prompts():
    rng = np.random.default_rng(1)
    base, group = rng.normal(size=(15, 4)), rng.normal(0.3, 1, size=(15, 4))
    found, theirs = between(base, group), stats.ttest_1samp((group - base).mean(1), 0)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-12)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(theirs.confidence_interval()))


@pytest.mark.parametrize(("wins", "losses"), [(1, 5), (8, 1), (3, 3), (12, 2), (0, 9)])
def test_with_one_seed_the_exact_test_is_the_binomial_test_of_the_prompts_that_differ(wins, losses):
    base = [[0]] * wins + [[1]] * losses + [[1]] * 4 + [[0]] * 3
    group = [[1]] * wins + [[0]] * losses + [[1]] * 4 + [[0]] * 3
    assert between(base, group, VERDICT).p == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-12)


def test_the_exact_test_counts_every_flip_of_halves_and_of_unequal_seeds():
    base = [[0, 0.5, 1], [0, 0], [0.5], [1, 0, 0.5], [0, 0.5], [1], [0.5, 0.5, 0.5]]
    group = [[1, 1, 1], [0.5, 0], [1], [1, 0.5, 0.5], [0, 0], [1], [1, 0.5, 1]]
    units = [
        sum(Fraction(b) - Fraction(a) for a, b in zip(*rows, strict=True)) / len(rows[0])
        for rows in zip(base, group, strict=True)
    ]
    flips = [
        abs(sum(s * d for s, d in zip(signs, units, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(units))
    ]
    expected = sum(flip >= abs(sum(units)) for flip in flips) / len(flips)
    assert between(base, group, VERDICT).p == pytest.approx(expected, rel=1e-12) and 0.05 < expected < 0.5


def test_thirds_are_no_ties_that_rounding_breaks():
    a, b = [[1 / 3, 2 / 3, 1 / 3]] * 3, [[2 / 3, 1 / 3, 1 / 3]] * 3
    assert between(a, b, VERDICT).p == 1.0


def test_sums_too_many_to_tell_apart_never_make_p_smaller():
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 17, 60)
    units = [Fraction(int(x), int(n)) for x, n in zip(rng.integers(-4, 7, 60), counts, strict=True)]
    size = np.array([float(d) for d in units])
    flipped = np.abs(rng.choice([1, -1], (100_000, 60)) @ size)
    expected = np.mean(flipped >= abs(size.sum()) - 1e-12)
    assert expected - 0.002 <= sign_flip(units) <= expected + 0.004


def test_prompts_that_all_differ_alike_have_the_smallest_p_of_a_sign_flip():
    assert between([[0.25]] * 12, [[0.5]] * 12).p == 2**-11
    assert between([[0]] * 12, [[1]] * 12, VERDICT).p == 2**-11
    assert between([[0.25]] * 12, [[0.25]] * 12).p == 1.0 == between([[1]] * 12, [[1]] * 12, VERDICT).p
    assert between([[0.1 * n] for n in range(12)], [[0.1 * n + 0.1] for n in range(12)]).p == 2**-11  # but for rounding


def test_the_interval_of_a_share_that_is_the_same_in_every_prompt_is_clopper_and_pearsons():
    # 10 of 10, from the tables of Clopper & Pearson (1934): 0.692 to 1.
    found = mean(VERDICT, by_row([[1, 1]] * 10))
    assert (found.mean, found.low, found.high) == (1.0, pytest.approx(0.6915, abs=5e-5), 1.0)
    assert str(found) == "1.0000 [0.6915, 1.0000]"
    none = mean(VERDICT, by_row([[0]] * 10))
    assert (none.low, none.high) == (0.0, pytest.approx(0.3085, abs=5e-5))


def test_the_interval_of_a_share_is_korn_and_graubards():
    rows = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]])
    v = np.var([1, 0.5, 0, 1, 1, 0.5, 1, 1], ddof=1) / 8
    n_e = min(0.75 * 0.25 / v, 16) * (stats.t.ppf(0.975, 15) / stats.t.ppf(0.975, 7)) ** 2
    x = 0.75 * n_e
    expected = stats.beta.ppf(0.025, x, n_e - x + 1), stats.beta.ppf(0.975, x + 1, n_e - x)
    found = mean(VERDICT, by_row(rows))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-10)
    assert n_e < 16 and found.low < 0.5 < 0.75 < found.high  # wider than of 16 single videos


def test_the_interval_of_a_difference_of_shares_is_students_with_two_pseudo_prompts():
    rng = np.random.default_rng(3)
    base, group = rng.random((14, 4)) < 0.4, rng.random((14, 4)) < 0.7
    d = (group.astype(float) - base).mean(1)
    half = np.ptp(stats.ttest_1samp([*d, 0.5, -0.5], 0).confidence_interval()) / 2
    found = between(base, group, VERDICT).difference
    assert (found.mean, found.low, found.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half), rel=1e-12)
    never = between([[1]] * 20, [[1]] * 20, VERDICT).difference
    assert never.high > 0.05  # equal in 20 prompts is not equal for certain


def test_holms_adjustment():
    # The example of Wikipedia's "Holm-Bonferroni method": 0.01, 0.04, 0.03, 0.005; R's p.adjust gives the same.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([[0.5, 0.9], [0.01, 0.01]]) == pytest.approx(np.array([[1, 1], [0.02, 0.02]]))


def test_classes_that_are_all_there_are_strata():
    rng = np.random.default_rng(4)
    column = Column("of two classes", classes=2)
    a, b = rng.normal(2, 1, 7), rng.normal(-5, 3, 12)
    values = {"one": dict(zip("abcdefg", a, strict=True)), "two": dict(zip("abcdefghijkl", b, strict=True))}
    found, welch = mean(column, values), stats.ttest_ind(a, -b, equal_var=False)  # of the sum of two means
    low, high = welch.confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx((welch._estimate / 2, low / 2, high / 2), rel=1e-9)
    assert (found.units, found.unit) == (19, "video")
    assert mean(column, {"one": {"a": 1.0}, "two": {"a": 2.0, "b": 3.0}}).unit == "prompt"  # one video has no variance
    assert mean(MEASURE, values).unit == "prompt"


def test_with_one_prompt_the_unit_is_its_seed():
    found = verdict([[0.0] * 12], [[1.0, 2.0, 3.0] * 4])
    assert found.difference.unit == "seed" and found.verdict == "better"
    assert found.difference.over == "12 seeds of this prompt"
    assert verdict([[0] * 8], [[1] * 8], VERDICT).reason == "no verdict: under 10 seeds"


def test_pairs_are_the_common_seeds_and_without_any_the_means_of_the_prompt():
    base = {"both": {"0": 1.0, "1": 2.0, "9": 50.0}, "other seeds": {"0": 1.0, "1": 2.0}, "only here": {"0": 7.0}}
    group = {"both": {"0": 2.0, "1": 5.0}, "other seeds": {"2": 3.0}, "only there": {"0": 0.0}}
    found = compare(MEASURE, "base", "group", base, group)
    assert found and found.difference.mean == pytest.approx(((1 + 3) / 2 + (3 - 1.5)) / 2)
    assert found.difference.units == 2
    assert compare(MEASURE, "base", "group", {"a": {"0": 1.0}}, {"b": {"0": 1.0}}) is None


def test_wins_and_preferences_are_means_over_prompts():
    base = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    group = [[1.0, 2.0, -1.0], [0.0, 1.0, math.nan]]
    found = between(base, group, replace(MEASURE, odds=True))
    assert found.win_rate == pytest.approx((2 / 3 + 3 / 4) / 2)
    shares = [np.mean([1 / (1 + math.exp(-d)) for d in row if d == d]) for row in group]
    assert found.preference == pytest.approx(np.mean(shares))
    assert between(base, group, replace(MEASURE, sign=-1)).win_rate == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert between([[0.0]], [[math.log(3)]], replace(MEASURE, odds=True)).preference == pytest.approx(0.75)  # 3 : 1


# Verdicts

UP = [[float(n)] for n in range(20)]


def higher(rows: list[list[float]], by: float = 1.0) -> list[list[float]]:
    return [[v + by * (1 + 0.1 * (n % 3)) for v in row] for n, row in enumerate(rows)]


def test_a_verdict_says_better_or_worse_by_the_columns_sign_and_differs_without_one():
    assert verdict(UP, higher(UP)).verdict == "better" and verdict(UP, higher(UP)).better is True
    assert verdict(UP, higher(UP), replace(MEASURE, sign=-1)).verdict == "worse"
    assert verdict(UP, higher(UP), replace(MEASURE, sign=0)).verdict == "differs"
    assert verdict(UP, higher(UP), replace(MEASURE, sign=0)).better is None


def test_p_is_adjusted_over_all_columns_and_groups_that_are_shown():
    rng = np.random.default_rng(5)
    base, group = rng.normal(size=(12, 1)), rng.normal(size=(12, 1))
    group += -group.mean() + base.mean() + 2.4 * (group - base).std() / 12**0.5
    alone = verdict(base, group)
    assert 0.01 < alone.p <= 0.05 and alone.verdict == "better"
    others = [between(base, rng.permutation(base)) for _ in range(9)]
    with_nine, *_ = decide([between(base, group), *others], {"measure": MEASURE})
    assert with_nine.p == alone.p and with_nine.p_adjusted == pytest.approx(10 * alone.p) and with_nine.verdict == ""


def test_primary_columns_are_a_family_of_their_own():
    columns = {f"c{n}": Column(f"c{n}", primary=n == 0) for n in range(20)}
    rng = np.random.default_rng(6)
    base = rng.normal(size=(12, 1))
    noise = rng.normal(size=(12, 1))
    group = base + noise - noise.mean() + 2.6 * noise.std() / 12**0.5
    found = decide([between(base, group, column) for column in columns.values()], columns)
    assert [c.verdict for c in found] == ["better"] + [""] * 19
    assert found[0].p_adjusted == found[0].p and found[1].p_adjusted == pytest.approx(min(1, 19 * found[1].p))


def test_under_ten_prompts_nothing_is_ever_called_better():
    for n in range(2, 10):
        found = verdict([[0.0, 0.1]] * n, [[5.0, 7.0]] * n)
        assert found.verdict == "" and found.better is None and found.reason == "no verdict: under 10 prompts"
        assert math.isnan(found.p_adjusted)
        assert verdict([[0]] * n, [[1]] * n, VERDICT).verdict == ""
    assert verdict([[0]] * 10, [[1]] * 10, VERDICT).verdict == "better"


def test_what_no_p_can_decide_is_said():
    columns = {f"c{n}": Column(f"c{n}", kind="verdict") for n in range(40)}
    found = decide([between([[0]] * 10, [[n % 2]] * 10, columns[f"c{n}"]) for n in range(40)], columns)
    assert {c.verdict for c in found} == {""}  # 2^-9 times 40 is 0.08
    assert {c.reason for c in found} == {"cannot be decided with 10 prompts"}
    measured = verdict([[0.0]] * 10, [[0.0]] * 9 + [[1.0]])
    assert measured.verdict == measured.reason == ""  # a measure's p may be as small as you like


# Missing values


def test_a_failed_video_is_0_in_a_verdict_column():
    found = mean(VERDICT, by_row([[1, None], [1, 1]]))
    assert (found.mean, found.counted) == (0.75, "4 of 4")
    assert mean(replace(VERDICT, sign=-1), by_row([[0, None], [0, 0]])).mean == 0.25
    assert between([[1]] * 12, [[None]] * 12, VERDICT).difference.mean == -1.0


def test_a_measure_is_better_only_with_the_worst_value_in_each_failed_videos_place():
    whole = verdict(UP, higher(UP, 0.5))
    assert whole.verdict == "better" and whole.failed == 0
    failing = higher(UP, 0.5)
    failing[18] = failing[19] = [None]
    found = verdict(UP, failing)
    assert found.verdict == "" and found.failed == 2 and found.p > 0.05
    assert (found.difference.counted, found.difference.units) == ("18 of 20", 18)
    assert verdict(UP, higher(UP, 90.0)[:19] + [[None]]).verdict == "better"
    # What fails is not excused by an arm that fails elsewhere, nor does a failure of the base count for the group.
    base: list = [*UP[:18], [None], [None]]
    assert verdict(base, UP).p == 1.0
    assert verdict(UP, failing, replace(MEASURE, sign=0)).verdict == ""


def test_a_measure_of_what_is_not_there_never_favours_the_arm_that_lost_it():
    lost = higher(UP)
    lost[0] = [math.nan]
    found = verdict(UP, lost)
    assert found.p < 0.001 and found.lost == (1, 0) and found.difference.counted == "19 of 20"
    assert found.verdict == "" and found.reason == "no verdict: group shows less often than base what is measured"
    assert verdict(lost, UP).verdict == "" and verdict(lost, UP).lost == (0, 1)  # "worse" would favour the base
    assert verdict(UP, lost, replace(MEASURE, sign=-1)).verdict == "worse"
    both: list = [[math.nan], *UP[1:]]
    assert verdict(both, lost).verdict == "better"  # where neither shows it, none has lost it


# Claims


def test_not_worse_is_a_one_sided_t_test_against_the_margin():
    rng = np.random.default_rng(7)
    base, ours = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    d = (ours - base).mean(1)
    theirs = stats.ttest_1samp(d, -0.5, alternative="greater").pvalue
    assert claims.not_worse(MEASURE, by_row(ours), by_row(base), 0.5).p == pytest.approx(theirs)
    lower = claims.not_worse(replace(MEASURE, sign=-1), by_row(ours), by_row(base), 0.5)
    assert lower.p == pytest.approx(stats.ttest_1samp(-d, -0.5, alternative="greater").pvalue)


def test_verdicts_that_do_not_differ_in_n_prompts_do_not_show_a_loss_below_a_margin_that_n_cannot_see():
    """With a loss of `margin`, one video a prompt, no prompt of n differs with probability (1 - margin)^n."""
    for n, margin, holds in ((25, 0.008, False), (50, 0.026, False), (100, 0.02, False), (100, 0.03, True)):
        same = by_row([[0.0]] * n)
        found = claims.not_worse(VERDICT, same, same, margin)
        assert found.p == pytest.approx((1 - margin) ** n) and found.holds is holds


@pytest.mark.parametrize("wins, bound", [(20, -0.4), (27, 0.2), (30, 0.9), (3, -0.1)])
def test_of_values_at_the_ends_of_the_range_the_test_of_bounded_values_is_the_binomial_test(wins, bound):
    theirs = stats.binomtest(wins, 30, (1 + bound) / 2, alternative="greater").pvalue
    assert bounded([1.0] * wins + [-1.0] * (30 - wins), bound) == pytest.approx(theirs, abs=1e-9)


def test_a_claim_of_verdicts_holds_falsely_in_at_most_5_percent():
    """Of 60 prompts, the arms differ in few, and ours loses by exactly the margin."""
    rng = np.random.default_rng(11)
    for better, worse in ((0.0, 0.05), (0.02, 0.08), (0.2, 0.3)):
        draws = rng.choice([1.0, -1.0, 0.0], p=[better, worse, 1 - better - worse], size=(400, 60))
        kinds, counts = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
        false = counts[[bounded(kind, better - worse) <= 0.05 for kind in kinds]].sum() / len(draws)
        assert false <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_not_significant_is_not_equal():
    rng = np.random.default_rng(8)
    base, ours = by_row(rng.normal(size=(12, 1))), by_row(rng.normal(size=(12, 1)))
    found = compare(MEASURE, "base", "ours", base, ours)
    assert found and found.p > 0.05 and claims.not_worse(MEASURE, ours, base, 0.1).holds is False


def test_nothing_is_worse_where_every_column_passes_by_itself():
    same, near = by_row(UP), by_row([[value + 0.01 * (n % 3) for value in row] for n, row in enumerate(UP)])
    good = claims.not_worse(MEASURE, near, same, 0.1)
    bad = claims.not_worse(Column("other"), same, by_row(higher(UP)), 0.1)
    assert good.holds and not bad.holds
    assert claims.nothing_worse([good, good]).holds and not claims.nothing_worse([good, bad]).holds
    assert claims.nothing_worse([good, bad]).text == f"{good.text}; {bad.text}"
    few = claims.not_worse(MEASURE, by_row(UP[:9]), by_row(UP[:9]), 0.1)
    assert few.holds is None and claims.nothing_worse([good, few]).holds is None


def test_measures_that_are_equal_in_every_sample_do_not_show_how_large_a_rare_loss_is():
    same = by_row([[0.0]] * 200)  # such as the share of clipped values
    found = claims.not_worse(MEASURE, same, same, 0.0001)
    assert found.p == 1 and found.holds is False


def test_within_two_percent_is_two_one_sided_tests():
    rng = np.random.default_rng(9)
    r = rng.normal(10, 1, 40)
    m = r * rng.normal(1.005, 0.02, 40)
    ps = [stats.ttest_1samp(d, 0, alternative="greater").pvalue for d in (m - 0.98 * r, 1.02 * r - m)]
    found = claims.within(replace(MEASURE, sign=0), by_row(m[:, None]), by_row(r[:, None]))
    assert found.p == pytest.approx(max(ps)) and found.holds and found.text == "measure: within 2%"
    assert not claims.within(MEASURE, by_row(1.03 * m[:, None]), by_row(r[:, None])).holds


@pytest.mark.parametrize("sign", [1, -1])
def test_eighty_percent_of_the_gain(sign):
    rng = np.random.default_rng(10)
    strong = rng.normal(0, 0.1, (20, 3))
    best = strong + sign + rng.normal(0, 0.1, (20, 3))
    column = replace(MEASURE, sign=sign)
    arms = by_row(strong), by_row(best)
    ours = {share: by_row(strong + share * (best - strong)) for share in (0.6, 0.85)}
    assert claims.gain(column, ours[0.85], *arms, margin=0.05).holds
    assert not claims.gain(column, ours[0.6], *arms, margin=0.05).holds


def test_a_claim_has_to_hold_with_failed_videos_and_not_for_what_was_lost():
    failed: list = [*UP[:19], [None]]
    lost = [*UP[:19], [math.nan]]
    ours = by_row([[value + 0.01 * (n % 3) for value in row] for n, row in enumerate(UP)])
    assert claims.not_worse(MEASURE, ours, by_row(UP), 0.5).holds
    assert not claims.not_worse(MEASURE, by_row(failed), by_row(UP), 0.5).holds
    assert not claims.not_worse(MEASURE, by_row(lost), by_row(UP), 0.5).holds
    assert claims.not_worse(MEASURE, ours, by_row(lost), 0.5).holds


def test_a_claim_without_a_margin_or_a_better_side_is_refused():
    values = by_row(UP)
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin: .* is not accepted; give a positive number"):
            claims.not_worse(MEASURE, values, values, margin)
    with pytest.raises(ValueError, match="measure has no better side"):
        claims.not_worse(replace(MEASURE, sign=0), values, values, 0.1)
    assert claims.suggested_margin(3.0, 1.0) == pytest.approx(0.2)


# What `eval` makes of it


def scored(groups: dict[str, dict[tuple[str, int], dict[str, float | None] | None]], names: list[str]) -> Scores:
    """Scores by group, prompt and seed; None is a video that could not be read."""
    scores = Scores([get(name) for name in names], [], weights=dict.fromkeys(names, {}))
    for group, videos in groups.items():
        for (prompt, seed), columns in videos.items():
            video = Video(Path(f"{group}/{prompt}-{seed}.mp4"), group, f"{prompt}, seed {seed}", prompt)
            scores.videos.append(video)
            if columns is None:
                scores.problems.append((video, "", "it is not a video"))
            else:
                scores.of[video] = columns
                scores.facts[video] = {"frames": 8, "fps": 8.0, "height": 64, "width": 64}
    return scores


def empty_files(scores: Scores) -> None:
    """What the videos' hashes are of, in the current folder."""
    for video in scores.videos:
        video.path.parent.mkdir(exist_ok=True)
        video.path.touch()


def shapes_scores(prompts: int, seeds: int, **columns: Callable[[str, int, int], float | None]) -> Scores:
    """Of groups plain and w2sd: columns as functions of group, prompt and seed."""
    return scored(
        {
            group: {
                (f"prompt {i}", s): {f"shapes_{name}": of(group, i, s) for name, of in columns.items()}
                for i in range(prompts)
                for s in range(seeds)
            }
            for group in ("plain", "w2sd")
        },
        ["shapes"],
    )


def test_five_seeds_of_a_prompt_are_one_unit():
    """Prompts differ in what the second group gains, and seeds do not: over videos the interval was half as wide."""
    gains = np.random.default_rng(17).normal(0.3, 1, 20)
    summary = Summary(shapes_scores(20, 5, jerk=lambda group, i, s: (group == "plain") * gains[i]))
    (found,) = summary.comparisons
    assert (found.difference.n, found.difference.units, found.difference.unit) == (100, 20, "prompt")
    assert found.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert summary.counted("w2sd") == "20 prompts, 100 videos"


def test_a_video_that_failed_is_wrong_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = shapes_scores(12, 1, right=lambda *_: 1.0, jerk=lambda group, i, s: float(i))
    (gone,) = [v for v in scores.videos if v.group == "w2sd" and v.prompt == "prompt 3"]
    del scores.of[gone], scores.facts[gone]
    scores.problems.append((gone, "", "it is not a video"))
    summary = Summary(scores)
    right, jerk = (summary.means["w2sd"][f"shapes_{name}"] for name in ("right", "jerk"))
    assert right.mean == pytest.approx(11 / 12) and (right.counted, jerk.counted) == ("12 of 12", "11 of 12")
    assert summary.counted("w2sd") == "12 prompts, 12 videos; 1 of 12 failed"
    assert {c.column: c.failed for c in summary.comparisons} == {"shapes_right": 1, "shapes_jerk": 1}
    assert any("one that failed counts as the worse" in line for line in summary.legend)
    empty_files(scores)
    data = summary.data([])
    assert data["groups"]["w2sd"]["failed"] == 1
    assert data["groups"]["w2sd"]["columns"]["shapes_jerk"].keys() >= {
        "mean",
        "low",
        "high",
        "n",
        "of",
        "units",
        "unit",
    }
    tests = {"p", "p_adjusted", "verdict", "reason", "difference", "win_rate", "wins", "better", "failed", "lost"}
    assert data["comparisons"][0].keys() >= tests


def test_a_failed_video_is_not_wrong_in_what_its_prompt_does_not_ask():
    scores = shapes_scores(12, 1, size=lambda group, i, s: 1.0 if i % 2 else None)
    for video in [v for v in scores.videos if v.group == "w2sd" and v.prompt in ("prompt 2", "prompt 3")]:
        del scores.of[video], scores.facts[video]
        scores.problems.append((video, "", "it is not a video"))
    found = Summary(scores).means["w2sd"]["shapes_size"]
    assert found.mean == pytest.approx(5 / 6) and found.counted == "6 of 12"


def test_a_measurement_that_fails_is_not_the_videos_failure():
    scores = shapes_scores(3, 1, right=lambda *_: 1.0)
    video = scores.videos[0]
    scores.of[video] = {}
    scores.problems.append((video, "shapes", "its prompt is not of the shapes world"))
    assert Summary(scores).means["plain"]["shapes_right"].counted == "2 of 3"


class DigitsColumns(Dimension):
    """The columns of the judge of digits, without the judge, which imports all that trains the digits' model."""

    name = "digits"
    columns = tuple(f"digits_{column.name}" for column in DIGITS)


def test_all_ten_digits_are_strata():
    numbers = np.random.default_rng(18)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    videos = {
        group: {(name, s): {"digits_right": float(numbers.random() < 0.9)} for name in names for s in range(4)}
        for group in "ab"
    }
    scores = scored(videos, [])
    scores.dimensions.append(DigitsColumns())
    summary = Summary(scores)
    assert summary.means["a"]["digits_right"].unit == "video" and summary.comparisons[0].difference.units == 40
    assert any("ten digits" in line for line in summary.legend)


def test_the_legend_says_what_the_units_are():
    several = Summary(shapes_scores(2, 2, jerk=lambda group, i, s: float(s)))
    alone = Summary(shapes_scores(1, 12, jerk=lambda group, i, s: float(s)))
    over_prompts = [any("over prompts" in line for line in each.legend) for each in (several, alone)]
    over_seeds = [any("of this prompt alone" in line for line in each.legend) for each in (several, alone)]
    assert (over_prompts, over_seeds) == ([True, False], [False, True])
    assert several.counted("w2sd") == "2 prompts, 4 videos" and alone.counted("w2sd") == "1 prompt, 12 videos"


def test_scores_of_nothing_but_failed_videos_make_a_page(recwarn):
    scores = scored({group: {("a", 0): None, ("b", 0): None} for group in ("plain", "w2sd")}, ["shapes"])
    summary = Summary(scores)
    assert summary.means["w2sd"]["shapes_right"].mean == 0 and "2 of 2 failed" in report.page(summary)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_primary_columns_are_declared_by_name():
    scores = shapes_scores(12, 1, right=lambda *_: 1.0, jerk=lambda group, i, s: float(i))
    summary = Summary(scores, primary=["shapes_right"])
    assert [name for name, column in summary.columns.items() if column.primary] == ["shapes_right"]
    assert any(
        "the 1 comparisons of primary columns (shapes_right), and apart from them the other 1" in line
        for line in summary.legend
    )
    with pytest.raises(Refused, match="primary: 'shapes_rihgt' is not accepted; did you mean 'shapes_right'"):
        Summary(scores, primary=["shapes_rihgt"])


def test_the_order_of_videos_changes_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(19)
    table = {(g, i, s): rng.lognormal(0, 3, 2) for g in ("plain", "w2sd") for i in range(13) for s in range(3)}
    scores = shapes_scores(
        13,
        3,
        right=lambda *at: float(table[at][0] > 1),
        jerk=lambda *at: table[at][1],
        motion=lambda *at: sum(table[at]),
    )
    empty_files(scores)
    written = []
    for n in range(3):
        (tmp_path / str(n)).mkdir()
        first = [v for v in scores.videos if v.group == "plain"]
        second = [v for v in scores.videos if v.group == "w2sd"]
        if n:
            first, second = (list(map(each.__getitem__, rng.permutation(len(each)))) for each in (first, second))
        scores.videos = [*first, *second]
        summary = Summary(scores)
        files = summary.write(tmp_path / str(n) / "r.json", [])
        written.append([file.read_bytes() for file in files] + [report.page(summary).encode()])
    assert written[0] == written[1] == written[2]


def test_the_page_says_what_colours_and_counts_mean(tmp_path):
    rng = np.random.default_rng(20)
    noise = rng.normal(size=(2, 12, 2))
    scores = shapes_scores(
        12,
        2,
        jerk=lambda g, i, s: noise[0, i, s] - 9 * (g == "w2sd"),
        clipped=lambda g, i, s: noise[1, i, s] + 9 * (g == "w2sd"),
        motion=lambda g, i, s: noise[1, i, s] + 9 * (g == "w2sd"),
        relation=lambda g, i, s: float(s) if i < 4 else None,
    )
    page = report.page(Summary(scores))
    assert "12 prompts, 24 videos" in page and "(24 of 24)" in page and "(8 of 24)" in page
    for verdict in ("better", "worse", "differs"):
        assert f"<span class={verdict}>{verdict}, adjusted p" in page
    assert "no verdict: under 10 prompts" in page and "not adjusted" in page
    assert "over all 3 comparisons of 10 prompts or more" in page


# Simulations


def moments(units: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Of units (runs, n): the means, the variances of the means, and the degrees of freedom."""
    return units.mean(1), units.var(1, ddof=1) / units.shape[1], units.shape[1] - 1


def above(share: float, runs: int, times: float = 2.0) -> float:
    """What a rate may come out as, of a true rate, in so many runs."""
    return share + times * math.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize(("prompts", "seeds"), SIZES)
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.8])
def test_intervals_of_normal_scores_cover_whatever_the_prompts_share_of_the_variance(prompts, seeds, share):
    rng, runs = np.random.default_rng(11), 4000
    for lognormal in (False, True):
        prompt, seed = rng.normal(size=(runs, prompts)), rng.normal(size=(runs, prompts)) / seeds**0.5
        if lognormal:
            prompt = np.exp(prompt) - math.exp(0.5)
            seed = (np.exp(rng.normal(size=(runs, prompts, seeds))) - math.exp(0.5)).mean(2)
        units = share**0.5 * prompt + (1 - share) ** 0.5 * seed
        centre, variance, df = moments(units)
        covered = np.mean(np.abs(centre) <= half_width(variance, df))
        assert (0.83 if lognormal else 0.93) <= covered <= 0.97, (covered, lognormal)


def test_intervals_of_means_cover_as_scores_are_summed_up():
    """The same by the function itself, with half of the variance the prompts'; over videos they covered 72 %."""
    rng = np.random.default_rng(12)
    covered = 0
    for _ in range(300):
        found = mean(MEASURE, by_row(rng.normal(size=(20, 1)) + rng.normal(size=(20, 5))))
        covered += found.low <= 0 <= found.high
    assert covered / 300 >= 0.95 - 2 * (0.95 * 0.05 / 300) ** 0.5


def shares(rng: np.random.Generator, p: float, icc: float, size: tuple[int, ...]) -> np.ndarray:
    """Probabilities by prompt with mean p, of beta distributions with this correlation of a prompt's videos."""
    return rng.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), size) if icc else np.full(size, p)


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "seeds"), SIZES)
@pytest.mark.parametrize("p", [0.5, 0.9, 0.97])
def test_intervals_of_verdicts_and_of_their_differences_cover(prompts, seeds, p):
    rng, runs = np.random.default_rng(13), 4000
    for icc in (0, 0.2, 0.5):
        first, second = (rng.binomial(seeds, shares(rng, p, icc, (runs, prompts))) / seeds for _ in range(2))
        centre, variance, df = moments(first)
        low, high = korn_graubard(centre, variance, df, prompts, prompts * seeds)
        assert np.mean((low <= p) & (p <= high)) >= 0.925, icc
        centre, variance, df = moments(second - first)
        half = pseudo_prompts(centre, variance, df, prompts, seeds)
        assert np.mean(np.abs(centre) <= half) >= 0.925, icc


def interacting(rng: np.random.Generator, prompts: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two arms, of which either is the better one by half the prompts, as a coin falls."""
    coin = rng.random((prompts, 1)) < 0.5
    good, bad = (rng.random((prompts, seeds)) < p for p in (0.8, 0.3))
    return np.where(coin, good, bad), np.where(coin, bad, good)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "seeds", "runs"),
    [(20, 5, 500), (10, 1, 1000)] + [pytest.param(*size, 4000, marks=pytest.mark.exhaustive) for size in SIZES],
)
def test_the_exact_test_keeps_its_size_where_prompts_interact_with_arms(prompts, seeds, runs):
    rng = np.random.default_rng(14)
    wrong = by_video = 0
    for _ in range(runs):
        a, b = interacting(rng, prompts, seeds)
        d = b.sum(1, dtype=int) - a.sum(1, dtype=int)
        wrong += sign_flip(map(int, d)) <= 0.05
        by_video += prompts == 20 and sign_flip(map(int, (b.astype(int) - a).flatten())) <= 0.05
    assert wrong / runs <= above(0.05, runs)
    assert prompts != 20 or by_video / runs > 0.15  # what this test is for: McNemar's test over videos


@pytest.mark.parametrize("n", [10, 20, pytest.param(93, marks=pytest.mark.slow)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("lognormal", [False, True])
def test_of_sixteen_columns_any_is_coloured_in_one_run_of_twenty(n, groups, lognormal):
    rng, runs, columns = np.random.default_rng(15), 2000, 16
    scores = 0.7**0.5 * rng.standard_normal((runs, groups + 1, n, columns), dtype=np.float32)
    scores += 0.3**0.5 * rng.standard_normal((runs, groups + 1, n, 1), dtype=np.float32)
    scores = np.exp(scores) if lognormal else scores
    d = (scores[:, 1:] - scores[:, :1]).astype(float)
    p = t_test(d.mean(2), d.var(2, ddof=1) / n, n - 1, n)
    coloured = (holm(p.reshape(runs, -1)) <= 0.05).any(1).mean()
    assert coloured <= above(0.05, runs)


@pytest.mark.slow
def test_of_sixteen_columns_any_is_coloured_in_one_run_of_twenty_by_the_rule_as_a_whole():
    """By `compare` and `decide`, half of the columns verdicts, and half of the variance the prompts'."""
    columns = {f"c{n}": Column(f"c{n}", kind="verdict" if n % 2 else "continuous") for n in range(16)}
    rng, runs, coloured = np.random.default_rng(16), 100, 0
    for _ in range(runs):
        prompt = rng.normal(size=(12, 1, 1))
        a, b = (prompt + rng.normal(size=(12, 2, 1)) + 0.8 * rng.normal(size=(12, 2, 16)) for _ in range(2))
        rows = [[each[:, :, n] > 0 if n % 2 else each[:, :, n] for each in (a, b)] for n in range(16)]
        found = decide([between(*rows[n], column) for n, column in enumerate(columns.values())], columns)
        coloured += any(c.verdict for c in found)
    assert coloured / runs <= above(0.05, runs)


def test_places_stand_for_seeds():
    assert by_prompt(["a", "b", "a"], [1.0, None, 3.0]) == {"a": {"0": 1.0, "2": 3.0}, "b": {"1": None}}
