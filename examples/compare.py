"""The weak model, the strong model and W2SD on one prompt and seed, each scored by the judge of the shapes world."""

import torch
from diffusers.utils import export_to_video

from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.shapes import WEIGHTS, grammar
from w2sd_video.shapes.judge import judge

PROMPT = "a small green triangle moving left quickly"

pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(
    WEIGHTS / "tuned", weak=WEIGHTS / "base", motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
)
pipe.set_progress_bar_config(disable=True)

arms = {
    "weak": {"method": "weak", "weak_guidance_scale": 1.5},  # the weak model by itself
    "strong": {"method": None},  # the strong model by itself: diffusers' own sampling
    "w2sd": {"method": "w2sd", "weak_guidance_scale": 1.0},
}
for name, settings in arms.items():
    generator = torch.Generator().manual_seed(1)  # the same first noise for all three
    video = pipe(
        PROMPT, num_inference_steps=25, guidance_scale=1.5, generator=generator, output_type="np", **settings
    ).frames[0]  # (16, 64, 64, 3), from 0 to 1
    export_to_video(list(video), f"{name}.mp4", fps=8)
    scores = judge(video, grammar.parse(PROMPT))
    print(f"{name}: right {scores['right']:.0f}, jerk {scores['jerk']:.2f}, spent {pipe.evaluations}")
