"""Weak transformers that are single files or loaded networks, beside strong ones of any kind."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import any_cases
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, BitsAndBytesConfig, PipelineQuantizationConfig
from safetensors.torch import save_file
from test_transformer_families import NO_TEXT, WAN, near, quiet, sample, saved, textual, with_config
from transformers import BitsAndBytesConfig as OfTransformers
from transformers import T5EncoderModel

from w2sd_video.errors import Refused, WeightsNotFound
from w2sd_video.generation import Maker, generate
from w2sd_video.models import networks, pair
from w2sd_video.models.options import Options
from w2sd_video.provenance import weight_hashes
from w2sd_video.runs import Output, Request
from w2sd_video.sampling import evaluations, load
from w2sd_video.sampling import sample as make

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
SMALL = {"num_inference_steps": 2, "num_frames": 5, "height": 16, "width": 16, "dtype": "float32"}


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    """A file without a configuration beside it."""
    file = tmp_path / "alone" / "wan.safetensors"
    file.parent.mkdir()
    save_file({name: each.contiguous() for name, each in WAN.weak().state_dict().items()}, file)
    return file


def test_a_weak_files_configuration_is_read_of_a_hub_repository(weak, tmp_path):
    strong = saved(WAN, tmp_path / "strong")
    cached = tmp_path / "hub" / "models--me--weak"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    WAN.weak().save_config(cached / "snapshots" / ("0" * 40) / "transformer")
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True, **NO_TEXT}
    pipe = WAN.cls.from_pretrained(strong, weak=weak, weak_config="me/weak", **options)
    assert pipe.weak_transformer.config.num_layers == 2
    with pytest.raises(WeightsNotFound, match=r'weak_config: .me/other.*\n.*--include "transformer/config.json"'):
        WAN.cls.from_pretrained(strong, weak=weak, weak_config="me/other", **options)


def test_one_weak_transformer_is_the_weak_arm_of_both_experts_however_it_is_given(weak, tmp_path):
    WAN.weak().save_config(tmp_path / "config")
    two = saved(WAN, tmp_path / "two", transformer_2=any_cases.wan(2), boundary_ratio=0.9)
    for more in ({"weak": weak, "weak_config": tmp_path / "config"}, {"weak": WAN.weak()}):
        pipe = quiet(WAN.cls.from_pretrained(two, **more, **NO_TEXT))
        assert pipe.weak_transformer is pipe.weak_transformer_2 is not None


def test_a_loaded_strong_transformer_takes_the_place_of_one_that_its_folder_lacks(tmp_path):
    """Of a hub repository, what is given is not fetched."""
    strong, of = saved(WAN, tmp_path / "strong"), saved(WAN, tmp_path / "weak", WAN.weak())
    expected = quiet(WAN.cls.from_pretrained(strong, weak=of, **NO_TEXT))
    network = expected.transformer
    shutil.rmtree(strong / "transformer")
    pipe = quiet(WAN.cls.from_pretrained(strong, transformer=network, weak=of, **NO_TEXT))
    assert torch.equal(sample(pipe, WAN.of(pipe))[0], sample(expected, WAN.of(expected))[0])
    other = WAN.weak(in_channels=8, out_channels=8)
    with pytest.raises(ValueError, match="do not go together: the transformer's in_channels is 8 against 4"):
        WAN.cls.from_pretrained(strong, transformer=other, weak=of, **NO_TEXT)


def test_a_weak_file_is_sampled_with_its_configuration_and_alone_as_the_network_that_it_is(weak, tmp_path):
    strong = saved(WAN, tmp_path / "strong", **textual("WanPipeline"))
    WAN.weak().save_config(tmp_path / "config")
    fields: dict[str, Any] = {"preset": "wan21-14b-1.3b", "strong": str(strong), **SMALL}
    fields |= {"weak": str(weak), "weak_config": str(tmp_path / "config")}
    request = Request.of("a cat", **fields, variant="weak")
    frames, counts = make(load(request)["weak"], request, "weak")
    assert counts == evaluations(request) == {"strong": 0, "weak": 4, "total": 4}
    whole = saved(WAN, tmp_path / "whole", WAN.weak(), **textual("WanPipeline"))
    alone = Request.of("a cat", **fields | {"weak": str(whole), "weak_config": None}, variant="weak")
    expected, _ = make(load(alone)["weak"], alone, "weak")
    assert np.abs(frames.astype(int) - expected.astype(int)).max() <= 1
    pipelines = load(Request.of("a cat", **fields, variant="compare"))
    assert near(pipelines["w2sd"].weak_transformer.proj_out.weight, WAN.weak().proj_out.weight)
    with pytest.raises(Refused, match="weak_config: .* it is for a weak transformer that is a file: give none"):
        Request.of("a cat", **fields | {"weak": str(whole)})


@pytest.mark.parametrize("name", ["shapes-image", "shapes", "wan21-14b-1.3b"])
def test_a_comparison_reads_every_network_once(name, models, tmp_path, monkeypatch):
    """The weak model alone has the pair's weak network, the motion module, and the autoencoder that both have."""
    strong, weak, fields = tmp_path / "strong", tmp_path / "weak", {"preset": name, **SMALL}
    if name.startswith("wan"):
        saved(WAN, strong, **textual("WanPipeline"))
        saved(WAN, weak, WAN.weak(), **textual("WanPipeline"))
    else:
        for folder in (strong, weak):
            shutil.copytree(Path(models[1]).with_name(folder.name), folder)
        fields |= {"motion_adapter": models[5]} if name == "shapes" else {"num_frames": None}
    shutil.rmtree(weak / "vae")
    fields |= {"strong": str(strong), "weak": str(weak)}
    read: Counter[str] = Counter()
    component = networks.component

    def counted(kind: Any, source: Any, folder: Path, options: Any) -> Any:
        read[str(folder)] += 1
        return component(kind, source, folder, options)

    monkeypatch.setattr(networks, "component", counted)
    monkeypatch.setattr(pair, "component", counted)
    of = load(Request.of("a cat", **fields, variant="compare", device="cpu"))
    assert len(read) >= 5 and set(read.values()) == {1}
    alone, both = of["weak"], of["w2sd"]
    denoiser = both.denoiser_name
    assert getattr(alone, denoiser) is getattr(both, f"weak_{denoiser}") and alone.vae is both.vae
    assert alone.text_encoder is not both.text_encoder
    hashes = weight_hashes(alone), weight_hashes(both)
    assert hashes[0][denoiser] == hashes[1][f"weak_{denoiser}"] != hashes[1][denoiser]
    assert all(each.startswith("sha256:") for each in hashes[0].values())


