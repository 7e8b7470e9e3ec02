"""Trains the miniatures, small models for other kinds of pairs, on top of the shipped models, which stay unchanged:

- `style`    a LoRA of outlines, for pictures;
- `control`  a ControlNet of edges, for pictures;
- `picture`  an IP-Adapter and its image encoder: a picture sets the size and background that the prompt leaves open;
- `motion`   another motion module: the shipped one, trained further with everything else frozen;
- `digits`   a DiT-MoE of handwritten digits; see `digits`.

Each is written in the usual layout of its kind, and takes some 10 to 30 minutes on two CPU cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import ControlNetModel, MotionAdapter, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..models.motion import motion_unet
from ..models.options import DTYPE
from ..runs import whole
from ..validation import validated
from . import WEIGHTS, digits
from .denoising import Denoising
from .recipe import Common, Count, Rate
from .run import Batch
from .world import CANVAS, HOLE, Scene, edges, render, still

IMAGE_WIDTH = 64
UNSHOWN = 0.1  # share of an IP-Adapter's training pictures that is dropped, so that it learns to predict without one
CAPTIONED = 0.2  # `keep` in `world.forget`: captions that leave most facts to the picture


@validated
class MiniatureRecipe(Common):
    """The settings that decide the miniatures' weights. The shipped ones were trained with the defaults."""

    videos: Count = 2000
    style_steps: Count = 3000
    control_steps: Count = 1500
    picture_steps: Count = 1500
    motion_steps: Count = 800
    digits_steps: Count = 4000
    lora_rank: Count = 8
    lora_learning_rate: Rate = 1e-3
    adapter_learning_rate: Rate = 1e-3
    motion_learning_rate: Rate = 4e-4


RENDERED = "pictures that this project renders"
# For each stage: the name under which it ships, its description, and the source of its data.
CARDS = {
    "style": ("style", "a LoRA of outlines, for the picture model `tuned`", RENDERED),
    "control": (
        "control",
        "a ControlNet of edges, for the picture model `tuned`",
        RENDERED,
    ),
    "picture": (
        "picture",
        "an IP-Adapter with its image encoder, for the picture model `tuned`: a picture says the size of things and the"
        " background where the prompt leaves them open",
        RENDERED,
    ),
    "motion": (
        "motion-tuned",
        "the motion module `motion`, trained on with all else of `tuned` frozen",
        "videos that this project renders",
    ),
    "digits": (
        "digits",
        "a DiT-MoE of handwritten digits: 8 experts, of which 2 run, beside a shared one; with its autoencoder",
        "the digits that scikit-learn ships (UCI, Optical Recognition of Handwritten Digits, CC BY 4.0)",
    ),
}
HEAD = """---
# Shapes: {name}

This is {what}. Made by this project, from {data}"""


