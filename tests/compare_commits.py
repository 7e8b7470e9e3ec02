"""Runs two commits on this machine and compares what they make of the shipped presets, frame by frame; and whether
options, and fields of sidecars, are gone.

    python tests/compare_commits.py BASE [HEAD] [--steps 4]

HEAD is the working tree where it is not given. Each shipped preset samples W2SD, plain and weak alone, by the command
line, in the environment that runs this script. Printed is, for each, whether the frames are the same to the byte, and
if not, the largest difference in levels of 255 and how many values differ. Exit code 1: a preset differs by more than
one level, or does not run; or an option or a field is gone.
"""

from __future__ import annotations

import argparse
import json
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
OPTIONS = """
import json, sys, typer.main
from w2sd_video.cli import app
from w2sd_video.shapes.cli import app as shapes
options = []
def walk(command, name):
    if not hasattr(command, "list_commands"):
        options.extend(f"{name} {each}" for p in command.params for each in [*p.opts, *p.secondary_opts])
        return
    context = command.make_context(name, [], resilient_parsing=True)
    for each in command.list_commands(context):
        walk(command.get_command(context, each), f"{name} {each}".strip())
walk(typer.main.get_command(app), "")
walk(typer.main.get_command(shapes), "shapes")
json.dump([each for each in options if " -" in each], sys.stdout)
"""


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
    command = [sys.executable, "-m", "w2sd_video", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"


def option_names(source: Path) -> set[str]:
    """The options of all commands of a package, each behind its command."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", OPTIONS]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def fields(folder: Path) -> set[str]:
    """The fields of the sidecars that a run wrote, those of their requests behind `request.`."""
    names: set[str] = set()
    for path in folder.rglob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        names |= {*data, *(f"request.{name}" for name in data["request"])}
    return names


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
        gone = option_names(sources["base"]) - option_names(sources["head"])
        print(f"options: {', '.join(sorted(gone))} gone" if gone else "options: none is gone", flush=True)
        for name in ("edges", "picture"):
            more = ["--edges"] if name == "edges" else []
            failed = run(sources["base"], ["shapes", "render", VIDEO, "--out", f"{name}.png", *more], work)
            if failed:
                raise SystemExit(f"shapes render of {given.base}: {failed}")
        for preset, (kind, *rest) in RUNS.items():
            for variant, options in VARIANTS.items():
                failures, made, written = [], [], []
                for side, source in sources.items():
                    out = work / "out" / side / preset / variant
                    png = ["--png"] if kind == "generate" else []
                    call = [kind, *rest, "--preset", preset, "--steps", str(given.steps), "--out", str(out), *png]
                    if failed := run(source, [*call, *options], work):
                        failures.append(f"{side} {failed}")
                    made.append(frames(out) if out.exists() else [])
                    written.append(fields(out) if out.exists() else set())
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
                if lacking := written[0] - written[1]:
                    says += f"; the sidecar lacks {', '.join(sorted(lacking))}"
                    gone |= lacking
                print(f"{preset} {variant}: {says}", flush=True)
    return int(worst > 1 or bool(gone))


if __name__ == "__main__":
    sys.exit(main())
