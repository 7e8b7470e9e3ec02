"""What this machine has: versions, devices, ffmpeg, and the weights of every preset."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from . import presets, runs, video

if TYPE_CHECKING:
    from .loading import Argument

PACKAGES = (
    "w2sd-video torch diffusers transformers accelerate peft safetensors huggingface-hub numpy pillow imageio-ffmpeg"
)
Rows = list[tuple[str, str]]
ROLES: tuple[Argument, ...] = ("strong", "weak", "motion_adapter")


def report() -> dict[str, Rows]:
    """Sections of (what, what was found) rows."""
    return {
        "Versions": versions(),
        "Devices": devices(),
        "ffmpeg": [ffmpeg()],
        "Weights": weights(),
        "Weights of scorers": scorers(),
    }


def versions() -> Rows:
    rows = [("python", f"{platform.python_version()} on {platform.platform()}")]
    for name in PACKAGES.split():
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, f"missing: pip install {name}"))
    return rows


def devices() -> Rows:
    """The processor and the accelerators that torch can use, with their memory."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [("cpu", f"{cores} cores, {torch.get_num_threads()} threads, {_memory()}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "Apple GPU, shares the memory"))
    return rows


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 2**30:.0f} GiB of memory, {memory.available / 2**30:.0f} GiB free"


def ffmpeg() -> tuple[str, str]:
    try:
        program = video.ffmpeg()
        said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
        return (program, said.split(" Copyright")[0].removeprefix("ffmpeg version "))
    except (OSError, subprocess.CalledProcessError) as error:
        return ("missing", f"{error}; pip install imageio-ffmpeg")


def weights() -> Rows:
    """For each preset's models: where they are, or the command that gets them."""
    rows = []
    for name in presets.names():
        preset = presets.load(name)
        for role in ROLES:
            rows.append((f"{name}, {role.replace('_', ' ')}", find(getattr(preset, role), role)))
    return rows


def scorers() -> Rows:
    """For each dimension: its weights' size and licence, where they are, or the command that gets them."""
    from .eval.dimensions import NAMES, get

    rows = []
    for name in NAMES:
        for each in get(name).weights:
            try:
                path = each.find()
                state = f"found: {path}" if path else f"missing; get it with: {each.command}"
            except ValueError as error:
                state = str(error)
            if not each.importable:
                state += f"; and it needs: pip install {each.needs}"
            rows.append((name, f"{each.name}, {each.size / 1e6:,.0f} MB, {each.licence}; {state}"))
    return rows


def find(reference: str, role: Argument) -> str:
    """Where a model of a preset is: `shipped`, `found` with the folder, or `missing` with the way to it."""
    if reference.startswith("package:"):
        folder = runs.PACKAGE / reference.removeprefix("package:")
        if any(folder.rglob("*.safetensors")):
            return f"shipped, {_megabytes(folder)}"
        return f"missing: {folder}; install the package anew"
    from huggingface_hub import try_to_load_from_cache

    for config in ("model_index.json", "config.json"):
        cached = try_to_load_from_cache(reference, config)
        if isinstance(cached, str) and any(Path(cached).parent.rglob("*.safetensors")):
            return f"found, {_megabytes(Path(cached).parent)}: {Path(cached).parent}"
    from .loading import download_command

    return f"missing; get it with: {download_command(role, reference)}"


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"
