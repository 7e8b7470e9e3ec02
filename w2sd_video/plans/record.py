"""Which cells of a plan are complete: an append-only record in the run's folder, checked against the files there.

    RUN/plan.yaml       the plan of the last run
    RUN/run.json        the number of threads per cell, which changes its last digits, and the arms with their keys
    RUN/prompts.json    the plan's prompts, unless the plan itself lists them
    RUN/record/*.jsonl  one file per process that ran the plan, one line per cell that it completed or that failed
    RUN/videos/ARM/     the videos of an arm with their sidecars, as `generate` writes them
    RUN/scores/         scores and tables

The key of a cell is the SHA-256 of everything that decides its frames: settings, weights, versions, threads, prompt and
seed. A cell is complete if the record has a line with its key, and its files have the sizes and times in that line. If
the process died before it wrote the line, a sidecar with the cell's key counts in its place.
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
# Suffixes of files in a model's folder that do not affect its output.
UNREAD = (".md", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".webp", ".lock", ".metadata")


@dataclass
class State:
    """The state of a plan's cells.

    Args:
        complete: the record's line of each complete cell, by key.
        failed: the line of each cell whose last attempt failed, by key.
        adopted: lines of complete cells that the record lacks, derived from their sidecars.
    """

    complete: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    adopted: list[dict[str, Any]] = field(default_factory=list)


class Keys:
    """The keys of cells: hashes of all that decides their frames.

    Args:
        threads: how many compute a cell on the CPU.
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
            # Models and pictures count by content, not by path, and a preset by its settings, not by name.
            places = {*models.values(), *(getattr(request, name) for name in PICTURES)}
            said = {name: _placeless(value, places) for name, value in arm.settings.items() if name != "preset"}
            decides = [said, weights, versions() | plugin_version(request), self.threads, platform.machine()]
            self._arms[id(arm)] = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self._arms[id(arm)]

    def of(self, cell: Cell) -> str:
        text = f"{self.of_arm(cell.arm)}\n{cell.seed}\n{cell.prompt.text}"
        if cell.arm.refiner:
            text += f"\n{cell.refined}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def weights(self, model: str, role: str) -> str:
        """A hash of a model's files if it is on this machine, else its name.

        Raises:
            OSError: the model is a path that does not exist.
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
    """The value with each text in `places` replaced by an empty one."""
    if isinstance(value, Mapping):
        return {name: _placeless(each, places) for name, each in value.items()}
    return "" if isinstance(value, str) and value in places else value


def _beside_adapter(request: Request) -> dict[str, str]:
    """The folder of an IP-Adapter's image encoder, which affects the frames as the adapter's own weights do."""
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
    """The folder of a run.

    Raises:
        Refused: it is no path.
    """

    def __init__(self, path: str | Path):
        if not isinstance(path, (str, Path)) or not str(path):
            raise Refused("path", path, "give the folder of a run")
        self.path = Path(path)
        self.videos = self.path / "videos"

    def place(self, cell: Cell) -> tuple[Path, str]:
        """The folder of a cell's files, and their name without suffix."""
        return self.videos / cell.arm.folder, cell.stem

    def lines(self) -> Iterator[dict[str, Any]]:
        """The record's lines. A line without a line end, which a process is writing or died writing, is skipped."""
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
        """The number of threads with which the run was started; None if it was not started yet.

        Raises:
            Refused: `run.json` is damaged, or not a run's.
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
        """The state of cells.

        Args:
            cells: each cell with its key.
            formats: the formats of `runs.FORMATS` in which a complete cell has to exist; others may exist besides.
        """
        state = State()
        last: dict[str, dict[str, Any]] = {}
        ends: dict[str, list[str]] = {}  # by arm, the endings that follow the stem in the names of a cell's files
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
            # Generated again by a process that died before it wrote the line, or whose clock ran behind.
            elif (adopted := self._adopted(key, cell)) and _has(adopted, cell.stem, ends[arm]):
                state.complete[key] = adopted
                state.adopted.append(adopted)
            elif known and "error" in known:
                state.failed[key] = known
        return state

    def _there(self, cell: Cell, line: Mapping[str, Any]) -> bool:
        """Whether a cell's files match its line: by size and time, or by hash if a time has changed."""
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
        # Another plan may have replaced the files in this folder by files of the same sizes.
        return record.get("cell") == line["cell"] and not check_files(folder, record, hashed=True)

    def _adopted(self, key: str, cell: Cell) -> dict[str, Any] | None:
        """The line of a cell whose process died before it wrote one, from the sidecar; None if it is not complete."""
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
    """Whether a line lists, for each of `ends`, the file or folder whose name is the stem with that ending."""
    names = {name.partition("/")[0] for name in line["files"]} if ends else set()
    return all(f"{stem}{end}" in names for end in ends)


def _is_line(line: Any) -> bool:
    """Whether a line has the fields of `line_of` or of a failure; disks and editors can damage lines."""
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
    """The record's line of a complete cell, from its sidecar's record."""
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
