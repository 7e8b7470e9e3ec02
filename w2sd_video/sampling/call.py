"""Calls a pipeline with a request's settings."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NotFinite, Refused
from ..families import FAMILIES
from ..runs import Request
from .load import scheduler
from .method import method_call

if TYPE_CHECKING:
    from ..hook import Recorder
    from ..methods import Method
    from ..pipelines.reflection import Reflection as Pipeline
    from ..video import Frames

OnStep = Callable[[str, int, int], None]  # gets the video's name, the steps done, and the number of steps


def sample(
    pipe: Pipeline,
    request: Request,
    variant: str,
    on_step: OnStep | None = None,
    recorder: Recorder | None = None,
    method: Method | None = None,
) -> tuple[Frames, dict[str, int]]:
    """Samples one video or image of a request.

    Args:
        variant: which of the request's videos: "weak", "strong" or "w2sd".
        on_step: called after each sampling step.
        recorder: records what the method does.
        method: replaces the request's method.

    Returns:
        The frames, (F, H, W, 3) in `uint8`; and the network evaluations by arm.
    """
    import numpy as np
    import torch

    done, steps = 0, request.num_inference_steps * (request.free_init or 1)

    def step_done(_pipe: Pipeline, _step: int, _t: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        if on_step:
            on_step(f"{request.stem} {variant}", done, steps)
        return kwargs

    call = arguments(pipe, request, variant) | {
        "num_inference_steps": request.num_inference_steps,
        "generator": torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
        "output_type": "np",
        "recorder": recorder,
    }
    if method is not None:
        call["method"] = method
    if "callback_on_step_end" in signature(type(pipe).__call__).parameters:
        call["callback_on_step_end"] = step_done
    loaded = pipe.scheduler
    pipe.scheduler = scheduler(request, loaded.config)
    name, way = f"{request.stem} {variant}", "give dtype float32, or another vae"
    try:
        if request.free_init is not None:
            pipe.enable_free_init(num_iters=request.free_init)
        with pipe.guiding(request.guidance_scale):
            output = pipe(**call)
    except NotFinite as error:
        raise NotFinite(f"{name}: {error.frames}", way) from None
    finally:
        pipe.scheduler = loaded
        if request.free_init is not None:
            pipe.disable_free_init()
    if on_step and not done:  # a pipeline without callbacks
        on_step(name, steps, steps)
    frames = output.frames[0] if request.video else output.images
    broken = ~np.isfinite(frames).reshape(len(frames), -1).all(axis=1)
    if broken.any():
        where = f"{broken.sum()} of {len(frames)} frames of the autoencoder"
        raise NotFinite(f"{name}: {where}", way)
    return (frames * 255).round().astype("uint8"), dict(pipe.evaluations)


def arguments(pipe: Pipeline, request: Request, variant: str) -> dict[str, Any]:
    """The arguments of a pipeline's call for one video of a request, without steps, noise and output.

    The call is to be made in the context `pipe.guiding(request.guidance_scale)`.
    """
    alone = variant == "weak" and request.weak_alone
    call = inputs(pipe, request, alone) | method_call(request, variant)
    embedded = request.embedded_guidance
    if alone and request.weak_embedded_guidance is not None:
        embedded = request.weak_embedded_guidance
    call |= pipe.guided(request.guidance_scale, embedded)
    # A weak model alone may have no second expert.
    if request.guidance_scale_2 is not None and pipe.config.get("boundary_ratio") is not None:
        call["guidance_scale_2"] = request.guidance_scale_2
    call |= {name: value for name in ("guidance_rescale", "eta") if (value := getattr(request, name)) is not None}
    guidances = (request.guidance_scale, request.strong_guidance_scale, request.weak_guidance_scale)
    if FAMILIES[request.family].embedded and any(w != 1 for w in guidances):
        call["negative_prompt"] = call.get("negative_prompt") or ""  # without one, such pipelines do not guide
    return call


def inputs(pipe: Pipeline, request: Request, alone: bool = False) -> dict[str, Any]:
    """The arguments of a pair's call for its content and size: prompts, pictures, frames, height and width.

    Args:
        alone: whether the pipeline is the weak model's own.

    Raises:
        Refused: a picture that cannot be read, or has too few frames; a class that the model does not know.
    """
    call: dict[str, Any] = {"num_frames": request.num_frames, "height": request.height, "width": request.width}
    if not request.textual:
        call["class_labels"] = [pipe.check_prompt(request.prompt)]
    else:
        call |= {"prompt": request.text("prompt"), "negative_prompt": request.negative_prompt}
        if alone:
            weak = {"prompt": request.text("weak_prompt"), "negative_prompt": request.weak_negative_prompt}
            call |= {name: own for name, own in weak.items() if own is not None}
    if request.controlnet is not None:
        size = (request.width, request.height)
        pictures = [each.resize(size) for each in pictures_of(request, "control", request.num_frames or 1)]
        call |= {"conditioning_frames": pictures} if request.video else {"image": pictures[0]}
        call["controlnet_conditioning_scale"] = float(request.controlnet["weak" if alone else "strong"])
    if request.image is not None:
        call["image"] = pictures_of(request, "image", 1)[0].resize((request.width, request.height))
    if request.ip_adapter is not None and not alone:
        call["ip_adapter_image"] = pictures_of(request, "ip_image", 1)[0]
    takes = signature(type(pipe).__call__).parameters
    return {name: value for name, value in call.items() if name in takes}


def pictures_of(request: Request, argument: str, count: int) -> list[Any]:
    """The first `count` frames of a request's picture or video; a single picture is repeated.

    Args:
        argument: the request's field with the path.

    Raises:
        Refused: the file cannot be read, or has too few frames.
    """
    from PIL import Image

    from .. import video

    path = getattr(request, argument)
    try:
        pictures = [Image.fromarray(frame) for frame in video.as_viewed(Path(path), most=max(count, 2))]
    except (OSError, ValueError) as error:
        raise Refused(argument, path, f"it cannot be read as a picture: {error}") from None
    pictures *= count if len(pictures) == 1 else 1
    if len(pictures) < count:
        raise Refused(argument, path, f"it has {len(pictures)} frames; give {count}, or one picture for all")
    return pictures[:count]
