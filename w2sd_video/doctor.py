"""Reports on this machine: versions, devices, ffmpeg, and the weights of presets and scorers."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import presets
from .documents import read_json
from .errors import Refused, WeightsError, WeightsNotFound
from .families import FAMILIES
from .runs import Request
from .settings import VARIANTS
from .threads import cores

if TYPE_CHECKING:
    from .models.sources import Source

PACKAGES = (
    "w2sd-video torch diffusers transformers accelerate peft safetensors huggingface-hub numpy pillow imageio-ffmpeg av"
)
Rows = list[tuple[str, str]]
FILES = ("adapters", "ip_adapter")  # roles whose repositories may name their files freely
STRONG = ("strong", "vae", "motion_adapter", "controlnet.model")  # roles that a run without the weak arm needs


def report(name: str | None = None, folder: Path | None = None) -> dict[str, Rows]:
    """The report's sections by title, each with rows of (item, state).

    Args:
        name: a preset, whose weights and memory alone are reported.
        folder: where the scorers' weights are looked for. None: the caches.

    Raises:
        Refused: there is no such preset.
    """
    if name is not None:
        only = [presets.load(name)]
        sections = {"Weights": weights(only), "Memory of pairs of transformers": memory(only)}
        return {title: rows for title, rows in sections.items() if rows}
    sections = {
        "Versions": versions(),
        "Devices": devices(),
        "ffmpeg": [ffmpeg()],
        "Weights": weights(),
        "Memory of pairs of transformers": memory(),
        "Weights of scorers": scorers(folder),
    }
    return {title: rows for title, rows in sections.items() if rows}


def versions() -> Rows:
    from .provenance import package_versions  # imports torch, which is slow

    rows = [("python", f"{platform.python_version()} on {platform.platform()}")]
    numbers = package_versions(PACKAGES.split())
    return [*rows, *((name, number or f"missing: pip install {name}") for name, number in numbers.items())]


def devices() -> Rows:
    """The processor and the accelerators that torch can use, with their memory."""
    import torch

    rows = [("cpu", f"{cores()} cores, {torch.get_num_threads()} threads, {_memory()}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "Apple GPU, shares the memory"))
    return rows


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 2**30:.0f} GiB of memory, {memory.available / 2**30:.0f} GiB free"


def ffmpeg() -> tuple[str, str]:
    from . import video  # imports numpy, which is slow

    try:
        program = video.ffmpeg()
        output = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
        return (program, output.split(" Copyright")[0].removeprefix("ffmpeg version "))
    except (OSError, subprocess.CalledProcessError) as error:
        return ("missing", f"{error}; pip install imageio-ffmpeg")


def weights(only: Sequence[presets.Preset] | None = None) -> Rows:
    """For each model of a preset: its place or the command that gets it, and the presets that use it.

    Args:
        only: the presets. None: every one.
    """
    roles: dict[str, str] = {}
    denoisers: dict[str, str] = {}
    users: dict[str, list[str]] = {}
    loaded, broken = presets.every() if only is None else (only, [])
    for preset in loaded:
        refiner = {} if preset.refine in (None, "shapes") else {"refine": str(preset.refine)}
        for role, model in (preset.models | refiner).items():
            denoisers[model] = presets.FAMILIES[preset.family].denoiser
            users.setdefault(model, []).append(preset.name)
            if roles.get(model) != "strong":  # as the strong model it needs more of its files
                roles[model] = role.partition(".")[0]
    rows = []
    for model, role in roles.items():
        named, more = users[model][:3], len(users[model][3:])
        for_ = ", ".join(named) + (f" and {more} more" if more else "")
        rows.append((model, f"{find(model, role, denoisers[model])[1]}  (for {for_})"))
    return [*rows, *(("a preset that cannot be used", str(error)) for error in broken)]


def scorers(folder: Path | None = None) -> Rows:
    """For each dimension: the size and licence of its weights, and their place or the command that gets them.

    Args:
        folder: where they are looked for. None: the caches.
    """
    from .eval.dimensions import NAMES, get
    from .eval.weights import file_of

    rows = []
    for name in NAMES:
        for each in get(name).weights:
            try:
                if (path := each.find(folder)) is not None:
                    file_of(path)  # which says what a folder without weights lacks
                others = " or ".join(each.places[1 - each.in_hub :])
                state = f"missing; get it with: {each.command(folder)}" + f"  (or have it as {others})" * bool(others)
                state = f"found: {path}" if path else state
            except ValueError as error:
                state = str(error)
            if not each.importable:
                state += f"; and it needs: pip install {each.needs}"
            rows.append((name, f"{each.name}, {each.size / 1e6:,.0f} MB, {each.licence}; {state}"))
    return rows


def find(reference: str, role: str, denoiser: str = "unet") -> tuple[bool, str]:
    """Whether a model of a preset is on this machine, and in words its place or how to get it.

    Args:
        denoiser: the folder of its denoiser; see `download_command`.
    """
    from .models.sources import cached, download_command, resolve

    try:
        source = resolve(reference, role)
    except WeightsNotFound as error:
        if reference.startswith("package:"):
            return False, error.what
        return False, "missing: put it there; `w2sd-video presets NAME` says where it comes from"
    except Refused as error:
        return False, str(error)
    if source.path is not None:
        if reference.startswith("package:"):
            there = source.is_file or any(source.path.rglob("*.safetensors"))
            return there, f"shipped, {_megabytes(source.path)}" if there else "missing: reinstall the package"
        return True, f"found, {_megabytes(source.path)}: {source.path.absolute()}"
    assert source.repository is not None
    if source.inside:
        command = f'hf download {source.repository} --include "{source.inside}"'
        folder = source.inside.rpartition("/")[0]
        command += f' --include "{folder}/image_encoder/*"' if role == "ip_adapter" else ""
    else:
        command = download_command(role, source.repository, denoiser=denoiser)
    for name in [source.inside] if source.inside else ["model_index.json", "config.json"]:
        file = cached(source, None, name)
        if file and role == "strong" and not source.inside and (lacking := _without_weights(file)):
            return False, f"missing in part, without {' and '.join(lacking)}; get it with: {command}"
        if file and (source.inside or any(any(file.parent.rglob(f"*.{kind}")) for kind in ("safetensors", "bin"))):
            place = file if source.inside else file.parent
            return True, f"found, {_megabytes(place)}: {place}"
    return False, f"missing; get it with: {command}"


def _without_weights(index: Path) -> list[str]:
    """The text encoders of a model on the hub that were not downloaded with it, as where it was to be a weak arm."""
    from .models.weight_files import usual_variant, weight_files

    try:
        parts = [name for name, value in read_json(index).items() if name.startswith("text_encoder") and any(value)]
    except (OSError, ValueError, TypeError, AttributeError):  # loading the model reports this
        return []
    folders = {name: index.parent / name for name in sorted(parts)}
    return [name for name, folder in folders.items() if not weight_files(folder, usual_variant(folder))]


def missing(requests: Iterable[Request]) -> list[str]:
    """The hub repositories that requests need and this machine lacks: for each, its role, its name and the command that
    gets it. Paths and single files are not checked: loading refuses a missing path and downloads a single file.
    """
    from .models.sources import resolve

    lacking = []
    seen = set()
    for request in requests:
        arms = {role: model for role, model in request.models.items() if request.variant != "plain" or role in STRONG}
        for role, model in arms.items():
            # Sampled alone, the weak model needs its text encoders and its autoencoder too.
            whole = role == "weak" and request.weak_alone and "weak" in VARIANTS[request.variant]
            needs = "strong" if whole else role
            if (needs, model) in seen or role.partition(".")[0] in FILES or model.startswith("package:"):
                continue
            seen.add((needs, model))
            source = resolve(model, role)
            if source.path is None and not source.inside:
                there, state = find(model, needs, FAMILIES[request.family].denoiser)
                lacking += [] if there else [f"{role}: {model} is {state}"]
    return lacking


def check_there(requests: Iterable[Request]) -> None:
    """Refuses requests whose models are missing or belong to another family, before torch is imported.

    Raises:
        WeightsNotFound: names all missing models, and how to get each.
        WeightsError: a model belongs to another family.
    """
    requests = list(requests)
    check_models(requests)
    if lacking := missing(requests):
        raise WeightsNotFound("", "\n  ".join(["not all weights are on this machine", *lacking]))


def check_models(requests: Iterable[Request]) -> None:
    """Refuses requests whose models belong to another family or are folders of none, before torch is imported.

    Raises:
        WeightsNotFound, WeightsError: see `check_there`.
    """
    for role, model, family in dict.fromkeys(
        (role, model, each.family)
        for each in requests
        for role, model in each.models.items()
        if (each.variant != "plain" or role in STRONG) and role.partition(".")[0] not in FILES
    ):
        if role in ("strong", "weak"):
            _check_family(role, model, family)
        else:
            _check_network(role, model)


def _check_family(role: str, model: str, family: str) -> None:
    """Refuses a model if its `model_index.json`, or else a built-in preset, assigns it to another family.

    Raises:
        WeightsError: names that family, and presets of it.
        WeightsNotFound: it is a folder that holds no model.
    """
    from .models.sources import cached, resolve

    def kin(name: str) -> str:
        return FAMILIES[name].models_of or name

    source = resolve(model, role)
    if source.is_file or source.inside:
        return
    known: list[str] = []
    is_ = "is of the family"
    index = source.path / "model_index.json" if source.path else cached(source, None, "model_index.json")
    if index is not None and index.is_file():
        try:
            cls = str(read_json(index)["_class_name"]).removeprefix("W2SD")
        except (OSError, ValueError, KeyError, TypeError):  # loading the model reports this
            return
        known = [name for name, each in FAMILIES.items() if cls == each.pipeline.removeprefix("W2SD")]
        is_ = f"is a {cls}, of the family"
    elif source.path is None:
        loaded = map(presets.load, presets.builtin())
        known = [each.family for each in loaded if model in (each.strong, each.weak)]
    else:
        file = "" if FAMILIES[family].transformer else ", or a single file in the original layout"
        accepted = f"a folder that a diffusers pipeline was saved to, a hub id{file}"
        raise WeightsNotFound(source, f"has no model_index.json. Accepted: {accepted}")
    if known and kin(family) not in map(kin, known):
        of = [name for name in presets.builtin() if kin(presets.load(name).family) == kin(known[0])]
        way = f"and this pair is of {family}. Choose a preset of its family: --preset {', '.join(of[:5])}"
        raise WeightsError(source, f"{is_} {known[0]}, {way}")
    if source.path is not None:
        _check_weights(source, source.path, FAMILIES[family].denoiser.rstrip("*"))


def _check_network(role: str, model: str) -> None:
    """Refuses a folder that holds no network, such as an autoencoder's.

    Raises:
        WeightsNotFound: names the file that it lacks.
    """
    from .models.sources import resolve

    source = resolve(model, role)
    if source.path is not None and not source.is_file:
        _check_weights(source, source.path)


def _check_weights(source: Source, folder: Path, part: str = "") -> None:
    """Refuses the folder of a network, `part` of a model's folder, without a configuration or weights."""
    from .models.weight_files import usual_variant, weight_files

    if not (folder / part / "config.json").is_file():
        raise WeightsNotFound(source, f"has no {part}{'/' * bool(part)}config.json")
    if not weight_files(folder / part, usual_variant(folder / part)):
        raise WeightsNotFound(source, f"holds no weights{f' in {part}/' * bool(part)}")


BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # per parameter


def memory(only: Sequence[presets.Preset] | None = None) -> Rows:
    """For each pair of transformers: the memory that its weights take on the device, by dtype and way to offload.
    Networks whose size this machine does not know are listed as unknown.

    Args:
        only: the presets. None: every one.
    """
    rows = []
    for preset in presets.every()[0] if only is None else only:
        if presets.FAMILIES[preset.family].transformer:
            rows.append((preset.name, _memory_of(preset)))
    return rows


def _memory_of(preset: presets.Preset) -> str:
    """The memory that the weights of a pair take, in words."""
    sizes, unknown = _networks(preset)
    missing = f"unknown: {', '.join(unknown)}" if unknown else ""
    if not sizes:
        return f"{missing or 'unknown'} (no configuration or weights on this machine)"
    counts = {name: sum(each.values()) for name, each in sizes.items()}
    size, other = BYTES[preset.dtype], 6 - BYTES[preset.dtype]
    at_once = f"{_gb(sum(counts.values()) * size)} in {preset.dtype}"
    at_once += f" ({_gb(sum(counts.values()) * other)} in {'bfloat16' if other == 2 else 'float32'})"
    kept = {name: _gb(most * size) for name, most in _offloaded(sizes).items()}
    offloaded = ", ".join(f"{name} {most}" for name, most in kept.items())
    each = ", ".join(f"{part} {count / 1e9:.2f}" for part, count in counts.items())
    parts = [f"{at_once} of weights", f"on the device with --offload {offloaded}", f"billions of parameters: {each}"]
    return "; ".join([*parts, *([missing] if missing else [])])


