"""Plans and their runs: cells, what is made again and what is not, and what ends a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from programs import heard
from typer.testing import CliRunner

from w2sd_video import cli, plans, runs
from w2sd_video.errors import Refused
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.plans import Cell, Folder, Keys, Plan
from w2sd_video.plans.cells import Cells, CellTask
from w2sd_video.plans.engine import Outcome
from w2sd_video.plans.processes import SideBySide

SMALL = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}
ARMS = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}
TEXTS = ["a red circle", "a blue square"]


def plan(**more) -> Plan:
    return Plan(**{"prompts": TEXTS, "settings": SMALL, "axes": ARMS, **more})


def made(folder: Path) -> list[dict]:
    return [line for line in Folder(folder).lines() if "error" not in line]


def frames(folder: Path) -> dict[str, str]:
    """The frames' hashes of every video of a run, by its place."""
    return {
        str(path.relative_to(folder)): json.dumps(runs.read_sidecar(path)[1]["videos"][name]["frames_sha256"])
        for path in sorted(folder.rglob("videos/*/*.json"))
        for name in runs.read_sidecar(path)[1]["videos"]
    }


# What a plan says


def test_the_cells_are_the_product_of_prompts_seeds_and_axes():
    of = plan(seeds="0,2-3", axes={**ARMS, "weak_guidance_scale": [-1, 0.5]})
    cells = list(of.cells())
    assert len(cells) == 2 * 3 * 4 == len({(c.arm.name, c.prompt.text, c.seed) for c in cells})
    assert [arm.name for arm in of.arms] == [
        f"{arm}, weak_guidance_scale={w}" for arm in ("strong", "w2sd") for w in ("-1", "0.5")
    ]
    assert {c.seed for c in cells} == {0, 2, 3} and [c.number for c in cells] == list(range(24))
    last = cells[-1].request()
    assert (last.prompt, last.seed, last.weak_guidance_scale, last.variant) == (TEXTS[1], 3, 0.5, "w2sd")
    assert len({(c.arm.folder, c.stem) for c in cells}) == 24


def test_what_is_no_setting_is_an_option_of_the_method_and_options_add_up():
    of = plan(settings={**SMALL, "still_gain": 0.5}, axes={"motion_gain": [0, 1, 2]})
    assert [arm.template.options for arm in of.arms] == [{"still_gain": 0.5, "motion_gain": gain} for gain in (0, 1, 2)]
    assert [arm.name for arm in of.arms] == ["motion_gain=0", "motion_gain=1", "motion_gain=2"]


def test_a_plan_without_axes_has_one_arm():
    assert [(arm.name, arm.folder) for arm in plan(axes={}).arms] == [("all", "all")]


def test_a_text_counts_once_also_with_spaces_around_it():
    assert [prompt.text for prompt in Plan(prompts=["a cat", " a cat", "a cat\n", "A cat"]).suite.prompts] == [
        "a cat",
        "A cat",
    ]


def test_a_suite_is_drawn_from_and_a_larger_draw_has_the_smaller():
    few, more = (plan(prompts="shapes", n=n, sample_seed=3) for n in (3, 6))
    assert {p.text for p in few.suite.prompts} < {p.text for p in more.suite.prompts}


def test_a_plan_is_read_from_yaml_and_files_lie_beside_it(tmp_path):
    (tmp_path / "mine.txt").write_text("a red circle\n")
    (tmp_path / "plan.yaml").write_text("prompts: mine.txt\nseeds: 0-1\naxes:\n  motion_gain: [0, 1]\n")
    of = plans.read(tmp_path / "plan.yaml")
    assert [prompt.text for prompt in of.suite.prompts] == ["a red circle"] and len(list(of.cells())) == 4


