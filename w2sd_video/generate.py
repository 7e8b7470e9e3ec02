"""From requests to files: loads the models, samples, writes the videos and their sidecars."""

from __future__ import annotations

import hashlib
import logging
import platform
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import plugins, presets, runs
from .errors import NotFinite, did_you_mean
from .runs import Output, Refused, Request

if TYPE_CHECKING:
    from .pipelines.reflection import Reflection as Pipeline
    from .video import Frames

logger = logging.getLogger("w2sd_video")
LABELS = {"weak": "weak", "strong": "strong", "w2sd": "W2SD"}
OnStep = Callable[[str, int, int], None]  # of a video: its name, steps done, steps in all


@dataclass(frozen=True)
class Made:
    """One request's outputs: paths by format (`json` is the sidecar), what the sidecar says, whether they were there
    already, and the paths of a comparison's single videos by variant."""

    request: Request
    paths: dict[str, Path]
    record: dict[str, Any]
    kept: bool = False
    singles: Mapping[str, dict[str, Path]] = field(default_factory=dict)


def generate(
    requests: Sequence[Request],
    out: Path | str = "outputs",
    formats: Sequence[str] = ("mp4",),
    overwrite: bool = False,
    on_step: OnStep | None = None,
    command: Sequence[str] = (),
    hashed: bool = False,
) -> Generator[Made, None, None]:
    """Makes each request's outputs, a video or an image, in the folder `out`, one after another, and yields them.

    A request whose outputs are already there is kept as it is, unless `overwrite`: an interrupted batch goes
    on where it was. Each video has a generator of its own, seeded by its request alone. Other processes may make other
    videos in the same folder meanwhile.

    Args:
        requests: what to make.
        out: the folder; made where it is not there.
        formats: some of `runs.FORMATS`, for videos; an image is a PNG.
        overwrite: replace what is there.
        on_step: called after each sampling step.
        command: the command line, for the record.
        hashed: of what is there already, compare the hashes with the sidecar's, not only sizes and times.

    Raises:
        runs.Refused: an argument that cannot be used; before anything is made.
        FileExistsError: an output's name is taken by something else; before anything is made, unless it came meanwhile.
        OSError: weights that are missing or cannot be read; a file that cannot be written.
    """
    out = Path(out)
    for kind in formats:
        if kind not in runs.FORMATS:
            raise Refused("formats", kind, f"give some of {', '.join(runs.FORMATS)}")
    for request in requests:
        request.check()
    runs.writable(out)
    outputs = []
    for output in runs.place(requests, out, formats):
        state = _free(output, overwrite, hashed)
        if state == "new" and not overwrite:
            output = output.widened()
            _free(output, overwrite, hashed)
        outputs.append((output, state == "made" and not overwrite))
    return _generate(outputs, out, overwrite, on_step, command)


class _CallableModule(ModuleType):
    """This module under its package's public name: `w2sd_video.generate(…)` is `w2sd_video.generate.generate(…)`.

    An import of this module sets that name to the module, so a function could not keep it.
    """

    __call__ = staticmethod(generate)


__signature__ = signature(generate)
sys.modules[__name__].__class__ = _CallableModule


def _free(output: Output, overwrite: bool, hashed: bool = False) -> str:
    """The state of an output whose names may be written to.

    Raises:
        FileExistsError: they may not.
    """
    state, reason = output.state(hashed)
    if state == "blocked" or (state == "taken" and not overwrite):
        raise FileExistsError(reason)
    return state


def conflicts(
    requests: Sequence[Request], out: Path, formats: Sequence[str], hashed: bool = False
) -> list[tuple[str, str]]:
    """What stands in the way of these requests in `out`: `taken` or `blocked`, as of `Output.state`, and what it is."""
    states = [output.state(hashed) for output in runs.place(requests, out, formats)]
    return [(state, reason) for state, reason in states if reason]


