"""Measures the shipped pairs with the settings of their presets. Every row has many samples, from the same prompts and
seeds, scored by judges that need no network, where possible.

The rows are the paper's (weak, strong, W2SD) and the baselines that a sceptic asks for. If both arms have the same
weights, a reflection is to first order a stronger guidance: the baseline adds the difference of the arms' guidance, or
2 if there is none. If the arms differ in a scale, the baseline is the strong arm at 2 s - w. A reflection also costs
more network evaluations, which plain sampling could spend on more steps, or on three videos of which the judge keeps
the best. The strongest rivals are guidance tuned on other prompts, see `tuning`, and noise in each step, which costs
nothing. The other methods have rows too. A last row scores the data itself, as an upper bound.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache, partial
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from .. import hashing, presets
from ..errors import ArgumentError
from ..interrupts import started_uninterrupted
from ..models.sources import resolve
from ..runs import VARIANTS, Request, alone, gone_if_empty, gone_on_error, writable
from ..sampling import load, sample
from ..threads import torch_threads
from .pairs import prompt_of, sample_of, score
from .rows import OTHER, add, line_of, read
from .world import FRAMES

LORA = -1.5  # the paper's scale of LoRAs in the weak arm
TRIES = 3  # seeds per sample in the row in which the judge chooses
TRIED = 1_000_000  # added to the seed for each further try of a sample
TUNED = 500_000  # added to the seeds of samples on which settings are tuned
JUDGE = ("world", "grammar", "judge", "pairs", "digits")  # the files that define the data and the scores
TOGETHER = 4  # samples that a process generates before it reports


@dataclass(frozen=True)
class Row:
    """A row of a pair's table.

    Args:
        label: its label in the table.
        says: settings of its requests that replace the preset's.
        tries: how many seeds each sample is generated from; the judge keeps the best.
    """

    label: str
    says: dict[str, Any] = field(default_factory=dict)
    tries: int = 1


PLAIN: dict[str, Any] = {"variant": "plain"}
METHODS = {
    "s2wd": "S2WD",
    "z_sampling": "Z-Sampling",
    "re_sampling": "Re-Sampling",
    "advanced_re_sampling": "Advanced Re-Sampling",
    "auto_guidance": "Auto-guidance",
    "optimistic": "Optimistic W2SD",
    "apg": "APG",
    "cfg_zero_star": "CFG-Zero*",
    "slg": "SLG",
    "pag": "PAG",
    "s2_guidance": "S2-guidance",
    "predict_and_perturb": "P&P",
    "foresight": "FSG",
}
OTHERS = {name.replace("_", "-"): Row(label, {"method": name}) for name, label in METHODS.items()} | {
    "motion-gain-0": Row("W2SD, motion gain 0", {"options": {"motion_gain": 0.0}}),
    "motion-gain-2": Row("W2SD, motion gain 2", {"options": {"motion_gain": 2.0}}),
    "noise": Row("strong, eta 1", PLAIN | {"eta": 1.0}),  # DDIM's noise in each step
    "w2sd-noise": Row("W2SD, eta 1", {"eta": 1.0}),
}


def preset(pair: str, settings: Mapping[str, Any] | None = None) -> presets.Preset:
    """A pair's preset, with `settings` in place of some of its fields."""
    return replace(presets.load(pair), **(settings or {}))


def equal_steps(pair_preset: presets.Preset, guidance: float | None = None) -> int:
    """The fewest steps with which plain sampling costs at least as many network evaluations as the preset's reflection.

    A plain step takes 2 evaluations, or 1 at guidance 1; a reflection adds 1 or 2 for each arm in the same way.

    Args:
        guidance: the guidance of plain sampling. Default: the preset's.
    """
    steps = pair_preset.num_inference_steps
    reflected = steps - 1 if pair_preset.reflection_steps is None else pair_preset.reflection_steps
    arms = (pair_preset.strong_guidance_scale, pair_preset.weak_guidance_scale)
    cost = _branches(pair_preset.guidance_scale) * steps + reflected * sum(map(_branches, arms))
    return math.ceil(cost / _branches(pair_preset.guidance_scale if guidance is None else guidance))


def _branches(guidance: float) -> int:
    """How many network evaluations a prediction at this guidance takes."""
    return 1 if guidance in (0.0, 1.0) else 2


