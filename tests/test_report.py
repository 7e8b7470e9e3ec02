"""The page of a run: its files, its votes, and the command that makes a video again. `test_browser` looks at it."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, experiment, summary
from scipy.optimize import minimize
from typer.testing import CliRunner

from w2sd_video import cli, plans, plugins, runs, video
from w2sd_video.cli.scores import published
from w2sd_video.errors import Refused
from w2sd_video.eval import report
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.report import votes
from w2sd_video.eval.report.votes import Vote, agreement, bradley_terry, over_base
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video
from w2sd_video.plans import Plan
from w2sd_video.runs import Request
from w2sd_video.runs.again import command

runner = CliRunner()
MEDIA = {**dict.fromkeys(("file", "still", "strip"), "x"), **dict.fromkeys(("frames", "fps", "width", "height"), 1)}


def data_of(page: str) -> dict:
    (text,) = re.findall(r"<script id=data [^>]*>(.*?)</script>", page, re.DOTALL)
    return json.loads(text)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


# Files


@pytest.mark.slow
def test_a_page_has_its_videos_beside_it_and_made_again_it_makes_only_what_is_new(tmp_path):
    first = summary(tmp_path, ["a", "b"])
    report.write(tmp_path / "report" / "index.html", first, gallery=True)
    media = tmp_path / "report" / "media"
    before = stamps(media)
    assert len([name for name in before if name.endswith(".mp4")]) == 6 and "plotly.min.js" in before
    source = tmp_path / "strong" / "p0-0.mp4"
    assert any(os.path.samefile(source, path) for path in media.glob("*.mp4"))
    report.write(tmp_path / "report" / "index.html", first, gallery=True)
    again = stamps(media)
    del before["plotly.min.js"], again["plotly.min.js"]
    assert again == before and not list((tmp_path / "report").glob(".partial*"))
    next(media.glob("*-strip.webp")).unlink()  # as after a copy that was interrupted
    fewer = Scores(first.scores.dimensions, first.scores.videos[:3], first.scores.of, facts=first.scores.facts)
    fewer.weights = {"quality": {}}
    report.write(tmp_path / "report" / "index.html", Summary(fewer), gallery=True)
    assert len(list(media.glob("*.mp4"))) == 3 and len(list(media.glob("*-strip.webp"))) == 3


@pytest.mark.slow
def test_a_gif_and_a_folder_of_frames_are_encoded_and_a_picture_is_shown_as_it_is(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    video.write_gif(frames, tmp_path / "a.gif", 5)
    video.write_pngs(frames, tmp_path / "b")
    shown = [Video(tmp_path / "a.gif", "a", "p", "p"), Video(tmp_path / "b", "b", "p", "p")]
    shown += [Video(tmp_path / "b" / "0001.png", "c", "p", "p"), Video(tmp_path / "gone.mp4", "d", "p", "p")]
    report.write(tmp_path / "x.html", Summary(Scores([], shown)), gallery=True)
    cells = data_of((tmp_path / "x.html").read_text())["cells"]
    ends = [(cell.get("file", "")[-4:], cell.get("frames"), cell.get("fps"), cell.get("why")) for cell in cells]
    gone = (None, None, "it was not made")
    assert ends == [(".mp4", 3, 5, None), (".mp4", 3, 8, None), (".png", 1, 8, None), ("", *gone)]
    report.write(tmp_path / "y.html", Summary(Scores([], shown[2:3])), gallery=True)
    assert data_of((tmp_path / "y.html").read_text())["thing"] == "picture"
    for cell in cells[:2]:
        assert video.read(tmp_path / "x_files" / cell["file"]).shape == (3, 16, 16, 3)


def test_what_is_not_of_this_command_is_left_as_it_is(tmp_path):
    nothing = Summary(Scores([], [Video(tmp_path / "v.mp4", "a", "p", "p")]))
    (tmp_path / "mine.html").write_text("<p>mine")
    (tmp_path / "x_files").write_text("mine")
    for name in ("mine.html", "x.html"):
        with pytest.raises(Refused, match="exists and is no"):
            report.write(tmp_path / name, nothing, gallery=True)
    assert (tmp_path / "mine.html").read_text() == "<p>mine" and (tmp_path / "x_files").read_text() == "mine"


def test_hostile_prompts_are_text_in_the_page_and_in_its_data(tmp_path):
    of = summary(tmp_path, HOSTILE, files=False)
    page = report.page(of, experiment(HOSTILE), dict.fromkeys(of.scores.videos, MEDIA))
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == [scripts[0], "<script>"] and "<img src=x" not in page and "{{ 7 * 7 }}" in page
    (text,) = re.findall(r'type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert not set("<>&\u2028\u2029") & set(text)
    assert [row["prompt"] for row in json.loads(text)["rows"]] == HOSTILE


def test_the_papers_numbers_stand_beside_ours_with_the_direction_where_it_is_decided():
    from test_verdicts import shapes_scores

    made = Summary(shapes_scores(12, 1, right=lambda group, i, s: float(group == "w2sd" or i > 10)))
    for w2sd, sign, says in [
        (0.75, 1, "0.75 (+0.25: reproduced)"),
        (0.25, 1, "0.25 (-0.25: reversed here)"),
        (0.25, -1, "0.25 (-0.25: reproduced)"),  # of another column, of which lower is better
        (0.75, 0, "0.75 (+0.25: reproduced)"),
    ]:
        of = {"plain": 0.5, "w2sd": w2sd}
        paper = {arm: {"shapes_right": report.Published(number, "Correct", sign)} for arm, number in of.items()}
        assert f"paper, Correct: {says}" in report.page(made, report.Experiment(paper=paper))


def test_the_papers_numbers_stay_on_the_next_page_of_a_run(tmp_path):
    plan, of = Plan(prompts=["a red circle"]), summary(tmp_path, ["a red circle"])
    paper = {"strong": {"quality": report.Published(1.5, "Beauty", 1)}}
    (tmp_path / "scores").mkdir()
    for each in (paper, None):
        plans.write_page(plan, tmp_path, of, paper=each)
        assert "paper, Beauty: 1.5" in (tmp_path / "report" / "index.html").read_text()
    (tmp_path / "scores" / "paper.json").write_text('{"strong": 3}')
    plans.write_page(plan, tmp_path, of)
    assert "paper, Beauty" not in (tmp_path / "report" / "index.html").read_text()


def test_a_run_of_a_pair_of_the_paper_has_the_papers_numbers_unless_its_page_has_others(tmp_path):
    plan = Plan(prompts=["a red circle"], preset="animatediff-sdxl-juggernaut")
    assert published(plan, tmp_path)["w2sd"]["subject_consistency"] == (0.971398, "Table 12, subject consistency", 1)
    assert published(Plan(prompts=["a red circle"], preset="shapes"), tmp_path) is None
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "paper.json").write_text("{}")
    assert published(plan, tmp_path) is None


# Commands


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variant": "plain", "num_frames": 3},
        {"variant": "weak", "guidance_scale": 2.5},
        {"options": {"motion_gain": 2, "still_gain": 0.5}, "weak_guidance_scale": -1.0},
        {"method": "z_sampling", "inversion": "x_t", "reflection_steps": 1, "negative_prompt": "-x 'y\" $z"},
        {"adapters": {"style": {"model": "package:shapes/weights/none", "strong": 1.0, "weak": 0.0}}},
    ],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda settings: "method" not in settings)
def test_the_command_makes_the_same_request(settings, tmp_path):
    size = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}
    if "adapters" in settings:  # which options do not say with their names
        request = Request.of("a red circle", 3, **size)
        object.__setattr__(request, "adapters", settings["adapters"])
        assert command(request, tmp_path / "a b.json") == f"w2sd-video generate --from '{tmp_path}/a b.json'"
        assert command(request) == ""
        return
    request = Request.of("a red circle", 3, **{**size, **settings})
    words = shlex.split(command(request))
    assert "--from" not in words
    ran = runner.invoke(cli.app, [*words[1:], "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    (sidecar,) = tmp_path.glob("*.json")
    assert runs.read_sidecar(sidecar)[0] == request


# Votes


def win(*shares: float, first: str = "a", second: str = "b", voter: str = "v") -> list[Vote]:
    return [Vote(voter, f"p{n}", f"p{n}, seed 0", first, second, share) for n, share in enumerate(shares)]


def test_of_two_groups_the_strength_is_the_logit_of_the_share_of_votes():
    wins = np.array([[0, 13.5], [6.5, 0]])
    assert bradley_terry(wins)[1] == pytest.approx(math.log(6.5 / 13.5), abs=1e-9)
    (base, other) = over_base(wins[None])
    assert (base.mean, other.mean) == (0.5, pytest.approx(6.5 / 20)) and math.isnan(other.low)


def test_of_three_groups_strengths_are_those_of_maximum_likelihood():
    wins = np.array([[0, 7, 2.5], [3, 0, 4], [8.5, 6, 0]])

    def loss(free: np.ndarray) -> float:
        b = np.array([0.0, *free])
        return -sum(wins[i, j] * (b[i] - np.logaddexp(b[i], b[j])) for i, j in itertools.permutations(range(3), 2))

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert bradley_terry(wins)[1:] == pytest.approx(best, abs=1e-5)


def test_groups_that_no_votes_connect_are_not_ranked_and_one_that_always_wins_has_no_bound():
    wins = np.zeros((4, 4))
    wins[1, 0], wins[2, 3] = 5, 1
    found = over_base(np.stack([wins, wins]))
    assert [each.mean for each in found[:2]] == [0.5, 1.0] and all(math.isnan(each.mean) for each in found[2:])
    # Of two prompts that are alike, the interval is Clopper & Pearson's of 2 of 2: from the root of .025.
    assert (found[1].low, found[1].high) == (pytest.approx(0.025**0.5), 1.0)


def test_prompts_that_are_alike_leave_an_interval():
    wins = np.zeros((10, 2, 2))
    wins[:, 1, 0] = wins[:, 0, 1] = 1
    tied = over_base(wins)[1]
    assert tied.mean == pytest.approx(0.5)  # of 5 of 10, by Clopper & Pearson's tables: .187 to .813
    assert (tied.low, tied.high) == (pytest.approx(0.187, abs=5e-4), pytest.approx(0.813, abs=5e-4))


@pytest.mark.slow
def test_the_interval_is_over_prompts_and_covers():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        share = rng.beta(6, 4, 40)  # of each prompt, on which its ten votes agree more than on others
        own = rng.binomial(10, share) / 10
        wins = np.zeros((40, 2, 2))
        wins[:, 1, 0], wins[:, 0, 1] = own * 10, (1 - own) * 10
        interval = over_base(wins)[1]
        covered += interval.low <= 0.6 <= interval.high
    assert covered >= 52


def test_alpha_is_that_of_the_published_example():
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: nominal alpha is .743."""
    units = [
        "111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3"
    ]  # fmt: skip
    alpha, equal, several = agreement([list(unit) for unit in units])
    assert alpha == pytest.approx(0.743, abs=5e-4) and several == 11 and 0 < equal < 1


