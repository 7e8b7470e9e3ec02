"""The families of pipelines that presets and requests name, and their properties. Needs neither torch nor diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FamilyName = Literal[
    "animatediff-sdxl",
    "animatediff",
    "stable-diffusion-xl",
    "stable-diffusion",
    "dit-moe",
    "wan",
    "wan-image-to-video",
    "ltx",
    "ltx-image-to-video",
    "cogvideox",
    "cogvideox-image-to-video",
    "hunyuan-video",
    "hunyuan-video-15",
    "mochi",
    "stable-diffusion-3",
    "flux",
    "qwen-image",
    "sana",
]


@dataclass(frozen=True)
class Family:
    """A family of pipelines: the classes in `w2sd_video.pipelines`, and properties of their networks.

    Args:
        pipeline: the name of the class.
        with_controlnet: the name of the class with a ControlNet, if there is one.
        video: whether it makes videos, and not images.
        textual: whether its prompts are texts, and not classes.
        mixture: whether its network is a mixture of experts.
        motion: whether its network has motion modules.
        transformer: whether its network is a diffusion transformer; then the two arms may differ in size.
        embedded: whether its network may embed a guidance number; then `guidance_scale` is the true guidance.
        experts: whether it may have a second denoiser, which takes over at the lower noise levels.
        rescaled: whether its pipeline takes a `guidance_rescale`.
        from_image: whether it makes a video from a picture.
        tokens: whether frames, height and width share one axis of its videos' latents.
        models_of: the family whose models it takes too, such as the image models into which a motion module is put.
            None: it takes its own alone.
        side: height and width, in pixels, are multiples of this.
        stride: the number of frames is a multiple of this, plus 1.
        least_steps: the fewest steps of its pipeline; see `least_steps`.
    """

    pipeline: str
    with_controlnet: str | None = None
    video: bool = False
    textual: bool = True
    mixture: bool = False
    motion: bool = False
    transformer: bool = False
    embedded: bool = False
    experts: bool = False
    rescaled: bool = False
    from_image: bool = False
    tokens: bool = False
    models_of: str | None = None
    side: int = 8
    stride: int = 1
    least_steps: int = 1

    @property
    def denoiser(self) -> str:
        """The folders of a model's denoisers, as a pattern."""
        return "transformer*" if self.transformer or self.mixture else "unet"


def _transformer(pipeline: str, side: int = 16, stride: int = 0, **more: Any) -> Family:
    """A family of diffusion transformers; it makes videos if it has a stride of frames."""
    return Family(pipeline, video=stride > 0, transformer=True, side=side, stride=max(stride, 1), **more)


FAMILIES = {
    "animatediff-sdxl": Family(
        "W2SDAnimateDiffSDXLPipeline", video=True, motion=True, rescaled=True, models_of="stable-diffusion-xl"
    ),
    "animatediff": Family(
        "W2SDAnimateDiffPipeline",
        "W2SDAnimateDiffControlNetPipeline",
        video=True,
        motion=True,
        models_of="stable-diffusion",
    ),
    "stable-diffusion-xl": Family(
        "W2SDStableDiffusionXLPipeline", "W2SDStableDiffusionXLControlNetPipeline", rescaled=True
    ),
    "stable-diffusion": Family("W2SDStableDiffusionPipeline", "W2SDStableDiffusionControlNetPipeline", rescaled=True),
    "dit-moe": Family("W2SDDiTMoEPipeline", textual=False, mixture=True),
    "wan": _transformer("W2SDWanPipeline", stride=4, experts=True),
    "wan-image-to-video": _transformer(
        "W2SDWanImageToVideoPipeline", stride=4, from_image=True, experts=True, models_of="wan"
    ),
    "ltx": _transformer("W2SDLTXPipeline", side=32, stride=8, rescaled=True, tokens=True),
    "ltx-image-to-video": _transformer(
        "W2SDLTXImageToVideoPipeline",
        side=32,
        stride=8,
        from_image=True,
        rescaled=True,
        tokens=True,
        models_of="ltx",
    ),
    "cogvideox": _transformer("W2SDCogVideoXPipeline", stride=4),
    "cogvideox-image-to-video": _transformer(
        "W2SDCogVideoXImageToVideoPipeline", stride=4, from_image=True, models_of="cogvideox"
    ),
    "hunyuan-video": _transformer("W2SDHunyuanVideoPipeline", stride=4, embedded=True),
    "hunyuan-video-15": _transformer("W2SDHunyuanVideo15Pipeline", stride=4),
    "mochi": _transformer("W2SDMochiPipeline", stride=6, least_steps=2),
    "stable-diffusion-3": _transformer("W2SDStableDiffusion3Pipeline"),
    "flux": _transformer("W2SDFluxPipeline", embedded=True),
    "qwen-image": _transformer("W2SDQwenImagePipeline", embedded=True),
    "sana": _transformer("W2SDSanaPipeline", side=32),
}
VIDEOS = tuple(name for name, family in FAMILIES.items() if family.video)
CONTROLLED = tuple(name for name, family in FAMILIES.items() if family.with_controlnet)
TEXTUAL = tuple(name for name, family in FAMILIES.items() if family.textual)
MIXTURES = tuple(name for name, family in FAMILIES.items() if family.mixture)
MOVED = tuple(name for name, family in FAMILIES.items() if family.motion)
EMBEDDED = tuple(name for name, family in FAMILIES.items() if family.embedded)
EXPERTS = tuple(name for name, family in FAMILIES.items() if family.experts)
RESCALED = tuple(name for name, family in FAMILIES.items() if family.rescaled)
FROM_IMAGE = tuple(name for name, family in FAMILIES.items() if family.from_image)
TRANSFORMERS = tuple(name for name, family in FAMILIES.items() if family.transformer)
U_NETS = tuple(name for name in TEXTUAL if not FAMILIES[name].transformer)


def least_steps(of_pipeline: int, schedule: Mapping[str, Any]) -> int:
    """The fewest steps of a run.

    With one step, diffusers divides by 0 in Mochi's own schedule, half of which is linear, and in every schedule that
    is stretched to end at a `shift_terminal`, such as LTX-Video's and Qwen-Image's.

    Args:
        of_pipeline: the fewest steps of the pipeline, whatever its scheduler.
        schedule: the scheduler's configuration.
    """
    return max(of_pipeline, 2 if schedule.get("shift_terminal") else 1)
