"""Loading pairs from every layout that weights are shared in."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from accelerate import init_empty_weights
from diffusers import (
    AnimateDiffSDXLPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from families import FAMILIES, Family
from original_layout import motion_names, sd15, sdxl
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from w2sd_video.errors import WeightsError, WeightsNotFound
from w2sd_video.models import pair
from w2sd_video.models.bases import SD15, SDXL, clip_tokenizer
from w2sd_video.models.motion import unshare_parameters
from w2sd_video.models.options import dtype_among
from w2sd_video.models.sources import download_command
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.provenance import file_sha256, weight_hashes
from w2sd_video.shapes import WEIGHTS

load = W2SDAnimateDiffSDXLPipeline.from_pretrained
WIDTHS = (tiny.TEXT_WIDTH, 2 * tiny.TEXT_WIDTH)  # original files tell the text encoders apart by their widths


def text_encoder(seed: int, kind=CLIPTextModel):
    width = WIDTHS[kind is CLIPTextModelWithProjection]
    config = CLIPTextConfig.from_dict(tiny.text_encoders()[0].config.to_dict())
    config.update({"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width})
    return tiny.seeded(seed, lambda: kind(config)).eval()


def image_pipeline(seed: int = 0, encoders: int = 3, **unet) -> StableDiffusionXLPipeline:
    settings = {
        "cross_attention_dim": sum(WIDTHS),
        "projection_class_embeddings_input_dim": WIDTHS[1] + 6 * 4,
        **unet,
    }
    return StableDiffusionXLPipeline(
        vae=tiny.vae(),
        text_encoder=text_encoder(encoders),
        text_encoder_2=text_encoder(encoders + 1, CLIPTextModelWithProjection),
        tokenizer=tiny.tokenizer(),
        tokenizer_2=tiny.tokenizer(),
        unet=tiny.unet2d(seed, **settings),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def save_single_file(pipe: StableDiffusionXLPipeline, path: Path) -> Path:
    tensors = sdxl(pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


class Shelf:
    """Two models and a motion module, each in both layouts, and the configurations of the single files."""

    def __init__(self, root: Path):
        self.root = root
        strong, weak = image_pipeline(0), image_pipeline(10, encoders=13)
        adapter = tiny.motion_adapter()
        self.strong, self.weak, self.motion = root / "strong", root / "weak", root / "motion"
        strong.save_pretrained(self.strong)
        weak.save_pretrained(self.weak)
        adapter.save_pretrained(self.motion)
        self.strong_file = save_single_file(strong, root / "strong.safetensors")
        self.weak_file = save_single_file(weak, root / "weak.safetensors")
        self.motion_file = root / "motion.ckpt"
        torch.save(motion_names(adapter.state_dict()), self.motion_file)
        self.config = root / "config"
        shutil.copytree(self.strong, self.config, ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copytree(self.motion, self.config / "motion_adapter", ignore=shutil.ignore_patterns("*.saf*"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, no home."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def video(pipe, **arguments) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(**tiny.call(output_type="pt", **arguments)).frames


def shared(a: torch.nn.Module, b: torch.nn.Module) -> list[str]:
    theirs = dict(b.named_parameters())
    return [name for name, parameter in a.named_parameters() if theirs.get(name) is parameter]


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        # The positions of a motion module are computed, not loaded.
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6 if "pos_embed" in name else 0)


def assert_same_video(a: torch.Tensor, b: torch.Tensor) -> None:
    """Up to rounding: weights mapped from another file are aligned otherwise, and summed in another order."""
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_shipped_configurations_are_sdxls():
    """Parameter counts of the published weights; 2,515 tensors in sd_xl_base_1.0.safetensors."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SDXL, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SDXL, subfolder="vae"))
        motion = MotionAdapter.from_config(MotionAdapter.load_config(SDXL, subfolder="motion_adapter"))
        one = CLIPTextModel(CLIPTextConfig.from_pretrained(SDXL / "text_encoder"))
        two = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(SDXL / "text_encoder_2"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (unet, vae, one, two)]
    assert counts == [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]
    assert vae.config.scaling_factor == 0.13025

    tensors = sdxl(unet, vae, one, two)
    assert len(tensors) == 2515
    assert infer_diffusers_model_type(tensors) == "xl_base"
    assert infer_diffusers_model_type(motion_names(motion.state_dict())) == "animatediff_sdxl_beta"


