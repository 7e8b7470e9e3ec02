"""Files and folders as other programs write and publish them, and what is hostile in them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import zipfile
from pathlib import Path

import families
import pytest
import tiny
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from test_layouts import ANIMATE, SD, control_names, controlnet, image_model, ip_weights, load, same, source

from w2sd_video import arms
from w2sd_video.errors import NotFinite, Refused, WeightsError
from w2sd_video.models import checkpoints, checks, layouts
from w2sd_video.models.bases import BASES
from w2sd_video.models.networks import image_encoder
from w2sd_video.models.sources import Source, resolve
from w2sd_video.pipelines import W2SDStableDiffusionControlNetPipeline
from w2sd_video.runs import Request
from w2sd_video.sampling import notes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# Files ------------------------------------------------------------------------------------------------------------

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3)}


def packed(path: str, content: dict[str, bytes], compression: int) -> Source:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return source(Path(path), "vae")


def test_an_archive_that_was_compressed_anew_has_the_same_weights():
    torch.save(TENSORS, "plain.pt")
    with zipfile.ZipFile("plain.pt") as archive:
        content = {member.filename: archive.read(member) for member in archive.infolist()}
    read = checkpoints.read(packed("small.pt", content, zipfile.ZIP_DEFLATED))
    assert torch.equal(read["a.weight"], TENSORS["a.weight"])


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused():
    bomb = packed("bomb.pth", {"bomb/data.pkl": bytes(2**24), "bomb/version": b"3\n"}, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="vae: 'bomb.pth' is damaged: .* unpacks to more than 50 times"):
        checkpoints.read(bomb)


class Code:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_code_in_the_pickle_of_an_archive_is_not_run():
    evil = packed("x.ckpt", {"x/data.pkl": pickle.dumps({"a": Code()}), "x/version": b"3\n"}, zipfile.ZIP_STORED)
    with pytest.raises(WeightsError, match="vae: 'x.ckpt' is damaged, or holds Python objects"):
        checkpoints.read(evil)
    assert not Path("pwned").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.to("meta"), "which is no plain tensor"),
        (lambda t: t.to_sparse(), "which is no plain tensor"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "which is no plain tensor"),
        (lambda t: t.to(torch.int8), "holds quantised weights, a.weight first"),
        (lambda t: t > 0, "holds quantised weights, a.weight first"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(change, says):
    torch.save({name: change(tensor) for name, tensor in TENSORS.items()}, "w.bin")
    with pytest.raises(WeightsError, match=f"vae: 'w.bin' .*{says}"):
        checkpoints.read(source(Path("w.bin"), "vae"))


@pytest.mark.parametrize("name", ["scaled_fp8", "model.diffusion_model.out.2.scale_weight", "x.weight.absmax", "y.SCB"])
def test_a_checkpoint_of_scaled_weights_is_refused_before_it_is_read(name):
    extra = {name: torch.ones(1), "model.diffusion_model.out.2.weight": torch.ones(2, 2)}
    save_file(extra, "q.safetensors")
    with pytest.raises(WeightsError, match=f"strong: 'q.safetensors' holds quantised weights, {name} first"):
        sdxl, file = BASES["SDXL"], Path("q.safetensors")
        checks.arm_of_file(source(file, "strong"), file, sdxl.config, sdxl)


def test_a_pipe_is_no_file_of_weights():
    os.mkfifo("pipe.safetensors")
    for name in ("pipe.safetensors", "/dev/zero"):
        with pytest.raises(Refused, match=f"strong: '{name}' is not accepted; give a file or a folder"):
            resolve(name, "strong")


@pytest.mark.parametrize(
    "names", [("encoder.layers.0.weight", "decoder.layers.1.weight"), ("1.bias", "3.conv.0.weight")]
)
def test_a_tiny_autoencoder_is_refused_by_name(names):
    save_file({name: torch.ones(2) for name in names}, "taesd.safetensors")
    with pytest.raises(WeightsError, match=r"is a TAESD, a tiny autoencoder of another class\. Accepted"):
        layouts.autoencoder(source(Path("taesd.safetensors"), "vae"), tiny.vae().config)


# What they say of their training ----------------------------------------------------------------------------------


def test_what_a_file_predicts_may_be_said_as_comfyui_says_it_or_in_the_yaml_beside_it():
    said = {"modelspec.predict_key": "v"}
    assert checks.parametrisation(source(Path("x")), (), said)["prediction_type"] == "v_prediction"
    Path("x.yaml").write_text('model:\n  params:\n    parameterization: "v"\n    timesteps: 1000\n')
    assert checks._beside(Path("x.safetensors")) == {"modelspec.prediction_type": "v"}
    assert checks._beside(Path("y.safetensors")) == {}


def test_schedulers_of_flow_matching_are_refused_for_stable_diffusion():
    folder = image_model("model")
    file = folder / "scheduler" / "scheduler_config.json"
    own = json.loads(file.read_text())
    file.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    for method in ("w2sd", None):
        with pytest.raises(ValueError, match="`scheduler` has the class FlowMatchEulerDiscreteScheduler, which "):
            load("model")(**SD.call(method=method))
    for config in ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, own | {"prediction_type": "flow_prediction"}):
        file.write_text(json.dumps(config))
        with pytest.raises(WeightsError, match="'model' is not supported: it has a scheduler .* of flow matching"):
            ANIMATE.cls.from_pretrained("model", motion_adapter=tiny.motion_adapter())


@pytest.mark.parametrize(
    "numbers, says",
    [
        ({"reflection_steps": 0, "weak_guidance_scale": 2.0}, "the guidance scale is 0, the unconditional prediction"),
        ({"weak_guidance_scale": 0.0}, "all three guidance scales are 0, the unconditional prediction"),
        ({"weak_guidance_scale": 2.0}, None),
    ],
)
def test_guidance_that_leaves_the_prompt_without_effect_is_said(numbers, says):
    asked = Request.of("a red circle", guidance_scale=0.0, strong_guidance_scale=0.0, **numbers)
    said = list(notes(asked, {}, {}))
    assert (not said and says is None) or (says and says in said[0])


# Folders ----------------------------------------------------------------------------------------------------------


def test_files_of_other_programs_beside_the_weights_are_not_taken_for_them():
    folder = image_model("model", variant="fp16")
    for part in ("unet", "vae", "text_encoder"):
        (folder / part / "openvino_model.bin").write_bytes(b"other")
        (folder / part / "optimizer.bin").write_bytes(b"other")
    same(load("model").unet, SD.unet(0))


@pytest.mark.slow
@pytest.mark.parametrize("save", [{"safe_serialization": False}, {"variant": "fp16"}], ids=str)
def test_networks_in_shards_load(save):
    folder = image_model("model", max_shard_size="60KB", **save)
    assert len(list((folder / "unet").glob("*-of-*"))) > 1
    pipe = load("model", "model")
    same(pipe.unet, SD.unet(0))
    same(pipe.weak_unet, SD.unet(0))


def test_a_folder_of_several_controlnets_loads_as_it_was_saved():
    family = families.FAMILIES[5]
    parts = family.components(weak=False)
    nets = parts["controlnet"] = [family.controlnet(), controlnet()]
    W2SDStableDiffusionControlNetPipeline(**parts).save_pretrained("several")
    pipe = W2SDStableDiffusionControlNetPipeline.from_pretrained("several")
    for ours, theirs in zip(pipe.controlnet.nets, nets, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize(
    "part, change",
    [
        ("unet", {"norm_num_groups": 0}),
        pytest.param("vae", {"norm_num_groups": 0}, marks=pytest.mark.slow),
        ("text_encoder", {"hidden_size": "wide"}),
        pytest.param("text_encoder", {"num_attention_heads": 0}, marks=pytest.mark.slow),
        ("unet", {"in_channels": 9}),
    ],
)
def test_a_configuration_that_builds_no_network_is_one_refusal(part, change):
    file = image_model("model") / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(WeightsError, match="strong: 'model' (cannot be loaded|has a UNet of 9 input)") as error:
        load("model")
    assert "\n" not in str(error.value)


# ControlNets, IP-Adapters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["model.", pytest.param("net.module.", marks=pytest.mark.slow)])
def test_a_controlnet_is_found_under_any_prefix(prefix):
    net = controlnet()
    for names in (net.state_dict(), {n.removeprefix("control_model."): t for n, t in control_names(net).items()}):
        save_file({prefix + n: t.clone() for n, t in names.items()} | {"other.x": torch.ones(1)}, "net.safetensors")
        same(layouts.controlnet(source(Path("net.safetensors")), SD.unet(0).config), net)


def test_a_shuffle_controlnet_pools_its_conditions():
    save_file({n: t.clone() for n, t in control_names(controlnet()).items()}, "control_v11e_sd15_shuffle.safetensors")
    net = layouts.controlnet(source(Path("control_v11e_sd15_shuffle.safetensors")), SD.unet(0).config)
    assert isinstance(net, ControlNetModel) and net.config.global_pool_conditions


IP_DAMAGE = {
    "no values": lambda w: w["ip_adapter"].pop("1.to_v_ip.weight"),
    "0-d": lambda w: w["ip_adapter"].update({n: torch.tensor(1.0) for n in w["ip_adapter"]}),
    "other shapes": lambda w: w["ip_adapter"].update({n: t[:3] for n, t in w["ip_adapter"].items()}),
    "0-d projection": lambda w: w["image_proj"].update({n: torch.tensor(1.0) for n in w["image_proj"]}),
    "another projection": lambda w: w.update(image_proj={"net.weight": torch.ones(2, 2)}),
    "no bias": lambda w: w["image_proj"].pop("proj.bias"),
}


@pytest.mark.parametrize("damage", IP_DAMAGE)
def test_a_damaged_ip_adapter_is_one_refusal_and_nothing_changes(damage):
    weights = ip_weights()
    IP_DAMAGE[damage](weights)
    torch.save(weights, "ip.bin")
    tiny.image_encoder().save_pretrained("image_encoder")
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    with pytest.raises(WeightsError, match="ip_adapter: 'ip.bin' ") as error:
        pipe.load_ip_adapter("ip.bin")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert pipe.image_encoder is None and not arms.ip_adapter_processors(pipe.unet)


def test_weights_of_an_ip_adapter_without_a_place_are_pointed_out(caplog):
    weights = ip_weights()
    weights["image_proj"]["extra"] = torch.ones(1)
    torch.save(weights, "ip.bin")
    tiny.image_encoder().save_pretrained("image_encoder")
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        SD.pipeline(weak=False, dtype=torch.float32).load_ip_adapter("ip.bin")
    assert (
        "1 weights that have no place in UNet2DConditionModel and are left out, image_proj.extra first" in caplog.text
    )


def test_an_ip_adapter_on_the_hub_takes_an_encoder_from_another_repository_or_folder():
    def cached(repository: str, inside: str) -> Path:
        home = Path("cache") / f"models--{repository.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text("0" * 40)
        path = home / "snapshots" / ("0" * 40) / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    file = cached("h94/IP-Adapter", "sdxl_models/ip.bin")
    torch.save(ip_weights(), file)
    adapter = Source("ip_adapter", "h94/IP-Adapter/sdxl_models/ip.bin", file, "h94/IP-Adapter", "sdxl_models/ip.bin")
    widths = {"models/image_encoder": 4, "sdxl_models/image_encoder": 6}
    for name, width in widths.items():
        tiny.image_encoder(width).save_pretrained(str(cached("h94/IP-Adapter", name)))
    tiny.image_encoder(10).save_pretrained(str(cached("someone/encoders", "small")))
    tiny.image_encoder(12).save_pretrained("here/encoder")
    hub = {"cache_dir": "cache"}
    for name, width in (
        ("image_encoder", 6),
        ("models/image_encoder", 4),
        ("h94/IP-Adapter/models/image_encoder", 4),
        ("someone/encoders/small", 10),
        ("here/encoder", 12),
    ):
        assert image_encoder(name, adapter, hub=hub).config.projection_dim == width, name


@pytest.mark.slow
@pytest.mark.parametrize("family", [SD, ANIMATE], ids=str)
def test_frames_that_are_not_finite_are_an_error_of_a_direct_call_too(family):
    pipe = family.pipeline(weak=False, dtype=torch.float32)
    plain = pipe(**family.call(output_type="pil", num_inference_steps=1, reflection_steps=0))[0]
    assert plain
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    for _ in range(2):
        with pytest.raises(NotFinite, match="frames of the autoencoder have values that are not finite; decode in"):
            pipe(**family.call(output_type="pil", num_inference_steps=1, reflection_steps=0))
    processor = pipe.video_processor if family.video else pipe.image_processor
    assert not {"postprocess", "postprocess_video"} & vars(processor).keys()
