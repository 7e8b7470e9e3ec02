"""Every layout in which ControlNets, autoencoders, LoRAs and adapters are published; what does not fit is refused."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import re
from pathlib import Path

import families
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, ControlNetModel
from original_layout import unet_names, vae_names
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from w2sd_video import arms
from w2sd_video.errors import WeightsError, WeightsNotFound
from w2sd_video.models import checks, layouts
from w2sd_video.models.bases import BASES, SD15
from w2sd_video.models.networks import autoencoder
from w2sd_video.models.sources import Source
from w2sd_video.pipelines import W2SDStableDiffusionPipeline

SD, ANIMATE = families.FAMILIES[3], families.FAMILIES[1]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def plain(tensors) -> Tensors:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def write(path: str, tensors: Tensors, **wrap) -> Path:
    tensors = {name: tensor.clone() for name, tensor in plain(tensors).items()}
    save_file(tensors, path, **wrap) if path.endswith(".safetensors") else torch.save({"state_dict": tensors}, path)
    return Path(path)


def source(path: Path, argument: str = "controlnet") -> Source:
    return Source(argument, str(path), path)


def same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


# ControlNets ------------------------------------------------------------------------------------------------------


def control_names(net: ControlNetModel) -> Tensors:
    """A ControlNet as lllyasviel published them."""
    own = {n: t for n, t in net.state_dict().items() if not n.startswith("controlnet_")}
    named = unet_names(own, net.config.layers_per_block)
    named = {f"control_model.{n.removeprefix('model.diffusion_model.')}": t for n, t in named.items()}
    last = 2 * len(net.controlnet_cond_embedding.blocks) + 2
    hint = {"conv_in": 0, "conv_out": last} | {f"blocks.{i}": 2 * i + 2 for i in range((last - 2) // 2)}
    for name, tensor in net.state_dict().items():
        if match := re.fullmatch(r"controlnet_cond_embedding\.(.*)\.(weight|bias)", name):
            named[f"control_model.input_hint_block.{hint[match[1]]}.{match[2]}"] = tensor
        if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(\w+)", name):
            named[f"control_model.zero_convs.{match[1]}.0.{match[2]}"] = tensor
        if match := re.fullmatch(r"controlnet_mid_block\.(\w+)", name):
            named[f"control_model.middle_block_out.0.{match[1]}"] = tensor
    return named


def controlnet(**config) -> ControlNetModel:
    """One with as many blocks in its embedding as the published ones, which the original names go by."""
    unet = SD.unet(30)
    net = tiny.seeded(
        5,
        lambda: ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(4, 4, 8, 8), load_weights_from_unet=False
        ),
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "without control_model", "diffusers", "with controlnet"])
@pytest.mark.parametrize("suffix", ["safetensors", pytest.param("pth", marks=pytest.mark.exhaustive)])
def test_a_controlnet_in_one_file_is_the_one_in_its_folder(layout, suffix):
    net = controlnet()
    tensors = {
        "original": lambda: {**control_names(net), "model.diffusion_model.out.2.bias": torch.ones(4)},
        "without control_model": lambda: {n.removeprefix("control_model."): t for n, t in control_names(net).items()},
        "diffusers": lambda: dict(net.state_dict()),
        "with controlnet": lambda: {f"controlnet.{n}": t for n, t in net.state_dict().items()},
    }[layout]()
    file = source(write(f"net.{suffix}", tensors))
    loaded = layouts.controlnet(file, SD.unet(0).config)
    same(loaded, net)
    assert not loaded.training and loaded.dtype == torch.float32
    assert layouts.controlnet(file, SD.unet(0).config, torch.float16).dtype == torch.float16


def test_a_smaller_controlnet_of_sdxl_is_read_off_its_file():
    """diffusers/controlnet-canny-sdxl-1.0-small has no attention but in no block at all."""
    unet = families.FAMILIES[2].unet(0)
    config = {**unet.config, "down_block_types": ("DownBlock2D",) * 2, "mid_block_type": "UNetMidBlock2D"}
    takes = inspect.signature(ControlNetModel.__init__).parameters
    config = {k: v for k, v in config.items() if k in takes} | {"conditioning_embedding_out_channels": (4, 4)}
    net = ControlNetModel(**config).eval()
    same(layouts.controlnet(source(write("small.safetensors", net.state_dict())), unet.config), net)


OTHER_NETWORKS = {
    "lora_controlnet": "a Control-LoRA",
    "lllite_unet_down.0.weight": "a ControlNet-LLLite",
    "task_embedding": "a ControlNet Union",
    "difference": "the difference of a ControlNet and a UNet",
    "body.0.in_conv.weight": "a file of",
    "lora_unet_x.lora_down.weight": "a LoRA",
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_other_networks_are_no_controlnets_and_named(name):
    tensors = {name: torch.ones(1)} | (
        {"input_hint_block.0.weight": torch.ones(4, 3, 3, 3)} if name == "difference" else {}
    )
    with pytest.raises(WeightsError, match=f"controlnet: 'x.safetensors' is {OTHER_NETWORKS[name]}.* Accepted: a "):
        layouts.controlnet(source(write("x.safetensors", tensors)), SD.unet(0).config)


def test_an_incomplete_or_misshapen_controlnet_is_refused_and_what_has_no_place_is_pointed_out(caplog):
    net = controlnet().state_dict()
    with pytest.raises(WeightsError, match="lacks 1 weights of ControlNetModel, such as controlnet_mid_block.bias"):
        layouts.controlnet(
            source(write("a.safetensors", {n: t for n, t in net.items() if n != "controlnet_mid_block.bias"})),
            SD.unet(0).config,
        )
    wrong = {**net, "time_embedding.linear_1.bias": torch.ones(3)}
    with pytest.raises(WeightsError, match=r"1 weights of another shape .* time_embedding.linear_1.bias first: \(3,\)"):
        layouts.controlnet(source(write("b.safetensors", wrong)), SD.unet(0).config)
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        layouts.controlnet(source(write("c.safetensors", {**net, "extra.weight": torch.ones(3)})), SD.unet(0).config)
    assert "holds 1 weights that have no place in ControlNetModel and are left out, extra.weight first" in caplog.text


# Autoencoders -----------------------------------------------------------------------------------------------------

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("layout", ["original", "in a whole model", "diffusers", "older diffusers"])
@pytest.mark.parametrize("suffix", [pytest.param("safetensors", marks=pytest.mark.slow), "pt"])
def test_an_autoencoder_in_one_file_is_the_one_in_its_folder(layout, suffix):
    vae = tiny.vae()
    own, original = vae.state_dict(), vae_names(vae.state_dict(), 2)
    tensors = {
        "original": {n.removeprefix("first_stage_model."): t for n, t in original.items()},
        "in a whole model": {**original, "model.diffusion_model.out.2.bias": torch.ones(4)},
        "diffusers": own,
        "older diffusers": {
            re.sub(r"(attentions\.0\.)(to_\w+(\.0)?)(?=\.)", lambda m: m[1] + OLD[m[2]], n): t for n, t in own.items()
        },
    }[layout]
    loaded = layouts.autoencoder(source(write(f"vae.{suffix}", tensors), "vae"), vae.config)
    same(loaded, vae)


def test_the_scale_of_an_autoencoders_latents_is_that_of_the_base():
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD15, subfolder="vae"))
    names = {n.removeprefix("first_stage_model."): t for n, t in vae_names(vae.state_dict(), 4).items()}
    zeros = {name: torch.zeros(1, dtype=torch.float16).expand(tensor.shape) for name, tensor in names.items()}
    torch.save(zeros, "vae.pt")
    scales = {name: autoencoder("vae.pt", torch.float16, base).config.scaling_factor for name, base in BASES.items()}
    assert scales == {"SDXL": 0.13025, "Stable Diffusion": 0.18215}


def test_what_is_no_autoencoder_is_refused_by_name():
    for tensors, says in (
        ({"lora_unet_x.lora_down.weight": torch.ones(2)}, "is a LoRA"),
        (
            {"encoder.conv_in.weight": torch.ones(2), "decoder.conv_in.weight": torch.tensor(1.0)},
            "Accepted: an autoenc",
        ),
        ({"decoder.layers.0.weight": torch.ones(2)}, "Accepted: an autoencoder"),
    ):
        with pytest.raises(WeightsError, match=f"vae: .*{says}"):
            layouts.autoencoder(source(write("x.safetensors", tensors), "vae"), tiny.vae().config)


# What files say of their training ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said", "expected"),
    [
        ((), {}, {"prediction_type": "epsilon"}),
        (("v_pred",), {}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        (
            ("v_pred", "ztsnr"),
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
        (
            ("v_pred",),
            {"ss_zero_terminal_snr": "True"},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
    ],
)
def test_the_parametrisation_that_a_file_states_is_its_schedule(names, said, expected):
    assert checks.parametrisation(source(Path("x"), "strong"), names, said) == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("edm_mean", "edm_std"), {}),
        (("edm_vpred.sigma_max",), {}),
        ((), {"modelspec.prediction_type": "edm"}),
        ((), {"modelspec.prediction_type": "flow"}),
    ],
)
def test_other_parametrisations_are_refused_by_name(names, said):
    with pytest.raises(
        WeightsError, match="strong: 'x' (is not supported: .*EDM|states modelspec.prediction_type 'flow')"
    ):
        checks.parametrisation(source(Path("x"), "strong"), names, said)


# Folders ----------------------------------------------------------------------------------------------------------


def image_model(folder: str, **save) -> Path:
    parts = SD.components(weak=False, unet=SD.unet(0))
    del parts["weak_unet"]
    W2SDStableDiffusionPipeline(**parts).save_pretrained(folder, **save)
    return Path(folder)


load = W2SDStableDiffusionPipeline.from_pretrained


@pytest.mark.slow
@pytest.mark.parametrize(
    "save",
    [{"variant": "fp16"}, {"safe_serialization": False}, {"variant": "fp16", "safe_serialization": False}],
    ids=str,
)
def test_a_folder_of_one_variant_loads(save):
    assert any(Path(image_model("model", **save)).rglob("*.fp16.*" if "variant" in save else "*.bin"))
    pipe = load("model", "model")
    same(pipe.unet, SD.unet(0))
    same(pipe.weak_unet, SD.unet(0))
    same(pipe.vae, tiny.vae())
    same(pipe.text_encoder, tiny.text_encoders()[0])


def test_code_in_a_model_folder_is_never_run():
    folder = image_model("model")
    code = "from pathlib import Path\nPath('pwned').touch()\nclass Net: pass\n"
    for place in (folder, folder / "unet", folder / "text_encoder", Path(".")):
        (place / "evil.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    for change, says in (
        ({"unet": ["evil", "Net"]}, "has a unet of 'evil', whose code is never run"),
        ({"_class_name": ["evil", "Net"]}, "is a pipeline of code of its own, which is never run"),
        ({"text_encoder": ["transformers", "AutoModel"]}, "has a text_encoder with code of its own"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index | change))
        config = folder / "text_encoder" / "config.json"
        said = json.loads(config.read_text())
        config.write_text(json.dumps(said | {"auto_map": {"AutoModel": "evil.Net"}}))
        for arms_ in (("model",), ("model", "model")):
            with pytest.raises(WeightsError, match=f"strong: 'model' {says}"):
                load(*arms_)
        config.write_text(json.dumps(said))
    (folder / "model_index.json").write_text(json.dumps(index))
    load("model")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("part", ["unet", *(pytest.param(p, marks=pytest.mark.slow) for p in ("vae", "text_encoder"))])
def test_damage_in_a_component_is_one_refusal(part):
    image_model("model", safe_serialization=False)
    image_model("safe")
    for name, content in (("model", b""), ("model", b"no pickle"), ("safe", b""), ("safe", bytes(100))):
        (file,) = [f for kind in ("bin", "safetensors") for f in (Path(name) / part).glob(f"*.{kind}")]
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=f"strong: '{name}' is damaged") as error:
            load(name)
        assert "\n" not in str(error.value)
        file.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("part", [pytest.param("unet", marks=pytest.mark.slow), "vae", "text_encoder"])
def test_weights_that_a_component_lacks_are_refused_and_those_without_a_place_pointed_out(part, caplog):
    folder = image_model("model")
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    first = sorted(name for name in tensors if name.endswith("weight"))[0]
    save_file({n: t for n, t in tensors.items() if n != first}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="strong: 'model' lacks 1 weights of "):
        load("model")
    save_file(tensors | {"extra.weight": torch.ones(1)}, file, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        load("model")
    assert (
        "strong: 'model' holds 1 weights that have no place in" in caplog.text and "extra.weight first" in caplog.text
    )


def test_schedulers_of_other_parametrisations_or_of_no_kind_are_refused():
    folder = image_model("model")
    file = folder / "scheduler" / "scheduler_config.json"
    own = json.loads(file.read_text())
    for change, says in (
        ({"_class_name": "EDMEulerScheduler"}, "is not supported: it has a scheduler EDMEulerScheduler"),
        ({"_class_name": "no_such"}, "has a scheduler 'no_such', which diffusers does not have"),
        ({"_class_name": "UNet2DConditionModel"}, "which diffusers does not have"),
        ({"prediction_type": "guess"}, "has a scheduler of prediction_type 'guess'"),
        ({"beta_schedule": "guess"}, "cannot be loaded"),
    ):
        file.write_text(json.dumps(own | change))
        with pytest.raises(WeightsError, match=f"strong: 'model' .*{says}"):
            load("model")


# LoRAs ------------------------------------------------------------------------------------------------------------

SELF = ("to_q", "to_k", "to_v", "to_out.0")


def lora_of(network, targets=SELF, prefix="unet.", seed=4) -> Tensors:
    """PEFT's own names and values for a random LoRA of a network."""
    families.add_lora(network, targets=targets, seed=seed)
    named = get_peft_model_state_dict(network, adapter_name="style")
    return {f"{prefix}{name}": tensor.detach().clone() for name, tensor in named.items()}


