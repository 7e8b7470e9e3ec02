"""AMT's frames against VBench's motion_smoothness, recorded (`record_amt.py`) and, where it can be imported, live."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import ImageFile
from record_amt import FRAMES, GOLDEN, SIZES, official, official_score, seeded
from record_raft import video
from torch import Tensor, nn

from w2sd_video.eval.networks import amt, correlations
from w2sd_video.eval.networks.amt import between, load

GOLD = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture
def without_vbench(monkeypatch) -> None:
    """As in a process that has not imported it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "vbench"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    if importlib.util.find_spec("vbench") is None:
        pytest.skip("vbench is not installed")
    path = tmp_path_factory.mktemp("amt") / "amt-s.pth"
    torch.save({"epoch": 300, "state_dict": seeded(GOLD["shapes"]), "optim": {"param_groups": [{"lr": 1e-4}]}}, path)
    return path


@pytest.fixture(scope="module")
def network(weights) -> nn.Module:
    return load(weights)


def score(network: nn.Module, frames: Tensor) -> tuple[float, Tensor]:
    """VBench's score of frames (n, 3, h, w) in 0-255, and the frames made for it."""
    known = frames[::2].split(1)
    made = torch.cat([between(network, a / 255, b / 255) for a, b in zip(known, known[1:], strict=False)])
    difference = (made.float() - frames[1::2]).abs().double().mean().item()
    return (255 - difference) / 255, made


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLD["cases"], ids=lambda case: "{}x{}".format(*case["size"]))
def test_frames_and_scores_are_those_that_vbench_computes(network, case):
    seed = SIZES.index(tuple(case["size"]))
    ours, made = score(network, video(seed, FRAMES, *case["size"]))
    assert ours == pytest.approx(case["score"], abs=1e-6)
    torch.testing.assert_close(made.double().mean((2, 3)), torch.tensor(case["means"]).double(), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_batch_equals_its_members(network):
    frames = video(5, 4, 136, 200) / 255
    batch = between(network, frames[:-1], frames[1:]).int()
    members = torch.cat([between(network, a, b) for a, b in zip(frames.split(1), frames[1:].split(1), strict=False)])
    assert (batch - members.int()).abs().max() <= 1  # a rounding error, where a value is nearly whole
    assert (batch != members.int()).float().mean() < 1e-4


def test_correlations_looked_up_are_those_of_vbenchs_volumes(network, monkeypatch):
    block = network.forward.__func__.__globals__["BidirCorrBlock"]
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 84, 16, 19, generator=random)
    centres = (torch.rand(2, 2, 2, 16, 19, generator=random) - 0.25) * 40
    want = block(*features, num_levels=4, radius=3)(*centres)
    monkeypatch.setattr(correlations, "WHOLE", 0)
    got = block(*features, num_levels=4, radius=3)(*centres)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_large_frames_are_the_same_without_vbenchs_volumes(network, monkeypatch):
    frames = video(6, 2, 136, 200) / 255
    want = between(network, *frames.split(1)).int()
    monkeypatch.setattr(correlations, "WHOLE", 0)
    monkeypatch.delattr(type(network).forward.__globals__["BidirCorrBlock"], "corr")
    got = between(network, *frames.split(1)).int()
    assert (got - want).abs().max() <= 1 and (got != want).float().mean() < 1e-4


def test_frames_are_padded_on_all_sides_and_their_fractions_cut_off():
    class Shown(nn.Module):
        def forward(self, before, after, time, eval):
            assert before.shape == after.shape == (2, 3, 128, 144) and eval
            assert time.flatten().tolist() == [0.5, 0.5]
            self.seen = before
            return {"imgt_pred": before * 0 + 0.9999}

    shown = Shown()
    frames = torch.arange(2 * 3 * 125 * 131).reshape(2, 3, 125, 131) / 1e6
    made = between(shown, frames, frames)
    assert torch.equal(shown.seen[..., 1:126, 6:137], frames)
    assert torch.equal(shown.seen[..., 0, 0], frames[..., 0, 0])
    assert made.shape == frames.shape and made.dtype == torch.uint8
    assert (made == 254).all()


def test_only_the_networks_files_of_vbench_are_imported(weights, without_vbench):
    load(weights)
    assert not [name for name in sys.modules if name.split(".")[0] == "vbench"]


def test_a_vbench_that_was_imported_before_stays(weights, without_vbench, monkeypatch):
    spec = importlib.util.find_spec("vbench")
    there = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "vbench", there)
    load(weights)
    assert sys.modules["vbench"] is there


def test_without_vbench_the_error_says_how_to_install_it_and_its_licence(monkeypatch):
    monkeypatch.setattr(amt, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps vbench==0\.1\.5 .*CC BY-NC 4\.0"):
        load(Path("amt-s.pth"))


def test_loading_does_not_have_pillow_fill_up_damaged_pictures(weights, without_vbench, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    load(weights)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_loading_leaves_float32_without_gradients_and_the_random_state(weights):
    before = torch.get_rng_state()
    network = load(weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in network.parameters()} == {(torch.float32, "cpu", False)}


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", [1, 2], {"epoch": 3}, {"state_dict": {"more": torch.zeros(1)}}, {"state_dict": Path("x")}],
    ids=str,
)
def test_a_file_that_does_not_hold_amts_weights_is_refused_by_name(weights, tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"odd\.pth"):
        load(path)


def test_frames_too_small_for_four_levels_of_correlation_are_refused():
    with pytest.raises(ValueError, match="frames: 256x112 px is too small for AMT: sides must be 113 px or more"):
        between(nn.Identity(), torch.zeros(1, 3, 112, 256), torch.zeros(1, 3, 112, 256))


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"before, after: shapes \(1, 3, 128, 128\) and \(1, 3, 128, 136\)"):
        between(nn.Identity(), torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 136))


@pytest.fixture(scope="module")
def theirs():
    for name in ("vbench", "cv2", "omegaconf", "decord", "torchvision", "imageio"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    return official()


@pytest.mark.slow
def test_equals_the_installed_vbench(network, theirs):
    frames = video(8, FRAMES, 133, 170)
    want, made = official_score(theirs, frames)
    ours, our_frames = score(network, frames)
    assert ours == pytest.approx(want, abs=1e-6)
    assert sum((a.permute(1, 2, 0).numpy() != b).mean() for a, b in zip(our_frames, made, strict=True)) < 1e-3


def test_of_frames_that_we_refuse_for_their_size_vbench_makes_nothing(theirs):
    assert all((image == 0).all() for image in official_score(theirs, video(8, 3, 112, 128))[1])
