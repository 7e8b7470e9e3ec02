"""Files and folders that appear whole or not at all, and files of rows that grow as work goes on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Refused


def writable(out: Path) -> None:
    """Makes the output folder, and refuses one that cannot be written to.

    Raises:
        Refused: it is not a folder that can be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=out):
            pass
    except OSError as error:
        raise Refused("out", str(out), f"give a folder that can be written to ({error.strerror})") from None


@contextmanager
def whole(finals: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Files and folders that appear whole or not at all.

    The body writes to the paths that it is given, which lie in a hidden folder beside; when it ends without
    an exception they take their places, in order. The last one, the sidecar, is removed before anything is
    replaced, so that it never stands beside files that are not its own.
    """
    last = list(finals.values())[-1]
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=last.parent) as folder:
        staged = {kind: Path(folder) / path.name for kind, path in finals.items()}
        yield staged
        for kind, path in finals.items():
            if path.is_dir() and not staged[kind].is_dir():
                raise IsADirectoryError(f"{path} is a folder, and is left as it is")
        if not last.is_dir():
            last.unlink(missing_ok=True)
        for kind, path in finals.items():
            if os.path.lexists(path) and (path.is_dir() or staged[kind].is_dir()):
                path.rename(Path(folder) / f"replaced-{path.name}")
            os.replace(staged[kind], path)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def rows(path: Path) -> list[Any]:
    """The rows of a JSON Lines file that grows as work goes on; none where there is no file.

    A last line that was cut short, because the process died writing it, is removed from the file.

    Raises:
        ValueError: the file holds something else, and is left as it is.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    end = text.rfind(b"\n") + 1
    try:
        if text[end : end + 1] not in (b"", b"{"):
            raise ValueError("its last line is no row")
        if text and not end and _is_json(text):
            raise ValueError("its only line has no end")
        found = [json.loads(line) for line in text[:end].splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is no file of rows of JSON: {error}") from None
    if end < len(text):
        os.truncate(path, end)
    return found