def kohya(tensors: Tensors, prefix="lora_unet_") -> Tensors:
    named = {}
    for name, tensor in tensors.items():
        layer, part = re.fullmatch(r"unet\.(.*)\.(lora_[AB])\.weight", name).groups()
        base = prefix + layer.replace(".", "_")
        named[f"{base}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = tensor
        named[f"{base}.alpha"] = torch.tensor(2.0)
    return named


def old_processors(tensors: Tensors, prefix="unet.") -> Tensors:
    named = {}
    for name, tensor in tensors.items():
        layer, to, part = re.fullmatch(r"unet\.(.*)\.(to_\w+?)(?:\.0)?\.lora_([AB])\.weight", name).groups()
        named[f"{prefix}{layer}.processor.{to}_lora.{'down' if part == 'A' else 'up'}.weight"] = tensor
    return named


def animatediff(tensors: Tensors) -> Tensors:
    """As guoyww published motion LoRAs and the domain adapter."""
    named = {}
    for name, tensor in old_processors(tensors, "module.").items():
        if "motion_modules" in name:
            name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", name)
            name = re.sub(r"\.attn([12])\.", lambda m: f".attention_blocks.{int(m[1]) - 1}.", name)
        named[name] = tensor
    return named


LAYOUTS = {
    "peft in diffusers": (lambda t: t, "safetensors"),
    "older diffusers": (
        lambda t: {n.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): x for n, x in t.items()},
        "safetensors",
    ),
    "attention processors": (old_processors, "safetensors"),
    "attention processors without a prefix": (lambda t: old_processors(t, ""), "bin"),
    "sd-scripts": (kohya, "safetensors"),
    "sd-scripts, pickled": (kohya, "pt"),
    "peft": (lambda t: {f"base_model.model.{n.removeprefix('unet.')}": x for n, x in t.items()}, "safetensors"),
    "animatediff": (animatediff, "ckpt"),
}


