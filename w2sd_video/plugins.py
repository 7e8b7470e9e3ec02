"""Plug-ins: methods, dimensions, presets and prompt suites from outside this package.

Installed distributions offer them as entry points, in the groups of `GROUPS`. A plug-in in a file is named
`FILE.py:NAME`, and is identified by that name without folders, `mine.py:Mine`, and by the file's SHA-256.

Only the command line and Python can make this package run a file: they call `from_file`. Requests, sidecars and plans
go through `find`, which accepts only files that `from_file` has run already.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from .documents import read_bytes
from .errors import Refused, did_you_mean, note_once

Kind = Literal["method", "dimension", "preset", "prompts"]
GROUPS: dict[Kind, str] = {
    "method": "w2sd_video.methods",
    "dimension": "w2sd_video.dimensions",
    "preset": "w2sd_video.presets",
    "prompts": "w2sd_video.prompts",
}
ARGUMENTS: dict[Kind, str] = {"method": "method", "dimension": "dimensions", "preset": "preset", "prompts": "prompts"}
NAME = re.compile(r"\w[\w.-]*")
OURS = "w2sd-video"


@dataclass(frozen=True)
class Plugin:
    """An imported plug-in.

    Attributes:
        kind: what it is a plug-in of.
        name: its entry point's name, or `FILE.py:NAME` without folders.
        value: its class or function; for a preset or a prompt suite, its file.
        source: where it comes from, in words.
        distribution, version: of an installed plug-in. None for a file.
        sha256: the hash of a plug-in's file. None for an installed one.
    """

    kind: Kind
    name: str
    value: Any
    source: str
    distribution: str | None = None
    version: str | None = None
    sha256: str | None = None


_RUN: dict[tuple[Kind, str, str], Plugin] = {}  # plug-ins of files that have run, by kind, name and SHA-256


def is_file(name: str) -> bool:
    """Whether a name is that of a plug-in in a file, `FILE.py:NAME`."""
    return re.fullmatch(r".+\.py:\w+", name) is not None


def from_name(kind: Kind, name: str) -> Plugin | None:
    """Runs the file of a name `FILE.py:NAME`, and returns its plug-in. None: the name is not that of a file.

    Raises:
        Refused: as for `from_file`; or the name is `FILE.py` alone.
    """
    if is_file(name):
        return from_file(kind, name)
    if not name.endswith(".py"):
        return None
    form = "FILE.py:CLASS" if kind == "method" else "FILE.py:NAME"
    try:
        tree = ast.parse(read_bytes(Path(os.path.expanduser(name))))
    except (OSError, ValueError, SyntaxError, RecursionError):
        raise Refused(ARGUMENTS[kind], name, f"give {form}") from None
    kinds = (ast.ClassDef,) if kind == "method" else (ast.ClassDef, ast.FunctionDef)
    names = [each.name for each in tree.body if isinstance(each, kinds) and not each.name.startswith("_")]
    if kind != "method":
        assigned = [target for each in tree.body if isinstance(each, ast.Assign) for target in each.targets]
        names += [each.id for each in assigned if isinstance(each, ast.Name)]
    raise Refused(ARGUMENTS[kind], name, f"give {form}; this file has {', '.join(names) or 'none'}")


def from_file(kind: Kind, named: str) -> Plugin:
    """Runs a file and returns its plug-in. The file is read once: the bytes that run are the bytes that are hashed.

    Args:
        kind: "method", "dimension", "preset" or "prompts".
        named: `FILE.py:NAME`, with NAME a class or another object in the file.

    Raises:
        Refused: the file cannot be read, its code raises an error, or it has no such name.
    """
    if kind not in ARGUMENTS:
        raise Refused("kind", kind, f"give {', '.join(ARGUMENTS)}")
    argument = ARGUMENTS[kind]
    file, _, attribute = named.rpartition(":")
    path = Path(os.path.expanduser(file)).absolute()
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as error:
        raise Refused(
            argument, named, f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    key = kind, f"{path.name}:{attribute}", sha256
    if key not in _RUN:
        module = ModuleType(_module_name(path, sha256))
        module.__file__ = str(path)
        if module.__name__ not in sys.modules:
            sys.modules[module.__name__] = module  # dataclasses look up the types of fields there
            try:
                exec(compile(data, str(path), "exec"), module.__dict__)
            except BaseException as error:
                del sys.modules[module.__name__]
                raise _unusable(argument, named, str(path), error) from None
        module = sys.modules[module.__name__]
        if not hasattr(module, attribute):
            raise Refused(argument, named, f"{path} has no such name; {did_you_mean(attribute, _names(kind, module))}")
        _RUN[key] = Plugin(kind, key[1], getattr(module, attribute), f"{path.name} sha256:{sha256}", sha256=sha256)
    return _RUN[key]


def place_of(error: BaseException, files: Collection[str] | None = None) -> str | None:
    """The file and the line at which an error left some files' code, in words. None: none of them is in its traceback.

    Args:
        files: Default: those that have run as plug-ins.
    """
    if files is None:
        files = {name.rpartition(":")[0] for _, name in named()}
    places = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return "{}, line {}".format(*places[-1]) if places else None


def _module_name(path: Path, sha256: str) -> str:
    """The name in `sys.modules` of a file that has run."""
    return f"w2sd_video_file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{sha256[:16]}"


def _names(kind: Kind, module: ModuleType) -> list[str]:
    """The names in a file that can be a plug-in: its classes, and for dimensions its functions and instances too."""
    names = []
    for name, each in vars(module).items():
        own = getattr(each, "__module__", "") == module.__name__ and (isinstance(each, type) or kind == "dimension")
        instance = kind == "dimension" and not isinstance(each, type) and hasattr(each, "score")
        if (own or instance) and not name.startswith("_"):
            names.append(name)
    return names


def was_run(kind: Kind, name: str, sha256: str) -> bool:
    """Whether a file's plug-in with this content has run."""
    return (kind, name, sha256) in _RUN


