"""The study of motion: what it says of rows whose motion and steadiness are known."""

from __future__ import annotations

import lzma
from collections.abc import Callable

import numpy as np
import pytest

from w2sd_video.errors import Refused
from w2sd_video.shapes import bench, grammar, rows
from w2sd_video.shapes.columns import OF_EVERY
from w2sd_video.studies import motion, study, videos

COUNT = 60
TEXTS = grammar.prompts(COUNT)


def lines(change: Callable[[str, float], float], seed: int = 0, count: int = COUNT) -> motion.Lines:
    """Rows in which each measure is plain sampling's, changed, with little noise."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed)
    usual = {"motion": 15.0, "jerk": 2.0, "area_instability": 0.1, "colour_instability": 0.01}
    made = {}
    for n in range(count):
        scale = rng.uniform(0.5, 1.5)
        scores = {c: change(c, v * scale) * (1 + 0.001 * noise.standard_normal()) for c, v in usual.items()}
        made[n] = {"prompt": TEXTS[n], "scores": {**scores, "background_instability": 0.0, "colour": 1.0}}
    return made


def steadier(share: float, moves: float = 1.0) -> Callable[[str, float], float]:
    return lambda column, value: value * {"motion": moves, "jerk": share}.get(column, 1.0)


def of(result: study.Result, setting: str) -> list[str]:
    return next(row for row in result.tables["By setting"] if row[0] == setting)


def test_what_keeps_motion_and_the_gain_is_found_and_what_loses_one_is_not():
    by = {
        motion.BASE: lines(steadier(1.0)),
        "weak": lines(steadier(1.5), 1),
        motion.W2SD: lines(steadier(0.5, 0.8), 2),
        "W2SD, motion gain 2": lines(steadier(0.52, 1.001), 3),
        "W2SD, motion gain 0": lines(steadier(0.9, 1.0), 4),
        "W2SD, still gain 0": lines(steadier(0.5, 0.9), 5),
    }
    result = motion.result(by)
    assert [of(result, name)[-1] for name in by if name not in (motion.BASE, "weak", motion.W2SD)] == [
        "motion and the gain",
        "motion",
        "the gain",
    ]
    assert "Under W2SD motion falls: -" in result.outcome and result.agrees.startswith("That agrees")
    assert "W2SD's gain in steadiness is decided in jerk" in result.outcome
    assert "Settings shown to keep motion: weak, W2SD, motion gain 2, W2SD, motion gain 0." in result.outcome
    assert result.tables["By setting"][0][-1] == "keeps"
    assert result.outcome.endswith("Settings shown to keep motion and the gain: W2SD, motion gain 2.")


def test_without_a_decided_gain_nothing_keeps_it_and_no_change_is_called_none():
    by = {motion.BASE: lines(steadier(1.0)), "weak": lines(steadier(1.5), 1), motion.W2SD: lines(steadier(1.0), 2)}
    result = motion.result(by)
    assert "W2SD's gain in steadiness is decided in none of four measures" in result.outcome
    assert result.outcome.endswith("Settings shown to keep motion and the gain: none.")
    assert "not decided is not equal" in result.agrees and of(result, motion.W2SD)[-1] == "motion"


def test_a_video_that_lacks_an_object_has_no_motion_to_compare():
    weak = lines(steadier(1.0, 2.0), 1)
    for n in range(COUNT // 2):
        weak[n]["scores"]["colour"] = 0.5
    result = motion.result({motion.BASE: lines(steadier(1.0)), "weak": weak})
    row = next(row for row in result.rows if row["setting"] == "weak")
    assert row["prompts"] == COUNT and row["motion_n"] == COUNT // 2


def test_a_gain_in_fewer_videos_is_no_verdict_and_a_small_one_is_not_decided():
    w2sd, weak = lines(steadier(0.5), 1), lines(steadier(1.0), 2)
    for n in range(3):
        w2sd[n]["scores"]["colour"] = weak[n]["scores"]["colour"] = 0.5
    result = motion.result({motion.BASE: lines(steadier(1.0)), "weak": weak, motion.W2SD: w2sd})
    jerk = result.tables["By setting"][0].index("jerk")
    assert of(result, motion.W2SD)[jerk].endswith("(no verdict)")
    assert of(result, "weak")[jerk].endswith("(not decided)")


@pytest.mark.slow
def test_a_page_of_fewer_prompts_keeps_the_rows_of_all(tmp_path):
    rows.add(tmp_path / "kept.jsonl", bench_rows(motion.PAIR, {"variant": "plain"}, 12))
    result = motion.run(study.Run(cache=tmp_path / "cache", prompts=11, workers=0, rows=[tmp_path / "kept.jsonl"]))
    assert of(result, motion.BASE)[1] == "11"
    assert len(lzma.decompress(result.raw).splitlines()) == 12


def bench_rows(pair: str, arguments: dict, count: int) -> list[dict]:
    """Rows of the bench, in which everything is right."""
    made = []
    for n, text in enumerate(TEXTS[:count]):
        scores = {**dict.fromkeys(OF_EVERY, 1.0), "motion": 3.0 + n}
        made.append(rows.line_of(pair, "strong", n, text, n, scores, 50, 1.0, bench.origin(pair), arguments=arguments))
    return made


def test_rows_of_the_bench_are_taken_over_and_rows_of_two_pairs_are_one_file(tmp_path):
    made = bench_rows(motion.PAIR, {"variant": "plain"}, 2) + bench_rows(motion.MODULES, {}, 2)
    rows.add(tmp_path / "bench.jsonl", made)
    packed = tmp_path / "motion.videos.jsonl.xz"
    packed.write_bytes(lzma.compress((tmp_path / "bench.jsonl").read_bytes()))
    run = study.Run(cache=tmp_path / "cache", prompts=2, workers=0, rows=[packed])
    with videos.kept_rows(run, "motion-shapes") as path:
        own = videos.Videos(run, path, motion.PAIR, {})
        found = own.lines({own.name_of(bench.Row("", bench.PLAIN)): bench.Row("", bench.PLAIN)}, TEXTS, 2)
    assert [line["scores"]["motion"] for line in found["plain, 25 steps"].values()] == [3.0, 4.0]


def test_without_rows_and_without_workers_it_says_what_to_do(tmp_path):
    with pytest.raises(Refused, match="--workers: 0 is not accepted; no prompt has a row yet"):
        motion.run(study.Run(cache=tmp_path, prompts=1, workers=0))
