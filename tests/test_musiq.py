"""MUSIQ scores as the implementation VBench uses does; the golden numbers are that one's (record_musiq.py)."""

import json
from pathlib import Path

import pytest
import seeded
import torch
from record_musiq import GOLDEN, SIZES, reference, scores
from safetensors.torch import save_file
from seeded import pictures
from shared import shared

from w2sd_video.eval.networks.musiq import load

RECORDED = json.loads(GOLDEN.read_text())
# Of a scale of 0-100. Float32 alone differs by 2e-5, the other GELU by 3e-3, antialiasing by 0.3; a norm's epsilon can
# change by a factor of ten and stay within.
TOLERANCE = 1e-4


def filled():
    return seeded.fill({name: [int(n) for n in shape.split("x")] for name, shape in RECORDED["shapes"].items()})


@pytest.fixture(scope="module")
def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)


@pytest.fixture(scope="module")
def checkpoint():
    def write(folder):
        torch.save(filled(), folder / "musiq.pth")

    return shared("musiq", write, Path(seeded.__file__), RECORDED["shapes"]) / "musiq.pth"


@pytest.fixture(scope="module")
def musiq(checkpoint):
    return load(checkpoint)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.slow_unless(case=lambda size: size[0] * size[1] < 100_000)
def test_scores_are_those_recorded_from_the_reference(musiq, size):
    recorded = [float(score) for score in RECORDED["scores"]["{}x{}".format(*size)].split()]
    assert musiq(pictures(*size)).tolist() == pytest.approx(recorded, abs=TOLERANCE)


def test_the_recorded_scores_tell_pictures_and_sizes_apart():
    recorded = [float(score) for line in RECORDED["scores"].values() for score in line.split()]
    assert len({round(score, 2) for score in recorded}) == len(recorded)


@pytest.mark.parametrize("size", [(100, 37), (224, 224)])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda size: size == (100, 37))
def test_a_batch_scores_as_its_frames_do_alone(musiq, size):
    frames = pictures(*size)
    assert musiq(frames).tolist() == pytest.approx(scores(musiq, frames), rel=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (190, 113)])
@pytest.mark.slow
def test_scores_are_those_of_the_installed_reference(musiq, checkpoint, size):
    pytest.importorskip("pyiqa")
    frames = pictures(*size)
    assert musiq(frames).tolist() == pytest.approx(scores(reference(checkpoint), frames), abs=TOLERANCE)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 64, 64, 3)])
def test_what_is_not_a_batch_of_frames_is_refused(musiq, shape):
    with pytest.raises(ValueError, match="frames"):
        musiq(torch.zeros(shape))


def test_the_model_is_frozen_in_float32_and_eval_mode(musiq):
    assert not any(module.training for module in musiq.modules())
    assert {(p.dtype, p.requires_grad) for p in musiq.parameters()} == {(torch.float32, False)}


@pytest.mark.slow
@pytest.mark.parametrize("key", ["params", "state_dict", "safetensors"])
def test_every_layout_of_a_checkpoint_gives_the_same_weights(musiq, weights, tmp_path, key):
    if key == "safetensors":
        save_file(weights, path := tmp_path / "musiq.safetensors")
    else:
        torch.save({key: weights}, path := tmp_path / "musiq.pth")
    torch.testing.assert_close(load(path).state_dict(), musiq.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_another_network_is_refused(weights, tmp_path):
    path = tmp_path / "other.pth"
    hollow = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in weights.items()}
    others = {
        "head.bias first": {name: tensor for name, tensor in hollow.items() if name != "head.bias"},
        "extra first": hollow | {"extra": torch.zeros(1)},
        "size mismatch": hollow | {"head.weight": torch.zeros(10, 384)},
        "not tensors by name": [torch.zeros(1)],
    }
    for reason, content in others.items():
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"other.pth .*{reason}"):
            load(path)
