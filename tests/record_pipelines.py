"""Brings `w2sd_video/hook/pipelines.json` up to the installed diffusers: `python tests/record_pipelines.py`.

New pipeline classes are added as untested. Of those that are there, the hash of `__call__` is brought up to date, and
those that changed are printed: read what changed, and run their tests, before you commit the file.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import diffusers.pipelines
from diffusers import DiffusionPipeline

from w2sd_video.hook.attach import DENOISERS
from w2sd_video.hook.form import TABLE, source

FILE = Path(__file__).parents[1] / "w2sd_video" / "hook" / TABLE
UNTESTED = "no test holds it to Algorithm 1 yet; with `form`, a `w2sd_video.hook.Form`, it is tried"


def walk() -> dict[str, type[DiffusionPipeline]]:
    """Every pipeline class of the installed diffusers with a `__call__` and a denoiser of its own, by name."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(diffusers.pipelines.__path__, "diffusers.pipelines."):
            try:
                names = vars(importlib.import_module(module.name))
            except (ImportError, RuntimeError):  # it needs a package that is not installed
                continue
            for cls in names.values():
                if not (isinstance(cls, type) and issubclass(cls, DiffusionPipeline) and "__call__" in vars(cls)):
                    continue
                if cls.__module__.startswith("diffusers.") and {*DENOISERS} & {*inspect.signature(cls).parameters}:
                    found[cls.__name__] = cls
    return dict(sorted(found.items()))


def changed(known: dict[str, Any]) -> dict[str, str]:
    """What is not as the table says: by class, "new", "gone" or "changed"."""
    classes = walk()
    differs = {name: "new" for name in classes if name not in known}
    differs |= {name: "gone" for name in known if name not in classes}
    return differs | {name: "changed" for name in classes if name in known and source(classes[name]) != known[name]}


if __name__ == "__main__":
    recorded = json.loads(FILE.read_text(encoding="utf-8"))
    rows, classes = recorded["pipelines"], walk()
    for name, how in changed({name: row["source"] for name, row in rows.items()}).items():
        print(f"{how}: {name}")
    for name, cls in classes.items():
        rows.setdefault(name, {"refused": UNTESTED})["source"] = source(cls)
    kept = {name: rows[name] for name in classes}
    text = json.dumps({"diffusers": diffusers.__version__, "pipelines": kept}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")
