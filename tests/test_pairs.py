"""Pairs from the command line: presets of tiny models, saved as users have them, against the pipelines' own calls."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
import tiny
import torch
import yaml
from command_lines import command_lines
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from test_cli import listing, run
from transformers import CLIPImageProcessor

from w2sd_video import presets, terminal
from w2sd_video.cli import options
from w2sd_video.errors import WeightsError
from w2sd_video.models.dit_moe import DiTMoETransformer2DModel
from w2sd_video.models.motion import unshare_parameters
from w2sd_video.models.sources import resolve
from w2sd_video.pipelines import W2SDDiTMoEPipeline
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import load, sample

XL, SD, ANIMATE = (families.FAMILIES[i] for i in (2, 3, 1))
SIDE, STEPS = 2 * tiny.SIZE, 3


def image_models(root: Path, family: families.Family) -> dict[str, str]:
    """Strong and weak image models, a LoRA, a ControlNet and an IP-Adapter for them, in the published layouts."""
    stock = StableDiffusionXLPipeline if family.xl else StableDiffusionPipeline
    for name, seed in (("strong", 0), ("weak", 10)):
        parts = family.components(weak=False, unet=family.unet(seed))
        parts = {key: part for key, part in parts.items() if key not in ("weak_unet", "motion_adapter")}
        stock(**parts).save_pretrained(root / name)
    unet = family.unet(0)
    families.add_lora(unet)
    stock.save_lora_weights(root / "lora", unet_lora_layers=get_peft_model_state_dict(unet, adapter_name="style"))
    family.controlnet().save_pretrained(root / "controlnet")
    weights = families.ip_adapter(family.unet(0))
    named = {f"{kind}.{name}": value for kind, part in weights.items() for name, value in part.items()}
    (root / "ip").mkdir()
    save_file({name: value.contiguous() for name, value in named.items()}, root / "ip" / "ip-adapter.safetensors")
    tiny.image_encoder().save_pretrained(root / "ip" / "image_encoder")
    Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(root / "picture.png")
    return {name: str(root / name) for name in ("strong", "weak", "controlnet")} | {
        "lora": str(root / "lora" / "pytorch_lora_weights.safetensors"),
        "ip": str(root / "ip" / "ip-adapter.safetensors"),
        "picture": str(root / "picture.png"),
    }


@pytest.fixture(scope="session")
def xl(tmp_path_factory) -> dict[str, str]:
    return image_models(tmp_path_factory.mktemp("xl"), XL)


@pytest.fixture(scope="session")
def sd(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sd")
    tiny.motion_adapter().save_pretrained(root / "motion")
    tiny.motion_adapter(7).save_pretrained(root / "weak_motion")
    return image_models(root, SD) | {name: str(root / name) for name in ("motion", "weak_motion")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def preset(base: str, models: dict[str, str], **values) -> str:
    """A preset file that extends a real one, with tiny models at a tiny size."""
    said = {"extends": base, "description": "tiny", "source": "tests", "strong": models["strong"], "weak": None}
    said |= {"height": SIDE, "width": SIDE, "dtype": "float32", "num_inference_steps": STEPS, **values}
    Path("tiny.yaml").write_text(yaml.safe_dump(said))
    return "tiny.yaml"


def scaled(model: str, strong: float, weak: float) -> dict:
    return {"model": model, "strong": strong, "weak": weak}


def image(*arguments: object, code: int = 0) -> str:
    return run("image", "a cat", "--device", "cpu", *arguments, code=code)


def record(name: str = "a-cat-seed0") -> dict:
    return json.loads(Path(f"outputs/{name}.json").read_text())


def pixels(name: str = "a-cat-seed0") -> np.ndarray:
    return np.asarray(Image.open(f"outputs/{name}.png"))


def call(pipe, **arguments) -> np.ndarray:
    """The pipeline's own call at a preset's settings, as the PNG has it."""
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": STEPS, "guidance_scale": 5.5, "height": SIDE, "width": SIDE}
    settings |= {"generator": torch.Generator().manual_seed(0), "output_type": "np"}
    return (pipe("a cat", **{**settings, **arguments}).images[0] * 255).round().astype("uint8")


def loaded(family: families.Family, models: dict[str, str], **pair):
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    return family.cls.from_pretrained(models["strong"], torch_dtype=torch.float32, scheduler=scheduler, **pair)


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


def video_call(pipe, **arguments) -> np.ndarray:
    return call_frames(pipe, num_frames=tiny.FRAMES, guidance_scale=3.0, **arguments)


def call_frames(pipe, **arguments) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": STEPS, "height": SIDE, "width": SIDE, "output_type": "np"}
    settings |= {"generator": torch.Generator().manual_seed(0)}
    return (pipe("a cat", **{**settings, **arguments}).frames[0] * 255).round().astype("uint8")


def animate(sd: dict[str, str], base: str, **values) -> Request:
    path = preset(base, sd, motion_adapter=sd["motion"], num_frames=tiny.FRAMES, **values)
    shown = {"control": sd["picture"]} if "controlnet" in values else {}
    return Request.of("a cat", preset=path, **shown)


@pytest.mark.slow
def test_videos_with_a_controlnet_show_it_one_picture_or_a_frame_each(sd):
    request = animate(sd, "animatediff-controlnet", controlnet=scaled(sd["controlnet"], 1.0, 0.5))
    made, _ = sample(load(request)["w2sd"], request, "w2sd")
    family = next(f for f in families.FAMILIES if f.control and f.video)
    own = family.cls.from_pretrained(
        sd["strong"], motion_adapter=sd["motion"], controlnet=sd["controlnet"], torch_dtype=torch.float32
    )
    frames = [Image.open(sd["picture"]).resize((SIDE, SIDE))] * tiny.FRAMES
    arms = {"strong_guidance_scale": 0.5, "weak_guidance_scale": 0.5, "weak_controlnet_conditioning_scale": 0.5}
    assert np.array_equal(made, video_call(own, conditioning_frames=frames, **arms))
    Path("frames").mkdir()
    for n in range(2):
        Image.open(sd["picture"]).save(f"frames/{n}.png")
    short = Request.of("a cat", preset=request.preset, control="frames")
    with pytest.raises(Refused, match="it has 2 frames; give 3, or one picture for all"):
        sample(load(short)["w2sd"], short, "w2sd")


@pytest.mark.slow
def test_the_weak_arm_with_another_motion_module_or_none(sd):
    request = animate(sd, "animatediff-guidance", weak_motion_adapter=sd["weak_motion"], weak_guidance_scale=1.0)
    pair = load(request)["w2sd"]
    # All but the motion modules is held once; those are the other adapter's.
    ours, theirs = dict(pair.weak_unet.named_parameters()), dict(pair.unet.named_parameters())
    other = dict(tiny.motion_adapter(7).named_parameters())
    for name, parameter in ours.items():
        if ".motion_modules." in name:
            assert torch.equal(parameter, other[name])
        else:
            assert parameter is theirs[name]
    made, _ = sample(pair, request, "w2sd")
    own = ANIMATE.cls.from_pretrained(
        sd["strong"], weak=sd["strong"], motion_adapter=sd["motion"], torch_dtype=torch.float32
    )
    unshare_parameters(own.weak_unet, own.unet)
    own.weak_unet.load_state_dict(other, strict=False)
    assert np.array_equal(made, video_call(own, weak_guidance_scale=1.0))
    off = animate(sd, "animatediff-motion")
    made, _ = sample(load(off)["w2sd"], off, "w2sd")
    plain = ANIMATE.cls.from_pretrained(sd["strong"], motion_adapter=sd["motion"], torch_dtype=torch.float32)
    assert np.array_equal(made, video_call(plain, weak_motion_scale=0.0, strong_guidance_scale=1.0))


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
        (["--guidance", 0], "DiTPipeline treats a guidance below 1 as 1"),
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


def test_adapters_of_the_other_family_are_refused(xl, sd):
    """Text is 16 wide for tiny SDXL, 8 for tiny SD."""
    says = "is made for a UNet of cross-attention width 16. Accepted: 8, as the pipeline's"
    path = preset("sd15-dreamshaper", sd)
    assert says in image("--preset", path, "--lora", xl["lora"], code=2)
    assert says in image("--preset", path, "--ip-adapter", xl["ip"], "--ip-image", xl["picture"], code=2)
    tensors = load_file(xl["ip"])
    parts = {
        kind: {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(kind)}
        for kind in ("image_proj", "ip_adapter")
    }
    torch.save(parts, "ip-adapter.bin")  # as the first ones are shared
    assert says in image("--preset", path, "--ip-adapter", "ip-adapter.bin", "--ip-image", xl["picture"], code=2)
    with pytest.raises(WeightsError, match="IP-Adapter is made for a UNet of cross-attention width 16"):
        loaded(SD, sd).load_ip_adapter([parts], [""], [""], image_encoder_folder=None)


def test_a_picture_that_changed_is_not_taken_for_the_one_that_was_asked_for(sd):
    path = preset("sd15-ip-adapter", sd, ip_adapter=scaled(sd["ip"], 0.6, 0.0))
    Image.open(sd["picture"]).save("shown.png")
    image("--preset", path, "--ip-image", "shown.png")
    assert "already made" in image("--preset", path, "--ip-image", "shown.png")
    Image.new("RGB", (8, 8)).save("shown.png")
    assert "made with another ip_image" in image("--preset", path, "--ip-image", "shown.png", code=2)
    said = run("image", "--from", "outputs/a-cat-seed0.json", "--overwrite", code=2)
    assert "ip_image: " in said and "the file has changed since this request was recorded" in said


@command_lines("""
    --preset shapes => --preset: 'shapes' is not accepted; it makes videos: w2sd-video generate
    --lora none.safetensors => --lora: 'none.safetensors' is not there
    --lora a/b/c.txt => is not there, and is no hub id
    --strong_lora_scale 1 => has no LoRA: name one by --lora
    --size 15 => --size: 15 is not accepted; give a multiple of 8
    --size 16 --height 16 => --size: 16 is not accepted; give it, or --height and --width
    --controlnet a/b => --control is missing
    --ip-adapter a/b --ip-image a.png => --ip-adapter: 'a/b' is not accepted; name its file
    --ip-adapter a/b/c.bin --ip-image a.png => --ip-image: 'a.png' is not accepted; give a file
    --ip-adapter '' => --ip-adapter: '' is not accepted; give MODEL[:STRONG[:WEAK]]
    --controlnet '' => --controlnet: '' is not accepted; give MODEL[:STRONG[:WEAK]]
    --size 0 => --size: 0 is not accepted; give a multiple of 8
    --size 64 --height 0 => --size: 64 is not accepted; give it, or --height and --width
    --weak_lora_scale 0 => --weak_lora_scale: 0.0 is not accepted; preset
    --lora a/b:1 --weak_lora_scale 0 => --weak_lora_scale: 0.0 is not accepted; --lora a/b:1 says
    --lora a/b:1 --lora a/b:2 => --lora: 'a/b:2' is not accepted; it is named twice
    --method re_sampling --inversion x_t => --inversion: 'x_t' is not accepted; re_sampling inverts
    --plain --guidance 0.5 => --guidance: 0.5 is not accepted; without a method
    --method advanced_re_sampling --set adverse=5 => `adverse` has to be true or false, but is 5
    --weak-routing worst => --weak-routing: 'worst' is not accepted; stable-diffusion has none
    --set motion_gain=2 => there is no time in latents
