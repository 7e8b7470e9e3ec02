"""Runs of plans: what is made, what is made again and what is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from plan_cases import ARMS, SMALL, TEXTS, made, plan
from typer.testing import CliRunner

from w2sd_video import cli, plans, runs
from w2sd_video.errors import Refused
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.plans import Folder, Keys
from w2sd_video.plans.cells import Cells, CellTask
from w2sd_video.plans.engine import Outcome


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
        from w2sd_video.generation import generate

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


@pytest.mark.slow
def test_the_command_says_what_is_made_and_what_is_left(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS[:1], "settings": SMALL, "axes": ARMS}))

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    said = run("run", tmp_path / "plan.yaml", "--dry-run")
    assert "1 prompt x 1 seed x 2 arms" in said
    assert "left: 2 cells, 11 network evaluations; the time is unknown until each arm has a cell" in said
    assert not (tmp_path / "plan").exists()
    assert "on disk: 0 B so far, still to come: unknown; memory of a worker: unknown" in said
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
    assert "difference of 0.02 from strong is shown in 80 of 100 runs" in text and "w2sd, cannot be told" in text
    assert "--power: -1.0 is not accepted; give" in run("score", tmp_path / "plan", "--power", "-1", code=2)
    assert "left: 0 cells" in run("run", tmp_path / "plan")  # a run's folder goes on
    assert "--dimensions is missing; the plan names none" in run("score", tmp_path / "plan", code=2)
    assert "temporal_flickering" in run("score", tmp_path / "plan", "--dimensions", "temporal_flickering")
    assert "it has no plan.yaml" in run("status", tmp_path / "plan" / "videos", code=2)
    assert "there is no such file or folder" in run("run", tmp_path / "none.yaml", code=2)
    assert "--shard: '3/2' is not accepted" in run("run", tmp_path / "plan", "--shard", "3/2", code=2)


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


@pytest.mark.slow
def test_videos_that_are_not_of_the_plan_are_said_to_be_there(tmp_path):
    plans.run(plan(prompts=TEXTS[:1]), tmp_path / "run", threads=1)
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS[:1], "settings": SMALL, "axes": {"arm": {"w2sd": {}}}})
    )
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0 and "has more, which is not of this plan: strong" in " ".join(result.stderr.split())


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
