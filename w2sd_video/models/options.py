"""The options with which every network of a pair is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import diffusers
import torch

from .bases import BASES, Base

HUB_OPTIONS = ("cache_dir", "token", "local_files_only", "force_download", "proxies")
MODEL_OPTIONS = ("variant", "use_safetensors", "low_cpu_mem_usage")

# Newer versions of diffusers warn of the older name.
DTYPE = "dtype" if hasattr(diffusers.utils, "_resolve_dtype") else "torch_dtype"


def dtype_among(arguments: dict[str, Any]) -> torch.dtype | None:
    """Takes the dtype of all networks out of a loader's arguments: `dtype`, or by its older name `torch_dtype`.

    Raises:
        ValueError: both are there, or it is no dtype of floating-point numbers.
    """
    values = {name: arguments.pop(name, None) for name in ("dtype", "torch_dtype")}
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) > 1:
        raise ValueError("`dtype` and `torch_dtype` are both given; accepted: one of them.")
    for name, value in given.items():
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            accepted = "a floating-point torch.dtype, such as torch.bfloat16, or None"
            raise ValueError(f"{name}={value!r}. Accepted: {accepted}.")
    return next(iter(given.values()), None)


@dataclass
class Options:
    """The options of loading.

    Attributes:
        hub: options of the hub, by diffusers' names.
        model: options of the networks, by diffusers' names.
        torch_dtype: the dtype of all networks. None: float32.
        quantization: how networks are quantised.
        weak_text_encoders: whether the weak model's text encoders are loaded.
        video: whether the pipeline makes videos.
        base: for models of Stable Diffusion, the generation of both arms.
    """

    hub: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    torch_dtype: torch.dtype | None = None
    quantization: diffusers.PipelineQuantizationConfig | None = None
    weak_text_encoders: bool = False
    video: bool = False
    base: Base = field(default_factory=lambda: BASES["SDXL"])

    @property
    def variant(self) -> str | None:
        return self.model.get("variant")

    @property
    def use_safetensors(self) -> bool | None:
        return self.model.get("use_safetensors")

    def quantized(self, kind: type, name: str) -> dict[str, Any]:
        """The quantisation arguments of a component's loader; empty if the component is not quantised."""
        if self.quantization is None:
            return {}
        if self.quantization.quant_mapping is not None:
            config = self.quantization.quant_mapping.get(name)
            return {} if config is None else {"quantization_config": config}
        if (chosen := self.quantization.components_to_quantize) and name not in chosen:
            return {}
        library = "diffusers" if issubclass(kind, diffusers.ModelMixin) else "transformers"
        kinds = import_module(f"{library}.quantizers.auto").AUTO_QUANTIZATION_CONFIG_MAPPING
        return {"quantization_config": kinds[self.quantization.quant_backend](**self.quantization.quant_kwargs)}

    @property
    def download(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.items() if k in ("variant", "use_safetensors")}