def test_models_lie_beside_the_plan_wherever_it_is_read_and_keep_their_labels(tmp_path, monkeypatch):
    from shutil import copytree

    from w2sd_video.shapes import WEIGHTS

    (tmp_path / "a").mkdir()
    for name in ("one", "two"):
        copytree(WEIGHTS / "motion", tmp_path / "a" / name)
    (tmp_path / "a" / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS, "settings": SMALL | {"motion_adapter": "one"}, "axes": {"arm": {"none": {}}}})
    )
    (tmp_path / "a" / "axis.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS, "settings": SMALL, "axes": {"motion_adapter": ["one", "two"]}})
    )
    monkeypatch.chdir(tmp_path)
    for folder in (Path("a"), tmp_path / "a"):
        (arm,) = plans.read(folder / "plan.yaml").arms
        assert arm.template.motion_adapter == str(tmp_path / "a" / "one")
        arms = plans.read(folder / "axis.yaml").arms
        assert {arm.name: arm.template.motion_adapter for arm in arms} == {
            name: str(tmp_path / "a" / name) for name in ("one", "two")
        }
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "a" / "plan.yaml").rename(tmp_path / "plan.yaml")
    (arm,) = plans.read("../plan.yaml").arms  # a path from where the command runs, as before
    assert arm.template.motion_adapter == str(tmp_path / "a" / "one")


def test_paths_tell_arms_apart_that_differ_in_case_or_signs(tmp_path):
    labels = ["A", "a", "a b", "a_b", "../x", "con.", "é", "x" * 300, "<b>", "🐈"]
    of = plan(axes={"arm": {label: {} for label in labels}})
    folders = [arm.folder.lower() for arm in of.arms]
    assert len(set(folders)) == len(labels)
    assert all(len(name) < 120 and "/" not in name and not name.startswith(".") for name in folders)


def test_an_arm_can_have_the_steps_that_cost_what_another_arm_costs():
    arms = {**ARMS["arm"], "equal": {"variant": "plain", "as_costly_as": "w2sd"}}
    of = plan(settings={"num_inference_steps": 15}, axes={"arm": arms, "weak_guidance_scale": [1, 2]})
    steps = {arm.name: arm.template.num_inference_steps for arm in of.arms}
    assert steps["w2sd, weak_guidance_scale=1"] == 15
    assert steps["equal, weak_guidance_scale=1"] == 36 and steps["equal, weak_guidance_scale=2"] == 43


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompts": []}, "prompts: [] is not accepted; give at least one text"),
        ({"prompts": ["a red circle", " "]}, "prompts: ' ' is not accepted"),
        ({"prompts": "moton"}, "did you mean 'motion'?"),
        ({"prompts": ["a red dog"]}, "outside the shapes world"),
        ({"seeds": "3-1"}, "seeds: '3-1' is not accepted"),
        ({"seeds": -1}, "seeds: -1 is not accepted"),
        ({"prompts": "x" * 10_000}, "is not accepted; Available: smoke"),
        ({"axes": {"motion_gain": [10**400]}}, "is not accepted; give smaller whole numbers"),
        ({"axes": {"a\nb": {"c": {}}}}, "axes: 'a\\nb' is not accepted; give names of printable characters"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_scale": [[1], 2]}}}}}, "tune.guidance_scale: [[1], 2] is not acc"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_sacle": [1, 2]}}}}, "tuning": {"by": ["clipped"]}},
         "axes (arm a): 'guidance_sacle' is no setting (did you mean 'guidance_scale'?)"),
        ({"tuning": {"by": ["clipped"], "promts": "smoke"}}, "tuning.promts: 'smoke' is not accepted; no setting"),
        ({"axes": {"arm": {"a": {"as_costly_as": "a"}}}}, "as_costly_as: 'a' is not accepted; give the axis another"),
        ({"seeds": []}, "seeds: [] is not accepted; give at least one"),
        ({"seeds": "0-99999999"}, "give at most 100000 seeds"),
        ({"n": 3}, "n: 3 is not accepted; texts has 2"),
        ({"axes": {"motion_gain": []}}, "axes.motion_gain: [] is not accepted"),
        ({"axes": {"motion_gain": 3}}, "axes.motion_gain: 3 is not accepted"),
        ({"axes": {"arm": {"a": 3}}}, "axes.arm.a: 3 is not accepted; give settings"),
        ({"axes": {"arm": {"a": {"motion_gian": 1}}}}, "did you mean 'motion_gain'?"),
        ({"settings": {**SMALL, "num_inference_step": 2}},
         "settings: 'num_inference_step' is no setting (did you mean 'num_inference_steps'?) and no option of w2sd"),
        ({"axes": {"arm": {"a": {"nothing": 1}}}},
         "axes (arm a): 'nothing' is no setting and no option of w2sd; Available: interval"),
        ({"settings": {**SMALL, "options": {"nothing": 1}}}, "option of w2sd: 'nothing' is not accepted"),
        ({"axes": {"guidance_scale": [1, "x"]}}, "axes (guidance_scale x): "),
        ({"axes": {"arm": {"a": {"as_costly_as": "b"}, "c": {}}}}, "as_costly_as: 'b' is not accepted; Available: c"),
        ({"settings": {"as_costly_as": "a"}}, "as_costly_as: 'a' is not accepted; set it on a label of an axis"),
        ({"axes": {"seed": [1]}}, "all arms share the plan's own"),
        ({"axes": {"arm": {"a": {}}}, "base": "b"}, "base: 'b' is not accepted"),
        ({"axes": {"motion_gain": [1, 1.0]}}, "two of their points have the same labels"),
        ({"prompt": "x"}, "no setting has this name; did you mean 'prompts'?"),
        ({"axes": {"guidance_scale": list(range(1, 1001)), "weak_guidance_scale": list(range(100))}, "seeds": "0-99"},
         "the plan has 100000 arms, and a run at most 10000 arms"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name_before_anything_is_made(more, says, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL, "axes": ARMS} | more))
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and says in " ".join(result.output.split()), result.output
    assert not (tmp_path / "run").exists()


