"""Text to video by weak-to-strong reflection with AnimateDiff-SDXL."""

from __future__ import annotations

import copy
import inspect
import math
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import retrieve_timesteps
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from w2sd_video import loading
from w2sd_video.hook import Conditioning, DenoiserHook, attached
from w2sd_video.levels import check_scheduler, read_step
from w2sd_video.methods import W2SD
from w2sd_video.methods.w2sd import Inversion
from w2sd_video.motion import motion_unet, share_parameters, unshare_parameters

METHODS = ("w2sd",)

_PARENT_CALL = inspect.signature(AnimateDiffSDXLPipeline.__call__)


class W2SDAnimateDiffSDXLPipeline(AnimateDiffSDXLPipeline):
    """[`AnimateDiffSDXLPipeline`] with a weak arm beside the strong one.

    The sampling loop is the parent's. During a call, a hook on `unet` answers the loop with W2SD's prediction
    (`w2sd_video.hook`, `w2sd_video.methods.w2sd`); `method=None` is the parent, bit for bit.

    LoRAs, IP-Adapters and whatever else is loaded on the pipeline act on `unet` alone, so on the strong arm.
    Two exceptions: without a `weak_unet` both arms are `unet`, and `cross_attention_kwargs` reach both arms.

    What is equal in the two arms is stored once: the motion modules at least, under one adapter. So what
    changes weights in place changes both arms' (`motion.unshare_parameters` parts them; `fuse_lora`, model
    offload and sequential offload do so by themselves).

    Args:
        weak_unet: the weak arm's UNet. A `UNet2DConditionModel` is given the strong UNet's motion modules.
            None: the weak arm is `unet` itself, and guidance or prompt make the difference.
        weak_text_encoder, weak_text_encoder_2: the weak arm's text encoders, each used in the place of the
            strong's where it is given. The tokenizers are common.

    The other components are [`AnimateDiffSDXLPipeline`]'s.
    """

    # In the order of a call: each model leaves the accelerator when the next one runs. `weak_unet` is in no
    # such chain, since the two UNets take turns within a step; both stay, and `decode_latents` sends it away
    # before the VAE.
    model_cpu_offload_seq = "weak_text_encoder->weak_text_encoder_2->" + AnimateDiffSDXLPipeline.model_cpu_offload_seq
    _optional_components = [
        *AnimateDiffSDXLPipeline._optional_components,
        "weak_unet",
        "weak_text_encoder",
        "weak_text_encoder_2",
    ]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel | UNetMotionModel,
        motion_adapter: MotionAdapter,
        scheduler: DDIMScheduler
        | PNDMScheduler
        | LMSDiscreteScheduler
        | EulerDiscreteScheduler
        | EulerAncestralDiscreteScheduler
        | DPMSolverMultistepScheduler,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        weak_unet: UNet2DConditionModel | UNetMotionModel = None,
        weak_text_encoder: CLIPTextModel = None,
        weak_text_encoder_2: CLIPTextModelWithProjection = None,
    ):
        if isinstance(unet, UNet2DConditionModel):
            unet = motion_unet(unet, motion_adapter)
        super().__init__(
            vae,
            text_encoder,
            text_encoder_2,
            tokenizer,
            tokenizer_2,
            unet,
            motion_adapter,
            scheduler,
            image_encoder,
            feature_extractor,
            force_zeros_for_empty_prompt,
        )
        if isinstance(weak_unet, UNet2DConditionModel):
            weak_unet = motion_unet(weak_unet, motion_adapter, like=unet)
        self.register_modules(
            weak_unet=weak_unet,
            weak_text_encoder=weak_text_encoder,
            weak_text_encoder_2=weak_text_encoder_2,
        )
        for weak, strong in self._pairs():
            share_parameters(weak, strong)
        self._hook: DenoiserHook | None = None
        self._attachment = ExitStack()
        self._forced_halves = False

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

    @torch.no_grad()
    def __call__(
        self,
        *args: Any,
        method: str | None = "w2sd",
        strong_guidance_scale: float | None = None,
        weak_guidance_scale: float = 1.0,
        reflection_steps: int | None = None,
        weak_prompt: str | list[str] | None = None,
        weak_negative_prompt: str | list[str] | None = None,
        weak_prompt_embeds: torch.Tensor | None = None,
        weak_negative_prompt_embeds: torch.Tensor | None = None,
        weak_pooled_prompt_embeds: torch.Tensor | None = None,
        weak_negative_pooled_prompt_embeds: torch.Tensor | None = None,
        inversion: Inversion = "x_s",
        convention: str = "exact",
        **kwargs: Any,
    ):
        """Generate videos. Takes what [`AnimateDiffSDXLPipeline.__call__`] takes, and more.

        Every guidance number w reads `uncond + w (cond - uncond)`: 1 is conditional, 0 unconditional. Under a
        method that holds for `guidance_scale` as well, where the parent takes everything up to 1 as 1.

        Args:
            method: "w2sd", or None for the parent's own sampling.
            strong_guidance_scale: guidance of the strong arm in the reflection. Default: `guidance_scale`,
                which is the guidance of the final step.
            weak_guidance_scale: guidance of the weak arm in the reflection.
            reflection_steps: lambda, how many steps reflect, from the noisiest down: 0 to the number of steps
                T. Default: T - 1.
            weak_prompt, weak_negative_prompt: what the weak arm is told instead of the prompt (of both text
                encoders) and the negative prompt.
            weak_prompt_embeds, weak_negative_prompt_embeds, weak_pooled_prompt_embeds,
            weak_negative_pooled_prompt_embeds: the same as embeddings, in the shapes of the parent's.
            inversion: "x_s" (the paper), "x_t", or a number of extra fixed-point iterations; see
                `methods.w2sd`.
            convention: "exact", or "published" for the level that the published code inverts to; see
                `levels.read_step`.

        Returns:
            What the parent returns. Afterwards `pipe.evaluations` says what was spent.

        Raises:
            ValueError: for an argument that is not accepted, before any network runs. `method=None` leaves
                the parent's own to the parent, but for `num_frames`, `num_inference_steps` and
                `guidance_scale`.
            FloatingPointError: where latents or predictions stop being finite; names step, timestep, arm and
                guidance.
        """
        arguments = _PARENT_CALL.bind(self, *args, **kwargs)
        arguments.apply_defaults()
        asked = dict(arguments.arguments)
        asked.pop("self")
        if method is not None and method not in METHODS:
            raise ValueError(f"`method` has to be one of {', '.join(map(repr, METHODS))} or None, but is {method!r}.")
        weak_inputs = {
            "weak_prompt": weak_prompt,
            "weak_negative_prompt": weak_negative_prompt,
            "weak_prompt_embeds": weak_prompt_embeds,
            "weak_negative_prompt_embeds": weak_negative_prompt_embeds,
            "weak_pooled_prompt_embeds": weak_pooled_prompt_embeds,
            "weak_negative_pooled_prompt_embeds": weak_negative_pooled_prompt_embeds,
        }
        self._check_numbers(asked)
        w2sd, weak_conditioning = None, Conditioning()
        self._hook, self._forced_halves = None, False
        if method is not None:
            w2sd = W2SD(
                asked["guidance_scale"] if strong_guidance_scale is None else strong_guidance_scale,
                weak_guidance_scale,
                reflection_steps=reflection_steps,
                inversion=inversion,
                convention=convention,
            )
            num_steps = self._check_method(w2sd, asked, weak_inputs)
            guidances = [asked["guidance_scale"]]
            if w2sd.reflects(0, num_steps):
                weak_conditioning = self._weak_conditioning(w2sd, asked, weak_inputs)
                guidances += [w2sd.strong_guidance, w2sd.weak_guidance]
            self._forced_halves = asked["guidance_scale"] <= 1 and any(w != 1 for w in guidances)

        self._hook = DenoiserHook(
            w2sd,
            self.scheduler,
            weak=self.weak_unet,
            weak_conditioning=weak_conditioning,
            guidance=lambda: self.guidance_scale,
            doubled=lambda: self.do_classifier_free_guidance,
            eta=asked["eta"] if "eta" in inspect.signature(self.scheduler.step).parameters else 0.0,
            num_steps=lambda: self.num_timesteps,
        )
        try:
            self._attachment.enter_context(attached(self.unet, self._hook))
            return super().__call__(*args, **kwargs)
        finally:
            self._attachment.close()
            self._forced_halves = False

    __call__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *_PARENT_CALL.parameters.values(),
            *(p for p in inspect.signature(__call__).parameters.values() if p.kind == p.KEYWORD_ONLY),
        ]
    )

    @property
    def evaluations(self) -> dict[str, int]:
        """Network evaluations of the last call, for one of its videos, by arm: "strong", "weak" and "total".

        One is one latent video through one network once; classifier-free guidance takes two. After a call
        that raised: those made until then.
        """
        if self._hook is None:
            raise RuntimeError("`evaluations` is known after a call of the pipeline; there was none.")
        return self._hook.evaluations.per_video()

    @property
    def do_classifier_free_guidance(self) -> bool:
        # The parent's rule, guidance > 1, plus the calls below that which need the unconditional branch all
        # the same. A callback that ends guidance during a call (diffusers' cut-off callbacks do) goes by the
        # parent's rule.
        return self._forced_halves or super().do_classifier_free_guidance

    def _check_numbers(self, asked: dict[str, Any]) -> None:
        guidance, frames, steps = (asked[name] for name in ("guidance_scale", "num_frames", "num_inference_steps"))
        if not _is(guidance, int, float) or not math.isfinite(guidance):
            raise ValueError(f"`guidance_scale` has to be a finite number, but is {guidance!r}.")
        longest = self.unet.config.motion_max_seq_length
        if not _is(frames, int) or not 1 <= frames <= longest:
            raise ValueError(
                f"`num_frames` has to be a whole number from 1 to {longest} (the motion module's maximum),"
                f" but is {frames!r}."
            )
        if asked["timesteps"] is None and asked["sigmas"] is None and (not _is(steps, int) or steps < 1):
            raise ValueError(f"`num_inference_steps` has to be a whole number from 1, but is {steps!r}.")

    def _check_method(self, w2sd: W2SD, asked: dict[str, Any], weak_inputs: dict[str, Any]) -> int:
        """Refuse what cannot be done under the method, and return the number of steps."""
        self.check_inputs(
            asked["prompt"],
            asked["prompt_2"],
            asked["height"] or self.default_sample_size * self.vae_scale_factor,
            asked["width"] or self.default_sample_size * self.vae_scale_factor,
            asked["negative_prompt"],
            asked["negative_prompt_2"],
            asked["prompt_embeds"],
            asked["negative_prompt_embeds"],
            asked["pooled_prompt_embeds"],
            asked["negative_pooled_prompt_embeds"],
            asked["callback_on_step_end_tensor_inputs"],
        )
        if self.unet.config.time_cond_proj_dim is not None:
            raise ValueError(
                "`unet` embeds its guidance scale (`time_cond_proj_dim` is set, as in guidance-distilled"
                " models), so an arm's guidance cannot be chosen apart. Use `method=None`, or a UNet without"
                " it."
            )
        self._check_weak_unet(asked["num_frames"])
        sizes = [name for name in ("negative_original_size", "negative_target_size") if asked[name] is not None]
        if sizes and _batch_size(asked) > 1:
            raise ValueError(
                f"`{sizes[0]}` is accepted for one video at a time under a method: diffusers pairs the size"
                f" conditioning of a batch wrongly; got {_batch_size(asked)} prompts."
            )
        check_scheduler(self.scheduler, convention=w2sd.convention)
        timesteps = self._timesteps(asked)
        num_steps = len(timesteps)
        lam = w2sd.reflection_steps
        if lam is not None and lam > num_steps:
            raise ValueError(f"`reflection_steps` has to be from 0 to the number of steps, {num_steps}, but is {lam}.")
        if w2sd.convention == "published" and lam is not None and lam > num_steps - 1:
            raise ValueError(
                f"`reflection_steps` has to be from 0 to {num_steps - 1} under `convention='published'`,"
                f" which cannot reflect the last step, but is {lam}."
            )
        self._check_weak_inputs(asked, weak_inputs)
        return num_steps

    def _timesteps(self, asked: dict[str, Any]) -> list[float]:
        """The timesteps of the run, from a copy of the scheduler. The first step is read: it may refuse."""
        scheduler = copy.deepcopy(self.scheduler)
        timesteps, _ = retrieve_timesteps(
            scheduler, asked["num_inference_steps"], "cpu", asked["timesteps"], asked["sigmas"]
        )
        read_step(scheduler, timesteps[0])
        end = asked["denoising_end"]
        if isinstance(end, float) and 0 < end < 1:  # the parent's own rule, its step 7.1
            total = scheduler.config.num_train_timesteps
            timesteps = [t for t in timesteps if t >= int(round(total - end * total))]
        return [float(t) for t in timesteps]

    def _check_weak_unet(self, frames: int) -> None:
        """The two UNets see the same latents."""
        if self.weak_unet is None:
            return
        if self.weak_unet.dtype != self.unet.dtype:
            raise ValueError(
                f"`weak_unet` is in {self.weak_unet.dtype} and `unet` in {self.unet.dtype}; accepted: one"
                " dtype for both, as after `pipe.to(dtype)`."
            )
        for name in ("in_channels", "out_channels"):
            weak, strong = self.weak_unet.config[name], self.unet.config[name]
            if weak != strong:
                raise ValueError(f"`weak_unet` has {name} {weak}, and `unet` {strong}; accepted: the same.")
        longest = self.weak_unet.config.motion_max_seq_length
        if frames > longest:
            raise ValueError(f"`num_frames` is {frames}, and `weak_unet` takes at most {longest}.")

    def _check_weak_inputs(self, asked: dict[str, Any], weak: dict[str, Any]) -> None:
        batch = _batch_size(asked)
        for name in ("weak_prompt", "weak_negative_prompt"):
            value = weak[name]
            if value is None or isinstance(value, str):
                continue
            if not isinstance(value, list) or len(value) != batch or not all(isinstance(v, str) for v in value):
                raise ValueError(f"`{name}` has to be a string or a list of {batch} strings, but is {value!r}.")
        embeds = {name: value for name, value in weak.items() if name.endswith("embeds") and value is not None}
        for name, other in (
            ("weak_prompt", "weak_prompt_embeds"),
            ("weak_negative_prompt", "weak_negative_prompt_embeds"),
        ):
            if weak[name] is not None and weak[other] is not None:
                raise ValueError(f"`{name}` and `{other}` are both given; accepted: one of them.")
            pooled = other.replace("prompt_embeds", "pooled_prompt_embeds")
            if (weak[other] is None) != (weak[pooled] is None):
                raise ValueError(f"`{other}` and `{pooled}` go together: give both, or neither.")
        for name, value in embeds.items():
            if len(value) != batch:
                raise ValueError(f"`{name}` has to hold {batch} embeddings, one for a video, but holds {len(value)}.")
        if weak["weak_negative_prompt_embeds"] is not None and weak["weak_prompt_embeds"] is None:
            raise ValueError("`weak_negative_prompt_embeds` needs `weak_prompt_embeds` beside it.")
        speaks = weak["weak_prompt"] is not None or weak["weak_prompt_embeds"] is not None
        if asked["prompt"] is None and not speaks:
            if weak["weak_negative_prompt"] is not None or self._has_weak_text_encoder:
                raise ValueError(
                    "`prompt_embeds` come from the strong arm's text encoders, and the weak arm has to"
                    " encode its own: pass `weak_prompt`, or `weak_prompt_embeds` (the same embeddings, to"
                    " use them for both arms)."
                )

    @property
    def _has_weak_text_encoder(self) -> bool:
        return self.weak_text_encoder is not None or self.weak_text_encoder_2 is not None

    def _weak_conditioning(self, w2sd: W2SD, asked: dict[str, Any], weak: dict[str, Any]) -> Conditioning:
        """The weak arm's embeddings, where they are not the strong arm's."""
        if all(value is None for value in weak.values()) and not self._has_weak_text_encoder:
            return Conditioning()
        encodes_own = weak["weak_prompt"] is not None or weak["weak_prompt_embeds"] is not None
        own_negative = weak["weak_negative_prompt"] is not None or weak["weak_negative_prompt_embeds"] is not None
        view = copy.copy(self)  # the arm's view of the pipeline: its own text encoders where it has them
        for name in ("text_encoder", "text_encoder_2"):
            if (encoder := getattr(self, "weak_" + name)) is not None:
                view.__dict__[name] = encoder
        batch = _batch_size(asked)
        told: dict[str, Any] = {}
        if encodes_own:
            told["prompt"] = _listed(weak["weak_prompt"], batch)
            told["prompt_embeds"] = weak["weak_prompt_embeds"]
            told["pooled_prompt_embeds"] = weak["weak_pooled_prompt_embeds"]
        else:
            told["prompt"] = _listed(asked["prompt"], batch)
            told["prompt_2"] = _listed(asked["prompt_2"], batch)
        if own_negative:
            told["negative_prompt"] = _listed(weak["weak_negative_prompt"], batch)
            told["negative_prompt_embeds"] = weak["weak_negative_prompt_embeds"]
            told["negative_pooled_prompt_embeds"] = weak["weak_negative_pooled_prompt_embeds"]
        else:
            told["negative_prompt"] = _listed(asked["negative_prompt"], batch)
            told["negative_prompt_2"] = _listed(asked["negative_prompt_2"], batch)
            if asked["negative_prompt_embeds"] is not None and not self._has_weak_text_encoder:
                told["negative_prompt_embeds"] = asked["negative_prompt_embeds"]
                told["negative_pooled_prompt_embeds"] = asked["negative_pooled_prompt_embeds"]
        cond, uncond, cond_pooled, uncond_pooled = view.encode_prompt(
            **told,
            device=self._execution_device,
            do_classifier_free_guidance=w2sd.weak_guidance != 1,
            lora_scale=(asked["cross_attention_kwargs"] or {}).get("scale"),
            clip_skip=asked["clip_skip"],
        )

        def inputs(embeds: torch.Tensor, pooled: torch.Tensor) -> dict[str, Any]:
            return {
                "encoder_hidden_states": embeds.repeat_interleave(asked["num_frames"], dim=0),
                "added_cond_kwargs": {"text_embeds": pooled},
            }

        return Conditioning(
            cond=inputs(cond, cond_pooled),
            uncond=None if uncond is None else inputs(uncond, uncond_pooled),
        )

    # The two UNets run in turns and share parameters, which the parent's policies do not expect.

    def _pairs(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        names = ("unet", "text_encoder", "text_encoder_2")
        pairs = [(getattr(self, "weak_" + name), getattr(self, name)) for name in names]
        return [(weak, strong) for weak, strong in pairs if None not in (weak, strong) and weak is not strong]

    def _unshare(self) -> None:
        for weak, strong in self._pairs():
            unshare_parameters(weak, strong)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        for hook in getattr(self, "_all_hooks", []):
            if hook.model is self.weak_unet:
                hook.offload()
        return super().decode_latents(latents)

    def maybe_free_model_hooks(self) -> None:
        self._attachment.close()  # model offload takes away the forward that our hook wraps: ours goes first
        super().maybe_free_model_hooks()

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()  # each model's first parameter tells where the whole model is
        super().enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()  # each model's map takes its parameters' data away
        super().enable_sequential_cpu_offload(*args, **kwargs)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', except to disk, where both UNets would write and read the same files."""
        if kwargs.get("offload_to_disk_path") is not None and self.weak_unet is not None:
            raise ValueError(
                f"offload_to_disk_path={kwargs['offload_to_disk_path']!r}: diffusers names the files after a"
                " model's parts, so `unet` and `weak_unet` would read each other's. Accepted: None; or"
                " separate the two with `motion.unshare_parameters` and offload each to a folder of its own."
            )
        super().enable_group_offload(*args, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()
        super().fuse_lora(*args, **kwargs)


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _batch_size(asked: dict[str, Any]) -> int:
    if asked["prompt"] is None:
        return len(asked["prompt_embeds"])
    return 1 if isinstance(asked["prompt"], str) else len(asked["prompt"])


def _listed(prompt: str | list[str] | None, batch: int) -> list[str] | None:
    return [prompt] * batch if isinstance(prompt, str) else prompt
