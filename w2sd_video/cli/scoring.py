"""Commands that score: `eval`, `best` and `check-pair`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .. import presets, runs
from ..documents import read_json
from ..errors import Refused
from ..progress import bar
from ..runs import Request
from ..settings import MODELS, Variant
from ..terminal import FORMAT, PATH, err, messages, number, out, quiet, say, wants_json, words
from .generate import confirm_writable, sample, suites
from .options import DEVICES, OUTPUT, adapters, dimension_names, option, refuse_empty, with_settings
from .requests import refine_prompts
from .scores import WORST

FORMATS = ("text", "json", "markdown", "latex")


def evaluate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO...",
            help="Files, folders, globs; each is a group, compared with the first by prompt and seed."
            " LABEL=PATH gives it a name. Or results of VBench, NAME_eval_results.json.",
        ),
    ],
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="Names from `w2sd-video dimensions`, with commas between; or six, vbench, images; or FILE.py:NAME"
            " (default: six; of results of VBench, all that they have).",
            autocompletion=dimension_names,
        ),
    ] = None,
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The results, a JSON file; others are written beside it. With NAME.html the page shows the videos.",
            **PATH,
        ),
    ] = Path("results.json"),
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="A JSON file of file names and prompts, or VBench's NAME_full_info.json.", **PATH
        ),
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            help="Score a dimension only on the prompts whose tag `dimension` names it in a suite of prompts; `vbench`"
            " is VBench's own way.",
            autocompletion=suites,
            **{**PATH, "metavar": "SUITE"},
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A folder of the scorers' weights (default: caches).", **PATH)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", **words(*DEVICES))] = "auto",
    backend: Annotated[
        str,
        typer.Option(help="own, or official: VBench's own package, all its 16 dimensions.", **words("own", "official")),
    ] = "own",
    official_python: Annotated[
        str, typer.Option(help="The Python executable of an environment with VBench's package.")
    ] = sys.executable,
    images: Annotated[bool, typer.Option("--images", help="Score every picture of a folder by itself.")] = False,
    references: Annotated[
        list[str] | None, typer.Option(help="Pictures for clip_i, dino and fid to compare with; or FID's .npz.")
    ] = None,
    worst: Annotated[int | None, WORST] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="text (or table); or on stdout json, or the tables as markdown or latex.",
            **words(*FORMATS),
        ),
    ] = "text",
) -> None:
    """Score videos as VBench does, and compare groups of them.

    Scores are kept as they are made, in a .jsonl beside --out: the same command goes on where it was stopped.
    """
    # One function because its options are declared here.
    with messages():
        from ..eval.cli import run
        from ..eval.dimensions import named_by_user
        from ..eval.evaluate import evaluate as score
        from ..eval.prompts import read_prompts
        from ..eval.recorded import files_of, of_results

        form = "text" if form == "table" else form
        if form not in FORMATS:
            raise Refused("--format", form, "give text, json, markdown or latex")
        if backend not in ("own", "official"):
            raise Refused("backend", backend, "give own or official")
        if not official_python:
            raise Refused("official_python", "", "give the Python of an environment that has VBench's package")
        official = official_python if backend == "official" else None
        if official is None and official_python != sys.executable:
            err.print("Note: --official-python has no effect without --backend official.")
        gallery = out_file.suffix == ".html"
        results = out_file.with_suffix(".json") if gallery else out_file
        by_prompts = read_prompts(prompts_file) if prompts_file else None
        if files := files_of(videos):
            used: dict[str, object] = {
                "--suite": str(suite or ""),
                "--weights": str(weights or ""),
                "--images": images,
                "--references": references,
            }
            used |= {"--device": device != "auto" and device, "--backend": backend != "own" and backend}
            _check_results(files, used, results)
            score_all = partial(of_results, files, dimensions, by_prompts)
        else:
            named = named_by_user("six" if dimensions is None else dimensions)
            score_all = partial(
                score,
                videos,
                named,
                asked=asked_in(suite, named) if suite is not None else None,
                prompts=by_prompts,
                weights=weights,
                device=device,
                official=official,
                images=images,
                references=references or [],
            )
        scored = run(out, err, score_all, results, form=form, worst=worst, gallery=gallery, lists="--worst N")
        if not scored:
            raise typer.Exit(1)


def _check_results(files: Mapping[str, Sequence[Path]], used: Mapping[str, object], results: Path) -> None:
    """Refuses what does not go with results of VBench.

    Args:
        used: options that say how videos are scored, with their values, or None.

    Raises:
        Refused: one of these is there; or the results of this call would replace those that it reads.
    """
    from ..eval.results import vbench_files

    for name, value in used.items():
        if value:
            raise Refused(name, value, "results of VBench are scored already: leave it out")
    replaced = {file.resolve() for file in [*vbench_files(results), results]}
    for file in (file for own in files.values() for file in own):
        if file.resolve() in replaced:
            raise Refused("--out", str(results), f"it would replace {file}, which is compared: give another name")


def asked_in(suite: Path, dimensions: str) -> dict[str, frozenset[str]]:
    """The prompts of which a suite asks dimensions, by the name of the dimension.

    Raises:
        Refused: there is no such suite, or none of its prompts has the tag `dimension`.
    """
    from ..eval.dimensions import expand
    from ..eval.vbench import asked_of
    from ..prompts import load

    try:
        read = load(str(suite))
    except Refused as error:
        raise Refused("--suite", error.value, error.accepted) from None
    if not any(prompt.tags.get("dimension") for prompt in read.prompts):
        raise Refused("--suite", str(suite), "give a suite whose prompts have the tag `dimension`, such as vbench")
    return asked_of(read, expand(dimensions))


def best(
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO...", help="Files, folders, globs: several videos of each prompt.")
    ],
    by: Annotated[str, typer.Option(metavar="COLUMN", help="The column of scores, such as clip_t or shapes_jerk.")],
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="The dimension of the column, if it is from a plug-in or FILE.py:NAME.",
            autocompletion=dimension_names,
        ),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Copy the best videos and their sidecars to this folder.", **PATH)
    ] = None,
    scores_file: Annotated[
        Path, typer.Option("--scores", help="The file of stored scores, read and extended: eval's .jsonl.", **PATH)
    ] = Path("results.jsonl"),
    weights: Annotated[
        Path | None, typer.Option(help="A folder of the scorers' weights (default: caches).", **PATH)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", **words(*DEVICES))] = "auto",
    images: Annotated[bool, typer.Option("--images", help="Rank every picture of a folder by itself.")] = False,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Best-of-N: of the videos of each prompt, the one with the best score.

    Make N of each with `generate --seed 0-7`, and give their folder. Scores are kept, so that `eval` need not make them
    again.
    """
    with messages():
        as_json = wants_json(form)
        from ..eval import best as ranked
        from ..eval.dimensions import named_by_user
        from ..eval.evaluate import evaluate as score

        named = named_by_user(dimensions or ranked.dimension_of(by))
        column = ranked.ranking(by, named)
        if out_folder is not None:
            runs.usable(out_folder)

        def note(line: str) -> None:
            err.print(line, markup=False)

        scores = score(videos, named, rows_file=scores_file, weights=weights, device=device, images=images, say=note)
        bests = ranked.best(scores, column)
        copied = ranked.copy(bests, out_folder) if out_folder is not None else []
        for video, dimension, problem in scores.problems:
            err.print(f"{video.path}{f', {dimension}' * bool(dimension)}: {problem}", markup=False)
        if as_json:
            say(json.dumps([{**asdict(each), "video": each.video and str(each.video)} for each in bests], indent=1))
        for each in [] if as_json else bests:
            score_ = "no video could be scored" if each.score is None else f"{each.score:g}, the best of {each.of}"
            out.print(f"{each.prompt}: {each.video or ''} ({score_})", markup=False, soft_wrap=True)
        if copied and not as_json:
            out.print(
                f"Copied {len(copied)} file{'s' * (len(copied) > 1)} to {out_folder}", markup=False, soft_wrap=True
            )
        if scores.problems or any(each.video is None for each in bests):
            raise typer.Exit(1)


