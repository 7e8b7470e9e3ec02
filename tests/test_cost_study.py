"""The study of cost: what fits into a budget, what is taken over from earlier runs, and what is said of it."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from w2sd_video.errors import ArgumentError, Refused
from w2sd_video.shapes import bench, grammar, pairs, rows, tuning
from w2sd_video.shapes.columns import OF_EVERY
from w2sd_video.studies import cost, cost_table, study, videos
from w2sd_video.studies.cost_table import CEILING, CONTROL, OPTIMISTIC, PLAIN, TUNED, W2SD, Point

TEXTS = grammar.prompts(3)
SCORES = dict.fromkeys(OF_EVERY, 0.5)


def sampling(folder: Path, *rows: Path, size: cost.Size = cost.FULL, workers: int = 0) -> cost.Sampling:
    return cost.Sampling(study.Run(workers=workers, rows=rows), size, folder / "cost.jsonl")


def line(n: int, **more) -> dict:
    text = pairs.prompt_of(bench.preset("shapes"), n, TEXTS[n])
    row = {"pair": "shapes", "method": "equal-cost", "n": n, "prompt": text, "seed": n, "of": bench.origin("shapes")}
    row |= {"arguments": {"variant": "plain", "num_inference_steps": 61}, "evaluations": 122, "seconds": 1.0}
    return {**row, "scores": SCORES, **more}


def packed(path: Path, lines: list[dict]) -> Path:
    path.write_bytes(lzma.compress("".join(json.dumps(each) + "\n" for each in lines).encode()))
    return path


# Budgets


def test_methods_run_with_the_most_steps_that_do_not_exceed_the_budget(tmp_path):
    """Of T steps plain sampling takes 2 T evaluations, W2SD 5 T - 3, optimistic W2SD 3 T - 1; budgets are of 50."""
    budgets = (1, 1.5, 2, 2.44, 3)
    points = sampling(tmp_path).points(dict.fromkeys((PLAIN, W2SD, OPTIMISTIC), budgets))
    steps = {(p.label, p.budget): int(p.name.split(", ")[1].split()[0]) for p in points}
    assert [steps[PLAIN, b] for b in budgets] == [25, 37, 50, 61, 75]
    assert [steps[W2SD, b] for b in budgets] == [10, 15, 20, 25, 30]
    assert [steps[OPTIMISTIC, b] for b in budgets] == [17, 25, 33, 41, 50]
    others = {p.label: p for p in sampling(tmp_path).points(sampling(tmp_path).stages[1])}
    assert len(others) == 13 and all("25 steps" in p.name for p in others.values())
    assert [others[each].budget for each in ("APG", "P&P", "SLG", "S2WD", "FSG")] == [1, 1.4, 1.5, 2.44, 2.5]
    assert [others[each].budget for each in ("plain, eta 1", "W2SD, eta 1")] == [1, 2.44]
    ceiling = sampling(tmp_path).points({CEILING: (2, 3)})
    assert [p.row.tries for p in ceiling] == [2, 3]


@pytest.mark.slow
def test_what_guidance_is_tuned_on_and_schedules_are_fitted_on_are_other_texts_than_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 24)
    work = sampling(tmp_path)
    assert len(set(work.others)) == cost.FULL.tuning and set(cost.FULL.calibrated) <= set(range(cost.FULL.tuning))
    assert not set(work.others) & set(grammar.prompts(tuning.FIRST))


# Rows of earlier runs


def test_rows_of_the_bench_and_of_earlier_runs_are_taken_over_under_the_studys_name(tmp_path):
    rows = packed(tmp_path / "bench.jsonl.xz", [line(0), line(1)])
    work = sampling(tmp_path, rows)
    (point,) = work.points({PLAIN: (2.44,)})
    found = work.videos.lines({point.name: point.row}, TEXTS, 3)[point.name]
    assert sorted(found) == [0, 1] and found[0]["method"] == "plain, 61 steps"
    kept = packed(tmp_path / "kept.jsonl.xz", [json.loads(each) for each in work.path.read_text().splitlines()])
    work.path.unlink()
    assert sampling(tmp_path, kept).videos.lines({point.name: point.row}, TEXTS, 3)[point.name] == found


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"of": {**bench.origin("shapes"), "weights": "0" * 12}},
        {"of": {**bench.origin("shapes"), "judge": "0" * 12}},
        {"prompt": "a red circle"},
        {"seed": 5},
        {"arguments": {"variant": "plain", "num_inference_steps": 61, "num_frames": 8}},
        {"arguments": {"variant": "plain", "num_inference_steps": 60}},
        {"tuning": True},
    ],
)
def test_rows_of_other_weights_judge_prompt_seed_or_settings_are_not_taken_over(other, tmp_path):
    work = sampling(tmp_path, packed(tmp_path / "rows.jsonl.xz", [line(0, **other)]))
    (point,) = work.points({PLAIN: (2.44,)})
    assert work.videos.lines({point.name: point.row}, TEXTS, 3) == {point.name: {}}


def test_nothing_is_sampled_twice_whichever_file_it_is_in(tmp_path):
    files = [packed(tmp_path / f"{n}.jsonl.xz", [line(0, seconds=float(n))]) for n in range(2)]
    work = sampling(tmp_path, *files)
    (point,) = work.points({PLAIN: (2.44,)})
    for _ in range(2):
        assert work.videos.lines({point.name: point.row}, TEXTS, 3)[point.name][0]["seconds"] == 0.0
    assert len(work.path.read_text().splitlines()) == 1


def test_a_row_is_called_by_all_that_it_says_beside_the_preset():
    preset = bench.preset("shapes")
    assert videos.named(preset, {}) == "w2sd, 25 steps"
    assert videos.named(preset, {"variant": "plain", "guidance_scale": 1.5}) == "plain, 25 steps"
    assert videos.named(preset, {"variant": "plain", "guidance_scale": 2, "tries": 3}) == (
        "plain, 25 steps, guidance_scale 2, tries 3"
    )
    schedules = [{"method": "guidance_schedule", "options": {"guidance": [1.0, w]}} for w in (2.0, 3.0)]
    assert len({videos.named(preset, each) for each in schedules}) == 2


@pytest.mark.slow
def test_without_rows_and_without_workers_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 24)
    with pytest.raises(Refused, match="--workers: 0 is not accepted; no row has 7 prompts yet"):
        study.perform("cost", study.Run(cache=tmp_path, workers=0, prompts=7))


def test_seeds_and_more_prompts_than_there_are_and_options_of_other_studies_are_refused():
    for name, run, text in (
        ("cost", study.Run(seed=1), "seed: 1 is not accepted"),
        ("cost", study.Run(prompts=501), "give at most 500"),
        ("theory", study.Run(prompts=3), "--prompts is for studies that sample videos"),
    ):
        with pytest.raises(Refused, match=text):
            study.perform(name, run)


@pytest.mark.slow
def test_what_is_interrupted_has_whole_prompts_and_goes_on(tmp_path):
    work = sampling(tmp_path, size=cost.QUICK, workers=1)
    points = work.points({PLAIN: (1,), W2SD: (2.44,), OPTIMISTIC: (2.44,)})
    rows = {p.name: p.row for p in points}

    def interrupt(what: str, share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    stopped = replace(work, run=replace(work.run, progress=interrupt))
    with pytest.raises(KeyboardInterrupt):
        stopped.videos.lines(rows, TEXTS, 3)
    first = [json.loads(each) for each in work.path.read_text().splitlines()]
    assert [each["n"] for each in first] == [0, 0, 0, 1]
    found = work.videos.lines(rows, TEXTS, 3)
    assert all(sorted(each) == [0, 1, 2] for each in found.values())
    assert [json.loads(each) for each in work.path.read_text().splitlines()][:4] == first


# What is said


def table(rights: dict[tuple[str, float], np.ndarray]) -> study.Result:
    points, lines = [], {}
    for (label, budget), right in rights.items():
        points.append(Point(label, budget, f"{label}, {budget:g} steps", bench.Row(label)))
        lines[points[-1].name] = {
            n: {"prompt": f"prompt {n}", "evaluations": int(50 * budget), "scores": {"right": float(value)}}
            for n, value in enumerate(right)
        }
    return cost_table.result(points, lines, ["FSG at 2.44"])


def test_verdicts_and_the_front_are_those_of_the_numbers():
    """Twelve of twelve prompts against none: p is 2^-11. A front is the highest mean that costs no more; a ceiling is
    on none."""
    none, half, all_ = np.zeros(12), np.tile([0.0, 1.0], 6), np.ones(12)
    result = table(
        {
            (PLAIN, 1): half,
            (TUNED, 1): half,
            (W2SD, 1): none,
            (PLAIN, 2): none,
            (TUNED, 2): none,
            (W2SD, 2): half,
            (OPTIMISTIC, 3): all_,
            (TUNED, 3): none,
            (CONTROL, 3): all_,
            (CEILING, 2): all_,
        }
    )
    assert "W2SD against tuned guidance: not decided at 1, 2." in result.outcome
    assert "Optimistic W2SD against tuned guidance: better at 3." in result.outcome
    assert "at 1 plain; at 2 plain (run at 1); at 3 Optimistic W2SD." in result.outcome
    assert "Not sampled yet for all of these prompts: FSG at 2.44." in result.agrees
    (row,) = (row for row in result.rows if (row["method"], row["budget"]) == (OPTIMISTIC, 3))
    assert (row["right"], row["right_less_tuned"]) == (1.0, 1.0)
    # Eleven comparisons of `right` that are decided together; this one has the least p, or one of the two least.
    assert row["right_p_adjusted"] <= 11 * 2**-11


def test_a_method_without_a_rival_at_its_budget_is_compared_with_the_next_smaller():
    """Never with one that costs more."""
    half, all_ = np.tile([0.0, 1.0], 6), np.ones(12)
    result = table({(TUNED, 1): half, ("FSG", 2.5): half, ("APG", 0.5): half, (TUNED, 3): all_, (W2SD, 2.5): all_})
    rows = {row["method"]: row for row in result.rows if row["method"] != TUNED}
    assert rows["FSG"]["right_less_tuned"] == 0 and rows[W2SD]["right_less_tuned"] == 0.5
    assert "right_less_tuned" not in rows["APG"]
    assert "W2SD at 2.5 less tuned guidance at 1" in str(result.tables)


def test_a_budget_that_nothing_keeps_to_has_no_highest_mean():
    """FSG's 2.5 stands at 2.44, the nearest, and is on the front at 3 alone."""
    half, all_ = np.tile([0.0, 1.0], 6), np.ones(12)
    found = table({("FSG", 2.5): all_, (CEILING, 2): all_, (PLAIN, 3): half}).tables["Right, by budget"]
    assert found[0][1:] == ["2", "2.44", "3"]
    assert found[-1][1:] == ["", "", "FSG (run at 2.5) (0)"]
    assert next(row for row in found if row[0] == "FSG")[2].endswith("(at 2.5)")


