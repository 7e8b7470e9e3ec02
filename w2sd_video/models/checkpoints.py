"""The one opener of files of weights that may come from anyone: whatever it meets is tensors by name, or one refusal.

Pickles are opened with `weights_only=True` alone: they give tensors and plain data, and run no code.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import safe_open
from safetensors.torch import load_file

from ..errors import WeightsError, WeightsNotFound
from .sources import SUFFIXES, Source, download_command, shortened

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

WRAPPERS = ("state_dict", "model_state_dict", "module", "params", "params_ema")
"""Under which names trainers keep the weights, beside what else they save."""

DEEPEST = 8  # dictionaries in dictionaries
LARGEST = 50  # times a file's own size, which what is compressed in it may have
MOST = 100_000  # tensors in one file; SDXL has some 2,500


def read(source: Source, path: Path | None = None, wrappers: tuple[str, ...] = WRAPPERS) -> Tensors:
    """The tensors of one file by name, mapped from the disk where its format allows it.

    Tensors in dictionaries of the file, as an IP-Adapter's two parts, have the names of these before their own, with
    a dot between. What is no tensor, such as a count of steps, is left out.

    Args:
        source: what the file is called in messages.
        path: the file; None: `source.path`.
        wrappers: of a dictionary that has one of these names, in this order, that part alone is read.

    Raises:
        WeightsError: it is empty, damaged, of another format, holds Python objects beside tensors, or no tensors.
    """
    path = path or source.path
    assert path is not None
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(source, f"is a {path.suffix or 'nameless'} file; accepted: {', '.join(SUFFIXES)}")
    content = _opened(source, path)
    for _ in range(DEEPEST):
        inner = [content[name] for name in wrappers if isinstance(content, Mapping) and name in content]
        if not inner or not isinstance(inner[0], Mapping):
            break
        content = inner[0]
    tensors: Tensors = {}
    _collect(source, content, "", tensors, 0, set())
    check_numbers(source, {name: tensor.dtype for name, tensor in tensors.items() if tensor.ndim > 1})
    if not tensors:
        kind = type(content).__name__
        raise WeightsError(source, f"holds no tensors by name, but a {kind}; accepted: a file of weights")
    return tensors


def shapes(source: Source, path: Path | None = None) -> Shapes:
    """Names and shapes of one file's tensors; of a `.safetensors` only the header is read.

    Raises:
        WeightsError: as of `read`.
    """
    path = path or source.path
    assert path is not None
    if path.suffix.lower() != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read(source, path).items()}
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except Exception as error:
        raise _damaged(source, path, error) from error


def dtypes(source: Source, path: Path | None = None) -> dict[str, torch.dtype]:
    """Names and types of one file's tensors of more than one dimension; of a `.safetensors` its header alone is read.

    Raises:
        WeightsError: as of `read`.
    """
    path = path or source.path
    assert path is not None
    if path.suffix.lower() != ".safetensors":
        return {name: tensor.dtype for name, tensor in read(source, path).items() if tensor.ndim > 1}
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            whole = {kind: torch.int8 for kind in ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")}
            return {
                name: whole.get(part.get_dtype(), torch.float32)
                for name, part in parts.items()
                if len(part.get_shape()) > 1
            }
    except Exception as error:
        raise _damaged(source, path, error) from error


_QUANTISED = re.compile(r"(.*\.)?(scaled_fp8|scale_weight|weight_scale|comfy_quant|(weight\.)?(absmax|quant_map)|SCB)")


def check_numbers(source: Source, types: Mapping[str, torch.dtype]) -> None:
    """Refuse weights that are whole numbers, or that have scales beside them: a network would be wrong with them.

    Args:
        types: of the tensors of more than one dimension, by name.

    Raises:
        WeightsError: names the first.
    """
    for name, dtype in types.items():
        whole = name.endswith("weight") and not dtype.is_floating_point
        if whole or _QUANTISED.fullmatch(name):
            raise WeightsError(
                source,
                f"holds quantised weights, {shortened(name)} first, which are not supported. Accepted: weights"
                " in floating point.",
            )


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file, such as `modelspec.prediction_type`; empty for other files."""
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception:  # `shapes` reports what is wrong with it
        return {}


