"""Text to video by weak-to-strong reflection with AnimateDiff-SDXL."""

from __future__ import annotations

import inspect
from os import PathLike
from typing import Any

from diffusers import AnimateDiffSDXLPipeline, MotionAdapter

from w2sd_video import loading

from .animatediff import VideoReflection


class W2SDAnimateDiffSDXLPipeline(VideoReflection, AnimateDiffSDXLPipeline):
    """[`AnimateDiffSDXLPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    @classmethod
    def from_pretrained(
        cls,
        strong: str | PathLike[str],
        weak: str | PathLike[str] | None = None,
        motion_adapter: str | PathLike[str] | MotionAdapter | None = None,
        **kwargs: Any,
    ) -> W2SDAnimateDiffSDXLPipeline:
        """Load a pair of models; of the weak one only the UNet. What equals the strong one's is stored once.

        `strong` and `weak` are each a hub id, a folder of an SDXL or AnimateDiff-SDXL pipeline in diffusers'
        layout (such as this pipeline's own `save_pretrained` writes), or a single file in SDXL's original
        layout. Single files load without the network.

        Args:
            strong: the strong model, which also gives the VAE, the text encoders and the tokenizers.
            weak: the weak model. None: the one in `strong`'s folder if this pipeline saved it with one, else
                none.
            motion_adapter: the motion module of both arms: a hub id, a folder, a file in AnimateDiff's
                original layout (`mm_sdxl_v10_beta.ckpt`), or a `MotionAdapter`. None: the one in `strong`'s
                folder.
            weak_text_encoders (`bool`, defaults to False): also load the weak model's text encoders, for the
                weak arm. If they equal the strong model's, they are dropped.
            config (path, *optional*): configurations for single files, in diffusers' layout, instead of
                SDXL's.
            torch_dtype, variant, use_safetensors, low_cpu_mem_usage: as in
                [`DiffusionPipeline.from_pretrained`], for both models and the motion module. Set the dtype:
                without it SDXL loads in float32.
            cache_dir, token, local_files_only, force_download, proxies: for the hub.
            revision (`str`, *optional*): of the strong model's repository.
            kwargs: components to use instead of those of `strong`, such as `scheduler` or `vae`. Without
                `scheduler`, an image model gets AnimateDiff-SDXL's as diffusers documents it: DDIM, linear
                betas, linspace spacing.

        Raises:
            WeightsNotFound (`FileNotFoundError`): something is not on this machine; the message says how to
                get it.
            WeightsError (`ValueError`): something is damaged, of another architecture, or the arms do not go
                together.
            TypeError: an argument that neither this nor the pipeline takes.
        """
        components = inspect.signature(cls.__init__).parameters.keys() - {"self", "unet", "weak_unet"}
        pair = loading.plan(strong, weak, motion_adapter, accepted=components, **kwargs)
        load = super().from_single_file if pair.strong.source.is_file else super().from_pretrained
        given = pair.components()
        with pair.explained():
            pipeline = load(pair.location(), **given, **pair.load_options())
        return pair.finish(pipeline)
