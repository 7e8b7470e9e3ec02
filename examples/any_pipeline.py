"""A method in a stock pipeline of diffusers, by `apply_reflection`."""

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from w2sd_video.hook import apply_reflection
from w2sd_video.methods import W2SD
from w2sd_video.shapes import WEIGHTS

# With SDXL's weights only the paths and the size are others.
pipe = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "tuned", torch_dtype=torch.float32)
weak = UNet2DConditionModel.from_pretrained(WEIGHTS / "base" / "unet", torch_dtype=torch.float32)


def picture(name: str) -> None:
    image = pipe(
        "a large blue square",
        num_inference_steps=25,
        guidance_scale=1.5,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    image.save(name)


with apply_reflection(pipe, W2SD(strong_guidance=1.5, weak_guidance=1.0), weak=weak) as group:
    picture("w2sd.png")
print(group.evaluations.per_video())  # network evaluations of each arm

picture("plain.png")  # outside of the context, the pipeline is as it was
