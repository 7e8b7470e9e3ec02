"""How the scripts `record_*.py` write what they record; it needs no package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write_golden(path: Path, packages: Iterable[str], **golden: Any) -> None:
    """Writes a JSON file, a key a line, of the packages' versions under "from" and of what they computed."""
    lines = {"from": {name: version(name) for name in packages}, **golden}.items()
    path.parent.mkdir(exist_ok=True)
    text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in lines)
    path.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