# What is made, and made again


def test_the_same_run_again_makes_nothing_and_a_larger_one_what_is_new(tmp_path):
    first = plans.run(plan(), tmp_path, threads=1)
    assert (first.cells, first.made, first.kept, first.failed) == (4, 4, 0, [])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("videos/*/*")}
    again = plans.run(plan(), tmp_path)
    assert (again.made, again.kept) == (4, 4)
    larger = plan(seeds="0-1", axes={"arm": {**ARMS["arm"], "gain 2": {"motion_gain": 2}}})
    done = plans.run(larger, tmp_path)
    assert (done.cells, done.kept, done.made) == (12, 4, 12)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("videos/*/*")}.items()
    assert len(made(tmp_path)) == 12 == len({line["cell"] for line in made(tmp_path)})


@pytest.mark.slow
def test_cells_are_the_videos_that_generate_makes(tmp_path):
    plans.run(plan(prompts=TEXTS[:1]), tmp_path / "run", threads=1)
    for path in sorted((tmp_path / "run").rglob("videos/*/*.json")):
        request, record = runs.read_sidecar(path)
        from w2sd_video.generate import generate

        (alone,) = generate([request], tmp_path / "alone")
        assert alone.record["videos"].keys() == record["videos"].keys()
        for name, video in alone.record["videos"].items():
            assert video["frames_sha256"] == record["videos"][name]["frames_sha256"]


@pytest.mark.slow
def test_what_was_removed_damaged_or_never_written_down_is_noticed(tmp_path):
    of = plan(prompts=TEXTS[:1], seeds="0-2", axes={})
    plans.run(of, tmp_path, threads=1)
    keys, folder = Keys(1), Folder(tmp_path)
    cells = [(keys.of(cell), cell) for cell in of.cells()]
    paths = [folder.place(cell)[0] / f"{cell.stem}.mp4" for _, cell in cells]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"x")
    assert set(folder.state(cells).complete) == {cells[2][0]}
    os.utime(paths[2])  # as of a copy
    assert set(folder.state(cells).complete) == {cells[2][0]}
    for file in (tmp_path / "record").iterdir():
        file.write_text("")
    assert set(folder.state(cells).complete) == {cells[2][0]}  # its sidecar says so
    done = plans.run(of, tmp_path)
    assert (done.kept, done.made) == (1, 3)


