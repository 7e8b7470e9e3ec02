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

along, size = 0.0, 0.0  # of the models' difference: what of the strong model's error it has, and its own square
for seed, prompt in enumerate(grammar.prompts(2)):
    real = (world.render(grammar.parse(prompt), seed) * 255).round().astype("uint8")  # (16, 64, 64, 3)
    found = align(pipe, latents_of(pipe, real), LEVELS, seed, prompt=prompt, guidance_scale=1.0)
    along += sum(level.dr for level in found)
    size += sum(level.dd for level in found)
    print(f"{prompt}: mean cosine {sum(level.cosine for level in found) / LEVELS:+.3f}")
print(f"strength {along / size:+.2f}: W2SD helps if it is over 1/2, overshoots above 0, and hurts below")