def _generate(
    outputs: Sequence[tuple[Output, bool]],
    out: Path,
    overwrite: bool,
    on_step: OnStep | None,
    command: Sequence[str],
) -> Generator[Made, None, None]:
    """Makes outputs, each of which comes with whether it is there already."""
    pipelines: dict[str, Pipeline] = {}
    loaded: tuple[object, ...] | None = None
    said: set[str] = set()
    missing = [output for output, kept in outputs if not kept]
    with runs.claimed(out, missing) if missing else nullcontext():
        for output, kept in outputs:
            request = output.request
            # Another process may have come since, and may have made the very same.
            if kept or (_free(output, overwrite) == "made" and not overwrite):
                yield Made(request, output.paths, runs.read_sidecar(output.paths["json"])[1], kept=True)
                continue
            models = (request.models, request.weak_text_encoders, request.adapters, request.ip_adapter)
            wanted = (request.variant, request.family, *models, request.dtype, request.device)
            if wanted != loaded:
                pipelines.clear()  # let go of one pair before the next is loaded
                pipelines = load(request)
                loaded = wanted
                if request.family == "dit-moe":  # its classes are refused before the first of them is made
                    for each, _ in outputs:
                        if each.request.models == request.models:
                            _class(next(iter(pipelines.values())), each.request.prompt)
            _check_words(request, pipelines)
            cut = cut_off(request, pipelines)
            for note in notes(request, cut, pipelines):
                if note not in said:
                    logger.warning("note: %s", note)
                    said.add(note)
            yield _make(output, pipelines, overwrite, on_step, command, cut)


def load(request: Request) -> dict[str, Pipeline]:
    """The pipelines of a request's videos: `weak` and `strong` alone, `w2sd` the pair, sharing what they can.

    Raises:
        OSError, ValueError: weights that are missing or cannot be read, with the way to get them.
        Refused: a device that is not there, or more frames than the motion module has positions.
    """
    _check_schedule(request)  # before anything is read
    device = runs.usable_device(request.device)
    shown = runs.VARIANTS[request.variant]
    # A weak model by itself has its own text encoders and VAE; a weak arm of the strong model is in its pipeline.
    apart = ["weak"] if request.weak is not None and "weak" in shown else []
    pipelines: dict[str, Pipeline] = {}
    if both := [variant for variant in shown if variant not in apart]:
        pair: dict[str, Any] = {}
        if "w2sd" in shown and request.weak is not None:
            pair = {"weak": request.weak, "weak_text_encoders": request.weak_text_encoders}
        if set(both) != {"strong"} and request.weak_motion_adapter is not None:
            pair["weak_motion_adapter"] = request.weak_motion_adapter
        pipe = _load(request, request.strong, **pair)
        _adapt(pipe, request)
        pipelines = dict.fromkeys(both, pipe)
    if apart:
        assert request.weak is not None
        try:
            alone = replace(request, motion_adapter=request.weak_motion_adapter or request.motion_adapter)
            pipelines["weak"] = _load(replace(alone, vae=request.vae or _shared_vae(request)), request.weak)
        except (OSError, ValueError) as error:  # the loader calls the model that leads `strong`
            raise OSError(re.sub(r"^strong: ", "weak: ", str(error))) from error
        if "w2sd" in pipelines:  # the same network with its own text encoders and VAE
            pipelines["weak"].register_modules(unet=pipelines["w2sd"].weak_unet)
    for pipe in pipelines.values():
        if request.family == "dit-moe":
            side = pipe.transformer.config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
            for name in ("height", "width"):
                if getattr(request, name) != side:
                    raise Refused(name, getattr(request, name), f"the model makes pictures of {side}x{side}")
        if request.num_frames is not None and request.num_frames > (longest := pipe.unet.config.motion_max_seq_length):
            raise Refused("num_frames", request.num_frames, f"the motion module takes from 1 to {longest}")
        pipe.to(device)
        pipe.vae.enable_slicing()  # frames are decoded one by one: memory does not grow with their number
        pipe.set_progress_bar_config(disable=True)
    return pipelines


def _shared_vae(request: Request) -> str | None:
    """The strong model's autoencoder, where the weak one's folder has none because both have the same."""
    weak, strong = Path(str(request.weak)), Path(request.strong)
    shared = weak.is_dir() and not (weak / "vae").exists() and (strong / "vae").is_dir()
    return str(strong / "vae") if shared else None


