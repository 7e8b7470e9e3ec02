"""`w2sd-video bench true-size`, on tiny networks of the same classes: every part runs, and none ends the run."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from command_lines import command_lines
from diffusers import ModelMixin
from typer.testing import CliRunner

from w2sd_video import cli, video
from w2sd_video.bench import measure, transformers, true_size
from w2sd_video.bench.bench import Skipped
from w2sd_video.methods import METHODS

CPU = torch.device("cpu")
SMALL = ["--small", "--device", "cpu", "--minutes", "30"]
SMALLEST = ["--size", "32", "--frames", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def bench(*arguments: str):
    return CliRunner().invoke(cli.app, ["bench", "true-size", *arguments])


def measured(*arguments: str) -> dict:
    ran = bench(*SMALL, "--out", "made.json", *arguments)
    assert ran.exit_code == 0, ran.output
    return json.loads(open("made.json").read())


@pytest.mark.slow
def test_the_benchmark_runs_on_a_cpu_and_writes_the_card_the_versions_and_its_rows():
    results = measured("--part", "decode", "--part", "card", "--size", "32", "--frames", "2")
    assert list(results["parts"]) == ["card", "decode"]  # by importance, however they are named
    assert {part["state"] for part in results["parts"].values()} == {"done"}
    assert results["versions"]["torch"] == torch.__version__ and results["card"]["device"] == "cpu"
    chunks = results["parts"]["decode"]["rows"]
    assert [row["what"] for row in chunks] == ["1 frames at a time", "2 frames at a time"]
    assert all(row["seconds"] > 0 and row["size"] == 32 for row in chunks)


@pytest.mark.exhaustive
def test_all_parts_that_need_nothing_else_run_and_each_method_takes_its_evaluations():
    parts = [name for name in true_size.PARTS if name not in ("vbench", "compiled")]
    results = measured(*SMALLEST, *(word for name in parts for word in ("--part", name)))
    assert {name: part["state"] for name, part in results["parts"].items()} == dict.fromkeys(parts, "done")
    took = {row["what"]: row["evaluations"] for row in results["parts"]["steps"]["rows"] if "evaluations" in row}
    assert took.keys() >= {"plain", *METHODS}
    # At guidance 3 both halves, at guidance 1 one; W2SD evaluates strong, weak and strong again.
    expected = {"plain": 2, "w2sd": 5, "w2sd, both arms at guidance 1": 4, "s2wd": 5, "z_sampling": 5, "weak": 1}
    expected |= {"re_sampling": 4, "auto_guidance": 3, "optimistic": 3}
    assert {name: took[name] for name in expected} == expected
    memory = {row["what"]: row["weights_gib"] for row in results["parts"]["memory"]["rows"]}
    one, two, shared = memory.values()
    assert one < shared < two
    precise = {row["what"]: row.get("rms_apart", 0.0) for row in results["parts"]["precision"]["rows"]}
    assert 0 < precise["float16, w2sd"] < precise["bfloat16, w2sd"] < 1
    offloaded = results["parts"]["offload"]["rows"]
    assert [row.get("error") for row in offloaded] == [None] * 4
    assert [row["rms_apart"] for row in offloaded[2:]] == [0, 0]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_true_size_runs_on_a_gpu(tmp_path):
    ran = bench("--minutes", "3", "--part", "card", "--part", "memory", "--part", "steps", "--out", "made.json")
    assert ran.exit_code == 0, ran.output
    parts = json.loads((tmp_path / "made.json").read_text())["parts"]
    assert all(row.get("error") is None for part in parts.values() for row in part["rows"])
    assert parts["memory"]["rows"][0]["peak_gib"] > 6  # of weights alone


@pytest.mark.exhaustive
def test_compiled_blocks_sample_what_the_uncompiled_ones_do(monkeypatch):
    """One block of each network by torch's own backend; the others are traced alone, as their code takes minutes."""
    compile_all = ModelMixin.compile_repeated_blocks

    def compile_one(self, **options):
        compile_all(self, backend="aot_eager", **options)
        next(each for each in self.modules() if type(each).__name__ in self._repeated_blocks).compile(**options)

    monkeypatch.setattr(ModelMixin, "compile_repeated_blocks", compile_one)
    rows = measured(*SMALLEST, "--part", "compiled")["parts"]["compiled"]["rows"]
    assert [row.get("error") for row in rows] == [None] * 4
    assert all(row["rms_apart"] < 0.2 for row in rows[2:])


@command_lines("""
    --part memroy --small => did you mean 'memory'
    --device cpu => --small
    --minutes 0 => more than 0
    --minutes nan => more than 0
    --minutes soon => not accepted; give a number
    --size 100 => multiple of 8
    --size 64 --size 64 => once
    --frames 33 => from 1 to 32
    --out . => folder
    --out '' => not accepted
    --small --device gpu => --device
""")
def test_what_cannot_be_measured_is_refused_in_a_sentence_before_anything_is(options, says, tmp_path):
    ran = bench(*options)
    assert ran.exit_code == 2
    assert says in " ".join(ran.output.split())
    assert "Traceback" not in ran.output
    assert not list(tmp_path.glob("*.json"))


def test_results_that_are_there_are_kept_unless_they_may_be_replaced(tmp_path):
    (tmp_path / "there.json").write_text("mine")
    ran = bench("--small", "--device", "cpu", "--out", "there.json")
    assert ran.exit_code == 2 and "--overwrite" in ran.output
    assert (tmp_path / "there.json").read_text() == "mine"