if TYPE_CHECKING:
    from ..check_pair import Sample

PAIR = (
    "strong weak vae motion_adapter weak_motion_adapter weak_motion_scale adapters dtype device guidance_scale"
    " strong_guidance_scale weak_guidance_scale num_inference_steps num_frames height width"
).split()


@with_settings(PAIR)
def check_pair(
    context: typer.Context,
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEO...",
            help="Real videos, or pictures, with prompts, as files or folders (shipped models: drawn).",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many prompts.", **number(int, 2, 1000))] = 16,
    preset: Annotated[
        str,
        option(
            MODELS,
            "Models and settings: one of `w2sd-video presets`, or a YAML file.",
            "--preset",
            "--pair",
            autocompletion=presets.names,
        ),
    ] = presets.DEFAULT,
    control: Annotated[
        Path | None,
        option(MODELS, "A folder: what the ControlNet is shown for each VIDEO, under the same name.", **PATH),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="What to score by, as for `eval` (default: the pair's judge, or six or images; and clipped); none:"
            " do not sample.",
            autocompletion=dimension_names,
        ),
    ] = None,
    out_folder: Annotated[Path, option(OUTPUT, "The folder to write to.", "--out", **PATH)] = Path("pair"),
    form: Annotated[str, FORMAT] = "text",
    **fields: Any,
) -> None:
    """Measure whether a pair's difference points towards data, and what the pair changes in the scores.

    Asks both models at noised data, then samples with the strong model alone and with the pair, and compares.
    """
    # One function because its options are declared here, and what it does is one thing after another.
    with messages(context):
        refuse_empty(context)
        console = err if (as_json := wants_json(form)) else out
        if control is not None and not videos:
            raise Refused("control", str(control), "it holds the pictures that each VIDEO follows: give VIDEO too")
        from .. import check_pair as check
        from ..documents import finite
        from ..eval.cli import refuse_taken, run
        from ..eval.dimensions import expand, named_by_user
        from ..eval.evaluate import evaluate as score

        if dimensions not in (None, "none"):
            dimensions = named_by_user(dimensions)
            expand(dimensions)
        pair = presets.load(preset)
        strong = fields.get("strong", pair.strong)
        if not videos and strong != pair.strong and not strong.startswith(check.SHIPPED):
            raise Refused("videos", None, f"what preset {pair.name} draws is for its own strong model: give data")
        runs.usable(out_folder)
        if loras := fields.pop("adapters", []):
            fields["adapters"] = adapters(loras, pair, {}, alone=not fields.keys() & {"weak", "weak_motion_adapter"})
        with runs.gone_if_empty(out_folder), runs.gone_on_error(shown := out_folder / "shown"):
            data = check.samples(pair, samples, videos or [], control, shown)
            if videos and pair.refine:
                data = _refined(data, pair, fields)
            requests = [Request.of(each.prompt, n, pair, **each.told, **fields) for n, each in enumerate(data)]
            batches = {} if dimensions == "none" else _batches(requests, out_folder)
            check.writable(out_folder)
            for folder, batch in batches.items():
                confirm_writable(batch, folder, ["mp4"], False, way="Give another --out")
            if batches:
                refuse_taken(out_folder / "scores.json")
            runs.writable(out_folder)
            quiet()
            with presets.naming(pair, fields):
                result = _ask(requests, data, out_folder, console, pair, fields)
        with presets.naming(pair, fields):
            for folder, batch in batches.items():
                sample(batch, folder, ["mp4"], False, None, way="Give another --out", to=console)
        scored = True
        if batches:
            named = dimensions.split(",") if dimensions else check.usual_dimensions(pair)
            folders, results = [str(folder) for folder in batches], out_folder / "scores.json"
            auto = fields.get("device", "auto")
            score_all = partial(score, folders, named, device=auto, images=not pair.video)
            scored = run(console, err, score_all, results)
            result["scores"] = read_json(results)
        if as_json:
            say(json.dumps(finite(result), indent=1))
        if not scored:
            raise typer.Exit(1)


