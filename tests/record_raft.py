"""Records `golden/raft.json` with VBench's own classes; run by hand where they can be imported.

    pip install --no-deps vbench==0.1.5 easydict opencv-python-headless scipy
    python tests/record_raft.py

Nothing here imports w2sd_video. Weights and videos come from `RandomState`, whose stream numpy has frozen.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from write_golden import write_golden

GOLDEN = Path(__file__).parent / "golden" / "raft.json"
FRAMES = 3
SIZES = ((128, 128), (136, 200), (130, 250), (256, 144))  # height, width
GRID = 40  # px between the places whose flow is recorded


def seeded(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights for every name of `raft-things.pth`, such that flows are a few px and differ from pair to pair."""
    weights = {}
    for name, shape in shapes.items():
        same = name.replace(".norm3.", ".downsample.1.")  # one norm, which the published file has under two names
        x = np.random.RandomState(zlib.crc32(same.encode())).standard_normal(tuple(shape)).astype(np.float32)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        if len(shape) > 1:
            x *= np.sqrt(2 / np.prod(shape[1:]), dtype=np.float32)
        elif name.endswith("running_var"):
            x = 1 + np.float32(0.2) * np.abs(x)
        elif name.endswith("weight"):
            x = 1 + np.float32(0.1) * x
        else:
            x *= np.float32(0.1)
        if "flow_head.conv2" in name:
            x *= np.float32(0.015)
        weights[name] = torch.from_numpy(x)
    return weights


def video(seed: int, frames: int, height: int, width: int) -> torch.Tensor:
    """(frames, 3, height, width), whole numbers in 0-255: a soft pattern that moves by up to 6 px a frame."""
    random = np.random.RandomState(seed)
    margin = 6 * frames
    size = (1, 3, (height + 2 * margin) // 4 + 1, (width + 2 * margin) // 4 + 1)
    pattern = torch.from_numpy(random.standard_normal(size).repeat(4, 2).repeat(4, 3))
    pattern = F.avg_pool2d(pattern, 5, 1, 2)[0]
    places = np.cumsum(random.randint(-6, 7, (frames, 2)), 0) + margin
    x = torch.stack([pattern[:, y : y + height, x : x + width] for y, x in places])
    return ((x - x.min()) / (x.max() - x.min()) * 255).round().float()


def official() -> Any:
    """VBench's DynamicDegree with `seeded` weights."""
    from easydict import EasyDict
    from vbench.dynamic_degree import DynamicDegree
    from vbench.third_party.RAFT.core.raft import RAFT

    settings = {"small": False, "mixed_precision": False, "alternate_corr": False}
    state = {f"module.{name}": tensor for name, tensor in RAFT(EasyDict(settings)).state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raft.pth"
        torch.save(seeded({name: tuple(tensor.shape) for name, tensor in state.items()}), path)
        return DynamicDegree(EasyDict(settings, model=path), "cpu")


def official_flow(scorer: Any, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The flow between two frames (1, 3, height, width), (1, 2, H, W), and its score, as in `DynamicDegree.infer`."""
    from vbench.third_party.RAFT.core.utils_core.utils import InputPadder

    before, after = InputPadder(before.shape).pad(before, after)
    with torch.no_grad():
        flow = scorer.model(before, after, iters=20, test_mode=True)[1]
    return flow, scorer.get_score(before, flow)


def main() -> None:
    scorer = official()
    state = {f"module.{name}": list(tensor.shape) for name, tensor in scorer.model.state_dict().items()}
    cases = []
    for seed, (height, width) in enumerate(SIZES):
        frames = video(seed, FRAMES, height, width).split(1)
        found = [official_flow(scorer, *pair) for pair in zip(frames, frames[1:], strict=False)]
        flow = [[round(x, 4) for x in part.flatten().tolist()] for part in found[0][0][0, :, ::GRID, ::GRID]]
        cases.append({"size": [height, width], "magnitudes": [round(x, 5) for _, x in found], "flow": flow})
    write_golden(GOLDEN, ("vbench", "torch", "numpy"), shapes=state, cases=cases)


if __name__ == "__main__":
    main()
