"""What a sidecar says of how a video came to be."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..runs import Request

if TYPE_CHECKING:
    from ..pipelines.reflection import Reflection as Pipeline


def plugin_version(request: Request) -> dict[str, str]:
    """The distribution that a request's method is from, and its version, where it is an installed plug-in."""
    from ..methods import METHODS

    if plugins.is_file(request.method):
        return {}
    plugin = plugins.find("method", request.method, METHODS, request.method_sha256)
    return {plugin.distribution: plugin.version or ""} if plugin and plugin.distribution else {}


def versions() -> dict[str, str]:
    """The versions that decide what comes out."""
    packages = ("w2sd-video", "torch", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def provenance(pipelines: Mapping[str, Pipeline], command: Sequence[str]) -> dict[str, Any]:
    import torch

    from ..provenance import weight_hashes

    device = next(iter(pipelines.values()))._execution_device
    return {
        "versions": versions(),
        "weights": {variant: weight_hashes(pipe) for variant, pipe in pipelines.items()},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        # An argument may be a path that is not UTF-8, which JSON does not hold.
        "command": [argument.encode("utf-8", "backslashreplace").decode() for argument in command],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Empty where all frames of two records are the same; else what else differs, and may be the reason."""
    frames = [{name: video["frames_sha256"] for name, video in r.get("videos", {}).items()} for r in (before, now)]
    if frames[0] == frames[1]:
        return []
    keys = ("weights", "versions", "device", "device_name", "threads", "platform")
    return [key for key in keys if before.get(key) != now.get(key)] or ["nothing that was recorded"]