def lora_weights(network, name: str) -> Tensors:
    return {n: t * 1.0 for n, t in get_peft_model_state_dict(network, adapter_name=name).items()}


@pytest.mark.parametrize(
    ("family", "layout"),
    [*((SD, layout) for layout in LAYOUTS), (ANIMATE, "animatediff"), (ANIMATE, "older diffusers")],
)
def test_a_lora_loads_from_every_layout_the_same(layout, family):
    pipe = family.pipeline(weak=False, dtype=torch.float32)
    tensors = lora_of(copy.deepcopy(pipe.unet))
    assert family is SD or any("motion_modules" in name for name in tensors)
    change, suffix = LAYOUTS[layout]
    pipe.load_lora_weights(write(f"lora.{suffix}", change(tensors)), adapter_name="x")
    loaded = lora_weights(pipe.unet, "x")
    assert loaded.keys() == {name.removeprefix("unet.") for name in tensors}
    assert all(torch.equal(loaded[name.removeprefix("unet.")], tensor) for name, tensor in tensors.items())
    assert {layer.scaling["x"] for layer in arms.adapters(pipe.unet)["x"]} == {1.0}


def test_scales_stay_whatever_they_are_stated_in():
    """alpha / r is 3 / 2: of sd-scripts in the weights, of PEFT in the configuration beside them."""
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    tensors = lora_of(copy.deepcopy(pipe.unet))
    scaled = {n: torch.tensor(3.0) if n.endswith("alpha") else t for n, t in kohya(tensors).items()}
    pipe.load_lora_weights(write("k.safetensors", scaled | {"bundle_emb.x": torch.ones(1)}), adapter_name="k")
    assert {layer.scaling["k"] for layer in arms.adapters(pipe.unet)["k"]} == {1.5}
    Path("peft").mkdir()
    Path("peft/adapter_config.json").write_text(json.dumps({"lora_alpha": 3, "r": 2}))
    write("peft/adapter_model.safetensors", LAYOUTS["peft"][0](tensors))
    pipe.load_lora_weights("peft", adapter_name="p")
    for name, tensor in lora_weights(pipe.unet, "p").items():
        torch.testing.assert_close(tensor, tensors[f"unet.{name}"] * (1.5 if "lora_B" in name else 1))


