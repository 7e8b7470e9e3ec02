"""What every family of pipelines here is beside the stock one that it subclasses: a weak arm, and the method's hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import Any, get_type_hints

import torch
from diffusers import MotionAdapter
from torch import Tensor
from typing_extensions import Self

from w2sd_video.errors import NotFinite
from w2sd_video.hook import DENOISERS, Conditioning, Group, Recorder, apply_reflection, check_free
from w2sd_video.methods import METHODS, OPTIONS, Method
from w2sd_video.models import loading
from w2sd_video.models.bases import BASES
from w2sd_video.models.motion import share_parameters

from .checks import Checks
from .signatures import NEEDS, check_names, has, keyword, method_of, named, options_of, with_keywords
from .weak_arm import TEXTS
from .weights import Weights


class Reflection(Checks, Weights):
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases: list[Any] = [c for c in cls.__mro__ if not issubclass(c, Reflection) and "__call__" in vars(c)]
        if not bases or hasattr(cls, "stock"):  # a mixin for families; a family's subclass
            return
        stock = cls.stock = bases[0]
        parts = inspect.signature(stock.__init__).parameters
        cls.denoiser_names = tuple(name for name in DENOISERS if name in parts)
        cls.denoiser_name = cls.denoiser_names[0]
        encoders = cls.encoder_names = tuple(name for name in parts if name.startswith("text_encoder"))
        cls.text_names = tuple(name for name in inspect.signature(stock.__call__).parameters if TEXTS.fullmatch(name))
        cls._weak_components = tuple(f"weak_{name}" for name in (*cls.denoiser_names, *encoders))
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

        hints = get_type_hints(cls.stock.__init__)
        hints |= {name: hints[name.removeprefix("weak_")] for name in cls._weak_components}
        weak = [keyword(name, None, hints[name]) for name in cls._weak_components]
        __init__.__signature__ = with_keywords(inspect.signature(cls.stock.__init__), weak)  # type: ignore[attr-defined]
        __init__.__annotations__ = hints
        return named(__init__, cls)

    @classmethod
    def _caller(cls) -> Callable[..., Any]:
        """`__call__` with the parameters of the stock pipeline, those of `_generate` that apply, and the methods'."""

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
        unets = {cls.denoiser_name, f"weak_{cls.denoiser_name}"}
        components = inspect.signature(cls.__init__).parameters.keys() - {"self", "args", *unets}
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
        """The components that the stock pipeline and the weak arm are built with."""
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
        """Generate. Takes what the stock pipeline's `__call__` takes, and more.

        Every guidance number w reads `uncond + w (cond - uncond)`: 1 is conditional, 0 unconditional. Under a
        method that holds for `guidance_scale` as well, where the stock pipeline takes everything up to 1 as 1.

        Args:
            method: "w2sd", "s2wd", "z_sampling", "re_sampling", "advanced_re_sampling", "auto_guidance", "optimistic",
                "apg", "cfg_zero_star", "slg", "pag", "s2_guidance", "predict_and_perturb", "foresight",
                "guidance_schedule", "weak"; or a `methods.Method` with its settings, guidance too (it does not see the
                call's); or None for the stock pipeline's own sampling.
            strong_guidance_scale: guidance of the strong arm in the reflection. Default: `guidance_scale`,
                which is the guidance of the final step.
            weak_guidance_scale: guidance of the weak arm there. strong_guidance_scale_2, weak_guidance_scale_2: with
                the second of two experts. Default: as with the first; the strong arm's without either, the final one's.
            reflection_steps: lambda, how many steps reflect, from the noisiest down: 0 to the number of steps
                T. Default: T - 1.
            interval: noise levels sigma, low and high, in [0, 1]: only steps from a level between them reflect.
            convention: "exact", or "published" for the level that the published code inverts to; see
                `levels.read_step`.
            inversion, inversion_noise, still_gain, motion_gain, cap: of W2SD, S2WD, Z-Sampling and optimistic
                reflection; see `methods.W2SD`.
            adverse: see `methods.AdvancedReSampling`.
            weight: of auto-guidance, SLG, PAG and S2-guidance, each with a default of its own; see
                `methods.AutoGuidance`, `methods.SkipLayerGuidance`.
            layers, drop, mask_seed: which layers SLG, PAG and S2-guidance perturb; see `methods.S2Guidance`.
            parallel, momentum, norm_threshold, of: see `methods.APG`. zero_init_steps: see `methods.CFGZeroStar`.
            iterations, threshold: see `methods.PredictAndPerturb`. schedule, strength: see `methods.Foresight`.
            guidance: its numbers, from the noisiest step down; see `methods.GuidanceSchedule`.
            weak_prompt, weak_negative_prompt: what the weak arm is told instead of the prompt (of all text
                encoders) and the negative prompt.
            weak_prompt_embeds, weak_negative_prompt_embeds: the same as embeddings, in the stock pipeline's shapes.
            weak_pooled_prompt_embeds, weak_negative_pooled_prompt_embeds: likewise; and whatever else the stock
                pipeline has beside `prompt_embeds`, such as `weak_prompt_attention_mask`, None for all tokens.
            weak_adapter_scales: scales of LoRAs (motion LoRAs too) in the weak arm, by adapter name; the strong arm's
                are those of `set_adapters`. Where they touch the text encoders, the weak arm encodes its own prompt.
            weak_ip_adapter_scale, weak_controlnet_conditioning_scale: the weak arm's; 0 is without.
            weak_motion_scale: factor on the weak arm's motion modules; 0 disables them.
            weak_routing: the weak arm's routing, of a mixture of experts; see `dit_moe`.
            weak_skip_layers: transformer blocks that the weak arm leaves out; see `layers` of
                `methods.SkipLayerGuidance`.
            strong_embedded_guidance, weak_embedded_guidance: of a network that embeds its guidance, the number that the
                strong arm is told in the reflection, and the weak arm. Default: `guidance_scale`, as in the final step.
            recorder: keeps what the method does at every step, in numbers; see `hook.Recorder`.

        Returns:
            What the stock pipeline returns. Afterwards `pipe.evaluations` says what was spent.

        Raises:
            ValueError: for an argument that is not accepted, before any network runs. `method=None` leaves
                the stock pipeline's own to it, but for `num_frames`, `num_inference_steps` and
                `guidance_scale`.
            TypeError: for an argument that neither this nor the stock pipeline has, such as a misspelled one, before
                any network runs. With `method=None`, a stock pipeline that ignores names it does not know ignores them
                here too, but for those that begin with `weak_` or `strong_`.
            RuntimeError: another call is using the pipeline, or a network of it.
            FloatingPointError: where latents or predictions stop being finite; names step, timestep, arm and
                guidance. `errors.NotFinite`, which is one: where the autoencoder's frames are not.
        """
        # One function because of its signature and its docstring, which every pipeline's own call takes over.
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
        check_free(type(self).__name__, self.denoisers())
        self._check_numbers(call)
        self._check_first_noise(call)
        chosen, weak_conditioning, forced_halves = None, Conditioning(), False
        self._hook = None
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
            weak_settings=self._settings(chosen, scales) if chosen else [],
            weak_controlnet_conditioning_scale=weak_controlnet_conditioning_scale,
            weak_embedded_guidance=weak_embedded_guidance,
            strong_embedded_guidance=strong_embedded_guidance,
            strong_guidance_2=second["strong_guidance_scale_2"],
            weak_guidance_2=second["weak_guidance_scale_2"],
            generator=call.get("generator"),
            recorder=recorder,
        )
        with applied as self._hook:
            self._forced_halves = forced_halves
            try:
                with self._finite_frames() if chosen is not None else nullcontext():
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
        """The method of a call, with its settings: guidance of the strong arm and the weak one, and its options."""
        strong, weak = guidances
        if isinstance(method, Method):
            if options or strong is not None or weak != 1:
                raise ValueError(f"`method` is {method!r}, which has its settings: give no others beside it.")
            return method
        strong = self._guidance(call) if strong is None else strong
        return method_of(method, {"strong_guidance": strong, "weak_guidance": weak, **options})

    def guided(self, guidance: float, embedded: float | None = None) -> dict[str, Any]:
        """The arguments of a call that set the guidance of the final step.

        Args:
            embedded: the number that a network that embeds its guidance is told. None: the pipeline's default.
        """
        return {self.guidance_name: guidance} | ({} if embedded is None else {"guidance_scale": embedded})

    @property
    def denoised_channels(self) -> int:
        """How many channels the denoiser's latents have, as the autoencoder decodes them."""
        return int(getattr(self, self.denoiser_name).config.in_channels)

    @property
    def decoded_channels(self) -> int:
        """How many channels the autoencoder's latents have."""
        return int(self.vae.config.latent_channels)

    def in_its_layout(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents (B, C, …), shifted and scaled, as the denoiser takes them."""
        return latents

    @property
    def side(self) -> int | None:
        """The height and width, in pixels, of a model that makes pictures of one size; None of one that makes any."""
        return None

    @property
    def most_frames(self) -> int | None:
        """The most frames of a video that both arms take; None where there is no limit."""
        return None

    def check_prompt(self, prompt: str) -> Any:
        """What the model is told for a prompt, as its call takes it.

        Raises:
            Refused: it knows no such prompt.
        """
        return prompt

    def _sample(self, call: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The stock pipeline's own sampling."""
        return self.stock.__call__(self, *args, **kwargs)

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
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if not all(bool(frames.isfinite().all()) for frames in tensors):
                raise NotFinite("frames of the autoencoder")
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
    def parameters(self) -> dict[str, int]:
        """The parameters of the network that an evaluation of the last call ran through, by arm, "strong" and "weak",
        where it was evaluated. Of two networks that take turns it is the mean over the evaluations.

        Raises:
            RuntimeError: there was no call.
        """
        if self._hook is None:
            raise RuntimeError("`parameters` is known after a call of the pipeline; there was none.")
        return self._hook.evaluations.of_network()

    @property
    def do_classifier_free_guidance(self) -> bool:
        # The stock rule, guidance > 1, plus the calls below that which need the unconditional branch all
        # the same. A callback that ends guidance during a call (diffusers' cut-off callbacks do) goes by the
        # stock rule.
        return self._forced_halves or super().do_classifier_free_guidance
