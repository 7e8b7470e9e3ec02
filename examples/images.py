"""An image is the special case of a video: the same method, arguments and checks, without a motion module."""

import torch

from w2sd_video.pipelines import W2SDStableDiffusionXLPipeline
from w2sd_video.shapes import WEIGHTS

pipe = W2SDStableDiffusionXLPipeline.from_pretrained(
    WEIGHTS / "tuned", weak=WEIGHTS / "base", torch_dtype=torch.float32
)
images = pipe(
    ["a yellow triangle above a blue circle", "a large red square on a white background"],
    num_inference_steps=25,
    guidance_scale=1.5,
    weak_guidance_scale=1.0,
    height=64,
    width=64,
    generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],  # one for each image
).images
for number, image in enumerate(images):
    image.save(f"image-{number}.png")
