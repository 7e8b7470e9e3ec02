"""`w2sd-video doctor --try PRESET`: runs a preset's real checkpoints for a few small steps, and reports in one file.

It is for people who have weights that the project could never run. The report has the hashes of the files, whether the
pipeline without the method equals the stock pipeline bit for bit, how far half precision is from float32, seconds and
peak memory. It is Markdown to send back, with all results as JSON at its end, and names no folder of the machine.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import presets, tables
from .bench import measure
from .devices import peak_memory, usable_device
from .doctor import devices, find, versions
from .documents import finite
from .errors import WeightsNotFound
from .families import FAMILIES
from .hashing import sha256
from .models.sources import cached, resolve
from .provenance import files_of
from .runs import Request
from .sampling import arguments, load, scheduler

if TYPE_CHECKING:
    import torch

STEPS, SIDE, FRAMES = 2, 256, 8  # of the samples; models of a fixed or smaller size keep it
# Prompts of the strong arm, and of the weak arm if the pair differs in its prompts, by the preset's grammar.
TEXTS = {
    "shapes": ("a large red circle moving right", "a red circle"),
    None: ("a photo of a cat on a wooden chair", "a cat"),
}
CLASS = "0"  # prompt of class-conditional models

Row = dict[str, Any]
Report = Callable[[str], None]


def run(preset: presets.Preset, device: str | None = None, report: Report = lambda line: None) -> dict[str, Any]:
    """Tries a preset; see the module's docstring.

    Args:
        device: as in a request. None: the preset's.
        report: called with a line on what starts now.

    Returns:
        `files` with their hashes, `runs`, `checks` with their verdicts `ok`, and the settings, versions and devices.

    Raises:
        WeightsNotFound: some of the preset's weights are not on this machine; names all of them, and how to get each.
        WeightsError, Refused, OSError: the weights cannot be used.
    """
    check_there(preset)
    results: dict[str, Any] = {
        "preset": preset.name if preset.name in presets.names() else Path(preset.name).name,
        "family": preset.family,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": dict(versions()),
        "devices": dict(devices()),
        "files": [],
        "runs": [],
        "checks": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        request = _request(preset, device, Path(folder) / "shown.png")
        on = usable_device(request.device)
        half = request.dtype if request.dtype != "float32" else "float16" if on.type == "cuda" else "bfloat16"
        results["settings"] = {
            name: getattr(request, name)
            for name in ("num_inference_steps", "height", "width", "num_frames", "guidance_scale", "method", "dtype")
        } | {"device": on.type}
        samples: dict[str, dict[str, torch.Tensor]] = {}
        for dtype in dict.fromkeys((request.dtype, half, "float32")):
            report(f"loading in {dtype}")
            _sample(replace(request, dtype=dtype), on, results, samples.setdefault(dtype, {}), dtype == request.dtype)
        _compare(samples, half, results)
    return results


def check_there(preset: presets.Preset) -> None:
    """Refuses a preset whose weights are not on this machine, before anything is loaded or downloaded.

    Raises:
        WeightsNotFound: names every missing model, and how to get it.
    """
    missing = []
    for role, model in preset.models.items():
        there, state = find(model, role.partition(".")[0], FAMILIES[preset.family].denoiser)
        if not there:
            missing.append(f"{role} {model}: {state}")
    if missing:
        raise WeightsNotFound(f"preset {preset.name}:", f"its weights are not all here: {'; '.join(missing)}")


def _request(preset: presets.Preset, device: str | None, picture: Path) -> Request:
    """A request for a few steps at a small size, else with the preset's settings."""
    strong, weak = TEXTS.get(preset.grammar, TEXTS[None])
    fields: dict[str, Any] = {"num_inference_steps": STEPS, "reflection_steps": STEPS - 1, "device": device}
    if not preset.textual:  # class-conditional models have a fixed size
        strong = CLASS
    else:
        fields |= {name: min(getattr(preset, name), SIDE) for name in ("height", "width")}
    if preset.num_frames is not None:
        stride = FAMILIES[preset.family].stride
        fields["num_frames"] = min(preset.num_frames, max((FRAMES - 1) // stride, 1) * stride + 1)
    if preset.refine:
        fields["weak_prompt"] = weak
    pictured = {
        "control": preset.controlnet,
        "ip_image": preset.ip_adapter,
        "image": FAMILIES[preset.family].from_image,
    }
    if any(pictured.values()):
        _draw(picture)
        fields |= {name: str(picture) for name, of in pictured.items() if of}
    return Request.of(strong, 0, preset, **fields)


def _draw(path: Path) -> None:
    """Draws a picture for pairs that take one: the outline of a square, white on black."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE))
    ImageDraw.Draw(picture).rectangle((SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4), outline="white", width=3)
    picture.save(path)


def _sample(
    request: Request, device: torch.device, results: dict[str, Any], samples: dict[str, torch.Tensor], first: bool
) -> None:
    """Loads the pair in the request's dtype and samples with the stock pipeline, without the method and with it.

    Errors of sampling are recorded in `results`. So are errors of loading that may be due to the dtype (too little
    memory, an operation that the device lacks), unless the dtype is the first one.
    """
    import torch

    measure.start_peak(device)
    began = time.perf_counter()
    try:
        pipe = load(request)["w2sd"]
    except Exception as error:
        if first or not isinstance(error, (MemoryError, RuntimeError)):
            raise
        results["runs"].append({"run": f"load, {request.dtype}", "error": measure.error_line(error)})
        return
    measure.synchronize(device)
    results["runs"].append(
        {"run": f"load, {request.dtype}", "seconds": time.perf_counter() - began, "peak_gib": _peak(device)}
    )
    if first:
        results["files"] = files(pipe, request)
    with pipe.guiding(request.guidance_scale):
        kept = {name: part for name, part in pipe.components.items() if not name.startswith("weak_")}
        stock: Any = pipe.stock(**kept)  # with the same guider, if it has one
    calls = {"off": arguments(pipe, request, "strong"), "on": arguments(pipe, request, "w2sd")}
    calls["stock"] = {name: value for name, value in calls["off"].items() if name != "method"}
    for kind in ("stock", "off", "on"):
        row: Row = {"run": f"{_NAMES[kind]}, {request.dtype}"}
        runner = stock if kind == "stock" else pipe
        runner.set_progress_bar_config(disable=True)
        runner.scheduler = scheduler(request, pipe.scheduler.config)
        call = calls[kind] | {
            "num_inference_steps": request.num_inference_steps,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
            "output_type": "latent" if request.textual else "np",
        }
        measure.start_peak(device)
        began = time.perf_counter()
        try:
            with pipe.guiding(request.guidance_scale):
                output = runner(**call)
            samples[kind] = torch.as_tensor(output.frames if hasattr(output, "frames") else output.images).cpu()
            measure.synchronize(device)
            row |= {"seconds": time.perf_counter() - began, "peak_gib": _peak(device)}
            row["finite"] = bool(samples[kind].isfinite().all())
            row["rms"] = _rms(samples[kind])
            if kind == "on":
                row["evaluations"] = pipe.evaluations["total"]
        except Exception as error:
            row["error"] = measure.error_line(error)
        results["runs"].append(row)
    del pipe, stock, runner
    measure.release(device)


_NAMES = {"stock": "stock pipeline (first call)", "off": "method off", "on": "method on"}


def _compare(samples: dict[str, dict[str, torch.Tensor]], half: str, results: dict[str, Any]) -> None:
    """Adds to the results whether the method off equals the stock pipeline, whether outputs are finite and files equal
    the published ones, and how far half precision is from float32."""
    checks: list[Row] = results["checks"]
    for dtype, outputs in samples.items():
        if {"stock", "off"} <= outputs.keys():
            equal = _same(outputs["stock"], outputs["off"])
            row: Row = {"check": f"method off is the stock pipeline bit for bit, {dtype}", "ok": equal}
            checks.append(row if equal else row | _apart(outputs["off"], outputs["stock"]))
        if {"off", "on"} <= outputs.keys():
            differs = not _same(outputs["on"], outputs["off"])
            checks.append({"check": f"the method changes the output, {dtype}", "ok": differs})
    for run in results["runs"]:
        if not run.get("finite", True):
            checks.append({"check": f"finite: {run['run']}", "ok": False})
        if "error" in run and run["run"].endswith(results["settings"]["dtype"]):
            checks.append({"check": f"ran: {run['run']}", "ok": False})
    for kind in ("off", "on"):
        if kind in samples.get(half, {}) and kind in samples.get("float32", {}):
            row = {"check": f"{half} beside float32, {_NAMES[kind]}", "ok": None}
            checks.append(row | _apart(samples[half][kind], samples["float32"][kind]))
    for file in results["files"]:
        if "published" in file:
            same = file["sha256"] == file["published"]
            checks.append({"check": f"SHA-256 is the published one: {file['component']} {file['file']}", "ok": same})


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs are equal bit for bit, including NaN."""
    import torch

    shapes = (a.shape, a.dtype) == (b.shape, b.dtype)
    return shapes and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _apart(output: torch.Tensor, reference: torch.Tensor) -> Row:
    """The largest and the root mean square difference of two outputs, and the root mean square of the reference."""
    apart = output.double() - reference.double()
    return {"max_apart": float(apart.abs().max()), "rms_apart": _rms(apart), "rms_of_reference": _rms(reference)}


def _rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def files(pipe: Any, request: Request) -> list[Row]:
    """The files of a pair's weights: component, name, bytes, and SHA-256 of their present content.

    For a file in the hub's cache, `published` is the hub's SHA-256. For other files it is missing: compare the hash
    with the one on the site from which the file comes.
    """
    of = [(name, Path(p)) for name, part in pipe.components.items() for p, *_ in files_of(part)]
    for role, model in request.models.items():  # LoRAs and IP-Adapters are not among the components
        source = resolve(model, role.partition(".")[0])
        path = source.path or (cached(source, None, source.inside) if source.inside else None)
        if path is not None and path.is_file() and path.resolve() not in {each.resolve() for _, each in of}:
            of.append((role, path))
    rows: list[Row] = []
    hashes: dict[Path, str] = {}
    for name, path in sorted(of):
        real = path.resolve()
        if real not in hashes:
            hashes[real] = sha256([real])
        row = {"component": name, "file": path.name, "bytes": real.stat().st_size, "sha256": hashes[real]}
        if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
            row["published"] = real.name
        rows.append(row)
    return rows


def text(results: dict[str, Any]) -> str:
    """The report: Markdown, with all results as JSON at its end."""
    settings = results["settings"]
    size = f"{settings['width']}x{settings['height']}" + f", {settings['num_frames']} frames" * bool(
        settings["num_frames"]
    )
    lines = [f"# w2sd-video: trial of {results['preset']}", ""]
    lines += [f"{results['created']}; {settings['num_inference_steps']} steps, {size}, on {settings['device']}.", ""]
    lines += ["## Checks", ""]
    for check in results["checks"]:
        lines.append(f"- {verdict(check)}: {check['check']}{numbers(check)}")
    lines += ["", "## Runs", "", _table(results["runs"]), ""]
    counted = "of the run, on the GPU" if settings["device"] == "cuda" else "of the whole process until then"
    lines += [f"Peaks of memory are {counted}. `rms` is the output's root mean square."]
    lines += ["", "## Weights", "", _table(results["files"])]
    lines += ["", "## Machine", ""]
    lines += [f"- {name}: {value}" for name, value in {**results["versions"], **results["devices"]}.items()]
    block = json.dumps(finite(results), indent=1)
    return "\n".join([*lines, "", "## All of it", "", "```json", block, "```", ""])


def verdict(check: Row) -> str:
    """The verdict of a check as a word."""
    return {True: "ok", False: "FAILED", None: "measured"}[check["ok"]]


def numbers(check: Row) -> str:
    """A check's numbers in brackets, or an empty text."""
    listed = ", ".join(f"{name.replace('_', ' ')} {x:.4g}" for name, x in check.items() if isinstance(x, float))
    return f" ({listed})" if listed else ""


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    return tables.markdown([tables.Table(columns, cells)]) if columns else "None."


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _peak(device: torch.device) -> float | None:
    """The peak memory in GiB: on a GPU since `start_peak`, else of the process since its start; None on Windows."""
    if device.type == "cuda":
        return measure.peak(device)
    most = peak_memory()
    return most and most / measure.GIB
