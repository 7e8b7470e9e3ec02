"""Records `golden/mps.json` with imscore's copy of MPS's own code; run by hand, with the folder that holds it.

    pip install --no-deps --target FOLDER imscore==0.0.11 open_clip_torch einops
    python tests/record_mps.py FOLDER

Nothing here imports w2sd_video: the vocabulary is open_clip's. The network has the published one's names, its layers
that join image and prompt and their heads, and is narrow.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from seeded import fill
from write_golden import write_golden

GOLDEN = Path(__file__).parent / "golden" / "mps.json"
WIDTH = 32
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "image_size": 42,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 40,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
}
PROMPTS = (
    "a cat",
    "",
    "A Panda, drinking COFFEE in a cafe   in Paris!!",
    # With cosines in place of dot products, other tokens of this one would be read.
    "green sunset holding vintage watercolor ocean word futuristic things texture wooden city",
    "portrait of a woman, soft light, muted color, sharp texture, hands, location, artistry",
    "an oil painting of a lighthouse at dusk, waves, gulls and two small boats, " * 8,
    "caf\u00e9 cafe\u0301 \u732b\u304c\u516c\u5712\u3067\u904a\u3076 \u043a\u043e\u0442 \u2019quoted\u2019 \U0001f600",
)
IMAGES = 4
SIDE, STEP = 0.4, 0.3


def weights(shapes: Mapping[str, Sequence[int]], common: Sequence[int]) -> dict[str, torch.Tensor]:
    """Weights for every published name, and a scale of scores of 20.

    The embeddings of `common`, the condition's token ids, lie on one side and those of all other tokens on the other,
    and the text encoder's blocks add little to that, so that prompts have tokens that are read and tokens that are not.
    """
    state = fill({name: shape for name, shape in shapes.items() if shape})
    words = state["model.text_model.embeddings.token_embedding.weight"]
    side = torch.full((len(words), 1), -SIDE)
    side[list(common)] = SIDE
    words += side * (-1.0) ** torch.arange(words.shape[1])  # of mean 0, which norms would take away
    for name, tensor in state.items():
        if "text_model.encoder" in name and ("out_proj" in name or "fc2" in name):
            tensor *= STEP
    return state | {"model.logit_scale": torch.tensor(20.0).log()}


def images() -> torch.Tensor:
    """(4, 3, 42, 42), unit variance: squares of 14 px and noise, in steps of float16, to which the original rounds."""
    side, patch = VISION["image_size"], VISION["patch_size"]
    random = np.random.RandomState(0)
    squares = random.standard_normal((IMAGES, 3, side // patch, side // patch)).repeat(patch, 2).repeat(patch, 3)
    x = 0.8 * squares + 0.6 * random.standard_normal(squares.shape)
    return torch.from_numpy(x.astype(np.float16).astype(np.float32))


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer as transformers makes it from the files of laion/CLIP-ViT-H-14-laion2B-s32B-b79K."""
    from transformers import AutoTokenizer

    lines = gzip.decompress((folder / "open_clip" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    settings |= {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(tokens)}), encoding="utf-8")
        (Path(made) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        (Path(made) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return AutoTokenizer.from_pretrained(made)


def reference(folder: Path) -> Any:
    """imscore's scorer with `weights`, without its processing of images."""
    from imscore.mps import model as code
    from transformers import CLIPConfig

    text = {**TEXT, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}  # as laion's config.json has them
    clip = code.XCLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH))
    layers, words = code.CrossModel, tokenizer(folder)
    with (
        mock.patch.object(code.XCLIPModel, "from_pretrained", lambda name: clip),
        mock.patch.object(code, "CrossModel", lambda dim, **options: layers(dim=WIDTH, **options)),
        mock.patch.object(code.AutoTokenizer, "from_pretrained", lambda name, **options: words),
    ):
        scorer = code.MPS()
    scorer._process = lambda pixels: pixels
    common = ids(scorer, scorer.condition)
    scorer.mps.load_state_dict(weights({name: tuple(x.shape) for name, x in scorer.mps.state_dict().items()}, common))
    return scorer.eval()


def ids(scorer: Any, text: str) -> list[int]:
    """Of a text, up to its end, which is what pads too."""
    found = scorer._tokenize([text])[0].tolist()
    return found[: found.index(49407) + 1]


@torch.no_grad()
def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    scorer = reference(folder)
    masks: list[torch.Tensor] = []
    scorer.mps.cross_model.register_forward_pre_hook(lambda module, inputs: masks.append(inputs[2][0, 0]))
    cases = []
    for prompt in PROMPTS:
        scores = scorer.score(images(), [prompt] * IMAGES)
        cases.append(
            {
                "prompt": prompt,
                "ids": ids(scorer, prompt),
                "read": "".join("1" if x == 0 else "0" for x in masks[-1].tolist()),
                "scores": [round(x, 6) for x in scores.tolist()],
            }
        )
    write_golden(
        GOLDEN,
        ("imscore", "open_clip_torch", "transformers", "torch", "numpy"),
        condition={"text": scorer.condition, "ids": ids(scorer, scorer.condition)},
        shapes={name: list(x.shape) for name, x in scorer.mps.state_dict().items()},
        cases=cases,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