def test_agreement_of_votes_that_are_all_alike_is_not_defined():
    assert math.isnan(agreement([["first", "first"]])[0]) and agreement([["first"]])[2] == 0


def saved(path: Path, made: Summary, choices: list[str], voter: str = "ann") -> Path:
    listed = []
    for n, choice in enumerate(choices):
        pair = [made.groups[group][n] for group in ("strong", "w2sd")]
        left, right = ({"arm": each.group, "sha256": each.sha256} for each in pair)
        listed.append({"prompt": pair[0].prompt, "seed": "0", "left": left, "right": right, "choice": choice})
    text = {"kind": "w2sd-video votes", "format": 1, "voter": voter, "count": len(listed), "votes": listed}
    path.write_text(json.dumps(text))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Summary:
    return summary(tmp_path_factory.mktemp("votes"), ["a", "b", "c", "d"])


@pytest.mark.slow
def test_votes_are_read_and_summed_up(tmp_path, made):
    files = [saved(tmp_path / "1.json", made, ["left", "right", "right", "tie"])]
    files += [saved(tmp_path / "2.json", made, ["left", "right", "left", "skip"], "bob")]
    cast = votes.read(files, made)
    found = votes.tally(cast, made)
    assert found and (found.votes, found.voters, found.prompts, found.several) == (7, 2, 4, 3)
    preferred = {each.group: each for each in found.preferences}
    assert preferred["w2sd"].over_base.mean == pytest.approx(3.5 / 7) and preferred["w2sd"].over_base.n == 7
    assert math.isnan(preferred["weak"].over_base.mean) and preferred["weak"].share.n == 0
    assert found.equal == pytest.approx(2 / 3)
    # Scores of w2sd are better but for the first prompt, where they are equal: three of four votes are for it.
    assert found.columns["quality"].n == 4 and found.columns["quality"].mean == pytest.approx((1 + 0.5) / 2)
    page = report.page(made, clips={made.scores.videos[0]: MEDIA}, votes=cast)
    assert "7 votes of 2 voters on 4 prompts" in page and "3 pairs were judged by several voters: 67 %" in page