def test_the_shipped_tokenizer_is_clips():
    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer("tokenizer_2")
    assert len(tokenizer) == 49408
    cat = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a cat").input_ids == cat
    assert tokenizer("A  photo of a CAT").input_ids == cat
    padded = {"padding": "max_length", "truncation": True}
    assert tokenizer("a photo of a cat", **padded).input_ids == cat + [49407] * 70
    assert tokenizer_2("a photo of a cat", **padded).input_ids == cat + [0] * 70
    assert tokenizer("word " * 100, **padded).input_ids[-1] == 49407


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda suffix: suffix == "safetensors")
def test_single_files_give_what_their_folders_give(shelf, tmp_path, suffix):
    strong, weak = shelf.strong_file, shelf.weak_file
    if suffix == "ckpt":
        strong, weak = tmp_path / "strong.ckpt", tmp_path / "weak.ckpt"
        for source, target in ((shelf.strong_file, strong), (shelf.weak_file, weak)):
            torch.save({"state_dict": load_file(source), "global_step": 3}, target)
    folders = load(shelf.strong, shelf.weak, shelf.motion)
    files = load(strong, weak, shelf.motion_file, config=shelf.config)
    for name in ("unet", "weak_unet", "vae", "text_encoder", "text_encoder_2", "motion_adapter"):
        assert_same_weights(getattr(files, name), getattr(folders, name))
    assert_same_video(video(files), video(folders))
    assert type(files.scheduler) is DDIMScheduler
    assert files.scheduler.config == folders.scheduler.config


def test_the_video_unet_has_all_of_the_image_unets_weights(shelf):
    """Also `add_embedding`, which diffusers' own conversion leaves random."""
    pipe = load(shelf.strong, motion_adapter=shelf.motion)
    loaded = pipe.unet.state_dict()
    image = load_file(shelf.strong / "unet" / "diffusion_pytorch_model.safetensors")
    motion = load_file(shelf.motion / "diffusion_pytorch_model.safetensors")
    assert loaded.keys() == image.keys() | motion.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in {**image, **motion}.items())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "pth"])
def test_a_motion_module_in_the_original_layout_is_the_one_in_its_folder(shelf, tmp_path, prefix, suffix):
    adapter = tiny.motion_adapter()
    tensors = motion_names(adapter.state_dict(), prefix)
    path = tmp_path / f"motion.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save({"state_dict": tensors}, path)
    pipe = load(shelf.strong, motion_adapter=path, config=shelf.config)
    assert pipe.motion_adapter.config.motion_max_seq_length == 8
    assert_same_weights(pipe.motion_adapter, adapter)


def test_a_motion_modules_length_and_middle_block_are_read_from_its_file(shelf, tmp_path):
    adapter = tiny.motion_adapter(motion_max_seq_length=5, use_motion_mid_block=True)
    torch.save(motion_names(adapter.state_dict()), tmp_path / "motion.ckpt")
    pipe = load(shelf.strong, motion_adapter=tmp_path / "motion.ckpt", config=shelf.config)
    assert pipe.motion_adapter.config.motion_max_seq_length == 5
    assert pipe.unet.config.use_motion_mid_block and hasattr(pipe.unet.mid_block, "motion_modules")


@pytest.mark.slow
def test_every_component_knows_the_file_it_came_from(shelf):
    of_files = weight_hashes(load(shelf.strong_file, shelf.weak, shelf.motion_file, config=shelf.config))
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert of_files[name] == f"sha256:{file_sha256(shelf.strong_file)}"
    weak = shelf.weak / "unet" / "diffusion_pytorch_model.safetensors"
    assert of_files["weak_unet"] == f"sha256:{file_sha256(weak)}"
    assert of_files["motion_adapter"] == f"sha256:{file_sha256(shelf.motion_file)}"
    motion = shelf.motion / "diffusion_pytorch_model.safetensors"
    hashes = weight_hashes(load(shelf.strong, shelf.weak_file, shelf.motion, config=shelf.config))
    assert hashes["motion_adapter"] == f"sha256:{file_sha256(motion)}"
    assert hashes["weak_unet"] == f"sha256:{file_sha256(shelf.weak_file)}"


