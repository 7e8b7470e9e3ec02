"""Tables of the paper: their files, what of them runs on the shipped models, and which directions are reproduced."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from w2sd_video import cli, plans, presets, prompts, reproduce, runs, tables
from w2sd_video.columns import Column
from w2sd_video.errors import Failed
from w2sd_video.eval.columns import COLUMNS
from w2sd_video.eval.dimensions import Dimension, chosen, get
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary
from w2sd_video.eval.vbench import QUALITY, SEMANTIC
from w2sd_video.eval.videos import Video
from w2sd_video.plans import Folder, Keys, Plan, tuning
from w2sd_video.plans.known import known
from w2sd_video.plans.prepare import prepared
from w2sd_video.shapes.columns import SHAPES
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import CANVAS, coverage, grid
from w2sd_video.verdicts import compare, decide

TEXT = ["a red circle"]
TINY = {"num_inference_steps": 1, "device": "cpu"}


# What plans have for them


def test_without_a_seed_of_the_draw_the_first_prompts_of_a_suite_are_taken():
    suite = prompts.load("shapes").prompts
    assert Plan(prompts="shapes", n=5, sample_seed=None).suite.prompts == suite[:5]
    with pytest.raises(Exception, match="n: 201 is not accepted; shapes has 200"):
        Plan(prompts="shapes", n=201, sample_seed=None).suite  # noqa: B018


def test_prompts_of_pictures_say_nothing_of_motion_and_their_tags_count_the_objects():
    suite = prompts.load("shapes-pictures").prompts
    for prompt in suite:
        scene = parse(prompt.text)
        assert prompt.tags["objects"] == (str(len(scene.things)),)
        assert all(thing.direction is thing.speed is None for thing in scene.things)


@pytest.mark.slow
def test_a_plan_refines_prompts_once_and_the_weak_arm_is_told_the_raw_ones(tmp_path):
    arms = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}
    plan = Plan(prompts=["a red circle"], preset="shapes-prompt", settings=TINY, axes=arms)
    assert plans.status(plan, tmp_path / "run")["left"] == 2
    done = plans.run(plan, tmp_path / "run")
    assert (done.made, done.failed) == (2, [])
    of_run = plans.read(tmp_path / "run" / "plan.yaml")
    refined = of_run.refined["a red circle"]
    assert refined != "a red circle" and "red circle" in refined
    for path in (tmp_path / "run" / "videos").rglob("*.json"):
        request, _ = runs.read_sidecar(path)
        assert (request.prompt, request.weak_prompt) == (refined, "a red circle")
    assert plans.run(plan, tmp_path / "run").kept == 2 and plans.status(plan, tmp_path / "run")["left"] == 0
    assert {video.prompt for video in plans.videos(plan, tmp_path / "run")} == {"a red circle"}
    # What a prompt is refined to decides its cells.
    other = replace(plan, refined={"a red circle": "a large red circle on a white background"})
    assert plans.status(other, tmp_path / "run")["left"] == 2
    assert not {*map(Keys(1).of, plan.cells())} & {*map(Keys(1).of, other.cells())}


def test_the_plan_of_a_run_that_is_damaged_is_as_none(tmp_path):
    plan = Plan(prompts=["a red circle"], preset="shapes-prompt", settings=TINY)
    (tmp_path / "plan.yaml").write_text("refined: [")
    assert known(plan, Folder(tmp_path)) == plan
    assert prepared(plan, Folder(tmp_path), plans.run).refined


def test_outlines_are_judged_as_the_shapes_that_they_are_of():
    x, y = grid(CANVAS, CANVAS)
    full = coverage("circle", x - 32, y - 32, np.float32(12))[None]
    hole = coverage("circle", x - 32, y - 32, np.float32(8))[None]
    red = np.array([1.0, 0.0, 0.0])

    def scores(cover) -> dict[str, float]:
        frames = 0.5 * (1 - cover[..., None]) + cover[..., None] * red * 0.9
        dimension = get("outlines")
        scoring = dimension.score(Video("x.png", "a", "a", "a red circle"), None)
        next(scoring)
        batch = type("Batch", (), {"pixels": (frames * 255).round().astype(np.uint8)})
        scoring.send(batch)
        with pytest.raises(StopIteration) as end:
            scoring.send(None)
        return end.value.value

    solid, ring = scores(full), scores(full - hole)
    assert ring["outlines_outlined"] > 0.9 > 0.2 > solid["outlines_outlined"]
    assert ring["outlines_colour"] == ring["outlines_count"] == ring["outlines_shape"] == 1


TUNED = {
    "preset": "shapes-image",
    "settings": {"num_inference_steps": 2, "device": "cpu"},
    "axes": {
        "arm": {
            "w2sd": {},
            "tuned": {"variant": "plain", "tune": {"guidance_scale": [1.0, 3.0]}},
            "equal": {"variant": "plain", "as_costly_as": "w2sd", "tune": {"guidance_scale": [1.0, 3.0]}},
        }
    },
    "prompts": "shapes-pictures",
    "n": 3,
    "dimensions": ["shapes"],
    "tuning": {"n": 4, "by": ["shapes_right", "shapes_form"]},
}


def test_an_arm_is_tuned_on_prompts_and_seeds_that_the_plan_does_not_have(tmp_path):
    plan = Plan(**TUNED)
    _, tuned, equal = plan.arms
    trial = tuning.plan_of(plan, tuned.grid)
    assert [arm.template.guidance_scale for arm in trial.arms] == [1, 3]
    assert {arm.template.variant for arm in trial.arms} == {"plain"} and trial.dimensions == ["shapes"]
    assert not {p.text for p in trial.suite.prompts} & {p.text for p in plan.suite.prompts}
    assert len(trial.suite.prompts) == 4 and not {*trial.all_seeds} & {*plan.all_seeds}
    # W2SD takes 2 + 2 + 3 evaluations; a step takes 1 at guidance 1 and 2 at 3.
    assert [arm.template.num_inference_steps for arm in tuning.plan_of(plan, equal.grid).arms] == [7, 4]
    about = plans.status(plan, tmp_path)
    assert about["arms"]["tuned"]["evaluations"] == 2  # at the first guidance, as long as it is not tuned
    assert about["tuning_evaluations"] == 4 * (2 + 4) + 4 * (7 + 8)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tuning": {}}, "an arm has `tune`"),
        ({"tuning": {"by": ["right"]}}, "Available: shapes_right"),
        ({"tuning": {"by": ["shapes_right"], "n": 198}}, "shapes-pictures has 197 prompts besides the plan's"),
        ({"tuning": {"by": ["shapes_right"], "many": 1}}, "tuning.many: 1 is not accepted"),
        ({"tuning": {"by": ["shapes_right"], "prompts": TEXT}, "prompts": TEXT, "n": None}, "tune on others"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_scale": [1]}}}}}, "give a setting and two numbers or more"),
        ({"axes": {"arm": {"a": {"tune": 3}}}}, "give a setting and two numbers or more"),
    ],
)
def test_tuning_that_cannot_be_is_refused(more, says, tmp_path):
    with pytest.raises(Exception, match=says):
        plans.status(Plan(**{**TUNED, **more}), tmp_path)


@pytest.mark.slow
def test_the_cells_of_a_tuned_arm_have_what_was_best_and_the_run_says_so(tmp_path):
    axes = {"arm": {"w2sd": {}, "tuned": {"variant": "plain", "tune": {"guidance_scale": [1.0, 3.0]}}}}
    plan = Plan(**{**TUNED, "axes": axes, "settings": {"num_inference_steps": 1, "device": "cpu"}})
    done = plans.run(plan, tmp_path / "run")
    assert (done.made, done.failed) == (6, [])
    found = plans.read(tmp_path / "run" / "plan.yaml").tuned["tuned"]
    best = max(found["means"], key=lambda label: [-1 if m is None else m for m in found["means"][label]])
    assert found["prompts"] == 4 and best == f"guidance_scale {found['settings']['guidance_scale']:g}"
    made = [runs.read_sidecar(path)[0] for path in (tmp_path / "run" / "videos" / "tuned").glob("*.json")]
    assert {request.guidance_scale for request in made} == {found["settings"]["guidance_scale"]} and len(made) == 3
    about = plans.status(plan, tmp_path / "run")
    assert (about["left"], about["tuning_evaluations"]) == (0, 0)
    assert plans.run(plan, tmp_path / "run").kept == 6
    # With other prompts to tune on, it is to be tuned again.
    other = replace(plan, tuning={**plan.tuning, "n": 5})
    assert plans.status(other, tmp_path / "run")["tuning_evaluations"] == 5 * (1 + 2)


@pytest.mark.slow
def test_videos_are_linked_under_the_names_that_vbench_reads(tmp_path):
    vbench = pytest.importorskip("vbench")
    texts = ["a red circle.", "A red circle.", "a blue square"]
    small = {"num_inference_steps": 1, "num_frames": 2, "device": "cpu"}
    plan = Plan(prompts=texts, seeds="7,3", settings=small, names="vbench")
    assert plans.run(plan, tmp_path).made == 6
    linked = tmp_path / "vbench" / "all"
    assert {path.name for path in linked.iterdir()} == {f"{text}-{n}.mp4" for text in texts for n in (0, 1)}
    for cell in plan.cells():
        folder, stem = Folder(tmp_path).place(cell)
        assert (linked / f"{cell.prompt.text}-{[7, 3].index(cell.seed)}.mp4").samefile(folder / f"{stem}.mp4")
    # VBench's own reading of a folder, of prompts that stand for its own.
    rows = [{"prompt_en": text, "dimension": ["subject_consistency"]} for text in texts]
    (tmp_path / "info.json").write_text(json.dumps(rows))
    reader = vbench.VBench("cpu", str(tmp_path / "info.json"), str(tmp_path / "out"))
    read = json.loads(Path(reader.build_full_info_json(str(linked), "x", ["subject_consistency"])).read_text())
    assert {Path(video).name for row in read for video in row["video_list"]} == {p.name for p in linked.iterdir()}
    # With fewer seeds, links of the others go.
    plans.run(replace(plan, seeds=7), tmp_path)
    assert {path.name for path in linked.iterdir()} == {f"{text}-0.mp4" for text in texts}


def test_prompts_that_no_file_can_be_named_after_are_refused_before_anything_is_made(tmp_path):
    for preset, text in (("shapes-image", "a red circle"), ("animatediff-sdxl-guidance", "and/or")):
        with pytest.raises(Exception, match="names: 'vbench' is not accepted"):
            plans.run(Plan(prompts=[text], preset=preset, names="vbench"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(Exception, match="Available: own, vbench"):
        Plan(prompts=["a"], names="other")


@pytest.mark.slow
def test_a_dimension_is_scored_on_its_own_prompts_and_what_is_of_vbench_alone_is_skipped(tmp_path):
    rows = [
        {"prompt": "a red circle", "dimension": ["temporal_flickering"]},
        {"prompt": "a blue square", "dimension": ["object_class"]},
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    plan = Plan(
        prompts=str(tmp_path / "suite.json"),
        settings={"num_inference_steps": 1, "num_frames": 2, "device": "cpu"},
        dimensions=["temporal_flickering", "clipped", "object_class"],
        by_dimension=True,
    )
    plans.run(plan, tmp_path / "run")
    videos = plans.videos(plan, tmp_path / "run")
    scores = plans.scorer(plan)(videos, plan.dimensions)
    by_prompt = {video.prompt: set(scores.of[video]) for video in scores.videos}
    assert by_prompt == {"a red circle": {"temporal_flickering", "clipped"}, "a blue square": {"clipped"}}
    assert [each.name for each in scores.skipped] == ["object_class"] and not scores.problems
    assert "--official-python" in scores.skipped[0].reason
    means = Summary(scores).means["all"]
    assert (means["temporal_flickering"].n, means["clipped"].n) == (1, 2)
    together = plans.scorer(replace(plan, by_dimension=False))(videos, plan.dimensions)
    assert Summary(together).means["all"]["temporal_flickering"].n == 2


def test_a_dimension_whose_prompts_are_not_drawn_is_refused_and_not_scored_on_others(tmp_path):
    rows = [
        {"prompt": text, "dimension": [name]} for text, name in (("a red circle", "color"), ("a blue square", "scene"))
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    plan = Plan(prompts=str(tmp_path / "suite.json"), settings=TINY, dimensions=["clipped"], by_dimension=True)
    plan.check()
    with pytest.raises(Exception, match="dimensions: 'temporal_flickering' is not accepted; no prompt of the plan has"):
        replace(plan, dimensions=["temporal_flickering"]).check()
    with pytest.raises(FileNotFoundError, match="temporal_flickering: no prompt of the plan has the tag"):
        plans.scorer(plan)([], ["temporal_flickering"])


def test_a_prompt_of_which_all_fails_counts_as_failed_in_its_own_dimensions_alone(tmp_path):
    from test_verdicts import shapes_scores

    scores = shapes_scores(4, 1, right=lambda group, i, seed: 1.0)
    (lost,) = {video.prompt for video in scores.videos[:1]}
    for video in [video for video in scores.videos if video.prompt == lost]:
        del scores.of[video]
        scores.problems.append((video, "", "it was not made"))
    group = scores.videos[0].group
    assert Summary(scores).means[group]["shapes_right"].mean == 0.75
    scores.unasked = {(lost, "shapes_right")}
    assert Summary(scores).means[group]["shapes_right"].mean == 1


def test_the_leaderboard_is_a_plan_of_the_sixteen_dimensions(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "runs.md").read_text()
    (tmp_path / "leaderboard.yaml").write_text(text.split('title="leaderboard.yaml"\n')[1].split("```")[0])
    plan = plans.read(tmp_path / "leaderboard.yaml")
    assert sorted(plan.dimensions) == sorted((*QUALITY, *SEMANTIC)) and len(plan.dimensions) == 16
    assert plan.by_dimension and plan.names == "vbench" and plan.all_seeds == [0, 1, 2, 3, 4]
    with pytest.raises(Exception, match="VBench's package scores videos"):
        Plan(prompts=TEXT, preset="shapes-image", dimensions=["object_class"]).check()


# What the files say


NAMES = reproduce.names()


def command(*arguments, code=0) -> str:
    result = CliRunner().invoke(cli.app, ["reproduce", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def columns_of(plan: Plan) -> set[str]:
    return {column for dimension in chosen(plan.dimensions) for column in dimension.columns}


def test_the_tables_are_those_of_the_paper_that_are_no_figures():
    assert NAMES == [f"table{n}" for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15)]
    assert all(f"{name}: " in command("ls") for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_for_a_table_can_be_made_and_has_the_columns_that_it_names(name, tmp_path):
    table = reproduce.load(name)
    plan = table.on_shapes(seeds="0")
    plan.check()
    cells = plans.status(plan, tmp_path)
    assert cells["left"] == cells["cells"] == len(plan.suite.prompts) * len(plan.arms) >= 10 * len(plan.arms)
    assert all(arm["evaluations"] > 0 for arm in cells["arms"].values())
    assert all("package:" in model for arm in plan.arms for model in arm.template.models.values())
    wanted = {column.shapes for column in table.columns if column.shapes}
    assert wanted and wanted <= columns_of(plan) and table.shapes.why
    assert all(column.why for column in table.columns)
    assert "clipped" in columns_of(plan)
    assert ("temporal_flickering" in columns_of(plan)) == plan.arms[0].template.video
    for part in table.parts.values():
        assert list(part.paper) == [arm.name for arm in plan.arms] and plan.base in part.paper


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_table_takes_of_real_weights_is_known_without_them(name):
    table = reproduce.load(name)
    for part in table.parts.values():
        plan = table.plan(part)
        needs = reproduce.needs(plan)
        assert list(needs.evaluations) == list(part.paper) and plan.base in part.paper
        assert needs.cells >= 50 and needs.total > 1000
        used = [presets.load(plan.preset).strong, *(p for p in needs.missing if p.startswith("prompts of"))]
        assert all("get it with: hf download" in needs.missing[model] for model in used[:1])
        assert all(each.column in columns_of(plan) if each.column else each.lacks or each.why for each in table.columns)


def test_the_figures_are_the_papers():
    """Read off the paper's tables by hand."""
    numbers = {name: reproduce.load(name).numbers for name in NAMES}
    assert numbers["table1"]["sdxl"]["w2sd"] == {"HPS v2": 32.0992, "AES": 6.0712, "PickScore": 22.2434, "MPS": 54.2634}
    assert numbers["table2"]["sd15"]["LoRA"] == {"DINO": 48.03, "CLIP-I": 64.37, "CLIP-T": 25.99}
    assert numbers["table3"]["dit"]["w2sd"]["FID"] == 9.1001
    assert numbers["table4"]["sd15"]["strong"]["MPS"] == 42.1101
    assert numbers["table5"]["sdxl"]["raw"]["PickScore"] == 20.7144
    assert numbers["table6"]["sdxl"]["both"] == {"HPS v2": 32.9623, "win rate": 90}
    assert numbers["table8"]["sd15"]["w2sd"]["AES"] == 5.7847
    assert numbers["table9"]["sdxl"]["strong"]["HPS v2"] == 28.5536
    assert numbers["table10"]["sd15"]["w2sd"]["HPS v2"] == 26.0825
    assert numbers["table11"]["sdxl"]["w2sd"]["HPS v2"] == 32.34857
    assert numbers["table12"]["sdxl"]["w2sd"]["dynamic degree"] == 8
    assert numbers["table13"]["sdxl"]["k=0.010"]["MPS"] == 1.344
    assert numbers["table14"]["sdxl"]["Re-Sampling sim<0"]["AES"] == 6.0744
    assert numbers["table15"]["sdxl"]["auto-guidance"]["PickScore"] == 22.0177