def test_layers_without_a_place_are_counted_named_and_left_out(caplog):
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    tensors = lora_of(copy.deepcopy(pipe.unet))
    extra = {"unet.none.lora_A.weight": torch.ones(2, 8), "unet.none.lora_B.weight": torch.ones(8, 2)}
    for n, (change, says) in enumerate(
        ((lambda t: t, "2 weights that have no place in UNet2DConditionModel"), (kohya, "1 layers that have no place"))
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "w2sd_video"):
            pipe.load_lora_weights(write(f"{n}.safetensors", change({**tensors, **extra})), adapter_name=f"x{n}")
        assert says in caplog.text and "none" in caplog.text
        assert lora_weights(pipe.unet, f"x{n}").keys() == {name.removeprefix("unet.") for name in tensors}


@pytest.mark.parametrize("layout", ["today's names", "names of before", "older diffusers", "sd-scripts"])
def test_a_lora_of_a_text_encoder_alone_loads(layout):
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    tensors = lora_of(copy.deepcopy(pipe.text_encoder), ("q_proj", "v_proj"), "")
    named = {f"text_encoder.{'' if layout.startswith('today') else 'text_model.'}{n}": t for n, t in tensors.items()}
    if layout == "older diffusers":
        parts = {"lora_A": "lora_linear_layer.down", "lora_B": "lora_linear_layer.up"}
        named = {re.sub("lora_[AB]", lambda m: parts[m[0]], n): t for n, t in named.items()}
    if layout == "sd-scripts":
        named = kohya({n.replace("text_encoder.", "unet."): t for n, t in named.items()}, "lora_te_")
    pipe.load_lora_weights(write("te.safetensors", named), adapter_name="te")
    assert not arms.adapters(pipe.unet) and arms.adapters(pipe.text_encoder).keys() == {"te"}
    loaded = {n.removeprefix("base_model.model."): t for n, t in lora_weights(pipe.text_encoder, "te").items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def no_lora() -> dict[str, tuple[Tensors, str]]:
    up, down = torch.ones(8, 2), torch.ones(2, 8)
    base = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    good = {f"{base}.lora_down.weight": torch.ones(2, 16), f"{base}.lora_up.weight": torch.ones(16, 2)}
    return {
        "Wan": (
            {
                "diffusion_model.blocks.0.self_attn.q.lora_A.weight": down,
                "diffusion_model.blocks.0.self_attn.q.lora_B.weight": up,
            },
            "none of its 2 weights has a place",
        ),
        "Flux": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": down}, "none of its 1 weights"),
        "Flux, sd-scripts": (
            {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": down},
            "none of its 1 layers",
        ),
        "another width": (
            {n: torch.ones(2, 99) if "down" in n else t for n, t in good.items()},
            "1 of its layers have another width",
        ),
        "DoRA": (good | {f"{base}.dora_scale": torch.ones(16)}, "1 weights of DoRA"),
        "LoHa": ({f"{base}.hada_w1_a": up}, "1 weights of LoHa"),
        "LoKr": ({f"{base}.lokr_w1": up}, "1 weights of LoKr"),
        "Tucker": (good | {f"{base}.lora_mid.weight": up}, "1 weights of LoCon with a Tucker decomposition"),
        "full": ({f"{base}.diff": up}, "1 weights of full differences"),
        "0-d": ({f"{base}.lora_down.weight": torch.tensor(1.0), f"{base}.lora_up.weight": torch.tensor(1.0)}, "lora: "),
        "many": ({f"{'x' * 3000}.{n}.lora_A.weight": down for n in range(50)}, "none of its 50 weights"),
    }


@pytest.mark.parametrize("what", no_lora())
def test_a_lora_that_does_not_fit_is_refused_in_one_sentence_and_nothing_changes(what):
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    tensors, says = no_lora()[what]
    for given in (write("x.safetensors", tensors), tensors):
        with pytest.raises(WeightsError, match=says) as error:
            pipe.load_lora_weights(given, adapter_name="x")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
        assert not arms.adapters(pipe.unet)


def test_loras_of_different_layers_are_each_scaled_where_they_are():
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    pipe.load_lora_weights(write("a.safetensors", lora_of(copy.deepcopy(pipe.unet), ("to_q",))), adapter_name="a")
    pipe.load_lora_weights(
        write("b.safetensors", lora_of(copy.deepcopy(pipe.unet), ("to_k", "conv1"))), adapter_name="b"
    )
    pipe.set_adapters(["a", "b"], [0.5, 0.25])
    there = arms.adapters(pipe.unet)
    names = {layer: name for name, layer in pipe.unet.named_modules()}
    assert {names[layer].rpartition(".")[2] for layer in there["a"]} == {"to_q"}
    assert {names[layer].rpartition(".")[2] for layer in there["b"]} == {"to_k", "conv1"}
    with arms.switched(arms.adapter_scales(pipe.unet, {"a": -1.5, "b": 3.0})):
        assert {layer.scaling["a"] for layer in there["a"]} == {-1.5}
        assert {layer.scaling["b"] for layer in there["b"]} == {3.0}
    assert {layer.scaling["a"] for layer in there["a"]} == {0.5}


def test_a_folder_of_several_files_asks_which(tmp_path):
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    tensors = lora_of(copy.deepcopy(pipe.unet))
    Path("loras").mkdir()
    with pytest.raises(WeightsNotFound, match="lora: 'loras' holds no file of weights"):
        pipe.load_lora_weights("loras")
    write("loras/a.safetensors", tensors)
    pipe.load_lora_weights("loras", adapter_name="only")
    write("loras/b.safetensors", tensors)
    with pytest.raises(WeightsError, match="holds 2 files of weights: name one, such as 'a.safetensors'"):
        pipe.load_lora_weights("loras")
    pipe.load_lora_weights("loras", weight_name="b.safetensors", adapter_name="b")


# IP-Adapters ------------------------------------------------------------------------------------------------------


def ip_weights() -> dict[str, Tensors]:
    return families.ip_adapter(SD.unet(0))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_ip_adapter_takes_the_encoder_beside_it_or_one_that_is_elsewhere(suffix):
    weights = ip_weights()
    if suffix == "bin":
        torch.save(weights, "ip.bin")
    else:
        save_file(
            {f"{k}.{n}": v.contiguous() for k, part in weights.items() for n, v in part.items()}, "ip.safetensors"
        )
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    with pytest.raises(WeightsNotFound, match="has no image encoder: no folder 'image_encoder' lies beside it"):
        pipe.load_ip_adapter(f"ip.{suffix}")
    tiny.image_encoder().save_pretrained("far/away")
    pipe.load_ip_adapter(f"ip.{suffix}", image_encoder_folder="far/away")
    assert pipe.image_encoder.config.projection_dim == tiny.TEXT_WIDTH and arms.ip_adapter_processors(pipe.unet)
    tiny.image_encoder().save_pretrained("image_encoder")
    again = SD.pipeline(weak=False, dtype=torch.float32)
    again.load_ip_adapter(".", "", f"ip.{suffix}")
    same(again.image_encoder, pipe.image_encoder)


def test_an_ip_adapter_for_another_encoder_or_of_faces_is_refused_and_nothing_changes():
    weights = ip_weights()
    torch.save(weights, "ip.bin")
    tiny.image_encoder(20).save_pretrained("image_encoder")
    pipe = SD.pipeline(weak=False, dtype=torch.float32)
    with pytest.raises(
        WeightsError, match="ip_adapter: 'ip.bin' takes features of width 8, and the image encoder gives 20"
    ):
        pipe.load_ip_adapter("ip.bin")
    face = {"proj.0.weight": torch.ones(16, 512), "proj.2.weight": torch.ones(32, 16), "norm.weight": torch.ones(8)}
    torch.save({"image_proj": face, "ip_adapter": weights["ip_adapter"]}, "face.bin")
    with pytest.raises(WeightsError, match="is an IP-Adapter FaceID, which takes embeddings of faces"):
        pipe.load_ip_adapter("face.bin")
    fewer = {n: t for n, t in weights["ip_adapter"].items() if not n.startswith("1.")}
    torch.save({"image_proj": weights["image_proj"], "ip_adapter": fewer}, "fewer.bin")
    with pytest.raises(WeightsError, match=r"made for a UNet of \d cross-attention layers. Accepted: \d"):
        pipe.load_ip_adapter("fewer.bin")
    assert pipe.image_encoder is None and not arms.ip_adapter_processors(pipe.unet)
