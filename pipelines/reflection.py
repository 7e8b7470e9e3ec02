"""What every family of pipelines here is beside the stock one that it subclasses: a weak arm, and the method's hook."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from diffusers import DiffusionPipeline, MotionAdapter
from diffusers.callbacks import (
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from torch import Tensor, nn
from typing_extensions import Self

from w2sd_video import arms, plugins
from w2sd_video.errors import NotFinite
from w2sd_video.hook import Conditioning, Group, apply_reflection, check_free
from w2sd_video.levels import Step, check_invertible, check_scheduler, read_step
from w2sd_video.methods import METHODS, OPTIONS, Method
from w2sd_video.methods import find as find_method
from w2sd_video.models import adapters, checkpoints, loading
from w2sd_video.models.bases import BASES
from w2sd_video.models.checkpoints import explained
from w2sd_video.models.motion import share_parameters, unshare_parameters
from w2sd_video.models.sources import Source

# Callbacks of diffusers that end guidance during a call.
CUTOFFS = (SDCFGCutoffCallback, SDXLCFGCutoffCallback, SDXLControlnetCFGCutoffCallback, SD3CFGCutoffCallback)
# Arguments of a call that only some families have: by the stock pipeline's argument that goes with them.
_NEEDS = {
    "weak_prompt": "prompt",
    "weak_negative_prompt": "prompt",
    "weak_prompt_embeds": "prompt_embeds",
    "weak_negative_prompt_embeds": "prompt_embeds",
    "weak_pooled_prompt_embeds": "pooled_prompt_embeds",
    "weak_negative_pooled_prompt_embeds": "pooled_prompt_embeds",
    "weak_adapter_scales": "cross_attention_kwargs",
    "weak_ip_adapter_scale": "ip_adapter_image",
    "weak_motion_scale": "num_frames",
    "weak_controlnet_conditioning_scale": "controlnet_conditioning_scale",
    "weak_routing": "class_labels",
}


class Reflection(DiffusionPipeline):
    """A weak arm beside the strong one, for a stock pipeline; to be named before it among the bases.

    The sampling loop is the stock pipeline's. During a call, a hook on the denoiser answers the loop with the
    method's prediction (`w2sd_video.hook`, `w2sd_video.methods`); `method=None` is the stock pipeline, bit for bit.

    LoRAs, IP-Adapters and whatever else is loaded on the pipeline act on the strong arm's denoiser alone. Without a
    weak denoiser both arms are that one, and what the call says of the weak arm (guidance, prompt, scales) makes the
    difference. With one, `cross_attention_kwargs` reach both arms all the same.

    What is equal in the two arms is stored once. So what changes weights in place changes both arms'
    (`motion.unshare_parameters` parts them; `fuse_lora`, model offload and sequential offload do so by themselves).

    Beside the stock pipeline's components, each optional:

    - `weak_unet` (or `weak_transformer`): the weak arm's denoiser. None: the strong one's.
    - `weak_text_encoder`, `weak_text_encoder_2`: the weak arm's text encoders, each used in the place of the strong's
      where it is given. The tokenizers are common.
    """

    _stock: ClassVar[type[DiffusionPipeline]]
    _denoiser: ClassVar[str]
    _weak_components: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases: list[Any] = [c for c in cls.__mro__ if not issubclass(c, Reflection) and "__call__" in vars(c)]
        if not bases or hasattr(cls, "_stock"):  # a mixin for families; a family's subclass
            return
        stock = cls._stock = bases[0]
        parts = inspect.signature(stock.__init__).parameters
        cls._denoiser = "transformer" if "transformer" in parts else "unet"
        encoders = [name for name in parts if name.startswith("text_encoder")]
        cls._weak_components = tuple(f"weak_{name}" for name in (cls._denoiser, *encoders))
        cls._optional_components = [*stock._optional_components, *cls._weak_components]
        # In the order of a call: each model leaves the accelerator when the next one runs. The weak denoiser is in no
        # such chain, since the two take turns within a step, and both stay.
        cls.model_cpu_offload_seq = "->".join([*(f"weak_{name}" for name in encoders), stock.model_cpu_offload_seq])
        cls.__init__ = cls._constructor()  # type: ignore[method-assign]
        cls.__call__ = cls._caller()

    @classmethod
    def _constructor(cls) -> Callable[..., None]:
        """`__init__` with the stock pipeline's parameters and the weak components', from which diffusers reads what a
        pipeline consists of, and of which types."""

        def __init__(self: Any, *args: Any, **components: Any) -> None:
            self._build(*args, **components)

        hints = get_type_hints(cls._stock.__init__)
        hints |= {name: hints[name.removeprefix("weak_")] for name in cls._weak_components}
        weak = [_keyword(name, None, hints[name]) for name in cls._weak_components]
        __init__.__signature__ = _with(inspect.signature(cls._stock.__init__), weak)  # type: ignore[attr-defined]
        __init__.__annotations__ = hints
        return _named(__init__, cls)

    @classmethod
    def _caller(cls) -> Callable[..., Any]:
        """`__call__` with the parameters of the stock pipeline, those of `_generate` that apply, and the methods'."""

        @torch.no_grad()
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            return Reflection._generate(self, *args, **kwargs)

        stock = inspect.signature(cls._stock.__call__)
        generate, hints = inspect.signature(cls._generate).parameters.values(), get_type_hints(cls._generate)
        own = [_keyword(p.name, p.default, hints[p.name]) for p in generate if p.kind == p.KEYWORD_ONLY]
        own = [p for p in own if _NEEDS.get(p.name, "self") in stock.parameters]
        types = {name: kind for method in METHODS.values() for name, kind in get_type_hints(method).items()}
        own += [_keyword(name, default, types[name]) for name, default in OPTIONS.items()]
        __call__.__signature__ = _with(stock, own)  # type: ignore[attr-defined]
        __call__.__doc__ = cls._generate.__doc__
        return _named(__call__, cls)

    def _build(self, *args: Any, **components: Any) -> None:
        weak = {name: components.pop(name, None) for name in self._weak_components}
        given = inspect.signature(self._stock.__init__).bind(self, *args, **components)
        given.apply_defaults()
        arguments = dict(given.arguments)
        del arguments["self"]
        arguments, weak = self._prepared(arguments, weak)
        self._stock.__init__(self, **arguments)
        self.register_modules(**weak)
        for ours, theirs in self._pairs():
            share_parameters(ours, theirs)
        self._hook: Group | None = None
        self._forced_halves = False

    @classmethod
    def from_pretrained(
        cls,
        strong: str | PathLike[str],
        weak: str | PathLike[str] | None = None,
        motion_adapter: str | PathLike[str] | MotionAdapter | None = None,
        weak_motion_adapter: str | PathLike[str] | MotionAdapter | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a pair of models; of the weak one only the UNet. What equals the strong one's is stored once.

        `strong` and `weak` are each a hub id, a folder of a pipeline in diffusers' layout (such as this pipeline's own
        `save_pretrained` writes), or a single file in the original layout of SDXL or Stable Diffusion, whichever the
        family is of. Single files load without the network.

        Args:
            strong: the strong model, which also gives the VAE, the text encoders and the tokenizers.
            weak: the weak model. None: the one in `strong`'s folder if this pipeline saved it with one, else
                none.
            motion_adapter: of a video family, the motion module of both arms: a hub id, a folder, a file in
                AnimateDiff's original layout (`mm_sdxl_v10_beta.ckpt`, `mm_sd_v15_v2.ckpt`), or a `MotionAdapter`.
                None: the one in `strong`'s folder.
            weak_motion_adapter: another one for the weak arm. With `weak=None` nothing else differs.
            controlnet: of a family with one, a hub id, a folder, or a `ControlNetModel`; several in a list. Default:
                the one in `strong`'s folder.
            weak_text_encoders (`bool`, defaults to False): also load the weak model's text encoders, for the
                weak arm. If they equal the strong model's, they are dropped.
            config (path, *optional*): configurations for single files, in diffusers' layout, instead of
                those of the family's base.
            torch_dtype, variant, use_safetensors, low_cpu_mem_usage: as in
                [`DiffusionPipeline.from_pretrained`], for all models. Set the dtype: without it they load in float32.
            cache_dir, token, local_files_only, force_download, proxies: for the hub.
            revision (`str`, *optional*): of the strong model's repository.
            kwargs: components to use instead of those of `strong`, such as `scheduler` or `vae`. Without
                `scheduler`, an image model gets for videos AnimateDiff's as diffusers documents it: DDIM, linear
                betas, linspace spacing; for images its own, or DDIM where a reflection cannot read its steps.

        Raises:
            WeightsNotFound: something is not on this machine; the message says how to get it. It is a
                `FileNotFoundError`.
            WeightsError: something is damaged, of another architecture, or the arms do not go together. It is a
                `ValueError`.
            TypeError: an argument that neither this nor the pipeline takes.
        """
        unets = {cls._denoiser, f"weak_{cls._denoiser}"}
        components = inspect.signature(cls.__init__).parameters.keys() - {"self", "args", *unets}
        asked = {"motion_adapter": motion_adapter, "weak_motion_adapter": weak_motion_adapter}
        for name, value in {**asked, "controlnet": kwargs.get("controlnet")}.items():
            if value is not None and name.removeprefix("weak_") not in components:
                raise TypeError(f"{name}={value!r}: {cls.__name__} takes none.")
        pair = loading.plan(
            strong,
            weak,
            motion_adapter,
            weak_motion_adapter=weak_motion_adapter,
            base=BASES["SDXL" if "text_encoder_2" in components else "Stable Diffusion"],
            video="motion_adapter" in components,
            accepted=components,
            **kwargs,
        )
        load = super().from_single_file if pair.strong.source.is_file else super().from_pretrained
        given = pair.components()
        with pair.explained():
            pipeline = load(pair.location(), **given, **pair.load_options())
        return pair.finish(pipeline)

    def _prepared(self, components: dict[str, Any], weak: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The components that the stock pipeline and the weak arm are built with."""
        return components, weak

    def _generate(
        self,
        *args: Any,
        method: str | Method | None = "w2sd",
        strong_guidance_scale: float | None = None,
        weak_guidance_scale: float = 1.0,
        weak_prompt: str | list[str] | None = None,
        weak_negative_prompt: str | list[str] | None = None,
        weak_prompt_embeds: Tensor | None = None,
        weak_negative_prompt_embeds: Tensor | None = None,
        weak_pooled_prompt_embeds: Tensor | None = None,
        weak_negative_pooled_prompt_embeds: Tensor | None = None,
        weak_adapter_scales: dict[str, float] | None = None,
        weak_ip_adapter_scale: float | list[float] | None = None,
        weak_motion_scale: float | None = None,
        weak_controlnet_conditioning_scale: float | list[float] | None = None,
        weak_routing: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Generate. Takes what the stock pipeline's `__call__` takes, and more.

        Every guidance number w reads `uncond + w (cond - uncond)`: 1 is conditional, 0 unconditional. Under a
        method that holds for `guidance_scale` as well, where the stock pipeline takes everything up to 1 as 1.

        Args:
            method: "w2sd", "s2wd", "z_sampling", "re_sampling", "advanced_re_sampling", "auto_guidance", "optimistic",
                "weak"; or a `methods.Method` with its settings, guidance too; or None for the stock pipeline's own
                sampling.
            strong_guidance_scale: guidance of the strong arm in the reflection. Default: `guidance_scale`,
                which is the guidance of the final step.
            weak_guidance_scale: guidance of the weak arm in the reflection.
            reflection_steps: lambda, how many steps reflect, from the noisiest down: 0 to the number of steps
                T. Default: T - 1.
            interval: noise levels sigma, low and high, in [0, 1]: only steps from a level between them reflect.
            convention: "exact", or "published" for the level that the published code inverts to; see
                `levels.read_step`.
            inversion, inversion_noise, still_gain, motion_gain, cap: of W2SD, S2WD, Z-Sampling and optimistic
                reflection; see `methods.W2SD`.
            adverse, weight: see `methods.AdvancedReSampling`, `methods.AutoGuidance`.
            weak_prompt, weak_negative_prompt: what the weak arm is told instead of the prompt (of all text
                encoders) and the negative prompt.
            weak_prompt_embeds, weak_negative_prompt_embeds: the same as embeddings, in the stock pipeline's shapes.
            weak_pooled_prompt_embeds, weak_negative_pooled_prompt_embeds: likewise.
            weak_adapter_scales: scales of LoRAs (motion LoRAs too) in the weak arm, by adapter name; the strong arm's
                are those of `set_adapters`. Where they touch the text encoders, the weak arm encodes its own prompt.
            weak_ip_adapter_scale, weak_controlnet_conditioning_scale: the weak arm's; 0 is without.
            weak_motion_scale: factor on the weak arm's motion modules; 0 disables them.
            weak_routing: the weak arm's routing, of a mixture of experts; see `dit_moe`.

        Returns:
            What the stock pipeline returns. Afterwards `pipe.evaluations` says what was spent.

        Raises:
            ValueError: for an argument that is not accepted, before any network runs. `method=None` leaves
                the stock pipeline's own to it, but for `num_frames`, `num_inference_steps` and
                `guidance_scale`.
            RuntimeError: another call is using the pipeline, or a network of it.
            FloatingPointError: where latents or predictions stop being finite; names step, timestep, arm and
                guidance. `errors.NotFinite`, which is one: where the autoencoder's frames are not.
        """
        options = {name: kwargs.pop(name) for name in _options_of(method) if name in kwargs}
        arguments = inspect.signature(self._stock.__call__).bind(self, *args, **kwargs)
        arguments.apply_defaults()
        asked = dict(arguments.arguments)
        asked.pop("self")
        weak_inputs = {
            "weak_prompt": weak_prompt,
            "weak_negative_prompt": weak_negative_prompt,
            "weak_prompt_embeds": weak_prompt_embeds,
            "weak_negative_prompt_embeds": weak_negative_prompt_embeds,
            "weak_pooled_prompt_embeds": weak_pooled_prompt_embeds,
            "weak_negative_pooled_prompt_embeds": weak_negative_pooled_prompt_embeds,
        }
        scales = {
            "weak_adapter_scales": weak_adapter_scales,
            "weak_ip_adapter_scale": weak_ip_adapter_scale,
            "weak_motion_scale": weak_motion_scale,
            "weak_controlnet_conditioning_scale": weak_controlnet_conditioning_scale,
            "weak_routing": weak_routing,
        }
        for name, value in (weak_inputs | scales).items():
            if value is not None and _NEEDS[name] not in asked:
                raise ValueError(f"`{name}` is no argument of {type(self).__name__}, which takes no `{_NEEDS[name]}`.")
        check_free(type(self).__name__, self._networks())
        self._check_numbers(asked)
        if "prompt" in asked and not hasattr(self.scheduler, "init_noise_sigma"):
            raise ValueError(
                f"`scheduler` is a {type(self.scheduler).__name__}, which {self._stock.__name__} does not take;"
                " accepted: one that scales its first noise, as EulerDiscreteScheduler, or for flow matching"
                " DPMSolverMultistepScheduler with prediction_type='flow_prediction' and use_flow_sigmas=True."
            )
        chosen, weak_conditioning, forced_halves = None, Conditioning(), False
        self._hook = None
        if method is not None:
            if isinstance(method, Method):
                if options or strong_guidance_scale is not None or weak_guidance_scale != 1:
                    raise ValueError(f"`method` is {method!r}, which has its settings: give no others beside it.")
                chosen = method
            else:
                guidance = asked["guidance_scale"] if strong_guidance_scale is None else strong_guidance_scale
                chosen = _method(method, {"strong_guidance": guidance, "weak_guidance": weak_guidance_scale, **options})
            given = [name for name, value in (weak_inputs | scales).items() if value is not None]
            if chosen.one_model and given:
                raise ValueError(
                    f"`{given[0]}` is given, and {type(chosen).__name__} has the strong model in both arms, which"
                    " guidance alone tells apart."
                )
            num_steps = self._check_method(chosen, asked, weak_inputs)
            self._check_scales(chosen, scales)
            guidances = [asked["guidance_scale"]]
            if chosen.reflects(0, num_steps):
                guidances += [chosen.strong_guidance]
                if chosen.uses_weak:
                    weak_conditioning = self._weak_conditioning(chosen, asked, weak_inputs, weak_adapter_scales or {})
                    guidances += [chosen.weak_guidance]
            forced_halves = asked["guidance_scale"] <= 1 and any(w != 1 for w in guidances)
            self._check_callback(chosen, asked, num_steps, forced_halves)

        applied = apply_reflection(
            self,
            chosen,
            weak=self._weak_network(chosen),
            weak_conditioning=weak_conditioning,
            weak_settings=self._settings(chosen, scales) if chosen else [],
            weak_controlnet_conditioning_scale=weak_controlnet_conditioning_scale,
            generator=asked.get("generator"),
        )
        with applied as self._hook:
            self._forced_halves = forced_halves
            try:
                with self._finite_frames() if chosen is not None else nullcontext():
                    return self._sample(asked, *args, **kwargs)
            finally:
                self._forced_halves = False

    def _sample(self, asked: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The stock pipeline's own sampling."""
        return self._stock.__call__(self, *args, **kwargs)

    @contextmanager
    def _finite_frames(self) -> Iterator[None]:
        """Lets no frame whose values are not finite become a picture, where it would be black."""
        name = "video_processor" if hasattr(self, "video_processor") else "image_processor"
        processor = getattr(self, name, None)
        called = "postprocess_video" if name == "video_processor" else "postprocess"
        stock = getattr(processor, called, None)
        if stock is None:
            yield
            return

        def finite(*args: Any, **kwargs: Any) -> Any:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if not all(bool(frames.isfinite().all()) for frames in given):
                raise NotFinite(
                    "frames of the autoencoder have values that are not finite; decode in"
                    " torch.float32, or with another autoencoder"
                )
            return stock(*args, **kwargs)

        setattr(processor, called, finite)
        try:
            yield
        finally:
            delattr(processor, called)

    @property
    def evaluations(self) -> dict[str, int]:
        """Network evaluations of the last call, for one of its videos or images, by arm: "strong", "weak" and "total";
        with a ControlNet also "controlnet".

        One is one latent video through one network once; classifier-free guidance takes two. After a call
        that raised: those made until then.
        """
        if self._hook is None:
            raise RuntimeError("`evaluations` is known after a call of the pipeline; there was none.")
        return self._hook.evaluations.per_video()

    @property
    def do_classifier_free_guidance(self) -> bool:
        # The stock rule, guidance > 1, plus the calls below that which need the unconditional branch all
        # the same. A callback that ends guidance during a call (diffusers' cut-off callbacks do) goes by the
        # stock rule.
        return self._forced_halves or super().do_classifier_free_guidance

    # Checks -------------------------------------------------------------------------------------------------

    def _check_numbers(self, asked: dict[str, Any]) -> None:
        guidance, steps = asked["guidance_scale"], asked["num_inference_steps"]
        if not _is(guidance, int, float) or not math.isfinite(guidance):
            raise ValueError(f"`guidance_scale` has to be a finite number, but is {guidance!r}.")
        custom = any(asked.get(name) is not None for name in ("timesteps", "sigmas"))
        if not custom and (not _is(steps, int) or steps < 1):
            raise ValueError(f"`num_inference_steps` has to be a whole number from 1, but is {steps!r}.")

    def _check_method(self, method: Method, asked: dict[str, Any], weak_inputs: dict[str, Any]) -> int:
        """Refuse what cannot be done under the method, and return the number of steps."""
        self._check_inputs(asked)
        denoiser = getattr(self, self._denoiser)
        if denoiser.config.get("time_cond_proj_dim") is not None:
            raise ValueError(
                f"`{self._denoiser}` embeds its guidance scale (`time_cond_proj_dim` is set, as in guidance-distilled"
                " models), so an arm's guidance cannot be chosen apart. Use `method=None`, or one without it."
            )
        self._check_weak(asked)
        sizes = [n for n in ("negative_original_size", "negative_target_size") if asked.get(n) is not None]
        if sizes and _batch_size(asked) > 1:
            raise ValueError(
                f"`{sizes[0]}` is accepted for one video at a time under a method: diffusers pairs the size"
                f" conditioning of a batch wrongly; got {_batch_size(asked)} prompts."
            )
        check_scheduler(self.scheduler, convention=method.convention)
        num_steps, last = self._steps(asked)
        lam = method.reflection_steps
        if lam is not None and lam > num_steps:
            raise ValueError(f"`reflection_steps` has to be from 0 to the number of steps, {num_steps}, but is {lam}.")
        if method.convention == "published" and lam is not None and lam > num_steps - 1:
            raise ValueError(
                f"`reflection_steps` has to be from 0 to {num_steps - 1} under `convention='published'`,"
                f" which cannot reflect the last step, but is {lam}."
            )
        if method.inverts and method.reflects(num_steps - 1, num_steps):
            check_invertible(last)
        method.check((1, 1, 1, 1, 1) if "num_frames" in asked else (1, 1, 1, 1))
        self._check_weak_inputs(asked, weak_inputs)
        return num_steps

    def _check_inputs(self, asked: dict[str, Any]) -> None:
        """The stock pipeline's own check; it makes it once more, but after the weak arm's prompt is encoded."""
        if not hasattr(self, "check_inputs"):
            return
        size = {name: asked.get(name) or 64 for name in ("height", "width")}
        given = {**asked, **size, "callback_steps": None}
        self.check_inputs(**{n: given[n] for n in inspect.signature(self.check_inputs).parameters if n in given})

    def _steps(self, asked: dict[str, Any]) -> tuple[int, Step]:
        """How many steps the run has, and the last of them, from a copy of the scheduler. The first may be refused."""
        scheduler = copy.deepcopy(self.scheduler)
        timesteps, _ = retrieve_timesteps(
            scheduler, asked["num_inference_steps"], "cpu", asked.get("timesteps"), asked.get("sigmas")
        )
        read_step(scheduler, timesteps[0])
        num_steps, end = len(timesteps), asked.get("denoising_end")
        if isinstance(end, float) and 0 < end < 1:  # the stock pipelines' own rule
            total = scheduler.config.num_train_timesteps
            num_steps = sum(float(t) >= int(round(total - end * total)) for t in timesteps)
        last = max(num_steps - 1, 0)
        return num_steps, read_step(scheduler, timesteps[last], index=last)

    def _check_callback(self, method: Method, asked: dict[str, Any], num_steps: int, forced_halves: bool) -> None:
        """Refuse a callback of diffusers that ends guidance before the steps that need it."""
        callback = asked.get("callback_on_step_end")
        for each in getattr(callback, "callbacks", [callback]):
            if not isinstance(each, CUTOFFS):
                continue
            at, ratio = each.config.cutoff_step_index, each.config.cutoff_step_ratio
            after = (int(num_steps * ratio) if at is None else at) + 1  # the first step without guidance
            guidances = [method.strong_guidance, *([method.weak_guidance] if method.uses_weak else [])]
            reflects = [i for i in range(num_steps) if method.reflects(i, num_steps) and any(w != 1 for w in guidances)]
            if after < num_steps and (forced_halves or (reflects and reflects[-1] >= after)):
                raise ValueError(
                    f"`callback_on_step_end` is a {type(each).__name__}, which ends guidance after step {after} of"
                    f" {num_steps}, and later steps need the unconditional branch. Accepted: `reflection_steps` up to"
                    f" {after} with a `guidance_scale` over 1, guidance 1 for both arms of the reflection, or no such"
                    " callback."
                )

    def _check_weak(self, asked: dict[str, Any]) -> None:
        """The two denoisers see the same latents."""
        name = self._denoiser
        strong, weak = getattr(self, name), getattr(self, f"weak_{name}")
        if weak is None:
            return
        if weak.dtype != strong.dtype:
            raise ValueError(
                f"`weak_{name}` is in {weak.dtype} and `{name}` in {strong.dtype}; accepted: one"
                " dtype for both, as after `pipe.to(dtype)`."
            )
        for key in ("in_channels", "out_channels"):
            if weak.config[key] != strong.config[key]:
                raise ValueError(
                    f"`weak_{name}` has {key} {weak.config[key]}, and `{name}` {strong.config[key]}; accepted: the"
                    " same."
                )

    def _check_scales(self, method: Method, scales: dict[str, Any]) -> None:
        """Refuse scales of what the weak arm does not have."""
        network = self._weak_arm(method)
        where = self._denoiser if network is getattr(self, self._denoiser) else f"weak_{self._denoiser}"
        loras = scales["weak_adapter_scales"]
        if loras is not None:
            there = arms.adapters(network)
            for encoder in self._strong_text_encoders().values():
                there |= arms.adapters(encoder)
            for name, scale in loras.items() if isinstance(loras, dict) else [(loras, None)]:
                if name not in there:
                    raise ValueError(self._no_lora(name, where, there))
                _check_scale(f"weak_adapter_scales[{name!r}]", scale)
                if any(layer.merged for layer in there[name]):
                    raise ValueError(f"`weak_adapter_scales` names {name!r}, which is fused: `unfuse_lora()` first.")
        ip = scales["weak_ip_adapter_scale"]
        if ip is not None:
            loaded = arms.ip_adapter_processors(network)
            if not loaded:
                raise ValueError(f"`weak_ip_adapter_scale` is {ip!r}, and `{where}` has no IP-Adapter loaded.")
            for each in ip if isinstance(ip, list) else [ip]:
                _check_scale("weak_ip_adapter_scale", each)
            if isinstance(ip, list) and len(ip) != len(loaded[0].scale):
                several = f"{len(ip)} scales for {len(loaded[0].scale)} IP-Adapters"
                raise ValueError(f"`weak_ip_adapter_scale` has {several}.")
        if scales["weak_motion_scale"] is not None:
            _check_scale("weak_motion_scale", scales["weak_motion_scale"])
        control = scales["weak_controlnet_conditioning_scale"]
        for each in control if isinstance(control, list) else [control]:
            if each is not None:
                _check_scale("weak_controlnet_conditioning_scale", each)
        nets = len(getattr(getattr(self, "controlnet", None), "nets", [None]))
        if isinstance(control, list) and len(control) != nets:
            raise ValueError(f"`weak_controlnet_conditioning_scale` has {len(control)} scales for {nets} ControlNets.")

    def _no_lora(self, name: str, where: str, there: dict[str, Any]) -> str:
        """What to say of a LoRA that the weak arm does not have."""
        accepted = f"accepted: {', '.join(map(repr, there))}" if there else "it has none"
        if where != self._denoiser and name in arms.adapters(getattr(self, self._denoiser)):
            return (
                f"`weak_adapter_scales` names {name!r}, which was loaded into `{self._denoiser}`, the strong arm's"
                f" network. The weak arm is another, `{where}`, where it has no effect already: leave"
                f" {name!r} out, or load it there too, by `pipe.{where}.load_lora_adapter(…, adapter_name={name!r})`."
            )
        way = "" if there else ": `load_lora_weights` loads one"
        return f"`weak_adapter_scales` names {name!r}, which is no active LoRA of `{where}`; {accepted}{way}."

    def _check_weak_inputs(self, asked: dict[str, Any], weak: dict[str, Any]) -> None:
        batch = _batch_size(asked)
        for name in ("weak_prompt", "weak_negative_prompt"):
            value = weak[name]
            if value is None or isinstance(value, str):
                continue
            if not isinstance(value, list) or len(value) != batch or not all(isinstance(v, str) for v in value):
                raise ValueError(f"`{name}` has to be a string or a list of {batch} strings, but is {value!r}.")
        embeds = {name: value for name, value in weak.items() if name.endswith("embeds") and value is not None}
        pools = "pooled_prompt_embeds" in asked
        for name, other in (
            ("weak_prompt", "weak_prompt_embeds"),
            ("weak_negative_prompt", "weak_negative_prompt_embeds"),
        ):
            if weak[name] is not None and weak[other] is not None:
                raise ValueError(f"`{name}` and `{other}` are both given; accepted: one of them.")
            pooled = other.replace("prompt_embeds", "pooled_prompt_embeds")
            if pools and (weak[other] is None) != (weak[pooled] is None):
                raise ValueError(f"`{other}` and `{pooled}` go together: give both, or neither.")
        for name, value in embeds.items():
            if len(value) != batch:
                raise ValueError(f"`{name}` has to hold {batch} embeddings, one for a video, but holds {len(value)}.")
        if weak["weak_negative_prompt_embeds"] is not None and weak["weak_prompt_embeds"] is None:
            raise ValueError("`weak_negative_prompt_embeds` needs `weak_prompt_embeds` beside it.")
        speaks = weak["weak_prompt"] is not None or weak["weak_prompt_embeds"] is not None
        if asked.get("prompt") is None and "prompt" in asked and not speaks:
            if weak["weak_negative_prompt"] is not None or self._has_weak_text_encoder:
                raise ValueError(
                    "`prompt_embeds` come from the strong arm's text encoders, and the weak arm has to"
                    " encode its own: pass `weak_prompt`, or `weak_prompt_embeds` (the same embeddings, to"
                    " use them for both arms)."
                )

    # The weak arm -------------------------------------------------------------------------------------------

    def _weak_network(self, method: Method | None) -> nn.Module | None:
        return None if method is None or method.one_model else getattr(self, f"weak_{self._denoiser}")

    def _settings(self, method: Method, scales: dict[str, Any]) -> arms.Settings:
        """What is set on the weak arm's denoiser while it is evaluated."""
        network: Any = self._weak_arm(method)
        settings: arms.Settings = []
        for name, of in (
            ("weak_adapter_scales", arms.adapter_scales),
            ("weak_ip_adapter_scale", arms.ip_adapter_scale),
            ("weak_motion_scale", arms.motion_scale),
            ("weak_routing", arms.routing),
        ):
            if scales[name] is not None:
                settings += of(network, scales[name])
        return settings

    def _weak_arm(self, method: Method) -> Any:
        """The network that the weak arm is evaluated by."""
        weak = self._weak_network(method)
        return getattr(self, self._denoiser) if weak is None else weak

    def _networks(self) -> list[nn.Module]:
        """The denoisers, strong and weak."""
        names = (self._denoiser, f"weak_{self._denoiser}")
        return [network for name in names if (network := getattr(self, name)) is not None]

    @property
    def _has_weak_text_encoder(self) -> bool:
        return any(getattr(self, name) is not None for name in self._weak_components[1:])

    def _strong_text_encoders(self) -> dict[str, nn.Module]:
        names = [name.removeprefix("weak_") for name in self._weak_components[1:]]
        return {name: encoder for name in names if (encoder := getattr(self, name)) is not None}

    def _weak_conditioning(
        self, method: Method, asked: dict[str, Any], weak: dict[str, Any], loras: dict[str, float]
    ) -> Conditioning:
        """The weak arm's embeddings, where they are not the strong arm's."""
        if method.one_model:
            return Conditioning()
        encoders = self._strong_text_encoders()
        own_loras = any(name in arms.adapters(encoder) for encoder in encoders.values() for name in loras)
        if all(value is None for value in weak.values()) and not self._has_weak_text_encoder and not own_loras:
            return Conditioning()
        if getattr(self, "free_noise_enabled", False):
            raise ValueError("the weak arm has no prompt of its own with FreeNoise, whose prompts run over the frames.")
        view = copy.copy(self)  # the arm's view of the pipeline: its own text encoders where it has them
        for name in encoders:
            if (encoder := getattr(self, "weak_" + name)) is not None:
                view.__dict__[name] = encoder
        batch = _batch_size(asked)
        own = {name: value for name, value in weak.items() if value is not None}
        told: dict[str, Any] = {}
        if "weak_prompt" in own or "weak_prompt_embeds" in own:
            told["prompt"] = _listed(weak["weak_prompt"], batch)
            told["prompt_embeds"] = weak["weak_prompt_embeds"]
            told["pooled_prompt_embeds"] = weak["weak_pooled_prompt_embeds"]
        elif asked["prompt"] is None:
            told["prompt"], told["prompt_embeds"] = None, asked["prompt_embeds"]
            told["pooled_prompt_embeds"] = asked.get("pooled_prompt_embeds")
        else:
            told["prompt"] = _listed(asked["prompt"], batch)
            told["prompt_2"] = _listed(asked.get("prompt_2"), batch)
        if "weak_negative_prompt" in own or "weak_negative_prompt_embeds" in own:
            told["negative_prompt"] = _listed(weak["weak_negative_prompt"], batch)
            told["negative_prompt_embeds"] = weak["weak_negative_prompt_embeds"]
            told["negative_pooled_prompt_embeds"] = weak["weak_negative_pooled_prompt_embeds"]
        else:
            told["negative_prompt"] = _listed(asked["negative_prompt"], batch)
            told["negative_prompt_2"] = _listed(asked.get("negative_prompt_2"), batch)
            if asked["negative_prompt_embeds"] is not None and not self._has_weak_text_encoder:
                told["negative_prompt_embeds"] = asked["negative_prompt_embeds"]
                told["negative_pooled_prompt_embeds"] = asked.get("negative_pooled_prompt_embeds")
        told |= {
            "device": self._execution_device,
            "num_images_per_prompt": asked.get("num_images_per_prompt", 1),
            "do_classifier_free_guidance": method.weak_guidance != 1,
            "lora_scale": (asked["cross_attention_kwargs"] or {}).get("scale"),
            "clip_skip": asked["clip_skip"],
        }
        takes = inspect.signature(view.encode_prompt).parameters
        settings = [setting for name in encoders for setting in arms.adapter_scales(getattr(view, name), loras)]
        with arms.switched(settings):
            cond, uncond, *pooled = view.encode_prompt(**{name: told[name] for name in takes if name in told})

        def inputs(embeds: Tensor, of: list[Tensor]) -> dict[str, Any]:
            made: dict[str, Any] = {"encoder_hidden_states": self._for_each_frame(embeds, asked)}
            return made | {"added_cond_kwargs": {"text_embeds": of[0]}} if of else made

        return Conditioning(
            cond=inputs(cond, pooled[:1]), uncond=None if uncond is None else inputs(uncond, pooled[1:])
        )

    def _for_each_frame(self, embeds: Tensor, asked: dict[str, Any]) -> Tensor:
        """Text embeddings (B, tokens, channels) as the loop hands them to the denoiser."""
        return embeds.repeat_interleave(asked["num_frames"], dim=0) if "num_frames" in asked else embeds

    # The two denoisers run in turns and share parameters, which the stock policies do not expect -------------

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        pairs = [(getattr(self, name), getattr(self, name.removeprefix("weak_"))) for name in self._weak_components]
        return [(weak, strong) for weak, strong in pairs if None not in (weak, strong) and weak is not strong]

    def _unshare(self) -> None:
        for weak, strong in self._pairs():
            unshare_parameters(weak, strong)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()  # each model's first parameter tells where the whole model is
        super().enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()  # each model's map takes its parameters' data away
        super().enable_sequential_cpu_offload(*args, **kwargs)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', except to disk, where both denoisers would write and read the same files."""
        name = self._denoiser
        if kwargs.get("offload_to_disk_path") is not None and getattr(self, f"weak_{name}") is not None:
            raise ValueError(
                f"offload_to_disk_path={kwargs['offload_to_disk_path']!r}: diffusers names the files after a"
                f" model's parts, so `{name}` and `weak_{name}` would read each other's. Accepted: None; or"
                " separate the two with `motion.unshare_parameters` and offload each to a folder of its own."
            )
        super().enable_group_offload(*args, **kwargs)

    def load_lora_weights(self, given: Any, *args: Any, **kwargs: Any) -> None:
        """As diffusers', of every layout in which LoRAs are published; what does not fit is refused before anything
        changes, and layers without a place are pointed out.

        Args:
            given: a file, a folder, a hub id, a file on the hub (`OWNER/NAME/FILE`), or tensors by name. They are in
                the layout of diffusers, PEFT, sd-scripts (kohya) or AnimateDiff.

        Raises:
            WeightsError (`ValueError`): it is damaged, of a kind that is not supported, or made for another model.
        """
        names = [self._denoiser, *(name.removeprefix("weak_") for name in self._weak_components[1:])]
        networks = {name: network for name in names if (network := getattr(self, name)) is not None}
        extra = {"unet_config": networks[self._denoiser].config} if "text_encoder_2" in names else {}

        def convert(weights: dict[str, Tensor]) -> Any:
            return self.lora_state_dict(weights, **extra)

        source = None
        if not isinstance(given, Mapping):
            hub = {name: kwargs[name] for name in (*loading.HUB_OPTIONS, "revision") if name in kwargs}
            weight_name, subfolder = kwargs.pop("weight_name", None), kwargs.pop("subfolder", None)
            source = adapters.lora_file(given, weight_name, subfolder, hub)
        checked: Any = adapters.lora(given, networks, convert, source)
        if isinstance(checked, Path):
            checked, kwargs["weight_name"] = str(checked.parent), checked.name
        named = source or Source("lora", str(kwargs.get("adapter_name", "")), Path())
        with self._weak_trainable_as_before(), explained(named):
            super().load_lora_weights(checked, *args, **kwargs)

    @contextmanager
    def _weak_trainable_as_before(self) -> Iterator[None]:
        """Restores what of the weak arm takes gradients: PEFT turns them off in the strong arm, which shares it."""
        before = {p: p.requires_grad for weak, _ in self._pairs() for p in weak.parameters()}
        try:
            yield
        finally:
            for parameter, takes_gradients in before.items():
                parameter.requires_grad_(takes_gradients)

    def load_ip_adapter(
        self,
        given: Any,
        subfolder: Any = "",
        weight_name: Any = None,
        image_encoder_folder: str | None = "image_encoder",
        **kwargs: Any,
    ) -> None:
        """As diffusers', but that what does not fit is refused before anything changes.

        Args:
            given: a folder or hub id, with `subfolder` and `weight_name` for the file in it; the file itself, here or
                on the hub (`OWNER/NAME/FILE`); or the tensors of one. Several in a list.
            image_encoder_folder: the folder of the image encoder, beside the file; or elsewhere: a path, a hub id or a
                folder in a hub repository (`OWNER/NAME/FOLDER`). None: none, and the call takes embeddings.

        Raises:
            WeightsError (`ValueError`): it is damaged, or made for another UNet or image encoder; or it takes
                embeddings of faces (FaceID) and an image encoder is to be loaded.
        """
        unet = getattr(self, self._denoiser)
        hub = {name: kwargs[name] for name in (*loading.HUB_OPTIONS, "revision") if name in kwargs}
        several = isinstance(given, list) or isinstance(weight_name, list)
        listed = [each if isinstance(each, list) else [each] for each in (given, subfolder, weight_name)]
        count = max(map(len, listed))
        parts, sources = [], []
        for one, folder, file in zip(*(each * count if len(each) == 1 else each for each in listed), strict=True):
            source = None if isinstance(one, Mapping) else adapters.ip_adapter_file(one, folder, file, hub)
            tensors = adapters.flat(one) if source is None else checkpoints.read(source)
            adapters.ip_adapter(source, tensors, unet, face=image_encoder_folder is None)
            parts.append(tensors)
            sources.append(source)
        encoder = self.image_encoder
        if encoder is None and image_encoder_folder is not None:
            encoder = loading.image_encoder(image_encoder_folder, sources[0], self.dtype, hub)
        for source, tensors in zip(sources, parts, strict=True) if encoder is not None else ():
            adapters.ip_adapter_encoder(source, tensors, encoder.config.to_dict())
        if self.image_encoder is None and encoder is not None:
            self.register_modules(image_encoder=encoder.to(self.device))
        states = [adapters.ip_adapter_parts(tensors) for tensors in parts]
        names = [""] * len(states) if several else ""
        super().load_ip_adapter(states if several else states[0], names, names, image_encoder_folder=None, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        self._unshare()
        super().fuse_lora(*args, **kwargs)


def _keyword(name: str, default: Any, kind: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _named(function: Callable[..., Any], cls: type) -> Callable[..., Any]:
    """A function as a method of a class, for `help` and tracebacks."""
    function.__module__, function.__qualname__ = cls.__module__, f"{cls.__qualname__}.{function.__name__}"
    return function


def _with(signature: inspect.Signature, parameters: list[inspect.Parameter]) -> inspect.Signature:
    """A signature with more keyword-only parameters, before its `**kwargs` if it has them."""
    old = list(signature.parameters.values())
    rest = [p for p in old if p.kind == p.VAR_KEYWORD]
    return signature.replace(parameters=[*(p for p in old if p not in rest), *parameters, *rest])


def _options_of(method: Any) -> list[str]:
    """The arguments of a call that are options of methods: those of all that are built in, and a plug-in's own."""
    if not isinstance(method, str) or method in METHODS or method not in plugins.installed("method"):
        return list(OPTIONS)
    own = [field.name for field in fields(find_method(method)) if not field.name.endswith("_guidance")]
    return [*OPTIONS, *(name for name in own if name not in OPTIONS)]


def _method(name: str, options: dict[str, Any]) -> Method:
    if name not in METHODS and not (isinstance(name, str) and name in plugins.installed("method")):
        raise ValueError(f"`method` has to be one of {', '.join(map(repr, METHODS))} or None, but is {name!r}.")
    cls = find_method(name)
    takes = inspect.signature(cls).parameters
    for option, value in options.items():
        if option not in takes and value != OPTIONS[option]:
            has = ", ".join(key for key in takes if not key.endswith("_guidance"))
            raise ValueError(f"`{option}` is {value!r}, and is no option of `method={name!r}`, which has {has}.")
    return cls(**{option: value for option, value in options.items() if option in takes})


def _check_scale(name: str, value: Any) -> None:
    if not _is(value, int, float) or not math.isfinite(value):
        raise ValueError(f"`{name}` has to be a finite number, but is {value!r}.")


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _batch_size(asked: dict[str, Any]) -> int:
    if "class_labels" in asked:
        return len(asked["class_labels"])
    if asked["prompt"] is None:
        return len(asked["prompt_embeds"])
    return 1 if isinstance(asked["prompt"], (str, dict)) else len(asked["prompt"])


def _listed(prompt: str | list[str] | None, batch: int) -> list[str] | None:
    return [prompt] * batch if isinstance(prompt, str) else prompt