""")
def test_bad_input_is_refused_in_words(options, says, sd):
    path = preset("sd15-guidance", sd)
    assert says in image("--preset", path, *options, code=2)
    assert listing() == []


@pytest.mark.parametrize(
    "said, says",
    [
        ({"grammar": "shape"}, "grammar: 'shape' is not accepted; did you mean 'shapes'?"),
        ({"family": ["stable-diffusion"]}, "family ['stable-diffusion'] is unknown"),
        (
            {"schedules": ["ddim"]},
            "schedules: ['ddim'] is not accepted; give names, each with a class and its arguments",
        ),
        (
            {"schedules": {"ddim": {"class": "DDIMScheduler", "beta_schedule": "foo"}}},
            "DDIMScheduler takes no such value",
        ),
        (
            {"adapters": {"a.b": {"model": "a/b", "strong": 1, "weak": 0}}},
            "adapters: 'a.b' is not accepted; give names",
        ),
        (
            {"weak_routing": "worst"},
            "tiny.yaml: its weak_routing (--weak-routing replaces it): 'worst' is not accepted; stable-diffusion has",
        ),
    ],
)
def test_mistakes_in_a_preset_of_ones_own_are_refused_in_words(said, says, sd):
    path = preset("sd15-guidance", sd, **said)
    assert says in " ".join(image("--preset", path, code=2).split())
    assert listing() == []


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


def test_what_cannot_be_loaded_is_named_by_its_option(sd):
    path = preset("sd15-guidance", sd)
    for lora in (sd["controlnet"], sd["ip"]):
        assert f"--lora: '{lora}' does not fit this model" in image("--preset", path, "--lora", lora, code=2)
    says = f"--ip-adapter: '{sd['lora']}' is a LoRA"
    assert says in image("--preset", path, "--ip-adapter", sd["lora"], "--ip-image", sd["picture"], code=2)


def test_from_takes_everything_from_the_sidecar(sd):
    path = preset("sd15-guidance", sd)
    image("--preset", path)
    for flags in (["--seed", 5], ["--seed", 0], ["--strong_lora_scale", 0], ["--steps", 2]):
        assert "--from takes everything from the sidecar" in run(
            "image", "--from", "outputs/a-cat-seed0.json", *flags, code=2
        )
    says = "--from: 'outputs/a-cat-seed0.json' is not accepted; it makes images: w2sd-video image"
    assert says in run("generate", "--from", "outputs/a-cat-seed0.json", code=2)
    assert record()["formats"] == ["png"]


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


@pytest.mark.slow
def test_a_lora_beside_another_motion_module_is_the_strong_arms(sd):
    values = {"weak_motion_adapter": sd["weak_motion"], "weak_guidance_scale": 1.0}
    lora = animate(sd, "animatediff-guidance", **values, adapters={"style": scaled(sd["lora"], 0.8, 0.0)})
    made, _ = sample(load(lora)["w2sd"], lora, "w2sd")
    pair = load(animate(sd, "animatediff-guidance", **values))["w2sd"]
    pair.load_lora_weights(sd["lora"], adapter_name="style")
    pair.set_adapters(["style"], [0.8])
    assert np.array_equal(made, video_call(pair, weak_guidance_scale=1.0))
    with pytest.raises(Refused, match="give 0 for the weak arm"):
        animate(sd, "animatediff-guidance", **values, adapters={"style": scaled(sd["lora"], 0.8, -1.5)})


@pytest.mark.slow
def test_a_motion_module_of_another_layout_for_the_weak_arm(sd, tmp_path):
    """AnimateDiff's first one has none in the middle block, the second has."""
    config = {
        **tiny.motion_adapter().config,
        "use_motion_mid_block": not tiny.motion_adapter().config.use_motion_mid_block,
    }
    tiny.seeded(9, lambda: MotionAdapter.from_config(config)).save_pretrained(tmp_path / "other")
    request = animate(sd, "animatediff-guidance", weak_motion_adapter=str(tmp_path / "other"), weak_guidance_scale=1.0)
    pair = load(request)["w2sd"]
    assert pair.weak_unet.config.use_motion_mid_block is not pair.unet.config.use_motion_mid_block
    assert sample(pair, request, "w2sd")[0].shape[1:] == (SIDE, SIDE, 3)


