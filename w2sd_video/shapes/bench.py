"""Measures the shipped pairs, each as its users run it, by its preset: many samples a row, from the same prompts and
seeds, scored without a network where that can be.

The rows are the paper's (weak, strong, W2SD) and the baselines that a sceptic asks for. With equal weights a reflection
is to first order a stronger guidance, by the difference of the arms' (where they have none, here by 2); where the arms
differ in a scale, it is the strong one's at 2 s - w; and it costs more network evaluations, which plain sampling could
spend on more steps, or on three videos of which the judge keeps the best. Guidance tuned on other prompts is the rival
that counts: see `tuning`. A last row scores the data: what perfect is. The other methods have rows too.
"""

from __future__ import annotations

import json
import lzma
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .. import presets
from ..errors import ArgumentError
from ..runs import VARIANTS, Request, rows, whole, writable
from ..sampling import load, sample
from .pairs import sample_of, score

LORA = -1.5  # the paper's scale of LoRAs in the weak arm
TRIES = 3  # of the row in which the judge chooses
TRIED = 1_000_000  # between the seeds of one sample's tries
TOGETHER = 4  # samples that a process makes before it reports


@dataclass(frozen=True)
class Row:
    """A row of a pair's table.

    Args:
        label: what it is called in the table.
        says: what a request of the pair's preset says beside.
        tries: from so many seeds a sample is made, and the judge keeps the best.
    """

    label: str
    says: dict[str, Any] = field(default_factory=dict)
    tries: int = 1


PLAIN: dict[str, Any] = {"variant": "plain"}
OTHERS = {
    "s2wd": Row("S2WD", {"method": "s2wd"}),
    "z-sampling": Row("Z-Sampling", {"method": "z_sampling"}),
    "re-sampling": Row("Re-Sampling", {"method": "re_sampling"}),
    "advanced-re-sampling": Row("Advanced Re-Sampling", {"method": "advanced_re_sampling"}),
    "auto-guidance": Row("Auto-guidance", {"method": "auto_guidance"}),
    "optimistic": Row("Optimistic W2SD", {"method": "optimistic"}),
    "motion-gain-0": Row("W2SD, motion gain 0", {"options": {"motion_gain": 0.0}}),
    "motion-gain-2": Row("W2SD, motion gain 2", {"options": {"motion_gain": 2.0}}),
}


def preset(pair: str, settings: Mapping[str, Any] | None = None) -> presets.Preset:
    """A pair's preset, with some of its fields set otherwise."""
    return replace(presets.load(pair), **(settings or {}))


def equal_steps(asked: presets.Preset) -> int:
    """The steps of plain sampling that cost as many network evaluations as the preset's reflection, or one more.

    A plain step takes 2 evaluations, a reflected one an evaluation or two more by each arm.
    """
    steps = asked.num_inference_steps
    reflected = steps - 1 if asked.reflection_steps is None else asked.reflection_steps
    arms = (asked.strong_guidance_scale, asked.weak_guidance_scale)
    return math.ceil((2 * steps + reflected * sum(1 if w in (0.0, 1.0) else 2 for w in arms)) / 2)


def methods(asked: presets.Preset) -> dict[str, Row]:
    """The rows of a pair's table by name."""
    final, steps = asked.guidance_scale, equal_steps(asked)
    guided = final + (asked.strong_guidance_scale - asked.weak_guidance_scale or 2.0)
    found = {
        "weak": Row("weak", {"variant": "weak"}),
        "strong": Row("strong", PLAIN),
        "w2sd": Row("W2SD"),
        "guidance": Row(f"strong, guidance {guided:g}", PLAIN | {"guidance_scale": guided}),
        "equal-cost": Row(f"strong, {steps} steps", PLAIN | {"num_inference_steps": steps}),
    }
    scaled = {"adapters": asked.adapters, "controlnet": asked.controlnet, "ip_adapter": asked.ip_adapter}
    for name, each in scaled.items():
        if each:
            of: Any = next(iter(each.values())) if name == "adapters" else each
            alone = partial(dict.fromkeys, each) if name == "adapters" else dict
            raised = 2 * of["strong"] - of["weak"]
            found["raised"] = Row(f"strong at {raised:g}", PLAIN | {name: alone({**of, "strong": raised})})
            if name == "adapters":  # Table 2's scale
                found["w2sd-paper"] = Row(f"W2SD, weak at {LORA:g}", {name: alone({**of, "weak": LORA})})
    found["best-of-3"] = Row(f"strong, best of {TRIES} by the judge", PLAIN, TRIES)
    return found | {"rendered": Row("rendered truth" if asked.textual else "digits of the data")}


@dataclass(frozen=True)
class _Work:
    """Some samples of a row that a process makes."""

    pair: str
    settings: dict[str, Any]
    name: str
    row: Row
    samples: tuple[tuple[int, str], ...]
    shown: Path
    tuning: bool


