"""Columns of one's own may have any name: what is shown of them is the name, and nothing of it is carried out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.eval import report
from w2sd_video.eval.cli import table
from w2sd_video.eval.dimensions import ByFunction, Dimension
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.eval.memory import in_memory
from w2sd_video.eval.results import Summary


def summary(*names: object) -> Summary:
    """Of two groups of three videos, with a dimension whose columns, all the mean of the pixels, have these names."""

    class Own(Dimension):
        name = "own"
        records = tuple(Column(each) for each in names)  # type: ignore[arg-type]

        def score(self, video, reader):
            mean = 0.0
            while (batch := (yield)) is not None:
                mean += float(batch.pixels.mean())
            return {name: mean for name in self.columns}

    groups = [("a", 20), ("b", 90)]
    frames = [np.full((2, 8, 8, 3), base + n, np.uint8) for _, base in groups for n in range(3)]
    places = [(f"p{n}", group) for group, _ in groups for n in range(3)]
    videos = [in_memory(f, name, name, group) for f, (name, group) in zip(frames, places, strict=True)]
    return Summary(evaluate(videos, Own))


@pytest.mark.parametrize("name", ["[/x]", "[bold]x", "right (two)", "[red"])
def test_a_table_on_a_terminal_shows_a_columns_name_as_it_is(name):
    console = Console(file=io.StringIO(), width=120)
    console.print(table(summary(name), console.width))
    assert f" {name} " in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_page_shows_columns_names_as_they_are_and_draws_no_mathematics():
    page = report.page(summary("$\\nonsense$", "<i>slanted"))
    assert "$\\nonsense$" in page and "<i>" not in page and "&lt;i&gt;slanted" in page


def test_names_of_columns_that_are_not_drawn_are_escaped_too():
    class Constant(Dimension):
        name = "constant"
        records = (Column("<b>same"), Column("other"))

        def score(self, video, reader):
            while (yield) is not None:
                pass
            return {"<b>same": 1.0, "other": 2.0}

    frames = np.zeros((2, 8, 8, 3), np.uint8)
    page = report.page(Summary(evaluate([in_memory(frames, "p", "p", group) for group in "ab"], Constant)))
    assert "Not drawn, as all videos have the same score: &lt;b&gt;same, other." in page and "<b>" not in page


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "  "},
        {"name": 3},
        {"name": None},
        {"sign": 2},
        {"sign": "up"},
        {"sign": None},
        {"kind": "verdicts"},
        {"kind": None},
        {"scale": 0},
        {"scale": -1.0},
        {"scale": float("nan")},
        {"scale": "1"},
        {"classes": -1},
        {"classes": 1.5},
    ],
)
def test_a_column_that_cannot_be_is_refused_when_it_is_made(values):
    (argument,) = values
    with pytest.raises(Refused, match=f"^{argument}: .* is not accepted; give "):
        Column(**{"name": "own", **values})


@pytest.mark.parametrize("value", [1.5, -0.1, 100.0])
def test_a_verdict_outside_of_0_to_1_is_no_score_and_that_is_said(value):
    dimension = ByFunction(lambda frames: value, Column("seen", kind="verdict"))
    scores = evaluate(np.zeros((1, 2, 8, 8, 3), np.uint8), dimension)
    ((_, name, said),) = scores.problems
    assert name == "seen" and said == f"its score seen is {value:g}, and has to be from 0 to 1, as that of a verdict"
    assert not scores.of