def _names_run() -> set[tuple[Kind, str]]:
    return {(kind, name) for kind, name, _ in _RUN}


def named() -> list[tuple[Kind, str]]:
    """The kind and the full name, `FOLDER/FILE.py:NAME`, of each plug-in that has run, for other processes of a run."""
    full_names = []
    for kind, name, sha256 in _RUN:
        file, _, attribute = name.rpartition(":")
        module = sys.modules[_module_name(Path(file), sha256)]
        full_names.append((kind, f"{module.__file__}:{attribute}"))
    return full_names


def _unusable(argument: str, name: str, file: str, error: BaseException, owner: str = "") -> BaseException:
    """What is raised in place of an error in a plug-in's code: one sentence with the plug-in, the file and the line."""
    if isinstance(error, (KeyboardInterrupt, MemoryError)):
        return error
    lineno = error.lineno if isinstance(error, SyntaxError) else None
    place = f"{file}, line {lineno}" if lineno else place_of(error, [file])
    where = f"{f'{owner}: ' * bool(owner)}{f'{place},' if place else file}"
    said = str(error.msg if isinstance(error, SyntaxError) else error).strip().partition("\n")[0]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return Refused(argument, name, f"{where} cannot be imported: {what}")


def installed(kind: Kind) -> dict[str, list[EntryPoint]]:
    """The entry points of installed distributions, by name, without importing them."""
    return _installed(kind, tuple(sys.path))


@lru_cache
def _installed(kind: Kind, places: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUPS[kind]):
        if point.dist is None or point.dist.name != OURS:
            points.setdefault(point.name, []).append(point)
    return dict(sorted(points.items()))


def names(kind: Kind, builtin: Collection[str]) -> list[str]:
    """The names of installed plug-ins that can be used."""
    return [name for name, points in installed(kind).items() if not problem(name, points, builtin)]


