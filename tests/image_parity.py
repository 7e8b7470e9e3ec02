"""Image metrics as their own packages compute them, on random weights in the published layouts, beside ours.

    python tests/image_parity.py        # records golden/images.json; by hand

It takes what `vbench-requirements.txt` lists, and hpsv2==1.2.0 with what it imports (its wheel lacks the vocabulary
`src/open_clip/bpe_simple_vocab_16e6.txt.gz`, which is open_clip's). The networks are small, but for Inception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from vbench_parity import frames_of, seeded

from w2sd_video.eval.networks import clip

GOLDEN = Path(__file__).parent / "golden" / "images.json"
PROMPT = "A red fox &amp; its “friend”,  jumping OVER the dog"
# Width, height: odd rests after resizing (257x302: 39 px are cut off), upscaling, the size itself.
SIZES = {"a": (257, 302), "b": (320, 200), "c": (96, 128), "d": (224, 224), "e": (131, 97)}
TINY = {
    "B/32": clip._layout(32, (128, 2, 2), (64, 2), 32, "quick_gelu"),
    "L/14": clip._layout(14, (128, 2, 2), (64, 2), 768, "quick_gelu"),
    "H/14": clip._layout(14, (160, 2, 2), (64, 2), 48, "gelu"),
}
DINO = {"num_classes": 0, "depth": 2, "embed_dim": 128, "num_heads": 2}
PLACES = {
    "clip": "clip_model/ViT-B-32.pt",
    "l14": "clip_model/ViT-L-14.pt",
    "dino": "dino_model/dino_deitsmall16_pretrain.pth",
    "aesthetic": "aesthetic_model/emb_reader/sac+logos+ava1-l14-linearMSE.pth",
    "hps": "hps/HPS_v2_compressed.pt",
    "inception": "inception/weights-inception-2015-12-05-6726825d.pth",
}


def write_pictures(folder: Path, names: Mapping[str, tuple[int, int]] = SIZES) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in names.items():
        kind = "noise" if name in "d ours-1 ours-5 theirs-2" else "slide"
        frame = frames_of(name, (width, height, 1, 8.0, kind, 0))[0]
        Image.fromarray(frame).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in names]


def write_weights(folder: Path) -> None:
    """Random weights where each dimension looks for its own, and those of PickScore in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel

    for key, place in PLACES.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        state = seeded(shapes(key), 1.7 if key == "inception" else 1.5)  # such that its classes differ
        torch.save({"state_dict": state} if key == "hps" else state, folder / place)
    vision, text = TINY["H/14"].values()
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=vision["projection_dim"]))
    state = seeded({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict(state | {"logit_scale": torch.tensor(100.0).log()})
    model.save_pretrained(folder / "yuvalkirstain/PickScore_v1")


def shapes(key: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published files, with `TINY` sizes."""
    if key == "dino":
        blocks = {
            f"blocks.{n}.{part}.{kind}": (out, *((width,) if kind == "weight" and width else ()))
            for n in range(2)
            for part, out, width in (
                ("norm1", 128, 0),
                ("attn.qkv", 384, 128),
                ("attn.proj", 128, 128),
                ("norm2", 128, 0),
                ("mlp.fc1", 512, 128),
                ("mlp.fc2", 128, 512),
            )
            for kind in ("weight", "bias")
        }
        ends = {"cls_token": (1, 1, 128), "pos_embed": (1, 197, 128), "norm.weight": (128,), "norm.bias": (128,)}
        return ends | {"patch_embed.proj.weight": (128, 3, 16, 16), "patch_embed.proj.bias": (128,)} | blocks
    if key == "aesthetic":
        sizes = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
        weights = {f"layers.{n}.weight": (b, a) for n, (a, b) in sizes.items()}
        return weights | {f"layers.{n}.bias": (b,) for n, (_, b) in sizes.items()}
    if key == "inception":
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

        with torch.device("meta"):
            network = unfilled(Inception)
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return openai_shapes(*TINY[{"clip": "B/32", "l14": "L/14", "hps": "H/14"}[key]].values())


def unfilled(inception: Any) -> Any:
    """torch-fidelity's network, which would otherwise read a file as it is made."""
    from unittest.mock import patch

    with patch.object(torch, "load", lambda *a, **k: {}), patch.object(inception, "load_state_dict", lambda *a: None):
        return inception("", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")


def openai_shapes(vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, patch = vision["hidden_size"], vision["patch_size"]
    out = vision["projection_dim"]
    found: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((224 // patch) ** 2 + 1, width),
        "visual.proj": (width, out),
        "visual.conv1.weight": (width, 3, patch, patch),
        "positional_embedding": (77, text["hidden_size"]),
        "text_projection": (text["hidden_size"], out),
        "logit_scale": (),
        "token_embedding.weight": (49408, text["hidden_size"]),
    }
    norms = {"visual.ln_pre": width, "visual.ln_post": width, "ln_final": text["hidden_size"]}
    for prefix, settings in (("visual.", vision), ("", text)):
        w = settings["hidden_size"]
        for n in range(settings["num_hidden_layers"]):
            block = f"{prefix}transformer.resblocks.{n}"
            norms |= {f"{block}.ln_1": w, f"{block}.ln_2": w}
            found |= {f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,)}
            for part, a, b in (("attn.out_proj", w, w), ("mlp.c_fc", w, 4 * w), ("mlp.c_proj", 4 * w, w)):
                found |= {f"{block}.{part}.weight": (b, a), f"{block}.{part}.bias": (b,)}
    for name, size in norms.items():
        found |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return found


# The official scorers


def openai_clip(folder: Path, key: str) -> tuple[Any, Any]:
    """OpenAI's model, and its preprocessing of a picture."""
    from clip.clip import _transform
    from clip.model import CLIP

    vision, text = TINY["B/32" if key == "clip" else "L/14"].values()
    model = CLIP(
        vision["projection_dim"],
        224,
        vision["num_hidden_layers"],
        vision["hidden_size"],
        vision["patch_size"],
        77,
        49408,
        text["hidden_size"],
        text["num_attention_heads"],
        text["num_hidden_layers"],
    )
    model.load_state_dict(torch.load(folder / PLACES[key], weights_only=True))
    return model.eval(), _transform(224)


def clip_t(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    from clip import tokenize

    model, prepare = openai_clip(folder, "clip")
    text = F.normalize(model.encode_text(tokenize([PROMPT])), dim=-1)
    images = torch.stack([prepare(Image.open(path)) for path in pictures])
    return (F.normalize(model.encode_image(images), dim=-1) @ text.T)[:, 0].tolist()


def clip_i(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    model, prepare = openai_clip(folder, "clip")
    images = torch.stack([prepare(Image.open(path)) for path in [*pictures, *references]])
    features = F.normalize(model.encode_image(images), dim=-1)
    ours, theirs = features.split([len(pictures), len(references)])
    return (ours @ theirs.T).mean(1).tolist()


def dino(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    """By timm's ViT, prepared by torchvision as DINO's evaluation does."""
    import timm
    from torchvision import transforms as T

    vit = timm.create_model("vit_small_patch16_224", **DINO).eval()
    vit.load_state_dict(torch.load(folder / PLACES["dino"], weights_only=True))
    prepare = T.Compose(
        [
            T.Resize(256, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torch.stack([prepare(Image.open(path)) for path in [*pictures, *references]])
    features = F.normalize(vit(images), dim=-1)
    ours, theirs = features.split([len(pictures), len(references)])
    return (ours @ theirs.T).mean(1).tolist()


def laion_aesthetic(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    """The head's matrices one after another, as its repository describes it."""
    model, prepare = openai_clip(folder, "l14")
    x = F.normalize(model.encode_image(torch.stack([prepare(Image.open(path)) for path in pictures])), dim=-1)
    state = torch.load(folder / PLACES["aesthetic"], weights_only=True)
    for n in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{n}.weight"].T + state[f"layers.{n}.bias"]
    return x[:, 0].tolist()


def pick_score(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    """As its model card shows, with transformers' preprocessing by Pillow."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    from w2sd_video.models.bases import clip_tokenizer

    model = CLIPModel.from_pretrained(folder / "yuvalkirstain/PickScore_v1").eval()
    images = CLIPImageProcessorPil()(images=[Image.open(path) for path in pictures], return_tensors="pt")
    ids = clip_tokenizer()([PROMPT], padding=True, truncation=True, max_length=77, return_tensors="pt")
    images = F.normalize(model.get_image_features(**images).pooler_output, dim=-1)
    text = F.normalize(model.get_text_features(**ids).pooler_output, dim=-1)
    return (model.logit_scale.exp() * images @ text.T)[:, 0].tolist()


def hps_v2(folder: Path, pictures: list[Path], references: list[Path]) -> list[float]:
    from hpsv2.src.open_clip import get_tokenizer
    from hpsv2.src.open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from hpsv2.src.open_clip.transform import image_transform

    vision, text = TINY["H/14"].values()
    model = CLIP(
        vision["projection_dim"],
        CLIPVisionCfg(layers=2, width=vision["hidden_size"], head_width=80, patch_size=14, image_size=224),
        CLIPTextCfg(width=text["hidden_size"], heads=text["num_attention_heads"], layers=2),
    ).eval()
    model.load_state_dict(torch.load(folder / PLACES["hps"], weights_only=True)["state_dict"])
    prepare = image_transform(224, is_train=False)
    images = torch.stack([prepare(Image.open(path)) for path in pictures])
    features, text_features, _ = model(images, get_tokenizer("ViT-H-14")([PROMPT]))
    return (100 * features @ text_features.T)[:, 0].tolist()


OFFICIAL: dict[str, Callable[[Path, list[Path], list[Path]], list[float]]] = {
    "clip_t": clip_t,
    "clip_i": clip_i,
    "dino": dino,
    "laion_aesthetic": laion_aesthetic,
    "pick_score": pick_score,
    "hps_v2": hps_v2,
}


def inception(folder: Path, pictures: Path, references: Path) -> dict[str, float]:
    """FID and Inception score of two folders, by torch-fidelity from end to end."""
    import torch_fidelity

    options = {"feature_extractor_weights_path": str(folder / PLACES["inception"]), "verbose": False, "cuda": False}
    options |= {"isc": True, "fid": True, "batch_size": 1, "cache": False, "save_cpu_ram": True}
    found = torch_fidelity.calculate_metrics(input1=str(pictures), input2=str(references), **options)
    return {"fid": found["frechet_inception_distance"], "inception_score": found["inception_score_mean"]}


def write_sets(folder: Path) -> tuple[Path, Path]:
    """Two folders of 12 and 14 pictures."""
    for name, count in (("ours", 12), ("theirs", 14)):
        sizes = {f"{name}-{n}": (64 + 8 * (n % 3), 72) for n in range(count)}
        write_pictures(folder / name, sizes)
    return folder / "ours", folder / "theirs"


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        write_weights(folder)
        pictures = write_pictures(folder / "pictures")
        recorded: dict[str, Any] = {
            metric: dict(zip(SIZES, score(folder, pictures, pictures[:2]), strict=True))
            for metric, score in OFFICIAL.items()
        }
        recorded["sets"] = inception(folder, *write_sets(folder))
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")
    for metric, values in recorded.items():
        print(metric, {name: round(value, 5) for name, value in values.items()})
        assert np.isfinite(list(values.values())).all()


if __name__ == "__main__":
    main()
