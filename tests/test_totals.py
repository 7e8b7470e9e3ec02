"""VBench's totals: their intervals against arithmetic of other origin, and where they are written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.official import Official
from w2sd_video.eval.results import Summary
from w2sd_video.eval.totals import lines, pulls, with_intervals
from w2sd_video.eval.vbench import QUALITY, SEMANTIC, totals
from w2sd_video.eval.videos import Video

LEADERBOARD = (*QUALITY, *SEMANTIC)


def of_prompts(rng: np.random.Generator, prompts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Two videos of each prompt, with scores."""
    return [text for text in prompts for _ in range(2)], list(rng.uniform(0.2, 0.8, 2 * len(prompts)))


def test_where_all_dimensions_have_the_same_prompts_a_total_has_students_interval_over_its_value_by_prompt():
    rng, prompts = np.random.default_rng(0), [f"prompt {n}" for n in range(12)]
    scored = {name: of_prompts(rng, prompts) for name in LEADERBOARD}
    pulled = {name: pulls(texts, scores, [1.0] * 24) for name, (texts, scores) in scored.items()}
    found = with_intervals(totals({name: np.mean(scores) for name, (_, scores) in scored.items()}), pulled, 24, 24)
    for total in ("quality", "semantic", "total"):
        by_prompt = [
            totals({name: np.mean(scores[2 * n : 2 * n + 2]) for name, (_, scores) in scored.items()})[total]
            for n in range(12)
        ]
        low, high = stats.t.interval(0.95, 11, np.mean(by_prompt), stats.sem(by_prompt))
        assert (found[total].mean, found[total].low) == pytest.approx((np.mean(by_prompt), low))
        assert (found[total].high, found[total].units) == (pytest.approx(high), 12)


def test_variances_of_dimensions_with_prompts_of_their_own_add_up_and_one_prompt_alone_has_no_interval():
    rng = np.random.default_rng(1)
    scored = {name: of_prompts(rng, [f"{name} {n}" for n in range(10)]) for name in LEADERBOARD}
    pulled = {name: pulls(texts, scores, [1.0] * 20) for name, (texts, scores) in scored.items()}
    found = with_intervals({"semantic": 0.5}, pulled, 20, 20)["semantic"]
    # The nine weigh alike; the ranges are those of VBench's leaderboard.
    ranges = {"scene": 0.8222, "appearance_style": 0.2846, "temporal_style": 0.364, "overall_consistency": 0.364}
    errors = [stats.sem(np.reshape(scored[name][1], (10, 2)).mean(1)) / ranges.get(name, 1.0) / 9 for name in SEMANTIC]
    assert found.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 9) * math.hypot(*errors))
    pulled["scene"] = pulls(["alone"] * 3, [0.1, 0.2, 0.3], [1.0] * 3)
    assert str(with_intervals({"semantic": 0.5}, pulled, 20, 20)["semantic"]) == "0.5000"


def test_a_difference_from_a_group_of_few_other_prompts_has_the_degrees_of_freedom_of_those_few():
    rng, groups = np.random.default_rng(3), {"few": ["a", "b"], "many": [f"prompt {n}" for n in range(40)]}
    pulled, variances = {}, []
    for group, prompts in groups.items():
        scores = {name: rng.uniform(0.2, 0.8, len(prompts)) for name in LEADERBOARD}
        pulled[group] = {name: pulls(prompts, list(own), [1.0] * len(prompts)) for name, own in scores.items()}
        by_prompt = [totals({name: own[n] for name, own in scores.items()})["total"] for n in range(len(prompts))]
        variances.append(stats.sem(by_prompt) ** 2)
    found = with_intervals({"total": 0.5}, pulled["many"], 40, 40, first=pulled["few"])["total"]
    assert found.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(sum(variances)))


def test_the_table_of_a_file_has_the_totals_and_their_paired_differences(tmp_path):
    rng, dimensions = np.random.default_rng(2), [Official(name, "0.1.5") for name in LEADERBOARD]
    scores = Scores(dimensions, [], weights={name: {} for name in LEADERBOARD})
    for n in range(10):
        own = rng.uniform(0.2, 0.8, 16)
        for group, better in (("plain", 0.0), ("w2sd", 0.01)):
            each = Video(tmp_path / group / f"{n}.mp4", group, str(n), f"prompt {n}")
            each.path.parent.mkdir(exist_ok=True)
            each.path.write_bytes(group.encode())
            scores.videos.append(each)
            scaled = {name: 100.0 if name == "imaging_quality" else 1.0 for name in LEADERBOARD}
            scores.of[each] = {d: scaled[d] * (s + better) for d, s in zip(LEADERBOARD, own, strict=True)}
            scores.facts[each] = {"frames": 16}
    summary = Summary(scores)
    summary.write(tmp_path / "r.json")
    rows = [row for row in csv.DictReader((tmp_path / "r.csv").open()) if row["column"].startswith("vbench_")]
    assert [(row["group"], row["column"]) for row in rows[3:]] == [
        ("w2sd", f"vbench_{name}") for name in ("quality", "semantic", "total")
    ]
    plain, better = rows[2], rows[5]
    assert float(plain["low"]) < float(plain["mean"]) < float(plain["high"]) and plain["difference"] == ""
    difference = float(better["mean"]) - float(plain["mean"])
    # All videos are better by as much, so the difference, unlike the totals, has no spread.
    for name in ("difference", "difference_low", "difference_high"):
        assert float(better[name]) == pytest.approx(difference)
    assert better["base"] == "plain" and better["units"] == better["compared_units"] == "10" and better["p"] == ""
    data = json.loads((tmp_path / "r.json").read_text())["groups"]["w2sd"]
    assert data["totals"]["total"]["mean"] == float(better["mean"])
    assert data["total_differences"]["total"]["low"] == float(better["difference_low"])
    assert f"w2sd: VBench total score {summary.totals['w2sd']['total']}, difference +" in "\n".join(lines(summary))
