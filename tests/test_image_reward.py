"""ImageReward against its authors' own code, recorded (`record_image_reward.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from record_image_reward import GOLDEN, PROMPTS, TINY, WORDS, images, seeded, write_vocabulary
from safetensors.torch import save_file
from seeded import encoder

from w2sd_video.eval.frames import CLIP_NORM
from w2sd_video.eval.networks import image_reward
from w2sd_video.eval.networks.image_reward import TEXT, VISION, ImageReward, load, tokenizer

GOLD = json.loads(GOLDEN.read_text(encoding="utf-8"))


SIZES = {
    "vision": VISION | encoder(*TINY["vision"]),
    "text": TEXT | encoder(*TINY["text"]) | {"vocab_size": len(WORDS) + 2},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Weights and vocabulary."""
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(seeded(GOLD["shapes"]), folder / "tiny.pt")
    return folder / "tiny.pt", write_vocabulary(folder)


@pytest.fixture(scope="module")
def model(files) -> ImageReward:
    return load(*files, **SIZES)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    mean, std = torch.tensor(CLIP_NORM)[:, :, None, None]
    return (torch.from_numpy(np.stack(images())).permute(0, 3, 1, 2) / 255 - mean) / std


def test_rewards_are_those_of_the_official_code(model, frames):
    ours = torch.stack([model.reward(frames, prompt) for prompt in PROMPTS])
    theirs = torch.tensor(GOLD["rewards"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.std(dim=0).min() > 1  # or neither prompts nor images could be told apart
    assert theirs.std(dim=1).min() > 0.3


@pytest.mark.parametrize("n", range(len(PROMPTS)))
def test_token_ids_are_those_of_the_official_code(model, n):
    assert model.tokenizer.encode(PROMPTS[n]).ids == GOLD["ids"][n]


def test_a_batch_equals_its_members(model, frames):
    alone = torch.cat([model.reward(frame[None], PROMPTS[0]) for frame in frames])
    torch.testing.assert_close(model.reward(frames, PROMPTS[0]), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 3, 224, 240), (1, 1, 224, 224), (1, 3, 384, 384)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"images: shape .* is not \(n, 3, 224, 224\)"):
        model.reward(torch.zeros(shape), "a cat")


def test_the_default_size_takes_every_published_weight(files, monkeypatch):
    published = GOLD["published"]
    state = {}
    for name, shape in published["shapes"].items():
        for n in range(next((layers for key, layers in published["layers"].items() if f".{key}." in name), 1)):
            state[name.replace("{n}", str(n))] = torch.empty(shape, device="meta")
    assert len(state) == published["names"]
    monkeypatch.setattr(image_reward, "tensors", lambda path: state)
    monkeypatch.setattr(image_reward, "tokenizer", lambda path: _Words())
    model = load(*files)
    assert model.text.config.vocab_size == len(state["blip.text_encoder.embeddings.word_embeddings.weight"])


class _Words:
    def get_vocab_size(self) -> int:
        return TEXT["vocab_size"]


def test_settings_that_no_shape_shows_are_the_official_ones():
    assert [VISION["num_attention_heads"], TEXT["num_attention_heads"]] == GOLD["published"]["heads"]
    assert [[VISION["layer_norm_eps"]], [TEXT["layer_norm_eps"]]] == GOLD["published"]["epsilons"]


def test_loading_leaves_float32_without_gradients_and_the_random_state(files):
    before = torch.get_rng_state()
    model = load(*files, **SIZES)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {(torch.float32, "cpu", False)}


@pytest.mark.parametrize("name", ["used.pt", "tensors.safetensors", "devices.pt"])
def test_every_layout_of_the_weights_loads(model, files, tmp_path, name):
    state = seeded(GOLD["shapes"])
    path = tmp_path / name
    if name == "tensors.safetensors":
        save_file(state, path)
    elif name == "devices.pt":
        torch.save({f"module.{key}": tensor for key, tensor in state.items()}, path)
    else:
        unused = ("_proj.", "position_ids")
        torch.save({key: tensor for key, tensor in state.items() if not any(part in key for part in unused)}, path)
    loaded = load(path, files[1], **SIZES).state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor)


def test_the_vocabulary_may_be_given_as_its_folder(files):
    assert tokenizer(files[1].parent).get_vocab() == tokenizer(files[1]).get_vocab()


@pytest.mark.parametrize("name", ["", "none.txt"])
def test_a_missing_vocabulary_is_named(files, tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"{name or 'vocab.txt'}: .*bert-base-uncased"):
        load(files[0], tmp_path / name, **SIZES)


@pytest.mark.parametrize("content", [b"", b"a\nb\nc\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_vocabulary_is_refused_by_name(files, tmp_path, content):
    (tmp_path / "odd.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.txt is not a vocabulary"):
        load(files[0], tmp_path / "odd.txt", **SIZES)


def test_a_vocabulary_of_another_size_is_refused(files):
    with pytest.raises(ValueError, match=rf"vocab\.txt: {len(WORDS)} tokens, where .* has 30522"):
        load(*files)
