"""The weak arm of a pipeline: its networks, their settings, and its conditioning."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from w2sd_video import arms
from w2sd_video.hook import Conditioning
from w2sd_video.methods import Method

# Arguments of a call that are texts, or embeddings and masks of texts.
TEXTS = re.compile(r"(negative_)?(pooled_)?prompt(_\d|_embeds\w*|_attention_mask)?")
NEGATIVE = "negative_"
SIZES = 6  # numbers in the size conditioning of SDXL's network
PER_PROMPT = ("num_videos_per_prompt", "num_images_per_prompt")  # a call has one of them, if any


class WeakArm(DiffusionPipeline):
    """A stock pipeline's weak arm. Part of `Reflection`; not used alone.

    A family describes its stock pipeline by these attributes:

    - `encoded`: the return values of `encode_prompt`, in order, by the names of the call's arguments for them. If the
      negative prompt is encoded by a call of its own, the return values of one call.
    - `text_inputs`: by these names, the denoiser's argument for each; a dot leads to an entry of a dictionary.
    - `text_widths`: by the call's arguments for text embeddings, the entry of the denoiser's configuration that is
      their width.
    """

    stock: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str]
    denoiser_names: ClassVar[tuple[str, ...]]
    encoder_names: ClassVar[tuple[str, ...]]
    text_names: ClassVar[tuple[str, ...]]
    arguments: ClassVar[tuple[str, ...]]  # of a call, by name
    _weak_components: ClassVar[tuple[str, ...]]
    text_widths: ClassVar[Mapping[str, str]] = {"prompt_embeds": "cross_attention_dim"}
    encoded: ClassVar[tuple[str, ...]] = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    text_inputs: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "added_cond_kwargs.text_embeds",
    }

    def _strong_networks(self) -> dict[str, nn.Module]:
        """The strong arm's denoisers, by name."""
        return {name: network for name in self.denoiser_names if (network := getattr(self, name)) is not None}

    def _weak_networks(self, method: Method | None) -> dict[str, nn.Module]:
        """The weak arm's own denoisers, by the names of the strong arm's; empty if both arms share theirs."""
        return {} if method is None or method.one_model else self._own_networks()

    def _own_networks(self) -> dict[str, nn.Module]:
        """The weak arm's own denoisers, whatever the method, by the names of the strong arm's."""
        own = {name: getattr(self, f"weak_{name}") for name in self.denoiser_names}
        return {name: network for name, network in own.items() if network is not None}

    def _evaluated(self, method: Method) -> dict[str, nn.Module]:
        """The networks that evaluate the weak arm, by the names of the strong arm's."""
        return self._strong_networks() | self._weak_networks(method)

    def denoisers(self) -> list[nn.Module]:
        """The denoisers, strong and weak."""
        names = [name for each in self.denoiser_names for name in (each, f"weak_{each}")]
        return [network for name in names if (network := getattr(self, name)) is not None]

    def _settings(self, method: Method, scales: dict[str, Any]) -> arms.Overrides:
        """The settings of the weak arm's denoisers while it is evaluated."""
        settings: arms.Overrides = []
        for network in self._evaluated(method).values():
            of: Any
            for name, of in (
                ("weak_adapter_scales", arms.adapter_scales),
                ("weak_ip_adapter_scale", arms.ip_adapter_scale),
                ("weak_motion_scale", arms.motion_scale),
                ("weak_routing", arms.routing),
                ("weak_skip_layers", arms.skip_layers),
            ):
                if scales[name] is not None:
                    settings += of(network, scales[name])
        return settings

    @property
    def _has_weak_text_encoder(self) -> bool:
        return any(getattr(self, f"weak_{name}") is not None for name in self.encoder_names)

    def _strong_text_encoders(self) -> dict[str, nn.Module]:
        return {name: encoder for name in self.encoder_names if (encoder := getattr(self, name)) is not None}

    def _weak_conditioning(
        self, method: Method, call: dict[str, Any], weak: dict[str, Any], loras: dict[str, float], guides: bool
    ) -> Conditioning:
        """The weak arm's embeddings, if they differ from the strong arm's.

        Args:
            guides: whether the denoiser is called for the unconditional branch. A method can then evaluate it in the
                weak arm at every weak guidance, by `Arm.guided`.
        """
        if method.one_model:
            return Conditioning()
        encoders = self._strong_text_encoders()
        own_loras = any(name in arms.adapters(encoder) for encoder in encoders.values() for name in loras)
        if all(value is None for value in weak.values()) and not self._has_weak_text_encoder and not own_loras:
            return Conditioning()
        if getattr(self, "free_noise_enabled", False):
            raise ValueError("the weak arm has no prompt of its own with FreeNoise, whose prompts run over the frames.")
        view = copy.copy(self)  # the pipeline with the weak arm's text encoders
        for name in encoders:
            if (encoder := getattr(self, "weak_" + name)) is not None:
                view.__dict__[name] = encoder
        settings = [setting for name in encoders for setting in arms.adapter_scales(getattr(view, name), loras)]
        with arms.switched(settings):
            encoded = self._encode(view, call, weak, guided=guides or method.weak_guidance != 1)
        return Conditioning(cond=self._inputs(encoded, call), uncond=self._inputs(encoded, call, NEGATIVE))

    def _encode(self, view: Any, call: dict[str, Any], weak: dict[str, Any], guided: bool) -> dict[str, Tensor | None]:
        """The embeddings of the weak arm's prompts, by the names of the call's arguments for them."""
        takes = inspect.signature(view.encode_prompt).parameters
        common = {name: value for name, value in call.items() if name not in self.text_names}
        common |= self._encoding(call) | {"do_classifier_free_guidance": guided}
        texts = {sign: self._texts(call, weak, sign) for sign in ("", NEGATIVE)}

        def run(arguments: dict[str, Any]) -> dict[str, Tensor | None]:
            arguments = {name: value for name, value in arguments.items() if name in takes}
            return dict(zip(self.encoded, view.encode_prompt(**arguments), strict=False))

        if "negative_prompt" in takes:
            return run(common | texts[""] | texts[NEGATIVE])
        encoded = run(common | texts[""])
        if guided:
            negative = {name.removeprefix(NEGATIVE): value for name, value in texts[NEGATIVE].items()}
            encoded |= {NEGATIVE + name: value for name, value in run(common | negative).items()}
        return encoded

    def _encoding(self, call: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `encode_prompt`, beside the texts, that differ from the call's of the same name."""
        attention = next((call[name] for name in call if name.endswith("attention_kwargs")), None)
        return {
            "device": self._execution_device,
            **dict.fromkeys(PER_PROMPT, self._per_prompt(call)),
            "lora_scale": (attention or {}).get("scale"),
        }

    def _texts(self, call: dict[str, Any], weak: dict[str, Any], sign: str) -> dict[str, Any]:
        """The weak arm's texts of a branch: its own if the call has any, else the strong arm's.

        Args:
            sign: "" for the conditional branch, `NEGATIVE` for the unconditional one.
        """
        names = [name for name in self.text_names if name.startswith(NEGATIVE) == bool(sign)]
        own = {name: weak.get(f"weak_{name}") for name in names}
        for name in names:
            embeds = own.get(name.replace("_mask", "").replace("_attention", "_embeds"))
            if "_mask" in name and own[name] is None and isinstance(embeds, Tensor):  # all tokens
                own[name] = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        if own[f"{sign}prompt"] is None and own[f"{sign}prompt_embeds"] is None:
            own = {name: call[name] for name in names}
            if sign and self._has_weak_text_encoder:  # embeddings of the strong arm's encoders
                own = {name: value for name, value in own.items() if not isinstance(value, Tensor)}
        return {name: [text] * batch_size(call) if isinstance(text, str) else text for name, text in own.items()}

    def _inputs(self, encoded: Mapping[str, Any], call: dict[str, Any], sign: str = "") -> dict[str, Any] | None:
        """The denoiser's inputs of a branch from the encoded texts; None if the branch was not encoded."""
        if encoded.get(f"{sign}prompt_embeds") is None:
            return None
        inputs: dict[str, Any] = {}
        for name, argument in self.text_inputs.items():
            if sign + name in encoded:
                outer, _, inner = argument.partition(".")
                value = self._as_sent(name, encoded[sign + name], call)
                inputs |= {outer: {inner: value}} if inner else {outer: value}
        return inputs

    def _as_sent(self, name: str, value: Any, call: dict[str, Any]) -> Any:
        """An encoded text in the form in which the loop passes it to the denoiser."""
        several = self._per_prompt(call)
        if isinstance(value, Tensor) and TEXTS.fullmatch(name) and several > 1 and len(value) == batch_size(call):
            value = value.repeat_interleave(several, dim=0)  # some stock pipelines do not repeat given embeddings
        network: Any = next(iter(self._strong_networks().values()))
        dtype = network.dtype
        if isinstance(value, Tensor) and value.is_floating_point() and dtype.is_floating_point:
            return value.to(dtype)
        return value

    def _per_prompt(self, call: dict[str, Any]) -> int:
        """How many videos or images a call makes of each prompt."""
        return next((call[name] or 1 for name in PER_PROMPT if name in call), 1)

    def _check_weak_inputs(self, call: dict[str, Any], weak: dict[str, Any]) -> None:
        batch = batch_size(call)
        for name in ("weak_prompt", "weak_negative_prompt"):
            value = weak[name]
            if value is None or isinstance(value, str):
                continue
            if not isinstance(value, list) or len(value) != batch or not all(isinstance(v, str) for v in value):
                raise ValueError(f"`{name}` has to be a string or a list of {batch} strings, but is {value!r}.")
        embeds = {name: value for name, value in weak.items() if isinstance(value, Tensor)}
        pools = "pooled_prompt_embeds" in call
        for name, other in (
            ("weak_prompt", "weak_prompt_embeds"),
            ("weak_negative_prompt", "weak_negative_prompt_embeds"),
        ):
            if weak[name] is not None and weak[other] is not None:
                raise ValueError(f"`{name}` and `{other}` are both given; accepted: one of them.")
            pooled = other.replace("prompt_embeds", "pooled_prompt_embeds")
            if pools and (weak[other] is None) != (weak[pooled] is None):
                raise ValueError(f"`{other}` and `{pooled}` go together: give both, or neither.")
        check_beside(weak)
        for name, value in embeds.items():
            if len(value) != batch:
                raise ValueError(f"`{name}` has to hold {batch} embeddings, one for a video, but holds {len(value)}.")
        for name, value in {**call, **embeds}.items():
            if isinstance(value, Tensor):
                self._check_embeddings(name, value)
        if weak["weak_negative_prompt_embeds"] is not None and weak["weak_prompt_embeds"] is None:
            raise ValueError("`weak_negative_prompt_embeds` needs `weak_prompt_embeds` beside it.")
        speaks = weak["weak_prompt"] is not None or weak["weak_prompt_embeds"] is not None
        if call.get("prompt") is None and "prompt" in call and not speaks:
            if weak["weak_negative_prompt"] is not None or self._has_weak_text_encoder:
                raise ValueError(
                    "`prompt_embeds` come from the strong arm's text encoders, and the weak arm has to"
                    " encode its own prompt: pass `weak_prompt`, or `weak_prompt_embeds` (the same embeddings, to"
                    " use them for both arms)."
                )

    def _check_embeddings(self, name: str, value: Tensor) -> None:
        """Refuse text embeddings of another width than the network takes.

        Args:
            name: an argument of a call.
            value: its tensor.
        """
        for each, strong in self._strong_networks().items():
            own = getattr(self, f"weak_{each}") if name.startswith("weak_") else None
            network: Any = strong if own is None else own
            width = self._text_width(name.removeprefix("weak_").removeprefix(NEGATIVE), network.config)
            if is_of(width, int) and value.shape[-1] != width:
                raise ValueError(f"`{name}` has width {value.shape[-1]}; accepted: {width}, that of its network.")

    def _text_width(self, name: str, config: Any) -> Any:
        """The width of text embeddings that a network with this configuration takes. None: not known."""
        if name == "pooled_prompt_embeds" and config.get("addition_embed_type") == "text_time":
            return config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]
        projected = config.get("encoder_hid_dim") if name == "prompt_embeds" else None  # a UNet may project them first
        return projected or config.get(self.text_widths.get(name))

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The weak arm's own networks and text encoders, each with the strong arm's."""
        pairs = [(getattr(self, name), getattr(self, name.removeprefix("weak_"))) for name in self._weak_components]
        return [(weak, strong) for weak, strong in pairs if None not in (weak, strong) and weak is not strong]


def batch_size(call: dict[str, Any]) -> int:
    """How many prompts, or classes, a call has."""
    if "class_labels" in call:
        return len(call["class_labels"])
    if call["prompt"] is None:
        return len(call["prompt_embeds"])
    return 1 if isinstance(call["prompt"], (str, dict)) else len(call["prompt"])


def check_beside(weak: Mapping[str, Any]) -> None:
    """Refuse masks and second embeddings of the weak arm without its embeddings, or of another length."""
    for name, value in weak.items():
        if value is None or name in ("weak_prompt", "weak_negative_prompt"):
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"`{name}` is a {type(value).__name__}; accepted: a tensor, or None.")
        embeds = f"weak_{NEGATIVE * (NEGATIVE in name)}prompt_embeds"
        if "pooled" not in name and weak[embeds] is None:
            raise ValueError(f"`{name}` needs `{embeds}` beside it.")
        if "_mask" in name:
            embeds = name.replace("_mask", "").replace("_attention", "_embeds")
            other = weak.get(embeds)
            if isinstance(other, Tensor) and other.shape[1] != value.shape[1]:
                raise ValueError(
                    f"`{name}` has {value.shape[1]} tokens, and `{embeds}` {other.shape[1]}; accepted: the same."
                )


def is_of(value: Any, *kinds: type) -> bool:
    """Whether a value is of one of these types, without taking a bool for a number."""
    return isinstance(value, kinds) and not isinstance(value, bool)
