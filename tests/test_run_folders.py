"""Folders of runs that are extended, copied, shared or damaged: with cells written by hand, so that none is sampled."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
import yaml
from pages import write_video
from typer.testing import CliRunner

from w2sd_video import cli, documents, plans, runs
from w2sd_video.cli.plans import plan_of
from w2sd_video.errors import Refused
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.plans import Cell, Folder, Keys, Plan, record
from w2sd_video.plans.engine import Here, Outcome
from w2sd_video.plans.run import mine
from w2sd_video.runs import Output

SMALL = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}
ARMS = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}


def plan(**more) -> Plan:
    return Plan(**{"prompts": ["a red circle"], "settings": SMALL, "axes": ARMS, **more})


def write(folder: Path, key: str, cell: Cell, device: str = "a machine", content: bytes = b"x" * 100) -> dict:
    """A cell's files; returns what its sidecar says."""
    where, stem = Folder(folder).place(cell)
    return _written(Output(cell.request(), where, ("mp4",), stem), key, device, content)


def _written(output: Output, key: str, device: str = "a machine", content: bytes = b"x" * 100) -> dict:
    output.folder.mkdir(parents=True, exist_ok=True)
    files = [path for kind, path in output.paths.items() if kind != "json"]
    for file in files:
        file.write_bytes(content)
    video = {"frames_sha256": "", "evaluations": {"total": 7}}
    said = {"videos": {"w2sd": video}, "seconds": 1.0, "cell": key, "formats": list(output.formats)}
    said |= {"device": "cpu", "device_name": device, "hashes": runs.hashes(files)}
    output.paths["json"].write_text(runs.sidecar(output.request, said))
    return said


class ByHand(Here):
    """Makes cells without sampling."""

    def run(self, tasks, start, threads, folder):
        for task in tasks:
            yield Outcome(task, _written(Output(task.request, task.folder, task.formats, task.stem), task.key))


def run(of: Plan, folder: Path, **more) -> plans.Progress:
    return plans.run(of, folder, engine=ByHand(), **{"threads": 1, **more})


# What is made again


def test_another_format_in_the_plan_makes_cells_again_and_one_less_does_not(tmp_path):
    assert run(plan(), tmp_path).made == 2
    both = plan(formats=["mp4", "gif"])
    assert plans.status(both, tmp_path)["left"] == 2
    done = run(both, tmp_path)
    assert (done.kept, done.made) == (0, 2) and len(list(tmp_path.rglob("*.gif"))) == 2
    assert run(plan(), tmp_path).kept == run(both, tmp_path).kept == 2


def test_files_of_the_same_sizes_by_other_settings_are_not_those_of_the_record(tmp_path):
    (cell,) = plan(axes={}).cells()
    key = Keys(1).of(cell)
    said = write(tmp_path, key, cell)
    line = record.line_of(key, cell, Folder(tmp_path).place(cell)[0], said)
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "1.jsonl").write_text(json.dumps(line) + "\n")
    assert set(Folder(tmp_path).state([(key, cell)]).complete) == {key}
    (other,) = plan(axes={}, settings={**SMALL, "weak_guidance_scale": 0.5}).cells()
    write(tmp_path, "0" * len(key), other, content=b"y" * 100)
    sidecar = Folder(tmp_path).place(cell)[0] / f"{cell.stem}.json"
    text = sidecar.read_text().rstrip("\n")
    size = line["files"][sidecar.name][0]
    assert len(text.encode()) <= size
    sidecar.write_text(text + " " * (size - len(text.encode())))
    assert sidecar.stat().st_size == size and not Folder(tmp_path).state([(key, cell)]).complete


