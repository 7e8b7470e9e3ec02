"""A method of your own: a step from x_t with the strong prediction, moved along the difference of the two arms.

The command line takes the same file: w2sd-video generate "a red circle" --method own_method.py:Push --set push=0.5
"""

from dataclasses import dataclass

import torch

from w2sd_video.methods import Answer, Method
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline
from w2sd_video.shapes import WEIGHTS


@dataclass(frozen=True)
class Push(Method):
    """x_s = a x_t + b (p_s + push (p_s - p_w)), with both predictions at x_t."""

    push: float = 0.5  # each field is an option, for Python and for --set

    def __call__(self, x_t, step, strong, weak, noise):
        # `denoise` is the prediction that the sampler uses; `reflect` has the guidance of the reflection.
        difference = strong.reflect(x_t) - weak.reflect(x_t)
        return Answer(strong.denoise(x_t), e=self.push * difference)


if __name__ == "__main__":
    pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained(
        WEIGHTS / "tuned", weak=WEIGHTS / "base", motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
    )
    method = Push(push=0.25, strong_guidance=1.5, weak_guidance=1.0)
    frames = pipe("a red circle moving right", method=method, num_inference_steps=25, guidance_scale=1.5).frames[0]
    frames[0].save("push.gif", save_all=True, append_images=frames[1:], duration=125, loop=0)
    print(pipe.evaluations)
