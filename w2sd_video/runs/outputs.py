"""The files of each request, whether they exist already, and which names other processes are writing."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..settings import VARIANTS, Variant
from .files import alive, hidden, hidden_folders, locked, naming
from .request import Request
from .sidecar import check_files, read_sidecar, unlike

# The output formats of a request: a video, a GIF, its frames, and a plot of what the method did.
FORMATS = ("mp4", "gif", "png", "differences")
# The variant of the request that makes each single video of a comparison.
SINGLES: dict[str, Variant] = {"weak": "weak", "strong": "plain", "w2sd": "w2sd"}
CLAIMS = "claims.json"


@dataclass(frozen=True)
class Output:
    """One request's files: in `folder`, in `formats` (of `FORMATS`, for videos; an image is a PNG), named `stem`."""

    request: Request
    folder: Path
    formats: Sequence[str]
    stem: str

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The files by format; `json` is the sidecar and comes last, `sheet` is a comparison's contact sheet."""
        named = {"png": "-frames", "differences": "-differences.svg"}
        formats = self.formats if self.request.video else ["png", *(f for f in self.formats if f == "differences")]
        ends = {kind: named.get(kind, f".{kind}") for kind in formats}
        if not self.request.video:
            ends["png"] = ".png"
        if self.request.video and self.request.variant == "compare":
            ends["sheet"] = ".png"
        return {kind: self.folder / f"{self.stem}{end}" for kind, end in (ends | {"json": ".json"}).items()}

    @cached_property
    def singles(self) -> dict[str, Output]:
        """For a comparison, the output of each single video, in a folder of its method; else empty."""
        if self.request.variant != "compare":
            return {}
        before, _, after = self.stem.rpartition("-compare")
        singles = {}
        for variant in VARIANTS["compare"]:
            request = replace(self.request, variant=SINGLES[variant])
            folder = self.folder / (request.method if variant == "w2sd" else request.variant)
            end = "" if variant == "w2sd" else f"-{request.variant}"
            formats = [each for each in self.formats if each != "differences" or variant == "w2sd"]
            singles[variant] = Output(request, folder, formats, f"{before}{end}{after}")
        return singles

    def sidecar(self) -> tuple[Request, dict[str, Any]] | None:
        """The request and the content of the existing sidecar; None if there is none.

        Raises:
            OSError, ValueError: the file of that name is no sidecar.
        """
        path = self.paths["json"]
        if not os.path.lexists(path):
            return None
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would never end
            raise ValueError(f"{path} is no file")
        return read_sidecar(path)

    def state(self, hashed: bool = False) -> tuple[str, str]:
        """Whether the output exists already or can be written, and what is in the way, in words.

        The state is "made" if this very request exists in all its formats; "taken" if another file has one of its
        names; "blocked" if a folder has one, which is never replaced; and else "new".

        Args:
            hashed: compare the files with the hashes in the sidecar, not only their sizes and times.
        """
        for kind, path in self.paths.items():
            if path.is_dir() and not (kind == "png" and self.request.video):
                return "blocked", f"{path} is a folder"
        for single in self.singles.values():
            if os.path.lexists(single.folder) and not single.folder.is_dir():
                return "blocked", f"{single.folder} is no folder"
            if single.folder.is_dir() and single.folder.stat().st_dev != self.folder.stat().st_dev:
                return "blocked", f"{single.folder} is on another disk than {self.folder}"
        there = [path for path in self.paths.values() if os.path.lexists(path)]
        state, reason, singles = self._compared(there, hashed) if there else ("new", "", True)
        for single in self.singles.values() if singles and not reason else ():
            of, reason = single.state(hashed)
            if reason:
                return of, reason
            state = "new" if of == "new" else state
        return state, reason

    def _compared(self, there: Sequence[Path], hashed: bool) -> tuple[str, str, bool]:
        """The state and the reason by the existing sidecar; and whether single videos are still to be looked at."""
        try:
            held = self.sidecar()
        except (OSError, ValueError) as error:
            return "taken", f"{there[0]} already exists, and {error}", True
        if held is None:
            return "taken", f"{there[0]} already exists, without a sidecar that says how it was made", True
        request, record = held
        if fields := unlike(request, self.request):
            return "taken", f"{there[0]} already exists, made with other settings: {', '.join(fields)}", True
        wrong = check_files(self.folder, record, hashed, [path.name for path in self.paths.values()])
        empty = {path for path in wrong if not path.exists() or (path.is_file() and not path.stat().st_size)}
        for path in wrong.keys() - empty:
            reason = f"{path} {wrong[path]}: it is damaged or was replaced; delete it, and it is made again"
            return "taken", reason, True
        complete = len(there) == len(self.paths) and not empty
        return ("made" if complete else "new"), "", not complete or "format" in record

    def widened(self) -> Output:
        """A copy with the formats of the existing sidecar added, which are made again together with its own."""
        held = self.sidecar() if self.paths["json"].exists() else None
        formats = held[1].get("formats") if held else None
        also = formats if isinstance(formats, list) else []
        return replace(self, formats=[kind for kind in FORMATS if kind in self.formats or kind in also])

    def stale(self) -> list[Path]:
        """Files of the existing sidecar that this output will not replace."""
        try:
            held = self.sidecar()
        except (OSError, ValueError):
            return []
        listed = held[1].get("files") if held else None
        every = replace(self, formats=FORMATS).paths.values()
        listed = [path for path in every if path.name in listed] if isinstance(listed, list) else []
        return [path for path in listed if path not in self.paths.values()]


