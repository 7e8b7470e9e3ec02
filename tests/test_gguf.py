"""A weak arm from a GGUF file, written here by the format's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from any_pipeline import algorithm_1, sample
from diffusers.utils import import_utils
from safetensors.torch import save_file
from test_transformer_families import CASES, NO_TEXT, WAN, arms_of, near, quiet, saved, textual
from torch import nn

from w2sd_video.errors import WeightsError
from w2sd_video.hook import parameters_of
from w2sd_video.models.sources import find, resolve
from w2sd_video.runs import Request
from w2sd_video.sampling import load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
WIDE = {"attention_head_dim": 32, "num_attention_heads": 1, "ffn_dim": 64}  # blocks of GGUF are 32 numbers


def written(network: nn.Module, path: Path, kind: str = "Q8_0") -> None:
    """The network's weights as a GGUF file: matrices whose rows are whole blocks in `kind`, and the rest in float32."""
    writer = gguf.GGUFWriter(path, "wan")
    of_kind = gguf.GGMLQuantizationType[kind]
    for name, tensor in network.state_dict().items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0 and "blocks" in name:
            writer.add_tensor(name, gguf.quants.quantize(values, of_kind), raw_dtype=of_kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(network: nn.Module, kind: str = "Q8_0") -> nn.Module:
    """The network with the numbers that such a file has."""
    of_kind = gguf.GGMLQuantizationType[kind]
    state = {}
    for name, tensor in network.state_dict().items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0 and "blocks" in name:
            tensor = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values, of_kind), of_kind))
            tensor = tensor.half().float()  # in which diffusers multiplies a block's numbers by its scale
        state[name] = tensor
    network.load_state_dict(state)
    return network


@pytest.fixture
def pair(tmp_path) -> tuple[Any, Path, Path]:
    strong = saved(WAN, tmp_path / "strong")
    weak = WAN.weak(**WIDE)
    weak.save_config(tmp_path / "config")
    written(weak, tmp_path / "weak.gguf")
    return weak, strong, tmp_path / "weak.gguf"


def test_a_weak_arm_of_a_gguf_file_is_the_network_of_its_rounded_weights(pair, tmp_path):
    weak, strong, file = pair
    pipe = quiet(WAN.cls.from_pretrained(strong, weak=file, weak_config=tmp_path / "config", **NO_TEXT))
    plain, stock = CASES["WanPipeline"], CASES["WanPipeline"].build(0)
    ours = sample(pipe, WAN.of(pipe, **arms_of(plain.reflection)))[1][-1]
    assert near(ours, algorithm_1(plain, stock, rounded(WAN.weak(**WIDE)))[0])
    assert not near(ours, algorithm_1(plain, stock, weak)[0])
    assert pipe.parameters["weak"] == parameters_of(weak) == sum(p.numel() for p in weak.parameters())
    with pytest.raises(ValueError, match="weak_transformer is quantised by GGUF.*this pair cannot be saved"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_gguf_file_is_refused_in_a_sentence_where_it_cannot_be_used(pair, tmp_path):
    _, strong, file = pair
    with pytest.raises(WeightsError, match="weak: .*weak.gguf"):  # the strong arm's configuration, of another size
        WAN.cls.from_pretrained(strong, weak=file, **NO_TEXT)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(WeightsError, match="weak: .*weak.gguf"):
        WAN.cls.from_pretrained(strong, weak=file, weak_config=tmp_path / "config", **NO_TEXT)


def test_without_its_package_a_gguf_file_is_refused_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(import_utils, "_gguf_available", False)
    (tmp_path / "weak.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match="weak: .*GGUF file, for which the package gguf is missing"):
        WAN.cls.from_pretrained(saved(WAN, tmp_path / "strong"), weak=tmp_path / "weak.gguf", **NO_TEXT)


def test_a_gguf_file_on_the_hub_is_a_reference_and_unets_refuse_it_before_it_is_fetched():
    source = resolve("owner/name/wan-Q8_0.gguf", "weak")
    assert (source.repository, source.inside) == ("owner/name", "wan-Q8_0.gguf")
    with pytest.raises(WeightsError, match="weak: 'owner/name/sdxl.gguf' is a .gguf file. Accepted: a folder in"):
        find("weak", "owner/name/sdxl.gguf")


def test_the_configuration_beside_a_file_is_that_of_its_network(tmp_path):
    """So the command line takes a single file of another size as the weak arm."""
    strong, weak = saved(WAN, tmp_path / "strong", **textual("WanPipeline")), WAN.weak()
    (tmp_path / "small").mkdir()
    file = str(tmp_path / "small" / "wan.safetensors")
    save_file({name: each.contiguous() for name, each in weak.state_dict().items()}, file)
    with pytest.raises(WeightsError, match="weak: .*wan.safetensors"):
        WAN.cls.from_pretrained(strong, weak=file, **NO_TEXT)
    weak.save_config(tmp_path / "small")
    pipe = load(Request.of("a cat", preset="wan21-14b-1.3b", strong=str(strong), weak=file, dtype="float32"))["w2sd"]
    assert pipe.weak_transformer.config.num_layers == 2
    assert all(torch.equal(p, weak.state_dict()[name]) for name, p in pipe.weak_transformer.state_dict().items())
    (tmp_path / "small" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(WeightsError, match="weak: .*wan.safetensors"):  # of something else: the strong one's
        WAN.cls.from_pretrained(strong, weak=file, **NO_TEXT)