def test_a_size_that_the_model_would_cut_is_refused(tmp_path):
    """Wan's TI2V-5B makes sides of multiples of 32: its autoencoder scales by 16, others' by 8."""
    vae = with_config(any_cases.wan_vae(), scale_factor_spatial=16)
    strong = saved(WAN, tmp_path / "strong", **{**textual("WanPipeline"), "vae": vae})
    fields = {"preset": "wan21-1.3b-guidance", "strong": str(strong), **SMALL}
    refused = "height: 48 is not accepted; give a multiple of 32, as this model takes"
    cut, kept = (Request.of("a cat", **fields | {"height": side, "width": 64}) for side in (48, 32))
    with pytest.raises(Refused, match=refused):
        load(cut)
    with pytest.raises(Refused, match=refused):  # before the first, whose size fits, is made
        list(generate([kept, cut], tmp_path / "made"))
    assert not (tmp_path / "made").exists()
    maker = Maker()
    maker.load(kept, "w2sd")
    with pytest.raises(Refused, match=refused):  # as in a plan, whose cells come one by one
        maker.make(Output(cut, tmp_path / "made", ("mp4",), "cut"))


def test_a_backend_of_quantisation_is_of_each_networks_library_and_of_the_named_components():
    said = PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit", quant_kwargs={"load_in_8bit": True}, components_to_quantize=["vae", "text"]
    )
    options = Options(quantization=said)
    for kind, name, of in ((AutoencoderKL, "vae", BitsAndBytesConfig), (T5EncoderModel, "text", OfTransformers)):
        config = options.quantized(kind, name)["quantization_config"]
        assert type(config) is of and config.load_in_8bit
    assert options.quantized(AutoencoderKL, "transformer") == {}