def methods(pair_preset: presets.Preset) -> dict[str, Row]:
    """The rows of a pair's table by name."""
    final, steps = pair_preset.guidance_scale, equal_steps(pair_preset)
    guided = final + (pair_preset.strong_guidance_scale - pair_preset.weak_guidance_scale or 2.0)
    rows = {
        "weak": Row("weak", {"variant": "weak"}),
        "strong": Row("strong", PLAIN),
        "w2sd": Row("W2SD"),
        "guidance": Row(f"strong, guidance {guided:g}", PLAIN | {"guidance_scale": guided}),
        "equal-cost": Row(f"strong, {steps} steps", PLAIN | {"num_inference_steps": steps}),
    }
    for name in ("adapters", "controlnet", "ip_adapter"):
        if each := getattr(pair_preset, name):
            of: Any = next(iter(each.values())) if name == "adapters" else each
            alone = partial(dict.fromkeys, each) if name == "adapters" else dict
            raised = 2 * of["strong"] - of["weak"]
            rows["raised"] = Row(f"strong at {raised:g}", PLAIN | {name: alone({**of, "strong": raised})})
            if name == "adapters":  # Table 2's scale
                rows["w2sd-paper"] = Row(f"W2SD, weak at {LORA:g}", {name: alone({**of, "weak": LORA})})
    rows["best-of-3"] = Row(f"strong, best of {TRIES} by the judge (a ceiling)", PLAIN, TRIES)
    truth = "rendered truth" if pair_preset.textual else "digits of the data"
    if pair_preset.video and pair_preset.num_frames != FRAMES:  # not every scene fits into another number of frames
        truth += f", {FRAMES} frames"
    return rows | {"rendered": Row(truth)}


@dataclass(frozen=True)
class _Work:
    """Samples of a row for one process to generate.

    Args:
        samples: number and prompt of each.
        pictures: a folder for the pictures that are inputs of the pair.
        tuning: whether the samples are for tuning.
        of: the hashes of `origin`.
    """

    pair: str
    settings: dict[str, Any]
    name: str
    row: Row
    samples: tuple[tuple[int, str], ...]
    pictures: Path
    tuning: bool
    of: dict[str, str]


def run(
    pair: str,
    out: Path,
    wanted: Mapping[str, Row],
    prompts: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str, int], None] = lambda name, done: None,
    processes: int = 1,
    tuning: bool = False,
    by_prompt: bool = False,
) -> None:
    """Generates and scores a video or picture of each prompt for each row; appends a line each to `out`.

    Samples that the file already has are skipped. In every row, sample n has prompt n and seed n, or another seed if
    `tuning`.

    Args:
        pair: one of `PAIRS`.
        out: a JSON Lines file.
        wanted: the rows by name.
        settings: fields that replace the preset's.
        progress: called with the name of a row and how many more of its samples are done. First of all it is called
            for each row with how many the file has.
        processes: how many processes run in parallel, with one thread each. Samples do not depend on it.
        tuning: whether the samples are for tuning settings.
        by_prompt: whether to finish all rows of a prompt before the next, so that an interrupted run has whole prompts.

    Raises:
        Refused: `out` cannot be written to, or another process is adding to it; or the pair does not take a row's
            settings.
        ValueError: the file holds samples of another pair, or of other prompts, settings, weights or judges.
        OSError: a process was killed.
    """
    folder, pictures = out.absolute().parent, out.with_name(f"{out.stem}-shown")
    with gone_if_empty(folder):
        writable(folder)
        with alone(out):
            with gone_on_error(pictures):
                together = 1 if by_prompt else TOGETHER
                work = _left(pair, out, pictures, wanted, prompts, dict(settings or {}), progress, tuning, together)
            if by_prompt:
                work.sort(key=lambda each: each.samples[0][0])
            for each, lines in _done(work, processes):
                add(out, lines)
                progress(each.name, len(lines))


def _left(
    pair: str,
    out: Path,
    pictures: Path,
    wanted: Mapping[str, Row],
    prompts: Sequence[str],
    settings: dict[str, Any],
    progress: Callable[[str, int], None],
    tuning: bool,
    together: int,
) -> list[_Work]:
    """The samples that the file lacks, in units of at most `together` samples; see `run`."""
    pair_preset = preset(pair, settings)
    lines = [row for row in read(out, pair, mend=True) if row.get("tuning", False) == tuning]
    present = {(row["method"], row["n"]): row for row in lines}
    work: list[_Work] = []
    texts = cache(lambda n: prompt_of(pair_preset, seed_of(n, tuning), prompts[n]))
    for name, row in wanted.items():
        arguments, of = arguments_of(name, row, settings), dict(origin(pair, name != "rendered"))
        for (method, n), each in present.items():
            if method != name:
                continue
            if each.get("arguments") != arguments:
                raise ArgumentError("out", f"{out} holds {name} made with other settings than {arguments}; {OTHER}")
            if lacking := [key for key in of if key not in each.get("of", {})]:
                raise ArgumentError(
                    "out", f"{out} holds {name} and does not say of which {' and '.join(lacking)}; {OTHER}"
                )
            if others := [key for key, value in of.items() if each["of"][key] != value]:
                raise ArgumentError("out", f"{out} holds {name} made with another {' and '.join(others)}; {OTHER}")
            if n < len(prompts) and each["prompt"] != texts(n):
                raise ArgumentError("out", f"{out} holds {name} {n} of another prompt, {each['prompt']!r}; {OTHER}")
        left = [(n, prompt) for n, prompt in enumerate(prompts) if (name, n) not in present]
        if left and name != "rendered":  # refuses what the pair's family does not take
            n, prompt = left[0]
            each = sample_of(pair_preset, seed_of(n, tuning), prompt, pictures)
            Request.of(each.prompt, 0, pair_preset, **row.says, **each.told)
        progress(name, len(prompts) - len(left))
        for first in range(0, len(left), together):
            some = tuple(left[first : first + together])
            work.append(_Work(pair, settings, name, row, some, pictures, tuning, of))
    return work


