"""Runs two commits on this machine and compares what they make of the shipped presets, frame by frame.

    python tests/compare_commits.py BASE [HEAD] [--steps 4]

HEAD is the working tree where it is not given. Each shipped preset samples W2SD, plain and weak alone, by the command
line, in the environment that runs this script. Printed is, for each, whether the frames are the same to the byte, and
if not, the largest difference in levels of 255 and how many values differ. Exit code 1: a preset differs by more than
one level, or does not run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
VIDEO, IMAGE = "a red circle moving right", "a red circle"
RUNS: dict[str, tuple[str, ...]] = {
    "shapes": ("generate", VIDEO),
    "shapes-motion": ("generate", VIDEO),
    "shapes-image": ("image", IMAGE),
    "shapes-guidance": ("image", IMAGE),
    "shapes-prompt": ("image", IMAGE),
    "shapes-style": ("image", IMAGE),
    "shapes-control": ("image", IMAGE, "--control", "edges.png"),
    "shapes-picture": ("image", IMAGE, "--ip-image", "picture.png"),
    "shapes-digits": ("image", "3"),
}
VARIANTS: dict[str, tuple[str, ...]] = {"w2sd": (), "plain": ("--plain",), "weak": ("--weak-only",)}
ROOMS = ("pipelines", "eval", "prompts")


def package(commit: str | None, folder: Path) -> Path:
    """The package as it is installed, of a commit or of the working tree, in a folder to import it from."""
    if commit is None:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        tar = ["tar", "-c", "--null", "-T", "-"]
        packed = subprocess.run(tar, cwd=ROOT, input=listed, check=True, capture_output=True).stdout
    else:
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
    for room in ROOMS:
        (folder / room).rename(folder / "w2sd_video" / room)
    return folder


def run(source: Path, arguments: list[str], folder: Path) -> str | None:
    """The command line of a package, in a folder. Returns the end of what it says, if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "w2sd_video.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"


def frames(folder: Path) -> list[np.ndarray]:
    """All pictures that a run wrote."""
    return [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in sorted(folder.rglob("*.png"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?")
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        sources = {"base": package(given.base, work / "base"), "head": package(given.head, work / "head")}
        for name in ("edges", "picture"):
            more = ["--edges"] if name == "edges" else []
            failed = run(sources["base"], ["shapes", "render", VIDEO, "--out", f"{name}.png", *more], work)
            if failed:
                raise SystemExit(f"shapes render of {given.base}: {failed}")
        for preset, (kind, *rest) in RUNS.items():
            for variant, options in VARIANTS.items():
                failures, made = [], []
                for side, source in sources.items():
                    out = work / "out" / side / preset / variant
                    png = ["--png"] if kind == "generate" else []
                    call = [kind, *rest, "--preset", preset, "--steps", str(given.steps), "--out", str(out), *png]
                    if failed := run(source, [*call, *options], work):
                        failures.append(f"{side} {failed}")
                    made.append(frames(out) if out.exists() else [])
                if failures:
                    same = len(failures) == 2
                    print(f"{preset} {variant}: {'both refuse' if same else 'FAILED'}: {failures[-1]}", flush=True)
                    worst = max(worst, 0 if same else 255)
                    continue
                base, head = (np.stack(pictures) for pictures in made)
                difference = np.abs(base - head)
                worst = max(worst, int(difference.max()))
                share = f"{int((difference > 0).sum())} of {difference.size} values differ"
                says = "same bytes" if not difference.any() else f"at most {difference.max()} levels, {share}"
                print(f"{preset} {variant}: {says}", flush=True)
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
