"""Groups of videos: which are pairs of one another, how they are compared, and the table of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from w2sd_video.eval import videos
from w2sd_video.eval.cli import table
from w2sd_video.eval.dimensions import get
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video, find


def made_up(values: dict[str, list[float]]) -> Scores:
    scored = [
        Video(Path(f"{group}/{n}.mp4"), group, str(n), None) for group in values for n in range(len(values[group]))
    ]
    scores = Scores([get("shapes")], scored)
    for each in scored:
        scores.of[each] = {"shapes_jerk": values[each.group][int(each.pair)]}
    return scores


def test_groups_are_compared_pair_by_pair_with_the_first():
    # Pairs differ by little, videos by much: only the paired comparison can tell.
    base = [float(n) for n in range(20)]
    (found,) = Summary(made_up({"a": base, "b": [n - 0.1 * (1 + i % 2) for i, n in enumerate(base)]})).comparisons
    assert (found.column, found.base, found.group, found.win_rate) == ("shapes_jerk", "a", "b", 1.0)
    assert found.difference.mean == pytest.approx(-0.15) and found.better is True  # lower jerk is better


def test_a_few_pairs_say_nothing():
    (found,) = Summary(made_up({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.5, 2.5]})).comparisons
    assert found.better is None and found.reason == "no verdict: under 10 prompts"


def test_groups_without_pairs_are_not_compared():
    scores = made_up({"a": [1.0, 2.0]})
    other = Video(Path("b/x.mp4"), "b", "x", None)
    scores.videos.append(other)
    scores.of[other] = {"shapes_jerk": 1.0}
    summary = Summary(scores)
    assert summary.comparisons == [] and "b: nothing to compare" in summary.notes[0]


def test_videos_without_a_pair_are_counted():
    scores = made_up({"a": [1.0, 2.0, 3.0], "b": [1.0]})
    assert Summary(scores).notes[0] == "b: 2 videos of it and a have no pair in the other, and are not compared"


def test_of_a_pair_that_a_group_has_twice_none_is_compared():
    scores = made_up({"a": [1.0, 2.0], "b": [1.5, 3.0]})
    twin = Video(Path("b/twin.mp4"), "b", scores.videos[0].pair, None)
    scores.videos.append(twin)
    scores.of[twin] = {"shapes_jerk": 9.0}
    summary = Summary(scores)
    (found,) = summary.comparisons
    assert (found.difference.n, found.difference.mean) == (1, 1.0)
    assert "(1 of 2); each counts as a seed of its own, and none of them is compared" in summary.notes[0]


def test_what_one_group_has_twice_is_said_without_another_group_too():
    scores = made_up({"a": [1.0, 2.0]})
    twin = Video(Path("a/twin.mp4"), "a", scores.videos[0].pair, None)
    scores.videos.append(twin)
    scores.of[twin] = {"shapes_jerk": 9.0}
    assert Summary(scores).notes[0].endswith("(1 of 2); each counts as a seed of its own")


def test_groups_that_share_only_what_one_has_twice_are_not_said_to_share_nothing():
    scores = made_up({"a": [1.0], "b": [1.5]})
    twin = Video(Path("b/twin.mp4"), "b", scores.videos[0].pair, None)
    scores.videos.append(twin)
    scores.of[twin] = {"shapes_jerk": 9.0}
    summary = Summary(scores)
    assert summary.comparisons == []
    assert "b: nothing to compare: of all that it shares with a, one of them has several" in summary.notes


def test_a_video_in_a_folder_of_its_group_is_the_pair_of_the_one_of_its_name(tmp_path):
    for place in ("a/x-0.mp4", "a/x-1.mp4", "b/more/x-0.mp4", "b/x-1.mp4", "c/1/x-0.mp4", "c/2/x-0.mp4"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    folders = [tmp_path / name for name in "abc"]
    assert sorted(v.pair for v in find(folders[:2])) == ["x, seed 0", "x, seed 0", "x, seed 1", "x, seed 1"]
    # Of two of one name in a group, the folder tells which is which.
    assert [v.pair for v in find(folders[2:])] == ["1/x, seed 0", "2/x, seed 0"]
    # One name with two prompts is two videos.
    prompts = {"b/more/x-0.mp4": "a cat", "a/x-0.mp4": "a dog"}
    assert sorted(v.pair for v in find(folders[:2], prompts)) == [
        "x, seed 0 of a cat",
        "x, seed 0 of a dog",
        "x, seed 1",
        "x, seed 1",
    ]


def made(folder: Path, *places: str) -> None:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()


def test_of_files_of_one_name_and_other_prompts_those_of_one_prompt_are_compared(tmp_path):
    made(tmp_path, "a/0.mp4", "a/1.mp4", "b/0.mp4", "b/1.mp4")
    prompts = {"a/0.mp4": "a cat", "a/1.mp4": "a dog", "b/0.mp4": "a dog", "b/1.mp4": "a cat"}
    pairs = {f"{v.group[-1]}{v.path.stem}": (v.pair, v.prompt) for v in find([tmp_path / "a", tmp_path / "b"], prompts)}
    assert pairs["a0"][0] not in [pair for pair, _ in (pairs["b0"], pairs["b1"])]
    scores = made_up({})
    scores.videos = find([tmp_path / "a", tmp_path / "b"], prompts)
    scores.of = {v: {"shapes_jerk": float(n)} for n, v in enumerate(scores.videos)}  # cat 0, dog 1; dog 2, cat 3
    (found,) = Summary(scores).comparisons
    assert found.difference.mean == 2.0 and found.difference.units == 2  # cat +3, dog +1


def test_a_prompt_of_one_of_two_files_of_one_name_leaves_the_other_its_own(tmp_path):
    made(tmp_path, "a/a cat-1.mp4", "b/a cat-1.mp4")
    folders = [tmp_path / "a", tmp_path / "b"]
    assert [v.pair for v in find(folders, {"b/a cat-1.mp4": "a dog"})] == [
        "a cat, seed 1 of a cat",
        "a cat, seed 1 of a dog",
    ]
    assert len({v.pair for v in find(folders, {"b/a cat-1.mp4": "a cat"})}) == 1


def test_another_group_changes_nothing_between_two(tmp_path):
    made(tmp_path, "a/sub/x-0.mp4", "b/x-0.mp4", "c/1/x-0.mp4", "c/2/x-0.mp4", "d/1/x-0.mp4")
    pairs = {v.group[-1]: v.pair for v in find([tmp_path / name for name in "ab"])}
    more = [(v.group[-1], v.pair) for v in find([tmp_path / name for name in "abcd"])]
    assert pairs["a"] == pairs["b"] and set(pairs.items()) <= set(more)
    assert ("d", "1/x, seed 0") in more and ("c", "1/x, seed 0") in more  # whose folder tells which it is


def test_a_sidecar_beside_something_else_of_its_name_lacks_its_video(tmp_path):
    made(tmp_path, "a/x1.txt", "a/x2.mp4")
    said = {"request": {"prompt": "x", "seed": 1, "variant": "w2sd"}, "files": ["x1.mp4"]}
    (tmp_path / "a" / "x1.json").write_text(json.dumps(said))
    assert [v.path.name for v in videos.lacking([tmp_path / "a"])] == ["x1.mp4"]


def test_prompts_of_sidecars_are_one_however_accents_are_written(tmp_path):
    made(tmp_path, "a/1.mp4", "b/1.mp4")
    for name, prompt in (("a", "caf\u00e9"), ("b", "cafe\u0301")):
        said = {"request": {"prompt": prompt, "seed": 1, "variant": "w2sd"}, "files": ["1.mp4"]}
        (tmp_path / name / "1.json").write_text(json.dumps(said))
    first, second = find([tmp_path / "a", tmp_path / "b"])
    assert first.pair == second.pair


def test_a_folder_with_a_slash_behind_it_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/x.mp4").touch()
    assert {v.group for v in find(["a", "a/"])} == {"a"}


def test_many_groups_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = made_up({f"g{n}": [float(n)] for n in range(9)})
    for n in range(9):  # as if a shell had put all files of a folder on the command line
        Path(f"g{n}").touch()
    shown = io.StringIO()
    Console(file=shown, width=60).print(table(Summary(scores), 60))
    assert all(f"g{n}" in shown.getvalue() for n in range(9))
    assert "put a glob in quotes" in Summary(scores).notes[0]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_of_any_width_has_whole_names_and_numbers(width):
    summary = Summary(made_up({f"g{n}": [1.0 + n, 2.0] for n in range(4)}))
    shown = io.StringIO()
    Console(file=shown, width=width).print(table(summary, width))
    assert "…" not in shown.getvalue() and "shapes_jerk" in shown.getvalue()
    assert all(f"{(1.0 + n + 2.0) / 2:.4f}" in shown.getvalue() for n in range(4))


def test_a_group_that_reads_as_a_formula_is_text_in_a_spreadsheet(tmp_path):
    scores = made_up({"=1+1": [1.0, -2.0], "g": [2.0, 1.0]})
    scores.weights["shapes"] = {}
    Summary(scores).write(tmp_path / "r.json", [])
    rows = list(csv.reader((tmp_path / "r.csv").read_text().splitlines()))
    of = {row[1]: row for row in rows if row[0] == "shapes_jerk"}
    assert set(of) == {"'=1+1", "g"} and float(of["'=1+1"][3]) == -0.5
