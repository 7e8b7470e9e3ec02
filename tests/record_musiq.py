"""Records MUSIQ's names, shapes and scores from pyiqa, the implementation VBench scores with.

Run by hand, where pyiqa is installed (`pip install pyiqa`); the tests only read what it wrote:

    python tests/record_musiq.py
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from seeded import fill, pictures

GOLDEN = Path(__file__).parent / "golden" / "musiq.json"
# Square, wide and tall; multiples of a patch and not; smaller than a patch. At 384x210 the rounding of the resized
# side depends on the order of its products.
SIZES = ((16, 16), (33, 65), (64, 64), (100, 37), (384, 210), (288, 512), (511, 287), (512, 512))


def reference(weights: Path) -> torch.nn.Module:
    """pyiqa's MUSIQ as VBench's imaging_quality sets it up."""
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained_model_path=str(weights))
    model.training = False
    return model


@torch.no_grad()
def scores(model: torch.nn.Module, frames: torch.Tensor) -> list[float]:
    return [float(model(frame[None])) for frame in frames]


def main() -> None:
    from pyiqa.archs.musiq_arch import MUSIQ

    shapes = {name: list(tensor.shape) for name, tensor in MUSIQ(pretrained=False).state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "musiq.pth")
        torch.save(fill(shapes), path)
        model = reference(path)
    golden = {
        "source": f"pyiqa {version('pyiqa')}, torch {torch.__version__}",
        "shapes": {name: "x".join(map(str, shape)) for name, shape in shapes.items()},
        "scores": {f"{h}x{w}": " ".join(f"{s:.6f}" for s in scores(model, pictures(h, w))) for h, w in SIZES},
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
