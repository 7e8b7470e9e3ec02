"""The commands, run in this process, and tiny models of the real classes for them, saved as a user would have them."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
from copies import UNCHANGED
from diffusers import StableDiffusionXLPipeline
from typer.testing import CliRunner

from w2sd_video import cli

PROMPT = "a red cat"
STEM = "a-red-cat-seed0"
STEPS = 3


def save_models(root: Path) -> list[str]:
    """Saves tiny strong, weak and motion models in diffusers' layout; the options that name their folders."""
    for name, seed in (("strong", 0), ("weak", 10)):
        encoders = dict(zip(("text_encoder", "text_encoder_2"), tiny.text_encoders(seed), strict=True))
        parts = tiny.components(weak=False, unet=tiny.unet2d(seed), **encoders)
        parts = {key: value for key, value in parts.items() if key not in ("motion_adapter", "weak_unet")}
        StableDiffusionXLPipeline(**parts).save_pretrained(root / name)
    tiny.motion_adapter().save_pretrained(root / "motion")
    UNCHANGED.append(str(root))
    return [part for name in ("strong", "weak", "motion") for part in (f"--{name}", str(root / name))]


def run(*arguments: object, code: int = 0, typed: str | None = None) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=typed)
    assert result.exit_code == code, result.output
    return result.output


def generate(*arguments: object, code: int = 0) -> str:
    return run("generate", *arguments, code=code)


def sidecar(name: str = STEM, folder: str = "outputs") -> dict:
    return json.loads((Path(folder) / f"{name}.json").read_text())


def hashes(name: str = STEM, folder: str = "outputs") -> dict[str, str]:
    return {variant: video["frames_sha256"] for variant, video in sidecar(name, folder)["videos"].items()}


def listing(folder: str = "outputs") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).exists() else []