def run_parts(monkeypatch, tmp_path, minutes: float = 10.0, most: float = 60.0, **functions) -> dict:
    monkeypatch.setattr(true_size, "PARTS", {name: (function, most) for name, function in functions.items()})
    return true_size.run(tmp_path / "made.json", CPU, list(functions), minutes, sizes=(32,), frames=2)


def test_a_part_that_fails_or_lacks_memory_says_so_and_the_next_one_goes_on(monkeypatch, tmp_path):
    def fails(bench):
        bench.add(what="before", seconds=1.0)
        raise ZeroDivisionError("by zero")

    def lacks(bench):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def skips(bench):
        raise Skipped("not installed: vbench")

    def rows(bench):
        with bench.attempt(what="first"):
            raise RuntimeError("no kernel\nand more")
        with bench.attempt(what="second") as row:
            row["seconds"] = math.inf

    parts = run_parts(monkeypatch, tmp_path, fails=fails, lacks=lacks, skips=skips, rows=rows)["parts"]
    assert [part["state"] for part in parts.values()] == ["failed", "out of memory", "skipped", "done"]
    assert "by zero" in parts["fails"]["why"] and parts["fails"]["rows"] == [{"what": "before", "seconds": 1.0}]
    assert parts["rows"]["rows"][0] == {"what": "first", "error": "RuntimeError: no kernel"}
    written = json.loads((tmp_path / "made.json").read_text())
    assert written["parts"]["rows"]["rows"][1] == {"what": "second", "seconds": None}


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_and_keeps_what_it_measured(monkeypatch, tmp_path):
    def slow(bench):
        bench.add(what="quick")
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)  # a library that takes every error for its own

    parts = run_parts(monkeypatch, tmp_path, most=1, slow=slow, next=slow)["parts"]
    assert [part["state"] for part in parts.values()] == ["cut", "cut"]
    assert [part["rows"] for part in parts.values()] == [[{"what": "quick"}]] * 2


def test_an_interrupted_run_leaves_what_it_measured(monkeypatch, tmp_path):
    def interrupted(bench):
        bench.add(what="one")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parts(monkeypatch, tmp_path, first=lambda bench: bench.add(what="zero"), then=interrupted)
    parts = json.loads((tmp_path / "made.json").read_text())["parts"]
    assert [(part["state"], part["rows"]) for part in parts.values()] == [
        ("done", [{"what": "zero"}]),
        ("interrupted", [{"what": "one"}]),
    ]


def test_parts_for_which_there_is_no_time_are_not_begun(monkeypatch, tmp_path):
    parts = run_parts(monkeypatch, tmp_path, 0.01, never=lambda bench: pytest.fail())["parts"]
    assert parts["never"]["state"] == "not reached"


def test_the_videos_that_scorers_are_timed_on_are_the_same_as_gif_and_as_png(tmp_path):
    from w2sd_video.bench.vbench import gif_of, write_video

    folder = write_video(tmp_path / "video", 48, 5, seed=1)
    frames = video.read(folder)
    assert frames.shape == (5, 48, 48, 3) and len(set(map(bytes, frames))) == 5
    assert (video.read(gif_of(folder)) == frames).all()


def test_after_a_deadline_no_timer_is_left():
    with pytest.raises(measure.TimeUp), measure.deadline(0.05):
        time.sleep(30)
    with measure.deadline(30):
        pass
    time.sleep(0.1)


@pytest.mark.parametrize(("part", "branches"), [("wan", 2), ("ltx", 2)])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda part, branches: part == "wan")
def test_pairs_of_video_transformers_are_measured_in_a_step_of_each_way(part, branches):
    """At guidance over 1, two evaluations a plain step; W2SD with both arms at guidance 1 adds one of each arm."""
    results = measured("--part", part)["parts"][part]
    assert results["state"] == "done", results["why"]
    rows = {row["what"]: row for row in results["rows"]}
    assert not any("error" in row for row in rows.values())
    assert {name: rows[name]["evaluations"] for name in ("plain", "weak arm alone", "w2sd")} == {
        "plain": branches, "weak arm alone": 1, "w2sd": branches + 2,
    }  # fmt: skip
    share = rows["weak_transformer"]["parameters"] / rows["transformer"]["parameters"]
    assert rows["weak arm alone"]["of_strong_by_parameters"] == pytest.approx(share, rel=1e-3) and 0 < share < 1


@pytest.mark.slow
def test_a_pair_that_does_not_fit_is_skipped_with_what_it_takes():
    pair = transformers.PAIRS["wan"]
    transformers.check_memory(CPU, pair, torch.bfloat16, 80 * 10**9)
    with pytest.raises(Skipped, match="takes 38 GB of memory, 31 of them for the weights of both.* has 24 GB"):
        transformers.check_memory(CPU, pair, torch.bfloat16, 24 * 10**9)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_wan_and_ltx_run_at_their_true_size_on_a_gpu(tmp_path):
    ran = bench("--minutes", "5", "--part", "wan", "--part", "ltx", "--out", "made.json")
    assert ran.exit_code == 0, ran.output
    parts = json.loads((tmp_path / "made.json").read_text())["parts"]
    assert {part["state"] for part in parts.values()} == {"done"}
    assert all(row.get("error") is None for part in parts.values() for row in part["rows"])
