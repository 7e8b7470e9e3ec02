"""LoRAs and IP-Adapters, looked at before anything is loaded: which layout they are in, and whether they fit."""

from __future__ import annotations

from .ip_adapters import ip_adapter, ip_adapter_encoder, ip_adapter_file, ip_adapter_parts
from .loras import KOHYA, UNSUPPORTED, lora, lora_file
from .tensors import Tensors, flat

__all__ = ["KOHYA", "UNSUPPORTED", "Tensors", "flat", "ip_adapter", "ip_adapter_encoder", "ip_adapter_file"]
__all__ += ["ip_adapter_parts", "lora", "lora_file"]