def test_under_ten_prompts_there_is_no_verdict():
    result = table({(PLAIN, 1): np.zeros(9), (TUNED, 1): np.zeros(9), (W2SD, 1): np.ones(9)})
    assert result.outcome.startswith("With 9 prompts there is no verdict") and "no verdict" in str(result.tables)


def test_rows_of_videos_are_written_beside_the_page(tmp_path):
    result = replace(table({(PLAIN, 1): np.zeros(3), (W2SD, 1): np.ones(3)}), raw=b"rows")
    study.write_page("cost", result, study.Run(prompts=3), tmp_path)
    assert (tmp_path / "cost.videos.jsonl.xz").read_bytes() == b"rows"
    text = (tmp_path / "cost.md").read_text()
    assert "(cost.videos.jsonl.xz)" in text and "`w2sd-video study cost --prompts 3`" in text


def test_rows_that_cannot_be_of_one_study_are_refused_and_named(tmp_path):
    def line(right: float, **more) -> dict:
        says = {"variant": "plain"}
        of = bench.origin("shapes")
        scores = SCORES | {"right": right}
        return rows.line_of("shapes", "strong", 0, TEXTS[0], 0, scores, 50, 1.0, of, arguments=says) | more

    files = []
    for name, row in (("one", line(1.0)), ("other", line(0.0)), ("seven", line(7.0))):
        files.append(tmp_path / f"{name}.jsonl")
        rows.add(files[-1], [row])
    for order in (files[:2], files[:1], files[1:2]):  # also against what it has kept
        said = "--rows: .*other.jsonl: strong 0 has other scores than the same sample"
        with pytest.raises(ArgumentError, match=said) if files[1] in order else pytest.raises(Refused, match="yet"):
            study.perform("cost", study.Run(cache=tmp_path / "a", prompts=2, workers=0, rows=order))
    with pytest.raises(ArgumentError, match="--rows: .*seven.jsonl holds rows that this command did not write"):
        study.perform("cost", study.Run(cache=tmp_path / "b", prompts=1, workers=0, rows=files[2:]))


