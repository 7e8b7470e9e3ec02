"""AMT-S (Li et al. 2023, arXiv:2304.09790), which interpolates the frame between two frames for motion_smoothness.

The network's code is licensed CC BY-NC 4.0, so this package does not contain it: it is imported from the user's
installed `vbench`. Only that package's files of the network run, which need just torch, numpy and Pillow.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from PIL import ImageFile
from torch import Tensor, nn

from .correlations import correlations, on_demand

# The least side of a padded frame, px. The coarsest of the four correlation levels is 1/64 of it; with a single row or
# column there, the network divides by zero and returns NaN everywhere.
LEAST = 128
MISSING = (
    "motion_smoothness runs AMT-S from VBench's own package, which is not installed:"
    " pip install --no-deps vbench==0.1.5 (code and weights of AMT are CC BY-NC 4.0: not for commercial use)"
)


def load(path: Path) -> nn.Module:
    """AMT-S with the published weights, float32, in eval mode, its parameters without gradients.

    Args:
        path: `amt-s.pth`, which holds the weights as its "state_dict".

    Raises:
        ModuleNotFoundError: `vbench` is not installed; the message says how to install it, and its licence.
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as tensors and plain values, or they are not AMT-S's.
    """
    with torch.device("meta"):
        network = _network()
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(saved["state_dict"], assign=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not {{'state_dict': the weights of AMT-S}}: {str(error)[:300]}") from error
    return network.float().eval().requires_grad_(False)


def _network() -> nn.Module:
    """The network, with the settings of its configuration file.

    `vbench` itself and its imports are not executed: while the network's files are imported, an empty package replaces
    it, unless it has been imported before.
    """
    spec = find_spec("vbench")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(MISSING, name="vbench")
    before, truncated = set(sys.modules), ImageFile.LOAD_TRUNCATED_IMAGES
    if "vbench" not in before:
        sys.modules["vbench"] = module_from_spec(spec)
    try:
        model = import_module("vbench.third_party.amt.networks.AMT-S").Model
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated  # the imports set it, so that Pillow accepts truncated pictures
        if "vbench" not in before:
            for name in [name for name in sys.modules if name.split(".")[0] == "vbench"]:
                del sys.modules[name]
    amt = Path(spec.origin).parent / "third_party" / "amt"
    settings = yaml.safe_load((amt / "cfgs" / "AMT-S.yaml").read_text(encoding="utf-8"))
    network = model(**settings["network"]["params"])
    # A copy of the network's forward, in which the name of its correlation class means ours; VBench's stays unchanged.
    forward = model.forward
    names = forward.__globals__ | {"BidirCorrBlock": _both_ways(forward.__globals__["BidirCorrBlock"])}
    network.forward = MethodType(FunctionType(forward.__code__, names, argdefs=forward.__defaults__), network)
    return network


def _both_ways(whole: Callable[..., Any]) -> Callable[..., Any]:
    """AMT's correlations of two frames, from the first to the second and back. `whole` computes the full volume."""

    def block(first: Tensor, second: Tensor, num_levels: int, radius: int) -> Any:
        if not on_demand(first):
            return whole(first, second, num_levels=num_levels, radius=radius)
        there, back = (correlations(*pair, num_levels, radius) for pair in ((first, second), (second, first)))
        return lambda in_second, in_first: (there(in_second), back(in_first))

    return block


@torch.inference_mode()
def between(network: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    """The frames half-way between pairs of frames, as VBench's motion_smoothness computes them.

    VBench pads the frames on all sides to multiples of 16 by repeating their edges, and rounds the result down to 8
    bits. On CUDA it also runs the network at a lower scale if it expects the frames not to fit into memory; here the
    scale is always 1, as on the CPU.

    Args:
        network: AMT-S, from `load`.
        before, after: (n, 3, h, w), RGB, float32, 0-1.

    Returns:
        (n, 3, h, w), uint8.

    Raises:
        ValueError: the frames are not such tensors, or are too small.
    """
    if before.shape != after.shape or before.ndim != 4 or before.shape[1] != 3:
        shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ValueError(f"before, after: shapes {shapes} are not one (n, 3, height, width)")
    height, width = before.shape[-2:]
    down, right = -height % 16, -width % 16
    if min(height + down, width + right) < LEAST:
        raise ValueError(f"frames: {width}x{height} px is too small for AMT: sides must be {LEAST - 15} px or more")
    top, left = down // 2, right // 2
    padded = (F.pad(frames, (left, right - left, top, down - top), mode="replicate") for frames in (before, after))
    time = before.new_full((len(before), 1, 1, 1), 0.5)
    output = network(*padded, time, eval=True)["imgt_pred"]
    return (output[..., top : top + height, left : left + width] * 255.0).clamp(0, 255).to(torch.uint8)
