"""The weak arm of a pipeline: its network, what is set on it while it is evaluated, and what it is told."""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from w2sd_video import arms
from w2sd_video.hook import Conditioning
from w2sd_video.methods import Method


class WeakArm(DiffusionPipeline):
    """A stock pipeline's weak arm. Part of `Reflection`; not used alone."""

    stock: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str]
    _weak_components: ClassVar[tuple[str, ...]]

    def _weak_network(self, method: Method | None) -> nn.Module | None:
        return None if method is None or method.one_model else getattr(self, f"weak_{self.denoiser_name}")

    def _weak_arm(self, method: Method) -> Any:
        """The network that the weak arm is evaluated by."""
        weak = self._weak_network(method)
        return getattr(self, self.denoiser_name) if weak is None else weak

    def denoisers(self) -> list[nn.Module]:
        """The denoisers, strong and weak."""
        names = (self.denoiser_name, f"weak_{self.denoiser_name}")
        return [network for name in names if (network := getattr(self, name)) is not None]

    def _settings(self, method: Method, scales: dict[str, Any]) -> arms.Settings:
        """What is set on the weak arm's denoiser while it is evaluated."""
        network: Any = self._weak_arm(method)
        settings: arms.Settings = []
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
        return any(getattr(self, name) is not None for name in self._weak_components[1:])

    def _strong_text_encoders(self) -> dict[str, nn.Module]:
        names = [name.removeprefix("weak_") for name in self._weak_components[1:]]
        return {name: encoder for name in names if (encoder := getattr(self, name)) is not None}

    def _weak_conditioning(
        self, method: Method, call: dict[str, Any], weak: dict[str, Any], loras: dict[str, float]
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
        batch = batch_size(call)
        own = {name: value for name, value in weak.items() if value is not None}
        arguments: dict[str, Any] = {}
        if "weak_prompt" in own or "weak_prompt_embeds" in own:
            arguments["prompt"] = _listed(weak["weak_prompt"], batch)
            arguments["prompt_embeds"] = weak["weak_prompt_embeds"]
            arguments["pooled_prompt_embeds"] = weak["weak_pooled_prompt_embeds"]
        elif call["prompt"] is None:
            arguments["prompt"], arguments["prompt_embeds"] = None, call["prompt_embeds"]
            arguments["pooled_prompt_embeds"] = call.get("pooled_prompt_embeds")
        else:
            arguments["prompt"] = _listed(call["prompt"], batch)
            arguments["prompt_2"] = _listed(call.get("prompt_2"), batch)
        if "weak_negative_prompt" in own or "weak_negative_prompt_embeds" in own:
            arguments["negative_prompt"] = _listed(weak["weak_negative_prompt"], batch)
            arguments["negative_prompt_embeds"] = weak["weak_negative_prompt_embeds"]
            arguments["negative_pooled_prompt_embeds"] = weak["weak_negative_pooled_prompt_embeds"]
        else:
            arguments["negative_prompt"] = _listed(call["negative_prompt"], batch)
            arguments["negative_prompt_2"] = _listed(call.get("negative_prompt_2"), batch)
            if call["negative_prompt_embeds"] is not None and not self._has_weak_text_encoder:
                arguments["negative_prompt_embeds"] = call["negative_prompt_embeds"]
                arguments["negative_pooled_prompt_embeds"] = call.get("negative_pooled_prompt_embeds")
        arguments |= {
            "device": self._execution_device,
            "num_images_per_prompt": call.get("num_images_per_prompt", 1),
            "do_classifier_free_guidance": method.weak_guidance != 1,
            "lora_scale": (call["cross_attention_kwargs"] or {}).get("scale"),
            "clip_skip": call["clip_skip"],
        }
        takes = inspect.signature(view.encode_prompt).parameters
        settings = [setting for name in encoders for setting in arms.adapter_scales(getattr(view, name), loras)]
        with arms.switched(settings):
            cond, uncond, *pooled = view.encode_prompt(**{name: arguments[name] for name in takes if name in arguments})

        def inputs(embeds: Tensor, of: list[Tensor]) -> dict[str, Any]:
            own_inputs: dict[str, Any] = {"encoder_hidden_states": self._for_each_frame(embeds, call)}
            return own_inputs | {"added_cond_kwargs": {"text_embeds": of[0]}} if of else own_inputs

        return Conditioning(
            cond=inputs(cond, pooled[:1]), uncond=None if uncond is None else inputs(uncond, pooled[1:])
        )

    def _for_each_frame(self, embeds: Tensor, call: dict[str, Any]) -> Tensor:
        """Text embeddings (B, tokens, channels) as the loop hands them to the denoiser."""
        return embeds.repeat_interleave(call["num_frames"], dim=0) if "num_frames" in call else embeds

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        pairs = [(getattr(self, name), getattr(self, name.removeprefix("weak_"))) for name in self._weak_components]
        return [(weak, strong) for weak, strong in pairs if None not in (weak, strong) and weak is not strong]


def batch_size(call: dict[str, Any]) -> int:
    if "class_labels" in call:
        return len(call["class_labels"])
    if call["prompt"] is None:
        return len(call["prompt_embeds"])
    return 1 if isinstance(call["prompt"], (str, dict)) else len(call["prompt"])


def _listed(prompt: str | list[str] | None, batch: int) -> list[str] | None:
    return [prompt] * batch if isinstance(prompt, str) else prompt
