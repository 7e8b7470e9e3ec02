"""VBench's own scorer beside ours: the same videos, and the same weights, which are random but of the real layouts.

    python tests/vbench_parity.py        # makes golden/videos, and records golden/vbench.json; by hand

It takes what `vbench-requirements.txt` lists. The networks have their real sizes, except that those of ViT-L/14 have 2
layers (`--depth 24` has them all, takes minutes a video, and records nothing but prints what differs).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).parent / "golden"
VIDEOS = HERE / "videos"
GOLDEN = HERE / "vbench.json"
PROMPT = "a boat sails along the Seine, the Eiffel Tower behind it"
DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "temporal_flickering",
    "overall_consistency",
)
# By name: width, height, frames, frames a second, what moves and how far (pixels a frame).
Clip = tuple[int, int, int, float, str, float]
CLIPS: dict[str, Clip] = {
    "square": (160, 160, 16, 8, "slide", 3),
    "fast": (160, 160, 9, 8, "slide", 21),
    "landscape": (240, 128, 17, 12.5, "slide", 5),
    "portrait": (128, 232, 16, 24, "slide", 2),
    "odd": (131, 179, 3, 30, "slide", 4),
    "trap-561": (561, 316, 2, 8, "slide", 6),
    "trap-569": (320, 569, 3, 8, "slide", 6),
    "large": (640, 360, 3, 24, "slide", 6),
    "long": (144, 136, 49, 24, "slide", 2),
    "static": (160, 160, 16, 8, "slide", 0),
    "black": (160, 160, 5, 8, "black", 0),
    "noise": (160, 128, 6, 8, "noise", 0),
    "one": (160, 160, 1, 8, "slide", 0),
    "two": (256, 144, 2, 8, "slide", 5),
}


def frames_of(name: str, clip: Clip | None = None) -> np.ndarray:
    """A clip's frames: smooth random colours that slide along, noise, or black."""
    width, height, count, _, kind, step = clip or CLIPS[name]
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if kind == "black":
        return np.zeros((count, height, width, 3), np.uint8)
    if kind == "noise":
        return random.randint(0, 256, (count, height, width, 3)).astype(np.uint8)
    coarse = torch.from_numpy(random.uniform(0, 1, (1, 3, 12, 24)).astype(np.float32))
    scene = F.interpolate(coarse, (height, 3 * width), mode="bicubic").clamp(0, 1)[0]
    starts = [round(n * step) % (2 * width) for n in range(count)]
    frames = torch.stack([scene[:, :, start : start + width] for start in starts])
    return (frames * 255).byte().permute(0, 2, 3, 1).numpy()


def write_clip(name: str, path: Path) -> None:
    import imageio_ffmpeg

    width, height, _, rate, _, _ = CLIPS[name]
    pixels = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(rate), "-i", "-", "-pix_fmt", pixels, "-crf", "26", str(path)]
    subprocess.run(command, input=frames_of(name).tobytes(), check=True)


# Weights, as files of the published layouts

FILES = {
    "dino": "dino_vitbase16_pretrain.pth",
    "clip_b32": "clip-vit-base-patch32",
    "clip_l14": "clip-vit-large-patch14",
    "aesthetic": "sa_0_4_vit_l_14_linear.pth",
    "musiq": "musiq_spaq_ckpt-358bb6af.pth",
    "raft": "raft-things.pth",
    "amt": "amt-s.pth",
    "viclip": "ViClip-InternVid-10M-FLT.pth",
}
GAINS = {"amt": 1.0, "raft": 1.2, "musiq": 1.2}


def seeded(shapes: Mapping[str, Sequence[int]], gain: float = 1.5) -> dict[str, torch.Tensor]:
    """Weights for every name, such that attention is not even, and nothing is left at zero or one.

    From the bytes of `RandomState`, whose stream numpy has frozen.
    """
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(1)
            continue
        count = int(np.prod(shape, dtype=np.int64))
        drawn = np.frombuffer(np.random.RandomState(zlib.crc32(name.encode())).bytes(count), np.int8)
        x = drawn.reshape(shape).astype(np.float32) / np.float32(74)  # about unit variance
        if name in ("temp", "logit_scale"):
            x = np.full_like(x, 0.01)
        elif name.endswith("running_var"):
            x = np.abs(x) + np.float32(0.5)
        elif "emb" in name or "cls" in name:
            x *= np.float32(0.5)
        elif len(shape) > 1:
            x *= np.float32((2 if "attn" in name else 1) * gain) / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
        else:
            x = x * np.float32(0.2) + np.float32(name.endswith(".weight"))
        if "flow_head.conv2" in name:
            x *= np.float32(0.0135)  # so that the flow is about as long as the threshold of dynamic_degree
        weights[name] = torch.from_numpy(np.asarray(x))
    return weights


