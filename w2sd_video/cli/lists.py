"""Commands that list presets, methods and dimensions, and describe this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import plugins, presets, runs
from ..documents import finite
from ..errors import Refused
from ..terminal import FORMAT, PATH, check_file, err, messages, out, quiet, say, wants_json, words
from .options import DEVICES


def show_presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Show every field of this one, or of this YAML file.", autocompletion=presets.names),
    ] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """List the pairs of models and their settings."""
    with messages() as arguments:
        arguments["preset"] = "NAME"
        as_json = wants_json(form)
        if name is not None and not as_json:
            out.print(presets.text(presets.load(name)), markup=False, end="")
            return
        listed, broken = presets.every() if name is None else ([presets.load(name)], [])
        if as_json:
            data = [asdict(each) | {"plugin": _owner_of_preset(each.name)} for each in listed]
            say(json.dumps(data if name is None else data[0], indent=1))
            listed = []
        for preset in listed:
            final, strong, weak = preset.guidance_scale, preset.strong_guidance_scale, preset.weak_guidance_scale
            out.print(f"[bold]{preset.name}[/]: {escape(preset.description)}")
            frames = f"{preset.num_frames} frames of " if preset.video else ""
            for line in (
                ", ".join(f"{role.replace('_', ' ')} {model}" for role, model in preset.models.items()),
                f"guidance {final:g} ({strong:g} and {weak:g} in the reflection), {preset.num_inference_steps} steps",
                f"{preset.family}, {frames}{preset.width}x{preset.height}; {preset.source}",
                *([f"plug-in of {owner}"] if (owner := presets.source(preset.name)) else []),
            ):
                out.print(f"  {line}", markup=False)
        _refuse(broken)


def _refuse(broken: Sequence[ValueError]) -> None:
    """Says what is wrong with plug-ins, and raises the first of the errors."""
    for each in broken[1:]:
        err.print(f"Error: {each}", markup=False)
    if broken:
        raise broken[0]


def _owner_of_preset(name: str) -> str | None:
    """The plug-in of a preset. None: the preset is built in, or a file."""
    return presets.source(name) or None if name in presets.names() else None


def show_methods(form: Annotated[str, FORMAT] = "text") -> None:
    """List the methods, their options, and the plug-ins that they come from."""
    with messages():
        as_json = wants_json(form)
        from .. import methods

        own = [name for name in methods.METHODS if name != "weak"]
        _show_plugins("method", own, methods.described, as_json, methods.METHODS)


def show_dimensions(form: Annotated[str, FORMAT] = "text") -> None:
    """List the dimensions that `eval` scores, and the plug-ins that they come from."""
    with messages():
        as_json = wants_json(form)
        from ..eval import dimensions

        _show_plugins("dimension", dimensions.NAMES, dimensions.described, as_json, dimensions.BUILT_IN)
        if not as_json:
            out.print(f"groups: {', '.join(dimensions.GROUPS)}", markup=False)
            out.print(f"by VBench's own package, --backend official: {', '.join(dimensions.OFFICIAL)}", markup=False)


def _show_plugins(
    kind: plugins.Kind,
    builtin: Sequence[str],
    described: Callable[[str], dict[str, Any]],
    as_json: bool,
    taken: Collection[str],
) -> None:
    """Shows what there is of a kind: names, what is said of each, and for plug-ins where they are from.

    Args:
        builtin: the built-in names that are shown.
        taken: the names that no plug-in can have.

    Raises:
        Refused: a plug-in cannot be used; after all others are shown.
    """
    broken: list[Refused] = []
    rows: list[dict[str, Any]] = []
    for name in [*builtin, *(name for name in plugins.installed(kind) if name not in taken)]:
        try:
            plugin = plugins.find(kind, name, taken)
            rows.append({"name": name, **described(name), "plugin": plugin.source if plugin else None})
        except Refused as refused:
            broken.append(refused)
    broken += plugins.taken(kind, taken)
    if as_json:
        say(json.dumps(rows, indent=1, default=str))
    else:
        for row in rows:
            name, summary, plugin_of = row.pop("name"), row.pop("summary"), row.pop("plugin")
            out.print(f"[bold]{escape(name)}[/]: {escape(summary)}")
            for key, value in row.items():
                listed = [f"{k}={v!r}" for k, v in value.items()] if isinstance(value, dict) else value
                if listed and listed != [name]:
                    out.print(f"  {key}: {', '.join(listed)}", markup=False)
            if plugin_of:
                out.print(f"  plug-in of {plugin_of}", markup=False)
    _refuse(broken)


def doctor(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET]", autocompletion=presets.names, help="Only this preset's weights and memory."),
    ] = None,
    trial: Annotated[
        str | None,
        typer.Option(
            "--try",
            metavar="PRESET",
            autocompletion=presets.names,
            help="Try this preset's weights, two small steps, and write a report.",
        ),
    ] = None,
    path: Annotated[Path | None, typer.Option("--out", help="The report (default: trial-PRESET.md).", **PATH)] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to try: auto, cpu, cuda or cuda:N.", **words(*DEVICES))
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report if it is there.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="A folder of the scorers' weights (default: caches).", **PATH)
    ] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Show what this machine has: versions, devices, ffmpeg, and the weights of every preset, or of one.

    With --try, whether a preset's weights work here: hashes of their files, the method off against the stock pipeline,
    half precision against float32, seconds and memory; in one report to send to the project.
    """
    with messages(context) as options:
        options["preset"] = "PRESET" if trial is None else "--try"
        as_json = wants_json(form)
        if trial is not None and preset is not None:
            raise Refused("PRESET", preset, "give it alone, or --try PRESET")
        if weights is not None and (preset or trial) is not None:
            raise Refused("--weights", str(weights), "scorers are listed where no preset is given: give it alone")
        if weights is not None and not weights.is_dir():
            raise Refused("--weights", str(weights), "give a folder")
        if trial is not None:
            _try(trial, path, device, overwrite, as_json)
            return
        for option, value in (("--out", path), ("--device", device), ("--overwrite", overwrite or None)):
            if value is not None:
                raise Refused(option, str(value), "it goes with --try PRESET")
        from ..doctor import report

        sections = report(preset, weights)
        if as_json:
            data = {title: [{"what": label, "is": text} for label, text in rows] for title, rows in sections.items()}
            say(json.dumps(data, indent=1))
            return
        for title, rows in sections.items():
            out.print(f"[bold]{title}[/]")
            for label, text in rows:
                out.print(f"  {label}: {text}", markup=False)


def _try(name: str, path: Path | None, device: str | None, overwrite: bool, as_json: bool) -> None:
    """Tries a preset and writes the report."""
    if not name:
        raise Refused("--try", name, "give one of `w2sd-video presets`, or a YAML file")
    preset = presets.load(name)
    path = path or Path(f"trial-{Path(preset.name).stem}.md")
    check_file(path, overwrite)
    from .. import trial

    trial.check_there(preset)
    runs.usable(path.parent)
    quiet()
    with presets.naming(preset, {"device": device}):
        results = trial.run(preset, device, lambda line: err.print(line, markup=False))
    runs.write_text(path, trial.text(results))
    for check in results["checks"]:
        err.print(f"{trial.verdict(check)}: {check['check']}{trial.numbers(check)}", markup=False)
    say(json.dumps(finite(results), indent=1) if as_json else f"Wrote {path}")
    if any(check["ok"] is False for check in results["checks"]):
        raise typer.Exit(1)