def test_the_figures_are_those_that_the_presets_expect():
    """Presets and tables were written apart from each other."""
    compared = 0
    for name in NAMES:
        table = reproduce.load(name)
        for part in table.parts.values():
            expected = presets.load(table.plan(part).preset).expected
            known = [each for each in expected if f"table{each['table'].split()[-1]}" == name]
            rows = list(part.paper)
            for each in known if name != "table6" else ():
                for arm in ("weak", "strong", "w2sd"):
                    if arm in each:  # where the paper has no weak row, the first is the strong one
                        row = rows[["weak", "strong", "w2sd"].index(arm) - 3]
                        assert part.paper[row] == each[arm], (name, arm)
                        compared += 1
    assert compared > 40


# Directions


def compared(ours: Column, difference: float, prompts: int = 12):
    """Values that differ by `difference` and a little noise, which does not decide."""
    first = {f"{n}": {"0": float(n)} for n in range(prompts)}
    second = {f"{n}": {"0": n + difference + (n % 3 - 1) * 0.1} for n in range(prompts)}
    each = compare(ours, "strong", "w2sd", first, second)
    return decide([each], {ours.name: ours})[0]


@pytest.mark.parametrize(
    ("ours", "difference", "sign", "paper", "says"),
    [
        (Column("form"), 1.0, 1, 0.3, "reproduced"),
        (Column("form"), -1.0, 1, 0.3, "opposite"),
        (Column("form"), 0.0, 1, 0.3, "not shown"),
        (Column("jerk", sign=-1), -1.0, 1, 0.3, "reproduced"),  # less jerk, smoother
        (Column("jerk", sign=-1), 1.0, 1, 0.3, "opposite"),
        (Column("distance", sign=-1), -1.0, -1, -6.0, "reproduced"),  # both are better if they are lower
        (Column("distance", sign=-1), -1.0, -1, 6.0, "opposite"),
        (Column("motion", sign=0), -1.0, 1, -5.0, "reproduced"),  # the number falls, as the paper's does
        (Column("motion", sign=0), 1.0, 1, -5.0, "opposite"),
        (Column("form"), 1.0, 1, 0.0, ""),
    ],
)
def test_a_direction_is_that_of_the_difference_where_there_is_a_verdict(ours, difference, sign, paper, says):
    assert reproduce.direction(compared(ours, difference), ours, sign, paper) == says