@pytest.mark.parametrize(("voter", "counted"), [("", 8), ("carl", 4)])
def test_files_without_a_voter_are_of_a_voter_each_and_votes_of_one_that_contradict_are_noted(
    voter, counted, tmp_path, made, caplog
):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    choices = ["left", "right", "right", "tie"], ["left", "left", "tie", "tie"]
    files = [saved(tmp_path / name / "votes.json", made, own, voter) for name, own in zip("ab", choices, strict=True)]
    assert len(votes.read(files, made)) == counted
    said = "votes of 'carl' on 2 pairs of videos contradict each other: the last one counts"
    assert (said in caplog.text) == bool(voter) and ("contradict" in caplog.text) == bool(voter)


def test_votes_on_videos_that_are_equal_are_each_of_its_own_prompt(tmp_path):
    """Texts that differ only in case make the same videos where a text encoder reads small letters."""
    alike = summary(tmp_path, ["A cat", "a cat"], files=False)
    for group, own in alike.groups.items():
        for each in own:
            object.__setattr__(each, "_hashed", ([], f"{sum(map(ord, group)):024x}"))
    cast = votes.read([saved(tmp_path / "1.json", alike, ["left", "right"])], alike)
    assert {(vote.prompt, vote.share) for vote in cast} == {("A cat", 1.0), ("a cat", 0.0)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: "{", "cut short"),
        (lambda data: "[1]", "no file that the page saved"),
        (lambda data: json.dumps({**data, "votes": data["votes"][:-1]}), "says that it has 2 votes, and has 1"),
        (lambda data: json.dumps({**data, "format": 2}), "it has format 2"),
        (lambda data: json.dumps(data).replace('"strong"', '"stronk"'), "is on 'stronk'; there are strong, weak, w2sd"),
        (lambda data: re.sub(r'"sha256": "\w', '"sha256": "x', json.dumps(data)), "that is not of this run"),
        (lambda data: json.dumps(data).replace('"left", "', '"up", "').replace('"right"}', '"up"}'), "is 'up'; give"),
        (lambda data: json.dumps({**data, "votes": [1, 2]}), "lacks left, right or choice"),
        (lambda data: json.dumps({**data, "votes": [{**v, "choice": []} for v in data["votes"]]}), "is '[]'; give"),
    ],
)
def test_votes_that_are_cut_or_of_another_run_are_refused_by_name(tmp_path, made, change, says):
    path = saved(tmp_path / "v.json", made, ["left", "right"])
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(Refused, match=r"^--votes: '.*v\.json' is not accepted; it") as refused:
        votes.read([path], made)
    assert says in str(refused.value)