def test_a_key_is_of_all_that_decides_the_frames():
    def keys(threads=1, **more):
        return {Keys(threads).of(cell) for cell in plan(prompts=TEXTS[:1], axes={}, **more).cells()}

    first = keys()
    assert first == keys()
    settings = [
        {"guidance_scale": 2.0},
        {"method": "optimistic"},
        {"motion_gain": 2},
        {"strong": "package:shapes/weights/base"},
    ]
    others = [keys(settings=SMALL | each) for each in settings]
    others += [keys(seeds=1), keys(threads=2), keys(preset="shapes-motion")]
    assert all(not first & other for other in others)
    assert {Keys(1).of(cell) for cell in plan(prompts=TEXTS[1:], axes={}).cells()}.isdisjoint(first)


def test_changed_weights_make_other_cells(tmp_path):
    from shutil import copytree

    from w2sd_video.shapes import WEIGHTS

    copytree(WEIGHTS / "motion", tmp_path / "motion")
    of = plan(prompts=TEXTS[:1], axes={}, settings={**SMALL, "motion_adapter": str(tmp_path / "motion")})
    (cell,) = of.cells()
    before = Keys(1).of(cell)
    (tmp_path / "motion" / "README.md").write_text("a note")
    assert Keys(1).of(cell) == before
    file = tmp_path / "motion" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))
    assert Keys(1).of(cell) != before


@pytest.mark.slow
def test_shards_make_every_cell_once(tmp_path):
    of = plan(seeds="0-1")
    done = [plans.run(of, tmp_path, threads=1, shard=(i, 3)) for i in (1, 2, 3)]
    assert sum(each.made - each.kept for each in done) == 8 == len(made(tmp_path))
    assert plans.run(of, tmp_path).kept == 8


@pytest.mark.slow
def test_a_failed_cell_is_recorded_and_tried_again(tmp_path, monkeypatch):
    real = Cells.make

    def make(self, task: CellTask) -> Outcome:
        return Outcome(task, error="ValueError: no") if task.request.seed == 1 else real(self, task)

    monkeypatch.setattr(Cells, "make", make)
    of = plan(prompts=TEXTS[:1], seeds="0-1", axes={})
    done = plans.run(of, tmp_path, threads=1)
    assert (done.made, [line["error"] for line in done.failed]) == (1, ["ValueError: no"])
    assert plans.status(of, tmp_path)["arms"]["all"] | {"seconds": 0} == {
        "cells": 2, "made": 1, "failed": 1, "left": 1, "evaluations": 7, "seconds": 0,
        "strong_evaluations": 7,
    }  # fmt: skip
    monkeypatch.undo()
    done = plans.run(of, tmp_path)
    assert (done.kept, done.made, done.failed) == (1, 2, [])


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, monkeypatch):
    real = Cells.make

    def make(self, task: CellTask) -> Outcome:
        full = OSError(28, "No space left on device", "x.mp4")
        return Outcome(task, error=str(full), raised=full) if task.request.seed == 1 else real(self, task)

    monkeypatch.setattr(Cells, "make", make)
    of = plan(prompts=TEXTS[:1], seeds="0-2", axes={})
    with pytest.raises(OSError, match="No space left"):
        plans.run(of, tmp_path, threads=1)
    assert len(made(tmp_path)) == 1
    monkeypatch.undo()
    assert plans.run(of, tmp_path).kept == 1


def test_two_processes_do_not_run_one_plan_in_one_folder_at_once(tmp_path):
    with runs.alone(tmp_path / "run.json"), pytest.raises(Refused, match="another process"):
        plans.run(plan(), tmp_path, threads=1)