def test_no_direction_is_shown_with_few_prompts_or_without_values():
    few = compared(Column("form"), 1.0, prompts=9)
    assert reproduce.direction(few, Column("form"), 1, 0.3) == "not shown"
    assert reproduce.direction(None, Column("form"), 1, 0.3) == "not shown"


def test_every_column_of_the_paper_is_better_if_it_is_higher_but_fid():
    lower = {(name, c.title) for name in NAMES for c in reproduce.load(name).columns if c.sign < 0}
    assert lower == {("table3", "FID")} and COLUMNS["dynamic_degree"].sign == 1


class Judged(Dimension):
    """What the judge would say; the scores are given."""

    prompted = True
    name, columns = "shapes", tuple(f"shapes_{column.name}" for column in SHAPES)


def summary_of(better: dict[str, float], prompts: int = 12, failed: int = 0) -> Summary:
    """Scores of three arms, in which w2sd and weak differ from strong by these numbers in all columns."""
    scores = Scores([Judged()], [], weights={"shapes": {}})
    for arm in ("strong", "weak", "w2sd"):
        for n in range(prompts):
            video = Video(Path(f"{arm}-{n}.mp4"), arm, f"{n}", f"{n}")
            scores.videos.append(video)
            if arm == "w2sd" and n < failed:
                scores.problems.append((video, "", "it was not made"))
                continue
            value = 0.5 + better.get(arm, 0.0) + (n + len(arm)) % 3 * 0.001
            scores.of[video] = dict.fromkeys(Judged.columns, value)
            scores.facts[video] = {"frames": 16}
    return Summary(scores)


