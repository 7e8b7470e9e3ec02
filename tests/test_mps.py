"""MPS against imscore's copy of the original code, recorded (`record_mps.py`), and the reading of pickled modules."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from record_mps import GOLDEN, TEXT, VISION, WIDTH, images, weights
from safetensors.torch import save_file
from torch import nn

from w2sd_video.eval.networks import mps
from w2sd_video.eval.networks.mps import MPS, load, module_tensors

GOLD = json.loads(GOLDEN.read_text(encoding="utf-8"))
CASES = GOLD["cases"]
SIZES = {"vision": VISION, "text": TEXT, "width": WIDTH}
SIDE = VISION["image_size"]


def weights_of_mps() -> dict[str, torch.Tensor]:
    return weights(GOLD["shapes"], GOLD["condition"]["ids"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mps") / "tiny.pth"
    torch.save(weights_of_mps(), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint) -> MPS:
    return load(checkpoint, **SIZES)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_scores_are_those_of_the_original_code(model, case):
    # Of a scale of 20. Float32 differs by 4e-6, the other GELU by 0.09, a threshold of 0 by 0.4.
    assert model.score(images(), case["prompt"]).tolist() == pytest.approx(case["scores"], rel=0, abs=2e-5)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_token_ids_are_those_of_the_original(model, case):
    seen = []
    hook = model.clip.text_model.register_forward_pre_hook(
        lambda _, a, k: seen.append(k["input_ids"]), with_kwargs=True
    )
    model.encode_prompt(case["prompt"])
    hook.remove()
    want = [ids + [49407] * (77 - len(ids)) for ids in (case["ids"], GOLD["condition"]["ids"])]
    assert torch.cat(seen).tolist() == want


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_tokens_that_are_read_are_those_of_the_original(model, case):
    read, _ = model.encode_prompt(case["prompt"])
    assert len(read) == case["read"].count("1")


def test_the_recorded_prompts_have_tokens_that_are_read_and_tokens_that_are_not():
    read = [case["read"].count("1") for case in CASES]
    assert min(read) > 1
    assert len(set(read)) > 4


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_the_recorded_scores_tell_other_thresholds_apart(model, monkeypatch, threshold):
    monkeypatch.setattr(mps, "THRESHOLD", threshold)
    scores = torch.stack([model.score(images(), case["prompt"]) for case in CASES])
    assert (scores - torch.tensor([case["scores"] for case in CASES])).abs().max() > 0.05


def test_images_score_alone_as_they_do_together(model):
    together = model.score(images(), "a cat")
    alone = torch.cat([model.score(image[None], "a cat") for image in images()])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-5)


def test_the_encoders_run_once_for_all_images_and_once_for_the_prompt(model):
    runs = []
    hooks = [
        part.register_forward_hook(lambda module, *_: runs.append(module))
        for part in (model.clip.text_model, model.clip.vision_model)
    ]
    model.score(images(), "a cat")
    for hook in hooks:
        hook.remove()
    assert runs.count(model.clip.text_model) == runs.count(model.clip.vision_model) == 1


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (1, SIDE, SIDE, 3), (1, 3, SIDE, SIDE + 14), (1, 1, SIDE, SIDE)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"images: \(.*\) of torch\.float32 is not \(n, 3, 42, 42\)"):
        model.score(torch.zeros(shape), "a cat")


def test_images_of_whole_numbers_are_refused(model):
    with pytest.raises(ValueError, match=r"images: .* of torch\.uint8"):
        model.score(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), "a cat")


def test_loading_leaves_float32_in_eval_mode_without_gradients_and_the_random_state(checkpoint):
    before = torch.get_rng_state()
    model = load(checkpoint, **SIZES)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {(torch.float32, "cpu", False)}


def test_the_published_sizes_are_those_of_the_published_file():
    with torch.device("meta"):
        count = sum(tensor.numel() for tensor in MPS().state_dict().values())
    assert count * 4 == pytest.approx(4.42e9, abs=5e6)  # bytes of the copy on the hub, in float32


# The class of a published file need not exist where it is read; a pickle names it by this.
ORIGINAL = "trainer_that_is_gone"


@pytest.fixture
def original():
    """A class of modules that can be pickled within the test, and that nothing can import after `del`."""
    module = types.ModuleType(ORIGINAL)
    exec("class Part(__import__('torch').nn.Module): pass", module.__dict__)
    sys.modules[ORIGINAL] = module
    yield module.Part
    sys.modules.pop(ORIGINAL, None)


def _whole(part: type[nn.Module], state: dict[str, torch.Tensor]) -> nn.Module:
    """A module that has this `state_dict`."""
    whole = part()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = whole
        for step in path:
            if step not in module._modules:
                module.add_module(step, part())
            module = module._modules[step]
        if last == "inv_freq" or name.endswith("norm.bias") and name.startswith("cross_model"):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        "state.pth",
        "half.pth",
        "under model.pth",
        "imscore.safetensors",
        "module.pth",
        "module under model.pth",
        "DP.pth",
    ],
)
def test_every_published_layout_loads(model, original, tmp_path, layout):
    state = weights_of_mps()
    # As older versions of transformers kept it.
    state["model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if layout == "half.pth":
        state = {name: tensor.half() for name, tensor in state.items()}
    path = tmp_path / layout
    if layout == "imscore.safetensors":
        save_file({f"mps.{name}": tensor for name, tensor in state.items()}, path)
    elif layout in ("module.pth", "module under model.pth"):
        del state["model.text_model.embeddings.position_ids"]
        whole = _whole(original, state)
        torch.save({"model": whole} if "under" in layout else whole, path)
        del sys.modules[ORIGINAL]
    elif layout == "DP.pth":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save({"model": state} if "under" in layout else state, path)
    loaded = load(path, **SIZES)
    assert loaded.clip.logit_scale.dtype == torch.float32
    tolerance = 1e-2 if layout == "half.pth" else 0
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=tolerance)


def test_a_pickled_module_gives_its_state_dict_without_its_classes(original, tmp_path):
    whole = original()
    whole.layers = nn.ModuleList([nn.Sequential(nn.Linear(3, 2), nn.GELU()), nn.BatchNorm1d(2), nn.Identity()])
    whole.inner = original()
    whole.inner.scale = nn.Parameter(torch.tensor(2.0).half())
    whole.inner.absent = None
    whole.inner.register_buffer("none", None)
    whole.inner.register_buffer("kept", torch.arange(3))
    whole.inner.register_buffer("passing", torch.arange(4), persistent=False)
    whole.act, whole.method, whole.dtype = torch.nn.functional.gelu, whole.inner.extra_repr, torch.float16
    whole.config = {"classes": [original], "set": {1, 2}, "device": torch.device("cpu")}
    want = whole.state_dict()
    torch.save(whole, tmp_path / "whole.pth")
    del sys.modules[ORIGINAL]
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "whole.pth", weights_only=False)
    found = module_tensors(tmp_path / "whole.pth")
    assert list(found) == list(want)
    torch.testing.assert_close(found, dict(want), rtol=0, atol=0)
    assert not any(tensor.requires_grad for tensor in found.values())


class _Call:
    """Is pickled as a call, which unpickling makes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture(params=["system", "eval", "exec", "method"])