class MiniatureTrainer(Denoising):
    """Trains the miniatures in a run folder and can resume there. The results are in `FOLDER/miniatures`."""

    stages: ClassVar[tuple[str, ...]] = ("style", "control", "picture", "motion", "digits")
    after: ClassVar[Mapping[str, str]] = {}  # every stage starts from the shipped models
    drawn: ClassVar[int | None] = None  # the ControlNet's edges come from all videos
    recipe: MiniatureRecipe

    def __init__(self, folder: Path, recipe: MiniatureRecipe | None = None, device: str | None = None):
        super().__init__(folder, recipe or MiniatureRecipe(), device)
        names = ("tokenizer", "tokenizer_2")
        self.tokenizers = tuple(CLIPTokenizer.from_pretrained(WEIGHTS / "tuned" / name) for name in names)
        self.made = self.folder / "miniatures"
        self.made.mkdir(exist_ok=True)
        self._hole = 0.0

    def export(self, to: Path, command: str) -> None:
        """Copies the finished miniatures into the folder `to`, each with a model card."""
        for stage, (name, what, data) in CARDS.items():
            if not self._done(stage).exists():
                continue
            stages = ("digits-vae", "digits") if stage == "digits" else (stage,)
            head = HEAD.format(name=name, what=what, data=data)
            with whole({"made": Path(to) / name}) as staged:
                shutil.copytree(self.made / stage, staged["made"])
                (staged["made"] / "README.md").write_text(self.card(head, command, stages))

    def _load(self, name: str) -> StableDiffusionXLPipeline:
        pipe = StableDiffusionXLPipeline.from_pretrained(
            WEIGHTS / name, add_watermarker=False, **{DTYPE: torch.float32}
        )
        for module in (pipe.vae, pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
            module.requires_grad_(False)
        return pipe.to(self.device)

    def _draw(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        return render(scene, rng, hole=self._hole)

    def _pictures(
        self,
        stage: str,
        pipe: Any,
        modules: list[torch.nn.Module],
        network: Callable[[Batch], Any] | None = None,
        condition: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray] | None = None,
        keep: float = 0.6,
    ) -> None:
        """Trains modules on single frames.

        Args:
            network: returns, for a batch, the function to call in place of the UNet.
            condition: returns pictures (B, height, width, 3) in [0, 1] for videos and frames by number. Batches hold
                them as `condition` (B, 3, height, width), with `kept` (B, 1, 1), which is 0 for a share UNSHOWN.
            keep: as in `world.forget`.
        """
        data, recipe = self.latents(pipe), self.recipe
        key, steps = 10 + self.stages.index(stage), getattr(recipe, f"{stage}_steps")
        rate = recipe.lora_learning_rate if stage == "style" else recipe.adapter_learning_rate

        def batch(step: int) -> Batch:
            rng = self.rng(key, step)
            which = rng.integers(len(data), size=recipe.image_batch)
            frame = rng.integers(data.shape[1], size=len(which))
            drawn = self._noised(data[which, frame], [self.scenes[n] for n in which], rng, 0.25, keep=keep)
            if condition is not None:
                drawn["condition"] = torch.from_numpy(condition(which, frame, rng)).permute(0, 3, 1, 2)
                drawn["kept"] = torch.from_numpy(rng.random((len(which), 1, 1)) >= UNSHOWN).float()
            return drawn

        def loss(batch: Batch) -> torch.Tensor:
            return self._loss(pipe, pipe.unet if network is None else network(batch), batch)

        self.optimise(stage, dict.fromkeys(modules, rate), batch, loss, steps)

    def _style(self) -> None:
        self._hole = HOLE
        self._forget()
        pipe = self._load("tuned")
        self._plain(pipe.unet)
        rank = self.recipe.lora_rank
        torch.manual_seed(self.recipe.seed + 10)
        targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
        pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), adapter_name="style")
        self._pictures("style", pipe, [pipe.unet])
        layers = {n: p.half() for n, p in get_peft_model_state_dict(pipe.unet, adapter_name="style").items()}
        with whole({"lora": self.made / "style"}) as staged:
            StableDiffusionXLPipeline.save_lora_weights(staged["lora"], unet_lora_layers=layers)
        self._hole = 0.0
        self._forget()

    def _control(self) -> None:
        pipe = self._load("tuned")
        self._plain(pipe.unet)
        torch.manual_seed(self.recipe.seed + 11)
        net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 64, 96))
        net.requires_grad_(True).to(self.device)
        self._plain(net)

        def condition(which: np.ndarray, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return edges(self.frames[which, frame] / np.float32(255))

        def network(batch: Batch) -> Any:
            def unet(xt: torch.Tensor, t: torch.Tensor, **inputs: Any) -> Any:
                down, mid = net(xt, t, controlnet_cond=batch["condition"], return_dict=False, **inputs)
                return pipe.unet(
                    xt, t, down_block_additional_residuals=down, mid_block_additional_residual=mid, **inputs
                )

            return unet

        self._pictures("control", pipe, [net], network, condition)
        with whole({"net": self.made / "control"}) as staged:
            net.to("cpu", torch.float16).save_pretrained(staged["net"])

    def _picture(self) -> None:
        pipe = self._load("tuned")
        self._plain(pipe.unet)
        torch.manual_seed(self.recipe.seed + 12)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=IMAGE_WIDTH,
                intermediate_size=2 * IMAGE_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=CANVAS,
                patch_size=8,
                projection_dim=IMAGE_WIDTH,
            )
        ).to(self.device)
        pipe.register_modules(image_encoder=encoder)
        pipe.load_ip_adapter(_new_ip_adapter(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
        pipe.set_ip_adapter_scale(1.0)
        added = torch.nn.ModuleList([pipe.unet.encoder_hid_proj])
        added += [p for p in pipe.unet.attn_processors.values() if isinstance(p, torch.nn.Module)]
        added.requires_grad_(True).to(self.device)
        read = pipe.feature_extractor
        mean, std = (
            torch.tensor(value).view(1, 3, 1, 1).to(self.device) for value in (read.image_mean, read.image_std)
        )

        def condition(which: np.ndarray, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            # Another drawing of the same scene, with its things in other places.
            return np.stack([render(still(self.scenes[n]), rng, frames=1)[0] for n in which])

        def network(batch: Batch) -> Any:
            embeds = encoder((batch["condition"] - mean) / std).image_embeds[:, None] * batch["kept"]

            def unet(xt: torch.Tensor, t: torch.Tensor, added_cond_kwargs: dict[str, Any], **inputs: Any) -> Any:
                conditions = added_cond_kwargs | {"image_embeds": [embeds]}
                return pipe.unet(xt, t, added_cond_kwargs=conditions, **inputs)

            return unet

        self._pictures("picture", pipe, [encoder, added], network, condition, CAPTIONED)
        with whole({"adapter": self.made / "picture"}) as staged:
            staged["adapter"].mkdir()
            save_file(_ip_adapter_weights(pipe.unet), staged["adapter"] / "ip-adapter.safetensors")
            encoder.to("cpu", torch.float16).save_pretrained(staged["adapter"] / "image_encoder")

    def _motion(self) -> None:
        pipe = self._load("tuned")
        adapter = MotionAdapter.from_pretrained(WEIGHTS / "motion", torch_dtype=torch.float32).to(self.device)
        adapter.requires_grad_(True)
        unet = motion_unet(pipe.unet, adapter)
        self._videos("motion", pipe, unet, {adapter: self.recipe.motion_learning_rate})
        with whole({"motion": self.made / "motion"}) as staged:
            adapter.to("cpu", torch.float16).save_pretrained(staged["motion"])

    def _digits(self) -> None:
        digits.train(self)


def _new_ip_adapter(unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter's weights before training, with the keys and values of the text's cross-attention."""
    width = unet.config.cross_attention_dim
    projection = torch.nn.Linear(IMAGE_WIDTH, 4 * width)
    weights = {"proj.weight": projection.weight.detach(), "proj.bias": projection.bias.detach()}
    weights |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    attentions = [unet.get_submodule(n.removesuffix(".processor")) for n in unet.attn_processors if "attn2" in n]
    keys = {}
    for i, attention in enumerate(attentions):
        keys[f"{2 * i + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        keys[f"{2 * i + 1}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    return {"image_proj": weights, "ip_adapter": keys}


def _ip_adapter_weights(unet: Any) -> dict[str, torch.Tensor]:
    """An IP-Adapter's weights under their usual names."""
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    named = {"image_proj.proj.weight": projection.image_embeds.weight}
    named |= {"image_proj.proj.bias": projection.image_embeds.bias}
    named |= {"image_proj.norm.weight": projection.norm.weight, "image_proj.norm.bias": projection.norm.bias}
    adapted = [p for p in unet.attn_processors.values() if hasattr(p, "to_k_ip")]
    for i, processor in enumerate(adapted):
        named[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"] = processor.to_k_ip[0].weight
        named[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in named.items()}
