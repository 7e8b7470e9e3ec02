"""Groups of `eval` with labels: `w2sd-video eval plain=outputs/plain w2sd=outputs/w2sd`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.errors import Refused
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import find, grouped, lacking, left_out


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """Two folders of two videos each, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for seed in (0, 1):
            video.write_mp4(np.full((3, 16, 16, 3), 60 * n + 30 * seed, np.uint8), tmp_path / name / f"v-{seed}.mp4", 8)
    return tmp_path


@pytest.mark.slow
def test_a_label_names_its_group_everywhere(outputs):
    summary = Summary(evaluate(["plain=a", "w2sd=b"], ["clipped"]))
    assert list(summary.groups) == ["plain", "w2sd"]
    assert {(c.base, c.group) for c in summary.comparisons} == {("plain", "w2sd")}
    summary.write(outputs / "results.json", ["eval"])
    assert list(json.loads((outputs / "results.json").read_text())["groups"]) == ["plain", "w2sd"]


def test_one_folder_can_be_two_groups_and_some_arguments_can_have_no_label(outputs):
    assert grouped(["a", "again=a", "b"]) == [("a", "a"), ("again", "a"), ("b", "b")]
    assert [v.group for v in find(["a", "again=a"])] == ["a", "a", "again", "again"]


def test_a_glob_has_a_label_too(outputs):
    assert [(v.group, v.path.name) for v in find(["some=a/*-1.mp4"])] == [("some", "v-1.mp4")]


def test_what_is_left_out_and_what_lacks_is_looked_for_under_the_path(outputs):
    (outputs / "a" / "other.m4v").touch()
    record = {"request": {"prompt": "p", "seed": 3, "variant": "w2sd"}, "files": ["lost.mp4"]}
    (outputs / "a" / "lost.json").write_text(json.dumps(record))
    assert [path.name for path in left_out(["x=a"])] == ["other.m4v"]
    assert [(v.group, v.path.name) for v in lacking(["x=a"])] == [("x", "lost.mp4")]


@pytest.mark.parametrize("name", ["guidance=7", "=", "=a", "a="])
def test_a_path_with_an_equals_sign_is_a_path(outputs, name):
    (outputs / "a").rename(outputs / name)
    assert [v.group for v in find([name])] == [name, name]
    assert [v.group for v in find([f"x={name}"])] == ["x", "x"]
    assert [v.group for v in find([f"{name}/*.mp4"])] == [f"{name}/*.mp4"] * 2
    assert [v.group for v in find([Path(name)])] == [name, name]


@pytest.mark.parametrize(
    "arguments, value, says",
    [
        (["=a"], "=a", "its label is empty"),
        (["  =a"], "  =a", "its label is empty"),
        (["x="], "x=", "give files, folders or globs, as LABEL=PATH"),
        ([""], "", "give files, folders or globs"),
        (["x=a", "x=b"], "x=b", "'x' is the group of 'x=a' already"),
        (["x=a", "x=a"], "x=a", "'x' is the group of 'x=a' already"),
        (["b", "b=a"], "b=a", "'b' is the group of 'b' already"),
        (["b=a", "b"], "b", "'b' is the group of 'b=a' already"),
        (["x=nothing"], "x=nothing", "or LABEL=PATH"),
        (["runs/scale=*"], "runs/scale=*", "or LABEL=PATH"),  # and not all that is here, as the group "runs/scale"
        (["a*=b"], "a*=b", "or LABEL=PATH, where LABEL has none of / \\ * ? ["),
        (["x =nothing"], "x =nothing", "or LABEL=PATH"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_name(outputs, arguments, value, says):
    with pytest.raises(Refused) as refused:
        evaluate(arguments, ["clipped"])
    assert refused.value.value == value and says in refused.value.accepted


def test_the_same_argument_twice_is_one_group_as_before(outputs):
    assert len(find(["a", "a"])) == 2


@pytest.mark.slow
def test_the_command_line_takes_labels_and_refuses_with_2(outputs):
    ran = CliRunner().invoke(app, ["eval", "plain=a", "w2sd=b", "--dimensions", "clipped"])
    assert ran.exit_code == 0 and "difference" in ran.output and "plain" in ran.output
    ran = CliRunner().invoke(app, ["eval", "x=a", "x=b", "--dimensions", "clipped", "--out", "new.json"])
    assert ran.exit_code == 2 and "VIDEO: 'x=b' is not accepted" in ran.output and not Path("new.json").exists()


@pytest.mark.slow
def test_single_videos_with_labels_are_no_glob_that_the_shell_expanded(outputs):
    one = ["a/v-0.mp4", "b/v-0.mp4", "a/v-1.mp4"]
    said = "each argument is a group; put a glob in quotes"
    assert any(said in note for note in Summary(evaluate(one, ["clipped"])).notes)
    labelled = [f"{n}={path}" for n, path in enumerate(one)]
    assert not any(said in note for note in Summary(evaluate(labelled, ["clipped"])).notes)
