"""VBench's six dimensions by its own functions and by ours: the same videos, device and weights, in one run.

The weights are random, which costs the same, in files of the published layouts. dynamic_degree stops as soon as its
verdict is certain, so videos that move and videos that do not are measured separately. Each video is lossless, both as
a GIF of few colours and as a folder of PNG files, since VBench's six dimensions share no lossless format.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..eval import weights
from ..eval.dimensions import SIX, get
from ..eval.scorer import Scorer, exact
from ..eval.videos import Video, find
from ..video import write_pngs
from . import measure
from .bench import Bench, Skipped

NEEDED = ("vbench", "clip", "timm", "pyiqa", "easydict", "omegaconf", "cv2", "decord", "torchvision")
CLIP_SIZES = {  # arguments of OpenAI's class; its text encoder, which the six do not use, has one narrow layer
    "clip_b32": (512, 224, 12, 768, 32, 77, 64, 512, 8, 1),
    "clip_l14": (768, 224, 24, 1024, 14, 77, 64, 768, 12, 1),
}
FILES = {
    "dino": "dino_vitbase16_pretrain.pth",
    "clip_b32": "ViT-B-32.pt",
    "clip_l14": "ViT-L-14.pt",
    "aesthetic": "sa_0_4_vit_l_14_linear.pth",
    "musiq": "musiq_spaq_ckpt-358bb6af.pth",
    "raft": "raft-things.pth",
    "amt": "amt-s.pth",
}
Score = Callable[[Path], float]  # scores a video by its folder of PNG files, which has its GIF beside it


def compare(bench: Bench) -> None:
    """Adds rows to a benchmark: for each dimension, seconds per video by VBench and by us, their ratio, and the largest
    difference of the scores.

    Raises:
        Skipped: a package that VBench needs is not installed; names it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)} (tests/vbench-requirements.txt lists what VBench takes)")
    videos, size, frames = (1, 128, 4) if bench.small else (4, 512, 16)
    with tempfile.TemporaryDirectory() as name, unchecked():
        folder = Path(name)
        with quiet():
            official = Official(folder, bench.device)
        paths = [write_video(folder / f"video-{n}", size, frames, seed=n) for n in range(videos)]
        listed = find([str(path) for path in paths])
        for dimension in SIX:
            for kind, factor in (("moving", 100.0), ("still", 0.01)) if dimension == "dynamic_degree" else (("", 1.0),):
                what = f"{dimension}, {kind}" if kind else dimension
                with bench.attempt(what=what, videos=videos, size=size, frames=frames) as row:
                    if kind:
                        lengthen(folder / FILES["raft"], factor)
                    with quiet():
                        score = official.scorer(dimension)
                    theirs, by_them = timed(lambda path, score=score: score(path), paths, bench.device)  # type: ignore[misc]
                    with exact():
                        row["official_without_tf32"] = timed(score, paths, bench.device)[0]
                    del score
                    scorer = Scorer([get(dimension)], folder, bench.device)
                    scorer.load(scorer.ready)
                    ours, by_us = timed(lambda video, by=scorer: mine(by, video), listed, bench.device)  # type: ignore[misc]
                    row |= {"official": theirs, "ours": ours, "ours_of_official": ours / theirs}
                    row["apart"] = max(abs(a - b) for a, b in zip(by_them, by_us, strict=True))
                    scorer.unload()
                measure.release(bench.device)
        with bench.attempt(what="all six in one pass", videos=videos, size=size, frames=frames) as row:
            scorer = Scorer([get(dimension) for dimension in SIX], folder, bench.device)
            scorer.load(scorer.ready)
            row["ours"] = timed(lambda video: mine(scorer, video), listed, bench.device)[0]
            one_by_one = [r.get("official") for r in bench.rows if r["what"] != "dynamic_degree, moving"]
            if all(one_by_one):
                row["official"] = sum(one_by_one)
                row["ours_of_official"] = row["ours"] / row["official"]


