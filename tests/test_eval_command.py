"""The command `eval`: what it writes, prints and refuses, and its official backend."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner
from videofiles import PROMPT, broken, shapes_video

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.eval import official, official_worker, report
from w2sd_video.eval.cli import _say_notes, table
from w2sd_video.eval.dimensions import get
from w2sd_video.eval.evaluate import Scorer, Scores, Store, evaluate
from w2sd_video.eval.results import Summary
from w2sd_video.eval.vbench import read as read_vbench
from w2sd_video.eval.videos import Video, find
from w2sd_video.runs import Refused

runner = CliRunner()


def command(*arguments: object) -> tuple[int, str]:
    ran = runner.invoke(app, ["eval", *map(str, arguments)])
    return ran.exit_code, ran.output


def test_the_command_writes_every_file_and_says_where(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for seed in range(3):
        video.write_mp4(shapes_video(seed + 5), other / f"{PROMPT}-{seed}.mp4", 8)
    out = tmp_path / "results.json"
    code, said = command(folder, other, "--dimensions", "shapes,temporal_flickering", "--out", out)
    assert code == 0, said
    for name in ("results.json", "results.csv", "results.html", "results_1_eval_results.json"):
        assert (tmp_path / name).exists() and name in said
    data = json.loads(out.read_text())
    assert len(data["videos"]) == 6 and {c["group"] for c in data["comparisons"]} == {str(other)}
    total, listed = read_vbench(tmp_path / "results_1_eval_results.json")["temporal_flickering"]
    assert total == pytest.approx(np.mean([score for _, score in listed])) and len(listed) == 3
    page = (tmp_path / "results.html").read_text()
    assert "data-plot=bars" in page and "shapes_right" in page and (tmp_path / "results_files").is_dir()


def test_a_suite_says_on_which_prompts_each_dimension_is_scored(folder, tmp_path):
    """As in VBench, whose dimensions have prompts of their own; scores that are kept of others are left out too."""
    for seed in range(2):
        video.write_mp4(shapes_video(seed + 5), folder / f"a blue square-{seed}.mp4", 8)
    tags = {PROMPT: ["temporal_flickering"], "a blue square": ["clipped"], "a green circle": ["clipped"]}
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps([{"prompt": text, "dimension": names} for text, names in tags.items()]))
    told = (folder, "--dimensions", "temporal_flickering,clipped", "--out", tmp_path / "r.json")
    means = []
    for more in ((), ("--suite", suite)):
        code, said = command(*told, *more)
        assert code == 0, said
        of = json.loads((tmp_path / "r.json").read_text())["groups"][str(folder)]["columns"]
        means.append([of[name]["n"] for name in ("temporal_flickering", "clipped")])
    assert means == [[5, 5], [3, 2]]
    assert "has not a video of each prompt that a dimension is asked of: clipped of 1 of 2" in said
    code, said = command(folder, "--dimensions", "dynamic_degree", "--suite", suite, "--out", tmp_path / "r.json")
    assert code == 2 and "no video is of one of the 0 prompts that it is asked of" in said
    suite.write_text(json.dumps([{"prompt": PROMPT}]))
    for of, says in (
        (suite, "give a suite whose prompts have the tag `dimension`"),
        ("vbnch", "did you mean 'vbench'"),
    ):
        code, said = command(*told, "--suite", of)
        assert code == 2 and f"--suite: '{of}' is not accepted; {says}" in " ".join(said.split())


def test_a_dimension_from_a_file_is_scored_on_the_prompts_that_a_suite_tags_with_its_own_name(folder, tmp_path):
    video.write_mp4(shapes_video(5), folder / "a blue square-0.mp4", 8)
    suite, file = tmp_path / "suite.json", tmp_path / "mine.py"
    suite.write_text(json.dumps([{"prompt": PROMPT}, {"prompt": "a blue square", "dimension": ["brightness"]}]))
    file.write_text("def brightness(frames) -> float:\n    return float(frames.mean())\n")
    code, said = command(
        folder, "--dimensions", f"{file}:brightness", "--suite", suite, "--out", tmp_path / "results.json"
    )
    assert code == 0, said
    scored = json.loads((tmp_path / "results.json").read_text())["groups"][str(folder)]["columns"]
    assert scored["brightness"]["n"] == 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"cliped": [PROMPT]}, "asked: 'cliped' is not accepted; did you mean 'clipped'"),
        ({"six": [PROMPT]}, "asked: 'six' is not accepted"),
        ({"clipped": PROMPT}, "asked.clipped: .* is not accepted; give the prompts in a list"),
        ({"clipped": None}, "asked.clipped: None is not accepted; give the prompts in a list"),
        ([PROMPT], "asked: .* is not accepted; give a dictionary"),
    ],
)
def test_what_is_no_prompts_by_dimension_is_refused(folder, asked, says):
    with pytest.raises(Refused, match=says):
        evaluate(folder, "clipped", asked=asked)


@pytest.mark.slow
def test_the_exit_code_says_that_a_video_was_not_scored(folder, tmp_path):
    broken(folder / "broken.mp4", "cut")
    code, said = command(folder, "--dimensions", "temporal_flickering", "--out", tmp_path / "r.json")
    assert code == 1 and "broken.mp4: the file is cut short" in said
    assert len(json.loads((tmp_path / "r.json").read_text())["videos"]) == 3


@pytest.mark.slow
def test_the_exit_code_says_that_a_dimension_was_skipped(folder, tmp_path):
    options = ["--dimensions", "temporal_flickering,imaging_quality", "--weights", tmp_path]
    code, said = command(folder, *options, "--out", tmp_path / "r.json")
    assert code == 1 and "imaging_quality skipped: the weights of MUSIQ" in said
    assert len(json.loads((tmp_path / "r.json").read_text())["videos"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.mp4"], "'missing.mp4' is not accepted"),
        (["{folder}", "--dimensions", "beauty"], "'beauty' is not accepted"),
        (["{folder}", "--dimensions", ""], "is not accepted; did you mean|is not accepted; "),
        (["{folder}", "--out", "results.txt"], "give the name of a .json file"),
        (["{folder}", "--prompts", "missing.json"], "give a JSON file such as"),
        (["{folder}", "--weights", "missing"], "'missing' is not accepted; give a folder"),
        (["{folder}", "--device", "toaster"], "'toaster' is not accepted"),
        (["{folder}", "--dimensions", "imaging_quality"], "the weights of MUSIQ"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(folder, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "none"))
    if "--dimensions" not in arguments:
        arguments = [*arguments, "--dimensions", "temporal_flickering"]
    code, said = command(*[each.format(folder=folder) for each in arguments])
    assert code == 2 and any(each in said for each in says.split("|")), said
    assert not list(tmp_path.glob("results*"))


def test_what_another_program_wrote_is_left_as_it_is(folder, tmp_path):
    cases = {
        "folder.json": None,
        "sidecar.json": '{"request": {"prompt": "a cat"}}',
        "list.json": "[1]",
        "table.csv": "a,b\n",
        "page.html": "<p>",
        "rows.jsonl": '{"foreign": true}\n',
        "row.jsonl": '{"foreign": true}',
        "part.html": None,
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.mkdir() if content is None else path.write_text(content)
        code, said = command(folder, "--dimensions", "temporal_flickering", "--out", path.with_suffix(".json"))
        assert code in (1, 2) and name in said.replace("\n", ""), (name, said)
        assert path.is_dir() if content is None else path.read_text() == content
        assert content is None or name.endswith(".json") or not path.with_suffix(".json").exists()


@pytest.mark.slow
def test_what_this_command_wrote_it_writes_again(folder, tmp_path):
    out = tmp_path / "r.json"
    options = ["--dimensions", "temporal_flickering", "--out", out]
    (tmp_path / "r2_eval_results.json").write_text("{}")
    for removed in ("", "r.json", "r.json r.jsonl", "r.json r.csv r.html"):
        for name in removed.split():
            (tmp_path / name).unlink()
        assert command(folder, *options)[0] == 0
    for name in ("r.json", "r.jsonl", "r.csv", "r.html"):
        (tmp_path / name).unlink()
    code, said = command(folder, *options)  # by whom it was written, a file in VBench's schema does not say
    assert code == 2 and "r_eval_results.json is there" in said.replace("\n", "")


def test_names_that_are_no_text_or_look_like_markup_are_shown(tmp_path):
    groups = ["g$x_$", "_u", "gr[red]x", "caf\udce9"]
    names = ("temporal_flickering", "subject_consistency", "imaging_quality")  # three make a radar
    scored = [Video(tmp_path / group / "v.mp4", group, "v", None) for group in groups]
    scores = Scores([get(name) for name in names], scored, weights=dict.fromkeys(names, {}))
    for each in scored:
        each.path.parent.mkdir()
        video.write_mp4(shapes_video(), each.path, 8)
        scores.of[each], scores.facts[each] = dict.fromkeys(names, 0.5), {"frames": 16}
    summary = Summary(scores)
    files = summary.write(tmp_path / "r.json", [])
    report.write(tmp_path / "r.html", summary)
    page = (tmp_path / "r.html").read_text()
    assert "data-plot=radar" in page and "caf\\udce9" in page and json.loads(files[0].read_text())["groups"]
    shown = io.StringIO()
    Console(file=shown, width=400).print(table(summary, 400))
    assert "gr[red]x" in shown.getvalue() and "caf\\udce9" in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"videos": None}, "videos"),
        ({"videos": [3]}, "videos"),
        ({"dimensions": [3]}, "dimensions"),
        ({"dimensions": None}, "dimensions"),
        ({"rows_file": 3}, "rows_file"),
        ({"prompts": ["a prompt"]}, "prompts"),
        ({"prompts": {"v.mp4": 3}}, "prompts"),
        ({"weights": "nowhere"}, "weights"),
        ({"references": [3]}, "references"),
        ({"references": "nowhere", "dimensions": "clip_i,clipped"}, "references"),
        ({"references": "nowhere.npz", "dimensions": "fid,clipped"}, "references"),
        ({"official": True}, "official"),
        ({"device": None}, "device"),
        ({"device": 3}, "device"),
        ({"device": "meta"}, "device"),
    ],
)
def test_bad_arguments_are_named_with_their_values(folder, tmp_path, monkeypatch, arguments, argument):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "none"))
    given = {"videos": [folder], "dimensions": "temporal_flickering"} | arguments
    with pytest.raises(Refused, match="is not accepted; ") as refused:
        evaluate(**given)
    assert refused.value.argument == argument


@pytest.mark.slow
def test_one_path_stands_for_itself_and_an_iterator_for_what_it_gives(folder):
    one_by_one = evaluate((path for path in [folder]), (name for name in ["temporal_flickering"]))
    assert evaluate(str(folder), " temporal_flickering ").of.keys() == one_by_one.of.keys() != set()


# VBench's own package


def python_with_metadata_only(tmp_path: Path) -> str:
    """A Python in which VBench's package is listed as installed, and cannot be imported."""
    site = tmp_path / "site"
    (site / "vbench-0.1.5.dist-info").mkdir(parents=True)
    (site / "vbench-0.1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_the_official_backend_says_where_its_package_is_missing(folder, tmp_path):
    code, said = command(
        folder, "--backend", "official", "--out", tmp_path / "r.json", "--official-python", "no-python"
    )
    assert code == 2 and "VBench's package is not installed for no-python" in said
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_the_official_backend_reports_what_its_package_says(folder, tmp_path):
    options = ["--backend", "official", "--dimensions", "scene", "--out", tmp_path / "r.json"]
    code, said = command(folder, *options, "--official-python", python_with_metadata_only(tmp_path))
    assert code == 2 and "scene: VBench's package" in said and "No module named 'vbench'" in said


@pytest.mark.slow
def test_the_official_backend_scores_as_we_do_and_what_it_cannot_is_named(folder, tmp_path, monkeypatch):
    pytest.importorskip("vbench")
    pytest.importorskip("cv2")
    ours = evaluate([folder], ["temporal_flickering"])
    video.write_mp4(shapes_video()[:1], folder / "one frame.mp4", 8)
    video.write_mp4(shapes_video(7), folder / "side.mp4", 8)
    video.write_pngs(shapes_video(8), folder / "pictures")  # which its temporal_flickering leaves out without a word
    compared = {"prompt": PROMPT, "seed": 0, "variant": "compare"}
    (folder / "side.json").write_text(json.dumps({"request": compared}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decord.py").write_text("raise ImportError('the current folder is not for import')")
    shown: list[tuple[int, int, str]] = []
    scores = evaluate(
        [folder],
        ["temporal_flickering", "appearance_style"],
        official=sys.executable,
        progress=lambda done, total, each: shown.append((done, total, each.path.name)),
    )
    counts, totals, names = zip(*shown, strict=True)
    assert list(counts) == sorted(counts) and {*counts} >= {0, 1, 2, 3, 4, 5} and counts[-1] == 10
    assert {*totals} == {10} and len({*names}) == 5
    assert {v.path.name: said for v, _, said in scores.problems} == {
        "one frame.mp4": "VBench gave it no score",
        "pictures": "VBench gave it no score",
        "side.mp4": "it shows several videos side by side; score the single ones, in weak/, plain/ and w2sd/ beside it",
    }
    assert len(ours.of) == 3 and scores.of == ours.of
    assert [each.name for each in scores.skipped] == ["appearance_style"]
    assert "no video is of one of them" in scores.skipped[0].reason


@pytest.mark.slow
def test_scores_of_the_official_package_are_kept_beside_videos_of_other_prompts(folder, tmp_path):
    pytest.importorskip("vbench")
    first, *_ = find([folder])
    (dimension,) = official.dimensions(["appearance_style"], sys.executable)
    key = Scorer([dimension], None, torch.device("cpu")).key(dimension, first)
    Store(tmp_path / "rows.jsonl").add({key: (dimension.name, {dimension.name: 0.5})}, first.open().facts)
    scores = evaluate([folder], [dimension.name], tmp_path / "rows.jsonl", official=sys.executable)
    assert scores.of == {first: {"appearance_style": 0.5}} and not scores.problems and not scores.skipped


def test_what_the_worker_starts_with_is_told_at_once_and_what_it_wrote_last_is_kept():
    code = "import sys; print('a line of VBench'); print('w2sd-video [3, \"a.mp4\"]'); sys.exit('it failed')"
    started: list[tuple[int, str]] = []
    ran = official._run([sys.executable, "-c", code], lambda *each: started.append(each))
    assert ran == (1, "it failed\n") and started == [(3, "a.mp4")]


def test_the_official_package_is_given_names_that_it_reads(tmp_path):
    (tmp_path / "a-person-is-riding-a-bike-35-seed0.webm").write_bytes(b"a video")
    asked = {"path": str(next(tmp_path.iterdir())), "prompt": "A person is riding a bike"}
    (tmp_path / "links").mkdir()
    place = official_worker.linked(asked, 7, str(tmp_path / "links"))
    assert Path(place).read_bytes() == b"a video" and place.endswith(".mp4")
    # human_action.py, line 78 of vbench 0.1.5
    assert place.split("/")[-1].lower().split("-")[0].split("person is ")[-1].split("_")[0] == "riding a bike"


def test_a_problem_of_many_videos_is_one_line_and_its_advice_is_given_once():
    first, second, third = (Video(Path(f"{name}.mp4"), "all", name, name) for name in "abc")
    scores = Scores([], [first, second, third])
    scores.problems = [
        (first, "mine", "KeyError: 'x' (mine.py, line 6)"),
        (second, "mine", "KeyError: 'x' (mine.py, line 6)"),
        (first, "shapes", "'a' is outside the shapes world\nIt knows: circles"),
        (second, "shapes", "'b' is outside the shapes world\nIt knows: circles"),
        (third, "", "it is damaged"),
    ]
    said = io.StringIO()
    _say_notes(Console(file=said, width=200), [], None, scores, None)
    assert said.getvalue().splitlines() == [
        "a.mp4 and 1 more, mine: KeyError: 'x' (mine.py, line 6)",
        "a.mp4, shapes: 'a' is outside the shapes world",
        "It knows: circles",
        "b.mp4, shapes: 'b' is outside the shapes world",
        "c.mp4: it is damaged",
    ]