def taken(kind: Kind, builtin: Collection[str]) -> list[Refused]:
    """The errors of installed plug-ins that have the name of one that is built in. The built-in ones are used."""
    names = [name for name in installed(kind) if name in builtin]
    return [Refused(ARGUMENTS[kind], name, problem(name, installed(kind)[name], builtin)) for name in names]


def problem(name: str, points: list[EntryPoint], builtin: Collection[str]) -> str:
    """Why the installed plug-ins of one name cannot be used; empty if there is exactly one that can."""
    owners = " and ".join(_owner(point) for point in points)
    if points and name in builtin:
        return f"{owners} has a plug-in of the name {name}, which is built in and stays so: rename the plug-in"
    if len(points) > 1:
        return f"{owners} have plug-ins of this name: uninstall one"
    if points and not NAME.fullmatch(name):
        return f"{owners} has a plug-in of this name, which has more than letters, digits, _, . and -"
    return ""


def first_paragraph(docstring: str) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join(docstring.strip().partition("\n\n")[0].split())


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def find(
    kind: Kind, name: str, builtin: Collection[str], sha256: str | None = None, more: Iterable[str] = ()
) -> Plugin | None:
    """The plug-in of a name. None: the name is built in.

    Args:
        builtin: the names that are built in.
        sha256: for a file's plug-in, the SHA-256 of the file. None: any file of that name, if only one has run.
        more: other accepted words, for the message.

    Raises:
        Refused: there is no such plug-in; several have it; its code raises an error; or it is in a file that
            neither the command line nor Python has named.
    """
    argument = ARGUMENTS[kind]
    if is_file(name):
        run = [each for (k, n, sha), each in _RUN.items() if (k, n) == (kind, name) and sha256 in (None, sha)]
        file, _, attribute = name.rpartition(":")
        if len(run) > 1:
            raise Refused(argument, name, f"{len(run)} different files of the name {file} were named: rename one")
        if not run and (inside := f"{os.path.basename(file)}:{attribute}") != name and (kind, inside) in _names_run():
            raise Refused(argument, name, f"a file that has run is known without its folder: give {inside}")
        if not run:
            said = name if os.path.isabs(name) else f"FOLDER/{name}"
            way = f"code runs only from a file that is named: give --{argument} {said}"
            way += f", where FOLDER is where {file} lies" * (said != name)
            way += f" with the SHA-256 {sha256}" * (sha256 is not None)
            in_python = f'in Python, call w2sd_video.plugins.from_file("{kind}", "{said}") first'
            raise Refused(argument, name, f"{way}; {in_python}")
        return run[0]
    points = installed(kind).get(name, [])
    if name in builtin:  # also if a plug-in has this name
        for error in taken(kind, [name]):
            note_once(str(error.accepted))
        return None
    if why := problem(name, points, builtin):
        raise Refused(argument, name, why)
    if not points:
        raise Refused(argument, name, did_you_mean(name, [*builtin, *names(kind, builtin), *more]))
    return _imported(kind, points[0])


def _imported(kind: Kind, point: EntryPoint) -> Plugin:
    owner, file = _owner(point), point.value
    try:
        file = getattr(find_spec(point.module), "origin", None) or file
        module = import_module(point.module)
        if kind in ("preset", "prompts"):
            folder = Path(next(iter(module.__path__)))
            value: Any = next(
                (file for file in sorted(folder.glob(f"{point.name}.*")) if file.suffix not in (".py", ".pyc")),
                folder / f"{point.name}.yaml",
            )
        else:
            value = point.load()
    except BaseException as error:
        raise _unusable(ARGUMENTS[kind], point.name, file, error, owner) from None
    distribution, version = (point.dist.name, point.dist.version) if point.dist else (None, None)
    return Plugin(kind, point.name, value, owner, distribution, version)
