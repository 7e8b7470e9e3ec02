"""Every opener of a checkpoint against every kind of damage: refused by the file's name, and nothing in it runs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import test_image_reward
import test_mps
import test_viclip
import torch
from record_image_reward import write_vocabulary
from safetensors.torch import save

from w2sd_video.dit_moe import load_published
from w2sd_video.eval.networks import amt, clip, image_reward, mps, musiq, viclip


def open_image_reward(path: Path) -> Any:
    return image_reward.load(path, write_vocabulary(path.parent), **test_image_reward.SIZES)


def open_raft(path: Path) -> Any:
    pytest.importorskip("torchvision")
    from w2sd_video.eval.networks import raft

    return raft.load(path)


def open_amt(path: Path) -> Any:
    if find_spec("vbench") is None:
        pytest.skip("vbench is not installed")
    return amt.load(path)


OPENERS: dict[str, Callable[[Path], Any]] = {
    "AMT": open_amt,
    "CLIP": partial(clip.image_encoder, layout="B/32"),
    "DiT-MoE": load_published,
    "ImageReward": open_image_reward,
    "MPS": partial(mps.load, **test_mps.SIZES),
    "MUSIQ": musiq.load,
    "RAFT": open_raft,
    "ViCLIP": partial(viclip.load, **test_viclip.SIZES),
}


class Code:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


WHOLE = {"weight": torch.ones(1000)}
# By name and suffix, what a file holds, which may depend on where it lies.
DAMAGE: dict[str, Callable[[Path], bytes]] = {
    "empty.pth": lambda folder: b"",
    "empty.safetensors": lambda folder: b"",
    "text.pth": lambda folder: b"not weights",
    "text.safetensors": lambda folder: b"not weights",
    "begun as an archive.pth": lambda folder: b"PK\x03\x04 cut off",
    "begun as an archive.safetensors": lambda folder: b"PK\x03\x04 cut off",
    "cut.pth": lambda folder: pickled(WHOLE)[:2000],
    "cut.safetensors": lambda folder: save(WHOLE)[:2000],
    "a list.pth": lambda folder: pickled([1, 2]),
    "numbers by name.pth": lambda folder: pickled({"epoch": 3}),
    "text by name.pth": lambda folder: pickled({"model": {"a": "b"}}),
    "a path.pth": lambda folder: pickled(Path("x")),
    "a path by name.pth": lambda folder: pickled({"path": Path("x")}),
    "a path for weights.pth": lambda folder: pickled({"state_dict": Path("x")}),
    "code.pth": lambda folder: pickled({"state_dict": Code(folder / "it ran")}),
}


# Damaged or of another kind, and of AMT, which VBench's code reads, what it is not.
SAYS = "is damaged|tensors by name|not {'state_dict': the weights of AMT-S}"


@pytest.mark.parametrize(
    ("damage", "opener"),
    [(damage, opener) for damage in DAMAGE for opener in OPENERS if opener != "AMT" or damage.endswith(".pth")],
)
def test_a_damaged_checkpoint_is_refused_by_its_name(tmp_path, damage, opener):
    suffix = Path(damage).suffix
    if opener == "DiT-MoE":  # whose files end in .pt
        suffix = suffix.replace(".pth", ".pt")
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(DAMAGE[damage](tmp_path))
    with pytest.raises(ValueError, match=rf"(?s)odd\{suffix}.*({SAYS})"):
        OPENERS[opener](path)
    if damage == "code.pth":
        assert not (tmp_path / "it ran").exists()
        torch.load(path, weights_only=False)
        assert (tmp_path / "it ran").exists()  # or nothing would have been shown


@pytest.mark.parametrize("opener", OPENERS)
def test_a_missing_checkpoint_is_named(tmp_path, opener):
    path = tmp_path / ("none.pt" if opener == "DiT-MoE" else "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth?"):
        OPENERS[opener](path)
