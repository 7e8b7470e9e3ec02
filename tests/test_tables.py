"""Tables as Markdown, read back by another program, and as LaTeX, against what TeX's own rules say by hand."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.columns import Column
from w2sd_video.shapes import table as shapes_table
from w2sd_video.shapes.cli import app as shapes_app
from w2sd_video.tables import Items, Marked, Paragraph, Table, latex, markdown

READ = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = [
    "50% of a_b & #1",
    "a|b",
    "c\\d",
    "c\\",
    "\\|",
    "__init__",
    "a__b_",
    "_x_ *y* **z**",
    "`code`",
    "<b>bold</b>",
    "&lt;&amp;",
    "[a](b)",
    "[a][b]",
    "~~gone~~",
    "émigré 日本 λ",
    "# head",
    "- item",
    "1. one",
    "> said",
    "---",
    "0.9 [0.8, 1.0]",
]


def cells(rendered: str) -> list[str]:
    """What a reader sees of a table's cells."""
    return [html.unescape(cell) for cell in re.findall(r"<t[dh]>(.*?)</t[dh]>", rendered)]


@pytest.mark.parametrize("text", NASTY)
def test_whatever_a_text_holds_a_reader_of_the_markdown_sees_it(text):
    rendered = READ.render(
        markdown([Table([text, "b"], [[text, Marked(text, "better")], ["c", Marked(text, "worse")]])])
    )
    seen = cells(rendered)
    strong, italics = seen[3].removeprefix("<strong>"), seen[5].removeprefix("<em>")
    assert [seen[0], seen[2]] == [text, text] and len(seen) == 6
    assert (strong, italics) == (f"{text}</strong>", f"{text}</em>")
    assert html.unescape(READ.render(markdown([Items([(text,)])]))) == f"<ul>\n<li>{text}</li>\n</ul>\n"
    assert html.unescape(READ.render(markdown([Paragraph((text,))]))) == f"<p>{text}</p>\n"


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=30))
def test_any_text_stays_in_its_cell_of_markdown(text):
    seen = cells(READ.render(markdown([Table(["a", "b"], [[text, "c"]])])))
    assert len(seen) == 4 and seen[2].split() == text.split() and seen[3] == "c"


def test_a_line_s_end_and_what_is_no_utf8_break_no_row():
    assert markdown([Table(["a"], [["x\n|\ty"], ["caf\udce9"]])]) == "| a |\n|---|\n| x \\| y |\n| caf\\\\udce9 |"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("50% of a_b & #1", r"50\% of a\_b \& \#1"),
        ("a|b<c>d", r"a\textbar{}b\textless{}c\textgreater{}d"),
        ("c\\d{e}", r"c\textbackslash{}d\{e\}"),
        ("$x^2~y", r"\$x\textasciicircum{}2\textasciitilde{}y"),
        ("-0.5 ± 0.1 ≠ σ", r"$-$0.5 $\pm$ 0.1 $\neq$ $\sigma$"),
        ("w2sd--v2 a-1", r"w2sd-{}-v2 a-1"),
        ('`"', r"\textasciigrave{}{''}"),
        ("émigré 日本", "émigré 日本"),
        ("x\ny\x07z", "x y z"),
        ("caf\udce9", r"caf\textbackslash{}udce9"),
    ],
)
def test_what_latex_gives_a_meaning_is_escaped(text, expected):
    assert latex([Paragraph((text,))]) == expected


def test_a_row_of_latex_does_not_begin_with_an_option_of_the_row_before():
    rows = latex([Table(["", "a"], [["[5mm]", "1"], ["*", Marked("2", "better")]])]).splitlines()
    assert rows[4:6] == [r"{}[5mm] & 1 \\", r"{}* & \textbf{2} \\"]
    assert latex([Items([("[1] a",)])]).splitlines()[1] == r"\item {}[1] a"


def test_marks_of_latex():
    row = ["a", Marked("1", "worse"), Marked("2", "differs"), Marked("", "better")]
    assert r"a & \textit{1} & 2 $\neq$ &  \\" in latex([Table(["", "b", "c", "d"], [row])])


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """Twelve videos of one grey a group; those of the second are clipped."""
    monkeypatch.chdir(tmp_path)
    for group, value in (("plain", 90), ("a_b", 255)):
        for n in range(12):
            frames = np.full((2, 16, 16, 3), value, np.uint8)
            frames[:, : n + 1] = 80
            video.write_pngs(frames, tmp_path / group / f"prompt {n}-0")
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["eval", *arguments])


