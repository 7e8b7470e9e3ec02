"""Tables of the paper: their files, what of them runs on the shipped models, and which directions are reproduced."""

from __future__ import annotations

import csv
import json
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from w2sd_video import cli, plans, presets, reproduce, tables
from w2sd_video.columns import Column
from w2sd_video.eval.columns import COLUMNS
from w2sd_video.eval.dimensions import Dimension, chosen
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video
from w2sd_video.plans import Plan
from w2sd_video.shapes.columns import SHAPES
from w2sd_video.terminal import out
from w2sd_video.verdicts import compare, decide

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


def paper(name, part, arm):
    """The paper's figures of an arm, by the title of their column."""
    table = reproduce.load(name)
    row = zip(table.columns, table.parts[part].paper[arm], strict=True)
    return {column.title: figure for column, figure in row if figure is not None}


def test_the_figures_are_the_papers():
    """Read off the paper's tables by hand."""
    assert paper("table1", "sdxl", "w2sd") == {"HPS v2": 32.0992, "AES": 6.0712, "PickScore": 22.2434, "MPS": 54.2634}
    assert paper("table2", "sd15", "LoRA") == {"DINO": 48.03, "CLIP-I": 64.37, "CLIP-T": 25.99}
    assert paper("table3", "dit", "w2sd")["FID"] == 9.1001
    assert paper("table4", "sd15", "strong")["MPS"] == 42.1101
    assert paper("table5", "sdxl", "raw")["PickScore"] == 20.7144
    assert paper("table6", "sdxl", "both") == {"HPS v2": 32.9623, "win rate": 90}
    assert paper("table8", "sd15", "w2sd")["AES"] == 5.7847
    assert paper("table9", "sdxl", "strong")["HPS v2"] == 28.5536
    assert paper("table10", "sd15", "w2sd")["HPS v2"] == 26.0825
    assert paper("table11", "sdxl", "w2sd")["HPS v2"] == 32.34857
    assert paper("table12", "sdxl", "w2sd")["dynamic degree"] == 8
    assert paper("table13", "sdxl", "k=0.010")["MPS"] == 1.344
    assert paper("table14", "sdxl", "Re-Sampling sim<0")["AES"] == 6.0744
    assert paper("table15", "sdxl", "auto-guidance")["PickScore"] == 22.0177


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


@pytest.mark.parametrize(("width", "lines"), [(80, 3), (50, 8)])
def test_a_table_that_is_too_wide_is_laid_on_its_side_and_no_cell_is_broken(width, lines, monkeypatch, capsys):
    monkeypatch.setattr(out, "width", width)
    table = tables.Table(
        ["", "weak", "w2sd", "weak against strong", "w2sd against strong"],
        [["form", "0.859 ± 0.068", tables.Marked("0.948 ± 0.004", "better"), "not shown", "reproduced"]] * 2,
    )
    import_module("w2sd_video.cli.reproduce")._print([table])
    said = capsys.readouterr().out
    assert len(said.splitlines()) == lines
    for cell in (*table.head, *map(str, table.rows[0][:2]), "0.948 ± 0.004", "not shown", "reproduced"):
        assert cell in said


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
    on_shapes = reproduce.paper_of(table, "sdxl", on_shapes=True)["w2sd"]
    assert on_shapes["shapes_motion"] == (8, "dynamic degree", 1)
    assert on_shapes["shapes_jerk"][1:] == ("motion smoothness", 1)
    assert reproduce.paper_of(table, "sdxl", on_shapes=False)["weak"]["dynamic_degree"].number == pytest.approx(0.45)


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
