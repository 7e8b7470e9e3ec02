"""SDXL and its motion module at their true size, with random bfloat16 weights, from saving to a video's
latents: the way through files, on a CPU. `w2sd-video bench true-size` measures speed, on a GPU.

Run it by hand, on a machine with 24 GB of memory and 25 GB of free disk; it takes some minutes:

    OMP_NUM_THREADS=1 python tests/true_size.py [--folder DIR] [--size 128] [--frames 2] [--steps 2]

It saves one model as a single file in SDXL's original layout and another as a diffusers folder, and a motion
module in AnimateDiff's original layout; then, in a new process, loads them as strong, weak and motion module
and generates. It prints wall times and the peak of memory, and deletes what it wrote. `--piece` is for its
own use.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from original_layout import motion_names, sdxl
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from w2sd_video.bench.models import random_weights
from w2sd_video.models.bases import SDXL, clip_tokenizer
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.provenance import weight_hashes

GB = 2**30


@contextmanager
def timed(what: str):
    start = time.perf_counter()
    yield
    # Linux counts in KiB. File pages that are mapped are counted too, and can be given back.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = next(int(line.split()[1]) / 2**20 for line in open("/proc/self/status") if line.startswith("RssAnon"))
    print(
        f"{what:<44} {time.perf_counter() - start:7.1f} s   peak RSS {peak:5.2f} GB   now {own:5.2f} GB of its own",
        flush=True,
    )


def random_model(build, seed: int):
    """The model with random bfloat16 weights of a scale that keeps its activations finite; buffers as they
    are."""
    return random_weights(build, torch.device("cpu"), torch.bfloat16, seed)


def from_config(kind, subfolder: str):
    return lambda: kind.from_config(kind.load_config(SDXL, subfolder=subfolder))


def image_model(seed: int) -> StableDiffusionXLPipeline:
    configs = [CLIPTextConfig.from_pretrained(SDXL / name) for name in ("text_encoder", "text_encoder_2")]
    return StableDiffusionXLPipeline(
        vae=random_model(from_config(AutoencoderKL, "vae"), seed),
        text_encoder=random_model(lambda: CLIPTextModel(configs[0]), seed + 1),
        text_encoder_2=random_model(lambda: CLIPTextModelWithProjection(configs[1]), seed + 2),
        tokenizer=clip_tokenizer("tokenizer"),
        tokenizer_2=clip_tokenizer("tokenizer_2"),
        unet=random_model(from_config(UNet2DConditionModel, "unet"), seed + 3),
        scheduler=DDIMScheduler.from_pretrained(SDXL, subfolder="scheduler"),
        add_watermarker=False,
    )


def save(folder: Path) -> None:
    with timed("strong: build, save as a single file"):
        pipe = image_model(0)
        tensors = sdxl(pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "strong.safetensors")
    del pipe, tensors
    with timed("weak: build, save as a folder"):
        pipe = image_model(100)
        pipe.save_pretrained(folder / "weak")
    del pipe
    with timed("motion module: build, save as .ckpt"):
        adapter = random_model(from_config(MotionAdapter, "motion_adapter"), 200)
        torch.save(motion_names(adapter.state_dict(), "module."), folder / "mm_sdxl_v10_beta.ckpt")


def generate(folder: Path, size: int, frames: int, steps: int) -> None:
    paths = {
        "strong": folder / "strong.safetensors",
        "weak": folder / "weak",
        "motion_adapter": folder / "mm_sdxl_v10_beta.ckpt",
    }
    with timed("load the pair"):
        pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(**paths, torch_dtype=torch.bfloat16, local_files_only=True)
    bytes_of = {
        id(p): p.numel() * p.element_size()
        for module in pipe.components.values()
        if isinstance(module, torch.nn.Module)
        for p in module.parameters()
    }
    print(f"weights held: {sum(bytes_of.values()) / GB:.2f} GB")
    evaluations = [0, 0]
    for which, unet in enumerate((pipe.unet, pipe.weak_unet)):

        def count(module, args, which=which):
            evaluations[which] += args[0].shape[0] // frames

        unet.conv_in.register_forward_pre_hook(count)
    with timed(f"{steps} steps of {frames} frames, {size}x{size}"), torch.no_grad():
        video = pipe(
            prompt="a photo of a cat",
            height=size,
            width=size,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=3.0,
            weak_guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
    print(f"samples evaluated: strong {evaluations[0]}, weak {evaluations[1]}")
    print(f"frames {tuple(video.shape)} finite {bool(video.isfinite().all())} std {video.float().std():.3f}")
    with timed("hash the weights"):
        hashes = weight_hashes(pipe)
    with timed("hash the weights again"):
        assert weight_hashes(pipe) == hashes
    print(json.dumps(hashes, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--piece", choices=("save", "generate"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.piece == "save":
        return save(asked.folder)
    if asked.piece == "generate":
        return generate(asked.folder, asked.size, asked.frames, asked.steps)

    root = asked.folder or Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(root).free) < 25 * GB:
        sys.exit(f"{root} has {free / GB:.0f} GB free; 25 GB are needed. Choose another place with --folder.")
    with tempfile.TemporaryDirectory(dir=root) as folder:
        for piece in ("save", "generate"):
            size = ["--size", str(asked.size), "--frames", str(asked.frames), "--steps", str(asked.steps)]
            subprocess.run([sys.executable, __file__, "--piece", piece, "--folder", folder, *size], check=True)


if __name__ == "__main__":
    main()
