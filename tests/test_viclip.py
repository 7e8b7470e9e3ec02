"""ViCLIP against VBench's own, recorded (`record_viclip.py`) and, where it is installed, live."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from record_viclip import GOLDEN, ODD, PLAIN, PROMPTS, TINY, VIDEOS, official, seeded, video
from safetensors.torch import save_file
from seeded import encoder
from torch.nn.functional import cosine_similarity

from w2sd_video.eval.networks.viclip import ViCLIP, load

SIDE = TINY["side"]
GOLD = json.loads(GOLDEN.read_text(encoding="utf-8"))


FEATURES = {"projection_dim": TINY["features"]}
SIZES = {
    "vision": encoder(*TINY["vision"]) | FEATURES | {"image_size": SIDE, "patch_size": 14},
    "text": encoder(*TINY["text"]) | FEATURES | {"max_position_embeddings": 32},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("viclip") / "tiny.pth"
    torch.save({"model": seeded(GOLD["shapes"])}, path)
    return path


@pytest.fixture(scope="module")
def model(weights) -> ViCLIP:
    return load(weights, **SIZES)


@pytest.fixture(scope="module")
def videos() -> torch.Tensor:
    return torch.stack([video(n, SIDE) for n in VIDEOS])


def _cosines(videos: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return cosine_similarity(videos[:, None], texts[None], dim=-1)


def test_features_and_cosines_are_those_that_vbench_computes(model, videos):
    ours = model.encode_video(videos), model.encode_text(list(PROMPTS))
    theirs = torch.tensor(GOLD["videos"]), torch.tensor(GOLD["texts"])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    torch.testing.assert_close(_cosines(*ours), _cosines(*theirs), rtol=0, atol=1e-6)
    assert _cosines(*ours).std(dim=0).min() > 0.05  # or the videos could not be told apart


@pytest.mark.parametrize("n", range(len(PLAIN + ODD)))
def test_token_ids_are_those_of_vbench(model, n):
    if n >= len(PLAIN):
        pytest.importorskip("ftfy")
    ids, want = model.tokenize([(PLAIN + ODD)[n]])[0].tolist(), GOLD["ids"][n]
    assert len(ids) == 32
    assert ids[: len(want)] == want
    assert set(ids[len(want) :]) <= {49407}


def test_without_ftfy_a_prompt_that_needs_it_is_refused(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ImportError, match="it\u2019s.*pip install ftfy"):
        model.encode_text(["it\u2019s"])


def test_a_batch_equals_its_members(model, videos):
    torch.testing.assert_close(
        model.encode_video(videos), torch.cat([model.encode_video(v[None]) for v in videos]), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        model.encode_text(list(PROMPTS)), torch.cat([model.encode_text([p]) for p in PROMPTS]), rtol=0, atol=1e-5
    )


def test_the_order_of_frames_matters(model, videos):
    assert not torch.allclose(model.encode_video(videos), model.encode_video(videos.flip(1)), atol=1e-2)


@pytest.mark.parametrize("shape", [(8, 3, 28, 28), (1, 7, 3, 28, 28), (1, 8, 3, 28, 42), (1, 3, 8, 28, 28)])
def test_frames_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"frames: shape .* is not \(B, 8, 3, 28, 28\)"):
        model.encode_video(torch.zeros(shape))


def test_loading_leaves_float32_without_gradients_and_the_random_state(weights):
    before = torch.get_rng_state()
    model = load(weights, **SIZES)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {(torch.float32, "cpu", False)}


@pytest.mark.parametrize("name", ["bare.pth", "tensors.safetensors", "half.pth"])
def test_every_published_layout_loads(model, tmp_path, name):
    state = seeded(GOLD["shapes"])
    path = tmp_path / name
    if name == "half.pth":
        torch.save({key: tensor.half() for key, tensor in state.items()}, path)
    elif name == "bare.pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = load(path, **SIZES).state_dict()
    tolerance = 1e-2 if name == "half.pth" else 0
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded[key], tensor, rtol=0, atol=tolerance)


def test_weights_of_another_size_are_refused(weights):
    with pytest.raises(ValueError, match=r"tiny\.pth: \d+ weights do not fit"):
        load(weights)


@pytest.mark.slow
def test_equals_the_installed_vbench(model, videos):
    for name in ("vbench", "clip", "timm", "torchvision", "einops", "ftfy", "decord", "pkg_resources"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    theirs = official(**TINY)
    assert {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()} == GOLD["shapes"]
    with torch.no_grad():
        features = (
            torch.cat([theirs.encode_vision(v[None], test=True) for v in videos]),
            theirs.encode_text(list(PROMPTS)),
        )
    ours = model.encode_video(videos), model.encode_text(list(PROMPTS))
    torch.testing.assert_close(_cosines(*ours), _cosines(*features), rtol=0, atol=1e-6)
    ids = theirs.text_encoder.tokenize([*PLAIN, *ODD], context_length=32).tolist()
    assert [row[: len(want)] for row, want in zip(ids, GOLD["ids"], strict=True)] == GOLD["ids"]