def write_weights(folder: Path, shapes: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """All weights, under the names in `FILES`; OpenAI's CLIP as `NAME.pt`, and as transformers' folder `NAME`."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, file in FILES.items():
        state = seeded(shapes[key], GAINS.get(key, 1.5))
        if key.startswith("clip"):
            torch.save(state, folder / f"{file}.pt")
            write_clip_folder(state, folder / file)
        else:
            wrapped: Any = {"amt": {"state_dict": state}, "viclip": {"model": state}}.get(key, state)
            torch.save(wrapped, folder / file)


# OpenAI's names of CLIP's image encoder, and transformers'.
OF_CLIP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def write_clip_folder(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """OpenAI's image encoder in transformers' layout."""
    from safetensors.torch import save_file

    tensors = {}
    for name, value in state.items():
        if not name.startswith("visual."):
            continue
        if name == "visual.proj":
            tensors["visual_projection.weight"] = value.T.contiguous()
            continue
        new = name
        for theirs, ours in OF_CLIP.items():
            new = new.replace(theirs, ours)
        if "attn.in_proj_" in new:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                tensors[new.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = piece.contiguous()
        else:
            tensors[new] = value
    width, _, patch, _ = state["visual.conv1.weight"].shape
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": len({name.split(".")[3] for name in state if "visual.transformer" in name}),
        "projection_dim": state["visual.proj"].shape[1],
        "patch_size": patch,
        "image_size": patch * round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")


# The official scorer


@cache  # its vocabulary is read from a temporary folder when it is first made
def _viclip(depth: int) -> Any:
    from record_viclip import official

    return official(vision=(1024, depth, 16), text=(768, depth, 12))


class Official:
    """VBench's functions by dimension, on networks of the original code with the weights of a folder.

    Without a folder the networks are made for their shapes alone.
    """

    def __init__(self, folder: Path | None, depth: int = 2):
        self.folder, self.depth = folder, depth

    def _load(self, key: str) -> Any:
        assert self.folder is not None
        name = FILES[key] + (".pt" if key.startswith("clip") else "")
        return torch.load(self.folder / name, map_location="cpu", weights_only=True)

    def dino(self) -> Any:
        """timm's ViT, which has the published names, with DINO's own interpolation of the positions."""
        import timm

        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
        if self.folder:
            vit.load_state_dict(self._load("dino"))

        def forward(x: torch.Tensor) -> torch.Tensor:
            rows, columns = x.shape[2] // 16, x.shape[3] // 16
            positions = vit.pos_embed
            if x.shape[2:] != (224, 224):  # also where there are as many patches, as for 224x237
                grid = positions[:, 1:].reshape(1, 14, 14, 768).permute(0, 3, 1, 2)
                scale = ((rows + 0.1) / 14, (columns + 0.1) / 14)
                grid = F.interpolate(grid, scale_factor=scale, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 768)
                positions = torch.cat([positions[:, :1], grid], 1)
            tokens = vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([vit.cls_token.expand(len(x), -1, -1), tokens], 1) + positions
            return vit.norm(vit.blocks(tokens))[:, 0]

        vit.eval()
        forward.network = vit  # type: ignore[attr-defined]
        return forward

    def clip(self, key: str) -> Any:
        from clip.model import CLIP

        sizes = {
            "clip_b32": (512, 224, 12, 768, 32, 77, 64, 512, 8, 1),
            "clip_l14": (768, 224, self.depth, 1024, 14, 77, 64, 768, 12, 1),
        }
        model = CLIP(*sizes[key]).float().eval()
        if self.folder:
            model.load_state_dict(self._load(key))
        return model

    def musiq(self) -> Any:
        from pyiqa.archs.musiq_arch import MUSIQ

        if not self.folder:
            return MUSIQ(pretrained=False)
        model = MUSIQ(pretrained_model_path=str(self.folder / FILES["musiq"]))
        model.training = False  # as VBench does
        return model

    def raft(self) -> Any:
        from easydict import EasyDict
        from vbench.dynamic_degree import DynamicDegree
        from vbench.third_party.RAFT.core.raft import RAFT

        options = EasyDict(small=False, mixed_precision=False, alternate_corr=False)
        if not self.folder:
            return RAFT(options)
        return DynamicDegree(EasyDict(model=str(self.folder / FILES["raft"]), **options), "cpu")

    def amt(self) -> Any:
        import vbench
        from vbench.motion_smoothness import MotionSmoothness

        config = Path(vbench.__file__).parent / "third_party" / "amt" / "cfgs" / "AMT-S.yaml"
        if self.folder:
            return MotionSmoothness(str(config), str(self.folder / FILES["amt"]), "cpu")
        from omegaconf import OmegaConf
        from vbench.third_party.amt.utils.build_utils import build_from_cfg

        return build_from_cfg(OmegaConf.load(config).network)

    def viclip(self) -> Any:
        model = _viclip(self.depth)
        if self.folder:
            model.load_state_dict(self._load("viclip")["model"])
        return model

    def shapes(self) -> dict[str, dict[str, list[int]]]:
        """The names and shapes of all the weights."""
        networks = {
            "dino": self.dino().network,
            "clip_b32": self.clip("clip_b32"),
            "clip_l14": self.clip("clip_l14"),
            "aesthetic": torch.nn.Linear(768, 1),
            "musiq": self.musiq(),
            "raft": self.raft(),
            "amt": self.amt(),
            "viclip": self.viclip(),
        }
        return {k: {n: list(t.shape) for n, t in m.state_dict().items()} for k, m in networks.items()}

    def scores(self, paths: Sequence[Path], dimensions: Sequence[str] = DIMENSIONS) -> dict[str, dict[str, Any]]:
        """By dimension and the video's name, its score; an error's name where VBench has one."""
        found: dict[str, dict[str, Any]] = {}
        for dimension in dimensions:
            score = getattr(self, f"_{dimension}")()
            found[dimension] = {}
            for path in paths:
                try:
                    with torch.no_grad():
                        found[dimension][path.stem] = score(str(path))
                except (ZeroDivisionError, AssertionError) as error:
                    found[dimension][path.stem] = type(error).__name__
                print(dimension, path.stem, found[dimension][path.stem], flush=True)
        return found

    def _subject_consistency(self) -> Any:
        from vbench.subject_consistency import subject_consistency

        network = self.dino()
        return lambda path: subject_consistency(network, [path], "cpu", False)[1][0]["video_results"]

    def _background_consistency(self) -> Any:
        from vbench.background_consistency import background_consistency

        network = self.clip("clip_b32")
        return lambda path: background_consistency(network, None, [path], "cpu", False)[1][0]["video_results"]

    def _aesthetic_quality(self) -> Any:
        from vbench.aesthetic_quality import laion_aesthetic

        network, head = self.clip("clip_l14"), torch.nn.Linear(768, 1)
        head.load_state_dict(self._load("aesthetic"))
        return lambda path: laion_aesthetic(head, network, [path], "cpu")[1][0]["video_results"]

    def _imaging_quality(self) -> Any:
        from vbench.imaging_quality import technical_quality

        network = self.musiq()
        return lambda path: technical_quality(network, [path], "cpu")[1][0]["video_results"]

    def _motion_smoothness(self) -> Any:
        scorer = self.amt()
        return lambda path: float(scorer.motion_score(path))

    def _dynamic_degree(self) -> Any:
        scorer = self.raft()
        return lambda path: bool(scorer.infer(path))

    def _temporal_flickering(self) -> Any:
        from vbench.temporal_flickering import cal_score

        return lambda path: float(cal_score(path))

    def _overall_consistency(self) -> Any:
        network = self.viclip()
        from vbench.overall_consistency import overall_consistency

        def score(path: str) -> float:
            listed = [{"prompt": PROMPT, "video_list": [path]}]
            return overall_consistency(network, listed, network.tokenizer, "cpu")[1][0]["video_results"]

        return score


def ours(folder: Path, paths: Sequence[Path], dimensions: Sequence[str] = DIMENSIONS) -> dict[str, dict[str, Any]]:
    """The same by this project: a score, or the problem that it names."""
    from w2sd_video.eval.evaluate import evaluate

    prompts = {path.name: PROMPT for path in paths}
    scores = evaluate(paths, dimensions, prompts=prompts, weights=folder, device="cpu")
    assert not scores.skipped, scores.skipped
    problems = {(v.path.stem, dimension): problem for v, dimension, problem in scores.problems}
    return {
        d: {v.path.stem: problems.get((v.path.stem, d)) or scores.of[v][d] for v in scores.videos} for d in dimensions
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("parity-weights"), help="where the random weights go")
    parser.add_argument("--depth", type=int, default=2, help="layers of ViT-L/14")
    parser.add_argument("--dimensions", default=",".join(DIMENSIONS))
    parser.add_argument("--clips", default=",".join(CLIPS))
    options = parser.parse_args()
    VIDEOS.mkdir(parents=True, exist_ok=True)
    for name in CLIPS:
        if not (VIDEOS / f"{name}.mp4").exists():
            write_clip(name, VIDEOS / f"{name}.mp4")
    shapes = Official(None, options.depth).shapes()
    write_weights(options.folder, shapes)
    dimensions = options.dimensions.split(",")
    paths = [VIDEOS / f"{name}.mp4" for name in options.clips.split(",")]
    theirs = Official(options.folder, options.depth).scores(paths, dimensions)
    if options.depth == 2 and len(paths) == len(CLIPS):
        before = json.loads(GOLDEN.read_text())["scores"] if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({"shapes": shapes, "scores": before | theirs}, separators=(",", ":")) + "\n")
    from w2sd_video.eval import weights
    from w2sd_video.eval.networks import viclip

    weights.check_digest = lambda path: None  # random weights do not have the published hash
    viclip.VISION["num_hidden_layers"] = viclip.TEXT["num_hidden_layers"] = options.depth
    mine = ours(options.folder, paths, dimensions)
    for dimension in dimensions:
        for path in paths:
            print(f"{dimension:24}{path.stem:12}{theirs[dimension][path.stem]!s:24}{mine[dimension][path.stem]!s:24}")


if __name__ == "__main__":
    main()
