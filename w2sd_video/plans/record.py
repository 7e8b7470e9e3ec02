"""What of a plan is made: an append-only record of cells in the run's folder, and what the files there say.

    RUN/plan.yaml       the plan, as it was last given
    RUN/run.json        how many threads make a cell, which decides its last digits; and the arms with their keys
    RUN/prompts.json    the plan's prompts, where they are of a suite or of a file
    RUN/record/*.jsonl  a line a cell that was made or failed, a file a process that ran the plan
    RUN/videos/ARM/     the videos of an arm with their sidecars, as `generate` writes them
    RUN/scores/         scores and tables

A cell is known by the SHA-256 of all that decides its frames: settings, weights, versions, threads, prompt and seed. It
is made if the record has a line of it and its files have the sizes and times of the line; or, where the process died
before it wrote the line, if its sidecar says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import read_json
from ..errors import Refused
from ..models.sources import cached, resolve
from ..provenance import file_sha256
from ..runs import Output, check_files, read_sidecar
from ..runs.request import Request
from ..runs.sidecar import unlike
from ..sampling import plugin_version
from ..sampling.records import versions
from ..settings import PICTURES
from .arms import Arm, Cell

RECORD, NOTE, PROMPTS = "record", "run.json", "prompts.json"
MOST_THREADS = 1024
# Of a model's folder, what decides nothing.
UNREAD = (".md", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".webp", ".lock", ".metadata")


@dataclass
class State:
    """What is known of a plan's cells.

    Args:
        complete: the line of each cell that is made, by key.
        failed: the line of each that failed last, by key.
        adopted: lines of those that are made, and that no process wrote down.
    """

    complete: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    adopted: list[dict[str, Any]] = field(default_factory=list)


class Keys:
    """The keys of cells: hashes of all that decides their frames.

    Args:
        threads: how many make a cell, where its device is the CPU.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._weights: dict[str, str] = {}
        self._arms: dict[int, str] = {}

    def of_arm(self, arm: Arm) -> str:
        if arm.key is not None:
            return arm.key
        if id(arm) not in self._arms:
            request = arm.template
            models = {**request.models, **_beside_adapter(request)}
            weights = {role: self.weights(model, role) for role, model in models.items()}
            # Models and pictures count by their content, wherever they lie, and a preset by what it says.
            places = {*models.values(), *(getattr(request, name) for name in PICTURES)}
            said = {name: _placeless(value, places) for name, value in arm.said.items() if name != "preset"}
            decides = [said, weights, versions() | plugin_version(request), self.threads, platform.machine()]
            self._arms[id(arm)] = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self._arms[id(arm)]

    def of(self, cell: Cell) -> str:
        text = f"{self.of_arm(cell.arm)}\n{cell.seed}\n{cell.prompt.text}"
        if cell.arm.refiner:
            text += f"\n{cell.refined}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def weights(self, model: str, role: str) -> str:
        """A hash of a model's files, where it is on this machine; else its name.

        Raises:
            OSError: there is no such path.
        """
        if model not in self._weights:
            source = resolve(model, role, folders=True)
            path = source.path
            if path is None:
                names = [source.inside] if source.inside else ["model_index.json", "config.json"]
                files = [file for name in names if (file := cached(source, None, name))]
                path = (files[0] if source.inside else files[0].parent) if files else None
            self._weights[model] = model if path is None else _contents(path)
        return self._weights[model]


def _placeless(value: Any, places: Collection[Any]) -> Any:
    """A value without the names of files and folders within it."""
    if isinstance(value, Mapping):
        return {name: _placeless(each, places) for name, each in value.items()}
    return "" if isinstance(value, str) and value in places else value


def _beside_adapter(request: Request) -> dict[str, str]:
    """The image encoder of an IP-Adapter, which decides what the adapter is told of its picture."""
    adapter = request.ip_adapter
    if adapter is None:
        return {}
    encoder = adapter.get("image_encoder") or os.path.join(os.path.dirname(adapter["model"]), "image_encoder")
    return {"ip_adapter.image_encoder": encoder} if os.path.isdir(encoder) else {}


