"""Records `golden/image_reward.json` with ImageReward's own classes; run by hand where they can be imported.

    pip install --no-deps image-reward==1.5 transformers==4.38.2 tokenizers==0.15.2 huggingface_hub==0.23.5
    pip install --no-deps timm==0.6.13 fairscale==0.4.13
    python tests/record_image_reward.py

Nothing here imports w2sd_video. It takes a few GB of memory: names and shapes are recorded at the true size.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from seeded import fill, pictures
from write_golden import write_golden

GOLDEN = Path(__file__).parent / "golden" / "image_reward.json"
SIDE = 224
TINY: dict[str, tuple[int, int, int]] = {"vision": (32, 2, 4), "text": (24, 2, 3)}  # width, layers, heads
TRUE: dict[str, tuple[int, int, int]] = {"vision": (1024, 24, 16), "text": (768, 12, 12)}
POSITIONS = "blip.text_encoder.embeddings.position_ids"

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    *_LETTERS,
    *(f"##{letter}" for letter in _LETTERS),
    *("\u00df", "##\u00df", "\u732b", "\u516c", "\u0444", "##\u0444", "\u20ac", "\u2026", "\u2014"),
    *("the", "cat", "cats", "play", "##ing", "in", "park", "red", "one", "cafe", "un", "##believ", "##able"),
)
PROMPTS = (
    "a cat playing in the park",
    "",
    "   ",
    "A RED Cat, unbelievable -- in the CAFE!",
    "tabs\tand\nnew lines\u00a0and\u3000wide \u200bspaces",
    " ".join(["one"] * 33),
    " ".join(["one"] * 33 + ["red", "cat"]),
    "unbelievable playing cats, " * 12,
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul",
    "\u732b\u304c\u516c\u5712\u3067 \U0001f431 \u0444\u0401\u0439 \u20ac5 \u2014 it\u2019s\u2026",
    "[MASK] [mask] a[SEP]b [DEC] [ENC] [dec]",
    "x" * 101 + " y" * 2,
)


def seeded(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights for every name of `ImageReward.pt`."""
    weights = fill({name: shape for name, shape in shapes.items() if name != POSITIONS})
    if POSITIONS in shapes:
        weights[POSITIONS] = torch.arange(shapes[POSITIONS][1])[None]
    return weights


def images() -> list[np.ndarray]:
    """Images (224, 224, 3), uint8."""
    return [np.asarray(x.permute(1, 2, 0).mul(255).round().byte()) for x in pictures(SIDE, SIDE)]


def write_vocabulary(folder: Path) -> Path:
    """`vocab.txt` of the few `WORDS`."""
    path = folder / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return path


def official(vision: tuple[int, int, int], text: tuple[int, int, int], words: int, folder: Path) -> Any:
    """ImageReward's own class at a size: both encoders' width, layers and heads, and the words of the vocabulary.

    Sizes are set from outside, since the class has no arguments for them.
    """
    if "ImageReward" not in sys.modules:
        spec = find_spec("ImageReward")
        assert spec is not None and spec.submodule_search_locations is not None
        root = spec.submodule_search_locations[0]
        for name, path in (("ImageReward", root), ("ImageReward.models", f"{root}/models")):
            sys.modules[name] = ModuleType(name)  # bare: both import much that only trains
            sys.modules[name].__path__ = [path]
    from ImageReward import ImageReward as module
    from ImageReward.models.BLIP import blip, blip_pretrain, vit

    width, layers, heads = text
    # The hub's med_config.json, which is BLIP's.
    config = {
        "vocab_size": words + 2,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "add_cross_attention": True,
    }
    settings = folder / "med_config.json"
    settings.write_text(json.dumps(config))
    vocabulary = write_vocabulary(folder)
    make, head = vit.VisionTransformer, module.MLP

    def create_vit(*_: Any) -> tuple[Any, int]:
        return make(img_size=SIDE, patch_size=16, embed_dim=vision[0], depth=vision[1], num_heads=vision[2]), vision[0]

    with ExitStack() as stack:
        if vision != TRUE["vision"]:
            stack.enter_context(mock.patch.object(blip_pretrain, "create_vit", create_vit))
            stack.enter_context(mock.patch.object(module, "MLP", lambda _: head(width)))
        tokenizer = blip.BertTokenizer(str(vocabulary))
        stack.enter_context(mock.patch.object(blip.BertTokenizer, "from_pretrained", lambda _: tokenizer))
        return module.ImageReward(str(settings)).eval()


def _shapes(model: Any) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def published(folder: Path) -> dict[str, Any]:
    """Of the true size: names and shapes, `{n}` for the number of a layer; how many layers; and other settings."""
    model = official(**TRUE, words=30522, folder=folder)
    vit, bert = model.blip.visual_encoder, model.blip.text_encoder
    shapes = {re.sub(r"(blocks|layer)\.\d+\.", r"\1.{n}.", name): shape for name, shape in _shapes(model).items()}
    return {
        "shapes": shapes,
        "names": len(model.state_dict()),
        "layers": {"blocks": len(vit.blocks), "layer": len(bert.encoder.layer)},
        "heads": [vit.blocks[0].attn.num_heads, bert.encoder.layer[0].attention.self.num_attention_heads],
        "epsilons": [
            sorted({m.eps for m in network.modules() if isinstance(m, torch.nn.LayerNorm)}) for network in (vit, bert)
        ],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        true = published(Path(name))
        model = official(**TINY, words=len(WORDS), folder=Path(name))
        shapes = _shapes(model)
        model.load_state_dict(seeded(shapes))
        pictures = [Image.fromarray(image) for image in images()]
        with torch.no_grad():
            rewards = [model.inference_rank(prompt, pictures)[1] for prompt in PROMPTS]
        ids = [model.blip.tokenizer(p, truncation=True, max_length=35).input_ids for p in PROMPTS]
    packages = ("image-reward", "transformers", "timm", "torch", "numpy")
    rewards = [[round(x, 7) for x in row] for row in rewards]
    write_golden(GOLDEN, packages, published=true, shapes=shapes, rewards=rewards, ids=ids)


if __name__ == "__main__":
    main()
