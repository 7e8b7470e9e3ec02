"""IP-Adapters, looked at before anything is loaded: whether they fit a UNet and an image encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from torch import nn

from ...errors import WeightsError, WeightsNotFound
from ..checkpoints import explained
from ..checks import complete, describe, point_out
from ..sources import Source, local, resolve
from .tensors import Tensors, base_of

_ENCODERS = {1024: "CLIP ViT-H", 1280: "CLIP ViT-bigG"}  # by projection width; h94/IP-Adapter keeps both
_HIDDEN = {1280: "CLIP ViT-H", 1664: "CLIP ViT-bigG"}  # by hidden width
_PLACES = {
    "CLIP ViT-H": "h94/IP-Adapter/models/image_encoder",
    "CLIP ViT-bigG": "h94/IP-Adapter/sdxl_models/image_encoder",
}


def ip_adapter(source: Source | None, tensors: Tensors, unet: Any, face: bool) -> None:
    """Refuse an IP-Adapter that does not go with a UNet.

    Args:
        face: whether one that takes embeddings of faces is accepted.

    Raises:
        WeightsError: says what it is, or both widths.
    """
    named = source or "IP-Adapter"
    names = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not any(name.startswith("image_proj.") for name in names) or not any(
        name.startswith("ip_adapter.") for name in names
    ):
        raise WeightsError(named, f"is {describe(names)}. Accepted: an IP-Adapter, with image_proj and ip_adapter.")
    if _of_face(names) and not face:
        raise WeightsError(
            named,
            "is an IP-Adapter FaceID, which takes embeddings of faces by InsightFace and no picture. Accepted:"
            " an IP-Adapter for pictures.",
        )
    own = unet.config["cross_attention_dim"]
    widths = {shape[-1] for name, shape in names.items() if re.search(r"to_[kv]_ip\.weight$", name) and shape}
    if other := sorted(widths - {own}):
        raise WeightsError(
            named,
            f"is made for a UNet of cross-attention width {other[0]}{base_of(other[0])}. Accepted:"
            f" {own}{base_of(own)}, as the pipeline's.",
        )
    layers = sum(name.endswith("to_k_ip.weight") for name in names)
    takes = sum("motion_modules" not in name and name.endswith("attn2.processor") for name in unet.attn_processors)
    if layers != takes:
        raise WeightsError(
            named, f"is made for a UNet of {layers} cross-attention layers. Accepted: {takes}, as the pipeline's."
        )
    known = re.compile(
        r"image_proj\.(proj|norm|proj_in|proj_out|norm_out|latents|layers|perceiver_resampler)(\..*)?"
        r"|ip_adapter\.\d+\.(to_[kv]_ip|to_(q|k|v|out)_lora)\..*"
    )
    where = source or Source("ip_adapter", "tensors", None)
    point_out(where, type(unet).__name__, (name for name in names if not known.fullmatch(name)))
    with explained(where):  # as it is loaded, but into nothing yet
        parts = ip_adapter_parts(tensors)
        complete(where, unet._convert_ip_adapter_image_proj_to_diffusers(parts["image_proj"]))
        for processor in unet._convert_ip_adapter_attn_to_diffusers([parts]).values():
            if isinstance(processor, nn.Module):
                complete(where, processor)


def _of_face(names: Mapping[str, Any]) -> bool:
    """Whether an IP-Adapter takes embeddings of faces."""
    if any("_lora." in name for name in names) or "image_proj.perceiver_resampler.proj_in.weight" in names:
        return True
    plain = {"image_proj.proj.2.weight", "image_proj.norm.weight"} <= names.keys()
    return plain and "image_proj.proj.3.weight" not in names


def ip_adapter_encoder(source: Source | None, tensors: Tensors, encoder: Mapping[str, Any]) -> None:
    """Refuse an IP-Adapter that is trained on the features of another image encoder, of which `encoder` is the
    configuration.

    Raises:
        WeightsError: says both widths, and which encoder it takes.
    """
    named = source or "IP-Adapter"
    names = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, key, axis, known in (
        ("image_proj.proj.weight", "projection_dim", 1, _ENCODERS),
        ("image_proj.proj_in.weight", "hidden_size", 1, _HIDDEN),
        ("image_proj.proj.0.weight", "hidden_size", 0, _HIDDEN),
    ):
        shape = names.get(name, ())
        if len(shape) == 2 and shape[axis] != encoder.get(key):
            kind = known.get(shape[axis])
            which = f" ({kind}, as {_PLACES[kind]})" if kind else ""
            raise WeightsError(
                named,
                f"takes features of width {shape[axis]}, and the image encoder gives {encoder.get(key)}."
                f" Accepted: an image encoder of width {shape[axis]}{which}, given as image_encoder.",
            )


def ip_adapter_file(reference: Any, subfolder: str | None, weight_name: str | None, hub: Mapping[str, Any]) -> Source:
    """The file of an IP-Adapter as diffusers names it: a folder or hub id, a folder in it, and the file.

    Raises:
        WeightsNotFound: it is not there.
    """
    source = resolve(fspath(reference) if isinstance(reference, PathLike) else reference, "ip_adapter")
    if source.path is not None and source.path.is_file():
        return source
    inside = "/".join(part for part in (subfolder, weight_name) if part)
    if source.path is not None:
        path = source.path / inside
        if not path.is_file():
            raise WeightsNotFound(source, f"has no file {inside!r}.")
        return replace(source, path=path)
    return replace(source, path=local(replace(source, inside=inside), hub))


def ip_adapter_parts(tensors: Tensors) -> dict[str, Tensors]:
    """An IP-Adapter's tensors in its two parts, as diffusers takes them."""
    return {
        part: {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }
