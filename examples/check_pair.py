"""Before you use a pair: does the difference of its two models point towards real data?

`w2sd-video check-pair` does this with intervals and a verdict, and compares samples too.
"""

import torch

from w2sd_video.alignment import align, latents_of
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.shapes import WEIGHTS, grammar, world

LEVELS = 8  # noise levels

pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(
    WEIGHTS / "tuned", weak=WEIGHTS / "base", motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
)
pipe.set_progress_bar_config(disable=True)

cosines = []
for seed, prompt in enumerate(grammar.prompts(2)):
    real = (world.render(grammar.parse(prompt), seed) * 255).round().astype("uint8")  # (16, 64, 64, 3)
    found = align(pipe, latents_of(pipe, real), LEVELS, seed, prompt=prompt, guidance_scale=1.0)
    cosines.append(sum(level.cosine for level in found) / LEVELS)
    print(f"{prompt}: {cosines[-1]:+.3f}")
print(f"mean cosine {sum(cosines) / len(cosines):+.3f}: above 0, the strong model lacks what the pair adds")
