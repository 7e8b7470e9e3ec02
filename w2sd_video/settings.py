"""Every setting of a run, defined once: its type, bounds, default, help, option, arm, and families.

`Pair` has the settings that presets and requests share, `Settings` those that only requests have. They are dataclasses
that pydantic validates, also in `dataclasses.replace`: a value of another type, out of bounds, infinite or NaN, and an
unknown name are `Refused`. `Request.check` checks what depends on several settings or on files.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from . import validation
from .families import (
    CONTROLLED,
    EMBEDDED,
    EXPERTS,
    FAMILIES,
    FROM_IMAGE,
    MIXTURES,
    MOVED,
    RESCALED,
    TEXTUAL,
    TRANSFORMERS,
    U_NETS,
    VIDEOS,
    FamilyName,
)
from .setting_types import (
    LARGEST_SEED,
    MOST_STEPS,
    SCALED,
    SCALED_ACCEPTED,
    SCALES,
    WIDEST,
    Adapters,
    Hashes,
    Inversion,
    Layers,
    Model,
    Names,
    PicturedModel,
    Routing,
    Scale,
    ScaledModel,
    Side,
    Text,
    scales_of,
)
from .validation import Setting, validated

# The videos of each variant of a request, in order. Only "w2sd" is sampled with the method.
Variant = Literal["w2sd", "plain", "weak", "compare"]
VARIANTS: dict[Variant, tuple[str, ...]] = {
    "w2sd": ("w2sd",),
    "plain": ("strong",),
    "weak": ("weak",),
    "compare": ("weak", "strong", "w2sd"),
}
OWN_MODELS = ("strong", "weak", "vae", "motion_adapter", "weak_motion_adapter")  # settings that are models
PLACES = (*OWN_MODELS, "weak_config")  # settings that may be paths
OF_VIDEOS = ("num_frames", "fps")  # settings that every video has, and no image
PICTURES = ("control", "ip_image", "image")  # settings that are picture files
MODELS, METHOD, SIZE = "Models", "Method", "Steps and size"


@validated
class Pair:
    """The settings that presets and requests share: the two arms, as differences between them, and the sampling.

    Models are hub ids, files in a hub repository (`OWNER/NAME/FILE`), paths, or `package:FOLDER` for models that the
    package ships. Guidance is `uncond + w (cond - uncond)`: 1 is the conditional prediction alone, 0 the unconditional
    one. Differences between the arms can be combined.
    """

    family: Annotated[FamilyName, Setting("The pipelines of the pair, one of FAMILIES.")]
    strong: Annotated[Model, Setting("Strong model: hub id, folder or single file.", ("--strong",), MODELS)]
    weak: Annotated[
        Model | None,
        Setting("Weak model: hub id, folder or single file.", ("--weak",), MODELS, "weak", TEXTUAL),
    ] = None  # the weak arm is the strong model
    weak_config: Annotated[
        Model | None,
        Setting(
            "Configuration of a weak transformer's single file: hub id or folder (default: config.json beside it).",
            ("--weak-config",),
            MODELS,
            "weak",
            TRANSFORMERS,
        ),
    ] = None
    vae: Annotated[
        Model | None,
        Setting("Another autoencoder than the strong model's: hub id, folder or file.", ("--vae",), MODELS),
    ] = None
    weak_text_encoders: Annotated[
        bool,
        Setting(
            "Whether the weak arm encodes prompts with the weak model's own text encoders.",
            ("--weak-text-encoders/--no-weak-text-encoders",),
            MODELS,
            "weak",
            U_NETS,
        ),
    ] = False
    motion_adapter: Annotated[
        Model | None, Setting("Motion module: hub id, folder or file.", ("--motion",), MODELS, families=MOVED)
    ] = None
    weak_motion_adapter: Annotated[
        Model | None,
        Setting("Another motion module for the weak arm.", ("--weak-motion",), MODELS, "weak", MOVED),
    ] = None
    weak_motion_scale: Annotated[
        Scale | None,
        Setting(
            "Factor on the weak arm's motion module; 0 disables it.", ("--weak-motion-scale",), METHOD, "weak", MOVED
        ),
    ] = None
    adapters: Annotated[
        Adapters,
        Setting(
            f"A LoRA, and its scales in the two arms ({scales_of('adapters')}; beside another weak model or"
            f" motion module {SCALES['adapters'][0]:g}, 0), in place of the preset's; can be given again.",
            ("--lora",),
            MODELS,
            families=TEXTUAL,
            accepted="give names of letters, digits and _, each with model, strong and weak",
            metavar=SCALED,
        ),
    ] = field(default_factory=dict)
    controlnet: Annotated[
        ScaledModel | None,
        Setting(
            f"A ControlNet, and its scales in the two arms ({scales_of('controlnet')}).",
            ("--controlnet",),
            MODELS,
            families=CONTROLLED,
            accepted=SCALED_ACCEPTED,
            metavar=SCALED,
        ),
    ] = None
    ip_adapter: Annotated[
        PicturedModel | None,
        Setting(
            f"An IP-Adapter's file, and its scales in the two arms ({scales_of('ip_adapter')}).",
            ("--ip-adapter",),
            MODELS,
            families=U_NETS,
            accepted=SCALED_ACCEPTED,
            metavar=SCALED,
        ),
    ] = None
    weak_routing: Annotated[
        Routing,
        Setting(
            "The weak arm's experts in a mixture of experts: worst, or FROM,TO in their ranking.",
            ("--weak-routing",),
            METHOD,
            "weak",
            MIXTURES,
        ),
    ] = None
    weak_skip_layers: Annotated[
        Layers,
        Setting(
            "Transformer blocks that the weak arm leaves out: numbers from 0, or names, such as mid_block.",
            ("--weak-skip-layers",),
            METHOD,
            "weak",
            metavar="LAYERS",
        ),
    ] = None
    grammar: Annotated[Literal["shapes"] | None, Setting("The prompts' grammar: shapes; null: any text.")] = None
    method: Annotated[
        Annotated[str, Field(max_length=300)],
        Setting(
            "w2sd (default), another one of `w2sd-video methods`, or FILE.py:CLASS.",
            ("--method",),
            METHOD,
            accepted="give its name, a text: a request is written to files, and holds no object. A class in a file is"
            " 'mine.py:Mine', after w2sd_video.plugins.from_file('method', 'mine.py:Mine')",
        ),
    ] = "w2sd"
    options: Annotated[
        Names,
        Setting(
            "An option of the method, like motion_gain=2; can be given again.", ("--set",), METHOD, metavar="NAME=VALUE"
        ),
    ] = field(default_factory=dict)
    num_inference_steps: Annotated[
        int,
        Field(ge=1, le=MOST_STEPS),
        Setting("Denoising steps, T.", ("--steps", "--T", "--num_inference_steps"), SIZE),
    ]
    guidance_scale: Annotated[
        Scale, Setting("Guidance of the final denoising step.", ("--guidance", "--guidance_scale"), METHOD)
    ]
    strong_guidance_scale: Annotated[
        Scale,
        Setting(
            "Guidance of the reflection's strong arm.",
            ("--strong-guidance", "--strong_guidance_scale"),
            METHOD,
            "reflection",
        ),
    ]
    weak_guidance_scale: Annotated[
        Scale,
        Setting("Guidance of the reflection's weak arm.", ("--weak-guidance", "--weak_guidance_scale"), METHOD, "weak"),
    ]
    guidance_scale_2: Annotated[
        Scale | None,
        Setting(
            "Guidance of the final step while the second of two experts runs; null: as for the first.",
            ("--guidance-2", "--guidance_scale_2"),
            METHOD,
            families=EXPERTS,
        ),
    ] = None
    strong_guidance_scale_2: Annotated[
        Scale | None,
        Setting(
            "Guidance of the reflection's strong arm while the second of two experts runs; null: as for the first.",
            ("--strong-guidance-2",),
            METHOD,
            "reflection",
            EXPERTS,
        ),
    ] = None
    weak_guidance_scale_2: Annotated[
        Scale | None,
        Setting(
            "Guidance of the reflection's weak arm while the second of two experts runs; null: as for the first.",
            ("--weak-guidance-2",),
            METHOD,
            "weak",
            EXPERTS,
        ),
    ] = None
    guidance_rescale: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Setting(
            "How far the final step's guided prediction is rescaled to the conditional one's deviation, from 0 to 1.",
            ("--guidance-rescale",),
            METHOD,
            families=RESCALED,
        ),
    ] = None
    eta: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Setting("DDIM's eta: how much fresh noise a step adds, 0 (default) to 1.", ("--eta",), METHOD, families=U_NETS),
    ] = None
    embedded_guidance: Annotated[
        Scale | None,
        Setting(
            "The guidance number that a distilled network embeds; null: the pipeline's default.",
            ("--embedded-guidance",),
            METHOD,
            families=EMBEDDED,
        ),
    ] = None
    strong_embedded_guidance: Annotated[
        Scale | None,
        Setting(
            "Another embedded guidance for the strong arm, in the reflection alone.",
            ("--strong-embedded-guidance",),
            METHOD,
            "reflection",
            EMBEDDED,
        ),
    ] = None
    weak_embedded_guidance: Annotated[
        Scale | None,
        Setting("Another embedded guidance for the weak arm.", ("--weak-embedded-guidance",), METHOD, "weak", EMBEDDED),
    ] = None
    num_frames: Annotated[
        int | None, Field(ge=1, le=WIDEST), Setting("Frames.", ("--frames", "--num_frames"), SIZE, families=VIDEOS)
    ] = None
    fps: Annotated[int | None, Field(ge=1, le=240), Setting("Frames a second.", ("--fps",), SIZE, families=VIDEOS)] = (
        None
    )
    height: Annotated[Side, Setting("Height in pixels, a multiple of 8.", ("--height",), SIZE)]
    width: Annotated[Side, Setting("Width in pixels, a multiple of 8.", ("--width",), SIZE)]
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], Setting("float32, float16 or bfloat16.", ("--dtype",), MODELS)
    ]

    @property
    def video(self) -> bool:
        """Whether it makes videos, or else images."""
        return FAMILIES[self.family].video

    @property
    def textual(self) -> bool:
        """Whether it is told a text, or else a class."""
        return FAMILIES[self.family].textual

    @property
    def kind(self) -> str:
        """What it makes: `video` or `image`."""
        return "video" if self.video else "image"

    @property
    def models(self) -> dict[str, str]:
        """Every model that it names, by what it is."""
        named = {name: getattr(self, name) for name in OWN_MODELS}
        named |= {f"adapters.{name}": each["model"] for name, each in self.adapters.items()}
        named |= {
            f"{name}.model": each["model"]
            for name in ("controlnet", "ip_adapter")
            if (each := getattr(self, name)) is not None
        }
        return {name: model for name, model in named.items() if model is not None}


@validated
class Settings(Pair):
    """All settings that decide a run's frames.

    `reflection_steps` is lambda, the number of steps that reflect, from the noisiest down. `scheduler` is a diffusers
    class and its arguments. `options` are the method's own, by name; see `methods`. `control`, `ip_image` and
    `image` are files: the ControlNet's input (for a video, a video or a folder of frames), the IP-Adapter's picture,
    and the first frame of an image-to-video model. `pictures` holds their hashes, so that a changed file is noticed.
    """

    prompt: Annotated[
        Text, Field(pattern=r"\S"), Setting("What to show.", ("PROMPT",), accepted="give a text that is not empty")
    ]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), Setting("Seed of the noise.", ("--seed",))]
    preset: Annotated[Text, Setting("The preset that the settings come from.", ("--preset",), MODELS)]
    scheduler: Annotated[Names, Setting("A diffusers scheduler: its class and arguments.", ("--scheduler",), MODELS)]
    reflection_steps: Annotated[
        int,
        Field(ge=0, le=MOST_STEPS),
        Setting(
            "Steps that reflect, from the noisiest down (lambda; default: T - 1).",
            ("--reflection-steps",),
            METHOD,
            "reflection",
        ),
    ]
    device: Annotated[
        str,
        Field(pattern=r"\A(auto|(cpu|cuda|mps|xpu)(:[0-9]{1,4})?)\Z"),
        Setting(
            "auto, cpu, cuda, cuda:N, mps or xpu.",
            ("--device",),
            MODELS,
            accepted="give auto, cpu, cuda, cuda:N, mps or xpu",
        ),
    ] = "auto"
    offload: Annotated[
        Literal["none", "model", "sequential", "group"],
        Setting(
            "What to keep in the computer's memory while unused: none (default), model (whole networks),"
            " sequential (layers), or group (blocks, fetched ahead).",
            ("--offload",),
            MODELS,
        ),
    ] = "none"
    compile: Annotated[
        bool, Setting("Compile the denoisers' repeated blocks by torch.compile.", ("--compile/--no-compile",), MODELS)
    ] = False
    free_init: Annotated[
        int | None,
        Field(ge=1, le=100),
        Setting(
            "Passes of FreeInit. Each pass makes all steps, from noise with the low frequencies of the previous pass.",
            ("--free-init",),
            METHOD,
            families=MOVED,
        ),
    ] = None
    variant: Annotated[
        Variant, Setting("Which videos to make.", accepted="give w2sd, plain (the strong model alone), weak or compare")
    ] = "w2sd"
    negative_prompt: Annotated[Text | None, Setting("What not to show.", ("--negative-prompt",), families=TEXTUAL)] = (
        None
    )
    weak_prompt: Annotated[
        Text | None, Setting("Another prompt for the weak arm.", ("--weak-prompt",), METHOD, "weak", TEXTUAL)
    ] = None
    weak_negative_prompt: Annotated[
        Text | None,
        Setting("Another negative prompt for the weak arm.", ("--weak-negative-prompt",), METHOD, "weak", TEXTUAL),
    ] = None
    control: Annotated[
        Model | None,
        Setting("The ControlNet's input: a picture; for videos also a video or a folder.", ("--control",), MODELS),
    ] = None
    ip_image: Annotated[Model | None, Setting("The IP-Adapter's picture.", ("--ip-image",), MODELS)] = None
    image: Annotated[
        Model | None, Setting("The video's first frame, a picture.", ("--image",), MODELS, families=FROM_IMAGE)
    ] = None
    pictures: Annotated[Hashes, Setting("Hashes of the pictures.")] = field(default_factory=dict)
    inversion: Annotated[
        Inversion,
        Setting(
            "Where the inverse evaluates the weak arm: x_s (default), x_t, or a number of extra iterations.",
            ("--inversion",),
            METHOD,
            "reflection",
        ),
    ] = "x_s"
    convention: Annotated[
        Literal["exact", "published"],
        Setting(
            "Noise level of the inverse: exact (default), or published (as in the paper's code).",
            ("--convention",),
            METHOD,
            "reflection",
        ),
    ] = "exact"
    method_sha256: Annotated[
        Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\Z")] | None,
        Setting("SHA-256 of the file of a method FILE.py:CLASS.", accepted="give 64 digits of 0-9a-f"),
    ] = None


def needed(family: str) -> tuple[str, ...]:
    """The settings that a preset of a family has to say, and no other family has."""
    return (*OF_VIDEOS * FAMILIES[family].video, *("motion_adapter",) * FAMILIES[family].motion)


def most_reflected(num_steps: int, convention: str) -> int:
    """The most steps that can reflect: the inverse of the published code has no level for the last one."""
    return num_steps - (convention == "published")


def of(name: str, cls: type = Settings) -> Setting:
    """What there is to say of a setting."""
    return validation.setting_of(name, cls)


def number(name: str, cls: type = Settings) -> type[int] | type[float] | None:
    """`int` or `float` where a setting is a number."""
    return validation.number(name, cls)


def words(name: str, cls: type = Settings) -> list[str]:
    """The texts that a setting accepts, where its type lists them; else none."""
    return validation.words(name, cls)


def names(cls: type = Settings) -> list[str]:
    """The names of all settings."""
    return validation.names(cls)
