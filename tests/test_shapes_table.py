"""The table of a pair: what it marks, what settings are tuned on, and how its rows go on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from w2sd_video import runs
from w2sd_video.methods import METHODS
from w2sd_video.shapes import bench, figure, grammar, rows, table, tuning
from w2sd_video.shapes.cli import app
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.pairs import COLUMNS

RENDERED = {"rendered": bench.Row("rendered truth")}


@pytest.mark.slow
def test_prompts_of_the_bench_do_not_depend_on_how_many_there_are():
    assert grammar.prompts(20)[:8] == grammar.prompts(8)
    assert [len(parse(p).things) for p in grammar.prompts(8)] == [1, 2, 2, 3, 1, 2, 2, 3]
    assert len(set(grammar.prompts(500))) == 500


def test_equal_cost_is_the_reflections_own_count():
    """1.5 / 1 at T = 25: 24 reflected steps of 5 evaluations and one plain step of 2 make 122, or 61 plain steps."""
    rows = bench.methods(bench.preset("shapes"))
    assert rows["equal-cost"].says["num_inference_steps"] == 61
    assert rows["guidance"].says["guidance_scale"] == 2.0
    both = bench.methods(bench.preset("shapes", {"weak_guidance_scale": 1.5}))  # 24 of 6 and one of 2
    assert both["equal-cost"].says["num_inference_steps"] == 73
    fewer = bench.methods(bench.preset("shapes", {"reflection_steps": 5}))  # 5 of 5 and 20 of 2
    assert fewer["equal-cost"].says["num_inference_steps"] == 33


def cells_of(printed: str) -> dict[str, dict[str, str]]:
    """The cells of Markdown tables that have a row per method, by column and method."""
    cells: dict[str, dict[str, str]] = {}
    for block in printed.split("\n\n"):
        if block.startswith("|"):
            head, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            for label, *line in lines:
                for name, cell in zip(head[1:], line, strict=True):
                    cells.setdefault(name, {})[label] = cell
    return cells


def test_the_table_marks_what_is_better_and_what_is_worse(tmp_path):
    rng = np.random.default_rng(0)
    texts = grammar.prompts(52)
    texts = [text for text in texts if len(parse(text).things) == 2][:25] + [
        text for text in texts if len(parse(text).things) != 2
    ][:25]
    with open(tmp_path / "rows.jsonl", "w") as file:
        for name, jerk, direction in (("strong", 2.0, 0.9), ("w2sd", 1.0, 0.5)):
            for n in range(100):
                scores = {"right": 1.0, "jerk": jerk + 0.1 * rng.random(), "direction": float(rng.random() < direction)}
                scores["motion"] = 10 * jerk + rng.random()
                row = {
                    "pair": "shapes",
                    "method": name,
                    "n": n,
                    "prompt": texts[n % 50],
                    "evaluations": 30,
                    "seconds": 1.0,
                    "scores": scores,
                }
                file.write(json.dumps(row) + "\n")
    lines = rows.read(tmp_path / "rows.jsonl", "shapes")
    summary = table.summarise(lines, COLUMNS)
    found = summary["w2sd"]["against strong"]["jerk"]
    assert found.difference.mean == pytest.approx(-1, abs=0.02) and found.verdict == "better"
    assert (found.difference.counted, found.difference.units) == ("100 of 100", 50)
    labels = {"strong": "strong", "w2sd": "W2SD"}
    printed = table.markdown(summary, labels, COLUMNS)
    cells = cells_of(printed)
    assert cells["jerk (100 of 100)"]["W2SD"].startswith("**1.0")
    assert cells["direction (100 of 100)"]["W2SD"].startswith("*0.")
    assert cells["right (two objects) (50 of 100)"]["strong"].startswith("1.000")
    assert "| 100 samples of 50 prompts | network evaluations | right (one object) (26 of 100) |" in printed
    primary = ", ".join(f"right ({n})" for n in ("one object", "two objects", "three objects"))
    assert (
        f"over the 4 comparisons in primary columns ({primary}, jerk), and apart from them over the other 2" in printed
    )
    said = table.verdicts(table.rivalry(lines, COLUMNS), labels, COLUMNS)
    assert said.startswith("- W2SD against strong: worse in direction (-0.")
    assert "; differs in motion (-10" in said or "; differs in motion (-9.9" in said
    assert said.index("worse in") < said.index("not decided in 3 of 5 columns") < said.index("better in jerk (")

    figure.draw(tmp_path / "table.svg", summary, labels, COLUMNS)
    svg = (tmp_path / "table.svg").read_text()
    fills = [c.verdict for c in summary["w2sd"]["against strong"].values() if c.verdict]
    assert sorted(fills) == ["better", "differs", "worse"]
    assert {fill: svg.count(f"fill: {colour.lower()}") for fill, colour in figure.FILLS.items()} == dict.fromkeys(
        figure.FILLS, 1
    )
    assert f">{found.difference.mean:+.2f}<" in svg and "W2SD  (" in svg and ", 100 samples of 50 prompts." in svg

    long = {name: f"{label}, {'tuned on other prompts ' * 4}" for name, label in labels.items()}
    figure.draw(tmp_path / "long.svg", summary, long, COLUMNS)
    path = re.compile(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*fill: #0072b2')
    (cell,) = [float(right) - float(left) for left, right in path.findall((tmp_path / "long.svg").read_text())]
    assert cell > 30  # points; a number takes 25


def test_what_settings_were_tuned_on_is_in_no_row_of_the_table():
    row = {"pair": "shapes", "method": "strong", "n": 0, "prompt": "a red circle", "evaluations": 2, "seconds": 1.0}
    rows = [row | {"scores": {"right": 1.0}}, row | {"scores": {"right": 0.0}, "tuning": True}]
    assert table.summarise(rows, COLUMNS)["strong"]["columns"]["right (one object)"].mean == 1


@pytest.mark.parametrize(
    ("at", "found", "tried"),
    [(2.2, 2.0, 8), (0.4, 1.0, 8), (9.0, 9.8, 10), (14.0, 13.72, 11)],
)
def test_tuning_finds_the_best_of_a_grid_that_grows_where_its_best_is_at_an_end(at, found, tried):
    """Of scores that fall with the distance from a setting, in `right` first, and where that is equal in `form`."""
    asked = tuning.tuned(bench.preset("shapes"))["tuned"]
    seen = []

    def made(rows, count):
        seen.extend(rows)
        off = {name: abs(row.says["guidance_scale"] - at) for name, row in rows.items()}
        return {
            name: [{"right": -float(int(d * 2)), "form": -d}, {"right": 0.0, "form": np.nan}] for name, d in off.items()
        }

    assert tuning.best("tuned", asked, 2, made) == {"guidance_scale": pytest.approx(found)}
    assert len(seen) == len(set(seen)) == tried


def test_w2sd_is_tuned_with_as_many_settings_as_guidance():
    rows = tuning.tuned(bench.preset("shapes"))
    seen = []

    def made(wanted, count):
        seen.extend(wanted)
        return {name: [{"right": row.says.get("reflection_steps", 14) / 14, "form": 0}] for name, row in wanted.items()}

    assert tuning.best("w2sd-tuned", replace(rows["w2sd-tuned"], first=rows["w2sd-tuned"].first[1:]), 1, made)
    plain = rows["tuned"].first
    assert len(rows["w2sd-tuned"].first) + len(rows["w2sd-tuned"].then({})) == len(plain) == 8


def test_a_setting_that_is_clearly_worse_on_the_first_prompts_is_not_tried_on_the_rest():
    """At guidance 3 every prompt is right, at 2.5 every second one of the rest but most of the first, else none."""
    asked = tuning.tuned(bench.preset("shapes"))["tuned"]
    tried = {}

    def made(rows, count):
        for row in rows.values():
            tried[row.says["guidance_scale"]] = count
        right = {3.0: lambda n: 1, 2.5: lambda n: 1 if n < tuning.HEAT - 2 else n % 2}
        return {
            name: [{"right": right.get(row.says["guidance_scale"], lambda n: 0)(n), "form": 0} for n in range(count)]
            for name, row in rows.items()
        }

    assert tuning.best("tuned", asked, 200, made) == {"guidance_scale": 3.0}
    assert tried == dict.fromkeys(tuning.GUIDANCE, 50) | {2.5: 200, 3.0: 200}


def test_a_packed_file_gives_the_same_table(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(5))
    told = ["bench", "--table", "--out", str(path)]
    printed = CliRunner().invoke(app, [*told, "--pack"]).output
    packed = CliRunner().invoke(app, [*told[:-1], str(tmp_path / "rows.jsonl.xz")])
    assert packed.exit_code == 0 and printed.endswith(packed.output)
    (tmp_path / "rows.jsonl.xz").write_bytes(b"no such file")
    assert CliRunner().invoke(app, [*told[:-1], str(tmp_path / "rows.jsonl.xz")]).exit_code == 2


@pytest.mark.slow
def test_processes_side_by_side_make_what_one_makes(tmp_path):
    """And a table that tunes goes on where it stands: nothing is made twice."""
    few = ["--set", "num_inference_steps=2", "--set", "num_frames=2", "--videos", "4", "--method", "strong"]
    for name, processes in (("one", "1"), ("two", "2")):
        ran = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / name), "--processes", processes, *few])
        assert ran.exit_code == 0, ran.output
    one, two = ({row["n"]: row for row in runs.rows(tmp_path / name)} for name in ("one", "two"))
    assert one.keys() == two.keys() == set(range(4))
    for n in one:  # to the last digit, and NaN where there is no score
        assert json.dumps(one[n] | {"seconds": 0}) == json.dumps(two[n] | {"seconds": 0})
    tuned = ["bench", "--out", str(tmp_path / "one"), *few, "--method", "tuned", "--tune", "1"]
    for _ in range(2):
        ran = CliRunner().invoke(app, tuned)
        assert ran.exit_code == 0 and "strong, tuned guidance (" in ran.output
        held = (tmp_path / "one").read_text()
    assert (tmp_path / "one").read_text() == held
    trials = [row for row in runs.rows(tmp_path / "one") if row.get("tuning")]
    assert len(trials) >= 8 and not {row["prompt"] for row in trials} & {row["prompt"] for row in one.values()}


def test_a_results_file_that_was_cut_in_its_last_line_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(3))
    made = [row | {"seconds": 0} for row in runs.rows(path)]
    path.write_text(path.read_text()[:-20])
    assert len(runs.rows(path)) == 2
    bench.run("shapes", path, RENDERED, grammar.prompts(3))
    assert [row | {"seconds": 0} for row in runs.rows(path)] == made
    assert made[0]["scores"]["right"] == 1.0


def test_a_results_file_is_not_continued_with_other_settings(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(2))
    made = path.read_text()
    bench.run("shapes", path, RENDERED, grammar.prompts(2), {"num_inference_steps": 20})
    assert path.read_text() == made  # the renderer has no steps, and its videos are there
    row = json.loads(made.splitlines()[0]) | {"method": "strong", "arguments": {"variant": "plain"}}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="take another file"):
        bench.run("shapes", path, {"strong": bench.Row("", bench.PLAIN)}, ["a red circle"], {"num_inference_steps": 20})


def test_a_results_file_is_of_one_pair(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(1))
    held = path.read_text()
    for only in ([], ["--table"]):
        ran = CliRunner().invoke(app, ["bench", "--pair", "shapes-image", "--samples", "1", "--out", str(path), *only])
        assert ran.exit_code == 2 and path.read_text() == held
        assert "holds rows of shapes, and not of shapes-image; take another file" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "options, says",
    [
        (["--pair", "shapes-stile"], "did you mean 'shapes-style'?"),
        (["--pair", "shapes-digits", "--set", "height=64"], "the data of shapes-digits has its size"),
        (
            ["--pair", "shapes-image", "--method", "motion-gain-2"],
            "'motion-gain-2' is not accepted; ",
        ),
        (["--set", "guidance_scale=high"], "'guidance_scale=high' is not accepted; give a number"),
        (["--out", "file/below/rows.jsonl"], "give a folder that can be written to"),
        (["--figure", "table.jpg"], "--figure: 'table.jpg' is not accepted; give the name of a file that ends in .png"),
        (["--pair", "shapes-digits", "--method", "strong", "--method", "noise"], "--eta: 1.0 is not accepted; dit-moe"),
        (["--table"], "--out: 'shapes-bench.jsonl' is not accepted; it is not there"),
        (["--method", "tuned"], "--method: 'tuned' is not accepted; it is tuned: give --tune, on how many prompts"),
        (
            ["--out", "rows.jsonl.xz"],
            "'rows.jsonl.xz' is not accepted; a packed file is only for --table",
        ),
    ],
)
def test_the_bench_refuses_bad_input_before_it_starts(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    ran = CliRunner().invoke(app, ["bench", *options])
    assert ran.exit_code == 2 and says in " ".join(ran.output.split()), ran.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_every_other_method_has_a_row(tmp_path):
    """Each is sampled, in three steps and two frames, with its own options."""
    path = tmp_path / "rows.jsonl"
    few = {"num_inference_steps": 3, "num_frames": 2}
    bench.run("shapes", path, {"w2sd": bench.Row("W2SD"), **bench.OTHERS}, ["a red circle"], few)
    made = {row["method"]: row for row in runs.rows(path)}
    # A schedule of guidance is no method by itself: it takes its numbers.
    assert set(METHODS) - {"w2sd", "weak", "guidance_schedule"} == {
        row.says.get("method") for row in bench.OTHERS.values()
    } - {None}
    assert len({json.dumps(row["scores"]) for row in made.values()}) == len(made)
    assert {row["arguments"]["num_frames"] for row in made.values()} == {2}


@pytest.mark.exhaustive
def test_optimistic_reflection_makes_w2sds_videos_at_the_price_of_auto_guidance():
    """At T = 12: pixels of four videos of four frames, from the same prompts and seeds."""
    asked = bench.preset("shapes", {"num_inference_steps": 12, "num_frames": 4})
    pipelines = bench.load(bench.Request.of(grammar.prompts(1)[0], 0, asked))
    distances: dict[str, list[float]] = {}
    for n, prompt in enumerate(grammar.prompts(4)):
        videos = {}
        for name, row in {"w2sd": bench.Row("W2SD"), **bench.OTHERS}.items():
            if name in ("w2sd", "auto-guidance", "optimistic"):
                request = bench.Request.of(prompt, n, asked, **row.says)
                videos[name], counted = bench.sample(pipelines["w2sd"], request, "w2sd")
                assert counted["total"] == (57 if name == "w2sd" else 35)
        for name in ("auto-guidance", "optimistic"):
            difference = videos[name].astype(float) - videos["w2sd"]
            distances.setdefault(name, []).append(float(np.sqrt((difference**2).mean())))
    assert np.mean(distances["optimistic"]) < 0.5 * np.mean(distances["auto-guidance"]), distances
    assert np.median(distances["optimistic"]) < 5


def test_rivals_of_which_nothing_is_decided_are_said_together():
    labels = {"strong": "strong", "guidance": "guidance 2", "w2sd": "W2SD"}
    lines = [
        {"pair": "shapes", "method": name, "n": n, "prompt": text, "evaluations": 2, "seconds": 1.0}
        | {"scores": {"right": float(n % 2)}, "arguments": {}}
        for name in labels
        for n, text in enumerate(grammar.prompts(12))
    ]
    said = table.verdicts(table.rivalry(lines, COLUMNS), labels, COLUMNS)
    assert said == "- W2SD against strong; guidance 2: nothing is decided, in 3 columns."


def test_that_no_column_has_a_verdict_is_said_once():
    lines = [
        {"pair": "shapes", "method": name, "n": n, "prompt": text, "evaluations": 2, "seconds": 1.0}
        | {"scores": {"right": 1.0, "form": 0.9}, "arguments": {}}
        for name in ("strong", "w2sd")
        for n, text in enumerate(grammar.prompts(2))
    ]
    printed = table.markdown(table.summarise(lines, COLUMNS), {"strong": "strong", "w2sd": "W2SD"}, COLUMNS)
    assert printed.endswith(" No verdict: under 10 prompts.")