@pytest.mark.slow
def test_only_the_weak_unet_is_loaded_of_the_weak_model(shelf, tmp_path):
    bare = tmp_path / "weak"
    shutil.copytree(shelf.weak, bare)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        shutil.rmtree(bare / part)
    pipe = load(shelf.strong, bare, shelf.motion)
    assert pipe.weak_text_encoder is None and pipe.weak_text_encoder_2 is None
    assert_same_video(video(pipe), video(load(shelf.strong, shelf.weak, shelf.motion)))


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda layout: layout == "folder")
def test_weak_text_encoders_are_loaded_when_asked_for_and_different(shelf, layout):
    weak, same = (shelf.weak, shelf.strong) if layout == "folder" else (shelf.weak_file, shelf.strong_file)
    pipe = load(shelf.strong, weak, shelf.motion, weak_text_encoders=True, config=shelf.config)
    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        expected = text_encoder(13 + (name == "text_encoder_2"), kind).state_dict()
        for key, tensor in getattr(pipe, f"weak_{name}").state_dict().items():
            assert torch.equal(tensor, expected[key])
    pipe = load(shelf.strong, same, shelf.motion, weak_text_encoders=True, config=shelf.config)
    assert pipe.weak_text_encoder is None and pipe.weak_text_encoder_2 is None
    assert video(pipe).isfinite().all()


@pytest.mark.slow
def test_what_the_two_unets_have_in_common_is_stored_once_and_stays_so(shelf, tmp_path):
    pipe = load(shelf.strong, shelf.weak, shelf.motion)
    motion = [name for name, _ in pipe.unet.named_parameters() if ".motion_modules." in name]
    # Norms start as ones and zeros, so in random networks they are equal as well.
    assert set(motion) <= set(shared(pipe.weak_unet, pipe.unet))
    assert set(motion) <= set(shared(pipe.motion_adapter, pipe.unet))
    assert len(shared(pipe.weak_unet, pipe.unet)) < len(list(pipe.unet.parameters()))
    before = shared(pipe.weak_unet, pipe.unet)

    pipe.to(torch.bfloat16).to(torch.float16).to(torch.float32)
    assert shared(pipe.weak_unet, pipe.unet) == before
    pipe.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert set(before) <= set(shared(again.weak_unet, again.unet))
    assert set(motion) <= set(shared(again.motion_adapter, again.unet))

    alike = load(shelf.strong, shelf.strong_file, shelf.motion, config=shelf.config)
    assert len(shared(alike.weak_unet, alike.unet)) == len(list(alike.unet.parameters()))


@pytest.mark.slow
def test_a_lora_on_the_strong_unet_leaves_the_weak_one_alone(shelf, tmp_path):
    from peft import LoraConfig

    pipe = load(shelf.strong, shelf.strong, shelf.motion)
    x = torch.randn(2, 4, tiny.FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    added = {"text_embeds": torch.ones(2, WIDTHS[1]), "time_ids": torch.ones(2, 6)}
    text = torch.ones(2 * tiny.FRAMES, tiny.TOKENS, sum(WIDTHS))

    @torch.no_grad()
    def predictions():
        return [
            unet(x, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample
            for unet in (pipe.unet, pipe.weak_unet)
        ]

    before = predictions()
    assert torch.equal(*before)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=targets))
    strong, weak = predictions()
    assert torch.equal(weak, before[1]) and not torch.equal(strong, before[0])
    pipe.fuse_lora(components=["unet"])
    strong, weak = predictions()
    assert torch.equal(weak, before[1]) and not torch.equal(strong, before[0])


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda offload_type: offload_type == "block_level")
def test_group_offload_of_both_unets_gives_the_same_prediction(shelf, offload_type):
    pipe = load(shelf.strong, shelf.weak, shelf.motion)
    expected = video(pipe)
    for unet in (pipe.unet, pipe.weak_unet):
        blocks = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        unet.enable_group_offload(onload_device=torch.device("cpu"), offload_type=offload_type, **blocks)
    assert torch.equal(video(pipe), expected)


@pytest.mark.slow
def test_group_offload_to_disk_works_for_separated_unets_and_is_refused_for_a_pair(shelf, tmp_path):
    pipe = load(shelf.strong, shelf.weak, shelf.motion)
    expected = video(pipe)
    cpu = {"onload_device": torch.device("cpu"), "offload_type": "leaf_level"}
    with pytest.raises(ValueError, match="offload_to_disk_path="):
        pipe.enable_group_offload(**cpu, offload_to_disk_path=str(tmp_path))
    unshare_parameters(pipe.weak_unet, pipe.unet)
    assert not shared(pipe.weak_unet, pipe.unet)
    for name in ("unet", "weak_unet"):
        getattr(pipe, name).enable_group_offload(**cpu, offload_to_disk_path=str(tmp_path / name))
    assert_same_video(video(pipe), expected)


@pytest.mark.slow
def test_a_saved_pipeline_loads_again_with_the_same_output(shelf, tmp_path):
    models = (shelf.strong_file, shelf.weak, shelf.motion_file)
    pipe = load(*models, weak_text_encoders=True, config=shelf.config)
    expected = video(pipe)
    pipe.save_pretrained(tmp_path / "pair")
    again = load(tmp_path / "pair")
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            assert_same_weights(getattr(again, name), module)
    assert_same_video(video(again), expected)
    assert torch.equal(again.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    assert again.scheduler.config.timestep_spacing == "linspace"


@pytest.mark.slow
def test_the_stock_pipeline_loads_the_folder(shelf, tmp_path):
    pipe = load(shelf.strong, shelf.weak, shelf.motion)
    pipe.save_pretrained(tmp_path / "pair")
    stock = AnimateDiffSDXLPipeline.from_pretrained(tmp_path / "pair")
    assert_same_video(video(stock), video(pipe, method=None))


@pytest.mark.slow
def test_a_saved_pipeline_takes_another_weak_model_and_motion_module(shelf, tmp_path):
    load(shelf.strong, shelf.strong, shelf.motion).save_pretrained(tmp_path / "pair")
    tiny.motion_adapter(seed=7).save_pretrained(tmp_path / "motion")
    for weak in (shelf.weak, tmp_path / "pair"):
        pipe = load(tmp_path / "pair", weak, tmp_path / "motion")
        image = weak if weak == shelf.weak else shelf.strong
        assert_same_video(video(pipe), video(load(shelf.strong, image, tmp_path / "motion")))
        motion = [name for name, _ in pipe.unet.named_parameters() if ".motion_modules." in name]
        assert set(motion) <= set(shared(pipe.weak_unet, pipe.unet))


MODULES = {
    "plain": {},
    "with a middle": {"use_motion_mid_block": True},
    "longer": {"motion_max_seq_length": 12},
    "more heads": {"motion_num_attention_heads": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("new", MODULES)
@pytest.mark.parametrize("saved", ["plain", "with a middle"])
def test_a_saved_video_model_takes_a_motion_module_of_another_layout(saved, new, shelf, tmp_path):
    tiny.motion_adapter(**MODULES[saved]).save_pretrained(tmp_path / "own")
    tiny.motion_adapter(seed=7, **MODULES[new]).save_pretrained(tmp_path / "motion")
    load(shelf.strong, motion_adapter=tmp_path / "own").save_pretrained(tmp_path / "saved")
    for strong, weak in (("saved", None), (shelf.weak, "saved")):
        ours = load(tmp_path / strong, weak and tmp_path / weak, tmp_path / "motion")
        theirs = load(shelf.strong if strong == "saved" else strong, weak and shelf.strong, tmp_path / "motion")
        assert_same_video(video(ours), video(theirs))
        assert ours.unet._repeated_blocks == ["BasicTransformerBlock"]
        hashes = weight_hashes(ours)
        assert hashes["unet"].startswith("sha256:") and hashes.get("weak_unet", "sha256:").startswith("sha256:")


@pytest.mark.slow
def test_positions_in_a_motion_modules_file_are_those_it_is_evaluated_with(shelf, tmp_path):
    adapter = tiny.motion_adapter()
    computed = {name: buffer.clone() for name, buffer in adapter.named_buffers()}
    for buffer in adapter.buffers():
        buffer.mul_(3)
    adapter.save_pretrained(tmp_path / "motion")
    tensors = motion_names(adapter.state_dict())
    torch.save(tensors, tmp_path / "motion.ckpt")
    folder = load(shelf.strong, motion_adapter=tmp_path / "motion")
    file = load(shelf.strong, motion_adapter=tmp_path / "motion.ckpt", config=shelf.config)
    assert_same_video(video(file), video(folder))
    assert all(torch.equal(b, 3 * computed[name]) for name, b in file.motion_adapter.named_buffers())
    rounded = {name: (t / 3 if name.endswith(".pe") else t).to(torch.bfloat16) for name, t in tensors.items()}
    torch.save(rounded, tmp_path / "motion.ckpt")
    file = load(shelf.strong, motion_adapter=tmp_path / "motion.ckpt", config=shelf.config)
    assert all(torch.equal(buffer, computed[name]) for name, buffer in file.motion_adapter.named_buffers())
    first = next(name for name in tensors if name.endswith("blocks.1.pos_encoder.pe"))
    torch.save({**tensors, first: tensors[first] / 3}, tmp_path / "motion.ckpt")
    with pytest.raises(WeightsError, match="motion_adapter: .*has different positions in the two layers"):
        load(shelf.strong, motion_adapter=tmp_path / "motion.ckpt", config=shelf.config)


@pytest.mark.parametrize("argument", ["motion_adapter", "weak_motion_adapter"])
def test_a_motion_module_of_other_layers_is_refused_by_name(argument, shelf, tmp_path):
    tiny.motion_adapter(motion_layers_per_block=2).save_pretrained(tmp_path / "motion")
    with pytest.raises(WeightsError, match=rf"{argument}: .*is made for UNet blocks of 2 layers\. Accepted"):
        load(shelf.strong, **{"motion_adapter": shelf.motion, argument: tmp_path / "motion"})


@pytest.mark.slow
def test_another_weak_model_leaves_the_saved_weak_text_encoders_behind(shelf, tmp_path):
    load(shelf.strong, shelf.weak, shelf.motion, weak_text_encoders=True).save_pretrained(tmp_path / "pair")
    assert load(tmp_path / "pair").weak_text_encoder is not None
    assert load(tmp_path / "pair", shelf.weak).weak_text_encoder is None


@pytest.mark.slow
def test_dtype_and_variant_reach_every_model(shelf, tmp_path):
    for name, seed in (("strong", 0), ("weak", 10)):
        image_pipeline(seed).to(torch.float16).save_pretrained(tmp_path / name, variant="fp16")
    tiny.motion_adapter().to(torch.float16).save_pretrained(tmp_path / "motion", variant="fp16")
    paths = [tmp_path / name for name in ("strong", "weak", "motion")]
    pipe = load(*paths, variant="fp16", torch_dtype=torch.bfloat16)
    for name in ("unet", "weak_unet", "vae", "text_encoder", "text_encoder_2", "motion_adapter"):
        tensors = getattr(pipe, name).state_dict().values()
        assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.bfloat16}, name
    plain = load(*paths)  # the only variant that there is
    assert_same_weights(plain.unet, load(*paths, variant="fp16", torch_dtype=torch.float32).unet)
    with pytest.raises(WeightsNotFound, match="weak: .*has no 'fp16' weights"):
        load(paths[0], shelf.weak, paths[2], variant="fp16")
    paths = [shelf.strong_file, shelf.weak_file, shelf.motion_file]
    files = load(*paths, config=shelf.config, dtype=torch.bfloat16)
    for name in ("unet", "weak_unet", "vae", "text_encoder", "text_encoder_2", "motion_adapter"):
        assert getattr(files, name).dtype == torch.bfloat16, name


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_that_is_none_or_of_no_floating_point_is_refused_by_the_name_it_has(name):
    for value in ("fp16", torch.int8, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=rf"^{name}={value!r}\. Accepted: a floating-point torch\.dtype"):
            dtype_among({name: value})
    with pytest.raises(ValueError, match="`dtype` and `torch_dtype` are both given"):
        dtype_among({"dtype": torch.float16, "torch_dtype": torch.float16})


@pytest.mark.slow
def test_components_replace_those_of_the_folder(shelf):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.02)
    for strong in (shelf.strong, shelf.strong_file):
        pipe = load(strong, shelf.weak, shelf.motion, scheduler=scheduler, config=shelf.config)
        assert pipe.scheduler is scheduler
    with pytest.raises(TypeError, match="sheduler.*scheduler"):
        load(shelf.strong, shelf.weak, shelf.motion, sheduler=scheduler)


@pytest.mark.slow
def test_a_hub_repository_is_read_from_its_cache(shelf, tmp_path):
    for name, folder in (("strong", shelf.strong), ("weak", shelf.weak), ("motion", shelf.motion)):
        cached = tmp_path / f"models--me--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    pipe = load("me/strong", "me/weak", "me/motion", cache_dir=tmp_path, local_files_only=True)
    assert_same_video(video(pipe), video(load(shelf.strong, shelf.weak, shelf.motion)))

    weights = tmp_path / "models--me--weak" / "snapshots" / ("0" * 40) / "unet"
    (weights / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsNotFound) as error:
        load("me/strong", "me/weak", "me/motion", cache_dir=tmp_path, local_files_only=True)
    assert "weak: 'me/weak'" in str(error.value) and download_command("weak", "me/weak") in str(error.value)


@pytest.mark.parametrize("argument", ["strong", "weak", "motion_adapter"])
def test_missing_hub_weights_name_the_argument_and_the_download_command(shelf, tmp_path, argument):
    values = {"strong": shelf.strong, "weak": shelf.weak, "motion_adapter": shelf.motion}
    with pytest.raises(WeightsNotFound) as error:
        load(**{**values, argument: "some/model"}, cache_dir=tmp_path, variant=None)
    assert f"{argument}: 'some/model'" in str(error.value)
    assert f"  {download_command(argument, 'some/model')}\n" in str(error.value)


def test_the_download_commands_fetch_what_is_needed():
    strong = download_command("strong", "stabilityai/stable-diffusion-xl-base-1.0", "fp16")
    assert strong == (
        'hf download stabilityai/stable-diffusion-xl-base-1.0 --include "*.json" --include "*/*.txt"'
        ' --include "*/*.fp16.safetensors"'
    )
    weak = download_command("weak", "a/b")
    assert weak == (
        'hf download a/b --include "model_index.json" --include "scheduler/*" --include "unet/*.json"'
        ' --include "unet/*.safetensors" --exclude "*.fp16.*"'
    )


class _Code:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def _bad_files(shelf: Shelf, root: Path) -> dict[str, tuple[dict, type, str]]:
    """By name: arguments, the error, and what its message must say."""
    good = {"strong": shelf.strong_file, "weak": shelf.weak_file, "motion_adapter": shelf.motion_file}
    tensors = load_file(shelf.strong_file)

    def without(part: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if part not in name}

    def file(name: str, content) -> Path:
        save_file(content, root / name) if isinstance(content, dict) else (root / name).write_bytes(content)
        return root / name

    sd15 = without("label_emb")
    sd15 |= {k: torch.zeros(v.shape[0], 768) for k, v in sd15.items() if k.endswith("attn2.to_k.weight")}
    first = "model.diffusion_model.input_blocks.0.0.weight"
    sd15_motion = tiny.motion_adapter(block_out_channels=(8, 16, 16), motion_layers_per_block=1)
    whole = shelf.strong_file.read_bytes()
    (root / "code.ckpt").write_bytes(pickle.dumps({"state_dict": _Code()}))
    torch.save({"state_dict": _Code()}, root / "zipped.ckpt")
    (root / "empty").mkdir()
    return {
        "missing": ({**good, "strong": root / "none.ckpt"}, WeightsNotFound, "strong: .*is not there"),
        "missing folder": ({**good, "weak": root / "none"}, WeightsNotFound, "weak: .*is not there"),
        "empty folder": ({**good, "weak": root / "empty"}, WeightsNotFound, "weak: .*model_index.json"),
        "wrong type": ({**good, "weak": file("a.zip", b"")}, WeightsError, "weak: .*zip file.*safetensors"),
        "truncated": (
            {**good, "weak": file("cut.safetensors", whole[: len(whole) // 2])},
            WeightsError,
            "weak: .*damaged",
        ),
        "not safetensors": (
            {**good, "strong": file("text.safetensors", b"version 1")},
            WeightsError,
            "strong: .*damaged",
        ),
        "code": ({**good, "weak": root / "code.ckpt"}, WeightsError, "weak: .*never run"),
        "code, zipped": ({**good, "strong": root / "zipped.ckpt"}, WeightsError, "strong: .*never run"),
        "SD 1.5": (
            {**good, "strong": file("sd15.safetensors", sd15)},
            WeightsError,
            "strong: .*Stable Diffusion 1",
        ),
        "SD 1.5 motion": (
            {**good, "motion_adapter": file("mm.safetensors", motion_names(sd15_motion.state_dict()))},
            WeightsError,
            r"motion_adapter: .*\(8, 16, 16\)",
        ),
        "inpainting": (
            {**good, "strong": file("paint.safetensors", tensors | {first: torch.zeros(8, 9, 3, 3)})},
            WeightsError,
            "strong: .*9 input channels",
        ),
        "a LoRA": (
            {**good, "weak": file("lora.safetensors", {"lora_unet_x.lora_down.weight": torch.zeros(2)})},
            WeightsError,
            "weak: .*LoRA",
        ),
        "swapped": ({**good, "strong": shelf.motion_file}, WeightsError, "strong: .*as `motion_adapter`"),
        "no motion": ({**good, "motion_adapter": shelf.weak_file}, WeightsError, "not a motion module"),
        "motion folder of a UNet": (
            {**good, "motion_adapter": shelf.strong / "unet"},
            WeightsError,
            "motion_adapter: .*is a UNet2DConditionModel",
        ),
        "no motion at all": ({**good, "motion_adapter": None}, WeightsError, "motion_adapter: None.*hf download"),
        "incomplete": (
            {**good, "weak": file("part.safetensors", without("out.2."))},
            WeightsError,
            "weak: .*weights are missing",
        ),
        "without VAE": (
            {**good, "strong": file("novae.safetensors", without("first_stage"))},
            WeightsError,
            "strong: .*vae",
        ),
        "v-prediction": (
            {**good, "weak": file("v.safetensors", tensors | {"v_pred": torch.tensor([])})},
            WeightsError,
            "prediction type epsilon against v_prediction",
        ),
    }


BAD = [
    *("missing", "missing folder", "empty folder", "wrong type", "truncated", "not safetensors"),
    *("code", "code, zipped", "SD 1.5", "SD 1.5 motion", "inpainting", "a LoRA", "swapped", "no motion"),
    *("motion folder of a UNet", "no motion at all", "incomplete", "without VAE", "v-prediction"),
]


@pytest.fixture(scope="module")
def bad_files(shelf, tmp_path_factory) -> dict[str, tuple[dict, type, str]]:
    return _bad_files(shelf, tmp_path_factory.mktemp("bad"))


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(shelf, bad_files, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    assert list(bad_files) == BAD
    arguments, kind, says = bad_files[case]
    with pytest.raises(kind, match="(?s)" + says):
        load(**arguments, config=shelf.config)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_channels": 16, "out_channels": 16}, r"latent channels \(4, 4\) against \(16, 16\)"),
        ({"cross_attention_dim": 32}, "cross-attention width 24 against 32"),
        ({"block_out_channels": (8, 8)}, "UNet blocks"),
    ],
)
def test_arms_that_do_not_go_together_are_refused_before_loading(shelf, tmp_path, monkeypatch, change, says):
    image_pipeline(10, **change).save_pretrained(tmp_path / "weak")
    monkeypatch.setattr(pair.Pair, "components", lambda self: pytest.fail("loaded"))
    with pytest.raises(WeightsError, match=f"strong: .* and weak: .*{says}"):
        load(shelf.strong, tmp_path / "weak", shelf.motion)


def test_a_folder_of_another_pipeline_is_refused(shelf, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(shelf.strong, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StableDiffusionPipeline"))
    with pytest.raises(WeightsError, match="strong: .*is a StableDiffusionPipeline. Accepted"):
        load(folder, motion_adapter=shelf.motion)


def test_v_prediction_reaches_the_scheduler(shelf, tmp_path):
    save_file(load_file(shelf.strong_file) | {"v_pred": torch.tensor([])}, tmp_path / "v.safetensors")
    pipe = load(tmp_path / "v.safetensors", motion_adapter=shelf.motion, config=shelf.config)
    assert pipe.scheduler.config.prediction_type == "v_prediction"


# The other families ------------------------------------------------------------------------------------------------


def stock(family: Family, seed: int = 0):
    """The stock image pipeline that a family's arms are loaded from."""
    if family.xl:
        return image_pipeline(seed)
    width = family.unet(0).config.cross_attention_dim
    pipe = StableDiffusionPipeline(
        vae=tiny.vae(),
        text_encoder=text_encoder(3 + seed),
        tokenizer=tiny.tokenizer(),
        unet=family.unet(seed),
        scheduler=PNDMScheduler(steps_offset=1, skip_prk_steps=True, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    assert pipe.text_encoder.config.hidden_size == width
    return pipe


OTHERS = [family for family in FAMILIES if family.text and family.name != "W2SDAnimateDiffSDXLPipeline"]
# Of each family one layout is in the fast part: a single file of these.
ONE_FILE = ("StableDiffusionXL", "StableDiffusionControlNet", "AnimateDiff")


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize("family", OTHERS, ids=str)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda family, layout: (layout == "file") == (str(family) in ONE_FILE))
def test_every_family_loads_a_pair_from_folders_and_single_files(family, layout, tmp_path):
    arms, kwargs = {}, {}
    for name, seed in (("strong", 0), ("weak", 10)):
        pipe = stock(family, seed)
        folder = tmp_path / name
        pipe.save_pretrained(folder)
        arms[name] = folder
        if layout == "file":
            parts = [pipe.unet, pipe.vae, pipe.text_encoder]
            tensors = sdxl(*parts, pipe.text_encoder_2) if family.xl else sd15(*parts)
            arms[name] = tmp_path / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, arms[name])
            config = stock(family)
            if family.video:
                tiny.motion_adapter().save_pretrained(folder / "motion_adapter")
            kwargs = {"config": tmp_path / "strong"}
            kwargs |= {k: v for k, v in config.components.items() if "tokenizer" in k}
    if family.video:
        tiny.motion_adapter().save_pretrained(tmp_path / "motion")
        kwargs["motion_adapter"] = tmp_path / "motion"
    if family.control:
        net = family.controlnet()
        if family.xl:
            net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4))
        net.save_pretrained(tmp_path / "controlnet")
        kwargs["controlnet"] = tmp_path / "controlnet"
    pipe = family.cls.from_pretrained(arms["strong"], arms["weak"], **kwargs)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.unet) is type(pipe.weak_unet)
    expected = stock(family, 10).unet.state_dict()
    mine = pipe.weak_unet.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in expected.items())
    family(pipe)
    assert pipe.evaluations["weak"] == 3


def test_an_image_familys_scheduler_is_its_own_or_ddim_with_its_settings(tmp_path):
    for family, kind in ((FAMILIES[2], EulerDiscreteScheduler), (FAMILIES[3], DDIMScheduler)):
        stock(family).save_pretrained(tmp_path / str(family))
        pipe = family.cls.from_pretrained(tmp_path / str(family))
        assert type(pipe.scheduler) is kind
    assert pipe.scheduler.config.beta_schedule == "scaled_linear" and not pipe.scheduler.config.clip_sample


def test_the_shipped_configurations_are_stable_diffusion_15s():
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SD15, subfolder="vae"))
        motion = MotionAdapter.from_config(MotionAdapter.load_config(SD15, subfolder="motion_adapter"))
    # The released UNet and VAE have 859,520,964 and 83,653,863 parameters.
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert motion.config.use_motion_mid_block


