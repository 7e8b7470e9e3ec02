"""How long the six dimensions take, by VBench's own functions and by ours, side by side in one run, with ratios.

    python tests/vbench_speed.py --videos 8 --size 512

The weights are random, which costs the same. Videos half of which move, as dynamic_degree stops when it is certain.
Loading networks is not counted for either. It takes what `vbench-requirements.txt` lists.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from vbench_parity import Official, frames_of, write_weights
from w2sd_video.eval import weights
from w2sd_video.eval.dimensions import SIX, get
from w2sd_video.eval.evaluate import Scorer
from w2sd_video.eval.videos import find

from w2sd_video.video import write_mp4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--dimensions", default=",".join(SIX))
    options = parser.parse_args()
    dimensions = options.dimensions.split(",")
    weights._check = lambda path: None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, Official(None, depth=24).shapes())
        for n in range(options.videos):
            moving = n % 2
            kind = (options.size, options.size, options.frames, 8, "slide", 9.0 * moving)
            write_mp4(frames_of(f"speed-{n}", kind), folder / f"{n}.mp4", 8)
        videos = find([folder / f"{n}.mp4" for n in range(options.videos)])
        official = Official(folder, depth=24)
        total = {"theirs": 0.0, "ours": 0.0}
        print(f"{options.videos} videos of {options.frames} frames {options.size}x{options.size}", end=", ")
        print(f"{torch.get_num_threads()} threads; seconds a video")
        print(f"{'':24}{'VBench':>10}{'ours':>10}{'ratio':>8}")
        for dimension in dimensions:
            score = getattr(official, f"_{dimension}")()
            scorer = Scorer([get(dimension)], folder, torch.device("cpu"))
            scorer.load(scorer.ready)
            seconds = {"theirs": 0.0, "ours": 0.0}
            for video in videos:
                began = time.perf_counter()
                with torch.no_grad():
                    score(str(video.path))
                seconds["theirs"] += time.perf_counter() - began
                began = time.perf_counter()
                scorer.score(video, video.open(), scorer.ready)
                seconds["ours"] += time.perf_counter() - began
            report(dimension, seconds, len(videos))
            total = {who: total[who] + seconds[who] for who in total}
        report("one by one", total, len(videos))
        scorer = Scorer([get(dimension) for dimension in dimensions], folder, torch.device("cpu"))
        scorer.load(scorer.ready)
        began = time.perf_counter()
        for video in videos:
            scorer.score(video, video.open(), scorer.ready)
        report("all in one pass", total | {"ours": time.perf_counter() - began}, len(videos))


def report(what: str, seconds: dict[str, float], videos: int) -> None:
    theirs, ours = seconds["theirs"] / videos, seconds["ours"] / videos
    print(f"{what:24}{theirs:10.2f}{ours:10.2f}{theirs / ours:8.2f}", flush=True)


if __name__ == "__main__":
    main()
