"""Quantised transformers in either arm, by quanto, which needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from any_pipeline import sample
from diffusers import PipelineQuantizationConfig, QuantoConfig, WanTransformer3DModel
from diffusers.utils import import_utils
from test_transformer_families import NO_TEXT, WAN, near, quiet, saved

from w2sd_video.errors import WeightsError

INT8 = QuantoConfig(weights_dtype="int8")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def is_quantised(network: Any) -> bool:
    return type(network.blocks[0].ffn.net[2]) is not torch.nn.Linear


def latents(pipe: Any) -> torch.Tensor:
    return sample(pipe, WAN.of(pipe))[0]


@pytest.fixture
def strong(tmp_path: Path) -> Path:
    return saved(WAN, tmp_path / "strong", transformer_2=None)


@pytest.mark.slow
def test_a_quantised_weak_arm_is_the_same_as_a_network_as_a_folder_and_quantised_while_it_is_loaded(strong, tmp_path):
    folder = saved(WAN, tmp_path / "weak", WAN.weak())
    network = WanTransformer3DModel.from_pretrained(
        folder / "transformer", quantization_config=INT8, torch_dtype=torch.float32
    )
    pipe = quiet(WAN.cls.from_pretrained(strong, weak=network, **NO_TEXT))
    assert is_quantised(pipe.weak_transformer) and not is_quantised(pipe.transformer)
    made = latents(pipe)
    exact = latents(quiet(WAN.cls.from_pretrained(strong, weak=folder, **NO_TEXT)))
    assert 1e-5 < (made - exact).norm() / exact.norm() < 1e-2  # 8 bits

    quantised = saved(WAN, tmp_path / "quantised", network)
    assert near(latents(quiet(WAN.cls.from_pretrained(strong, weak=quantised, **NO_TEXT))), made)
    pipe.save_pretrained(tmp_path / "pair")
    assert near(latents(quiet(WAN.cls.from_pretrained(tmp_path / "pair", **NO_TEXT))), made)


def test_a_quantization_config_is_for_the_transformers_of_both_arms(strong, tmp_path):
    folder = saved(WAN, tmp_path / "weak", WAN.weak())
    config = PipelineQuantizationConfig(quant_mapping={"transformer": INT8})
    pipe = quiet(WAN.cls.from_pretrained(strong, weak=folder, quantization_config=config, **NO_TEXT))
    assert is_quantised(pipe.transformer) and is_quantised(pipe.weak_transformer)
    networks = [
        WanTransformer3DModel.from_pretrained(each / "transformer", quantization_config=INT8, torch_dtype=torch.float32)
        for each in (strong, folder)
    ]
    by_hand = quiet(WAN.cls.from_pretrained(strong, weak=networks[1], transformer=networks[0], **NO_TEXT))
    assert near(latents(pipe), latents(by_hand))
    with pytest.raises(ValueError, match=r"quantization_config is a QuantoConfig. Accepted: a diffusers.Pipeline"):
        WAN.cls.from_pretrained(strong, quantization_config=INT8)


@pytest.mark.parametrize("package", ["bitsandbytes", "torchao", "quanto"])
def test_a_folder_of_quantised_weights_whose_package_is_missing_is_refused_by_name(package, tmp_path, monkeypatch):
    monkeypatch.setattr(import_utils, f"_{'optimum_quanto' if package == 'quanto' else package}_available", False)
    how: dict[str, dict[str, Any]] = {
        "bitsandbytes": {"load_in_4bit": True, "load_in_8bit": False},
        "torchao": {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}}},
        "quanto": {"weights_dtype": "int8"},
    }
    weak = saved(WAN, tmp_path / "weak", WAN.weak())
    config = weak / "transformer" / "config.json"
    quantised = {"quant_method": package, **how[package]}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantised}))
    with pytest.raises(WeightsError, match=f"weak: .*{package}"):
        WAN.cls.from_pretrained(saved(WAN, tmp_path / "strong"), weak=weak, **NO_TEXT)