def _batches(requests: list[Request], out_folder: Path) -> dict[Path, list[Request]]:
    """By folder, the requests sampled with the strong model alone and with the pair."""
    variants: tuple[Variant, ...] = ("plain", "w2sd")
    batches = {out_folder / name: [replace(request, variant=name) for request in requests] for name in variants}
    for request in (each for batch in batches.values() for each in batch):
        request.check()  # what is accepted of a method need not be without one
    return batches


def _refined(data: list[Sample], pair: presets.Preset, fields: dict[str, Any]) -> list[Sample]:
    """Samples whose prompts are refined, of which the weak arm is told the raw ones.

    Raises:
        Refused: a request cannot be used; before a language model is loaded.
    """
    raw = [each.prompt for each in data]
    overrides = [{**each.told, "weak_prompt": text} for each, text in zip(data, raw, strict=True)]
    for n, (text, each) in enumerate(zip(raw, overrides, strict=True)):
        Request.of(text, n, pair, **each, **fields)
    prompts = refine_prompts(raw, str(pair.refine))
    return [replace(s, prompt=p, told=t) for s, p, t in zip(data, prompts, overrides, strict=True)]


def _ask(
    requests: list[Request],
    data: list[Sample],
    folder: Path,
    console: Console,
    pair: presets.Preset,
    fields: dict[str, Any],
) -> dict[str, Any]:
    """Asks both models at noised data, prints and returns what they say, and writes it and a proposal to the folder."""
    from .. import check_pair as check
    from ..strength import products, proposal
    from ..verdicts import ENOUGH

    with bar("samples") as show:
        frames = [each.data for each in data]
        said = check.alignment(requests, frames, lambda done: show(done, len(data)))
    units = [each.prompt for each in data]
    levels, whole = check.by_level(said, units), check.overall(said, units)
    sigmas = [level.sigma for level in levels]
    best = proposal(*products(said, units), sigmas) if whole.prompts >= ENOUGH else None
    check.write(folder, said, check.proposed(pair, best, fields) if best else None)
    verdict = check.verdict(whole, levels)
    console.print("strength g* of the models' difference, by noise level (guidance 1)")
    console.print("to first order, W2SD helps where g* is over 0.5")
    for level in levels:
        console.print(f"  sigma {level.sigma:.3f}  {level.strength}", markup=False)
    console.print(f"  all          {whole}, {len(data)} samples of {whole.prompts} prompts: {verdict}", markup=False)
    if best:
        reflects = f"strength {best.strength:g} at sigma {best.low:.3f} to {best.high:.3f}"
        how = reflects if best.strength else "no reflection, which is plain sampling"
        console.print(f"proposed: {how}; --preset {folder / check.PROPOSED}", markup=False)
    return {
        "levels": [asdict(level) for level in levels],
        "cosine": asdict(check.mean_cosine(said, units)),
        "strength": asdict(whole),
        "p": whole.p,
        "verdict": verdict,
        "proposal": asdict(best) | {"preset": str(folder / check.PROPOSED)} if best else None,
        "scores": None,
    }