def _load(request: Request, strong: str, **pair: Any) -> Pipeline:
    """A pipeline of the request's family."""
    import torch

    family = presets.FAMILIES[request.family]
    name = family.pipeline if request.controlnet is None else family.with_controlnet
    if request.motion_adapter is not None:
        pair["motion_adapter"] = request.motion_adapter
    if request.vae is not None:
        pair["vae"] = request.vae
    if request.controlnet is not None:
        pair["controlnet"] = request.controlnet["model"]
    cls: type[Pipeline] = getattr(import_module("w2sd_video.pipelines"), str(name))
    pipe = cls.from_pretrained(strong, torch_dtype=getattr(torch, request.dtype), **pair)
    made, read = getattr(pipe, cls._denoiser).config.in_channels, pipe.vae.config.latent_channels
    if made != read:
        raise Refused(
            "vae", request.vae, f"its latents have {read} channels, and the model's {made}: give one that fits"
        )
    return pipe


def _adapt(pipe: Any, request: Request) -> None:
    """Puts the request's LoRAs and IP-Adapter on the strong arm, at its scales."""
    for name, each in request.adapters.items():
        pipe.load_lora_weights(each["model"], adapter_name=name)
    if request.adapters:
        pipe.set_adapters(list(request.adapters), [each["strong"] for each in request.adapters.values()])
    if (ip := request.ip_adapter) is not None:
        pipe.load_ip_adapter(ip["model"], image_encoder_folder=ip.get("image_encoder") or "image_encoder")
        pipe.set_ip_adapter_scale(ip["strong"])


