"""The common base of all pipelines here: it adds a weak arm and a method to the stock pipeline that they subclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from diffusers import MotionAdapter
from torch import Tensor
from typing_extensions import Self

from w2sd_video.hook import DENOISERS, Conditioning, Evaluations, Recorder, apply_reflection, check_free
from w2sd_video.methods import METHODS, OPTIONS, Method
from w2sd_video.models import loading
from w2sd_video.models.bases import BASES
from w2sd_video.models.motion import share_parameters

from .checks import Checks
from .frames import finite_frames
from .signatures import NEEDS, check_names, has, keyword, method_of, named, options_of, with_keywords
from .weak_arm import TEXTS
from .weights import Weights


class Reflection(Checks, Weights):
    """Adds a weak arm to a stock pipeline. A class names it before the stock pipeline among its bases.

    The sampling loop is the stock pipeline's. During a call, a hook on the denoiser answers the loop with the
    method's prediction (`w2sd_video.hook`, `w2sd_video.methods`); `method=None` is the stock pipeline, bit for bit.

    LoRAs, IP-Adapters and other adapters that the pipeline loads act on the strong arm's denoiser alone. Without a weak
    denoiser, both arms use the strong one, and differ by the weak arm's arguments of the call (guidance, prompt,
    scales). With one, `cross_attention_kwargs` still reach both arms.

    Parameters that are equal in both arms are stored once, so a change of weights in place affects both arms.
    `unshare` separates them; `fuse_lora`, model offload and sequential offload call it themselves.

    It adds these components to the stock pipeline's, all optional:

    - `weak_unet` (or `weak_transformer`): the weak arm's denoiser. None: the strong arm's.
    - `weak_text_encoder`, `weak_text_encoder_2`: text encoders of the weak arm, each in place of the strong arm's. Both
      arms use the same tokenizers.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases: list[Any] = [c for c in cls.__mro__ if not issubclass(c, Reflection) and "__call__" in vars(c)]
        if not bases or hasattr(cls, "stock"):  # a mixin for families, or a subclass of a family
            return
        stock = cls.stock = bases[0]
        parts = inspect.signature(stock.__init__).parameters
        cls.denoiser_names = tuple(name for name in DENOISERS if name in parts)
        cls.denoiser_name = cls.denoiser_names[0]
        encoders = cls.encoder_names = tuple(name for name in parts if name.startswith("text_encoder"))
        cls.text_names = tuple(name for name in inspect.signature(stock.__call__).parameters if TEXTS.fullmatch(name))
        cls._weak_components = tuple(f"weak_{name}" for name in (*cls.denoiser_names, *encoders))
        cls._optional_components = [*stock._optional_components, *cls._weak_components]
        # In the order of a call: each model leaves the accelerator when the next one runs. The weak denoiser is not in
        # this chain, because both denoisers run within each step and have to stay.
        cls.model_cpu_offload_seq = "->".join([*(f"weak_{name}" for name in encoders), stock.model_cpu_offload_seq])
        cls.__init__ = cls._constructor()  # type: ignore[method-assign]
        cls.__call__ = cls._caller()  # type: ignore[method-assign]

    @classmethod
    def _constructor(cls) -> Callable[..., None]:
        """`__init__` with the stock pipeline's parameters and the weak components. From its signature diffusers reads
        the pipeline's components and their types."""

        def __init__(self: Any, *args: Any, **components: Any) -> None:
            self._build(*args, **components)

        hints = get_type_hints(cls.stock.__init__)
        hints |= {name: hints[name.removeprefix("weak_")] for name in cls._weak_components}
        weak = [keyword(name, None, hints[name]) for name in cls._weak_components]
        __init__.__signature__ = with_keywords(inspect.signature(cls.stock.__init__), weak)  # type: ignore[attr-defined]
        __init__.__annotations__ = hints
        return named(__init__, cls)

    @classmethod
    def _caller(cls) -> Callable[..., Any]:
        """`__call__` with the stock pipeline's parameters, those of `_generate` that apply, and methods' options."""

        @torch.no_grad()
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            return Reflection._generate(self, *args, **kwargs)

        stock = inspect.signature(cls.stock.__call__)
        generate, hints = inspect.signature(cls._generate).parameters.values(), get_type_hints(cls._generate)
        own = [keyword(p.name, p.default, hints[p.name]) for p in generate if p.kind == p.KEYWORD_ONLY]
        own = [p for p in own if has(stock.parameters, p.name)]
        known = {p.name for p in own}
        more = [f"weak_{name}" for name in cls.text_names if "embeds" in name or name.endswith("mask")]
        own += [keyword(name, None, Tensor | None) for name in more if name not in known]
        types = {name: kind for method in METHODS.values() for name, kind in get_type_hints(method).items()}
        own += [keyword(name, default, types[name]) for name, default in OPTIONS.items()]
        signature = __call__.__signature__ = with_keywords(stock, own)  # type: ignore[attr-defined]
        cls.arguments = tuple(p.name for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD)[1:]
        __call__.__doc__ = cls._generate.__doc__
        return named(__call__, cls)

    def _build(self, *args: Any, **components: Any) -> None:
        weak = {name: components.pop(name, None) for name in self._weak_components}
        bound = inspect.signature(self.stock.__init__).bind(self, *args, **components)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        del arguments["self"]
        arguments, weak = self._prepared(arguments, weak)
        self.stock.__init__(self, **arguments)
        self.register_modules(**weak)
        for ours, theirs in self._pairs():
            share_parameters(ours, theirs)
        self._evaluations: Evaluations | None = None  # of the last call
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
        """Loads a pair of models. Of the weak model only the UNet is loaded; parameters that equal the strong model's
        are stored once.

        `strong` and `weak` are each a hub id, a folder of a pipeline in diffusers' layout (as `save_pretrained` of this
        class writes it), or a single file in the original layout of SDXL or Stable Diffusion, depending on the family.
        Single files load offline.

        Args:
            strong: the strong model. It also provides the VAE, the text encoders and the tokenizers.
            weak: the weak model. None: the weak model in `strong`'s folder, if this class saved one there; else none.
            motion_adapter: for a video family, the motion module of both arms: a hub id, a folder, a file in
                AnimateDiff's original layout (`mm_sdxl_v10_beta.ckpt`, `mm_sd_v15_v2.ckpt`), or a `MotionAdapter`.
                None: the one in `strong`'s folder.
            weak_motion_adapter: another motion module for the weak arm. With `weak=None` the arms differ in it alone.
            controlnet: for a family with ControlNets, a hub id, a folder, or a `ControlNetModel`; or a list of several.
                Default: the one in `strong`'s folder.
            weak_text_encoders (`bool`, defaults to False): also load the weak model's text encoders, for the weak arm.
                They are dropped if they equal the strong model's.
            config (path, *optional*): configurations for single files, in diffusers' layout. Default: those of the
                family's base.
            dtype (`torch.dtype`, *optional*): of all models; float32 if none is given. `torch_dtype` is its older name.
            variant, use_safetensors, low_cpu_mem_usage: as in [`DiffusionPipeline.from_pretrained`], for all models.
            cache_dir, token, local_files_only, force_download, proxies: options of the hub.
            revision (`str`, *optional*): the revision of the strong model's repository.
            kwargs: components that replace those of `strong`, such as `scheduler`, `vae` or `unet`. Without a
                `scheduler`, an image model gets AnimateDiff's for videos, as diffusers documents it (DDIM, linear
                betas, linspace spacing). For images it keeps its own, or gets DDIM if a reflection cannot read its own
                scheduler.

        Raises:
            WeightsNotFound: a file is not on this machine; the message says how to get it. It is a `FileNotFoundError`.
            WeightsError: a file is damaged or of another architecture, or the arms do not fit together. It is a
                `ValueError`.
            TypeError: neither this method nor the pipeline has the argument.
        """
        apart = {"self", "args", f"weak_{cls.denoiser_name}"}
        components = inspect.signature(cls.__init__).parameters.keys() - apart
        adapters = {"motion_adapter": motion_adapter, "weak_motion_adapter": weak_motion_adapter}
        for name, value in {**adapters, "controlnet": kwargs.get("controlnet")}.items():
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
        parts = pair.components()
        with pair.explained():
            pipeline = load(pair.location(), **parts, **pair.load_options())
        return pair.finish(pipeline)

    def _prepared(self, components: dict[str, Any], weak: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The components for the stock pipeline and for the weak arm; a family may convert them here."""
        return components, weak

    def _generate(
        self,
        *args: Any,
        method: str | Method | None = "w2sd",
        strong_guidance_scale: float | None = None,
        weak_guidance_scale: float = 1.0,
        strong_guidance_scale_2: float | None = None,
        weak_guidance_scale_2: float | None = None,
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
        weak_skip_layers: int | str | list[int | str] | None = None,
        strong_embedded_guidance: float | None = None,
        weak_embedded_guidance: float | None = None,
        recorder: Recorder | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generates. Takes the arguments of the stock pipeline's `__call__`, and those below.

        Every guidance number w means `uncond + w (cond - uncond)`: 1 is the conditional prediction, 0 the unconditional
        one. Under a method this also holds for `guidance_scale`; without one, the stock pipeline treats every
        `guidance_scale` up to 1 as 1.

        Args:
            method: "w2sd", "s2wd", "z_sampling", "re_sampling", "advanced_re_sampling", "auto_guidance", "optimistic",
                "apg", "cfg_zero_star", "slg", "pag", "s2_guidance", "predict_and_perturb", "foresight",
                "guidance_schedule", "weak"; or a `methods.Method` with its settings, which include both arms' guidance
                (it does not read the call's); or None for the stock pipeline's own sampling.
            strong_guidance_scale: guidance of the strong arm in the reflection. Default: `guidance_scale`, the guidance
                of the final step.
            weak_guidance_scale: guidance of the weak arm in the reflection.
            strong_guidance_scale_2, weak_guidance_scale_2: the same while the second of two experts runs. Default: the
                number of the first expert. If neither number of the strong arm is set, `guidance_scale_2`.
            reflection_steps: lambda, how many steps reflect, from the noisiest down: 0 to the number of steps
                T. Default: T - 1.
            interval: the lowest and the highest noise level sigma, in [0, 1], at which a step reflects.
            convention: "exact", or "published" for the level that the published code inverts to; see
                `schedulers.read_step`.
            inversion, inversion_noise, still_gain, motion_gain, cap: options of W2SD, S2WD, Z-Sampling and optimistic
                reflection; see `methods.W2SD`.
            adverse: see `methods.AdvancedReSampling`.
            weight: an option of auto-guidance, SLG, PAG and S2-guidance, each with its own default; see
                `methods.AutoGuidance`, `methods.SkipLayerGuidance`.
            layers, drop, mask_seed: which layers SLG, PAG and S2-guidance perturb; see `methods.S2Guidance`.
            parallel, momentum, norm_threshold, of: see `methods.APG`.
            zero_init_steps: see `methods.CFGZeroStar`.
            iterations, threshold: see `methods.PredictAndPerturb`.
            schedule, strength: see `methods.Foresight`.
            guidance: guidance numbers, from the noisiest step down; see `methods.GuidanceSchedule`.
            weak_prompt, weak_negative_prompt: the weak arm's prompt (for all text encoders) and negative prompt.
                Default: the call's.
            weak_prompt_embeds, weak_negative_prompt_embeds: the same as embeddings, in the stock pipeline's shapes.
            weak_pooled_prompt_embeds, weak_negative_pooled_prompt_embeds: likewise. For any other argument that the
                stock pipeline has beside `prompt_embeds`, there is one for the weak arm too, such as
                `weak_prompt_attention_mask` (None: all tokens).
            weak_adapter_scales: scales of LoRAs (motion LoRAs too) in the weak arm, by adapter name; `set_adapters`
                sets the strong arm's. If they affect the text encoders, the weak arm encodes its own prompt.
            weak_ip_adapter_scale, weak_controlnet_conditioning_scale: the weak arm's scales; 0 disables the adapter or
                the ControlNet.
            weak_motion_scale: factor on the weak arm's motion modules; 0 disables them.
            weak_routing: the weak arm's routing in a mixture of experts; see `dit_moe`.
            weak_skip_layers: transformer blocks that the weak arm leaves out; see `layers` of
                `methods.SkipLayerGuidance`.
            strong_embedded_guidance, weak_embedded_guidance: for networks that embed their guidance, the number of the
                strong arm in the reflection, and of the weak arm. Default: `guidance_scale`, as in the final step.
            recorder: records, in numbers, what the method does at every step; see `hook.Recorder`.

        Returns:
            The stock pipeline's output. Afterwards `pipe.evaluations` counts the network evaluations.

        Raises:
            ValueError: an argument is not accepted; raised before any network runs. With `method=None`, the stock
                pipeline checks its own arguments, except `num_frames`, `num_inference_steps` and `guidance_scale`.
            TypeError: neither this class nor the stock pipeline has the argument; raised before any network runs. With
                `method=None`, a stock pipeline that ignores unknown names still ignores them, except names that begin
                with `weak_` or `strong_`.
            RuntimeError: another call is using the pipeline, or one of its networks.
            FloatingPointError: latents or predictions are not finite; the message names step, timestep, arm and
                guidance. `errors.NotFinite`, a subclass: the autoencoder's frames are not finite.
        """
        # One function because of its signature and its docstring, which the `__call__` of every pipeline shares.
        taken = options_of(method, inspect.signature(self.stock.__call__).parameters)
        check_names(type(self), kwargs, taken, method)
        options = {name: kwargs.pop(name) for name in taken if name in kwargs}
        more = {f"weak_{name}": kwargs.pop(f"weak_{name}", None) for name in self.text_names}
        arguments = inspect.signature(self.stock.__call__).bind(self, *args, **kwargs)
        arguments.apply_defaults()
        call = dict(arguments.arguments)
        call.pop("self")
        weak_inputs = {
            "weak_prompt": weak_prompt,
            "weak_negative_prompt": weak_negative_prompt,
            "weak_prompt_embeds": weak_prompt_embeds,
            "weak_negative_prompt_embeds": weak_negative_prompt_embeds,
            "weak_pooled_prompt_embeds": weak_pooled_prompt_embeds,
            "weak_negative_pooled_prompt_embeds": weak_negative_pooled_prompt_embeds,
        }
        weak_inputs |= {name: value for name, value in more.items() if name not in weak_inputs}
        scales = {
            "weak_adapter_scales": weak_adapter_scales,
            "weak_ip_adapter_scale": weak_ip_adapter_scale,
            "weak_motion_scale": weak_motion_scale,
            "weak_controlnet_conditioning_scale": weak_controlnet_conditioning_scale,
            "weak_routing": weak_routing,
            "weak_skip_layers": weak_skip_layers,
            "strong_embedded_guidance": strong_embedded_guidance,
            "weak_embedded_guidance": weak_embedded_guidance,
        }
        second = {"strong_guidance_scale_2": strong_guidance_scale_2, "weak_guidance_scale_2": weak_guidance_scale_2}
        for name, value in (weak_inputs | scales | second).items():
            if value is not None and not has(call, name):
                needed = NEEDS[name].partition(" ")[0]
                raise ValueError(f"`{name}` is no argument of {type(self).__name__}, which takes no `{needed}`.")
            if value is not None and name in second and len(self._strong_networks()) < 2:
                raise ValueError(f"`{name}` is {value!r}, and this {type(self).__name__} has one expert: give None.")
        check_free(type(self).__name__, self.denoisers())
        self._check_numbers(call)
        self._check_initial_noise_scale(call)
        chosen, weak_conditioning, forced_halves = None, Conditioning(), False
        self._evaluations = None
        if method is not None:
            guidances = (strong_guidance_scale, weak_guidance_scale)
            chosen = self._chosen(method, call, guidances, options)
            if isinstance(method, str) and strong_guidance_scale is None and strong_guidance_scale_2 is None:
                second["strong_guidance_scale_2"] = call.get("guidance_scale_2")
            weak_conditioning, forced_halves = self._check_call(chosen, call, weak_inputs, scales, second)
        applied = apply_reflection(
            self,
            chosen,
            weak=self._weak_networks(chosen),
            weak_conditioning=weak_conditioning,
            weak_settings=(self._settings(chosen, scales) or None) if chosen else None,
            weak_controlnet_conditioning_scale=weak_controlnet_conditioning_scale,
            weak_embedded_guidance=weak_embedded_guidance,
            strong_embedded_guidance=strong_embedded_guidance,
            strong_guidance_2=second["strong_guidance_scale_2"],
            weak_guidance_2=second["weak_guidance_scale_2"],
            generator=call.get("generator"),
            recorder=recorder,
        )
        with applied as group:
            self._evaluations, self._forced_halves = group.evaluations, forced_halves
            try:
                with finite_frames(self) if chosen is not None else nullcontext():
                    return self._sample(call, *args, **kwargs)
            finally:
                self._forced_halves = False

    def _chosen(
        self,
        method: str | Method,
        call: dict[str, Any],
        guidances: tuple[float | None, float],
        options: dict[str, Any],
    ) -> Method:
        """The method of a call, with its options and the guidance of the strong and the weak arm."""
        strong, weak = guidances
        if isinstance(method, Method):
            if options or strong is not None or weak != 1:
                raise ValueError(
                    f"`method` is {method!r}, which has its settings: leave out other guidance and options."
                )
            return method
        strong = self._guidance(call) if strong is None else strong
        return method_of(method, {"strong_guidance": strong, "weak_guidance": weak, **options})

    def guided(self, guidance: float, embedded: float | None = None) -> dict[str, Any]:
        """The arguments of a call that set the guidance of the final step; `guiding` sets it if none does.

        Args:
            embedded: the number for a network that embeds its guidance. None: the pipeline's default.
        """
        return {self.guidance_name: guidance} | ({} if embedded is None else {"guidance_scale": embedded})

    def guiding(self, guidance: float) -> AbstractContextManager[None]:
        """Sets the guidance of the final step while the context lasts, if no argument of a call does."""
        return nullcontext()

    @property
    def denoised_channels(self) -> int:
        """How many channels the denoiser's latents have in the autoencoder's layout."""
        return int(getattr(self, self.denoiser_name).config.in_channels)

    @property
    def decoded_channels(self) -> int:
        """How many channels the autoencoder's latents have."""
        return int(self.vae.config.latent_channels)

    def in_its_layout(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents (B, C, …), shifted and scaled, in the denoiser's layout."""
        return latents

    @property
    def side(self) -> int | None:
        """The height and width, in pixels, of a model that makes pictures of one size. None: it makes others too."""
        return None

    @property
    def most_frames(self) -> int | None:
        """The most frames that both arms take. None: there is no limit."""
        return None

    def check_prompt(self, prompt: str) -> Any:
        """A prompt as the pipeline's call takes it.

        Raises:
            Refused: the model does not know the prompt.
        """
        return prompt

    def _sample(self, call: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The stock pipeline's own sampling."""
        return self.stock.__call__(self, *args, **kwargs)

    if TYPE_CHECKING:  # at run time `_caller` makes it, with the stock pipeline's arguments
        __call__ = _generate

    @property
    def evaluations(self) -> dict[str, int]:
        """Network evaluations of the last call for one of its videos or images, by arm: "strong", "weak" and "total";
        with a ControlNet also "controlnet".

        One latent video through one network once is one evaluation; classifier-free guidance takes two. If the call
        raised an error, the count is that up to the error.

        Raises:
            RuntimeError: there was no call.
        """
        return self._counted("evaluations").per_video()

    @property
    def parameters(self) -> dict[str, int]:
        """How many parameters each arm's network has, by arm, "strong" and "weak", if the last call evaluated it. For
        an arm of two networks, the mean over its evaluations.

        Raises:
            RuntimeError: there was no call.
        """
        return self._counted("parameters").of_network()

    def _counted(self, name: str) -> Evaluations:
        """The last call's evaluations; `name` is the property that needs them, for the message."""
        if self._evaluations is None:
            raise RuntimeError(f"`{name}` is known after a call of the pipeline; there was none.")
        return self._evaluations

    @property
    def do_classifier_free_guidance(self) -> bool:
        # The stock rule is guidance > 1. `_forced_halves` adds calls with a lower guidance that need the unconditional
        # branch too.
        return self._forced_halves or super().do_classifier_free_guidance