def test_figures_stand_beside_the_papers_with_their_directions():
    table = reproduce.load("table12")
    (part,) = reproduce.results(table, {"sdxl": summary_of({"weak": -0.2, "w2sd": 0.1})}, on_shapes=True)
    directions = {(f.column.title, f.arm): f.direction for row in part.figures for f in row if f.direction}
    assert len(directions) == 12 and part.base == "strong" and part.arms == ("weak", "strong", "w2sd")
    # A higher form is better, and so are the paper's aesthetics; a higher instability is worse.
    assert directions["aesthetic quality", "w2sd"] == directions["aesthetic quality", "weak"] == "reproduced"
    assert directions["subject consistency", "w2sd"] == directions["subject consistency", "weak"] == "opposite"
    # The paper's motion falls from strong to W2SD and rises to weak; of ours the number counts.
    assert directions["dynamic degree", "w2sd"] == directions["dynamic degree", "weak"] == "opposite"
    assert part.directions == {"reproduced": 3, "not shown": 0, "opposite": 9}
    text = tables.markdown(reproduce.document(table, [part], on_shapes=True))
    assert "motion smoothness: shapes_jerk; the third difference" in text and "| opposite |" in text


def test_failed_videos_are_counted_and_can_cost_a_direction():
    table = reproduce.load("table12")
    (part,) = reproduce.results(table, {"sdxl": summary_of({"weak": -0.2, "w2sd": 0.02}, failed=3)}, on_shapes=True)
    assert part.counts["w2sd"] == "12 prompts, 12 videos; 3 of 12 failed"
    directions = {(f.column.title, f.arm): f.direction for row in part.figures for f in row if f.direction}
    assert directions["aesthetic quality", "weak"] == "reproduced"  # nothing failed there
    assert directions["aesthetic quality", "w2sd"] == "not shown"  # three at the worst value seen, that of weak's


