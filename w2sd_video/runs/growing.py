"""Files of rows of JSON that grow as work goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def rows(path: Path, mend: bool = True) -> list[Any]:
    """The rows of a JSON Lines file that grows as work goes on; none where there is no file.

    A last line that was cut short, because the process died writing it, is removed from the file.

    Args:
        mend: False leaves the file as it is: for readers, beside which another process may be writing that line.

    Raises:
        ValueError: the file holds something else, and is left as it is.
    """
    if not path.exists():
        return []
    if not path.is_file():  # reading a pipe may wait for ever
        raise ValueError(f"{path} is no file of rows of JSON: it is a folder, a pipe or a device")
    text = path.read_bytes()
    end = text.rfind(b"\n") + 1
    try:
        if text[end : end + 1] not in (b"", b"{"):
            raise ValueError("its last line is no row")
        if text and not end and _is_json(text):
            raise ValueError("its only line has no end")
        values = []
        for number, line in enumerate(text[:end].splitlines(), 1):
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is no file of rows of JSON: it nests too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is no file of rows of JSON: {error}") from None
    if mend and end < len(text):
        os.truncate(path, end)
    return values