def test_of_a_video_sampled_on_two_machines_the_first_scores_are_kept(tmp_path):
    once, again = SCORES | {"jerk": 0.97993, "form": None}, SCORES | {"jerk": 0.9799, "form": None}
    files = [packed(tmp_path / f"{n}.jsonl.xz", [line(0, scores=scores)]) for n, scores in enumerate((once, again))]
    work = sampling(tmp_path, *files)
    (point,) = work.points({PLAIN: (2.44,)})
    assert work.videos.lines({point.name: point.row}, TEXTS, 1)[point.name][0]["scores"]["jerk"] == 0.97993


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"scores": {}}, "equal-cost 1 has no score right"),
        ({"scores": SCORES | {"right": None}}, "equal-cost 1 has no score right"),
        ({"scores": {name: 0.5 for name in SCORES if name != "form"}}, "equal-cost 1 has no score form"),
        ({"scores": SCORES | {"jerk": 10**400}}, "holds rows that this command did not write"),
        ({"scores": SCORES | {"jerk": float("inf")}}, "holds rows that this command did not write"),
        ({"evaluations": -5}, "holds rows that this command did not write"),
        ({"evaluations": 7}, "equal-cost 1 took 7 evaluations, others 122"),
    ],
)
def test_of_rows_that_cannot_be_used_none_is_kept_so_that_good_ones_are_taken_after_them(bad, says, tmp_path):
    work = sampling(tmp_path, packed(tmp_path / "bad.jsonl.xz", [line(0), line(1) | bad]))
    (point,) = work.points({PLAIN: (2.44,)})
    with pytest.raises(ArgumentError, match=f"--rows: .*bad.jsonl.xz.*{says}"):
        work.videos.lines({point.name: point.row}, TEXTS, 3)
    good = sampling(tmp_path, packed(tmp_path / "good.jsonl.xz", [line(0), line(1)]))
    assert sorted(good.videos.lines({point.name: point.row}, TEXTS, 3)[point.name]) == [0, 1]
    unapplied = line(0, scores=SCORES | {"form": None})  # a measure that does not apply
    other = sampling(tmp_path / "more", packed(tmp_path / "nan.jsonl.xz", [unapplied]))
    other.path.parent.mkdir()
    assert other.videos.lines({point.name: point.row}, TEXTS, 3)[point.name]


