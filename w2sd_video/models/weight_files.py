"""Which files of a component's folder hold its weights."""

from __future__ import annotations

import re
from pathlib import Path

# What diffusers and transformers call them; other programs leave files beside them, such as `openvino_model.bin`.
_FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?"
    r"\.(?P<suffix>safetensors|bin)"
)


def weight_files(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> list[Path]:
    """The files that diffusers and transformers load from a component's folder; several for shards."""
    files = _by_kind(folder)
    for suffix in ("bin",) if use_safetensors is False else ("safetensors", "bin"):
        if kind := files.get((variant, suffix)):
            return kind
    return []


def usual_variant(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> str | None:
    """The variant to load: `variant`; or, where a folder holds no plain weights, the only one there, or fp16."""
    if variant is not None or weight_files(folder, None, use_safetensors):
        return variant
    suffixes = ("bin",) if use_safetensors is False else ("safetensors", "bin")
    there = {name for (name, suffix), _ in _by_kind(folder).items() if name and suffix in suffixes}
    return there.pop() if len(there) == 1 else "fp16" if "fp16" in there else None


def _by_kind(folder: Path) -> dict[tuple[str | None, str], list[Path]]:
    kinds: dict[tuple[str | None, str], list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if kind := _FILE.fullmatch(file.name):
            kinds.setdefault((kind["variant"], kind["suffix"]), []).append(file)
    return kinds
