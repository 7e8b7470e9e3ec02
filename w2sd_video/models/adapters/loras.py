"""LoRAs, looked at before anything is loaded: which layout they are in, and whether they fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import WeightsError, WeightsNotFound
from .. import checkpoints
from ..checks import logger
from ..sources import SUFFIXES, Source, cached, local, resolve
from .tensors import Tensors, base_of, flat

Networks = Mapping[str, nn.Module]  # by component name

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
"""How names begin in the layout of sd-scripts (kohya), in which most LoRAs are shared."""

UNSUPPORTED = {
    "dora_scale": "DoRA in the layout of sd-scripts or LyCORIS",
    "hada_w": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with a Tucker decomposition",
    "on_input": "(IA)^3",
    "a1.weight": "GLoRA",
    "diff": "full differences of weights",
    "diff_b": "full differences of weights",
    "w_norm": "differences of norms",
    "b_norm": "differences of norms",
}
"""Kinds of layer, by what their weights are called, that change a network otherwise than a LoRA does."""

_PARTS = {"down": "lora_A", "up": "lora_B", "lora_down": "lora_A", "lora_up": "lora_B"}
_NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "adapter_model.safetensors")


def lora_file(reference: Any, weight_name: str | None, subfolder: str | None, hub: Mapping[str, Any]) -> Source:
    """The file of a LoRA that is named by a folder or hub id, and perhaps the file in it; or by the file itself.

    Raises:
        WeightsNotFound: it is not there.
        WeightsError: a folder holds several files, and none of the usual name.
    """
    source = resolve(reference, "lora", folders=True)
    inside = "/".join(part for part in (subfolder, weight_name) if part)
    if source.path is not None and source.path.is_file():
        return source
    if source.path is not None:
        folder = source.path / (subfolder or "")
        if weight_name:
            if not (folder / weight_name).is_file():
                raise WeightsNotFound(source, f"has no file {inside!r}.")
            return replace(source, path=folder / weight_name)
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        return replace(source, path=folder / _chosen(source, names))
    if source.is_file:
        return replace(source, path=local(source, hub))
    if not weight_name:
        prefix = f"{subfolder}/" if subfolder else ""
        path = cached(source, hub, *(prefix + name for name in _NAMES))
        if path is not None:
            return replace(source, path=path)
        inside = prefix + _chosen(source, _listed(source, prefix, hub))
    return replace(source, path=local(replace(source, inside=inside), hub))


def _listed(source: Source, prefix: str, hub: Mapping[str, Any]) -> list[str]:
    """The files of a hub repository's folder: of its cached version where the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    assert source.repository is not None
    try:
        names = HfApi(token=hub.get("token")).list_repo_files(source.repository, revision=hub.get("revision"))
    except (OSError, ValueError):
        try:
            options = {name: hub[name] for name in ("cache_dir", "revision") if hub.get(name)}
            folder = Path(snapshot_download(source.repository, local_files_only=True, **options))
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        except (OSError, ValueError) as error:
            command = f"hf download {source.repository}"
            raise WeightsNotFound(source, f"is not on this machine. Get it with\n  {command}") from error
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _chosen(source: Source, names: Iterable[str]) -> str:
    weights = sorted(name for name in names if name.lower().endswith(SUFFIXES) and "/" not in name)
    usual = [name for name in _NAMES if name in weights]
    safe = [name for name in weights if name.endswith(".safetensors")]
    for few in (usual[:1], safe, weights):
        if len(few) == 1:
            return few[0]
    if not weights:
        raise WeightsNotFound(source, f"holds no file of weights ({', '.join(SUFFIXES)}).")
    raise WeightsError(source, f"holds {len(weights)} files of weights: name one, such as {weights[0]!r}.")


