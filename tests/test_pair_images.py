"""Pairs of picture models from the command line, saved as users have them, against the pipelines' own calls."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
import tiny
import torch
import yaml
from commands import listing, run
from diffusers import AutoencoderKL, DDIMScheduler
from pair_models import SD, SIDE, STEPS, XL, call, image, loaded, pixels, preset, record, scaled
from PIL import Image
from transformers import CLIPImageProcessor

from w2sd_video.models.dit_moe import DiTMoETransformer2DModel
from w2sd_video.pipelines import W2SDDiTMoEPipeline
from w2sd_video.runs import Request
from w2sd_video.sampling import load, sample

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("family, base", [(XL, "sdxl-juggernaut"), (SD, "sd15-dreamshaper")])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family: family is SD)
def test_image_makes_what_the_pipeline_makes(family, base, xl, sd):
    models = xl if family.xl else sd
    path = preset(base, models, weak=models["weak"])
    said = image("--pair", path)
    assert listing() == ["a-cat-seed0.json", "a-cat-seed0.png"] and "outputs/a-cat-seed0.png" in said
    own = loaded(family, models, weak=models["weak"])
    expected = call(own, strong_guidance_scale=1.0, weak_guidance_scale=1.0)
    assert np.array_equal(pixels(), expected)
    assert record()["videos"]["w2sd"]["evaluations"] == own.evaluations
    image("--pair", path, "--plain")
    assert np.array_equal(pixels("a-cat-seed0-plain"), call(own, method=None))
    image("--pair", path, "--weak-only")
    stock = family.stock.from_pretrained(models["weak"], torch_dtype=torch.float32)
    stock.scheduler = own.scheduler
    assert np.array_equal(pixels("a-cat-seed0-weak"), call(stock))
    image("--pair", path, "--compare")
    assert pixels("a-cat-seed0-compare").shape[1] > 3 * 200  # the three side by side, labelled
    assert len({v["frames_sha256"] for v in record("a-cat-seed0-compare")["videos"].values()}) == 3
    assert "every frame is the same" in run("image", "--from", "outputs/a-cat-seed0.json", "--overwrite")


@pytest.mark.slow
def test_a_lora_at_two_scales(xl):
    own = loaded(XL, xl)
    own.load_lora_weights(xl["lora"], adapter_name="style")
    own.set_adapters(["style"], [0.5])
    arms = {"strong_guidance_scale": 1.0, "weak_guidance_scale": 1.0}
    expected = call(own, weak_adapter_scales={"style": -1.5}, **arms)
    image("--preset", preset("sdxl-lora", xl), "--lora", f"{xl['lora']}:0.5:-1.5")
    assert np.array_equal(pixels(), expected)
    # The same under the published script's names, on a preset that has the LoRA already.
    path = preset("sdxl-lora", xl, adapters={"style": scaled(xl["lora"], 0.8, -1.0)})
    options = f"--preset {path} --strong_lora_scale 0.5 --weak_lora_scale -1.5 --save_dir res --T {STEPS} --seed 0"
    run("image", "--prompt", "a cat", "--size", SIDE, "--device", "cpu", *options.split())
    assert np.array_equal(np.asarray(Image.open("res/a-cat-seed0.png")), expected)
    # And by its name in the preset. The weak arm alone is the LoRA at the weak scale.
    image("--preset", path, "--lora", "style:0.5:-1.5", "--weak-only")
    own.set_adapters(["style"], [-1.5])
    assert np.array_equal(pixels("a-cat-seed0-weak"), call(own, method=None))
    image("--preset", path, "--lora_path", xl["lora"], "--plain")
    own.set_adapters(["style"], [0.8])
    assert np.array_equal(pixels("a-cat-seed0-plain"), call(own, method=None))


def test_guidance_alone_makes_the_weak_arm_what_it_is(sd):
    path = preset("sd15-guidance", sd)
    image("--preset", path, "--compare")
    made = record("a-cat-seed0-compare")["videos"]
    assert made["weak"]["evaluations"] == {"strong": 0, "weak": STEPS, "total": STEPS}  # guidance 0: one branch
    own = loaded(SD, sd)
    request = Request.of("a cat", preset=path)
    both, _ = sample(load(request)["w2sd"], request, "w2sd")
    assert np.array_equal(both[0], call(own, weak_guidance_scale=0.0))


@pytest.mark.slow
def test_a_controlnet_and_without(sd):
    shown = {"--preset": preset("sd15-controlnet", sd, controlnet=scaled(sd["controlnet"], 0.7, 0.0))}
    image("--preset", shown["--preset"], "--control", sd["picture"])
    control = next(f for f in families.FAMILIES if f.control and not f.video and not f.xl)
    own = loaded(control, sd, controlnet=sd["controlnet"])
    arms = {"strong_guidance_scale": 0.5, "weak_guidance_scale": 0.5, "weak_controlnet_conditioning_scale": 0.0}
    picture = Image.open(sd["picture"]).resize((SIDE, SIDE))
    expected = call(own, image=picture, controlnet_conditioning_scale=0.7, **arms)
    assert np.array_equal(pixels(), expected)
    image("--preset", shown["--preset"], "--control", sd["picture"], "--weak-only")
    without = loaded(SD, sd)
    assert np.array_equal(pixels("a-cat-seed0-weak"), call(without, method=None))
    assert "--control is missing" in image("--preset", shown["--preset"], code=2)
    assert "the pair has no use for it" in image(
        "--preset", preset("sd15-guidance", sd), "--control", sd["picture"], code=2
    )


@pytest.mark.slow
@pytest.mark.parametrize("family, base", [(XL, "sdxl-ip-adapter"), (SD, "sd15-ip-adapter")])
def test_an_ip_adapter_and_without(family, base, xl, sd):
    models = xl if family.xl else sd
    path = preset(base, models, ip_adapter=scaled(models["ip"], 0.6, 0.0))
    image("--preset", path, "--ip-image", models["picture"])
    own = loaded(family, models)
    folder = Path(models["ip"]).parent
    own.load_ip_adapter(str(folder), subfolder="", weight_name="ip-adapter.safetensors")
    assert isinstance(own.feature_extractor, CLIPImageProcessor)
    own.set_ip_adapter_scale(0.6)
    arms = {"strong_guidance_scale": 0.5, "weak_guidance_scale": 0.5}
    picture = Image.open(models["picture"]).convert("RGB")
    expected = call(own, ip_adapter_image=picture, weak_ip_adapter_scale=0.0, **arms)
    assert np.array_equal(pixels(), expected)


def test_a_refined_prompt_is_the_strong_arms(sd):
    path = preset("sd15-prompt", sd, refine=None)
    run("image", "a cat", "--preset", path, "--weak-prompt", "a", "--device", "cpu")
    own = loaded(SD, sd)
    assert np.array_equal(pixels(), call(own, weak_prompt="a", strong_guidance_scale=1.0))
    path = preset("sd15-prompt", sd, refine="./no-such-model")
    assert "--refine: './no-such-model' is not accepted" in image("--preset", path, code=2)


@pytest.mark.slow
def test_classes_by_experts(tmp_path):
    config = dict(sample_size=tiny.SIZE, num_layers=2, num_attention_heads=2, attention_head_dim=8)
    config |= dict(num_experts=4, num_experts_per_tok=1)
    model = tiny.seeded(60, lambda: DiTMoETransformer2DModel(**config))
    own = W2SDDiTMoEPipeline(transformer=model, vae=tiny.vae(), scheduler=DDIMScheduler(), id2label={3: "a, b"})
    own.save_pretrained(tmp_path / "dit")
    said = {
        "extends": "dit-moe-s",
        "description": "tiny",
        "source": "tests",
        "strong": str(tmp_path / "dit"),
        "vae": None,
        "height": SIDE,
        "width": SIDE,
    }
    Path("dit.yaml").write_text(yaml.safe_dump(said | {"dtype": "float32", "num_inference_steps": STEPS}))
    run("image", "3", "--preset", "dit.yaml", "--device", "cpu")
    run("image", "b", "--preset", "dit.yaml", "--device", "cpu")
    assert np.array_equal(pixels("3-seed0"), pixels("b-seed0"))
    config = {"class_labels": [3], "weak_routing": "worst", "guidance_scale": 1.5, "strong_guidance_scale": 1.0}
    own.scheduler = DDIMScheduler(clip_sample=False)
    own.set_progress_bar_config(disable=True)
    made = own(**config, generator=torch.Generator().manual_seed(0), num_inference_steps=STEPS, output_type="np")
    assert np.array_equal(pixels("3-seed0"), (made.images[0] * 255).round().astype("uint8"))
    run("image", "3", "--preset", "dit.yaml", "--device", "cpu", "--weak-routing", "1,2", "--weak-only")
    assert record("3-seed0-weak")["request"]["weak_routing"] == [1, 2]
    made = listing()
    for prompt in ("1000", "c"):  # before the first, whose class is known, is made
        assert f"PROMPT: '{prompt}' is not accepted; give a class by number, 0 to 3" in run(
            "image", "3", prompt, "--preset", "dit.yaml", "--device", "cpu", "--seed", 7, code=2
        )
    for flags, says in (
        (["--size", 64], "--size: 64 is not accepted; the model makes pictures of 16x16"),
        (["--guidance", 0], "a guidance of 0 needs the unconditional branch, which DiTPipeline evaluates only with"),
        (["--weak-routing", "wurst"], "--weak-routing: 'wurst' is not accepted; give worst, or two ranks"),
    ):
        assert says in run("image", "3", "--preset", "dit.yaml", "--device", "cpu", "--overwrite", *flags, code=2)
    assert listing() == made
    assert "dit-moe has none" in run("image", "3", "--preset", "dit.yaml", "--negative-prompt", "a dog", code=2)


@pytest.mark.slow
def test_another_autoencoder(xl, tmp_path):
    for name, channels in (("vae", 4), ("wide", 16)):
        config = {**tiny.vae().config, "latent_channels": channels}
        tiny.seeded(70, lambda config=config: AutoencoderKL.from_config(config)).save_pretrained(tmp_path / name)
    path = preset("sdxl-juggernaut", xl, weak=xl["weak"])
    image("--pair", path, "--vae", "vae")
    own = loaded(XL, xl, weak=xl["weak"], vae=AutoencoderKL.from_pretrained("vae"))
    assert np.array_equal(pixels(), call(own, strong_guidance_scale=1.0, weak_guidance_scale=1.0))
    assert record()["request"]["vae"] == str(tmp_path / "vae")
    says = image("--pair", path, "--vae", "wide", "--overwrite", code=2)
    assert "--vae" in says and "its latents have 16 channels, and the model's 4" in says
    assert "'none' is not there" in image("--pair", path, "--vae", "none", code=2)


@pytest.mark.slow
def test_models_of_a_preset_of_ones_own_lie_beside_it(sd, tmp_path, monkeypatch):
    preset("sd15-ip-adapter", sd, strong="strong", ip_adapter=scaled("ip/ip-adapter.safetensors", 0.6, 0.0))
    path = Path(sd["strong"]).parent / "mine.yaml"
    Path("tiny.yaml").rename(path)
    image("--preset", path, "--ip-image", sd["picture"])
    request = record()["request"]
    assert request["strong"] == sd["strong"] and request["ip_adapter"]["model"] == sd["ip"]
    monkeypatch.chdir(path.parent)  # what is named on the command line lies where that is run
    folder = tmp_path / "there"
    image("--preset", path, "--ip-image", sd["picture"], "--ip-adapter", "ip/ip-adapter.safetensors", "--out", folder)
    assert json.loads((folder / "a-cat-seed0.json").read_text())["request"]["ip_adapter"]["model"] == sd["ip"]


@pytest.mark.slow
def test_z_sampling_has_the_strong_model_in_both_arms(sd):
    """Whatever the pair's weak arm is, by weights or by a setting."""
    made = set()
    for n, (base, values) in enumerate(
        (
            ("sd15-guidance", {}),
            ("sd15-dreamshaper", {"weak": sd["weak"]}),
            ("sd15-controlnet", {"controlnet": None, "weak": None}),
        )
    ):
        arms = {"strong_guidance_scale": 5.5, "weak_guidance_scale": 0.0}
        image("--preset", preset(base, sd, **values, **arms), "--method", "z_sampling", "--out", f"o{n}")
        made.add(Path(f"o{n}/a-cat-seed0-z_sampling.png").read_bytes())
    assert len(made) == 1
    lora = preset("sd15-guidance", sd, adapters={"style": scaled(sd["lora"], 0.8, -1.5)})
    image("--preset", lora, "--method", "z_sampling", "--out", "same")
    pipe = loaded(SD, sd)
    pipe.load_lora_weights(sd["lora"], adapter_name="style")
    pipe.set_adapters(["style"], [0.8])
    expected = call(pipe, method="z_sampling", weak_guidance_scale=0.0)
    assert np.array_equal(np.asarray(Image.open("same/a-cat-seed0-z_sampling.png")), expected)
    with pytest.raises(ValueError, match="`weak_adapter_scales` is given, but ZSampling uses the strong model in both"):
        call(pipe, method="z_sampling", weak_adapter_scales={"style": 0.0})


def test_an_empty_prompt_is_a_weak_prompt(sd):
    path = preset("sd15-dreamshaper", sd, weak=sd["weak"])
    image("--preset", path, "--weak-only", "--weak-prompt", "")
    told = pixels("a-cat-seed0-weak")
    image("--preset", path, "--weak-only", "--overwrite")
    assert not np.array_equal(pixels("a-cat-seed0-weak"), told)


def test_adapters_beside_another_weak_model_act_on_the_strong_one(xl):
    path = preset("sdxl-juggernaut", xl, weak=xl["weak"])
    assert "give 0 for the weak arm" in image("--preset", path, "--lora", f"{xl['lora']}:1:-1.5", code=2)
    image("--preset", path, "--lora", f"{xl['lora']}:1")
    assert record()["request"]["adapters"] == {"pytorch_lora_weights": scaled(xl["lora"], 1.0, 0.0)}
