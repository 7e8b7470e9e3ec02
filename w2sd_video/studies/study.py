"""Runs a study, and writes its figure, table, outcome and page.

A study is a file in this folder with a docstring (the page's text, whose first line is the title), PAPER (the parts of
the paper that it repeats) and `run(run: Run) -> Result`. All randomness comes from the run's seed, and torch has one
thread, so the same command on the same machine writes the same table to the last digit.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..errors import Refused, did_you_mean
from ..figures import save
from ..runs import naming, whole
from ..statistics import half_width
from ..threads import torch_threads
from . import STUDIES
from .figures import LOOK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUICK = "With --quick, which shows only that the study runs; its numbers and sentences mean nothing."
PICTURE = 150_000  # the most bytes of a page's picture
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """The settings of a study's run.

    Args:
        seed: the seed of everything random.
        quick: whether to use a small size, which tests that the study runs but has no meaningful results.
        cache: a folder for trained networks and rows of videos. None: they are not stored.
        progress: called with the current work and the share of it that is done.
        prompts: how many prompts, the first of a fixed list, for a study that samples videos. None: the study's number.
        workers: how many processes sample in parallel, which does not change the samples. 0: nothing is sampled, and
            rows that `rows` lack are left out.
        rows: files with rows of videos from earlier runs, which are not sampled again.
    """

    seed: int = 0
    quick: bool = False
    cache: Path | None = None
    progress: Callable[[str, float], None] = lambda what, share: None
    prompts: int | None = None
    workers: int = 1
    rows: Sequence[Path] = ()

    @property
    def steps(self) -> int:
        """The number of steps T, 50 as in the paper; fewer if `quick`."""
        return 6 if self.quick else 50

    def kept(self, name: str, recipe: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
        """Tensors that take long to compute, from the cache if recipe and code are unchanged.

        Args:
            name: the start of the file's name.
            recipe: everything that decides the tensors.
            make: computes them.
        """
        code = inspect.getsource(import_module(f"{__package__}.networks"))
        text = json.dumps([dict(recipe), self.seed, self.quick, code], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = None if self.cache is None else self.cache / f"{name}-{key}.safetensors"
        if path is not None and path.exists():
            return load_file(path)
        tensors = {n: t.contiguous() for n, t in make().items()}
        if path is not None:
            with whole({"tensors": path}) as staged:
                save_file(tensors, staged["tensors"])
        return tensors


@dataclass(frozen=True)
class Result:
    """The results of a study.

    Args:
        rows: the rows of the CSV.
        outcome: one or two sentences, with the numbers.
        agrees: whether the outcome has the paper's direction, with intervals that exclude zero; in words if it does
            only in part.
        figure: for the page.
        caption: the figure's caption, with n.
        tables: for the page, by heading, rows of texts, the first of which is the header.
        raw: the rows of all sampled videos as compressed JSON Lines, for a study that samples videos.
    """

    rows: Sequence[Mapping[str, Any]]
    outcome: str
    agrees: str
    figure: Figure
    caption: str
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    raw: bytes = b""


@dataclass(frozen=True)
class Mean:
    """A mean over units with its 95 % interval, by Student's t."""

    mean: float
    half: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Mean:
        values = np.asarray(values, float)
        n = len(values)
        half = float(half_width(values.var(ddof=1) / n, n - 1)) if n > 1 else float("nan")
        return cls(float(values.mean()), half, n)

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half else 0

    def text(self, digits: int = 3, sign: str = "") -> str:
        return f"{self.mean:{sign}.{digits}f} ± {self.half:.{digits}f}"

    def __str__(self) -> str:
        return self.text()


