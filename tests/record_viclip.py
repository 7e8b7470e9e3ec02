"""Records `golden/viclip.json` with VBench's own classes; run by hand where they can be imported.

    pip install --no-deps vbench==0.1.5 openai-clip timm==1.0.12 einops ftfy regex 'setuptools<81'
    python tests/record_viclip.py

Nothing here imports w2sd_video. Weights and videos come from `RandomState`, whose stream numpy has frozen.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from write_golden import write_golden

GOLDEN = Path(__file__).parent / "golden" / "viclip.json"
TINY: dict[str, Any] = {"side": 28, "vision": (32, 2, 4), "text": (24, 2, 3), "features": 16}
VIDEOS = (0, 1, 2)

PLAIN = (  # printable ASCII without entities
    "a cat playing in park",
    "A Panda, drinking COFFEE in a cafe   in Paris!!",
    "   leading and trailing   ",
    "it's what they'll do; I'd say we've won, aren't you?",
    "3 dogs at 12:45 on 2024-01-31, 99.5% sure -- #1 @home",
    "Snow rocky mountains peaks canyon. snow blanketed rocky mountains surround and shadow deep canyons. the canyons"
    " twist and bend through the high elevated mountain peaks.",
    " ".join(["one"] * 30),
    " ".join(["one"] * 31),
    "supercalifragilisticexpialidocious xqzvk a1b2c3",
    "<b>bold</b> {json: [1, 2]} C:\\path\\file $5 ^_^ ~`|",
    "before <|endoftext|> after, <|STARTOFTEXT|> too",
    "!",
    "",
)
ODD = (  # what ftfy looks at
    "a cat \N{CAT FACE} and \N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} \N{HEAVY BLACK HEART}"
    "\N{VARIATION SELECTOR-16}",
    "\u201ccurly\u201d quotes \u2018here\u2019 \u2013 it\u2019s an ellipsis\u2026",
    "salt &amp; pepper &lt;3 &amp;amp;quot;twice&amp;amp;quot; &copy &#233; &ldquo;q&rdquo;",
    "<i>a &amp; b</i> &eacute;",
    "tabs\tand\nnew\r\nlines\u00a0and\u3000wide\u2009spaces\x0b\x1cend",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul \u039f\u0394\u039f\u03a3",
    "caf\u00c3\u00a9 \u00e2\u20ac\u0153mojibake\u00e2\u20ac\u009d",
    "\u732b\u304c\u516c\u5712\u3067\u904a\u3076 \uff26\uff35\uff2c\uff2c width \uff11\uff12",
    "\u043a\u043e\u0442 \u0432 \u043f\u0430\u0440\u043a\u0435 \u0642\u0637\u0629 \u0e41\u0e21\u0e27",
    "\ufb01sh o\ufb00 \u00bd \u00b2 \u2167 \u2122 \u20ac5 \u00b15\u00b0C",
    "zero\u200bwidth soft\u00adhyphen \ufeffbom \x1b[31mred\x1b[0m bell\x07",
)
PROMPTS = PLAIN[:6]


def seeded(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights for every name, so large that attention is not even and that nothing is left zero or one."""
    weights = {}
    for name, shape in shapes.items():
        x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)
        if name == "temp":
            x = np.full_like(x, 0.01)
        elif "embedding" in name:
            x *= 0.5
        elif len(shape) > 1:
            x *= (3 if "attn" in name else 1.5) / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
        else:
            x = x * np.float32(0.2) + np.float32(name.endswith(".weight"))
        weights[name] = torch.from_numpy(np.asarray(x))
    return weights


def video(seed: int, side: int) -> torch.Tensor:
    """(8, 3, side, side), unit variance: squares of 14 px that change from frame to frame, and noise."""
    random = np.random.RandomState(seed)
    squares = random.standard_normal((8, 3, side // 14, side // 14)).repeat(14, 2).repeat(14, 3)
    x = 0.8 * squares + 0.6 * random.standard_normal(squares.shape)
    return torch.from_numpy(x.astype(np.float32))


def official(
    side: int = 224,
    vision: tuple[int, int, int] = (1024, 24, 16),
    text: tuple[int, int, int] = (768, 12, 12),
    features: int = 768,
) -> Any:
    """VBench's ViCLIP with `seeded` weights, of any size: the encoders' width, layers and heads."""
    import vbench.utils

    vocabulary = files("clip") / "bpe_simple_vocab_16e6.txt.gz"
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(vbench.utils, "CACHE_DIR", folder):
        (Path(folder) / "ViCLIP").mkdir()  # what is not found here as vbench is imported, it would download
        shutil.copy(str(vocabulary), Path(folder) / "ViCLIP")
        from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
        from vbench.third_party.ViCLIP.viclip import ViCLIP
        from vbench.third_party.ViCLIP.viclip_text import CLIP_TEXT
        from vbench.third_party.ViCLIP.viclip_vision import VisionTransformer

    class Sized(ViCLIP):
        def build_vision_encoder(self):
            return VisionTransformer(side, 14, *vision, features).eval()

        def build_text_encoder(self):
            width, layers, heads = text
            return CLIP_TEXT(features, 32, 49408, width, heads, layers, checkpoint_num=0).eval()

    with mock.patch.object(SimpleTokenizer.__init__, "__defaults__", (str(vocabulary),)):
        model = Sized(pretrain=None)
    model.load_state_dict(seeded({name: tensor.shape for name, tensor in model.state_dict().items()}))
    return model


def main() -> None:
    model = official(**TINY)
    with torch.no_grad():
        videos = torch.cat([model.encode_vision(video(n, TINY["side"])[None], test=True) for n in VIDEOS])
        texts = torch.cat([model.encode_text(prompt) for prompt in PROMPTS])
    ids = model.text_encoder.tokenize([*PLAIN, *ODD], context_length=32).tolist()
    write_golden(
        GOLDEN,
        ("vbench", "ftfy", "torch", "numpy"),
        shapes={name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        videos=[[round(x, 6) for x in row] for row in videos.tolist()],
        texts=[[round(x, 6) for x in row] for row in texts.tolist()],
        ids=[np.trim_zeros(row, "b") for row in ids],
    )


if __name__ == "__main__":
    main()
