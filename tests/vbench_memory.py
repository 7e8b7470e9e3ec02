"""The peak of host memory that the six dimensions take on a CPU: all in one process, and each in one of its own.

    python tests/vbench_memory.py --width 1920 --height 1080 --frames 49

All of a process counts, from its start: the libraries, loading, scoring. The weights are random, in the published
layouts and sizes. motion_smoothness takes `vbench`, as always. The files, some 5 GB, are made in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from vbench_parity import GOLDEN, frames_of, write_weights

from w2sd_video.eval import weights
from w2sd_video.eval.dimensions import SIX
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.video import write_mp4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--dimensions", default=",".join(SIX))
    options = parser.parse_args()
    dimensions = options.dimensions.split(",")
    # A process for each call: a peak stays with the process.
    with (
        tempfile.TemporaryDirectory() as name,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh,
    ):
        fresh.apply(write, (Path(name), options.width, options.height, options.frames))
        print(f"{options.frames} frames {options.width}x{options.height}{'peak, MB':>14}{'seconds':>10}")
        for chosen in [dimensions] * (len(dimensions) > 1) + [[dimension] for dimension in dimensions]:
            megabytes, seconds = fresh.apply(measure, (Path(name), chosen))
            print(f"{chosen[0] if len(chosen) == 1 else 'together':24}{megabytes:12.0f}{seconds:10.1f}", flush=True)


def write(folder: Path, width: int, height: int, frames: int) -> None:
    """A video, and weights of full size: the recorded shapes have 2 layers of ViT-L/14."""
    shapes = json.loads(GOLDEN.read_text(encoding="utf-8"))["shapes"]
    clip, first = shapes["clip_l14"], "visual.transformer.resblocks.0."
    for name in [name for name in clip if name.startswith(first)]:
        clip |= {name.replace(first, f"visual.transformer.resblocks.{layer}."): clip[name] for layer in range(24)}
    write_weights(folder, shapes)
    write_mp4(frames_of("memory", (width, height, frames, 8.0, "slide", 4.0)), folder / "video.mp4", 8)


def measure(folder: Path, dimensions: list[str]) -> tuple[float, float]:
    """The peak of this process, in MB, and the seconds that scoring took."""
    weights.check_digest = lambda path: None  # random weights do not have the published hash
    began = time.perf_counter()
    scores = evaluate([folder / "video.mp4"], dimensions, weights=folder, device="cpu")
    seconds = time.perf_counter() - began
    if scores.skipped or scores.problems:
        raise SystemExit(f"{scores.skipped}, {scores.problems}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e6 / 1024
    ), seconds


if __name__ == "__main__":
    main()
