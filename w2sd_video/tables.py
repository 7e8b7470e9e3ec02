"""Renders tables, lists and paragraphs as GitHub's Markdown and as LaTeX. Special characters in texts are escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Marked:
    """A text marked by a verdict: bold for "better", italics for "worse", followed by ≠ for "differs", plain for ""."""

    text: str
    verdict: str


Text = str | Marked
Line = Sequence[Text]  # pieces, joined without a space


@dataclass(frozen=True)
class Table:
    """A table with a header row; the first column names the rows."""

    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Items:
    """A list. A nested list belongs to the line before it."""

    lines: Sequence[Line | Items]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    line: Line


Block = Table | Items | Paragraph


def markdown(blocks: Iterable[Block]) -> str:
    """Blocks as GitHub's Markdown, without a final line end."""
    return "\n\n".join(_markdown(block) for block in blocks)


def _markdown(block: Block) -> str:
    if isinstance(block, Table):
        rows = [[_marked_in_markdown(cell) for cell in row] for row in (block.head, *block.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---" * len(block.head) + "|")
        return re.sub(r"  +\|", " |", "\n".join(lines))
    if isinstance(block, Items):
        return "\n".join(_items_in_markdown(block))
    return _line_in_markdown(block.line)


def _items_in_markdown(items: Items) -> Iterator[str]:
    for line in items.lines:
        if isinstance(line, Items):
            yield from (f"  {inner}" for inner in _items_in_markdown(line))
        else:
            yield "- " + _line_in_markdown(line)


def _line_in_markdown(line: Line) -> str:
    text = "".join(_marked_in_markdown(piece, alone=False) for piece in line).strip()
    # At the start of a line, these begin a heading, a list, a quotation, a task or a link definition.
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", text)
    return f"\\{text}" if text[:1] in ("#", "+", "-", "=", ">", "[") else text


def _marked_in_markdown(piece: Text, alone: bool = True) -> str:
    text = _in_markdown(plain(piece))
    text = text.strip() if alone else text
    mark = {"better": "**{}**", "worse": "*{}*", "differs": "{} ≠"}.get(_verdict(piece), "{}")
    return mark.format(text) if text else text


def plain(piece: Text) -> str:
    """A piece's text, without its verdict."""
    return piece.text if isinstance(piece, Marked) else piece


def _verdict(piece: Text) -> str:
    return piece.verdict if isinstance(piece, Marked) else ""


def _in_markdown(text: str) -> str:
    text = re.sub(r"[\\`*|~$]|<(?=[a-zA-Z/!?])", r"\\\g<0>", _one_line(text))  # < alone begins no tag
    text = re.sub(r"&(?=#?\w+;)", r"\&", text)  # else it would start an entity
    text = re.sub(r"\](?=[(\[])", r"\]", text)  # else it would end a link's text
    # Within a word, as in edge_error, an underscore does not start emphasis.
    return re.sub(r"(?<!\w)_+|_+(?!\w)", lambda match: match[0].replace("_", r"\_"), text)


def indented(items: Items) -> Iterator[str]:
    """The lines of a list as plain text; each level of nesting is indented by two spaces."""
    for line in items.lines:
        if isinstance(line, Items):
            yield from (f"  {inner}" for inner in indented(line))
        else:
            yield "".join(map(plain, line))


def latex(blocks: Iterable[Block]) -> str:
    r"""Blocks as LaTeX, without a final line end. Tables need `\usepackage{booktabs}`.

    Characters that pdflatex does not support, such as Chinese ones, stay as they are, for XeLaTeX and LuaLaTeX.
    """
    return "\n\n".join(_latex(block) for block in blocks)


def _latex(block: Block) -> str:
    if isinstance(block, Table):
        head, *rows = (" & ".join(_marked_in_latex(cell) for cell in row) for row in (block.head, *block.rows))
        # After the end of a row, LaTeX would read "[" and "*" as options of that end.
        head, *rows = (("{}" if row[:1] in ("[", "*") else "") + row + r" \\" for row in (head, *rows))
        begin = rf"\begin{{tabular}}{{l{'r' * (len(block.head) - 1)}}} % \usepackage{{booktabs}}"
        return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"])
    if isinstance(block, Items):
        return "\n".join([r"\begin{itemize}", *map(_item_in_latex, block.lines), r"\end{itemize}"])
    return "".join(map(_marked_in_latex, block.line))


def _item_in_latex(line: Line | Items) -> str:
    if isinstance(line, Items):
        return _latex(line)
    text = "".join(map(_marked_in_latex, line)).strip()
    return rf"\item {'{}' if text[:1] == '[' else ''}{text}"  # else LaTeX would read [ as the start of a label


def _marked_in_latex(piece: Text) -> str:
    text = _in_latex(plain(piece))
    mark = {"better": r"\textbf{%s}", "worse": r"\textit{%s}", "differs": r"%s $\neq$"}.get(_verdict(piece), "%s")
    return mark % text if text else text


_LATEX = {character: f"\\{character}" for character in "{}$&#_%"}
_LATEX |= {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "`": r"\textasciigrave{}",
    '"': "{''}",
    "“": "{``}",
    "”": "{''}",
    "‘": "`",
    "’": "'",
    "–": "{--}",
    "—": "{---}",
    "…": r"\dots{}",
    "\u00a0": "~",
}
_MATHEMATICS = {"±": "pm", "≠": "neq", "×": "times", "≤": "leq", "≥": "geq", "→": "to", "·": "cdot", "°": "circ"}
_MATHEMATICS |= {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "η": "eta", "θ": "theta"}
_MATHEMATICS |= {"λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi", "ω": "omega"}
_LATEX |= {character: f"$\\{name}$" for character, name in _MATHEMATICS.items()} | {"−": "$-$", "°": r"$^\circ$"}


def _in_latex(text: str) -> str:
    text = re.sub(r"(?<![^\s\[(,±])-(?=\.?\d)", "−", _one_line(text))
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<=-)(?=-)", "{}", escaped) if "--" in text else escaped


def _one_line(text: str) -> str:
    """The text with spaces for line ends and control characters, and escapes for bytes that are not UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", lambda match: match[0] if match[0] == "\u00a0" else " ", text)


FORMATS: dict[str, Callable[[Iterable[Block]], str]] = {"markdown": markdown, "latex": latex}