@pytest.mark.slow
def test_eval_prints_its_tables_alone_in_either_format(outputs):
    groups = ("plain", "50%|x=a_b", "--dimensions", "clipped")
    ran = run(*groups, "--format", "markdown")
    assert ran.exit_code == 0 and ran.stdout.startswith("| | plain | 50%\\|x |\n|---|---|---|\n")
    seen = cells(READ.render(ran.stdout))
    assert "50%|x" in seen and any(cell.startswith("<em>") for cell in seen) and "worse" in seen
    assert "results.json" in ran.stderr and "results.json" not in ran.stdout
    tex = run(*groups, "--format", "latex")
    assert tex.exit_code == 0 and tex.stdout.startswith(r"\begin{tabular}{lrr}") and r"50\%\textbar{}x" in tex.stdout
    assert r"\textit{" in tex.stdout and not re.search(r"(?<!\\)[%#]", tex.stdout.replace(r" % \usepackage", ""))
    plain = run(*groups).stdout
    assert run(*groups, "--format", "table").stdout == plain and "with --worst N here" in plain
    assert "12 of 12 prompts" in run(*groups, "--worst", "1", "--format", "markdown").stdout
    listed = run(*groups, "--worst", "1").stdout
    assert "  clipped (lower is better): 12 of 12 prompts" in listed and "--worst N" not in listed


@pytest.mark.parametrize("form", ["yaml", "", "Markdown"])
def test_another_format_is_refused_before_anything_is_scored(outputs, form):
    ran = run("plain", "--format", form)
    assert (
        ran.exit_code == 2 and "give text, json, markdown or latex" in ran.stderr and not Path("results.json").exists()
    )
    ran = CliRunner().invoke(shapes_app, ["bench", "--table", "--format", form])
    assert ran.exit_code == 2 and "give json, markdown or latex" in ran.stderr


def test_the_bench_prints_latex_from_the_same_rows(tmp_path):
    rows = [
        {"pair": "shapes", "method": name, "n": n, "prompt": f"a {'red' if n % 2 else 'blue'} circle", "seconds": 1.0}
        | {"evaluations": 2, "scores": {"right": float(name == "w2sd"), "edge_error": 0.5 + n}, "arguments": {}}
        for name in ("strong", "w2sd")
        for n in range(4)
    ]
    summary = shapes_table.summarise(rows, [Column("right", kind="verdict"), Column("edge_error", sign=-1)])
    labels = {"strong": "strong_50%", "w2sd": "W2SD"}
    blocks = shapes_table.document(summary, labels, [Column("right", kind="verdict"), Column("edge_error", sign=-1)])
    assert r"strong\_50\% & 2 & " in latex(blocks) and r"edge\_error" in latex(blocks)
    assert "| strong_50% | 2 |" in markdown(blocks) and "| edge_error (4 of 4) |" in markdown(blocks)


def test_a_file_without_rows_makes_no_table(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    ran = CliRunner().invoke(shapes_app, ["bench", "--table", "--out", str(tmp_path / "empty.jsonl")])
    assert ran.exit_code == 2 and "it holds no row of shapes" in ran.stderr.replace("\n", " ")


@pytest.mark.slow
def test_json_holds_no_less_than_the_table(outputs):
    ran = run("plain", "x=a_b", "--dimensions", "clipped", "--format", "json")
    assert [c["verdict"] for c in json.loads(ran.stdout)["comparisons"]] == ["worse"]


def test_what_begins_a_tag_is_escaped_and_a_comparison_is_not():
    """A backslash before < is shown by Python-Markdown, which makes the documentation's pages."""
    assert markdown([Paragraph(("p < 0.001, <b>",))]) == "p < 0.001, \\<b>"


def test_a_list_within_a_list_stands_under_the_line_before_it():
    items = Items([("one",), Items([("two",), Items([("three",)])]), ("four",)])
    rendered = re.sub(r"\s+", "", READ.render(markdown([items])))
    assert rendered == "<ul><li>one<ul><li>two<ul><li>three</li></ul></li></ul></li><li>four</li></ul>"
    written = latex([items]).split("\n")
    begin, end = r"\begin{itemize}", r"\end{itemize}"
    assert written == [
        begin, r"\item one", begin, r"\item two", begin, r"\item three", end, end, r"\item four", end,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["[x] done", "[x]: 5", "  [x]: 5", "  # head", "  + more"])
def test_a_line_is_no_box_to_tick_no_address_and_no_heading(text):
    rendered = READ.render(markdown([Items([(text,)]), Paragraph((text,))]))
    assert re.findall(r"<(?:li|p)>(.*?)</", rendered) == [text.strip()] * 2
    assert not re.search(r"- \[.\] ", markdown([Items([(text,)])]))  # which GitHub makes a box of
    assert latex([Items([(text,)])]).split("\n")[1] == r"\item " + ("{}" if "[" in text else "") + latex(
        [Paragraph((text.strip(),))]
    )
