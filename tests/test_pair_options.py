"""The options and the presets of a pair: how they are read, and what is refused in words."""

from __future__ import annotations

import pytest
import torch
from command_lines import command_lines
from commands import listing, run
from pair_models import SD, image, loaded, preset, record, scaled
from PIL import Image
from safetensors.torch import load_file

from w2sd_video import presets, terminal
from w2sd_video.cli import options
from w2sd_video.errors import WeightsError
from w2sd_video.models.sources import resolve

pytestmark = pytest.mark.usefixtures("elsewhere")


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
    assert "made with other settings: ip_image" in image("--preset", path, "--ip-image", "shown.png", code=2)
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
