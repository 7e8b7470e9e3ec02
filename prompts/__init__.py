"""Prompt suites: prompts with ids and tags, from this package, plug-ins, published benchmarks, or the user's own files.

This folder holds the package's suites, which `manifest.yaml` describes. Suites of others are not copied: VBench's is
read from its installed package, the rest from their published files, in the formats of `files`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import plugins
from ..documents import read_yaml
from ..errors import Refused, did_you_mean
from . import files

__all__ = ["PUBLISHED", "Prompt", "Suite", "load", "names", "sample", "select", "taken"]

FOLDER = Path(__file__).parent
VBENCH = "vbench"
PUBLISHED = {  # suites of others, and the files that `load` reads
    "DrawBench": "drawbench.csv, of Imagen's authors (columns Prompts and Category)",
    "GenEval": "prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval",
    "T2V-CompBench": "the folder prompts/ of github.com/KaiyueSun98/T2V-CompBench",
    "Pick-a-Pic": "a .parquet of huggingface.co/datasets/yuvalkirstain/pickapic_v1, or the .arrow of `datasets`",
}
LONGEST_TAG = 200


@dataclass(frozen=True)
class Prompt:
    """A prompt of a suite.

    Args:
        id: its id in the suite, or else the first 16 digits of its text's SHA-256.
        text: the prompt.
        tags: values by the tag's name, such as `{"camera": ("static",)}`.
    """

    id: str
    text: str
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The prompt as a row of a JSON suite, which `load` reads."""
        return {"id": self.id, "prompt": self.text, **{name: list(values) for name, values in self.tags.items()}}


@dataclass(frozen=True)
class Suite:
    """Prompts with distinct texts.

    Args:
        name: the name or path under which `load` finds it.
        source: its author, or its file.
        licence: the licence that its owner states; empty if unknown.
        purpose: its purpose; empty if unknown.
        rows: how many entries the file has; entries with the same text are one prompt.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    rows: int
    licence: str = ""
    purpose: str = ""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the texts in order, each with a line end."""
        return hashlib.sha256("".join(f"{prompt.text}\n" for prompt in self.prompts).encode()).hexdigest()

    def tags(self) -> dict[str, list[str]]:
        """The names of all tags, each with its values, in the order of the prompts."""
        tags: dict[str, dict[str, None]] = {}
        for prompt in self.prompts:
            for name, values in prompt.tags.items():
                tags.setdefault(name, {}).update(dict.fromkeys(values))
        return {name: list(values) for name, values in tags.items()}


@cache
def _manifest() -> dict[str, dict[str, Any]]:
    """The entries of `manifest.yaml`, by suite."""
    return read_yaml(FOLDER / "manifest.yaml")


def names() -> list[str]:
    """The suites of this package and of plug-ins, and VBench's if its package is installed."""
    own = list(_manifest())
    return [*own, *plugins.names("prompts", [*own, VBENCH]), *([VBENCH] if _vbench() else [])]


def taken() -> list[Refused]:
    """The errors of plug-ins whose suite has the name of one that is built in."""
    return plugins.taken("prompts", [*_manifest(), VBENCH])


def load(reference: str | os.PathLike[str]) -> Suite:
    """Loads a suite by name, or from a file.

    Args:
        reference: one of `names()`; or the path of a text file with one prompt per line, or of a CSV, JSON, JSON Lines,
            YAML, Parquet or Arrow file with a column of prompts, an optional `id`, and tags in other columns; or a
            folder of text files.

    Raises:
        Refused: there is no such suite, or the file cannot be read or is no suite.
    """
    name, manifest = os.fspath(reference), _manifest()
    own = [*manifest, VBENCH]
    if name in manifest:
        about = manifest[name]
        return replace(
            _read(name, FOLDER / about["file"]), **{key: about[key] for key in ("source", "licence", "purpose")}
        )
    if name == VBENCH:
        path = _vbench()
        if path is None:
            accepted = (
                "VBench's package is not installed: give its VBench_full_info.json, or pip install --no-deps vbench"
            )
            raise Refused("prompts", name, accepted)
        purpose = "VBench's prompts, by dimension"
        return replace(_read(name, path), source="VBench (Vchitect), installed", licence="Apache-2.0", purpose=purpose)
    path = Path(os.path.expanduser(name))
    if _is_there(path):
        return _read(name, path)
    if os.path.dirname(name) or path.suffix or not plugins.NAME.fullmatch(name):
        raise Refused("prompts", name, "there is no such file")
    plugin = plugins.find("prompts", name, own, more=["a file of prompts"])
    assert plugin
    return replace(_read(name, Path(plugin.value)), source=plugin.source)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL character
        return False