def run(
    pair: str,
    out: Path,
    wanted: Mapping[str, Row],
    prompts: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str, int], None] = lambda name, done: None,
    processes: int = 1,
    tuning: bool = False,
) -> None:
    """Makes and scores a video or picture of each prompt by each row; appends a line each to `out`, a JSON Lines file.

    What the file has already is not made again. Sample n is made from prompt n and seed n by every row.

    Args:
        pair: one of `PAIRS`.
        wanted: the rows by name.
        settings: fields of the preset, set otherwise.
        progress: is told how many more samples of a row are there.
        processes: how many make samples side by side, each with one thread if they are several.
        tuning: the prompts are those that settings are tuned on.

    Raises:
        Refused: `out` cannot be written to.
        ValueError: the file holds what was made of another pair, or with other settings.
    """
    writable(out.absolute().parent)
    settings = dict(settings or {})
    made = {(row["method"], row["n"]): row for row in read(out, pair) if row.get("tuning", False) == tuning}
    shown = out.with_name(f"{out.stem}-shown")
    work: list[_Work] = []
    for name, row in wanted.items():
        arguments = said(name, row, settings)
        if any(each.get("arguments") != arguments for (method, _), each in made.items() if method == name):
            made_with = f"{out} holds {name} made with other settings than {arguments}"
            raise ArgumentError("out", f"{made_with}; take another file")
        left = [(n, prompt) for n, prompt in enumerate(prompts) if (name, n) not in made]
        progress(name, len(prompts) - len(left))
        for first in range(0, len(left), TOGETHER):
            some = tuple(left[first : first + TOGETHER])
            work.append(_Work(pair, settings, name, row, some, shown, tuning))
    for each, lines in _done(work, processes):
        with open(out, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        progress(each.name, len(lines))


def said(name: str, row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's requests say beside the pair's preset, as its lines hold it."""
    if name == "rendered":
        return {}
    return {**settings, **row.says} | ({"tries": row.tries} if row.tries > 1 else {})


def _done(work: Sequence[_Work], processes: int) -> Iterator[tuple[_Work, list[dict[str, Any]]]]:
    """What is made of each, as it comes."""
    if processes == 1:
        for each in work:
            yield each, _make(each)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin)
    try:
        # Only as many as are worked on are handed out, so that an interruption waits for little.
        left, running = iter(work), {}
        while True:
            for each in left:
                running[pool.submit(_make, each)] = each
                if len(running) > processes:
                    break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """What a process does first."""
    import torch

    from ..terminal import quiet

    quiet()
    torch.set_num_threads(1)


_loaded: dict[str, dict[str, Any]] = {}  # the pipelines of the row that this process made last


def _make(work: _Work) -> list[dict[str, Any]]:
    """The lines of some samples."""
    asked = preset(work.pair, work.settings)
    lines = []
    for n, prompt in work.samples:
        each = sample_of(asked, n, prompt, work.shown)
        began, evaluations = time.perf_counter(), 0
        if work.name == "rendered":
            scores = score(work.pair, each.data, each)
        else:
            request = Request.of(each.prompt, n, asked, **work.row.says, **each.told)
            pipelines = _pipelines(f"{work.pair} {work.name} {work.settings}", request)
            (variant,) = VARIANTS[request.variant]
            began, tries = time.perf_counter(), []
            for k in range(work.row.tries):
                frames, counted = sample(pipelines[variant], replace(request, seed=n + TRIED * k), variant)
                tries.append(score(work.pair, frames, each))
                evaluations += counted["total"]
            scores = max(tries, key=merit)
        line: dict[str, Any] = {"pair": work.pair, "method": work.name, "n": n, "prompt": each.prompt}
        line |= {"arguments": said(work.name, work.row, work.settings)} | ({"tuning": True} if work.tuning else {})
        line |= {"evaluations": evaluations, "seconds": round(time.perf_counter() - began, 2)}
        line["scores"] = {name: float(f"{value:.5g}") for name, value in scores.items()}
        lines.append(line)
    return lines


def merit(scores: Mapping[str, float]) -> tuple[float, ...]:
    """What samples are chosen by: first `right`, then `form`, or of digits the distance."""
    second = scores["form"] if "form" in scores else -scores.get("distance", math.nan)
    return scores["right"], -math.inf if math.isnan(second) else second


def _pipelines(key: str, request: Request) -> dict[str, Any]:
    """The pipelines of a row's requests, loaded for the first of them."""
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load(request)
    return _loaded[key]


_COLUMNS: dict[str, type | tuple[type, ...]] = {
    "pair": str,
    "method": str,
    "n": int,
    "prompt": str,
    "evaluations": int,
    "seconds": (int, float),
    "scores": dict,
}


def _is_row(row: object) -> bool:
    """Whether it is a row of this command, with scores that are numbers."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in _COLUMNS.items()):
        return False
    return all(value is None or isinstance(value, (int, float)) for value in row["scores"].values())


def read(path: Path, pair: str) -> list[Any]:
    """The rows of a results file, or of one that `pack` made.

    Raises:
        ValueError: it holds another pair's, or something else.
    """
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                found = [json.loads(line) for line in file]
        else:
            found = rows(path)
    except (ValueError, OSError, EOFError, lzma.LZMAError) as error:
        raise ArgumentError("out", f"{error}") from None
    if not all(map(_is_row, found)):
        raise ArgumentError("out", f"{path} holds rows that are not of this command; take another file")
    if others := {row["pair"] for row in found} - {pair}:
        holds = f"{path} holds rows of {', '.join(sorted(others))}, and not of {pair}"
        raise ArgumentError("out", f"{holds}; take another file")
    return found


def pack(path: Path, pair: str) -> Path:
    """Writes the rows of a results file, in order, beside it as .jsonl.xz, which takes a tenth of the room."""
    kept = sorted(read(path, pair), key=lambda row: (row.get("tuning", False), row["method"], row["n"]))
    lines = "".join(json.dumps(row) + "\n" for row in kept)
    to = path.with_suffix(".jsonl.xz")
    with whole({"file": to}) as staged:
        staged["file"].write_bytes(lzma.compress(lines.encode(), preset=9))
    return to