def test_a_cell_made_by_a_machine_whose_clock_is_behind_is_made(tmp_path):
    (cell,) = plan(axes={}).cells()
    key, folder = Keys(1).of(cell), Folder(tmp_path)
    (tmp_path / "record").mkdir()
    for name, content in (("2", b"x" * 100), ("1", b"y" * 101)):  # removed, and made anew an hour before
        said = write(tmp_path, key, cell, content=content)
        line = record.line_of(key, cell, folder.place(cell)[0], said)
        (tmp_path / "record" / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    assert set(folder.state([(key, cell)]).complete) == {key}


def test_a_video_that_a_disk_damaged_is_named_with_what_mends_it(tmp_path):
    of = plan()
    run(of, tmp_path)
    video = next(tmp_path.rglob("*.mp4"))
    stat = video.stat()
    video.write_bytes(b"y" * 100)
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(of, tmp_path).kept == 2  # sizes and times are as they were
    with pytest.raises(Refused, match=rf"{video.name} has changed since it was written: delete it, and run"):
        plans.videos(of, tmp_path)
    video.unlink()
    assert run(of, tmp_path).kept == 1 and len(plans.videos(of, tmp_path)) == 2


def test_the_image_encoder_of_an_ip_adapter_decides_its_cells(tmp_path):
    (cell,) = plan(axes={}).cells()
    (tmp_path / "image_encoder").mkdir()
    (tmp_path / "adapter.bin").write_bytes(b"1")
    request = cell.arm.template
    adapter = {"model": str(tmp_path / "adapter.bin"), "image_encoder": None, "strong": 1.0, "weak": 1.0}
    object.__setattr__(request, "ip_adapter", adapter)
    keys = set()
    for content in (b"1", b"2"):
        (tmp_path / "image_encoder" / "model.safetensors").write_bytes(content)
        keys.add(Keys(1).of(cell))
    assert len(keys) == 2


def test_a_key_is_of_what_models_hold_and_not_of_where_they_lie(tmp_path):
    from w2sd_video.shapes import WEIGHTS

    keys = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        shutil.copytree(WEIGHTS / "motion", folder / "motion")
        (cell,) = plan(axes={}, settings={**SMALL, "motion_adapter": str(folder / "motion")}).cells()
        keys.add(Keys(1).of(cell))
    assert len(keys) == 1
    (cell,) = plan(axes={}, settings={**SMALL, "weak_motion_adapter": str(folder / "motion")}).cells()
    assert Keys(1).of(cell) not in keys


def test_prompts_that_another_model_refined_are_refined_anew(tmp_path):
    of = Plan(prompts=["a red circle"], preset="shapes-prompt", settings={"num_inference_steps": 1, "device": "cpu"})
    run(of, tmp_path)
    from w2sd_video.plans.stored import with_stored

    assert with_stored(of, Folder(tmp_path)).refined
    note = json.loads((tmp_path / "run.json").read_text())
    note["arms"][0]["refiner"] = "another/model"
    (tmp_path / "run.json").write_text(json.dumps(note))
    assert with_stored(of, Folder(tmp_path)).refined == {}


def test_another_number_of_threads_is_said_to_make_all_cells_anew(tmp_path, caplog):
    assert run(plan(), tmp_path).made == 2 and run(plan(), tmp_path).kept == 2 and not caplog.records
    assert run(plan(), tmp_path, threads=2).kept == 0
    assert "begun with 1 threads; with 2, it makes all its cells again" in caplog.text


def test_status_says_why_cells_failed(tmp_path):
    of = plan(seeds="0-2")
    (tmp_path / "record").mkdir()
    for n, cell in enumerate(of.cells()):
        line = {"cell": Keys(1).of(cell), "error": "ValueError: no" if n else "OSError: [b]"}
        (tmp_path / "record" / f"{n}.jsonl").write_text(json.dumps(line) + "\n")
    assert plans.status(of, tmp_path, threads=1)["errors"] == {"ValueError: no": 5, "OSError: [b]": 1}
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": of.prompts, "settings": SMALL, "axes": ARMS, "seeds": "0-2"})
    )
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "threads": 1}))
    said = CliRunner().invoke(cli.app, ["status", str(tmp_path)]).output
    assert "failed: ValueError: no (5 cells)\nfailed: OSError: [b]\n" in said


# Shards


@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("arms", [2, 3, 4])
def test_shards_have_every_cell_once_and_each_as_many_of_every_arm(arms, count):
    of = plan(prompts="shapes", n=12, axes={"weak_guidance_scale": list(range(arms))})
    parts = [list(mine(of, (i, count))) for i in range(1, count + 1)]
    numbers = sorted(cell.number for part in parts for cell in part)
    assert numbers == list(range(12 * arms))
    for part in parts:
        assert {sum(cell.arm is arm for cell in part) for arm in of.arms} == {12 // count}


def test_shards_that_begin_together_on_machines_of_other_cores_have_the_threads_of_the_first(tmp_path):
    both = Barrier(2)

    class Cores(ByHand):
        def __init__(self, cores):
            self.cores = cores

        def threads(self):
            with suppress(BrokenBarrierError):  # where the other one waits for this one
                both.wait(1)
            return self.cores

    of = plan(seeds="0-3")
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(plans.run, of, tmp_path, engine=Cores(2**n), shard=(n, 2)) for n in (1, 2)]
        assert [each.result().made for each in started] == [4, 4]
    assert Folder(tmp_path).threads() in (2, 4) and plans.status(of, tmp_path)["left"] == 0