def _vbench() -> Path | None:
    """The file of prompts in the installed `vbench` package, found without importing it; None if there is none."""
    spec = find_spec(VBENCH)
    candidates = [Path(folder) / "VBench_full_info.json" for folder in (spec and spec.submodule_search_locations) or ()]
    return next((path for path in candidates if path.is_file()), None)


def _read(name: str, path: Path) -> Suite:
    rows = files.rows(path)
    if not rows:
        raise Refused("prompts", name, "it holds no prompt")
    prompts: dict[str, Prompt] = {}
    taken: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        text = row.pop("prompt")
        try:
            digits = hashlib.sha256(text.encode()).hexdigest()[:16]
        except UnicodeEncodeError:
            raise Refused("prompts", name, f"entry {number} is not Unicode: {text!r}") from None
        id_ = row.pop("id", None)
        if id_ is not None and (isinstance(id_, bool) or not isinstance(id_, (str, int)) or not str(id_).strip()):
            raise Refused("prompts", name, f"entry {number} has the id {id_!r}: give a text or a whole number")
        known = prompts.get(text)
        if known and id_ is not None and str(id_) != known.id:
            raise Refused("prompts", name, f"entries {known.id!r} and {id_!r} have the same prompt: give it once")
        prompt = Prompt(str(id_) if id_ is not None else known.id if known else digits, text, _tags(row))
        if taken.setdefault(prompt.id, text) != text:
            raise Refused("prompts", name, f"two prompts have the id {prompt.id!r}: give each its own")
        prompts[text] = replace(prompt, tags=_joined(known.tags, prompt.tags)) if known else prompt
    return Suite(name, tuple(prompts.values()), str(path), len(rows))


def _tags(row: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
    """The columns that serve as tags: short texts and numbers, or lists of them; not bounding boxes, for example."""
    tags = {}
    for name, value in row.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words = [str(each) for each in values if isinstance(each, (str, int, float)) and len(str(each)) <= LONGEST_TAG]
        if words and len(words) == len(values):
            tags[str(name)] = tuple(dict.fromkeys(words))
    return tags


def _joined(first: Mapping[str, tuple[str, ...]], second: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(dict.fromkeys((*first.get(name, ()), *second.get(name, ())))) for name in {**first, **second}}


def select(suite: Suite, wanted: Iterable[str]) -> Suite:
    """The prompts that have every wanted tag.

    Args:
        wanted: tags as `NAME=VALUE`, or a value alone, of any tag.

    Raises:
        Refused: no prompt has all of them.
    """
    prompts: Collection[Prompt] = suite.prompts
    for each in wanted:
        name, equals, value = each.partition("=")
        if equals:
            prompts = [prompt for prompt in prompts if value in prompt.tags.get(name, ())]
        else:
            prompts = [prompt for prompt in prompts if any(each in values for values in prompt.tags.values())]
        if not prompts:
            has = suite.tags()
            known = [f"{key}={one}" for key, values in has.items() for one in values] if len(has) < 20 else list(has)
            accepted = f"no prompt of {suite.name} has it with the other tags; {did_you_mean(each, known[:60])}"
            raise Refused("tag", each, accepted if known else f"{suite.name} has no tags")
    return replace(suite, prompts=tuple(prompts))


def sample(suite: Suite, count: int, seed: int = 0) -> Suite:
    """`count` prompts drawn at random, in the suite's order.

    A draw depends only on the seed and the texts, and contains every smaller draw.

    Raises:
        Refused: the suite has fewer prompts.
    """
    if not 1 <= count <= (most := len(suite.prompts)):
        few = f"{suite.name} has {most} prompt{'s' * (most != 1)}"
        raise Refused("n", count, f"{few}: give {'a number from 1 to ' * (most > 1)}{most}")
    by_hash = sorted(suite.prompts, key=lambda prompt: hashlib.sha256(f"{seed} {prompt.text}".encode()).digest())
    chosen = {prompt.text for prompt in by_hash[:count]}
    return replace(suite, prompts=tuple(prompt for prompt in suite.prompts if prompt.text in chosen))
