"""Hashes of the weights that a pipeline runs with."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
import tiny
import torch

from w2sd_video import provenance
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.provenance import file_sha256, tensors_sha256, weight_hashes


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "w2sd-video" / "sha256.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_loaded_component_has_the_hash_of_its_file(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "pair")
    pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(tmp_path / "pair")
    hashes = weight_hashes(pipe)
    assert hashes.keys() == {"unet", "weak_unet", "motion_adapter", "vae", "text_encoder", "text_encoder_2"}
    for name, value in hashes.items():
        (file,) = (tmp_path / "pair" / name).glob("*.safetensors")
        assert value == f"sha256:{sha256(file)}"


@pytest.mark.slow  # on the clock
def test_the_hashes_of_small_files_take_under_half_a_second(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "pair")
    pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(tmp_path / "pair")
    start = time.process_time()
    weight_hashes(pipe)
    assert time.process_time() - start < 0.5


@pytest.mark.slow
def test_a_component_built_in_memory_or_replaced_has_the_hash_of_its_tensors(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "pair")
    pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(tmp_path / "pair")
    before = weight_hashes(pipe)
    pipe.vae = tiny.vae(seed=99)
    after = weight_hashes(pipe)
    assert after["vae"].startswith("tensors-sha256:") and after["unet"] == before["unet"]
    assert all(value.startswith("tensors-") for value in weight_hashes(tiny.pipeline()).values())


def test_a_file_that_changed_since_is_not_taken_for_the_weights(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "pair")
    pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(tmp_path / "pair")
    (file,) = (tmp_path / "pair" / "vae").glob("*.safetensors")
    file.unlink()  # not overwritten: the weights are mapped from it
    file.write_bytes(b"other")
    assert weight_hashes(pipe)["vae"] == "tensors-sha256:" + tensors_sha256(pipe.vae)


def test_the_hash_of_tensors_knows_every_bit_and_name():
    def model(value=1.0, dtype=torch.float32, name="a"):
        module = torch.nn.Module()
        module.register_parameter(name, torch.nn.Parameter(torch.tensor([0.0, value], dtype=dtype)))
        module.register_buffer("scalar", torch.tensor(3))
        return module

    same = tensors_sha256(model())
    assert same == tensors_sha256(model())
    for other in (model(1.0 + 2**-20), model(dtype=torch.float16), model(name="b"), model(-1.0)):
        assert tensors_sha256(other) != same
    assert tensors_sha256(model(dtype=torch.bfloat16))


def test_large_files_are_hashed_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(provenance, "REMEMBER_ABOVE", 10)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"0123456789ab")
    assert file_sha256(file) == sha256(file)
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "remembered"}))
    assert file_sha256(file) == "remembered"
    file.write_bytes(b"another text")
    assert file_sha256(file) == sha256(file)
    cache.write_text("not json")
    assert file_sha256(file) == sha256(file)


def test_a_file_of_the_hubs_cache_has_its_hash_for_a_name(tmp_path):
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    assert file_sha256(link) == "a" * 64