def lora(weights: Any, networks: Networks, convert: Any, source: Source | None = None) -> Any:
    """What diffusers is to load of a LoRA: `weights` itself, or its tensors as diffusers names them.

    Args:
        weights: what diffusers would load, or the tensors by name.
        networks: those that a LoRA may change, by component name; the first is the denoiser.
        convert: the pipeline's `lora_state_dict`, which renames sd-scripts' layers.
        source: the LoRA's file. None: `weights` are tensors.

    Raises:
        WeightsError: damaged; of a kind that is not supported; made for another model, so that no layer fits, or fits
            only in name.
    """
    named = source or "LoRA"
    tensors = checkpoints.read(source) if source is not None else flat(weights)
    _check_kind(named, tensors)
    said = checkpoints.metadata(source.path) if source is not None and source.path is not None else {}
    if any(name.startswith(KOHYA) for name in tensors):
        layers = _kohya(named, tensors, convert)
    else:
        layers = _renamed(named, tensors, networks, source)
    kohya = any(name.startswith(KOHYA) for name in tensors)
    what = "layers" if kohya else "weights"
    modules = {component: dict(network.named_modules()) for component, network in networks.items()}
    placed: Tensors = {}
    left, wrong = [], []
    for original, renamed in layers.items():
        fits = [_fits(name, tensor, modules) for name, tensor in renamed.items()]
        if not renamed or None in fits:
            left.append(original)
        elif all(fits):
            placed |= renamed
        else:
            wrong.append(original)
    if (wrong or not placed) and (said_of_width := _other_width(tensors, modules)):
        raise WeightsError(named, f"{said_of_width}")
    if wrong:
        raise WeightsError(
            named,
            f"is made for another model: {len(wrong)} of its {what} have another width than the model's layers,"
            f" {wrong[0][:150]!r} first.",
        )
    denoiser = type(next(iter(networks.values()))).__name__
    if not placed:
        first = f", {left[0][:150]!r} first" if left else ""
        raise WeightsError(
            named,
            f"does not fit this model: none of its {len(left)} {what} has a place in {denoiser} or its text"
            f" encoders{first}.",
        )
    if left:
        logger.warning(
            "note: %s holds %d %s that have no place in %s or its text encoders and are left out, %s first",
            *(named, len(left), what, denoiser, left[0][:150]),
        )
    own = kohya or all(name.startswith(tuple(f"{each}." for each in networks)) for name in tensors)
    own &= kohya or all(_peft(name) in placed for name in tensors)
    if kohya and any("text_encoder" in n for n in placed) and not any("out_proj" in n for n in placed):
        # diffusers (0.42.1) knows this layout of a text encoder by `out_proj` alone: give it PEFT's names
        return {
            n: t for group, renamed in layers.items() if group not in left for n, t in _worked(group, renamed, tensors)
        }
    if own and not left and not any(".temporal_transformer." in name for name in tensors):
        safe = source is not None and source.path is not None and source.path.suffix == ".safetensors"
        return source.path if safe and source is not None else tensors  # a file, with the scales in its metadata
    if kohya:
        return {name: tensor for name, tensor in tensors.items() if _group(name) not in left}
    if "lora_adapter_metadata" in said:
        placed = _scaled(placed, json.loads(said["lora_adapter_metadata"]))
    return placed


def _group(name: str) -> str:
    """The layer that a weight is of, in sd-scripts' layout."""
    return name.partition(".")[0] if name.startswith(KOHYA) else name


def _check_kind(named: Any, tensors: Tensors) -> None:
    for kind, what in UNSUPPORTED.items():
        if of := [
            name for name in tensors if re.search(rf"\.{re.escape(kind)}({'' if kind[-1] in '_w' else '$|[.]'})", name)
        ]:
            raise WeightsError(
                named,
                f"holds {len(of)} weights of {what}, {of[0][:150]!r} first, which is not supported. Accepted:"
                " LoRA and LoCon.",
            )


def _kohya(named: Any, tensors: Tensors, convert: Any) -> dict[str, Tensors]:
    """By layer of sd-scripts: its weights as diffusers names them; none for what diffusers knows no name for."""
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_group(name), {})[name] = tensor
    layers: dict[str, Tensors] = {}
    for group, weights in groups.items():
        try:
            if not group.startswith(KOHYA):
                raise ValueError("it is no layer")
            layers[group] = {_peft(name) or name: t for name, t in convert(dict(weights))[0].items()}
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError):
            layers[group] = {}
    return layers


def _peft(name: str) -> str | None:
    """A weight's name as PEFT has it, `MODULE.lora_A.weight`; None where it is no LoRA's."""
    head = r"(?P<module>.+?)(?:\.processor)?"
    old = re.fullmatch(rf"{head}\.to_(?P<to>q|k|v|out)_lora\.(?P<part>down|up)\.(?P<leaf>weight|bias)", name)
    if old:
        module = old["module"]
        text = re.search(r"(^|\.)(text_encoder(_2)?)\.", name) is not None
        to = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}[old["to"]] if text else f"to_{old['to']}"
        return f"{module}.{'to_out.0' if to == 'to_out' else to}.{_PARTS[old['part']]}.{old['leaf']}"
    new = re.fullmatch(
        rf"{head}\.(?:(?:lora|lora_linear_layer)\.(?P<part>down|up)|(?P<peft>lora_[AB]|lora_down|lora_up)(?:\.default)?)"
        r"\.(?P<leaf>weight|bias)",
        name,
    )
    if new:
        part = new["part"] or new["peft"]
        return f"{new['module']}.{_PARTS.get(part, part)}.{new['leaf']}"
    magnitude = re.fullmatch(rf"{head}\.lora_magnitude_vector(?:\.default)?(?P<leaf>\.weight)?", name)
    return f"{magnitude['module']}.lora_magnitude_vector" if magnitude else None