def sample(
    pipe: Pipeline, request: Request, variant: str, on_step: OnStep | None = None
) -> tuple[Frames, dict[str, int]]:
    """One video or image of a request: its frames, (F, H, W, 3) in `uint8`, and the network evaluations it took."""
    import numpy as np
    import torch

    done = 0

    def step_done(_pipe: Pipeline, _step: int, _t: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        if on_step:
            on_step(f"{request.stem} {variant}", done, request.num_inference_steps)
        return kwargs

    given = call(pipe, request, variant) | {
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
        "output_type": "np",
    }
    if "callback_on_step_end" in signature(type(pipe).__call__).parameters:
        given["callback_on_step_end"] = step_done
    loaded = pipe.scheduler
    pipe.scheduler = scheduler(request, loaded.config)
    way = "give --dtype float32, or another autoencoder by --vae"
    try:
        output = pipe(**given)
    except NotFinite as error:
        said = str(error).partition(";")[0]
        raise FloatingPointError(f"{request.stem} {variant}: {said}; {way}") from None
    finally:
        pipe.scheduler = loaded
    if on_step and not done:  # a pipeline without callbacks
        on_step(f"{request.stem} {variant}", request.num_inference_steps, request.num_inference_steps)
    made = output.frames[0] if request.video else output.images
    broken = ~np.isfinite(made).reshape(len(made), -1).all(axis=1)
    if broken.any():
        where = f"{broken.sum()} of {len(made)} frames" if request.video else "the image"
        raise FloatingPointError(
            f"{request.stem} {variant}: of the autoencoder, {where} has values that are not finite; {way}"
        )
    return (made * 255).round().astype("uint8"), dict(pipe.evaluations)


def call(pipe: Pipeline, request: Request, variant: str) -> dict[str, Any]:
    """The arguments of a pipeline's call for one variant of a request, but for steps, guidance, noise and output."""
    return inputs(pipe, request, alone=variant == "weak" and request.weak is not None) | _method(request, variant)


def inputs(pipe: Pipeline, request: Request, alone: bool = False) -> dict[str, Any]:
    """The arguments of a pair's call that say what is to be seen, and how large: prompt, pictures, size.

    Args:
        alone: of the weak model by itself.

    Raises:
        Refused: a picture that cannot be read, or has too few frames; a class that the model does not know.
    """
    call: dict[str, Any] = {"num_frames": request.num_frames, "height": request.height, "width": request.width}
    if request.family == "dit-moe":
        call["class_labels"] = [_class(pipe, request.prompt)]
    else:
        call |= {"prompt": request.text("prompt"), "negative_prompt": request.negative_prompt}
        if alone:
            weak = {"prompt": request.text("weak_prompt"), "negative_prompt": request.weak_negative_prompt}
            call |= {name: own for name, own in weak.items() if own is not None}
    if request.controlnet is not None:
        size = (request.width, request.height)
        shown = [each.resize(size) for each in _pictures(request, "control", request.num_frames or 1)]
        call |= {"conditioning_frames": shown} if request.video else {"image": shown[0]}
        call["controlnet_conditioning_scale"] = float(request.controlnet["weak" if alone else "strong"])
    if request.ip_adapter is not None and not alone:
        call["ip_adapter_image"] = _pictures(request, "ip_image", 1)[0]
    takes = signature(type(pipe).__call__).parameters
    return {name: value for name, value in call.items() if name in takes}


def weak_arm(request: Request) -> dict[str, Any]:
    """The arguments of a pair's call that say what the weak arm is."""
    call: dict[str, Any] = {
        "weak_prompt": request.text("weak_prompt"),
        "weak_negative_prompt": request.weak_negative_prompt,
        "weak_motion_scale": request.weak_motion_scale,
        "weak_routing": tuple(r) if isinstance(r := request.weak_routing, list) else r,
    }
    if request.one_network:
        call["weak_adapter_scales"] = {name: each["weak"] for name, each in request.adapters.items()} or None
        call["weak_ip_adapter_scale"] = request.ip_adapter and request.ip_adapter["weak"]
    if request.controlnet is not None:
        call["weak_controlnet_conditioning_scale"] = float(request.controlnet["weak"])
    return {name: value for name, value in call.items() if value is not None}


def _method(request: Request, variant: str) -> dict[str, Any]:
    """The arguments of a pipeline's call that say what is sampled by, and what the weak arm is."""
    if variant == "strong" or (variant == "weak" and request.weak is not None):
        return {"method": None}
    from .methods import METHODS, find

    cls = find(request.method, request.method_sha256)
    call = {} if variant == "w2sd" and cls.one_model else weak_arm(request)
    if variant == "weak":  # as it would be used, unless guidance is all there is to tell the two apart
        apart = call or request.weak_motion_adapter
        guidance = request.guidance_scale if apart else request.weak_guidance_scale
        return call | {"method": "weak", "weak_guidance_scale": guidance}
    if request.method not in METHODS:
        values = {
            "strong_guidance": request.strong_guidance_scale,
            "weak_guidance": request.weak_guidance_scale,
            "reflection_steps": request.reflection_steps,
            "inversion": request.inversion,
            "convention": request.convention,
        }
        takes = {each.name for each in fields(cls)}
        return call | {"method": cls(**{k: v for k, v in values.items() if k in takes}, **request.options)}
    return call | {
        "method": request.method,
        "strong_guidance_scale": request.strong_guidance_scale,
        "weak_guidance_scale": request.weak_guidance_scale,
        "reflection_steps": request.reflection_steps,
        "inversion": request.inversion,
        "convention": request.convention,
        **request.options,
    }


def _check_words(request: Request, pipelines: Mapping[str, Pipeline]) -> None:
    """Refuses words of a grammar that a model was not trained on: its tokenizer has one token for each that it was."""
    for pipe in pipelines.values() if request.grammar else ():
        for name in ("prompt", "weak_prompt"):
            for word in (request.text(name) or "").split():
                if len(pipe.tokenizer(word, add_special_tokens=False).input_ids) != 1:
                    raise Refused(name, word, "give words that this model was trained on")


def cut_off(request: Request, pipelines: Mapping[str, Pipeline]) -> dict[str, str]:
    """What the text encoders do not read of each of a request's prompts, by field; they read 77 tokens (CLIP)."""
    cut = {}
    for pipe in pipelines.values():
        names = [name for name in ("tokenizer", "tokenizer_2") if getattr(pipe, name, None) is not None]
        for kind in ("prompt", "negative_prompt", "weak_prompt", "weak_negative_prompt"):
            for name in names if (text := getattr(request, kind)) else ():
                tokenizer, most = getattr(pipe, name), _most_tokens(pipe, name)
                tokens = tokenizer(text, truncation=False, add_special_tokens=False, return_offsets_mapping=True)
                kept = most - tokenizer.num_special_tokens_to_add()
                if len(tokens.input_ids) > kept and kind not in cut:
                    cut[kind] = text[tokens.offset_mapping[kept][0] :]
    return cut


def _most_tokens(pipe: Any, tokenizer: str) -> int:
    encoder = getattr(pipe, tokenizer.replace("tokenizer", "text_encoder"))
    return min(getattr(pipe, tokenizer).model_max_length, encoder.config.max_position_embeddings)


def notes(request: Request, cut: Mapping[str, str], pipelines: Mapping[str, Pipeline]) -> Iterator[str]:
    """What a user would want to know of a request before it is sampled, each in a sentence."""
    for kind, text in cut.items():
        pipe = next(iter(pipelines.values()))
        name, most = kind.replace("_", " "), _most_tokens(pipe, "tokenizer")
        beginning = f"{text[:100]} …" if len(text) > 100 else text
        yield f"the text encoder reads the first {most} tokens of a text; cut off the {name}: {beginning!r}"
    numbers = [request.guidance_scale]
    if request.reflection_steps != 0:
        numbers += [request.strong_guidance_scale, request.weak_guidance_scale]
    if not any(numbers) and request.variant in ("w2sd", "compare"):
        which = "all three guidance scales are" if len(numbers) > 1 else "the guidance scale is"
        yield f"{which} 0, the unconditional prediction: the prompt has no effect"


def _class(pipe: Any, name: str) -> int:
    """The number of a class, by name or number."""
    classes = set(pipe.labels.values()) or range(pipe.transformer.config.num_embeds_ada_norm)
    if name.isdecimal() and int(name) in classes:
        return int(name)
    if name in pipe.labels:
        return int(pipe.labels[name])
    named = [label for label in pipe.labels if not label.isdecimal()]
    accepted = did_you_mean(name, named) if named else "the model names none"
    raise Refused("prompt", name, f"give a class by number, 0 to {max(classes)}, or by name; {accepted}")


def _pictures(request: Request, argument: str, count: int) -> list[Any]:
    """The frames of a request's picture or video, as many as are asked for; of one picture, that one as often."""
    from PIL import Image

    from . import video

    path = getattr(request, argument)
    try:
        shown = [Image.fromarray(frame) for frame in video.shown(Path(path), most=max(count, 2))]
    except (OSError, ValueError) as error:
        raise Refused(argument, path, f"it cannot be read as a picture: {error}") from None
    shown *= count if len(shown) == 1 else 1
    if len(shown) < count:
        raise Refused(argument, path, f"it has {len(shown)} frames; give {count}, or one picture for all")
    return shown[:count]


def _check_schedule(request: Request) -> None:
    """Refuses what diffusers cannot build, and steps that a table of noise levels does not have.

    Raises:
        Refused: says which argument of the schedule, or how many steps.
    """
    made = scheduler(request)
    if not hasattr(made, "alphas_cumprod") or hasattr(made, "sigmas"):  # these look levels up between timesteps too
        return
    try:
        made.set_timesteps(request.num_inference_steps)
    except ValueError as error:
        raise Refused("schedule", dict(request.scheduler), f"diffusers refuses it: {error}") from None
    last, levels = [int(made.timesteps.max()), int(made.timesteps.min())], len(made.alphas_cumprod)
    if last[0] >= levels or last[1] < 0:
        accepted = f"its timesteps go from {last[1]} to {last[0]}, and its levels from 0 to {levels - 1}"
        accepted += ": give fewer, or another steps_offset"
        raise Refused("num_inference_steps", request.num_inference_steps, accepted)


def scheduler(request: Request, trained: Mapping[str, Any] | None = None) -> Any:
    """The request's diffusers scheduler.

    Args:
        trained: the configuration of the scheduler that was loaded with the networks. What these predict, and whether
            they were trained to a signal-to-noise ratio of zero, is theirs to say where the request does not.

    Raises:
        Refused: diffusers has no such class, or the class no such argument; or the networks predict a flow and the
            scheduler is none of flow matching.
    """
    import diffusers

    config = dict(request.scheduler)
    name = str(config.pop("class", ""))
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise Refused("scheduler class", name, "give a scheduler of diffusers, such as DDIMScheduler")
    known = list(signature(cls).parameters)
    for key, value in config.items():
        if key not in known:
            raise Refused(f"argument of {name}", key, did_you_mean(key, known))
        usual = signature(cls).parameters[key].default
        kind = next((kind for kind in (bool, int, float, str) if isinstance(usual, kind)), None)
        kinds = (int, float) if kind in (int, float) else kind
        if kinds and value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kind is bool)):
            accepted = f"give a value of {name} such as its default, {usual!r}"
            raise Refused(f"schedule.{key}", value, accepted)
    trained = trained or {}
    flow = (
        str(trained.get("_class_name", "")).startswith("FlowMatch")
        or trained.get("prediction_type") == "flow_prediction"
    )
    if flow and not (name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"):
        raise Refused("schedule", name, "the model is trained by flow matching: give FlowMatchEulerDiscreteScheduler")
    for key in ("prediction_type", "rescale_betas_zero_snr"):
        if trained.get(key) and key in known:
            config.setdefault(key, trained[key])
    if config.get("rescale_betas_zero_snr") and trained.get("timestep_spacing") == "trailing":
        config["timestep_spacing"] = "trailing"  # any other leaves the noisiest level out
    try:
        return cls(**config)
    except MemoryError:
        raise
    except Exception as error:  # diffusers checks few of its values
        raise Refused("schedule", dict(request.scheduler), f"{name} takes no such value: {error}") from None


def _make(
    output: Output,
    pipelines: dict[str, Pipeline],
    overwrite: bool,
    on_step: OnStep | None,
    command: Sequence[str],
    cut: dict[str, str],
) -> Made:
    from . import video

    request = output.request
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
    labels = LABELS if request.method == "w2sd" else LABELS | {"w2sd": request.method_name}
    labelled = {labels[variant]: frames for variant, frames in videos.items()}
    caption = f"{request.prompt}  (seed {request.seed})"
    provenance = _provenance(pipelines, command)
    provenance["versions"] |= _plugin_version(request)
    every = {**output.singles, "": output}
    finals = {(name, kind): path for name, each in every.items() for kind, path in each.paths.items()}
    stale = [path for each in every.values() for path in each.stale()]
    with runs.whole(finals, stale, lambda: _free(output, overwrite)) as staged:
        for name, each in every.items():
            files = {kind: staged[name, kind] for kind in each.paths}
            record: dict[str, Any] = {"videos": made, "seconds": 0.0, **provenance}
            if name:  # a single video of a comparison
                of, shown = {name: videos[name]}, videos[name]
                record |= {"videos": {name: made[name]}, "seconds": made[name]["seconds"]}
                record["weights"] = {name: provenance["weights"][name]}
            else:
                of, shown = videos, video.side_by_side(labelled, caption) if compared else next(iter(videos.values()))
                record["seconds"] = round(time.perf_counter() - started, 3)
                if "sheet" in files:
                    video.write_picture(video.contact_sheet(labelled, caption), files["sheet"])
            _write(each.request, shown, of, files)
            if cut:
                record["cut"] = cut
            record["files"] = [path.name for kind, path in each.paths.items() if kind != "json"]
            record["formats"] = list(each.formats) if request.video else ["png"]
            record["hashes"] = runs.hashes(path for kind, path in files.items() if kind != "json")
            with runs.naming(files["json"]):
                files["json"].write_text(runs.sidecar(each.request, record), encoding="utf-8")
    return Made(request, output.paths, record, singles={name: each.paths for name, each in output.singles.items()})


def _write(request: Request, shown: Frames, videos: dict[str, Frames], files: dict[str, Path]) -> None:
    """A video's or an image's files, in the formats that there is a path for."""
    from PIL import Image

    from . import video

    if not request.video:
        video.write_picture(Image.fromarray(shown[0]), files["png"])
        return
    assert request.fps is not None
    if "mp4" in files:
        video.write_mp4(shown, files["mp4"], request.fps)
    if "gif" in files:
        video.write_gif(shown, files["gif"], request.fps)
    if "png" in files:
        for variant, frames in videos.items():
            video.write_pngs(frames, files["png"] / variant if len(videos) > 1 else files["png"])


def _plugin_version(request: Request) -> dict[str, str]:
    """The distribution that a request's method is from, and its version, where it is an installed plug-in."""
    from .methods import METHODS

    plugin = plugins.find("method", request.method, METHODS, request.method_sha256)
    return {plugin.distribution: plugin.version or ""} if plugin and plugin.distribution else {}


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
        # An argument may be a path that is not UTF-8, which JSON does not hold.
        "command": [argument.encode("utf-8", "backslashreplace").decode() for argument in command],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Empty where all frames of two records are the same; else what else differs, and may be the reason."""
    frames = [{name: video["frames_sha256"] for name, video in r.get("videos", {}).items()} for r in (before, now)]
    if frames[0] == frames[1]:
        return []
    keys = ("weights", "versions", "device", "device_name", "threads", "platform")
    return [key for key in keys if before.get(key) != now.get(key)] or ["nothing that was recorded"]
