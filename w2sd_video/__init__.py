"""Weak-to-strong diffusion with reflection (W2SD) for pipelines of diffusers.

The public names are here. Each is imported on first use, so `import w2sd_video` loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Refused, WeightsError, WeightsNotFound
    from .eval.evaluate import evaluate
    from .generate import generate
    from .hook import apply_reflection
    from .methods import (
        APG,
        METHODS,
        S2WD,
        W2SD,
        AdvancedReSampling,
        AutoGuidance,
        CFGZeroStar,
        Foresight,
        GuidanceSchedule,
        Method,
        Optimistic,
        PerturbedAttentionGuidance,
        PredictAndPerturb,
        ReSampling,
        S2Guidance,
        SkipLayerGuidance,
        Weak,
        ZSampling,
    )
    from .pipelines import (
        W2SDAnimateDiffControlNetPipeline,
        W2SDAnimateDiffPipeline,
        W2SDAnimateDiffSDXLPipeline,
        W2SDCogVideoXImageToVideoPipeline,
        W2SDCogVideoXPipeline,
        W2SDDiTMoEPipeline,
        W2SDFluxPipeline,
        W2SDHunyuanVideo15Pipeline,
        W2SDHunyuanVideoPipeline,
        W2SDLTXImageToVideoPipeline,
        W2SDLTXPipeline,
        W2SDMochiPipeline,
        W2SDQwenImagePipeline,
        W2SDSanaPipeline,
        W2SDStableDiffusion3Pipeline,
        W2SDStableDiffusionControlNetPipeline,
        W2SDStableDiffusionPipeline,
        W2SDStableDiffusionXLControlNetPipeline,
        W2SDStableDiffusionXLPipeline,
        W2SDWanImageToVideoPipeline,
        W2SDWanPipeline,
    )
    from .runs import Request

    __version__: str

__all__ = [
    "APG",
    "METHODS",
    "S2WD",
    "W2SD",
    "AdvancedReSampling",
    "AutoGuidance",
    "CFGZeroStar",
    "Foresight",
    "GuidanceSchedule",
    "Method",
    "Optimistic",
    "PerturbedAttentionGuidance",
    "PredictAndPerturb",
    "ReSampling",
    "Refused",
    "Request",
    "S2Guidance",
    "SkipLayerGuidance",
    "W2SDAnimateDiffControlNetPipeline",
    "W2SDAnimateDiffPipeline",
    "W2SDAnimateDiffSDXLPipeline",
    "W2SDCogVideoXImageToVideoPipeline",
    "W2SDCogVideoXPipeline",
    "W2SDDiTMoEPipeline",
    "W2SDFluxPipeline",
    "W2SDHunyuanVideo15Pipeline",
    "W2SDHunyuanVideoPipeline",
    "W2SDLTXImageToVideoPipeline",
    "W2SDLTXPipeline",
    "W2SDMochiPipeline",
    "W2SDQwenImagePipeline",
    "W2SDSanaPipeline",
    "W2SDStableDiffusion3Pipeline",
    "W2SDStableDiffusionControlNetPipeline",
    "W2SDStableDiffusionPipeline",
    "W2SDStableDiffusionXLControlNetPipeline",
    "W2SDStableDiffusionXLPipeline",
    "W2SDWanImageToVideoPipeline",
    "W2SDWanPipeline",
    "Weak",
    "WeightsError",
    "WeightsNotFound",
    "ZSampling",
    "__version__",
    "apply_reflection",
    "evaluate",
    "generate",
]
# The modules of the public names; a pipeline's is `pipelines`, a method's is `methods`.
_MODULES = {
    "Refused": "errors",
    "Request": "runs",
    "WeightsError": "errors",
    "WeightsNotFound": "errors",
    "apply_reflection": "hook",
    "evaluate": "eval.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: Any
    if name == "__version__":
        value = metadata.version("w2sd-video")
    elif name == "generate":  # the module, which can be called as its function; an import of it sets the name as well
        value = import_module(".generate", __name__)
    else:
        usual = "pipelines" if name.endswith("Pipeline") else "methods"
        value = getattr(import_module(f".{_MODULES.get(name, usual)}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
