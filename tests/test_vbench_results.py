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
    written("lavie", 0.1, scene)
    written("w2sd-scene", 0.2, better, folder="elsewhere/scene")
    written("w2sd-imaging", 0.3, 100 * quality, "imaging_quality", folder="elsewhere/imaging")
    code, said = command("lavie=lavie_eval_results.json", "w2sd=w2sd-*_eval_results.json", "--out", "r.json")
    assert code == 0 and "lavie: its results have no imaging_quality" in said, said
    data = json.loads(Path("r.json").read_text())
    assert data["groups"]["w2sd"]["vbench"]["scene"]["one process"] == 0.2  # as stated, and not the mean of videos
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
        path = written(name, 0.5, scores, name)
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
    Path("text.json").write_text(json.dumps({"scene": [0.5, [{"video_path": "v-0.mp4", "video_results": "good"}]]}))
    before = {path: path.read_bytes() for path in here.iterdir()}
    code, said = command(*arguments)
    assert code == 2 and says in said, said
    assert {path: path.read_bytes() for path in here.iterdir()} == before
