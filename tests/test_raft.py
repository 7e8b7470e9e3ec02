"""RAFT's magnitudes against VBench's own, recorded (`record_raft.py`) and, where it is installed, live."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest
import torch
import torch.nn.functional as F
from record_raft import FRAMES, GOLDEN, GRID, SIZES, official, official_flow, seeded, video
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from w2sd_video.eval.networks import correlations

pytest.importorskip("torchvision")

from torchvision.models.optical_flow.raft import CorrBlock  # noqa: E402

from w2sd_video.eval.networks import raft  # noqa: E402
from w2sd_video.eval.networks.raft import Flow, load  # noqa: E402

GOLD = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return seeded(GOLD["shapes"])


@pytest.fixture(scope="module")
def model(published, tmp_path_factory) -> Flow:
    path = tmp_path_factory.mktemp("raft") / "raft-things.pth"
    torch.save(published, path)
    return load(path)


@pytest.mark.parametrize("case", GOLD["cases"], ids=lambda case: "{}x{}".format(*case["size"]))
@pytest.mark.slow_unless(case=lambda case: case["size"][0] * case["size"][1] < 30_000)
def test_flow_and_magnitudes_are_those_that_vbench_computes(model, case):
    seed = SIZES.index(tuple(case["size"]))
    frames = [model.features(frame) for frame in video(seed, FRAMES, *case["size"]).split(1)]
    magnitudes = [model.magnitude(*pair) for pair in zip(frames, frames[1:], strict=False)]
    assert magnitudes == pytest.approx(case["magnitudes"], rel=2e-5)
    assert abs(magnitudes[0] / magnitudes[1] - 1) > 1e-3  # or the pairs could not be told apart
    flow = model.flow(*frames[:2])[0, :, ::GRID, ::GRID]
    torch.testing.assert_close(flow.flatten(1), torch.tensor(case["flow"]), rtol=0, atol=2e-4)


@pytest.mark.slow
def test_the_last_flow_of_torchvisions_raft_is_ours(model):
    before, after = video(7, 2, 128, 136).split(1)
    with torch.no_grad():
        want = model.raft(2 * (before / 255) - 1, 2 * (after / 255) - 1, num_flow_updates=20)[-1]
    torch.testing.assert_close(model.flow(model.features(before), model.features(after)), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 16, 17), (2, 23, 40), (1, 37, 16)])
def test_correlations_looked_up_are_those_of_the_whole_volume(size):
    frames, height, width = size
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, frames, 256, height, width, generator=random)
    centres = (torch.rand(frames, 2, height, width, generator=random) - 0.25) * 2 * max(size)
    centres[:, :, ::3] = centres[:, :, ::3].round()
    centres[0, :, 1, :5] = torch.tensor([[0.0, -4.0, width - 1, width + 4, 1e6], [0.0, 3.0, height - 1, height, -1e6]])
    block = CorrBlock()
    block.build_pyramid(before, after)
    looked_up = correlations.correlations(before, after)(centres)
    torch.testing.assert_close(looked_up, block.index_pyramid(centres), rtol=0, atol=5e-5)


@pytest.mark.slow
def test_the_flow_is_the_same_whether_correlations_are_looked_up_or_in_a_volume(model, monkeypatch):
    frames = [model.features(frame) for frame in video(3, 2, 136, 200).split(1)]
    whole, magnitude = model.flow(*frames), model.magnitude(*frames)
    monkeypatch.setattr(correlations, "WHOLE", 0)
    torch.testing.assert_close(model.flow(*frames), whole, rtol=0, atol=1e-4)
    assert model.magnitude(*frames) == pytest.approx(magnitude, rel=1e-5)


@pytest.mark.slow
def test_of_large_frames_no_volume_is_made(model, monkeypatch):
    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.layout == torch.strided:
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
            return made

    monkeypatch.setattr(raft, "ITERATIONS", 1)
    frames = [model.features(F.interpolate(frame, (640, 648))) for frame in video(0, 2, 128, 128).split(1)]
    with Largest() as largest:
        model.flow(*frames)
    assert largest.bytes < 4 * (80 * 81) ** 2 / 3
    assert not correlations.on_demand(torch.empty(1, 256, 64, 64))  # of 512x512, where a volume is as fast


@pytest.mark.slow
def test_no_network_runs_more_often_than_it_has_to(model):
    ran: list[str] = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, part in model.raft.named_children()
    ]
    frames = [model.features(frame) for frame in video(0, 3, 128, 128).split(1)]
    for pair in zip(frames, frames[1:], strict=False):
        model.magnitude(*pair)
    for hook in hooks:
        hook.remove()
    assert {name: ran.count(name) for name in ran} == {"feature_encoder": 3, "context_encoder": 2, "mask_predictor": 2}


@pytest.mark.parametrize("name", ["raft_large_C_T_V1.pth", "torchvision.safetensors", "things.safetensors", "half.pth"])
def test_every_layout_of_the_weights_loads(model, published, tmp_path, name):
    path = tmp_path / name
    state = published if name.startswith("things") else model.raft.state_dict()
    if name == "half.pth":
        torch.save({key: tensor.half() for key, tensor in state.items()}, path)
    elif path.suffix == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    loaded = load(path).raft.state_dict()
    for key, tensor in model.raft.state_dict().items():
        torch.testing.assert_close(loaded[key].float(), tensor.float(), rtol=0, atol=1e-2 if name == "half.pth" else 0)


def test_loading_leaves_float32_without_gradients_and_the_random_state(published, tmp_path):
    torch.save(published, tmp_path / "raft.pth")
    before = torch.get_rng_state()
    model = load(tmp_path / "raft.pth")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {(torch.float32, "cpu", False)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.update_block.mask.2.bias"), "mask_predictor.conv.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "more"),
        (lambda state: state.update({"module.fnet.conv2.bias": torch.zeros(128)}), "feature_encoder.conv.bias"),
    ],
)
def test_weights_that_are_not_rafts_are_refused_by_name(published, tmp_path, change, message):
    state = dict(published)
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth: .*{message}"):
        load(tmp_path / "other.pth")


def test_frames_too_small_for_four_levels_of_correlation_are_refused(model):
    with pytest.raises(ValueError, match="frame: 256x120 px is too small for RAFT: sides must be 121 px or more"):
        model.features(torch.zeros(1, 3, 120, 256))
    assert model.features(torch.zeros(1, 3, 121, 128)).image.shape == (1, 3, 128, 128)


@pytest.mark.parametrize("shape", [(3, 128, 128), (2, 3, 128, 128), (1, 1, 128, 128)])
def test_frames_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"frame: shape .* is not \(1, 3, height, width\)"):
        model.features(torch.zeros(shape))


@pytest.fixture(scope="module")
def theirs():
    for name in ("vbench", "cv2", "easydict", "scipy", "decord"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    return official()


@pytest.mark.slow
def test_equals_the_installed_vbench(model, theirs):
    before, after = video(9, 2, 133, 170).split(1)
    flow, score = official_flow(theirs, before, after)
    pair = model.features(before), model.features(after)
    torch.testing.assert_close(model.flow(*pair), flow, rtol=0, atol=1e-4)
    assert model.magnitude(*pair) == pytest.approx(score, rel=1e-5)


@pytest.mark.slow
def test_what_we_refuse_for_its_size_is_nan_in_vbench(theirs):
    flow, score = official_flow(theirs, *video(9, 2, 120, 128).split(1))
    assert flow.isnan().all() and math.isnan(score)
