"""Records `golden/amt.json` with VBench's own classes; run by hand where they can be imported.

    pip install --no-deps vbench==0.1.5 omegaconf opencv-python-headless antlr4-python3-runtime==4.9.3
    python tests/record_amt.py

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
from PIL import Image
from record_raft import video
from write_golden import write_golden

GOLDEN = Path(__file__).parent / "golden" / "amt.json"
FRAMES = 5
SIZES = ((128, 128), (136, 200), (130, 250), (256, 144))  # height, width


def seeded(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights for every name of `amt-s.pth`, such that flows are a few px and few pixels saturate."""
    weights = {}
    for name, shape in shapes.items():
        x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)
        if len(shape) > 1:
            x *= np.sqrt(1 / np.prod(shape[1:]), dtype=np.float32)
        elif name.endswith("bias"):
            x *= np.float32(0.1)
        else:
            x = np.float32(0.25) + np.float32(0.05) * x
        if "comb_block.2" in name:
            x *= np.float32(0.1)
        elif "convblock.2" in name or "flow_head.2" in name:
            x *= np.float32(0.3)
        weights[name] = torch.from_numpy(x)
    return weights


def official() -> Any:
    """VBench's MotionSmoothness with `seeded` weights."""
    import vbench
    from vbench.motion_smoothness import MotionSmoothness

    config = Path(vbench.__file__).parent / "third_party" / "amt" / "cfgs" / "AMT-S.yaml"

    class Seeded(MotionSmoothness):
        def load_model(self):
            from omegaconf import OmegaConf
            from vbench.third_party.amt.utils.build_utils import build_from_cfg

            self.model = build_from_cfg(OmegaConf.load(config).network)
            shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
            self.model.load_state_dict(seeded(shapes))
            self.model.eval()

    return Seeded(config, None, "cpu")


def official_score(scorer: Any, frames: torch.Tensor) -> tuple[float, list[np.ndarray]]:
    """A video's score, and the frames (height, width, 3), uint8, that were made for it."""
    made = []

    def diff(truth: np.ndarray, image: np.ndarray) -> float:
        made.append(image)
        return type(scorer).get_diff(scorer, truth, image)

    scorer.get_diff = diff
    with tempfile.TemporaryDirectory() as folder:
        for n, frame in enumerate(frames):
            Image.fromarray(frame.permute(1, 2, 0).byte().numpy()).save(Path(folder) / f"{n:03}.bmp")
        score = scorer.motion_score(folder)
    del scorer.get_diff
    return float(score), made


def main() -> None:
    scorer = official()
    cases = []
    for seed, (height, width) in enumerate(SIZES):
        score, made = official_score(scorer, video(seed, FRAMES, height, width))
        means = [[round(x, 4) for x in image.mean((0, 1)).tolist()] for image in made]
        cases.append({"size": [height, width], "score": round(score, 8), "means": means})
    shapes = {name: list(tensor.shape) for name, tensor in scorer.model.state_dict().items()}
    write_golden(GOLDEN, ("vbench", "torch", "numpy"), shapes=shapes, cases=cases)


if __name__ == "__main__":
    main()