def test_what_is_shown_together_is_one_family():
    """Two parts with runs of their own have twice the comparisons of one, and larger adjusted p values."""
    table = reproduce.load("table1")
    one, other = summary_of({"w2sd": 0.001}), summary_of({"w2sd": 0.001})

    def p(summaries) -> float:
        part = reproduce.results(table, summaries, on_shapes=True)[0]
        return next(f.compared.p_adjusted for f in part.figures[1] if f.arm == "w2sd")

    alone, shared, both = p({"sd15": one}), p({"sd15": one, "sdxl": one}), p({"sd15": one, "sdxl": other})
    assert alone == shared and (alone < both or alone == both == 1)


def test_shares_are_of_pairs_and_those_of_two_rivals_add_up():
    (part, _) = reproduce.results(
        reproduce.load("table1"), dict.fromkeys(("sd15", "sdxl"), summary_of({"w2sd": -0.1})), on_shapes=True
    )
    shares = {f.arm: f.mean.mean if f.mean else None for f in part.figures[3]}
    assert shares == {"weak": None, "strong": 0, "w2sd": 100}  # a lower error of edges is better


def test_the_papers_figures_are_given_by_our_columns():
    table = reproduce.load("table12")
    assert reproduce.paper_of(table, "sdxl", on_shapes=True)["w2sd"]["shapes_motion"] == 8
    assert reproduce.paper_of(table, "sdxl", on_shapes=False)["weak"]["dynamic_degree"] == pytest.approx(0.45)