def _networks(preset: presets.Preset) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The sizes of the networks that a pair loads, and the names of networks whose size is not known.

    Networks that both arms share appear once; of the weak model, only the transformers are loaded.

    Returns:
        By network, the number of parameters of each tensor by name; and the unknown networks.
    """
    from .models import sizes

    known, unknown = sizes.parameters(preset.strong, "strong")
    if not any(name.startswith("transformer") for name in known):
        unknown = unknown or ["the strong model"]
    elif set(known) == set(sizes.PUBLISHED.get(preset.strong, ())):
        unknown = [*unknown, "text encoders and autoencoder"]
    if preset.weak is not None and preset.weak != preset.strong:
        weak, lacking = sizes.parameters(preset.weak, "weak", "transformer")
        known |= {f"weak_{name}": each for name, each in weak.items()}
        unknown += [f"weak_{name}" for name in lacking] if weak or lacking else ["the weak model"]
    return known, unknown


def _offloaded(networks: dict[str, dict[str, int]]) -> dict[str, int]:
    """The most parameters on the device at once, by way to offload.

    `model` moves one whole network to the device at a time, and keeps the weak transformers there beside the strong
    transformers and the autoencoder. `group` keeps two blocks of each network that runs, and what is in no block.
    """
    from .models.sizes import largest_at_once

    counts = {name: sum(each.values()) for name, each in networks.items()}
    weak = sum(count for name, count in counts.items() if name.startswith("weak_"))
    texts = [count for name, count in counts.items() if name.startswith(("text_encoder", "image_encoder"))]
    later = [count for name, count in counts.items() if name.startswith(("transformer", "vae"))]
    blocks = {name: largest_at_once(each) for name, each in networks.items()}
    arms = [sum(b for n, b in blocks.items() if n.removeprefix("weak_") == name) for name in blocks]
    return {"model": max([*texts, *(weak + count for count in later)]), "group": max(arms)}


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _megabytes(folder: Path) -> str:
    files = [folder] if folder.is_file() else folder.rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
    return f"{size / 1e6:.1f} MB"
