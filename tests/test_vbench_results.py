"""VBench's own results files: compared from the command line, with its means and prompts, and refused by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.eval.prompts import read_prompts
from w2sd_video.eval.recorded import of_results
from w2sd_video.eval.results import Summary
from w2sd_video.runs import Refused

runner = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: object) -> tuple[int, str]:
    ran = runner.invoke(app, ["eval", *map(str, arguments)])
    return ran.exit_code, " ".join(ran.output.split())


def written(name: str, mean: float, scores: np.ndarray, dimension: str = "scene", folder: str = "videos") -> Path:
    """A file as VBench writes it: of each prompt the scores of its videos, a row a prompt."""
    listed = [
        {"video_path": f"{folder}/prompt {p}-{k}.mp4", "video_results": score, "frame_results": [score]}
        for p, row in enumerate(scores.tolist())
        for k, score in enumerate(row)
    ]
    path = Path(f"{name}_eval_results.json")
    path.write_text(json.dumps({dimension: [mean, listed]}))
    return path


def test_groups_are_compared_by_prompt_and_seed_with_vbenchs_own_means_whatever_files_and_folders_they_are_in(here):
    rng = np.random.default_rng(0)
    scene, quality = rng.uniform(0.2, 0.8, (2, 10, 3))
    better = scene + rng.uniform(0, 0.1, (10, 3))
    written("lavie", 0.4, scene)
    written("w2sd-scene", 0.5, better, folder="elsewhere/scene")
    written("w2sd-imaging", 0.6, 100 * quality, "imaging_quality", folder="elsewhere/imaging")
    code, said = command("lavie=lavie_eval_results.json", "w2sd=w2sd-*_eval_results.json", "--out", "r.json")
    assert code == 0 and "lavie: its results have no imaging_quality" in said, said
    data = json.loads(Path("r.json").read_text())
    assert data["groups"]["w2sd"]["vbench"]["scene"]["one process"] == 0.5  # as stated, and not the mean of videos
    assert data["groups"]["w2sd"]["videos"] == 30
    (compared,) = data["comparisons"]
    differences = (better - scene).mean(1)
    interval = stats.t.interval(0.95, 9, differences.mean(), stats.sem(differences))
    assert (compared["column"], compared["difference"]["n"], compared["difference"]["units"]) == ("scene", 30, 10)
    assert [compared["difference"][end] for end in ("low", "high")] == pytest.approx(interval)
    assert compared["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    rows = {(row["column"], row["group"]): row for row in csv.DictReader(Path("r.csv").open())}
    assert float(rows["imaging_quality", "w2sd"]["mean"]) == pytest.approx(quality.mean())
    assert not list(here.glob("r_*eval_results.json"))


def test_totals_are_those_of_the_means_that_the_file_states(here):
    from test_totals import LEADERBOARD

    scores = np.random.default_rng(1).uniform(0.2, 0.8, (10, 2))
    results = {}
    for name in LEADERBOARD:
        path = written(name, 0.5, scores * (100 if name == "imaging_quality" else 1), name)
        results |= json.loads(path.read_text())
        path.unlink()
    Path("all_eval_results.json").write_text(json.dumps(results))
    summary = Summary(of_results({"all": [Path("all_eval_results.json")]}))
    ranges = {"scene": (0, 0.8222), "appearance_style": (0.0009, 0.2855)}
    ranges |= dict.fromkeys(("temporal_style", "overall_consistency"), (0, 0.364))
    semantic = [(0.5 - low) / (high - low) for low, high in (ranges.get(name, (0, 1)) for name in LEADERBOARD[7:])]
    assert summary.totals["all"]["semantic"].mean == pytest.approx(np.mean(semantic))
    assert summary.totals["all"]["total"].high > summary.totals["all"]["total"].low


def test_prompts_that_names_do_not_tell_come_from_vbenchs_full_info(here):
    written("mine", 0.5, np.full((2, 2), 0.5))
    rows = [
        {"prompt_en": text, "dimension": ["scene"], "video_list": [f"/elsewhere/videos/prompt {p}-{k}.mp4"]}
        for p, text in enumerate(("a cat", "a dog"))
        for k in range(2)
    ]
    Path("mine_full_info.json").write_text(json.dumps(rows))
    prompts = read_prompts(Path("mine_full_info.json"))
    scores = of_results({"all": [Path("mine_eval_results.json")]}, prompts=prompts)
    assert {(video.path.name[7], video.prompt) for video in scores.videos} == {("0", "a cat"), ("1", "a dog")}
    rows[0]["video_list"] = rows[0]["video_list"][0]  # VBench reads one path without a list, and a row without any
    Path("mine_full_info.json").write_text(json.dumps([*rows, {"prompt_en": "a bird", "dimension": ["color"]}]))
    assert read_prompts(Path("mine_full_info.json")) == prompts
    for broken in ([{"prompt_en": "a cat"}], [rows[0], {**rows[0], "prompt_en": "a dog"}], ["a cat"]):
        Path("broken.json").write_text(json.dumps(broken))
        with pytest.raises(Refused, match="give a JSON file such as"):
            read_prompts(Path("broken.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a_eval_results.json", "videos"], "give videos alone, or VBench's results alone"),
        (["b_eval_results.json"], "there is no such file; give VBench's results"),
        (["full.json"], "is not a results file of VBench"),
        (["text.json"], "scene of v-0.mp4 is 'good', and has to be a number"),
        (["x=*a_eval_results.json"], "of the same group, has scene too: give each once"),
        (
            ["a_eval_results.json", "--suite", "vbench"],
            "--suite: 'vbench' is not accepted; results of VBench are scored",
        ),
        (["a=a_eval_results.json", "b=other.json", "--dimensions", "color"], "a has none of color: leave it out"),
        (["deep.json"], "is not a results file of VBench"),
        (["huge.json"], "is not a results file of VBench"),
        (["none.json"], "it has no dimension, or one without a name"),
        (["nameless.json"], "it has no dimension, or one without a name"),
        (["key-twice.json"], "key 'scene' stands twice"),
        (["empty.json"], "scene has no video; --dimensions can leave scene out"),
        (["video-twice.json"], "scene has v-0.mp4 twice"),
        (["no-path.json"], "a video_path of scene is None, and has to be that of a file"),
        (["unnamed-path.json"], "a video_path of scene is '', and has to be that of a file"),
        (["infinite.json"], "scene of v-0.mp4 is inf, and has to be a number"),
        (["nan.json"], "scene of v-0.mp4 is nan, and has to be a number"),
        (["verdict.json"], "dynamic_degree of v-0.mp4 is 2, and has to be from 0 to 1"),
        (
            ["percent.json"],
            "the mean of imaging_quality is 72.9, and its videos' scores divided by 100 are",
        ),
        (["nan-mean.json"], "the mean of scene is nan, and its videos' scores are from 0.5 to 0.5"),
        (["a_eval_results.json", "--prompts", "unlisted.json"], "give a JSON file such as"),
        (["a_eval_results.json", "--images"], "results of VBench are scored already"),
        (["a_eval_results.json", "--dimensions", "scen"], "did you mean 'scene'?"),
        (["a_eval_results.json", "--dimensions", "color"], "color: no results file has it"),
        (["a_eval_results.json", "--out", "a.json"], "it would replace a_eval_results.json, which is compared"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_no_file_is_replaced(here, arguments, says):
    for name in ("a", "again-a"):
        written(name, 0.5, np.full((1, 1), 0.5))
    Path("full.json").write_text(json.dumps([{"prompt_en": "a cat", "dimension": ["scene"]}]))
    Path("unlisted.json").write_text(json.dumps([{"prompt_en": "a cat", "video_list": []}]))
    Path("deep.json").write_text("[" * 100_000)
    Path("huge.json").write_text('{"scene": [1' + "0" * 400 + ", []]}")
    Path("key-twice.json").write_text('{"scene": [0.5, []], "scene": [0.5, []]}')
    for name, results in {
        "text": {"scene": (0.5, {"v-0.mp4": "good"})},
        "other": {"color": (0.5, {"v-0.mp4": 0.5})},
        "none": {},
        "nameless": {"": (0.5, {"v-0.mp4": 0.5})},
        "empty": {"scene": (0.5, {})},
        "no-path": {"scene": (0.5, {None: 0.5})},
        "unnamed-path": {"scene": (0.5, {"": 0.5})},
        "infinite": {"scene": (0.5, {"v-0.mp4": float("inf")})},
        "nan": {"scene": (0.5, {"v-0.mp4": float("nan")})},
        "verdict": {"dynamic_degree": (0.5, {"v-0.mp4": 2})},
        "percent": {"imaging_quality": (72.9, {"v-0.mp4": 70.0, "v-1.mp4": 75.0})},
        "nan-mean": {"scene": (float("nan"), {"v-0.mp4": 0.5})},
    }.items():
        listed = {
            d: [m, [{"video_path": v, "video_results": s} for v, s in of.items()]] for d, (m, of) in results.items()
        }
        Path(f"{name}.json").write_text(json.dumps(listed))
    twice = [{"video_path": "v-0.mp4", "video_results": score} for score in (0.1, 0.9)]
    Path("video-twice.json").write_text(json.dumps({"scene": [0.5, twice]}))
    before = {path: path.read_bytes() for path in here.iterdir()}
    code, said = command(*arguments)
    assert code == 2 and says in said, said
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_scores_that_cannot_be_used_matter_only_where_their_dimension_is_wanted(here):
    path = written("a", 0.5, np.full((3, 1), 0.5))
    results = json.loads(path.read_text())
    path.write_text(
        json.dumps({**results, "imaging_quality": [72.9, [{"video_path": "v-0.mp4", "video_results": 70}]]})
    )
    assert command(path)[0] == 2
    assert command(path, "--dimensions", "scene")[0] == 0


def test_prompts_of_a_file_that_are_of_none_of_the_videos_are_named_and_videos_that_it_does_not_have(here):
    path = written("a", 0.5, np.full((3, 1), 0.5))
    Path("prompts.json").write_text(json.dumps({"prompt 0-0.mp4": "a cat", "prompt 7-0.mp4": "a dog"}))
    code, said = command(path, "--prompts", "prompts.json")
    assert code == 0 and "2 videos, such as videos/prompt 1-0.mp4, are not in the prompts file" in said, said
    assert "1 of the 2 prompts are of no video that is scored, such as 'prompt 7-0.mp4'" in said
