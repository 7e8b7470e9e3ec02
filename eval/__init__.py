"""Scores videos as VBench does: `evaluate` them, and see what the scores come to with `results.Summary`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

# Modules by the names that scripts import them by, and where they lie now.
_MOVED = {f"{__name__}.{name}": f"{__name__}.dimensions.{name}" for name in ("fid", "temporal_flickering")}
_MOVED |= {
    f"{__name__}.{name}": f"{__name__}.networks.{name}"
    for name in ("amt", "clip", "correlations", "image_reward", "mps", "musiq", "raft", "viclip")
}


class _Moved:
    """Imports a module by its former name as the module itself, not as a second copy of it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Moved) if name in _MOVED else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        name = _MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {name}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(name)  # importlib hands on what lies there


sys.meta_path.append(_Moved)
