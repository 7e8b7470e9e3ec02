"""`--format json`: the data alone on stdout, all else on stderr."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from w2sd_video import presets, video
from w2sd_video.cli import app
from w2sd_video.shapes import grammar, world
from w2sd_video.terminal import Command


def read(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_methods_have_their_options_and_defaults():
    rows = {row["name"]: row for row in read("methods")}
    assert rows["auto_guidance"]["options"]["weight"] == 1.0 and rows["w2sd"]["plugin"] is None
    assert set(rows["w2sd"]) == {"name", "summary", "options", "plugin"} and "weak" not in rows


@pytest.mark.slow  # imports every dimension
def test_dimensions_have_their_columns_and_weights():
    rows = {row["name"]: row for row in read("dimensions")}
    assert rows["clipped"]["columns"] == ["clipped"] and rows["clipped"]["weights"] == []
    assert "shapes_right" in rows["shapes"]["columns"] and rows["clip_t"]["weights"]


def test_presets_have_every_field():
    assert read("presets", "shapes")["num_inference_steps"] == presets.load("shapes").num_inference_steps
    rows = read("presets")
    assert [row["name"] for row in rows] == presets.names() and not any(row["plugin"] for row in rows)


def test_doctor_has_its_sections():
    rows = read("doctor")["Versions"]
    assert rows[0]["what"] == "python" and rows[0]["is"]


def test_eval_prints_the_results_file(tmp_path):
    video.write_pngs(np.full((2, 16, 16, 3), 51, np.uint8), tmp_path / "grey:cat:")
    out = tmp_path / "results.json"
    data = read("eval", tmp_path / "grey:cat:", "--dimensions", "clipped", "--out", out)
    assert data == json.loads(out.read_text())
    assert data["videos"][0]["path"].endswith("grey:cat:")


def test_what_a_dimension_prints_is_not_among_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `best` keeps its scores in the current folder
    video.write_pngs(np.full((2, 16, 16, 3), 51, np.uint8), tmp_path / "grey")
    (tmp_path / "own.py").write_text(
        "print('read')\n\ndef bright(frames):\n    print('bright')\n    return float(frames.mean())\n"
    )
    own = ("--dimensions", f"{tmp_path / 'own.py'}:bright")
    assert read("eval", tmp_path / "grey", *own, "--out", tmp_path / "results.json")["dimensions"]
    assert read("best", tmp_path / "grey", "--by", "bright", *own)


def test_what_a_method_prints_is_not_among_the_data(tmp_path):
    (tmp_path / "loud.py").write_text(
        "from w2sd_video.methods import W2SD\n\nprint('read')\n\n\nclass Loud(W2SD):\n"
        "    def reflects(self, *step):\n        print('step')\n        return super().reflects(*step)\n"
    )
    plan = "prompts: [a red circle]\nsettings: {num_inference_steps: 1, num_frames: 1, method: loud.py:Loud}\n"
    (tmp_path / "plan.yaml").write_text(plan)
    own = ("--method", f"{tmp_path / 'loud.py'}:Loud")
    assert read("run", tmp_path / "plan.yaml", *own)["left"] == 0
    assert read("status", tmp_path / "plan", *own)["cells"] == 1
    text = CliRunner().invoke(app, ["status", str(tmp_path / "plan")])
    assert "1/1 made" in text.stdout  # which a command writes to again


def test_shapes_says_of_a_thing_that_grows_that_it_grows(tmp_path):
    film = tmp_path / "growing"
    video.write_pngs((world.render(grammar.parse("a large red circle growing"), 0) * 255).astype("uint8"), film)
    ran = CliRunner().invoke(app, ["shapes", "judge", str(film), "a large red circle growing"])
    assert "sees a large red circle growing\n" in ran.stdout


def test_shapes_answers_with_what_it_sees_and_how_it_scores(tmp_path):
    film = tmp_path / "red"
    video.write_pngs((world.render(grammar.parse("a red circle moving right"), 0) * 255).astype("uint8"), film)
    data = read("shapes", "judge", film, "a blue circle moving right")
    (thing,) = data["objects"]
    assert (thing["colour"], thing["shape"], thing["direction"]) == ("red", "circle", "right")
    assert data["scores"]["colour"] == 0 and data["scores"]["shape"] == 1
    assert read("shapes", "words")["shape"] == ["circle", "square", "triangle"]


def test_the_shapes_bench_has_every_row_with_its_means():
    rows = Path(__file__).parents[1] / "docs" / "rows" / "shapes.jsonl.xz"
    data = read("shapes", "bench", "--table", "--out", rows)
    with lzma.open(rows, "rt", encoding="utf-8") as lines:
        plain = [row for row in map(json.loads, lines) if row["method"] == "strong" and not row.get("tuning")]
    assert data["w2sd"]["samples"] == len(plain) >= 100 and data["w2sd"]["evaluations"] == 122
    right = sum(row["scores"]["objects"] for row in plain) / len(plain)
    assert data["strong"]["columns"]["objects"]["mean"] == pytest.approx(right)


def test_no_command_can_mix_what_others_print_with_its_data():
    def commands(group: Any) -> list[Any]:
        parts = group.commands.values()
        return [each for one in parts for each in (commands(one) if hasattr(one, "commands") else [one])]

    every = commands(get_command(app))
    assert len(every) > 20 and all(isinstance(each, Command) for each in every)


COMMANDS = [("methods",), ("doctor",), ("presets",), ("dimensions",), ("prompts", "ls"), ("shapes", "words")]


@pytest.mark.parametrize("command", [*COMMANDS, ("bench", "true-size")])
def test_another_format_is_refused(command):
    result = CliRunner().invoke(app, [*command, "--format", "yaml"])
    assert result.exit_code == 2 and "'yaml' is not accepted; give text or json" in result.stderr


@pytest.mark.slow  # samples eight times
def test_check_pair_prints_cosines_by_level_and_the_scores(tmp_path):
    arguments = ("--preset", "shapes-digits", "--samples", 2, "--steps", 2, "--out", tmp_path)
    (tmp_path / "proposed.yaml").write_text("of an earlier check")
    data = read("check-pair", *arguments)
    assert len(data["levels"]) == 8 and -1 <= data["cosine"]["mean"] <= 1 and data["verdict"]
    assert data["strength"]["low"] <= data["strength"]["g"] <= data["strength"]["high"]
    assert data["verdict"].startswith("too few") and data["proposal"] is None
    assert not (tmp_path / "proposed.yaml").exists()
    assert data["scores"] == json.loads((tmp_path / "scores.json").read_text())
