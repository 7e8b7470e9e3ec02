"""Scores by VBench's own package, for its dimensions that are not computed here: `--backend official`.

The package pins old versions of what this project builds on, so it mostly lives in an environment of its own.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from w2sd_video.errors import Refused

from .dimensions import OFFICIAL, VBENCH, Dimension
from .official_worker import STARTED
from .videos import Video

# What VBench looks for in a video of these, it knows for its own prompts only.
OWN_PROMPTS = tuple(name for name in OFFICIAL if name not in ("human_action", "temporal_style"))
WEIGHTED = {"subject_consistency": (1, None), "background_consistency": (1, 1), "appearance_style": (0, None)}


class Official(Dimension):
    """A dimension that VBench's package scores; `version` is the package's."""

    prompted = True

    def __init__(self, name: str, version: str):
        self.name, self.version = name, version
        self.weighted = WEIGHTED.get(name, self.weighted)


def dimensions(names: list[str], python: str) -> list[Dimension]:
    """VBench's dimensions by name, of the package that `python` has.

    Raises:
        Refused: one is not VBench's.
        FileNotFoundError: there is no such Python, or it does not have the package; says how to get it.
    """
    for name in names:
        if name not in (*VBENCH, *OFFICIAL):
            raise Refused("dimensions", name, f"VBench's own package has {', '.join((*VBENCH, *OFFICIAL))}")
    code = "import importlib.metadata as m; print(m.version('vbench'))"
    try:
        version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        # Its CLIP imports what setuptools had until then.
        ways = "python3.10 -m venv vbench-env && vbench-env/bin/pip install vbench 'setuptools<81'"
        raise FileNotFoundError(
            f"VBench's package is not installed for {python}. In an environment of its own: {ways}; then give"
            " --official-python vbench-env/bin/python"
        ) from None
    return [Official(name, f"vbench-{version}") for name in names]


def score(
    name: str,
    videos: list[Video],
    python: str,
    device: str,
    progress: Callable[[int, Video], None] = lambda done, video: None,
) -> tuple[dict[Video, float], dict[Video, str]]:
    """The scores that the package gives videos on a dimension, and why others have none.

    Of a dimension that looks for what VBench's own prompts ask for, videos of other prompts have neither.

    Args:
        progress: called before each video as progress(done, video).

    Raises:
        ValueError: it failed; says why.
    """
    jobs = [{"path": str(video.path), "prompt": video.prompt or ""} for video in videos]
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder, "job.json"), Path(folder, "out.json")
        wanted = {"dimension": name, "device": device, "suite": name in OWN_PROMPTS, "videos": jobs, "out": str(out)}
        job.write_text(json.dumps(wanted), encoding="utf-8")
        # Not run as a file: this folder's own modules would go before those of the same names that it imports.
        worker = Path(__file__).with_name("official_worker.py").read_text(encoding="utf-8")
        by_path = {str(video.path): video for video in videos}
        code, errors = _run([python, "-c", worker, str(job)], lambda done, path: progress(done, by_path[path]))
        if code:
            said = errors.strip().splitlines() or [f"exit code {code}"]
            raise ValueError(f"VBench's package failed: {said[-1]}")
        answer = json.loads(out.read_text(encoding="utf-8"))
    scores, problems = {}, {}
    for video in videos:
        if (problem := answer["problems"].get(str(video.path))) is not None:
            problems[video] = f"VBench's package failed: {problem}"
            continue
        score = answer["scores"].get(str(video.path))
        if score is not None and math.isfinite(score):
            scores[video] = score
        elif score is not None or name not in OWN_PROMPTS:
            problems[video] = "VBench gave it no score"
    return scores, problems


def _run(command: list[str], started: Callable[[int, str], None]) -> tuple[int, str]:
    """Runs the worker, and tells which video it starts with; its exit code, and what it wrote to stderr."""
    how: dict[str, Any] = {"text": True, "encoding": "utf-8", "errors": "replace"}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, **how) as ran,
    ):
        assert ran.stdout
        try:
            for line in ran.stdout:
                if line.startswith(STARTED):
                    started(*json.loads(line.removeprefix(STARTED)))
        except BaseException:  # as when it is interrupted
            ran.kill()
            raise
        code = ran.wait()
        errors.seek(0)
        return code, errors.read()
