"""The results file of `shapes bench`, one JSON row per sample: reads, repairs and compresses it.

A measure that does not apply to a sample is NaN in Python, and null in the file, since JSON has no NaN.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import presets, runs
from ..columns import LARGEST
from ..documents import finite
from ..errors import ArgumentError
from .columns import DIGITS, OUTLINES
from .grammar import parse

OTHER = "take another file"
VERDICTS = {column.name for column in (*OUTLINES, *DIGITS) if column.kind == "verdict"}
_COLUMNS: dict[str, type | tuple[type, ...]] = {
    "pair": str,
    "method": str,
    "n": int,
    "prompt": str,
    "evaluations": int,
    "seconds": (int, float),
    "scores": dict,
}


def _is_row(row: object) -> bool:
    """Whether `row` has the fields of a results file, with scores that are numbers."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in _COLUMNS.items()):
        return False
    if isinstance(row["n"], bool) or row["n"] < 0 or not isinstance(row.get("tuning", False), bool):
        return False
    if not all(isinstance(row.get(name, {}), dict) for name in ("arguments", "of")):
        return False
    numbers = [row.get("arguments", {}).get(name, 0) for name in ("guidance_scale", "reflection_steps")]
    if not all(isinstance(value, (int, float)) for value in numbers):
        return False
    if not all(_is_number(row[name]) and row[name] >= 0 for name in ("evaluations", "seconds")):
        return False
    scores = row["scores"]
    if not all(value is None or _is_number(value) for value in scores.values()):
        return False
    judged = [value for name, value in scores.items() if name in VERDICTS and value is not None]
    return all(math.isnan(value) or 0 <= value <= 1 for value in judged)


def _is_number(value: object) -> bool:
    """Whether it is a number with a finite square, or NaN, which files of earlier versions have in place of null."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value != value or abs(value) <= LARGEST


@lru_cache(maxsize=100_000)
def _is_prompt(text: str) -> bool:
    try:
        return bool(parse(text))
    except ValueError:
        return False


def read(path: Path, pair: str | None, mend: bool = False) -> list[Any]:
    """The rows of a results file, or of one that `pack` has compressed.

    Args:
        pair: whose rows they have to be. None: of any pairs.
        mend: whether to remove an incomplete last line from the file. Only for a process that appends to it.

    Raises:
        ValueError: the file has rows of another pair or no such rows, or a sample twice with different scores.
    """
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                rows = [json.loads(line) for line in file]
        else:
            rows = runs.rows(path, mend)
    except RecursionError:
        raise ArgumentError("out", f"{path} is no file of rows of JSON: it nests too deep") from None
    except (ValueError, OSError, EOFError, lzma.LZMAError) as error:
        named = f"{path} is no packed file of rows of JSON: {error}" if path.suffix == ".xz" else f"{error}"
        raise ArgumentError("out", named) from None
    if not all(map(_is_row, rows)):
        raise ArgumentError("out", f"{path} holds rows that this command did not write; {OTHER}")
    pairs = {row["pair"] for row in rows}
    if others := pairs - {pair or each for each in pairs}:
        raise ArgumentError("out", f"{path} holds rows of {', '.join(sorted(others))}, and not of {pair}; {OTHER}")
    for row in rows:
        row["scores"] = {name: math.nan if value is None else value for name, value in row["scores"].items()}
    textual = {each: presets.load(each).textual for each in pairs}
    once: dict[tuple[str, str, int, bool], Any] = {}
    for row in rows:
        if textual[row["pair"]] and not _is_prompt(row["prompt"]):
            raise ArgumentError("out", f"{path} holds a row of {row['prompt'][:100]!r}, which is no prompt; {OTHER}")
        first = once.setdefault((row["pair"], row["method"], row["n"], row.get("tuning", False)), row)
        if json.dumps(first["scores"]) != json.dumps(row["scores"]):
            raise ArgumentError("out", f"{path} holds {row['method']} {row['n']} twice, with different scores; {OTHER}")
    return list(once.values())


def line_of(
    pair: str,
    method: str,
    n: int,
    prompt: str,
    seed: int,
    scores: Mapping[str, float],
    evaluations: int,
    seconds: float,
    of: Mapping[str, str],
    **more: Any,
) -> dict[str, Any]:
    """A line of a results file: one sample, its scores, and what decided them.

    Args:
        of: hashes of what decides its numbers; see `bench.origin`.
        more: its `arguments`, and `tuning` if settings are tuned on it.
    """
    named = {"pair": pair, "method": method, "n": n, "prompt": prompt, "seed": seed, **more, "of": dict(of)}
    cost = {"evaluations": evaluations, "seconds": round(seconds, 2)}
    return {**named, **cost, "scores": {name: float(f"{value:.5g}") for name, value in scores.items()}}


def add(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines to a results file. Without lines, none is made.

    Raises:
        OSError: names the file, as on a full disk.
    """
    if texts := [_text(line) for line in lines]:
        with runs.naming(path), open(path, "a") as file:
            file.writelines(texts)


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"


def packed(path: Path, pair: str) -> bytes:
    """The rows of a results file, sorted and compressed to about a tenth of the size."""
    kept = sorted(read(path, pair), key=lambda row: (row.get("tuning", False), row["method"], row["n"]))
    return lzma.compress("".join(map(_text, kept)).encode(), preset=9)


def pack(path: Path, pair: str) -> Path:
    """Writes `packed` rows of a results file beside it, as .jsonl.xz."""
    to = path.with_name(f"{path.name.removesuffix('.jsonl')}.jsonl.xz")
    with runs.whole({"file": to}) as staged:
        staged["file"].write_bytes(packed(path, pair))
    return to
