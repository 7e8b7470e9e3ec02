"""Small plans, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

from w2sd_video import runs
from w2sd_video.plans import Folder, Plan

SMALL = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}

ARMS = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}

TEXTS = ["a red circle", "a blue square"]


def plan(**more) -> Plan:
    return Plan(**{"prompts": TEXTS, "settings": SMALL, "axes": ARMS, **more})


def made(folder: Path) -> list[dict]:
    return [line for line in Folder(folder).lines() if "error" not in line]


def frames(folder: Path) -> dict[str, str]:
    """The frames' hashes of every video of a run, by its place."""
    return {
        str(path.relative_to(folder)): json.dumps(runs.read_sidecar(path)[1]["videos"][name]["frames_sha256"])
        for path in sorted(folder.rglob("videos/*/*.json"))
        for name in runs.read_sidecar(path)[1]["videos"]
    }
