"""Where is this model? The one resolver of hub ids, files in hub repositories, paths, and what the package ships.

Nothing here needs torch: the command line refuses a wrong reference before it imports anything that takes seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import Refused, WeightsError, WeightsNotFound

PACKAGE = Path(__file__).parents[1]
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
"""What files of weights are called."""

GGUF = ".gguf"
"""What a transformer's file of quantised weights is called."""

ACCEPTED = (
    f"give a hub id (OWNER/NAME), a file in a hub repository (OWNER/NAME/FILE), a folder, or a file"
    f" ({', '.join(SUFFIXES)})"
)
_NAME = r"\w[\w.-]*"


@dataclass(frozen=True)
class Source:
    """A model reference, resolved.

    Attributes:
        argument: the argument that named it, for messages.
        value: the reference.
        path: the file or folder on this machine; None for what is on the hub and has not been fetched.
        repository: of what is on the hub: `OWNER/NAME`.
        inside: of what is on the hub: the file or folder in the repository; "" for all of it.
        denoiser: the folders of the model's denoisers, as of `download_command`.
    """

    argument: str
    value: str
    path: Path | None
    repository: str | None = None
    inside: str = ""
    denoiser: str = "unet"

    @property
    def is_file(self) -> bool:
        """Whether it is one file of weights, here or on the hub."""
        if self.path is not None:
            return self.path.is_file()
        return self.inside.lower().endswith((*SUFFIXES, GGUF))

    @property
    def quoted(self) -> str:
        """The reference, for messages; empty where there is none."""
        return repr(shortened(self.value)) if self.value else ""

    def __str__(self) -> str:
        return f"{self.argument}: {self.quoted}"


def shortened(text: str, most: int = 200) -> str:
    """The text, cut in its middle where it is longer than a message should be."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 4 :]}"


def resolve(value: str | os.PathLike[str], argument: str = "model", folders: bool = False) -> Source:
    """Where a model is, as far as can be said without the network.

    Args:
        value: a path; `package:PATH` of what the package ships; a hub id, `OWNER/NAME`; or a file in a hub
            repository, `OWNER/NAME/FILE`. What is on this machine under that name comes first.
        argument: what `value` is called in messages.
        folders: whether a folder in a hub repository, `OWNER/NAME/FOLDER`, is accepted too.

    Raises:
        Refused: it is no reference at all.
        WeightsNotFound: there is no such path, and it cannot be on the hub.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text.strip():
        raise Refused(argument, value, ACCEPTED)
    if text.startswith("package:"):
        return Source(argument, text, _shipped(argument, text))
    try:
        path = Path(text).expanduser()
        there = path.exists()
    except PermissionError as error:
        raise WeightsNotFound(Source(argument, text, None), f"cannot be read ({error.strerror})") from None
    except (RuntimeError, ValueError, OSError):  # ~nobody, a NUL byte, a name that is too long
        raise Refused(argument, shortened(text), f"it is no path; {ACCEPTED}") from None
    if there:
        if not path.is_file() and not path.is_dir():
            raise Refused(argument, shortened(text), "give a file or a folder; this is a pipe or a device")
        return Source(argument, text, path)
    hub = re.fullmatch(rf"({_NAME}/{_NAME})(?:/(.+))?", text)
    if hub and (inside := hub[2]):
        plain = re.fullmatch(r"[\w./-]+", inside) and ".." not in PurePosixPath(inside).parts
        hub = hub if plain and (folders or inside.lower().endswith((*SUFFIXES, GGUF))) else None
    elif hub and text.lower().endswith((*SUFFIXES, GGUF)):  # a file in a folder that is not there
        hub = None
    if not hub:
        raise WeightsNotFound(Source(argument, text, None), "is not there, and is no hub id (OWNER/NAME) either")
    return Source(argument, text, None, hub[1], hub[2] or "")


