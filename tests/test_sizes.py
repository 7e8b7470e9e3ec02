"""A file is read in one sitting and a function at one sight; a longer one says why it is one thing."""

from __future__ import annotations

import ast

import pytest
from test_imports import FILES

from w2sd_video.shapes.bench import JUDGE

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 450, 80
# Published rows name the judge by the hash of these files, which therefore stay as they are.
HASHED = {f"w2sd_video.shapes.{name}" for name in JUDGE}


@pytest.mark.parametrize("module", FILES)
def test_what_is_long_says_why_it_is_one_thing(module):
    """By a sentence, "One file because …" in its docstring, or "One function because …" within the function."""
    text = FILES[module].read_text(encoding="utf-8")
    tree = ast.parse(text)
    says_why = "One file because" in (ast.get_docstring(tree) or "")
    assert len(text.splitlines()) <= LINES_OF_A_FILE or says_why or module in HASHED
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {node for node in functions if (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION}
    assert not {node.name for node in long if "One function because" not in (ast.get_source_segment(text, node) or "")}
