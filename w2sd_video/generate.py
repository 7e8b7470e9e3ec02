"""From requests to files: loads the models, samples, writes the videos and their sidecars."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import runs, video
from .runs import Refused, Request

if TYPE_CHECKING:
    from .pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline as Pipeline
    from .video import Frames

LABELS = {"weak": "weak", "strong": "strong", "w2sd": "W2SD"}
OnStep = Callable[[str, int, int], None]  # of a video: its name, steps done, steps in all


@dataclass(frozen=True)
class Made:
    """One request's outputs: paths by format (`json` is the sidecar), what the sidecar says, and whether they
    were there already."""

    request: Request
    paths: dict[str, Path]
    record: dict[str, Any]
    kept: bool = False


def generate(
    requests: Sequence[Request],
    out: Path | str = "outputs",
    formats: Sequence[str] = ("mp4",),
    overwrite: bool = False,
    on_step: OnStep | None = None,
    command: Sequence[str] = (),
) -> Iterator[Made]:
    """Makes each request's outputs in the folder `out`, one after another, and yields them.

    A request whose outputs are already there is kept as it is, unless `overwrite`: an interrupted batch goes
    on where it was. Each video has a generator of its own, seeded by its request alone.

    Args:
        requests: what to make.
        out: the folder; made where it is not there.
        formats: some of `runs.FORMATS`.
        overwrite: replace what is there.
        on_step: called after each sampling step.
        command: the command line, for the record.

    Raises:
        runs.Refused: an argument that cannot be used; before anything is made.
        FileExistsError: an output's name is taken by something else; before anything is made.
        OSError: weights that are missing or cannot be read.
    """
    out = Path(out)
    for kind in formats:
        if kind not in runs.FORMATS:
            raise Refused("formats", kind, f"give some of {', '.join(runs.FORMATS)}")
    for request in requests:
        request.check()
    runs.writable(out)
    states = [request.state(out, formats) for request in requests]
    taken = conflicts(requests, out, formats)
    if taken and not overwrite:
        raise FileExistsError(f"{taken[0]} is there already, and is not this very video")
    return _generate(requests, states, out, formats, overwrite, on_step, command)


def conflicts(requests: Sequence[Request], out: Path, formats: Sequence[str]) -> list[Path]:
    """The files in `out` that these requests would replace by something else."""
    return [
        path
        for request in requests
        if request.state(out, formats) == "taken"
        for path in request.outputs(out, formats).values()
        if path.exists()
    ]


def _generate(
    requests: Sequence[Request],
    states: Sequence[str],
    out: Path,
    formats: Sequence[str],
    overwrite: bool,
    on_step: OnStep | None,
    command: Sequence[str],
) -> Iterator[Made]:
    pipelines: dict[str, Pipeline] = {}
    loaded: tuple[object, ...] | None = None
    for request, state in zip(requests, states, strict=True):
        paths = request.outputs(out, formats)
        if state == "made" and not overwrite:
            yield Made(request, paths, runs.read_sidecar(paths["json"])[1], kept=True)
            continue
        models = (request.strong, request.weak, request.motion_adapter, request.weak_text_encoders)
        wanted = (request.variant, *models, request.dtype, request.device)
        if wanted != loaded:
            pipelines.clear()  # let go of one pair before the next is loaded
            pipelines = load(request)
            loaded = wanted
        yield _make(request, pipelines, paths, formats, on_step, command)


def load(request: Request) -> dict[str, Pipeline]:
    """The pipelines of a request's videos: `weak` and `strong` alone, `w2sd` the pair, sharing what they can.

    Raises:
        OSError, ValueError: weights that are missing or cannot be read, with the way to get them.
        Refused: a device that is not there, or more frames than the motion module has positions.
    """
    import torch

    from .pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline as Pipeline

    scheduler(request)  # refuses what diffusers cannot build, before anything is read
    device = runs.usable_device(request.device)
    dtype = getattr(torch, request.dtype)
    strong, weak, motion = (runs.locate(getattr(request, name), name) for name in ("strong", "weak", "motion_adapter"))

    def pipeline(strong: str, **pair: Any) -> Pipeline:
        return Pipeline.from_pretrained(strong, motion_adapter=motion, torch_dtype=dtype, **pair)

    pipelines: dict[str, Pipeline] = {}
    for variant in reversed(runs.VARIANTS[request.variant]):  # the pair first
        if variant == "w2sd":
            pipelines[variant] = pipeline(strong, weak=weak, weak_text_encoders=request.weak_text_encoders)
        elif variant == "strong":
            pipelines[variant] = pipelines["w2sd"] if "w2sd" in pipelines else pipeline(strong)
        else:
            try:
                pipelines[variant] = pipeline(weak)
            except (OSError, ValueError) as error:  # the loader calls the model that leads `strong`
                raise OSError(str(error).replace("strong=", "weak=")) from error
            if "w2sd" in pipelines:  # the same network with its own text encoders and VAE
                pipelines[variant].register_modules(unet=pipelines["w2sd"].weak_unet)
    for pipe in pipelines.values():
        longest = pipe.unet.config.motion_max_seq_length
        if request.num_frames > longest:
            raise Refused("num_frames", request.num_frames, f"the motion module takes from 1 to {longest}")
        pipe.to(device)
        pipe.vae.enable_slicing()  # frames are decoded one by one: memory does not grow with their number
        pipe.set_progress_bar_config(disable=True)
    return pipelines


def sample(
    pipe: Pipeline, request: Request, variant: str, on_step: OnStep | None = None
) -> tuple[Frames, dict[str, int]]:
    """One video of a request: its frames, (F, H, W, 3) in `uint8`, and the network evaluations it took."""
    import torch

    done = 0

    def step_done(_pipe: Pipeline, _step: int, _t: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        if on_step:
            on_step(f"{request.stem} {variant}", done, request.num_inference_steps)
        return kwargs

    arguments: dict[str, Any] = {"method": None}
    if variant == "w2sd":
        arguments = {
            "method": request.method,
            "strong_guidance_scale": request.strong_guidance_scale,
            "weak_guidance_scale": request.weak_guidance_scale,
            "reflection_steps": request.reflection_steps,
            "weak_prompt": request.weak_prompt,
            "weak_negative_prompt": request.weak_negative_prompt,
            "inversion": request.inversion,
            "convention": request.convention,
            **request.options,
        }
    loaded = pipe.scheduler
    pipe.scheduler = scheduler(request, loaded.config.get("prediction_type"))
    try:
        output = pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_frames=request.num_frames,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
            output_type="np",
            callback_on_step_end=step_done,
            **arguments,
        )
    finally:
        pipe.scheduler = loaded
    frames = (output.frames[0] * 255).round().astype("uint8")
    return frames, dict(pipe.evaluations)


def scheduler(request: Request, prediction_type: str | None = None) -> Any:
    """The request's diffusers scheduler.

    Args:
        prediction_type: what the networks predict, which is theirs to say where the request does not.

    Raises:
        Refused: diffusers has no such class, or the class no such argument.
    """
    import diffusers

    config = dict(request.scheduler)
    name = str(config.pop("class", ""))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise Refused("scheduler class", name, "give a scheduler of diffusers, such as DDIMScheduler")
    known = list(signature(cls).parameters)
    for key in config:
        if key not in known:
            raise Refused(f"argument of {name}", key, runs.presets.did_you_mean(key, known))
    if prediction_type and "prediction_type" in known:
        config.setdefault("prediction_type", prediction_type)
    return cls(**config)


def _make(
    request: Request,
    pipelines: dict[str, Pipeline],
    paths: dict[str, Path],
    formats: Sequence[str],
    on_step: OnStep | None,
    command: Sequence[str],
) -> Made:
    started = time.perf_counter()
    videos: dict[str, Frames] = {}
    made: dict[str, Any] = {}
    for variant in runs.VARIANTS[request.variant]:
        began = time.perf_counter()
        frames, evaluations = sample(pipelines[variant], request, variant, on_step)
        videos[variant] = frames
        made[variant] = {
            "method": request.method if variant == "w2sd" else None,
            "evaluations": evaluations,
            "seconds": round(time.perf_counter() - began, 3),
            "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
        }
    compared = len(videos) > 1
    labels = LABELS if request.method == "w2sd" else LABELS | {"w2sd": request.method}
    labelled = {labels[variant]: frames for variant, frames in videos.items()}
    caption = f"{request.prompt}  (seed {request.seed})"
    shown = video.side_by_side(labelled, caption) if compared else next(iter(videos.values()))
    with runs.whole(paths) as staged:
        if "mp4" in formats:
            video.write_mp4(shown, staged["mp4"], request.fps)
        if "gif" in formats:
            video.write_gif(shown, staged["gif"], request.fps)
        if "png" in formats:
            for variant, frames in videos.items():
                video.write_pngs(frames, staged["png"] / variant if compared else staged["png"])
        if compared:
            video.contact_sheet(labelled, caption).save(staged["sheet"], format="PNG")
        record = {
            "videos": made,
            "files": [path.name for kind, path in paths.items() if kind != "json"],
            "formats": list(formats),
            "seconds": round(time.perf_counter() - started, 3),
            **_provenance(pipelines, command),
        }
        staged["json"].write_text(runs.sidecar(request, record), encoding="utf-8")
    return Made(request, paths, record)


def versions() -> dict[str, str]:
    """The versions that decide what comes out."""
    packages = ("w2sd-video", "torch", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _provenance(pipelines: dict[str, Pipeline], command: Sequence[str]) -> dict[str, Any]:
    import torch

    from .provenance import weight_hashes

    device = next(iter(pipelines.values())).device
    return {
        "versions": versions(),
        "weights": {variant: weight_hashes(pipe) for variant, pipe in pipelines.items()},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": list(command),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Empty where all frames of two records are the same; else what else differs, and may be the reason."""
    frames = [{name: video["frames_sha256"] for name, video in r["videos"].items()} for r in (before, now)]
    if frames[0] == frames[1]:
        return []
    keys = ("weights", "versions", "device", "device_name", "threads", "platform")
    return [key for key in keys if before.get(key) != now.get(key)] or ["nothing that was recorded"]
