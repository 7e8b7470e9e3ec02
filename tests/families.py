"""Every family at a tiny size, and its methods written literally: an explicit loop of diffusers' own calls, no hook."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import pytest
import tiny
import torch
from copies import copier
from diffusers import ControlNetModel, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from w2sd_video import pipelines
from w2sd_video.models.dit_moe import DiTMoETransformer2DModel
from w2sd_video.models.motion import motion_unet


@dataclass(frozen=True)
class Family:
    name: str
    xl: bool
    video: bool
    control: bool

    @property
    def cls(self) -> type:
        return getattr(pipelines, self.name)

    @property
    def stock(self) -> type[DiffusionPipeline]:
        return self.cls.stock

    text = True
    denoiser = "unet"
    first = "conv_in"  # the denoiser's layer that every evaluation enters by

    def __str__(self) -> str:
        return self.name.removeprefix("W2SD").removesuffix("Pipeline")

    def unet(self, seed: int) -> UNet2DConditionModel:
        if self.xl:
            return tiny.unet2d(seed)
        plain = {"addition_embed_type": None, "addition_time_embed_dim": None}
        plain |= {"projection_class_embeddings_input_dim": None, "cross_attention_dim": tiny.TEXT_WIDTH}
        return tiny.unet2d(seed, **plain)

    def controlnet(self) -> ControlNetModel:
        """A ControlNet that has been trained, in that its zero convolutions are not zero."""
        unet = self.unet(30)

        def build() -> ControlNetModel:
            net = ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=(4, 4))
            zero = [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]
            for module in zero:
                torch.nn.init.normal_(module.weight, std=0.3)
            return net.eval()

        return tiny.seeded(31, build)

    def components(self, *, weak: bool = True, **overrides: Any) -> dict[str, Any]:
        text_encoder, text_encoder_2 = tiny.text_encoders()
        parts: dict[str, Any] = {
            "vae": tiny.vae(),
            "text_encoder": text_encoder,
            "tokenizer": tiny.tokenizer(),
            "unet": self.unet(0),
            "scheduler": tiny.scheduler(timestep_spacing="trailing"),
            "weak_unet": self.unet(10) if weak else None,
        }
        if self.xl:
            parts |= {"text_encoder_2": text_encoder_2, "tokenizer_2": tiny.tokenizer()}
        if self.video:
            adapter = parts["motion_adapter"] = tiny.motion_adapter()
            parts["unet"] = motion_unet(parts["unet"], adapter)
        elif not self.xl:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        if self.control:
            parts["controlnet"] = self.controlnet()
        return parts | overrides

    def pipeline(self, *, dtype: torch.dtype = torch.float64, **overrides: Any) -> Any:
        """A pipeline that a test may change: of components of its own, or copies of those built once a session."""
        if overrides.keys() <= {"weak", "scheduler"}:
            parts = _copier(self, dtype, overrides.get("weak", True))()
            pipe = self.cls(**parts | {name: part for name, part in overrides.items() if name == "scheduler"})
        else:
            pipe = self.cls(**self.components(**overrides)).to(dtype)
        pipe.set_progress_bar_config(disable=True)
        if dtype == torch.float64 and isinstance(pipe.scheduler, DDIMScheduler):
            pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
            pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
        return pipe

    def stock_of(self, pipe: Any) -> Any:
        """The stock pipeline over the same components."""
        kept = {name: part for name, part in pipe.components.items() if not name.startswith("weak_")}
        stock = self.stock(**kept)
        stock.set_progress_bar_config(disable=True)
        return stock

    def picture(self, videos: int = 1) -> Tensor:
        """What the ControlNet is shown: (B, 3, H, W) in [0, 1]."""
        return torch.rand(videos, 3, 2 * tiny.SIZE, 2 * tiny.SIZE, generator=torch.Generator().manual_seed(5))

    def call(self, **overrides: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "prompt": "a cat",
            "num_inference_steps": 4,
            "guidance_scale": 3.0,
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
            "return_dict": False,
        }
        if self.video:
            arguments["num_frames"] = tiny.FRAMES
        if self.control:
            frames = [picture(self.picture())] * tiny.FRAMES
            arguments |= {"conditioning_frames": frames} if self.video else {"image": self.picture()}
        return arguments | overrides

    def told(self, *prompts: str) -> dict[str, Any]:
        """What says what to make, of one or several."""
        return {"prompt": prompts[0] if len(prompts) == 1 else list(prompts)}

    def __call__(self, pipe: Any, **overrides: Any) -> Tensor:
        return pipe(**self.call(**overrides))[0]

    def networks(self, pipe: Any) -> tuple[Any, Any]:
        """The strong arm's and the weak arm's."""
        strong = getattr(pipe, self.denoiser)
        return strong, getattr(pipe, f"weak_{self.denoiser}") or strong

    def latents(self, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        shape = (batch, 4, *[tiny.FRAMES] * self.video, tiny.SIZE, tiny.SIZE)
        return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


class Classes(Family):
    """DiT-MoE: it is told classes, and draws its latents itself."""

    text = False
    denoiser = "transformer"
    first = "patch_embed"
    labels: ClassVar = {"a cat": 281, "a dog": 207}

    def network(self, seed: int) -> DiTMoETransformer2DModel:
        """One that has been trained, in that what begins at zero is not zero."""

        def build() -> DiTMoETransformer2DModel:
            model = DiTMoETransformer2DModel(
                sample_size=tiny.SIZE, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_experts=5
            )
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            return model.eval()

        return tiny.seeded(seed, build)

    def components(self, *, weak: bool = True, **overrides: Any) -> dict[str, Any]:
        parts = {"transformer": self.network(0), "weak_transformer": self.network(10) if weak else None}
        return parts | {"vae": tiny.vae(), "scheduler": tiny.scheduler(timestep_spacing="trailing")} | overrides

    def told(self, *prompts: str) -> dict[str, Any]:
        return {"class_labels": [self.labels[prompt] for prompt in prompts]}

    def call(self, **overrides: Any) -> dict[str, Any]:
        asked = super().call(output_type="pt", **overrides)
        if "class_labels" not in asked:
            asked |= self.told(asked["prompt"])
        del asked["prompt"]
        if (latents := asked.pop("latents", None)) is not None:
            assert torch.equal(latents, self.latents(len(latents), latents.dtype))
        return asked

    def latents(self, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        """What the pipeline draws by the generator of `call`."""
        shape = (batch, 4, tiny.SIZE, tiny.SIZE)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)

    def __call__(self, pipe: Any, **overrides: Any) -> Tensor:
        """The latents of the last step: the pipeline gives pictures alone, clamped, and older ones in float32."""
        asked, last, step = self.call(**overrides), [], pipe.scheduler.step

        def recording(*args: Any, **kwargs: Any) -> Any:
            last[:] = [step(*args, **kwargs)]
            return last[0]

        pipe.scheduler.step = recording
        try:
            pipe(**asked)
        finally:
            pipe.scheduler.step = step
        return last[0].prev_sample[: len(asked["class_labels"])]


@cache
def _copier(family: Family, dtype: torch.dtype, weak: bool) -> Callable[[], dict[str, Any]]:
    parts = family.components(weak=weak)
    return copier(parts | family.cls(**parts).to(dtype).components)


def picture(pixels: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().byte().numpy())


FAMILIES = [
    Family("W2SDAnimateDiffSDXLPipeline", xl=True, video=True, control=False),
    Family("W2SDAnimateDiffPipeline", xl=False, video=True, control=False),
    Family("W2SDStableDiffusionXLPipeline", xl=True, video=False, control=False),
    Family("W2SDStableDiffusionPipeline", xl=False, video=False, control=False),
    Family("W2SDStableDiffusionXLControlNetPipeline", xl=True, video=False, control=True),
    Family("W2SDStableDiffusionControlNetPipeline", xl=False, video=False, control=True),
    Family("W2SDAnimateDiffControlNetPipeline", xl=False, video=True, control=True),
    Classes("W2SDDiTMoEPipeline", xl=False, video=False, control=False),
]
# One of each form: of videos, of images, with a ControlNet, of classes. Tests of one method or argument take these.
FORMS = [FAMILIES[1], FAMILIES[2], FAMILIES[4], FAMILIES[7]]


def add_lora(model: Any, name: str = "style", seed: int = 40, targets: tuple[str, ...] = ("to_q", "to_v")) -> None:
    config = LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False)
    tiny.seeded(seed, lambda: model.add_adapter(config, adapter_name=name))


def ip_adapter(unet: Any) -> dict[str, Any]:
    """A random IP-Adapter checkpoint for the UNet: an image projection; a key and a value per attention."""

    def build() -> dict[str, Any]:
        width = unet.config.cross_attention_dim
        projection = torch.nn.Linear(tiny.TEXT_WIDTH, 4 * width)
        weights = {"proj.weight": projection.weight, "proj.bias": projection.bias}
        weights |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
        attention, i = {}, 1
        for name in unet.attn_processors:
            if "motion_modules" not in name and "attn2" in name:
                owner = unet.get_submodule(name.removesuffix(".processor"))
                attention[f"{i}.to_k_ip.weight"] = torch.randn(owner.to_k.out_features, width)
                attention[f"{i}.to_v_ip.weight"] = torch.randn(owner.to_v.out_features, width)
                i += 2
        return {"image_proj": weights, "ip_adapter": attention}

    return {
        kind: {name: value.detach() for name, value in part.items()} for kind, part in tiny.seeded(20, build).items()
    }


@dataclass
class Literal:
    """A family's networks at their arms' settings, one branch at a time, and a method's loop over them.

    `weak` is entered around every evaluation of the weak arm; `weak_encodes` around the encoding of its prompt.
    """

    family: Family
    pipe: Any
    prompt: str = "a cat"
    weak_prompt: str | None = None
    main: float = 3.0
    strong: float = 3.0
    weak: float = 1.0
    control_scale: float = 1.0
    weak_control_scale: float = 1.0
    image_embeds: Tensor | None = None  # (2, 1, width): unconditional, conditional
    weak_on: Callable[[], Any] | None = None
    weak_encodes: Callable[[], Any] | None = None
    noises: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.told = {"strong": self._encode(self.prompt)}
            with (self.weak_encodes or nothing)():
                self.told["weak"] = self._encode(self.weak_prompt or self.prompt)

    def _encode(self, prompt: str) -> tuple[Any, ...]:
        if not self.family.text:
            return tuple(torch.tensor([label]) for label in (*self.family.told(prompt)["class_labels"], 1000))
        if self.family.xl:
            return self.pipe.encode_prompt(prompt)
        return self.pipe.encode_prompt(prompt, "cpu", 1, True)

    def network(self, arm: str, x: Tensor, t: Tensor, branch: str) -> Tensor:
        pipe, family = self.pipe, self.family
        which = branch == "uncond"
        embeds = self.told[arm][which]
        network = family.networks(pipe)[arm == "weak"]
        if not family.text:
            return network(x, t, embeds).sample[:, : x.shape[1]]
        extra = {}
        if family.xl:
            size = (tiny.SIZE * pipe.vae_scale_factor,) * 2
            ids = torch.tensor([[*size, 0, 0, *size]], dtype=x.dtype)
            extra = {"text_embeds": self.told[arm][2 + which], "time_ids": ids}
        if family.video:
            embeds = embeds.repeat_interleave(tiny.FRAMES, dim=0)
        told: dict[str, Any] = {"encoder_hidden_states": embeds}
        scale = self.control_scale if arm == "strong" else self.weak_control_scale
        if family.control and scale:
            shown = self.family.picture().to(x.dtype)
            if family.video:
                shown = (shown * 255).round() / 255
                shown = shown.repeat(tiny.FRAMES, 1, 1, 1)
            images = x.transpose(1, 2).flatten(0, 1) if family.video else x
            down, mid = pipe.controlnet(
                images, t, **told, controlnet_cond=shown, conditioning_scale=scale, added_cond_kwargs=extra or None,
                return_dict=False,
            )  # fmt: skip
            told |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        if self.image_embeds is not None:
            extra = extra | {"image_embeds": [self.image_embeds[1 - which][None].to(x.dtype)]}
        return network(x, t, **told, added_cond_kwargs=extra or None).sample

    def guided(self, arm: str, x: Tensor, t: Tensor, w: float) -> Tensor:
        with (self.weak_on if arm == "weak" and self.weak_on else nothing)():
            uncond, cond = (self.network(arm, x, t, branch) for branch in ("uncond", "cond"))
        return uncond + w * (cond - uncond)

    def move(self, p: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return self.pipe.scheduler.step(p, t, x).prev_sample

    def inverse(self, p: Tensor, t: Tensor, x_s: Tensor) -> Tensor:
        """The x with move(p, t, x) = x_s, of a move that is a x + c: read off two of its values."""
        c = self.move(p, t, torch.zeros_like(x_s))
        return (x_s - c) / (self.move(p, t, torch.ones_like(x_s)) - c)

    def strong_at(self, x: Tensor, t: Tensor) -> Tensor:
        return self.guided("strong", x, t, self.strong)

    def weak_at(self, x: Tensor, t: Tensor) -> Tensor:
        return self.guided("weak", x, t, self.weak)

    def run(
        self,
        x: Tensor,
        reflect: Callable[[Literal, Tensor, Tensor], Tensor],
        steps: int = 4,
        reflected: int | None = None,
    ) -> Tensor:
        """The loop: `reflect(self, x, t)` gives x~_t on the first `reflected` steps, by default all but the last."""
        reflected = steps - 1 if reflected is None else reflected
        self.pipe.scheduler.set_timesteps(steps)
        with torch.no_grad():
            for i, t in enumerate(self.pipe.scheduler.timesteps):
                if i < reflected:
                    x = reflect(self, x, t)
                x = self.move(self.guided("strong", x, t, self.main), t, x)
        return x


@contextmanager
def nothing() -> Any:
    yield


def algorithm_1(run: Literal, x: Tensor, t: Tensor) -> Tensor:
    x_s = run.move(run.strong_at(x, t), t, x)
    return run.inverse(run.weak_at(x_s, t), t, x_s)


IMAGE, VIDEO = FAMILIES[2], FAMILIES[1]
CONTROL = [family for family in FAMILIES if family.control]
CLASSES = FAMILIES[7]
TEXT = [family for family in FAMILIES if family.text]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=str)
each_of_text = pytest.mark.parametrize("family", TEXT, ids=str)


def every_family_or_form(name: str, options: list[Any]) -> Any:
    """Cases: the first of some options on every family, and the others on one family of each form."""
    cases = [(family, option) for option in options for family in (FAMILIES if option is options[0] else FORMS)]
    return pytest.mark.parametrize(("family", name), cases, ids=str)


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-9) -> bool:
    return float((ours - theirs).abs().max()) <= rtol * float(theirs.abs().max())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