# The command


def test_what_is_missing_is_said_before_anything_is_made_and_the_plan_is_written_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command("table12", "--plan", "video.yaml", code=2)
    assert "hf download RunDiffusion/Juggernaut-XL-v9" in said and "600 cells, 89400 network evaluations" in said
    assert "hf download facebook/dino-vitb16" in said and "give --shapes" in said
    assert [path.name for path in tmp_path.iterdir()] == ["video.yaml"]
    table = reproduce.load("table12")
    assert plans.read(tmp_path / "video.yaml") == table.plan(table.parts["sdxl"])
    assert "it already exists" in command("table12", "--plan", "video.yaml", code=2)
    assert "sd15-dpo-lora.safetensors" in command("table10", "--dry-run", "--plan", "lora.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora-sd15.yaml", "lora-sdxl.yaml", "video.yaml"]
    assert "did you mean 'table12'" in command("tabel12", code=2)
    assert "--n: 201 is not accepted; shapes has 200" in command("table12", "--shapes", "--n", 201, code=2)
    assert "--seeds: 'x' is not accepted" in command("table12", "--shapes", "--seeds", "x", code=2)


def test_a_dry_run_on_the_shipped_models_says_what_stands_for_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command("table12", "--shapes", "--n", 20, "--dry-run")
    assert "motion smoothness: shapes_jerk; the third difference of an object's course" in said
    assert "60 cells, 4440 network evaluations" in said and not list(tmp_path.iterdir())
    run = json.loads(command("table12", "--shapes", "--n", 20, "--dry-run", "--format", "json"))["runs"][0]
    assert (run["cells"], run["evaluations"], sum(run["evaluations_each"].values()) * 20) == (60, 4440, 4440)
    assert [each["name"] for each in json.loads(command("ls", "--format", "json"))] == NAMES
    assert "give text or json" in command("ls", "--format", "latex", code=2)
    assert "give text, json, markdown or latex" in command("table12", "--shapes", "--format", "yaml", code=2)