@pytest.mark.slow
def test_what_is_scored_is_every_cell_and_one_that_was_not_made_counts_as_failed(tmp_path):
    of = plan(prompts=TEXTS[:1], seeds="0-1", base="w2sd")
    with pytest.raises(Refused, match="nothing is made yet"):
        plans.videos(of, tmp_path)
    plans.run(of, tmp_path, threads=1)
    found = plans.videos(of, tmp_path)
    assert [video.group for video in found] == ["w2sd", "w2sd", "strong", "strong"]
    assert {video.pair for video in found} == {"a red circle, seed 0", "a red circle, seed 1"}
    found[0].path.unlink()
    again = plans.videos(of, tmp_path)
    assert [video.path.exists() for video in again] == [False, True, True, True]
    scores = evaluate(again, "temporal_flickering")
    assert len(scores.of) == 3 and [video.pair for video, _, _ in scores.problems] == ["a red circle, seed 0"]
    data = bytearray(found[1].path.read_bytes())
    data[-1] ^= 1
    before = found[1].path.stat()
    found[1].path.write_bytes(data)
    os.utime(found[1].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Refused, match="has changed since it was written"):
        plans.videos(of, tmp_path)


# Ten thousand cells


def test_a_plan_of_ten_thousand_cells_is_looked_through_in_a_moment(tmp_path):
    of = plan(prompts="shapes", n=100, seeds="0-49")
    began = time.process_time()
    cells = [(key, cell) for keys in [Keys(1)] for cell in of.cells() for key in [keys.of(cell)]]
    assert len(cells) == 10_000 == len({key for key, _ in cells})
    assert Folder(tmp_path).state(cells).complete == {}
    assert time.process_time() - began < 5


# Workers


def _stand_in(connection, start, threads, files):
    """A worker that dies at seed 1, each time or, where it starts with `once`, the first time."""
    mark, times = start
    try:
        while True:
            task = connection.recv()
            if task.request.seed == 1 and not (mark.exists() and times == "once"):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            connection.send(Outcome(task, record={"by": os.getpid()}))
    except EOFError:
        pass


def tasks(tmp_path: Path, count: int) -> list[CellTask]:
    request = next(plan(axes={}).cells()).request()
    return [CellTask(str(n), replace(request, seed=n), tmp_path, str(n), ("mp4",), "w2sd") for n in range(count)]


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda times: times == "once")
@pytest.mark.parametrize("times", ["once", "always"])
def test_a_worker_that_dies_is_replaced_and_its_cell_tried_again_with_a_bound(times, tmp_path):
    made = SideBySide(2, _stand_in).run(tasks(tmp_path, 6), (tmp_path / "mark", times), 1, tmp_path)
    outcomes = {outcome.task.key: outcome for outcome in made}
    assert outcomes.keys() == set("012345")
    failed = {key: outcome.error for key, outcome in outcomes.items() if outcome.error}
    assert failed == ({} if times == "once" else {"1": "its worker died: SIGKILL"})


@pytest.mark.exhaustive
def test_workers_make_what_one_process_makes(tmp_path):
    of = plan(seeds="0-1")
    plans.run(of, tmp_path / "one", threads=1)
    plans.run(of, tmp_path / "two", workers=2, threads=1)
    assert frames(tmp_path / "one") == frames(tmp_path / "two") and len(frames(tmp_path / "two")) == 8


# The command line