def arguments_of(name: str, row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row's requests that replace the preset's, as stored in the row's lines."""
    if name == "rendered":
        return {}
    return {**settings, **row.says} | ({"tries": row.tries} if row.tries > 1 else {})


def origin(pair: str, sampled: bool = True) -> dict[str, str]:
    """Hashes of everything besides its settings that decides a row's numbers.

    These are the judge and, if the row is sampled, the fields of the pair's preset that are not defaults, and its
    weights.
    """
    hashes = {"judge": hashing.sha256(Path(__file__).with_name(f"{name}.py") for name in JUDGE)[:12]}
    if sampled:
        own = presets.load(pair)
        prose = ("name", "description", "source", "expected")
        default = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(own)}
        changed = {name: value for name, value in asdict(own).items() if name not in prose and value != default[name]}
        hashes["preset"] = sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()[:12]
        hashes["weights"] = sha256("".join(map(_weights, own.models.values())).encode()).hexdigest()[:12]
    return hashes


def _weights(model: str) -> str:
    """The hash of all files in a model's folder; if the model is a single file, in the folder of that file."""
    path = resolve(model).path
    if path is None:
        return model
    folder = path if path.is_dir() else path.parent
    return hashing.sha256(sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".md"))


def seed_of(n: int, tuning: bool) -> int:
    """The seed of sample n of the table, or of the samples for tuning."""
    return n + TUNED * tuning


def _done(work: Sequence[_Work], processes: int) -> Iterator[tuple[_Work, list[dict[str, Any]]]]:
    """Yields the lines of each unit of work as soon as it is done."""
    if processes == 1:
        with torch_threads(1):  # the number of threads changes the last digits
            for each in work:
                yield each, _make(each)
        return
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(processes, context, _begin, (stop,))
    try:
        # Submits little more than the processes can work on, so that an interruption does not wait long.
        left, running = iter(work), {}
        while True:
            with started_uninterrupted():  # submitting work starts the processes
                for each in left:
                    running[pool.submit(_make, each)] = each
                    if len(running) > processes:
                        break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        why = "was killed, perhaps for lack of memory (then give fewer --processes)"
        raise OSError(errno.ENOMEM, why, "a process that makes samples") from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


_stop: Any = None  # an event; once it is set, no further sample starts


def _begin(stop: Any) -> None:
    """Initialises a process: it ignores interruptions, which its parent handles, and ends if its parent has died."""
    import signal

    import torch

    from ..terminal import quiet

    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


CALLED = ("method", "options", "num_inference_steps", "guidance_scale", "eta")  # settings that need no other pipeline
LOADED = 4  # how many rows' pipelines a process keeps, since studies go from row to row; some 20 MB each
_loaded: dict[str, dict[str, Any]] = {}  # the pipelines that this process used last, by key


def _make(work: _Work) -> list[dict[str, Any]]:
    """Generates and scores samples; returns their lines."""
    pair_preset = preset(work.pair, work.settings)
    lines = []
    for n, prompt in work.samples:
        if _stop is not None and _stop.is_set():
            break
        seed = seed_of(n, work.tuning)
        each = sample_of(pair_preset, seed, prompt, work.pictures)
        began, evaluations = time.perf_counter(), 0
        if work.name == "rendered":
            scores = score(work.pair, each.data, each)
        else:
            request = Request.of(each.prompt, seed, pair_preset, **work.row.says, **each.told)
            models = {name: value for name, value in work.row.says.items() if name not in CALLED}
            pipelines = _pipelines(f"{work.pair} {work.settings} {work.of} {models}", request)
            (variant,) = VARIANTS[request.variant]
            began, tries = time.perf_counter(), []
            for k in range(work.row.tries):
                frames, counted = sample(pipelines[variant], replace(request, seed=seed + TRIED * k), variant)
                tries.append(score(work.pair, frames, each))
                evaluations += counted["total"]
            scores = max(tries, key=merit)
        seconds = time.perf_counter() - began
        more: dict[str, Any] = {"arguments": arguments_of(work.name, work.row, work.settings)}
        more |= {"tuning": True} if work.tuning else {}
        cost = (evaluations, seconds, work.of)
        lines.append(line_of(work.pair, work.name, n, each.prompt, seed, scores, *cost, **more))
    return lines


def merit(scores: Mapping[str, float]) -> tuple[float, ...]:
    """The key by which the judge chooses samples: `right`, then `form`, or for digits the negative distance."""
    second = scores["form"] if "form" in scores else -scores.get("distance", math.nan)
    return scores["right"], -math.inf if math.isnan(second) else second


def _pipelines(key: str, request: Request) -> dict[str, Any]:
    """The pipelines for a row's requests, loaded at the first one."""
    if key not in _loaded:
        if len(_loaded) == LOADED:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = load(request)
    return _loaded[key]
