"""Loads adapters into a pipeline of two denoisers, and offloads it. The two share parameters, unlike in diffusers."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2sd_video.models import adapters, checkpoints
from w2sd_video.models.checkpoints import explained
from w2sd_video.models.motion import unshare_parameters
from w2sd_video.models.networks import image_encoder
from w2sd_video.models.options import HUB_OPTIONS
from w2sd_video.models.sources import Source

from .weak_arm import WeakArm


class Weights(WeakArm):
    """LoRAs, IP-Adapters and offload. Part of `Reflection`; not used alone."""

    def unshare(self) -> None:
        """Gives the weak arm's networks parameters of their own, so that weights can be changed in place."""
        for weak, strong in self._pairs():
            unshare_parameters(weak, strong)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        self.unshare()  # accelerate finds a model's device by its first parameter
        super().enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """As diffusers', but refuses a CPU, on which diffusers sets its hooks and the first call fails.

        Raises:
            ValueError: `device` is a CPU.
        """
        if device is not None and torch.device(device).type == "cpu":
            raise ValueError(
                f"`device` is {str(device)!r}, and sequential offload needs an accelerator to take each layer to;"
                " accepted: a device such as 'cuda', or None for the one that is there."
            )
        self.unshare()  # the hooks of one model take its parameters' data away
        super().enable_sequential_cpu_offload(gpu_id, device=device)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', but refuses a disk, on which both denoisers would use the same files."""
        name = next((name for name in self.denoiser_names if getattr(self, f"weak_{name}") is not None), None)
        if kwargs.get("offload_to_disk_path") is not None and name is not None:
            raise ValueError(
                f"offload_to_disk_path={kwargs['offload_to_disk_path']!r}: diffusers names the files after a"
                f" model's parts, so `{name}` and `weak_{name}` would read each other's. Accepted: None; or"
                " separate the two by `unshare()` and offload each to a folder of its own."
            )
        super().enable_group_offload(*args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As diffusers'; refused, before anything is written, where a network's quantised weights cannot be saved.

        Raises:
            ValueError: it names the network.
        """
        for name, part in self.components.items():
            quantizer = getattr(part, "hf_quantizer", None)
            if quantizer is not None and not quantizer.is_serializable:
                how = str(quantizer.quantization_config.quant_method).rpartition(".")[-1]
                raise ValueError(
                    f"{name} is quantised by {how.upper()}, and diffusers cannot save such a network: this pair cannot"
                    " be saved. Keep the file, and load the pair from it."
                )
        super().save_pretrained(save_directory, *args, **kwargs)

    def load_lora_weights(
        self, pretrained_model_name_or_path_or_dict: Any, *args: Any, into_weak: bool = False, **kwargs: Any
    ) -> None:
        """As diffusers', but for every published layout of LoRAs. A LoRA that does not fit is refused before anything
        changes, and a warning names layers without a place.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder, a hub id, a file on the hub
                (`OWNER/NAME/FILE`), or tensors by name. They are in
                the layout of diffusers, PEFT, sd-scripts (kohya) or AnimateDiff.
            into_weak: also load it into the weak arm's own UNet, at a scale of 1 that `weak_adapter_scales` replaces.
                From then on it is active there whenever it is in the strong arm; see `set_adapters`.

        Raises:
            WeightsError (`ValueError`): it is damaged, of a kind that is not supported, or made for another model.
            ValueError: `into_weak` is True, and the weak arm has no UNet of its own, or has a LoRA of this name.
        """
        names = [self.denoiser_name, *self.encoder_names]
        networks = {name: network for name in names if (network := getattr(self, name)) is not None}
        if into_weak:
            kwargs["adapter_name"] = self._name_in_both(kwargs.get("adapter_name"), networks.values())
        extra = {"unet_config": networks["unet"].config} if {"unet", "text_encoder_2"} <= networks.keys() else {}

        def convert(weights: dict[str, Tensor]) -> Any:
            return self.lora_state_dict(weights, **extra)

        reference, source = pretrained_model_name_or_path_or_dict, None
        if not isinstance(reference, Mapping):
            hub = {name: kwargs[name] for name in (*HUB_OPTIONS, "revision") if name in kwargs}
            weight_name, subfolder = kwargs.pop("weight_name", None), kwargs.pop("subfolder", None)
            source = adapters.lora_file(reference, weight_name, subfolder, hub)
        reference, source = self._in_known_layout(reference, source)
        checked: Any = adapters.lora(reference, networks, convert, source)
        if isinstance(checked, Path):
            checked, kwargs["weight_name"] = str(checked.parent), checked.name
        named = source or Source("lora", str(kwargs.get("adapter_name", "")), Path())
        with self._weak_trainable_as_before(), explained(named):
            super().load_lora_weights(checked, *args, **kwargs)
            if into_weak:
                view = copy.copy(self)
                view.__dict__["unet"] = self.weak_unet
                view.__dict__["load_lora_into_text_encoder"] = lambda *args, **kwargs: None  # which both arms share
                super(Weights, view).load_lora_weights(checked, *args, **kwargs)
            self._activate_in_weak()

    def _name_in_both(self, name: str | None, networks: Iterable[Any]) -> str:
        """The name of a LoRA that is to be loaded into both arms. Default: the first of diffusers' own that is free.

        Args:
            networks: the strong arm's, with its text encoders.

        Raises:
            ValueError: the weak arm has no UNet of its own, or has a LoRA of this name.
        """
        if (weak := getattr(self, "weak_unet", None)) is None:
            raise ValueError("`into_weak` is True, and the weak arm has no UNet of its own: leave it out.")
        if name is not None and name in _loras(weak):
            raise ValueError(f"`adapter_name` is {name!r}, and `weak_unet` has a LoRA of this name: give another.")
        taken = {each for network in (weak, *networks) for each in _loras(network)}
        return name or next(free for n in itertools.count() if (free := f"default_{n}") not in taken)

    def _activate_in_weak(self) -> None:
        """Of the LoRAs that both arms have, activates in the weak arm those that are active in the strong one."""
        for network, own, shared in self._with_shared_loras():
            active = [each for each in own.active_adapters() if each not in shared]
            own.set_adapter(active + [each for each in network.active_adapters() if each in shared])

    def _with_shared_loras(self) -> Iterator[tuple[Any, Any, set[str]]]:
        """Denoisers of the strong arm, each with the weak arm's own, if both have a LoRA of one name; and the names."""
        for name, own in self._own_networks().items():
            network = getattr(self, name)
            if shared := {*_loras(own)} & {*_loras(network)}:
                yield network, own, shared

    def set_adapters(self, adapter_names: list[str] | str, *args: Any, **kwargs: Any) -> None:
        """As diffusers'. Of the LoRAs that the weak arm's own network has too, the same are active there, at scales of
        its own."""
        super().set_adapters(adapter_names, *args, **kwargs)
        self._activate_in_weak()

    def disable_lora(self) -> None:
        """As diffusers', in both arms, if both have a LoRA."""
        super().disable_lora()
        for _, own, _ in self._with_shared_loras():
            own.disable_lora()

    def enable_lora(self) -> None:
        """As diffusers', in both arms, if both have a LoRA."""
        super().enable_lora()
        for _, own, _ in self._with_shared_loras():
            own.enable_lora()

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', from both arms."""
        super().unload_lora_weights(*args, **kwargs)
        network: Any
        for network in self._own_networks().values():
            network.unload_lora()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As diffusers', from both arms."""
        super().delete_adapters(adapter_names)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        network: Any
        for network in self._own_networks().values():
            network.delete_adapters([name for name in names if name in _loras(network)])

    def _in_known_layout(self, reference: Any, source: Source | None) -> tuple[Any, Source | None]:
        """A LoRA's tensors or its file, in a layout that `adapters.lora` reads."""
        return reference, source

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
        pretrained_model_name_or_path_or_dict: Any,
        subfolder: Any = "",
        weight_name: Any = None,
        image_encoder_folder: str | None = "image_encoder",
        **kwargs: Any,
    ) -> None:
        """As diffusers', but that what does not fit is refused before anything changes.

        Args:
            pretrained_model_name_or_path_or_dict: a folder or hub id, with `subfolder` and
                `weight_name` for the file in it; the file itself, here or
                on the hub (`OWNER/NAME/FILE`); or the tensors of one. Several in a list.
            image_encoder_folder: the folder of the image encoder, beside the file; or elsewhere: a path, a hub id or a
                folder in a hub repository (`OWNER/NAME/FOLDER`). None: none, and the call takes embeddings.

        Raises:
            WeightsError (`ValueError`): it is damaged, or made for another UNet or image encoder; or it takes
                embeddings of faces (FaceID) and an image encoder is to be loaded.
        """
        unet = getattr(self, self.denoiser_name)
        hub = {name: kwargs[name] for name in (*HUB_OPTIONS, "revision") if name in kwargs}
        reference = pretrained_model_name_or_path_or_dict
        several = isinstance(reference, list) or isinstance(weight_name, list)
        listed = [each if isinstance(each, list) else [each] for each in (reference, subfolder, weight_name)]
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
            encoder = image_encoder(image_encoder_folder, sources[0], self.dtype, hub)
        for source, tensors in zip(sources, parts, strict=True) if encoder is not None else ():
            adapters.ip_adapter_encoder(source, tensors, encoder.config.to_dict())
        if self.image_encoder is None and encoder is not None:
            self.register_modules(image_encoder=encoder.to(self.device))
        states = [adapters.ip_adapter_parts(tensors) for tensors in parts]
        names = [""] * len(states) if several else ""
        super().load_ip_adapter(states if several else states[0], names, names, image_encoder_folder=None, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', in both arms, of the LoRAs that both have."""
        self.unshare()
        super().fuse_lora(*args, **kwargs)
        bound = inspect.signature(super().fuse_lora).bind(*args, **kwargs)
        bound.apply_defaults()
        how = bound.arguments
        for network, own, shared in self._with_shared_loras():
            named = how["adapter_names"] or own.active_adapters()
            fused = [each for each in named if each in shared and each in own.active_adapters()]
            if fused and network in (getattr(self, each) for each in how["components"]):
                own.fuse_lora(how["lora_scale"], how["safe_fusing"], fused)

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers', in both arms, if both have a LoRA."""
        super().unfuse_lora(*args, **kwargs)
        bound = inspect.signature(super().unfuse_lora).bind(*args, **kwargs)
        bound.apply_defaults()
        for network, own, _ in self._with_shared_loras():
            if network in (getattr(self, each) for each in bound.arguments["components"]):
                own.unfuse_lora()


def _loras(network: Any) -> Collection[str]:
    """The names of the LoRAs that a network has, active or not."""
    loaded: Collection[str] = getattr(network, "peft_config", {})
    return loaded