@pytest.mark.slow
def test_the_command_says_what_is_made_and_what_is_left(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS[:1], "settings": SMALL, "axes": ARMS}))

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    said = run("run", tmp_path / "plan.yaml", "--dry-run")
    assert "1 prompt x 1 seed x 2 arms" in said and "left: 2 cells, 11 network evaluations; for an unknown time" in said
    assert not (tmp_path / "plan").exists()
    assert "on disk 0 B, and unknown for what is left; memory of a worker: unknown" in said
    said = run("run", tmp_path / "plan.yaml", "--threads", 1)
    assert "strong: 1/1 made, 4 network evaluations each" in said and "w2sd: 1/1 made, 7 network" in said
    about = json.loads(run("status", tmp_path / "plan", "--format", "json"))
    assert about["left"] == 0 and about["seconds_left"] == 0 and about["bytes"] > 0 == about["bytes_left"]
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS[:1], "settings": SMALL, "axes": ARMS, "seeds": "0-4"})
    )
    more = json.loads(run("run", tmp_path / "plan.yaml", "--dry-run", "--format", "json"))
    assert more["left"] == 8 and more["bytes_left"] == 4 * about["bytes"] and 2**26 < about["memory"] < 2**36
    assert 0 < more["seconds_left"] < 3600
    text = run("score", tmp_path / "plan", "--dimensions", "clipped", "--power", "0.02", "--threads", 1)
    assert "difference of 0.02 from strong is shown in 80 of 100 runs" in text and "clipped, w2sd: it cannot be" in text
    assert "--power: -1.0 is not accepted; give" in run("score", tmp_path / "plan", "--power", "-1", code=2)
    assert "left: 0 cells" in run("run", tmp_path / "plan")  # a run's folder goes on
    assert "--dimensions is missing; the plan names none" in run("score", tmp_path / "plan", code=2)
    assert "temporal_flickering" in run("score", tmp_path / "plan", "--dimensions", "temporal_flickering")
    assert "it has no plan.yaml" in run("status", tmp_path / "plan" / "videos", code=2)
    assert "there is no such file or folder" in run("run", tmp_path / "none.yaml", code=2)
    assert "--shard: '3/2' is not accepted" in run("run", tmp_path / "plan", "--shard", "3/2", code=2)


def test_a_cell_knows_its_arm():
    (cell,) = plan(prompts=TEXTS[:1], axes={}).cells()
    assert isinstance(cell, Cell) and cell.arm.labels == {}


