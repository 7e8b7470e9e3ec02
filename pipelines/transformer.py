"""The common base of the families of diffusion transformers."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, NoReturn

from diffusers import ModelMixin
from torch import Tensor
from typing_extensions import Self

from w2sd_video.hook import Conditioning
from w2sd_video.methods import Method
from w2sd_video.models import adapters, checkpoints
from w2sd_video.models.checkpoints import explained
from w2sd_video.models.sources import Source
from w2sd_video.models.transformer_pair import load_pair

from .reflection import Reflection


class TransformerReflection(Reflection):
    """For stock pipelines whose denoiser is a `transformer`, or two that each serve a part of the steps.

    The weak arm's transformer may have other layers, widths and heads than the strong one's. Both get the same latents
    and the same text embeddings, so the configurations have to agree in these (`agreeing` and `text_widths`).
    """

    pictured: ClassVar[bool | None] = None  # whether the input holds a picture in extra channels; None: either
    packed: ClassVar[int] = 1  # how many of the autoencoder's positions one token holds as channels
    scales_noise = False
    agreeing: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "patch_size", "patch_size_t")
    text_inputs = {"prompt_embeds": "encoder_hidden_states"}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, strong: str | PathLike[str], weak: str | PathLike[str] | ModelMixin | None = None, **kwargs: Any
    ) -> Self:
        """Loads a pair of models. Of the weak model only the transformers are loaded; parameters that equal the strong
        model's are stored once.

        Args:
            strong: a folder of a pipeline in diffusers' layout, or a hub id.
            weak: the same, of which only the transformers are loaded; or a loaded transformer, or several by name; or a
                file of a transformer (safetensors or GGUF), loaded with the configuration `weak_config`. The weak
                transformer may be of another size. If the strong model has two experts, one weak transformer serves
                both. None: the weak arm in `strong`'s folder, if this class saved one there; else none.
            weak_config (path or hub id, *optional*): the configuration for a `weak` that is a file: a folder of a
                transformer, or of a pipeline. Default: the `config.json` beside the file, or else `strong`'s.
            same_shift (`bool`, defaults to True): whether the flow shifts of the two models' schedulers have to agree.
                False is for callers that set the scheduler later. With a `scheduler` among `kwargs`, the shifts may
                differ.
            dtype (`torch.dtype`, *optional*): of all models; float32 if none is given. `torch_dtype` is its older name.
            variant, use_safetensors, low_cpu_mem_usage: as in [`DiffusionPipeline.from_pretrained`], for all models.
            quantization_config ([`PipelineQuantizationConfig`], *optional*): as in diffusers. Its settings of a
                `transformer` apply to both arms.
            cache_dir, token, local_files_only, force_download, proxies: options of the hub.
            revision (`str`, *optional*): the revision of the strong model's repository.
            kwargs: components that replace those of `strong`. A `transformer` may also be a file.

        Raises:
            WeightsNotFound: a file is not on this machine; the message says how to get it. It is a `FileNotFoundError`.
            WeightsError: a file is damaged or of another class, or the arms do not fit together; the message names the
                entry in which they differ. It is a `ValueError`.
            TypeError: neither this method nor the pipeline has the argument.
        """
        return load_pair(cls, super(Reflection, cls).from_pretrained, strong, weak, **kwargs)

    @classmethod
    def agree_in(cls) -> tuple[str, ...]:
        return (*cls.agreeing, *cls.text_widths.values())

    @property
    def denoised_channels(self) -> int:
        config: Any = next(iter(self._strong_networks().values())).config
        return int(config.get("out_channels") or config.in_channels // self.packed)

    @property
    def decoded_channels(self) -> int:
        config = self.vae.config
        return int(config.get("latent_channels") or config.z_dim)

    def _check_denoisers_agree(self, call: dict[str, Any]) -> None:
        super()._check_denoisers_agree(call)
        pictured = self.pictured and not self.config.get("expand_timesteps")
        for name, network in self._strong_networks().items():
            config: Any = network.config
            if self.pictured is not None and pictured != (config.in_channels != config.out_channels):
                kind = "is not shown" if pictured else "is shown"
                accepted = "from a picture" if self.pictured else "from a prompt alone"
                raise ValueError(
                    f"`{name}` takes {config.in_channels} channels and predicts {config.out_channels}, as one does that"
                    f" {kind} a picture; {type(self).__name__} takes a network of videos {accepted}."
                )

    def _in_known_layout(self, reference: Any, source: Source | None) -> tuple[Any, Source | None]:
        """Converts a LoRA by diffusers' own renaming, which knows the layouts of several trainers of transformers."""
        tensors = checkpoints.read(source) if source is not None else adapters.flat(reference)
        if any(
            name.startswith(tuple(f"{each}." for each in (self.denoiser_name, *self.encoder_names))) for name in tensors
        ):
            return reference, source
        with explained(source or Source("lora", "", None)):
            return self.lora_state_dict(dict(tensors)), None

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: image prompts of transformers were not tested under a method."""
        raise ValueError(
            f"{type(self).__name__} takes no IP-Adapter: image prompts of transformers were not tested under a method."
            f" Accepted: {self.stock.__name__}."
        )


class MaskedReflection(TransformerReflection):
    """For stock pipelines whose text embeddings, negative ones too, each come with an attention mask."""

    encoded = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_attention_mask": "encoder_attention_mask",
    }


class EmbeddedReflection(TransformerReflection):
    """For stock pipelines that guide by `true_cfg_scale` and a negative prompt, and embed another guidance number.

    Without a negative prompt they evaluate the conditional branch alone, and every guidance of a method has to be 1.
    The network embeds `guidance_scale`; the arms of the reflection can have other numbers.
    """

    guidance_name = "true_cfg_scale"
    guided_by = "a `true_cfg_scale` over 1 and a `negative_prompt`"

    def _guidance(self, call: dict[str, Any]) -> float:
        negative = [name for name in self.text_names if name.startswith("negative_") and name.endswith("_embeds")]
        guides = call["negative_prompt"] is not None or all(call[name] is not None for name in negative)
        return call["true_cfg_scale"] if guides else 1.0

    def _check_networks(self, name: str, strong: Any, weak: Any) -> None:
        super()._check_networks(name, strong, weak)
        if _embeds(weak) and not _embeds(strong):
            raise ValueError(
                f"`weak_{name}` embeds its guidance (`guidance_embeds`), and `{name}` does not, so the pipeline passes"
                " no guidance to either. Accepted: a `weak` network that embeds none."
            )

    def _weak_conditioning(
        self, method: Method, call: dict[str, Any], weak: dict[str, Any], loras: dict[str, float], guides: bool
    ) -> Conditioning:
        conditioning = super()._weak_conditioning(method, call, weak, loras, guides)
        strong = self._strong_networks()
        own = {name: network for name, network in self._weak_networks(method).items() if not _embeds(network)}
        if any(_embeds(strong[name]) for name in own):
            none: Mapping[str, Tensor | None] = {"guidance": None}  # a network that embeds none takes none
            return Conditioning({**none, **(conditioning.cond or {})}, {**none, **(conditioning.uncond or {})})
        return conditioning


def _embeds(network: Any) -> bool:
    """Whether a network embeds its guidance."""
    return bool(network.config.get("guidance_embeds"))


class PackedReflection(EmbeddedReflection):
    """For `EmbeddedReflection` pipelines whose tokens each hold 2x2 of the autoencoder's positions."""

    def in_its_layout(self, latents: Tensor) -> Tensor:
        pipe: Any = self
        *_, height, width = latents.shape
        return pipe._pack_latents(latents, len(latents), latents.shape[1], height, width)
