"""A DiT-MoE of handwritten digits, the 8 x 8 ones that scikit-learn ships, and a judge of them without a network."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..runs import whole

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler

    from ..models.dit_moe import DiTMoETransformer2DModel
    from .miniatures import MiniatureTrainer
    from .run import Batch

SIDE = 32  # pixels of a picture: each of the data's is 4 x 4
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NEIGHBOURS = 3
VAE_STEPS = 400
BATCH = 64
BALANCE = 0.01  # weight of the loss that keeps all experts in use (Shazeer et al. 2017, arXiv:1701.06538)
UNLABELLED = 0.1
NULL = 1000  # the null class of diffusers' DiTPipeline, however many classes there are


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits (n, 8, 8) in [0, 1], and what they are (n,).

    Raises:
        ModuleNotFoundError: scikit-learn, which has them, is not installed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target


def enlarged(digits: np.ndarray) -> torch.Tensor:
    """Digits (n, 8, 8) in [0, 1] as pictures (n, 3, 32, 32) in [-1, 1]."""
    grey = F.interpolate(torch.from_numpy(digits)[:, None], size=(SIDE, SIDE), mode="bilinear")
    return grey.expand(-1, 3, -1, -1) * 2 - 1


def reduced(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, 32, 32, 3) in `uint8` as digits (n, 8, 8) in [0, 1]."""
    grey = pictures.astype(np.float32).mean(-1) / 255
    return grey.reshape(len(grey), 8, SIDE // 8, 8, SIDE // 8).mean((2, 4))


def pictures(digit: int, n: int) -> np.ndarray:
    """The data's n-th picture of a digit, counted round, as the model makes them: (1, 32, 32, 3) in `uint8`."""
    digits, labels = data()
    chosen = digits[labels == digit]
    return _pixels(chosen[[n % len(chosen)]])


def judge(picture: np.ndarray, name: str) -> dict[str, float]:
    """Scores a picture (32, 32, 3) against the digit that was asked for, by the nearest of the data's 8 x 8 pixels.

    Returns:
        `right`: whether most of the 3 nearest digits are it; `distance`: root mean square to the nearest of all.

    Raises:
        ValueError: the name is no digit's, or the picture has another size.
    """
    if name not in (*NAMES, *map(str, range(10))):
        raise ValueError(f"{name!r} is not accepted; give a digit, {', '.join(NAMES)} or 0 to 9")
    if picture.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"it is {picture.shape[1]}x{picture.shape[0]}; pictures of digits are {SIDE}x{SIDE}")
    digits, labels = data()
    distances = np.square(_references() - reduced(picture[None])).mean((1, 2))
    nearest = labels[np.argsort(distances, kind="stable")[:NEIGHBOURS]]
    wanted = NAMES.index(name) if name in NAMES else int(name)
    return {"right": float(np.bincount(nearest).argmax() == wanted), "distance": float(np.sqrt(distances.min()))}


@cache
def _references() -> np.ndarray:
    """The data as `reduced` gives it: enlarged and reduced again."""
    return reduced(_pixels(data()[0]))


def _pixels(digits: np.ndarray) -> np.ndarray:
    """Digits (n, 8, 8) as pictures (n, 32, 32, 3) in `uint8`."""
    return ((enlarged(digits).permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)


def pipeline(vae: AutoencoderKL, transformer: DiTMoETransformer2DModel) -> Any:
    """The pipeline of a model of digits."""
    from ..pipelines.dit_moe import W2SDDiTMoEPipeline

    names = {str(n): f"{name}, {n}" for n, name in enumerate(NAMES)}
    return W2SDDiTMoEPipeline(transformer=transformer, vae=vae, scheduler=scheduler(), id2label=names)


def scheduler() -> DDIMScheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False)


def train(trainer: MiniatureTrainer) -> None:
    """The autoencoder, and the transformer on its latents; written to `digits` among the trainer's miniatures."""
    from diffusers import AutoencoderKL

    from ..models.dit_moe import DiTMoETransformer2DModel

    device = trainer.device
    digits, labels = data()
    pictures = enlarged(digits).to(device)
    torch.manual_seed(trainer.recipe.seed + 14)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        force_upcast=False,
    ).to(device)

    def drawn(step: int) -> Batch:
        rng = trainer.rng(20, step)
        return {"which": torch.from_numpy(rng.integers(len(pictures), size=BATCH)), "seed": torch.tensor(_seed(rng))}

    def reconstruction(batch: Batch) -> torch.Tensor:
        x = pictures[batch["which"]]
        torch.manual_seed(int(batch["seed"]))
        posterior = vae.encode(x).latent_dist
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return F.mse_loss(vae.decode(posterior.sample()).sample, x) + 1e-3 * kl

    trainer.optimise("digits-vae", {vae: 2e-3}, drawn, reconstruction, VAE_STEPS)
    with torch.no_grad():
        latents = torch.cat([vae.encode(x).latent_dist.mean for x in pictures.split(256)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    latents *= vae.config.scaling_factor

    torch.manual_seed(trainer.recipe.seed + 15)
    transformer = DiTMoETransformer2DModel(
        sample_size=8,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=16,
        num_shared_experts=1,
        expert_ratio=1,
    ).to(device)
    routed: list[torch.Tensor] = []
    for block in transformer.blocks:
        block.moe.gate.register_forward_hook(lambda module, inputs, logits: routed.append(logits))
    noise = scheduler()

    def noised(step: int) -> Batch:
        rng = trainer.rng(21, step)
        which = rng.integers(len(latents), size=BATCH)
        draw = torch.Generator().manual_seed(_seed(rng))
        eps = torch.randn((BATCH, *latents.shape[1:]), generator=draw)
        t = torch.randint(1000, (BATCH,), generator=draw)
        said = torch.where(torch.rand(BATCH, generator=draw) < UNLABELLED, NULL, torch.from_numpy(labels[which]))
        return {"which": torch.from_numpy(which), "eps": eps, "t": t, "said": said}

    def loss(batch: Batch) -> torch.Tensor:
        x0, eps, t = latents[batch["which"]], batch["eps"], batch["t"]
        routed.clear()
        p = transformer(noise.add_noise(x0, eps, t), t, batch["said"]).sample.chunk(2, 1)[0]
        return F.mse_loss(p.float(), eps) + BALANCE * sum(_imbalance(logits.float()) for logits in routed)

    trainer.optimise("digits", {transformer: 1e-3}, noised, loss, trainer.recipe.digits_steps)
    with whole({"digits": trainer.made / "digits"}) as staged:
        finished = pipeline(vae.to("cpu", torch.float16), transformer.to("cpu", torch.float16))
        finished.save_pretrained(staged["digits"])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _imbalance(logits: torch.Tensor) -> torch.Tensor:
    """Of a router's logits (tokens, experts): 1 where experts are used alike, more where some are used more."""
    weights = logits.softmax(-1)
    experts = weights.shape[1]
    chosen = F.one_hot(weights.topk(2, -1).indices, experts).sum(1).float().mean(0) / 2
    return experts * (chosen * weights.mean(0)).sum()
