"""Weak-to-strong diffusion with reflection (W2SD) for pipelines of diffusers.

The public names are here. Each is imported on first use, so `import w2sd_video` loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .families import FAMILIES as _FAMILIES
from .method_names import METHODS as _METHODS

# The modules of the public names.
_MODULES = {
    "Answer": "methods",
    "METHODS": "methods",
    "Method": "methods",
    "Refused": "errors",
    "Request": "runs",
    "Weak": "methods",
    "WeightsError": "errors",
    "WeightsNotFound": "errors",
    "__version__": "",
    "apply_reflection": "hook",
    "evaluate": "eval.evaluate",
    "generate": "generation",
    **dict.fromkeys(_METHODS.values(), "methods"),
    **{name: "pipelines" for each in _FAMILIES.values() for name in (each.pipeline, each.with_controlnet) if name},
}

if TYPE_CHECKING:
    from .errors import Refused as Refused
    from .errors import WeightsError as WeightsError
    from .errors import WeightsNotFound as WeightsNotFound
    from .eval.evaluate import evaluate as evaluate
    from .generation import generate as generate
    from .hook import apply_reflection as apply_reflection
    from .methods import *  # noqa: F403
    from .pipelines import *  # noqa: F403
    from .runs import Request as Request

    __version__: str
else:  # type checkers would take a list that they cannot read as empty
    __all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: Any
    if name == "__version__":
        value = metadata.version("w2sd-video")
    else:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