# Copies


def test_a_run_is_looked_at_without_its_prompts_models_and_versions(tmp_path, monkeypatch):
    from w2sd_video.shapes import WEIGHTS

    shutil.copytree(WEIGHTS / "motion", tmp_path / "motion")
    (tmp_path / "mine.csv").write_text("prompt,subject\na red circle,x\na blue square,y\n")
    settings = {**SMALL, "motion_adapter": str(tmp_path / "motion")}
    of = plan(prompts=str(tmp_path / "mine.csv"), settings=settings)
    run(of, tmp_path / "run")
    shutil.rmtree(tmp_path / "motion")
    (tmp_path / "mine.csv").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.setattr(record, "versions", lambda: {"torch": "9.9"})
    read = plans.read_run(tmp_path / "moved")
    assert read.suite.prompts == of.suite.prompts
    about = plans.status(read, tmp_path / "moved")
    assert (about["cells"], about["left"]) == (4, 0)
    assert len([video for video in plans.videos(read, tmp_path / "moved") if video.path.exists()]) == 4
    # Where the plan was changed since, it is the plan that counts.
    file = tmp_path / "moved" / "plan.yaml"
    file.write_text(file.read_text().replace("seeds: 0", "seeds: 1"))
    with pytest.raises(Refused, match="there is no such file"):
        plans.status(plans.read_run(tmp_path / "moved"), tmp_path / "moved")


def test_videos_of_several_machines_are_said_to_be(tmp_path, caplog):
    of = plan()
    run(of, tmp_path)
    plans.videos(of, tmp_path)
    assert not caplog.records
    cell = next(of.cells())
    write(tmp_path, Keys(1).of(cell), cell, device="another machine")
    plans.videos(of, tmp_path)
    assert "1 on a machine, 1 on another machine" in caplog.text


# Plans


def test_a_plan_that_a_run_wrote_is_read_however_much_its_prompts_were_refined_to(tmp_path):
    texts = [f"a red circle, {n}" for n in range(600)]
    large = replace(plan(), prompts=texts, refined={text: text + " word" * 200 for text in texts})
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"prompts": texts, "refined": dict(large.refined)}))
    assert file.stat().st_size > documents.MOST_YAML_BYTES
    assert plans.read(file).refined == large.refined


def test_a_plan_too_large_to_be_read_again_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(Refused, match="prompts: '90 texts' is not accepted; the plan is too large with them"):
        run(plan(prompts=[f"a red{' ' * (95_000 + n)}circle" for n in range(90)]), tmp_path)
    assert not (tmp_path / "videos").exists()


def test_a_character_that_json_writes_as_two_escapes_is_one_in_yaml():
    assert documents.parse_yaml('["\\ud83d\\udc08 a cat", "\\u00e9"]') == ["🐈 a cat", "é"]


def test_a_number_that_begins_with_0_is_no_octal_number():
    assert documents.parse_yaml("[007, 010, 08, 0x10, 0b11, -012, 1_000]") == [7, 10, 8, 16, 3, -12, 1000]


def test_what_is_scored_already_is_read_without_writing_to_its_folder(tmp_path):
    write_video(tmp_path / "a" / "one.mp4")
    rows = tmp_path / "scores" / "scores.jsonl"
    first = evaluate([tmp_path / "a"], "clipped", rows_file=rows)
    before = rows.parent.stat().st_mtime_ns, rows.read_bytes()
    again = evaluate([tmp_path / "a"], "clipped", rows_file=rows)
    assert (rows.parent.stat().st_mtime_ns, rows.read_bytes()) == before and again.of == first.of


def test_the_plan_in_a_runs_folder_is_that_run(tmp_path):
    run(plan(), tmp_path)
    for to_make in (True, False):
        assert plan_of(tmp_path / "plan.yaml", None, None, to_make)[1] == tmp_path
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "plan.yaml").rename(other / "plan.yaml")
    assert plan_of(other / "plan.yaml", None, None, True)[1] == other / "plan"


def test_rows_say_in_which_line_they_are_damaged(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"b": 2}\nnothing\n{"c": 3}\n')
    with pytest.raises(ValueError, match="rows.jsonl is no file of rows of JSON: line 3: "):
        runs.rows(tmp_path / "rows.jsonl")