def harm(request, tmp_path):
    """What writes a file when it is unpickled, and that file."""
    mark = tmp_path / "mark"
    if request.param == "system":
        return _Call(os.system, f"echo > '{mark}'"), mark
    if request.param == "method":  # which takes a getattr
        return _Call(Path.touch, mark), mark
    return _Call({"eval": eval, "exec": exec}[request.param], f"open({str(mark)!r}, 'w').close()"), mark


@pytest.mark.slow
@pytest.mark.parametrize("place", ["alone", "under model", "in a module"])
def test_unpickling_runs_nothing(harm, original, tmp_path, place):
    call, mark = harm
    whole = original()
    whole.weight, whole.extra = nn.Parameter(torch.ones(2)), call
    path = tmp_path / "harm.pth"
    torch.save({"alone": call, "under model": {"model": call}, "in a module": whole}[place], path)
    try:
        assert set(module_tensors(path)) == {"weight"}
        assert place == "in a module"
    except ValueError as error:
        assert "harm.pth is damaged, or holds no module" in str(error)
    with pytest.raises(ValueError, match=r"harm\.pth"):
        load(path, **SIZES)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # or nothing would have been shown


def test_what_a_file_names_is_not_trusted_afterwards(original, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(original(), tmp_path / "whole.pth")
    assert module_tensors(tmp_path / "whole.pth") == {}
    assert set(torch.serialization.get_safe_globals()) == before


def test_weights_of_another_size_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"tiny\.pth: \d+ weights"):
        load(checkpoint)
