"""Which prompts a group is worse on: in the terminal, the results and the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.eval import report
from w2sd_video.eval.dimensions import Dimension
from w2sd_video.eval.document import worse_prompts
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary, finite
from w2sd_video.eval.videos import Video
from w2sd_video.eval.worse import worse
from w2sd_video.tables import indented

UP, DOWN, VERDICT = Column("up"), Column("down", sign=-1), Column("right", kind="verdict")


class Measured(Dimension):
    name = "measured"
    records = (UP, DOWN, VERDICT, Column("neither", sign=0))


def scores(groups: dict[str, dict[tuple[str, int], dict[str, float | None] | None]]) -> Scores:
    """Scores by group, prompt and seed; None of a video that failed."""
    made = Scores([Measured()], [])
    made.weights = {"measured": {}}
    for group, videos in groups.items():
        for (prompt, seed), columns in videos.items():
            each = Video(Path(f"{group}/{prompt}-{seed}.mp4"), group, f"{prompt}, seed {seed}", prompt)
            object.__setattr__(each, "_hashed", ([], "0"))
            made.videos.append(each)
            if columns is None:
                made.problems.append((each, "", "it is damaged"))
                continue
            made.of[each] = columns
            made.facts[each] = {"frames": 2, "fps": 8.0, "height": 16, "width": 16}
    return made


def test_the_worst_prompt_is_the_first_and_its_worst_seed_too():
    first = {"a": {"a, seed 0": 1.0, "a, seed 1": 1.0}, "b": {"b, seed 0": 1.0}, "c": {"c, seed 0": 1.0}}
    second = {"a": {"a, seed 0": 0.9, "a, seed 1": 0.3}, "b": {"b, seed 0": 0.5}, "c": {"c, seed 0": 2.0}}
    found = worse(UP, "plain", "w2sd", first, second, 5)
    assert (found.count, found.of) == (2, 3)
    assert [(p.prompt, p.difference) for p in found.prompts] == [("b", -0.5), ("a", pytest.approx(-0.4))]
    assert [str(pair) for pair in found.prompts[1].pairs] == ["seed 1: 1 → 0.3", "seed 0: 1 → 0.9"]
    assert [p.prompt for p in worse(UP, "plain", "w2sd", first, second, 1).prompts] == ["b"]
    assert worse(UP, "plain", "w2sd", first, second, 1).count == 2
    assert [p.prompt for p in worse(DOWN, "plain", "w2sd", first, second, 5).prompts] == ["c"]


def test_a_failed_video_is_worse_where_it_counts_as_zero_and_is_left_out_of_measures():
    first, second = {"a": {"a, seed 0": 1.0}}, {"a": {"a, seed 0": None}}
    assert str(worse(VERDICT, "x", "y", first, second, 3).prompts[0].pairs[0]) == "seed 0: 1 → failed"
    assert worse(UP, "x", "y", first, second, 3).of == 0


def test_without_a_common_seed_all_of_the_prompt_are_shown():
    found = worse(UP, "x", "y", {"a": {"a, seed 0": 1.0, "a, seed 1": 0.8}}, {"a": {"a, seed 7": 0.1}}, 3)
    assert found.prompts[0].difference == pytest.approx(-0.8)
    assert [str(pair) for pair in found.prompts[0].pairs] == [
        "seed 0: 1 → none",
        "seed 1: 0.8 → none",
        "seed 7: none → 0.1",
    ]


def test_pairs_that_show_nothing_to_measure_are_not_compared():
    first = {"a": {"a, seed 0": 1.0, "a, seed 1": math.nan}, "b": {"b, seed 0": math.nan}}
    second = {"a": {"a, seed 0": 0.5, "a, seed 1": 0.2}, "b": {"b, seed 0": 0.1}}
    found = worse(UP, "x", "y", first, second, 3)
    assert (found.count, found.of) == (1, 1) and [pair.seed for pair in found.prompts[0].pairs] == ["seed 0"]


def example(worst: int = 3) -> Summary:
    plain = {
        (f"p{n}", seed): {"up": 1.0, "down": 0.0, "right": 1.0, "neither": 1.0} for n in range(12) for seed in (0, 1)
    }
    second: dict = {key: {**of, "up": 1 - int(key[0][1:]) / 100, "neither": 0.0} for key, of in plain.items()}
    second[("p3", 1)] = None
    return Summary(scores({"plain": plain, "<w2sd>": second, "same": dict(plain)}), worst=worst)


def test_a_column_without_a_better_side_has_no_worse_prompts():
    assert {each.column for each in example().worse} == {"up", "down", "right"}


def test_the_results_name_prompts_seeds_scores_and_files():
    (up,) = [
        each for each in finite(example(2).data([]))["worse"] if (each["column"], each["group"]) == ("up", "<w2sd>")
    ]
    assert (up["count"], up["of"], up["base"]) == (11, 12, "plain")
    assert [(p["prompt"], round(p["difference"], 9)) for p in up["prompts"]] == [("p11", -0.11), ("p10", -0.1)]
    pair = up["prompts"][0]["pairs"][0]
    assert pair["base"] == {"path": "plain/p11-0.mp4", "score": 1.0} and pair["seed"] == "seed 0"
    assert pair["group"] == {"path": "<w2sd>/p11-0.mp4", "score": pytest.approx(0.89)}
    json.dumps(up, allow_nan=False)


def test_the_terminal_lists_as_many_as_it_is_told():
    lines = list(indented(worse_prompts(example(1))))
    assert lines[0].startswith("Prompts on which <w2sd> is worse than plain, the worst first, at most 1 of a column.")
    assert "  up: 11 of 12 prompts" in lines and "    -0.11  p11  (seed 0: 1 → 0.89; and 1 more)" in lines
    assert "    -0.5  p3  (seed 1: 1 → failed; and 1 more)" in lines
    assert lines[-1] == "same is worse than plain on no prompt."
    assert not any("p10" in line for line in lines) and worse_prompts(example(0)).lines == []


def test_the_page_has_them_with_names_escaped():
    page = report.page(example(2))
    assert (
        "worse on 11 of 12 prompts" in page
        and "<td>p11</td><td>-0.11</td><td>seed 0: 1 → 0.89<br>seed 1: 1 → 0.89" in page
    )
    assert "&lt;w2sd&gt; is worse than plain, the worst first" in page and "<w2sd>" not in page
    assert "is worse than" not in report.page(example(0))


@pytest.mark.parametrize("worst", [-1, True, 1.5, "3", None])
def test_a_number_that_is_none_is_refused(worst):
    with pytest.raises(Refused, match="whole number from 0 up"):
        Summary(scores({"a": {("p", 0): {"up": 1.0}}}), worst=worst)


@pytest.mark.parametrize("text", ["-1", "many", "1.5"])
def test_the_command_line_refuses_another_number_with_2(tmp_path, text):
    ran = CliRunner().invoke(app, ["eval", str(tmp_path), "--worst", text])
    assert ran.exit_code == 2 and "--worst" in ran.stderr