def test_a_file_of_votes_that_is_not_there_is_said_not_to_be(tmp_path, made):
    with pytest.raises(Refused, match=r"^--votes: '.*none\.json' is not accepted; there is no such file$"):
        votes.read([tmp_path / "none.json"], made)


# The command line


def test_a_run_has_a_page_and_what_cannot_be_used_is_refused_with_2(tmp_path):
    settings = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}
    plan = Plan(
        prompts=["a red circle"], settings=settings, axes={"weak_guidance_scale": [-1, 1], "motion_gain": [0, 1]},
        dimensions=["clipped"],
    )  # fmt: skip
    plans.run(plan, tmp_path / "r", threads=1)
    figure = tmp_path / "sweep.svg"
    options = ["--figure", str(figure), "--across", "clipped"]
    ran = runner.invoke(cli.app, ["report", str(tmp_path / "r"), *options])
    assert ran.exit_code == 0, ran.output
    assert figure.read_text().count("<svg") == 1
    page = (tmp_path / "r" / "report" / "index.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert [axis["labels"] for axis in data["axes"]] == [["-1", "1"], ["0", "1"]] and len(data["cells"]) == 4
    assert data["groups"][0]["evaluations"] > 2 and "clipped" in page
    words = shlex.split(data["cells"][0]["command"])
    assert words[:4] == ["OMP_NUM_THREADS=1", "w2sd-video", "generate", "a red circle"]
    assert "--weak-guidance=-1.0" in words
    (tmp_path / "votes.json").write_text('{"votes": [')
    for options, says in (
        (["--votes", str(tmp_path / "votes.json")], "cut short"),
        (["--votes", str(tmp_path / "none.json")], "none.json' is not accepted; there is no such file"),
        (["--out", str(figure)], "give a folder"),
        (["--figure", str(tmp_path / "x.bmp")], ".png, .svg, .pdf"),
        (["--across", "clipped"], "give --figure FILE, too"),
        (["--figure", str(figure), "--up", "cliped"], "did you mean 'clipped'?"),
    ):
        ran = runner.invoke(cli.app, ["report", str(tmp_path / "r"), *options])
        assert ran.exit_code == 2 and says in " ".join(ran.output.split()), (options, ran.output)


OWN = """
def brightness(frames):
    return float(frames.mean())
"""


@pytest.mark.slow
def test_a_dimension_of_a_file_is_added_to_the_plans_and_the_page_is_written_without_its_code(tmp_path, monkeypatch):
    settings = {"num_inference_steps": 1, "num_frames": 2, "device": "cpu"}
    folder = tmp_path / "r"
    plan = Plan(prompts=["a red circle"], settings=settings, dimensions=["clipped"])
    plans.run(plan, folder, threads=1)
    (tmp_path / "dims.py").write_text(OWN)

    def columns() -> list[str]:
        page = (folder / "report" / "index.html").read_text(encoding="utf-8")
        table = [line.partition(",")[0] for line in (folder / "scores" / "scores.csv").read_text().splitlines()[1:]]
        assert [column["name"] for column in data_of(page)["columns"]] == table
        return table

    score = ["score", str(folder)]
    ran = runner.invoke(cli.app, [*score, "--dimensions", f"{tmp_path / 'dims.py'}:brightness"])
    assert ran.exit_code == 0 and columns() == ["clipped", "brightness"], ran.output
    means = json.loads((folder / "scores" / "scores.json").read_text())["groups"]["all"]["columns"]
    (tmp_path / "dims.py").unlink()
    monkeypatch.setattr(plugins, "_RUN", {})
    page = folder / "report" / "index.html"
    page.unlink()
    ran = runner.invoke(cli.app, ["report", str(folder)])
    assert ran.exit_code == 0 and columns() == ["clipped", "brightness"], ran.output
    assert f"{means['brightness']['mean']:.4f}" in page.read_text(encoding="utf-8")
    ran = runner.invoke(cli.app, [*score, "--dimensions", "clipped"])
    assert ran.exit_code == 0 and columns() == ["clipped"], ran.output
    assert "the table no longer has brightness; the scores are kept" in " ".join(ran.output.split())


# Interruptions


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda at: at == 9)
@pytest.mark.parametrize("at", [1, 4, 9, 12, 14])
def test_a_page_that_is_killed_at_a_rename_is_there_whole_or_not_and_goes_on(tmp_path, at):
    of = summary(tmp_path, ["a"])
    report.write(tmp_path / "whole" / "index.html", of, gallery=True)
    if not (child := os.fork()):
        renames = itertools.count(1)
        sys.addaudithook(
            lambda event, _: os.kill(os.getpid(), 9) if event == "os.rename" and next(renames) == at else None
        )
        try:
            report.write(tmp_path / "cut" / "index.html", of, gallery=True)
        finally:
            os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == -9 or (code == 3 and at > 12)
    if (tmp_path / "cut" / "index.html").exists():
        assert (tmp_path / "cut" / "index.html").read_bytes() == (tmp_path / "whole" / "index.html").read_bytes()
    report.write(tmp_path / "cut" / "index.html", of, gallery=True)
    contents = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("whole", "cut")
    ]
    assert contents[0] == contents[1]


def test_of_groups_that_are_no_longer_there_no_results_stay(tmp_path):
    out = tmp_path / "scores.json"
    for arms, ends in ((("a", "b", "c"), ["_1", "_2", "_3"]), (("a", "c"), ["_1", "_2"]), (("c",), [""])):
        summary(tmp_path, ["a red circle"], arms, files=False).write(out, [])
        assert sorted(path.name for path in tmp_path.glob("*_eval_*")) == [
            f"scores{end}_eval_results.json" for end in ends
        ]
