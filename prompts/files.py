"""Reads rows of prompts from files in the formats of published suites: text, CSV, JSON, YAML, Parquet, Arrow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..documents import read_bytes, read_text, read_yaml
from ..errors import Refused

# Names of the column of prompts: ours, VBench's, DrawBench's, Pick-a-Pic's, and a common one.
TEXT = ("prompt", "prompt_en", "prompts", "caption", "text")
MOST_BYTES = 64 * 2**20
Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    """The rows of a file, or of a folder's text files, in which the tag `file` is the file's name without suffix.

    Every row has its prompt under `prompt`.

    Raises:
        Refused: the file is in another format, cannot be read, or has no column of prompts.
    """
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            accepted = "it is a folder without text files (*.txt): give one that has some, or a file"
            raise Refused("prompts", str(path), accepted)
        return [row | {"file": file.stem} for file in files for row in rows(file)]
    read, kind = KINDS.get(path.suffix.lower(), (_text, "a text file in UTF-8"))
    try:
        entries = list(read(path))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, Refused):
            raise
        raise Refused("prompts", str(path), f"give {kind} ({error})") from None
    return [_row(path, n, each) for n, each in enumerate(entries, 1)]


def _row(path: Path, number: int, each: Any) -> Row:
    """A row with its prompt under `prompt`, from an entry of a file, which is a text or a mapping of columns.

    Raises:
        Refused: the entry is something else, or has no column of prompts or several.
    """
    if isinstance(each, str):
        each = {"prompt": each}
    if not isinstance(each, Mapping):
        accepted = f"entry {number} is neither a text nor an object: give prompts, or objects with a prompt"
        raise Refused("prompts", str(path), accepted)
    columns = [name for name in each if isinstance(name, str) and name.strip().lower() in TEXT]
    if len(columns) != 1:
        has = f"the columns {', '.join(map(str, each))}" if each else "no columns"
        accepted = f"entry {number} has {has}: give exactly one of {', '.join(TEXT)}"
        raise Refused("prompts", str(path), accepted)
    text = each[columns[0]]
    if not isinstance(text, str) or not text.strip():
        raise Refused("prompts", str(path), f"entry {number} has no text under {columns[0]!r}: give one")
    return {"prompt": text.strip(), **{name: value for name, value in each.items() if name != columns[0]}}


def _text(path: Path) -> Iterator[str]:
    lines = (line.strip() for line in _lines(path))
    return (line for line in lines if line and not line.startswith("#"))


def _csv(path: Path) -> list[Row]:
    text = read_text(path, MOST_BYTES)
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect, strict=True)
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has another number of fields than the first line")
        rows.append({name: value for name, value in row.items() if value != ""})
    return rows


def _json(path: Path) -> list[Any]:
    return _listed(json.loads(read_bytes(path, MOST_BYTES)))


def _json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in _lines(path) if line.strip()]


def _lines(path: Path) -> Iterable[str]:
    """The lines of a file. `str.splitlines` would also split at characters within texts, such as U+2028."""
    return io.StringIO(read_text(path, MOST_BYTES), newline=None)


def _yaml(path: Path) -> list[Any]:
    return _listed(read_yaml(path))


def _listed(value: Any) -> list[Any]:
    """The entries of a list, of a list under `prompts`, or of an object with ids as keys and texts as values."""
    if isinstance(value, Mapping) and isinstance(value.get("prompts"), list):
        value = value["prompts"]
    if isinstance(value, Mapping) and value and all(isinstance(text, str) for text in value.values()):
        return [{"id": name, "prompt": text} for name, text in value.items()]
    if not isinstance(value, list):
        raise ValueError("give a list of prompts, or an object of ids and prompts")
    return value


# Columns read from tables, which may also hold large columns such as Pick-a-Pic's images.
_OF_TABLES = (*TEXT, "id", "tag", "tags", "category", "challenge", "dimension")


def _table(path: Path) -> list[Row]:
    """The rows of a Parquet file, as the hub stores datasets, or of an Arrow file, as the library `datasets` does."""
    try:
        from pyarrow import ArrowException, ipc
        from pyarrow.parquet import ParquetFile
    except ImportError:
        accepted = "Parquet and Arrow are read by pyarrow: pip install 'w2sd-video[suites]'"
        raise Refused("prompts", str(path), accepted) from None
    try:
        if path.suffix.lower() == ".parquet":
            file = ParquetFile(path)
            return file.read(columns=_of_table(file.schema_arrow.names)).to_pylist()
        with ipc.open_stream(str(path)) as stream:
            return stream.read_all().select(_of_table(stream.schema.names)).to_pylist()
    except ArrowException as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _of_table(names: list[str]) -> list[str]:
    return [name for name in names if name.strip().lower() in _OF_TABLES]


# By the suffix of a file's name. Any other suffix counts as a text file.
KINDS: dict[str, tuple[Callable[[Path], Iterable[Any]], str]] = {
    ".csv": (_csv, "a CSV file whose first line names its columns"),
    ".tsv": (_csv, "a file of columns, with tabs between, whose first line names them"),
    ".json": (_json, "a JSON file of prompts"),
    ".jsonl": (_json_lines, "a file with a JSON object a line"),
    ".yaml": (_yaml, "a YAML file of prompts"),
    ".yml": (_yaml, "a YAML file of prompts"),
    ".parquet": (_table, "a Parquet file"),
    ".arrow": (_table, "a file of an Arrow stream"),
}