def _shipped(argument: str, text: str) -> Path:
    inside = PurePosixPath(text.removeprefix("package:"))
    if ".." in inside.parts or inside.is_absolute() or "\0" in text or not inside.parts:
        raise Refused(argument, shortened(text), "after package: give a path inside the package")
    path = PACKAGE / inside
    try:
        there = path.exists()
    except OSError:
        there = False
    if not there:
        lost = f"the shipped model is missing: {shortened(str(path))}; install the package anew"
        raise WeightsNotFound(Source(argument, "", None), lost)
    return path


def absolute(reference: str) -> str:
    """A path in full, where there is something of that name; any other reference as it is."""
    try:
        path = os.path.expanduser(reference)
        return os.path.abspath(path) if os.path.exists(path) else reference
    except (ValueError, OSError):
        return reference


def download_command(argument: str, repo_id: str, variant: str | None = None, denoiser: str = "unet") -> str:
    """The `hf` command that fetches what an argument needs of a hub repository, and no more.

    Args:
        denoiser: which folders of a model hold its denoisers: `unet`, or `transformer*`.
    """
    weights = f"{variant}.safetensors" if variant else "safetensors"
    sentence_pieces = ["*/*.model"] * (denoiser != "unet")  # the tokenizers of T5
    latents = ["vae/config.json"] * (denoiser != "unet")  # which two models have to have in common
    patterns = {
        "strong": ["*.json", "*/*.txt", *sentence_pieces, f"*/*.{weights}"],
        "weak": ["model_index.json", "scheduler/*", *latents, f"{denoiser}/*.json", f"{denoiser}/*.{weights}"],
        "refine": ["*.json", "*.txt", "*.model", f"*.{weights}"],
    }.get(argument, ["config.json", f"*.{weights}"])
    command = f"hf download {repo_id} " + " ".join(f'--include "{pattern}"' for pattern in patterns)
    return command if variant else command + ' --exclude "*.fp16.*"'


def cached(source: Source, hub: Mapping[str, Any] | None = None, *names: str) -> Path | None:
    """The file of a hub repository in the hub's cache: `source.inside`, or the first of `names` that is there."""
    from huggingface_hub import try_to_load_from_cache

    assert source.repository is not None
    options = {name: (hub or {})[name] for name in ("cache_dir", "revision") if (hub or {}).get(name)}
    for name in names or (source.inside,):
        path = try_to_load_from_cache(source.repository, name, **options)
        if isinstance(path, str):
            return Path(path)
    return None


def local(source: Source, hub: Mapping[str, Any] | None = None) -> Path:
    """The path of a source; a file on the hub is taken from the cache, or else downloaded.

    Args:
        hub: options of `hf_hub_download`, such as `cache_dir` and `token`.

    Raises:
        WeightsNotFound: it is not on this machine and cannot be downloaded; with the command that gets it.
    """
    if source.path is not None:
        return source.path
    if (path := cached(source, hub)) is not None and not (hub or {}).get("force_download"):
        return path
    from huggingface_hub import hf_hub_download

    assert source.repository is not None
    options = {name: value for name, value in (hub or {}).items() if name != "proxies"}
    try:
        return Path(hf_hub_download(source.repository, source.inside, **options))
    except (OSError, ValueError) as error:
        command = f'hf download {source.repository} --include "{source.inside}"'
        raise WeightsNotFound(source, f"is not on this machine. Get it with\n  {command}") from error


def find(argument: str, value: str | PathLike[str], hub: Mapping[str, Any] | None = None) -> Source:
    """A model's source. A single file is brought to this machine; a hub repository is not.

    Raises:
        Refused, WeightsNotFound: see `resolve`, `local`.
        WeightsError: a file of another type.
    """
    source = resolve(value, argument)
    file = Path(source.inside) if source.path is None and source.is_file else source.path
    if file is not None and not file.is_dir() and file.suffix.lower() not in SUFFIXES:
        kind = file.suffix or "nameless"
        raise WeightsError(
            source,
            f"is a {kind} file. Accepted: a folder in diffusers' layout, a hub id (OWNER/NAME), or a single"
            f" file ({', '.join(SUFFIXES)}), which may be on the hub (OWNER/NAME/FILE).",
        )
    if source.path is None and source.is_file:
        source = replace(source, path=local(source, hub))
    return source