def perform(name: str, run: Run) -> Result:
    """Runs a study.

    Raises:
        Refused: there is no such study, the seed is out of range, or the study does not sample videos and gets an
            option for sampling.
    """
    if name not in STUDIES:
        raise Refused("NAME", name, did_you_mean(name, ["ls", *STUDIES]))
    if isinstance(run.seed, bool) or not isinstance(run.seed, int) or not 0 <= run.seed < 2**31:
        raise Refused("seed", run.seed, "give a whole number from 0 to 2147483647")
    module = import_module(f"{__package__}.{name}")
    of_videos = {"--prompts": run.prompts, "--workers": run.workers - 1, "--rows": run.rows}
    if not hasattr(module, "PROMPTS") and (options := [option for option, value in of_videos.items() if value]):
        raise Refused("NAME", name, f"{options[0]} is for studies that sample videos, and this one samples none")
    from matplotlib import rc_context

    with torch_threads(1), rc_context(LOOK):
        result: Result = module.run(run)
    return replace(result, outcome=f"{QUICK} {result.outcome}") if run.quick else result


def write(name: str, result: Result, folder: Path) -> list[Path]:
    """Writes NAME.csv, NAME.png, NAME.svg and NAME.txt into a folder; on an error, none of them."""
    paths = {kind: folder / f"{name}.{kind}" for kind in ("csv", "png", "svg", "txt")}
    with whole(paths) as staged:
        _write_csv(result.rows, staged["csv"])
        _draw(result.figure, staged["png"], staged["svg"])
        staged["txt"].write_text(f"{result.outcome}\n{result.agrees}\n", encoding="utf-8")
    return list(paths.values())


def write_page(name: str, result: Result, run: Run, folder: Path) -> list[Path]:
    """Writes NAME.md with its picture, CSV and rows of videos into a folder of the site; on an error, none of them."""
    paths = {kind: folder / f"{name}.{kind}" for kind in ("png", "csv", "md")}
    if result.raw:
        paths["rows"] = rows_beside(name, folder)
    with whole(paths) as staged:
        _write_csv(result.rows, staged["csv"])
        _draw(result.figure, staged["png"], most=PICTURE)
        staged["md"].write_text(page(name, result, run), encoding="utf-8")
        if result.raw:
            staged["rows"].write_bytes(result.raw)
    return list(paths.values())


def rows_beside(name: str, folder: Path) -> Path:
    """The path of a study's rows of videos, beside its page."""
    return folder / f"{name}.videos.jsonl.xz"


def page(name: str, result: Result, run: Run) -> str:
    """A study's page, in Markdown."""
    module = import_module(f"{__package__}.{name}")
    title, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
    command = f"w2sd-video study {name}" + f" --seed {run.seed}" * (run.seed != 0)
    command += f" --prompts {run.prompts}" if run.prompts else ""
    lines = [f"# {title.rstrip('.')}", "", f"Of the paper: {module.PAPER}.", ""]
    lines += [f"**{result.outcome}**", "", result.agrees, ""]
    lines += [f"![{result.caption}]({name}.png)", "", f"*{result.caption}*", "", text.strip(), ""]
    for heading, rows in result.tables.items():
        lines += [f"## {heading}", "", *_table(rows), ""]
    lines += [
        "## Again",
        "",
        f"All numbers: [{name}.csv]({name}.csv). `{command}` makes them and the figure again; with"
        " `--page docs/studies`, this page.",
    ]
    if result.raw:
        packed = rows_beside(name, Path()).name
        lines += [
            "",
            f"A line a video: [{packed}]({packed}). With `--page docs/studies` what it holds is not sampled again, as"
            " long as weights, judge and settings are the same; more prompts are added to it.",
        ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with naming(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = [row.get(name, "") for name in names]
            writer.writerow([f"{value:.9g}" if isinstance(value, float) else value for value in values])


def _draw(figure: Figure, *paths: Path, most: float = math.inf) -> None:
    """Saves a figure, with a resolution low enough for files of at most `most` bytes."""
    for path in paths:
        dots = figure.dpi
        with naming(path):
            save(figure, path, dots)
            while path.stat().st_size > most:
                dots *= 0.9
                save(figure, path, dots)