def _contents(path: Path) -> str:
    """A hash of a file, or of a folder's files and their names."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.suffix not in UNREAD)
    lines = [f"{file.relative_to(path).as_posix()} {file_sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Folder:
    """The folder of a run."""

    def __init__(self, path: Path):
        self.path = path
        self.videos = path / "videos"
        self.scores = path / "scores"

    def place(self, cell: Cell) -> tuple[Path, str]:
        """The folder and the name of a cell's files."""
        return self.videos / cell.arm.folder, cell.stem

    def lines(self) -> Iterator[dict[str, Any]]:
        """The record's lines. A line that a process is writing, or died writing, has no end and is left out."""
        for file in sorted(path for path in (self.path / RECORD).glob("*.jsonl") if path.is_file()):
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    try:
                        each = json.loads(line)
                    except (ValueError, RecursionError):
                        continue
                    if _is_line(each):
                        yield each

    def threads(self) -> int | None:
        """The threads that the run was begun with; None where it was not.

        Raises:
            Refused: its note is damaged, or not of a run.
            OSError: it cannot be read.
        """
        note = self.path / NOTE
        if not note.exists():
            return None
        begun = read_json(note)
        threads = begun.get("threads") if isinstance(begun, dict) else None
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise Refused("RUN", str(self.path), f"{note} is not what `w2sd-video run` writes; give another folder")
        return threads

    def state(self, cells: Iterable[tuple[str, Cell]], formats: Sequence[str] = ()) -> State:
        """What is known of cells, each with its key.

        Args:
            formats: in which a cell has to be there, of `runs.FORMATS`, to count as made; it may be there in others.
        """
        state = State()
        last: dict[str, dict[str, Any]] = {}
        ends: dict[str, list[str]] = {}  # of the files of an arm's cells, behind their stem
        for line in self.lines():
            key = line["cell"]
            if "error" not in line or "error" in last.get(key, line):
                last[key] = line
        for key, cell in cells:
            known = last.get(key)
            if (arm := cell.arm.folder) not in ends:
                paths = Output(cell.arm.template, self.videos, formats, "").paths
                ends[arm] = [path.name for kind, path in paths.items() if kind in formats]
            if known and "error" not in known and self._there(cell, known):
                if _has(known, cell.stem, ends[arm]):
                    state.complete[key] = known
            # Made once more, by a process that died before its line, or whose clock was behind that of an earlier one.
            elif (adopted := self._adopted(key, cell)) and _has(adopted, cell.stem, ends[arm]):
                state.complete[key] = adopted
                state.adopted.append(adopted)
            elif known and "error" in known:
                state.failed[key] = known
        return state

    def _there(self, cell: Cell, line: Mapping[str, Any]) -> bool:
        """Whether a cell's files are those of its line, by size and time; of another time, by their hashes."""
        folder, stem = self.place(cell)
        changed = False
        if f"{stem}.json" not in line["files"]:
            return False
        for name, (size, modified) in line["files"].items():
            try:
                now = os.stat(folder / name)
            except OSError:
                return False
            if now.st_size != size:
                return False
            changed = changed or now.st_mtime_ns != modified
        if not changed:
            return True
        try:
            _, record = read_sidecar(folder / f"{stem}.json")
        except (OSError, ValueError):
            return False
        # The sidecar may be of other settings, by another plan that has this folder, and all files of the same sizes.
        return record.get("cell") == line["cell"] and not check_files(folder, record, hashed=True)

    def _adopted(self, key: str, cell: Cell) -> dict[str, Any] | None:
        """The line of a cell that was made by a process which died before it wrote one."""
        folder, stem = self.place(cell)
        path = folder / f"{stem}.json"
        if not path.exists():
            return None
        try:
            request, record = read_sidecar(path)
        except (OSError, ValueError):
            return None
        if record.get("cell") != key or unlike(request, cell.request()) or check_files(folder, record):
            return None
        return line_of(key, cell, folder, record)


def _has(line: Mapping[str, Any], stem: str, ends: Iterable[str]) -> bool:
    """Whether a cell was made in all formats whose files, or folders, end so."""
    names = {name.partition("/")[0] for name in line["files"]} if ends else set()
    return all(f"{stem}{end}" in names for end in ends)


def _is_line(line: Any) -> bool:
    """Whether a row of the record is one that `line_of`, or a failure, writes; disks and editors damage rows."""
    if not isinstance(line, dict) or not isinstance(line.get("cell"), str):
        return False
    if "error" in line:
        return isinstance(line["error"], str)
    numbers = [
        line.get("evaluations"),
        *(0 if line.get(name) is None else line[name] for name in ("seconds", "memory")),
    ]
    files = line.get("files")
    for name, numbers_of in files.items() if isinstance(files, dict) else ():
        if (
            name in ("", "..")
            or set(name) & {"/", "\\", "\0"}
            or not isinstance(numbers_of, list)
            or len(numbers_of) != 2
        ):
            return False
        numbers += numbers_of
    whole = all(isinstance(each, (int, float)) and math.isfinite(each) and each >= 0 for each in numbers)
    return isinstance(files, dict) and bool(files) and whole


def line_of(key: str, cell: Cell, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's line of a cell that was made, by its sidecar."""
    names = [*record.get("hashes", {}), f"{cell.stem}.json"]
    stats = {name: os.stat(folder / name) for name in names}
    return {
        "cell": key,
        "arm": cell.arm.name,
        "prompt": cell.prompt.id,
        "seed": cell.seed,
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "seconds": record.get("seconds"),
        "evaluations": sum(video["evaluations"]["total"] for video in record["videos"].values()),
    }


__all__ = ["Folder", "Keys", "State", "line_of"]
