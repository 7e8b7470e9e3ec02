"""The generations of Stable Diffusion whose models are loaded here, with the configurations that ship for them.

A single file carries no configuration. Those of SDXL and Stable Diffusion 1.5 lie in the package (`sdxl/`, `sd15/`),
and so does the CLIP vocabulary: single files load offline.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import CLIPTokenizer

SDXL = Path(__file__).parents[1] / "sdxl"
SD15 = Path(__file__).parents[1] / "sd15"
"""Configurations in diffusers' folder layout, without weights. The scheduler is AnimateDiff's."""

# What image models are trained with, and what the paper samples them with.
IMAGE_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
IMAGE_SCHEDULER |= {"clip_sample": False, "set_alpha_to_one": False}


@dataclass(frozen=True)
class Base:
    """A generation of Stable Diffusion, of which the two arms are.

    Attributes:
        name: for messages.
        config: configurations in diffusers' folder layout.
        pipeline: the name of the stock image pipeline.
        family: the names of pipeline classes that are saved with an image model of it.
        animatediff: those that are saved with a video UNet.
        motion_weights: a hub repository with a motion module for it.
        text_encoders, tokenizers: its components of these kinds.
    """

    name: str
    config: Path
    pipeline: str
    family: str
    animatediff: tuple[str, ...]
    motion_weights: str
    text_encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[Literal["tokenizer", "tokenizer_2"], ...] = ("tokenizer",)

    @property
    def image(self) -> Any:
        """The stock image pipeline. Imported here because scorers take this file's tokenizer and not diffusers."""
        import diffusers

        return getattr(diffusers, self.pipeline)


BASES = {
    "SDXL": Base(
        "SDXL",
        SDXL,
        "StableDiffusionXLPipeline",
        r"(W2SD)?StableDiffusionXL\w*",
        ("AnimateDiffSDXLPipeline", "W2SDAnimateDiffSDXLPipeline"),
        "guoyww/animatediff-motion-adapter-sdxl-beta",
        ("text_encoder", "text_encoder_2"),
        ("tokenizer", "tokenizer_2"),
    ),
    "Stable Diffusion": Base(
        "Stable Diffusion",
        SD15,
        "StableDiffusionPipeline",
        r"(W2SD)?StableDiffusion(?!XL|3)\w*",
        tuple(f"{ours}AnimateDiff{kind}Pipeline" for ours in ("", "W2SD") for kind in ("", "ControlNet")),
        "guoyww/animatediff-motion-adapter-v1-5-2",
    ),
}


def clip_tokenizer(name: Literal["tokenizer", "tokenizer_2"] = "tokenizer") -> CLIPTokenizer:
    """SDXL's CLIP tokenizer, made from the merges that ship with the package: 49,408 tokens.

    The vocabulary follows from the merges: 256 byte symbols, the same at the end of a word, 48,894 merges, and the two
    ends of a text. `tokenizer_2` pads with "!" (0) instead of the end of the text (49407).
    """
    merges = gzip.decompress((SDXL / "clip_merges.txt.gz").read_bytes()).decode().splitlines()
    # Bytes that print stand for themselves; the others are moved past 255, in order (Radford et al. 2019).
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        (path / "tokenizer_config.json").write_bytes((SDXL / name / "tokenizer_config.json").read_bytes())
        return CLIPTokenizer.from_pretrained(folder)
