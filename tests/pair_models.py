"""Tiny models in the layouts of real pairs, presets of them, and the pipelines' own calls that their pictures equal."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import tiny
import torch
import yaml
from commands import run
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from w2sd_video.runs import Request

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


def video_models(root: Path) -> dict[str, str]:
    """Those of Stable Diffusion 1, and two motion modules."""
    tiny.motion_adapter().save_pretrained(root / "motion")
    tiny.motion_adapter(7).save_pretrained(root / "weak_motion")
    return image_models(root, SD) | {name: str(root / name) for name in ("motion", "weak_motion")}


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
