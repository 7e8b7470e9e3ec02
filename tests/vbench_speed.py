"""How long the six dimensions take, by VBench's own functions and by ours, side by side in one run, with ratios.

    python tests/vbench_speed.py --videos 8 --size 512

The weights are random, which costs the same; but dynamic_degree stops when its verdict is certain, so it is measured
where every video moves and where none does (random weights are made to give long flows, or short ones). Loading them is
not counted for either. It takes what `vbench-requirements.txt` lists.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from vbench_parity import FILES, Official, frames_of, write_weights

from w2sd_video.eval import weights
from w2sd_video.eval.dimensions import SIX, get
from w2sd_video.eval.evaluate import Scorer
from w2sd_video.eval.videos import Video, find
from w2sd_video.video import write_mp4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--dimensions", default=",".join(SIX))
    options = parser.parse_args()
    dimensions = options.dimensions.split(",")
    weights.check_digest = lambda path: None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, Official(None, depth=24).shapes())
        for n in range(options.videos):
            clip = (options.size, options.size, options.frames, 8.0, "slide", 4.0)
            write_mp4(frames_of(f"speed-{n}", clip), folder / f"{n}.mp4", 8)
        videos = find([folder / f"{n}.mp4" for n in range(options.videos)])
        print(f"{options.videos} videos of {options.frames} frames {options.size}x{options.size}", end=", ")
        print(f"{torch.get_num_threads()} threads; seconds a video")
        print(f"{'':32}{'VBench':>10}{'ours':>10}{'ratio':>8}")
        theirs = {"moving": 0.0, "still": 0.0}
        for dimension in dimensions:
            if dimension != "dynamic_degree":
                seconds = one_by_one(dimension, folder, videos)
                report(dimension, *seconds)
                theirs = {kind: total + seconds[0] for kind, total in theirs.items()}
        for kind, factor in (("moving", 100.0), ("still", 0.01)):
            lengthen(folder / FILES["raft"], factor)
            if "dynamic_degree" in dimensions:
                seconds = one_by_one("dynamic_degree", folder, videos)
                report(f"dynamic_degree, {kind}", *seconds)
                theirs[kind] += seconds[0]
            scorer = Scorer([get(dimension) for dimension in dimensions], folder, torch.device("cpu"))
            report(f"all in one pass, {kind}", theirs[kind], timed(scorer, videos))


def lengthen(path: Path, factor: float) -> None:
    """Multiplies the flow that RAFT's weights give."""
    state = torch.load(path, weights_only=True)
    for name in state:
        if "flow_head.conv2" in name:
            state[name] = state[name] * factor
    torch.save(state, path)


def one_by_one(dimension: str, folder: Path, videos: list[Video]) -> tuple[float, float]:
    """Seconds a video that a dimension takes by VBench's function, and by ours."""
    score = getattr(Official(folder, depth=24), f"_{dimension}")()
    began = time.perf_counter()
    for video in videos:
        with torch.no_grad():
            score(str(video.path))
    theirs = (time.perf_counter() - began) / len(videos)
    return theirs, timed(Scorer([get(dimension)], folder, torch.device("cpu")), videos)


def timed(scorer: Scorer, videos: list[Video]) -> float:
    scorer.load(scorer.ready)
    began = time.perf_counter()
    for video in videos:
        scorer.score(video, video.open(), scorer.ready)
    return (time.perf_counter() - began) / len(videos)


def report(what: str, theirs: float, ours: float) -> None:
    print(f"{what:32}{theirs:10.2f}{ours:10.2f}{theirs / ours:8.2f}", flush=True)


if __name__ == "__main__":
    main()