def test_rows_of_a_schedule_need_what_it_is_fitted_to(tmp_path):
    work = sampling(tmp_path)
    arguments = {"num_inference_steps": 25, "method": cost.CHANGES}
    of = {"pair": "shapes", "method": "changes", "tuning": True, "of": bench.origin("shapes"), "arguments": arguments}
    fitted = {f"{name} {i}": 0.5 for i in range(24) for name in ("kappa", "u")} | {"explained": 0.5}
    lines = []
    for n in cost.FULL.calibrated:
        seed = bench.seed_of(n, True)
        text = pairs.prompt_of(work.preset, seed, work.others[n])
        lines.append({**of, "n": n, "seed": seed, "prompt": text, "evaluations": 0, "seconds": 0.0, "scores": fitted})
    for name in ("kappa 3", "explained"):
        bad = [*lines[:-1], lines[-1] | {"scores": fitted | {name: None}}]
        with pytest.raises(ArgumentError, match=f"--rows: .*has no score {name}"):
            sampling(tmp_path, packed(tmp_path / "bad.jsonl.xz", bad))._control(122)
    still = [each | {"scores": fitted | {"u 3": 0.0}} for each in lines]
    says = sampling(tmp_path, packed(tmp_path / "still.jsonl.xz", still))._control(122)
    assert says["options"]["guidance"] == [2.0, 2.0, 2.0, 1.5, *[2.0] * 20, 1.5]