# Hostile plans and folders


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompts": [1]}, "prompts: [1] is not accepted; give a suite, a file, or a list of texts"),
        ({"prompts": TEXTS[:1] + ["\ud800"], "preset": "animatediff-dreamshaper"}, "give text that is Unicode"),
        ({"seeds": {}}, "seeds: {} is not accepted; give a whole number, a list of them, or a text"),
        ({"seeds": "0,9999999999999999999"}, "give whole numbers up to 9223372036854775807"),
        ({"tags": "camera"}, "tags: 'camera' is not accepted; give a list of texts"),
        ({"tags": ["camera"]}, "tags: 'camera' is not accepted; texts has no tags"),
        ({"self": 1}, "self: 1 is not accepted; no setting has this name"),
        ({"settings": {"method": 3}}, "settings.method: 3 is not accepted"),
        ({"settings": {"schedule": [3]}}, "settings.schedule: [3] is not accepted"),
        ({"settings": {"preset": [3]}}, "settings.preset: [3] is not accepted"),
        ({"settings": {"options": 3}}, "options: 3 is not accepted; give names and values"),
        ({"settings": {"options": 3, "motion_gain": 2}}, "options: 3 is not accepted; give names and values"),
        ({"settings": {"num_frames": 2000}}, "settings.num_frames: 2000 is not accepted; give a whole number"),
        ({"settings": {"device": "banana"}}, "settings.device: 'banana' is not accepted"),
        ({"settings": {"pictures": {"control": "x"}}}, "settings: 'pictures' is no setting and no option of w2sd"),
        ({"settings": {"variant": "compare"}}, "settings.variant: 'compare' is not accepted; give w2sd, plain or weak"),
        ({"settings": {"method": "x.py:Mine"}}, "code runs only from a file that is named: give --method"),
        ({"axes": {"arm": {2: {}}}}, "give names that are texts, such as '2' with quotes"),
        ({"axes": {"arm": {"a\nb": {}}}}, "axes.arm: 'a\\nb' is not accepted; give labels"),
        ({"axes": {"prompts": ["a"]}}, "prompts: 'a' is not accepted; all arms share the plan's own"),
        ({"settings": {}, "axes": {"preset": ["shapes", "shapes-image"]}}, "give arms of one kind"),
        (
            {"settings": {}, "preset": "shapes-prompt", "refined": {"a red circle": " "}},
            "refined.a red circle: ' ' is not accepted; give a text that is not empty",
        ),
        ({"settings": {}, "preset": "shapes-control"}, "needs a picture: give a file"),
        ({"settings": {}, "preset": "shapes-image", "formats": ["gif"]}, "images are always PNG"),
        ({"settings": {}, "preset": "shapes-image", "dimensions": ["temporal_flickering"]}, "it takes 2 frames"),
        ({"formats": ["avi"]}, "formats: 'avi' is not accepted; give some of mp4, gif, png, differences"),
        ({"formats": []}, "formats: [] is not accepted"),
        ({"formats": ["gif"], "dimensions": ["clipped"]}, "add mp4, on which the dimensions are scored"),
        ({"dimensions": ["banana"]}, "dimensions: 'banana' is not accepted"),
        ({"dimensions": ["fid"]}, "dimensions: 'fid' is not accepted; it compares with other pictures"),
        ({"dimensions": ["x.py:f"]}, "a plan names no code"),
        ({"dimensions": ["imaging_quality"]}, "the weights of"),
    ],
)  # fmt: skip
def test_a_hostile_plan_is_refused_in_one_sentence_before_anything_is_made(more, says, tmp_path, monkeypatch):
    for name in ("HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "none").mkdir()
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL} | more))
    command = ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "none")]
    result = CliRunner().invoke(cli.app, command)
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and says in said and said.count("Error:") == 1, result.output
    assert not any(option in said for option in ("--frames", "--set", "--seed ", "--prompts", "PROMPT"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_damaged_note_or_record_costs_what_it_says_and_no_traceback(tmp_path):
    of = plan(prompts=TEXTS[:1], axes={})
    plans.run(of, tmp_path, threads=1)
    (file,) = (tmp_path / "record").iterdir()
    line, note = json.loads(file.read_text()), (tmp_path / "run.json").read_text()
    damaged = [{"files": value} for value in ([], 3, {}, {"a": 3}, {"../x": [1, 2]}, {"a\0": [1, 2]})]
    for each in [*damaged, {"seconds": "x"}, {"seconds": None}, {"evaluations": None}, {"error": 3}]:
        file.write_text(json.dumps(line | each) + "\n")
        assert plans.status(of, tmp_path)["left"] == 0  # the sidecar says that it is made
    file.write_text(f"{'[' * 100_000}\n")
    assert plans.status(of, tmp_path)["left"] == 0
    for text in ("[]", "{}", '{"threads": true}', '{"threads": 0}', '{"threads": "a"}'):
        (tmp_path / "run.json").write_text(text)
        for use in (plans.status, plans.videos, plans.run):
            with pytest.raises(Refused, match="is not what `w2sd-video run` writes"):
                use(of, tmp_path)
    (tmp_path / "run.json").write_text(note)
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    assert plans.run(of, tmp_path).kept == 1


@pytest.mark.parametrize("name", ["record", "videos"])
def test_a_file_in_the_way_of_a_folder_is_named(name, tmp_path):
    (tmp_path / name).write_text("x")
    with pytest.raises(Refused, match="give a folder that can be written to"):
        plans.run(plan(), tmp_path, threads=1)


def test_a_run_is_read_from_any_folder_though_its_plan_named_files_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "mine.txt").write_text("a red circle\n")
    monkeypatch.chdir(tmp_path)
    Path("a b/plan.yaml").write_text(yaml.safe_dump({"prompts": "mine.txt", "settings": SMALL}))
    assert plans.run(plans.read("a b/plan.yaml"), Path("run"), threads=1).made == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plans.status(plans.read(tmp_path / "run" / "plan.yaml"), tmp_path / "run")["left"] == 0


def test_a_plan_without_a_suffix_needs_a_folder(tmp_path):
    (tmp_path / "plan").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL}))
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan"), "--dry-run"])
    assert result.exit_code == 2 and "--out is missing" in result.output
    result = CliRunner().invoke(cli.app, ["status", str(tmp_path / "plan")])
    assert result.exit_code == 2 and "RUN: " in result.output and "give the folder of a run" in result.output


@pytest.mark.slow
def test_videos_that_are_not_of_the_plan_are_said_to_be_there(tmp_path):
    plans.run(plan(prompts=TEXTS[:1]), tmp_path / "run", threads=1)
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS[:1], "settings": SMALL, "axes": {"arm": {"w2sd": {}}}})
    )
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0 and "has more, which is not of this plan: strong" in " ".join(result.stderr.split())