def timed(run: Callable[[Any], float], videos: list[Any], device: torch.device) -> tuple[float, list[float]]:
    """Seconds per video, after an untimed run of the first one, and the scores."""
    with torch.no_grad():
        run(videos[0])
        measure.synchronize(device)
        began = time.perf_counter()
        scores = [run(video) for video in videos]
        measure.synchronize(device)
    return (time.perf_counter() - began) / len(videos), scores


def mine(scorer: Scorer, video: Video) -> float:
    """A video's score by this project, in the first column of the scorer's first dimension.

    Raises:
        ValueError: the video has no score; says why.
    """
    scores, problems = scorer.score(video, video.open(), scorer.ready)
    if problems:
        raise ValueError("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
    columns: Any = scores[scorer.ready[0].name]
    return float(next(iter(columns.values())))


class Official:
    """VBench's functions by dimension, with networks of the original code and random weights from files in a folder."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        for key in FILES:
            self._write(key, random_state(self._network(key).state_dict(), device))

    def _write(self, key: str, state: dict[str, torch.Tensor]) -> None:
        torch.save({"state_dict": state} if key == "amt" else state, self.folder / FILES[key])

    def _load(self, key: str) -> Any:
        return torch.load(self.folder / FILES[key], map_location="cpu", weights_only=True)

    def _network(self, key: str) -> nn.Module:
        """A network of the original code, not yet with the weights in its file."""
        if key == "dino":
            import timm

            return timm.create_model("vit_base_patch16_224", num_classes=0)
        if key in CLIP_SIZES:
            from clip.model import CLIP

            return CLIP(*CLIP_SIZES[key]).float()
        if key == "aesthetic":
            return nn.Linear(768, 1)
        if key == "musiq":
            from pyiqa.archs.musiq_arch import MUSIQ

            return MUSIQ(pretrained=False)
        if key == "raft":
            from vbench.third_party.RAFT.core.raft import RAFT

            return RAFT(self._raft_options())
        from omegaconf import OmegaConf
        from vbench.third_party.amt.utils.build_utils import build_from_cfg

        return build_from_cfg(OmegaConf.load(self._amt_file()).network)

    def _amt_file(self) -> Path:
        spec = find_spec("vbench")
        assert spec is not None and spec.origin is not None
        return Path(spec.origin).parent / "third_party" / "amt" / "cfgs" / "AMT-S.yaml"

    def _raft_options(self, **more: str) -> Any:
        from easydict import EasyDict

        return EasyDict(small=False, mixed_precision=False, alternate_corr=False, **more)

    def _filled(self, key: str) -> nn.Module:
        network = self._network(key)
        network.load_state_dict(self._load(key))
        return network.eval().to(self.device)

    def scorer(self, dimension: str) -> Score:
        """VBench's function for a dimension, with its networks on the device."""
        return getattr(self, f"_{dimension}")()

    def _subject_consistency(self) -> Score:
        from vbench.subject_consistency import subject_consistency

        network = self._filled("dino")  # at 224 pixels, to which VBench resizes, its positions need no interpolation
        return self._of_gif(lambda path: subject_consistency(network, [path], self.device, False))

    def _background_consistency(self) -> Score:
        from vbench.background_consistency import background_consistency

        network = self._filled("clip_b32")
        return self._of_gif(lambda path: background_consistency(network, None, [path], self.device, False))

    def _aesthetic_quality(self) -> Score:
        from vbench.aesthetic_quality import laion_aesthetic

        network, head = self._filled("clip_l14"), self._filled("aesthetic")
        return self._of_gif(lambda path: laion_aesthetic(head, network, [path], self.device))

    def _imaging_quality(self) -> Score:
        from pyiqa.archs.musiq_arch import MUSIQ
        from vbench.imaging_quality import technical_quality

        network = MUSIQ(pretrained_model_path=str(self.folder / FILES["musiq"])).to(self.device)
        network.training = False  # as VBench does
        return self._of_gif(lambda path: technical_quality(network, [path], self.device))

    @staticmethod
    def _of_gif(run: Callable[[str], Any]) -> Score:
        def score(folder: Path) -> float:
            with quiet():
                return float(run(str(gif_of(folder)))[1][0]["video_results"])

        return score

    def _motion_smoothness(self) -> Score:
        from vbench.motion_smoothness import MotionSmoothness

        scorer = MotionSmoothness(str(self._amt_file()), str(self.folder / FILES["amt"]), self.device)

        def score(folder: Path) -> float:
            with quiet():
                return float(scorer.motion_score(str(folder)))

        return score

    def _dynamic_degree(self) -> Score:
        from vbench.dynamic_degree import DynamicDegree

        options = self._raft_options(model=str(self.folder / FILES["raft"]))
        scorer = DynamicDegree(options, self.device)
        return lambda folder: float(bool(scorer.infer(str(folder))))


def random_state(shapes: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Weights for a network's names and shapes, in float32 on the CPU, drawn on the device: such that attention is not
    even, and nothing is at zero or one."""
    random = torch.Generator(device).manual_seed(0)
    state = {}
    for name, tensor in shapes.items():
        if not tensor.is_floating_point():
            state[name] = tensor.clone()
            continue
        x = torch.randn(tensor.shape, generator=random, device=device)
        if name == "logit_scale":
            x = torch.full_like(x, 0.01)
        elif name.endswith("running_var"):
            x = x.abs() + 0.5
        elif "emb" in name or "cls" in name:
            x *= 0.5
        elif tensor.ndim > 1:
            x *= (3.0 if "attn" in name else 1.5) / tensor[0].numel() ** 0.5
        else:
            x = 0.2 * x + float(name.endswith(".weight"))
        if "flow_head.conv2" in name:
            x *= 0.01  # so that `lengthen` makes flows long or short
        state[name] = x.cpu()
    return state


def lengthen(path: Path, factor: float) -> None:
    """Multiplies the flow that RAFT's weights give. Factors of several calls do not add up."""
    whole = path.with_suffix(".whole")
    if not whole.exists():
        os.replace(path, whole)
    state = torch.load(whole, weights_only=True)
    torch.save({n: x * factor if "flow_head.conv2" in n else x for n, x in state.items()}, path)


def write_video(folder: Path, size: int, frames: int, seed: int) -> Path:
    """A folder of PNG, smooth colours that slide along, and the same frames as a GIF beside it, without loss."""
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 24, 3), np.uint8))
    scene = np.asarray(coarse.resize((2 * size, size), Image.Resampling.BICUBIC))
    levels = np.round(scene / 51).astype(np.uint8)  # six of each colour: 216 in all
    window = np.stack([levels[:, 4 * n : 4 * n + size] for n in range(frames)])
    write_pngs(window * np.uint8(51), folder)
    palette = [51 * (n // step % 6) for n in range(216) for step in (36, 6, 1)]
    indices = (window * np.array([36, 6, 1], np.uint8)).sum(-1).astype(np.uint8)
    pictures = [Image.fromarray(each, "P") for each in indices]
    for picture in pictures:
        picture.putpalette(palette)
    pictures[0].save(gif_of(folder), save_all=True, append_images=pictures[1:], duration=125, optimize=False)
    return folder


def gif_of(folder: Path) -> Path:
    return folder.with_suffix(".gif")


@contextmanager
def unchecked() -> Iterator[None]:
    """Lets scorers load random weights, which do not have the published hash."""
    before = weights.check_digest
    weights.check_digest = lambda path: None
    try:
        yield
    finally:
        weights.check_digest = before


@contextmanager
def quiet() -> Iterator[None]:
    """VBench prints a bar for every video, and what it loads."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