def _renamed(named: Any, tensors: Tensors, networks: Networks, source: Source | None) -> dict[str, Tensors]:
    """By weight: its name as diffusers loads it, for every layout but sd-scripts'.

    They are diffusers' own, old and new; PEFT's, whose scales are in `adapter_config.json` beside the file;
    AnimateDiff's, for motion LoRAs (`v2_lora_*.ckpt`) and domain adapters (`v3_sd15_adapter.ckpt`); and that of old
    attention processors (`pytorch_lora_weights.bin` of `save_attn_procs`), which names the UNet's layers alone.
    """
    denoiser = next(iter(networks))
    layers: dict[str, Tensors] = {}
    scale = _peft_scale(source) if any(name.startswith("base_model.model.") for name in tensors) else 1.0
    for name, tensor in tensors.items():
        inner = re.sub(r"^(module\.|base_model\.model\.)+", "", name)
        inner = inner.replace(".temporal_transformer.", ".")
        inner = re.sub(r"\.attention_blocks\.(\d)\.", lambda match: f".attn{int(match[1]) + 1}.", inner)
        renamed = _peft(inner)
        if renamed is None:
            layers[name] = {}
            continue
        if not renamed.startswith(tuple(f"{component}." for component in networks)):
            renamed = f"{denoiser}.{renamed}"
        # As published before transformers 5.6 took `text_model.` out of CLIPTextModel, which is how it takes LoRAs.
        renamed = re.sub(r"^(text_encoder(_2)?)\.(?=encoder\.)", r"\1.text_model.", renamed)
        layers[name] = {renamed: tensor * scale if ".lora_B." in renamed and scale != 1 else tensor}
    return layers


def _peft_scale(source: Source | None) -> float:
    """alpha / r of PEFT's configuration beside a file; 1 where there is none."""
    config = source.path.with_name("adapter_config.json") if source is not None and source.path is not None else None
    if source is None or config is None or not config.is_file():
        return 1.0
    said = checkpoints.configuration(source, config)
    alpha: Any = said.get("lora_alpha")
    rank: Any = said.get("r")
    if said.get("alpha_pattern") or said.get("rank_pattern") or said.get("use_rslora"):
        raise WeightsError(source, "has scales of its layers in adapter_config.json, which is not supported.")
    return alpha / rank if isinstance(alpha, (int, float)) and isinstance(rank, int) and rank else 1.0


def _worked(group: str, renamed: Tensors, tensors: Tensors) -> Iterable[tuple[str, torch.Tensor]]:
    """One layer of sd-scripts', with its alpha / r worked in."""
    alpha, down = tensors.get(f"{group}.alpha"), tensors[f"{group}.lora_down.weight"]
    scale = 1.0 if alpha is None else float(alpha) / len(down)
    return [(name, tensor * scale if ".lora_B." in name else tensor) for name, tensor in renamed.items()]


def _scaled(placed: Tensors, said: Mapping[str, Any]) -> Tensors:
    """Weights times the alpha / r that diffusers' metadata gives them, for where it cannot be handed on."""
    scaled = {}
    for name, tensor in placed.items():
        component, _, module = name.partition(".")
        module = module.partition(".lora_")[0]
        alphas, ranks = said.get(f"{component}.alpha_pattern") or {}, said.get(f"{component}.rank_pattern") or {}
        alpha: Any = alphas.get(module, said.get(f"{component}.lora_alpha"))
        rank: Any = ranks.get(module, said.get(f"{component}.r"))
        plain = ".lora_B." not in name or not alpha or not rank
        scaled[name] = tensor if plain else tensor * (alpha / rank)
    return scaled


def _fits(name: str, tensor: torch.Tensor, modules: Mapping[str, Mapping[str, nn.Module]]) -> bool | None:
    """Whether a weight fits the layer that it is for; None where there is no such layer."""
    component, _, inner = name.partition(".")
    match = re.fullmatch(r"(.*)\.(lora_A|lora_B|lora_magnitude_vector)(.*)", inner)
    if match is None:
        return None
    module_name, part, leaf = match.groups()
    there = modules.get(component, {})
    module = there.get(module_name)
    if module is None:  # transformers 5.6 took `text_model.` out of CLIPTextModel's names
        module = there.get(module_name.removeprefix("text_model."))
    module = getattr(module, "base_layer", module)
    weight = getattr(module, "weight", None)
    if weight is None:
        return None
    if leaf.endswith("bias") or part == "lora_magnitude_vector" or tensor.ndim < 2:
        return tensor.numel() >= 1
    if part == "lora_A":
        return tensor.shape[1] == weight.shape[1]
    return tensor.shape[0] == weight.shape[0]


def _other_width(tensors: Tensors, modules: Mapping[str, Mapping[str, nn.Module]]) -> str | None:
    """Which base a LoRA is made for, if the width of the texts in it says another than the UNet's."""
    into = re.compile(r"attn2[._](?:processor\.)?to_[kv]\W.*(lora_?down|lora\.down|lora_A)|attn2.*to_[kv]_lora\.down")
    names = {n: tuple(t.shape) for n, t in tensors.items()}
    widths = sorted({shape[-1] for n, shape in names.items() if into.search(n) and "motion_modules" not in n and shape})
    own: set[int] = {
        int(module.weight.shape[1])  # type: ignore[index]
        for of in modules.values()
        for name, module in of.items()
        if re.search(r"attn2\.to_k(\.base_layer)?$", name)
        and "motion_modules" not in name
        and hasattr(module, "weight")
    }
    if len(own) == 1 and (other := [width for width in widths if width not in own]):
        return (
            f"is made for a UNet of cross-attention width {other[0]}{base_of(other[0])}. Accepted:"
            f" {next(iter(own))}{base_of(next(iter(own)))}, as the pipeline's."
        )
    return None