WRONG_FAMILY = {
    "an SDXL file for Stable Diffusion": (3, {"strong": "xl.safetensors"}, "strong: .* is a checkpoint of "),
    "an SDXL folder for Stable Diffusion": (
        3,
        {"strong": "xl"},
        "is a StableDiffusionXLPipeline. Accepted: StableDiff",
    ),
    "a video folder for images": (2, {"strong": "video"}, "is a W2SDAnimateDiffSDXLPipeline. Accepted: StableDiffusio"),
    "a motion module for images": (2, {"strong": "xl", "motion_adapter": "m"}, "motion_adapter='m': .* takes none"),
    "another base's ControlNet": (5, {"strong": "sd", "controlnet": "control"}, "cross-attention width 24 against 8"),
    "a UNet for a ControlNet": (
        5,
        {"strong": "sd", "controlnet": "sd/unet"},
        "is a UNet2DConditionModel. Accepted: a C",
    ),
    "no such ControlNet": (5, {"strong": "sd", "controlnet": "none"}, "controlnet: .*none' is not there"),
    "arms of two bases": (3, {"strong": "sd", "weak": "xl"}, "weak: .* is a StableDiffusionXLPipeline"),
}


@pytest.fixture(scope="module")
def two_bases(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    stock(FAMILIES[3]).save_pretrained(root / "sd")
    xl = stock(FAMILIES[2])
    xl.save_pretrained(root / "xl")
    save_single_file(xl, root / "xl.safetensors")
    tiny.pipeline(weak=False).save_pretrained(root / "video")
    ControlNetModel.from_unet(xl.unet, conditioning_embedding_out_channels=(4, 4)).save_pretrained(root / "control")
    return root


@pytest.mark.parametrize(("family", "arguments", "says"), WRONG_FAMILY.values(), ids=WRONG_FAMILY)
def test_what_is_of_another_family_is_refused_before_loading(two_bases, monkeypatch, family, arguments, says):
    monkeypatch.setattr(pair.Pair, "components", lambda self: pytest.fail("loaded"))
    paths = {name: value if name == "motion_adapter" else two_bases / value for name, value in arguments.items()}
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=says):
        FAMILIES[family].cls.from_pretrained(**paths)


def test_a_strong_model_without_an_autoencoder_is_refused_by_name_and_takes_another():
    arguments = {"motion_adapter": WEIGHTS / "motion", "torch_dtype": torch.float32}
    with pytest.raises(WeightsError, match=r"strong: .*base' has no autoencoder. Accepted: a model with one, or"):
        W2SDAnimateDiffSDXLPipeline.from_pretrained(WEIGHTS / "base", **arguments)
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "tuned" / "vae")
    assert W2SDAnimateDiffSDXLPipeline.from_pretrained(WEIGHTS / "base", vae=vae, **arguments).vae is vae