def test_an_empty_prompt_is_a_weak_prompt(sd):
    path = preset("sd15-dreamshaper", sd, weak=sd["weak"])
    image("--preset", path, "--weak-only", "--weak-prompt", "")
    told = pixels("a-cat-seed0-weak")
    image("--preset", path, "--weak-only", "--overwrite")
    assert not np.array_equal(pixels("a-cat-seed0-weak"), told)


def test_scales_and_settings_may_have_exponents(sd):
    assert options.read_scaled("--lora", "a/b:1e-1:-2E+1", 0.8, 0.0) == scaled("a/b", 0.1, -20.0)
    assert terminal.read_setting("cap=1e-3") == ("cap", 1e-3) and terminal.read_setting("adverse=true") == (
        "adverse",
        True,
    )


def test_what_only_videos_have_is_no_option_of_images():
    shown = run("image", "--help")
    for option in ("--motion", "--weak-motion", "--frames", "--fps", "--gif"):
        assert f"{option} " not in shown and option in run("generate", "--help")
    assert "it makes images: w2sd-video image" in run("generate", "a cat", "--preset", "sdxl-guidance", code=2)


def test_adapters_beside_another_weak_model_act_on_the_strong_one(xl):
    path = preset("sdxl-juggernaut", xl, weak=xl["weak"])
    assert "give 0 for the weak arm" in image("--preset", path, "--lora", f"{xl['lora']}:1:-1.5", code=2)
    image("--preset", path, "--lora", f"{xl['lora']}:1")
    assert record()["request"]["adapters"] == {"pytorch_lora_weights": scaled(xl["lora"], 1.0, 0.0)}


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("owner/name", ("owner/name", "", False)),
        ("owner/name/w.safetensors", ("owner/name", "w.safetensors", True)),
        ("owner/name/a/b/w.safetensors", ("owner/name", "a/b/w.safetensors", True)),
    ],
)
def test_a_file_in_a_hub_repository(reference, expected):
    source = resolve(reference)
    assert (source.repository, source.inside, source.is_file) == expected
    assert presets.FAMILIES.keys() >= {"stable-diffusion", "stable-diffusion-xl"}