def test_what_is_scored_is_mp4(tmp_path):
    with pytest.raises(Refused, match="videos are scored as mp4"):
        plans.videos(plan(formats=["gif"]), tmp_path)


METHOD = """
from w2sd_video.methods import W2SD

class Mine(W2SD):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_method_of_a_file_is_named_on_the_command_line(workers, tmp_path, monkeypatch):
    monkeypatch.setattr("w2sd_video.plugins._RUN", {})
    (tmp_path / f"mine{workers}.py").write_text(METHOD)
    method = f"{tmp_path / f'mine{workers}.py'}:Mine"
    settings = {**SMALL, "method": f"mine{workers}.py:Mine"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": settings}))
    command = ["run", str(tmp_path / "plan.yaml"), "--threads", "1"]
    refused = CliRunner().invoke(cli.app, command)
    assert refused.exit_code == 2 and "--method FOLDER/" in refused.output and not (tmp_path / "plan").exists()
    done = CliRunner().invoke(cli.app, [*command, "--workers", str(workers), "--method", method, "--format", "json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["left"] == 0, done.output
    about = json.loads(done.stdout)
    monkeypatch.setattr("w2sd_video.plugins._RUN", {})
    (tmp_path / f"mine{workers}.py").rename(tmp_path / "away.py")  # what is made is looked at and scored without code
    again = CliRunner().invoke(cli.app, ["status", str(tmp_path / "plan"), "--format", "json"])
    assert json.loads(again.stdout) == about and about["arms"]["all"]["made"] == 2
    for command in (["score", "--dimensions", "clipped"], ["report"]):
        again = CliRunner().invoke(cli.app, [command[0], str(tmp_path / "plan"), *command[1:]])
        assert again.exit_code == 0, again.output
    more = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan")])
    assert more.exit_code == 2 and f"where FOLDER is where mine{workers}.py lies" in " ".join(more.output.split())
    plan_file = tmp_path / "plan" / "plan.yaml"
    plan_file.write_text(plan_file.read_text().replace("num_frames: 2", "num_frames: 3"))
    edited = CliRunner().invoke(cli.app, ["status", str(tmp_path / "plan")])
    assert edited.exit_code == 2 and "code runs only from a file that is named" in " ".join(edited.output.split())
    wrong = CliRunner().invoke(cli.app, ["status", str(tmp_path / "plan"), "--method", "w2sd"])
    assert wrong.exit_code == 2 and "--method: 'w2sd' is not accepted; give FILE.py:CLASS" in wrong.output


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda number: number == signal.SIGINT)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_a_run_ends_its_workers(number, tmp_path):
    settings = {**SMALL, "num_inference_steps": 200, "num_frames": 16}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": settings, "seeds": "0-9"}))
    command = [sys.executable, "-m", "w2sd_video.cli", "run", "plan.yaml", "--threads", "1", "--workers", "2"]
    how = {"start_new_session": True, "cwd": tmp_path, "preexec_fn": heard}
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, **how)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        time.sleep(0.05)
        assert process.poll() is None
        with suppress(psutil.Error):  # of one that has just ended
            below = psutil.Process(process.pid).children()
            workers = [each for each in below if "spawn_main" in " ".join(each.cmdline())]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # while they import, and to all, as of Ctrl-C
    else:
        time.sleep(6)
        os.kill(process.pid, number)
    try:
        assert process.wait(600) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        assert not psutil.wait_procs(workers, timeout=600)[1]
    finally:  # what a fault leaves would slow down all other tests
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in (text := (tmp_path / "said").read_text()) and "leaked" not in text, text


@pytest.mark.slow
def test_a_worker_ends_even_where_it_was_deleting_an_object():
    """There, Python drops the exception that is to end it."""
    code = """
import os, signal, sys, time
from w2sd_video.plans.processes import _ended_by_an_exception
class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with _ended_by_an_exception():
    slow = Slow()
    del slow
    time.sleep(900)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (143, "")