def test_a_table_that_nothing_stands_for_is_refused_with_the_reason(tmp_path):
    text = (reproduce.table.FOLDER / "table4.yaml").read_text()
    begin = text.index("shapes:\n")
    (tmp_path / "mine.yaml").write_text(text[:begin] + "shapes: {why: nothing is like it}\n")
    table = reproduce.table.read(tmp_path / "mine.yaml")
    with pytest.raises(Exception, match="the shipped models cannot stand for it: nothing is like it"):
        table.on_shapes()


@pytest.mark.slow
def test_a_table_runs_from_nothing_to_its_page(tmp_path, monkeypatch):
    """In fewer steps and frames."""
    text, preset = (reproduce.table.FOLDER / "table12.yaml").read_text(), "    preset: shapes\n"
    assert preset in text
    few = f"{preset}    settings: {{num_inference_steps: 8, num_frames: 6}}\n"
    (tmp_path / "table12.yaml").write_text(text.replace(preset, few))
    monkeypatch.setattr(reproduce.table, "FOLDER", tmp_path)
    table = tmp_path / "t"
    said = command("table12", "--shapes", "--n", 2, "--out", table)
    assert "not shown" in said and "shapes_jerk" in said and "…" not in said  # whatever the width
    rows = list(csv.DictReader((table / "table.csv").open()))
    assert {row["arm"] for row in rows} == {"weak", "strong", "w2sd"} and len(rows) == 3 * 8
    assert {row["ours"] for row in rows} >= {"shapes_motion", "temporal_flickering", "clipped"}
    motion = next(row for row in rows if row["ours"] == "shapes_motion" and row["arm"] == "w2sd")
    assert (motion["paper"], motion["n"], motion["direction"], motion["base"]) == ("8.0", "2", "not shown", "strong")
    assert float(motion["paper_difference"]) == pytest.approx(8.0 - 13.0653)
    assert "| subject consistency: shapes_area_instability" in (table / "table.md").read_text()
    assert (table / plans.PAGE).is_file()
    before = {path: path.stat().st_mtime_ns for path in Path(table).rglob("*.mp4")}
    again = CliRunner().invoke(
        cli.app, ["reproduce", "table12", "--shapes", "--n", "2", "--out", str(table), "--format", "json"]
    )
    figures = json.loads(again.stdout)["figures"]
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in figures] == rows
    assert before == {path: path.stat().st_mtime_ns for path in Path(table).rglob("*.mp4")}


def test_an_arm_is_not_tuned_on_videos_that_could_not_be_made(tmp_path):
    def make(plan, folder):
        return plans.Progress(8, 7, 0, [{"arm": "guidance_scale 3", "error": "OSError: no space"}])

    with pytest.raises(
        Failed, match="1 of the videos that tuned is tuned on could not be made; guidance_scale 3: OSError"
    ):
        prepared(Plan(**TUNED), Folder(tmp_path), make)