def configuration(source: Source, path: Path) -> dict[str, Any]:
    """A configuration, which is JSON, as a dictionary.

    Raises:
        WeightsError: it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(source, f"has a {path.name} that cannot be read: {reason(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(source, f"has a {path.name} that is a {type(content).__name__}; accepted: a JSON object")
    return content


def _opened(source: Source, path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are old
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_stored(source, path))
    except WeightsError:
        raise
    except MemoryError as error:
        if psutil.virtual_memory().available < 4 * path.stat().st_size:
            raise
        raise _damaged(source, path, error) from error  # it asks for more than it can hold
    except Exception as error:  # a damaged file raises errors of every kind
        raise _damaged(source, path, error) from error


def _stored(source: Source, path: Path) -> bool:
    """Whether a file is an archive as PyTorch writes it, uncompressed, which alone can be mapped.

    Raises:
        WeightsError: what is compressed in it is larger than weights can be.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > LARGEST * path.stat().st_size:
        raise WeightsError(source, f"is damaged: it is an archive that unpacks to more than {LARGEST} times its size")
    return all(member.compress_type == zipfile.ZIP_STORED for member in members)


def _damaged(source: Source, path: Path, error: Exception) -> WeightsError:
    try:
        if path.stat().st_size == 0:
            return WeightsError(source, "is damaged: the file is empty")
        with path.open("rb") as file:
            start = file.read(100)
    except OSError as unreadable:
        return WeightsError(source, f"cannot be read: {unreadable.strerror or unreadable}")
    if start.startswith(b"version https://git-lfs"):
        return WeightsError(source, "is damaged: it is a pointer of Git LFS, not the file; get it with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return WeightsError(source, "is damaged: it is a web page, not the file that was to be downloaded")
    if "weights_only" in str(error) or "Unsupported" in str(error):
        return WeightsError(
            source,
            "is damaged, or holds Python objects beside tensors; such code is never run: give a file of"
            " tensors alone, best a .safetensors",
        )
    return WeightsError(source, f"is damaged or not complete: {reason(error)}")


def reason(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    said = re.sub(r"\s+", " ", str(error).strip().partition("\n")[0]) or type(error).__name__
    if parts := re.search(r" expected \[(.*)\], but only \{(.*)\} were passed", said):  # of a pipeline's components
        needed, there = (set(re.findall(r"'(\w+)'", part)) for part in parts.groups())
        if lacking := sorted(name for name in needed - there if not name.startswith("weak_")):
            return f"it has no {', '.join(lacking)}; give None for each that is not needed"
    return shortened(said).rstrip(".")


def _collect(source: Source, content: Any, prefix: str, into: Tensors, depth: int, seen: set[int]) -> None:
    if not isinstance(content, Mapping) or id(content) in seen:  # a dictionary may hold itself
        return
    seen.add(id(content))
    if depth > DEEPEST:
        raise WeightsError(source, f"is damaged: it holds dictionaries in dictionaries, more than {DEEPEST} deep")
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            if not isinstance(name, str):
                kind = type(name).__name__
                raise WeightsError(source, f"holds a tensor under {shortened(repr(name))}, a {kind}; accepted: names")
            if value.is_meta or value.layout != torch.strided or value.is_quantized:
                raise WeightsError(source, f"holds {shortened(name)}, which is no plain tensor; accepted: weights")
            into[prefix + name] = value
            if len(into) > MOST:
                raise WeightsError(source, f"holds more than {MOST:,} tensors; accepted: the weights of one model")
        elif isinstance(value, Mapping) and isinstance(name, str):
            _collect(source, value, f"{prefix}{name}.", into, depth + 1, seen)


@contextmanager
def explained(source: Source, variant: str | None = None) -> Iterator[None]:
    """Turns errors inside into errors that name the argument, the value, and what to do."""
    try:
        yield
    except (WeightsError, WeightsNotFound, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # configurations, and the libraries that read them, raise errors of every kind
        said = reason(error)
        if "meta tensor" in said:
            said = "weights are missing in it"
        if isinstance(error, SingleFileComponentError):
            said += ". Pass the component itself, as in vae=AutoencoderKL.from_pretrained(...)"
        if source.path is None and isinstance(error, OSError):
            command = download_command(source.argument, source.value, variant, source.denoiser)
            first = said.split(". ")[0].split(" (")[0]
            raise WeightsNotFound(
                source,
                f"is neither a path nor a hub repository whose weights are on this machine."
                f" Get them with\n  {command}\n({first})",
            ) from error
        if isinstance(error, FileNotFoundError):
            raise WeightsNotFound(source, f"lacks a file: {said}") from error
        raise WeightsError(source, f"cannot be loaded: {said}.") from error