def place(requests: Sequence[Request], folder: Path, formats: Sequence[str]) -> list[Output]:
    """Names each request's output, so that no two different requests have the same name.

    A request gets its short name, unless an earlier one of `requests`, or a video of another prompt in the folder, has
    that name; then it gets its long name. The same requests get the same names again.
    """
    placed: dict[str, Request] = {}
    outputs = []
    for request in requests:
        short, long = (Output(request, folder, formats, stem) for stem in (request.stem, request.long_stem))
        holders = [placed.get(each.stem) or _holder(each) for each in (short, long)]
        same = [holder is not None and not unlike(holder, request) for holder in holders]
        other = holders[0] is not None and (short.stem in placed or holders[0].prompt != request.prompt)
        output = long if not same[0] and (same[1] or other) else short
        placed.setdefault(output.stem, request)
        outputs.append(output)
    return outputs


def _holder(output: Output) -> Request | None:
    """The request of the sidecar that has an output's name."""
    try:
        held = output.sidecar()
    except (OSError, ValueError):
        return None
    return held[0] if held else None


@contextmanager
def claimed(folder: Path, outputs: Sequence[Output]) -> Iterator[None]:
    """Reserves the names of outputs in a folder against other processes that would write other outputs under them.

    Processes that make the very same output do not exclude each other: the first to finish writes it.

    Raises:
        FileExistsError: another process holds one of the names.
    """
    mine = {}
    for output in outputs:
        text = json.dumps(asdict(output.request), sort_keys=True)
        mine[output.stem] = hashlib.sha256(text.encode()).hexdigest()
    with hidden(folder) as own:
        with locked(folder):
            for other in hidden_folders(folder):
                if other.name == own.name or not (theirs := _claims(other)) or not alive(other):
                    continue
                for name in mine.keys() & theirs.keys():
                    if mine[name] != theirs[name]:
                        process = other.name.split("-")[1]
                        raise FileExistsError(
                            f"{folder / name} is being made by process {process} with other settings; wait for its end,"
                            " or give another --out"
                        )
            with naming(folder):
                (own / CLAIMS).write_text(json.dumps(mine), encoding="utf-8")
        yield


def _claims(folder: Path) -> Mapping[str, str]:
    try:
        return dict(json.loads((folder / CLAIMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
