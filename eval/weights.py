"""Where the scorers' weights are: in a folder that is given, or in the hub's, VBench's, torch's or OpenAI's cache.

Nothing is downloaded from here: `Weights.command` is what fetches a file, once.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from w2sd_video.provenance import file_sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

Network = TypeVar("Network", bound="nn.Module")
HUB = "https://huggingface.co"
NAMES = ("model.safetensors", "pytorch_model.bin")  # of weights in transformers' layout
# SHA-256 of files that do not carry it in their names: OpenAI's, from the addresses that it publishes them at.
PUBLISHED = {
    "ViT-B-32.pt": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-L-14.pt": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}


@dataclass(frozen=True)
class Weights:
    """A published file of weights, or a hub repository in transformers' layout.

    `places` are its possible paths in the user's folder and in VBench's cache; `command` downloads to the first.
    """

    name: str
    licence: str
    size: int  # bytes, roughly
    source: str  # a hub repository, or a URL
    places: tuple[str, ...] = ()
    needs: str = ""  # a package that the network needs, as pip installs it

    @property
    def in_hub(self) -> bool:
        """Whether it is a hub repository, and not a single file."""
        return not self.source.startswith("http")

    def command(self, folder: Path | None = None) -> str:
        """The shell command that downloads it to where `find` looks, given the same folder or none."""
        if self.in_hub:
            to = f" --local-dir {shlex.quote(str(folder / self.source))}" if folder else ""
            return f"hf download {self.source} --exclude '*.msgpack' '*.h5' '*.onnx'{to}"
        return f"curl -L --create-dirs -o {shlex.quote(str((folder or cache()) / self.places[0]))} {self.source}"

    @property
    def importable(self) -> bool:
        """Whether the package that it needs is installed."""
        package = self.needs.split()[-1].partition("==")[0] if self.needs else "torch"
        return find_spec(package.replace("-", "_")) is not None

    def find(self, folder: Path | None = None) -> Path | None:
        """Its path: in `folder` if given, else in VBench's, torch's, OpenAI's or the hub's cache. None: it is missing.

        Raises:
            ValueError: the file is damaged.
        """
        roots = [folder] if folder else [cache(), _torch_hub(), Path.home() / ".cache" / "clip"]
        names = [*self.places, *(Path(place).name for place in self.places), self.source]
        if (last := self.source.rpartition("/")[2]) not in NAMES:  # which could be of any network
            names.append(last)
        for path in (root / name for root in roots for name in names):
            if path.is_dir() and (path / "config.json").exists():
                return path
            if path.is_file():
                check_digest(path)
                return path
        if self.in_hub and not folder:
            from huggingface_hub import try_to_load_from_cache

            config = try_to_load_from_cache(self.source, "config.json")
            if isinstance(config, str):
                folder_in_hub = Path(config).parent
                if any((folder_in_hub / name).exists() for name in NAMES):
                    return folder_in_hub
        return None


def check_digest(path: Path) -> None:
    """Refuses a file that has not the SHA-256 of which the first digits are in its name, as in torch's, or `PUBLISHED`.

    Raises:
        ValueError: it is damaged, or another file under that name.
    """
    named = re.search(r"-([0-9a-f]{8})\.", path.name)
    digits = named[1] if named else PUBLISHED.get(path.name, "")
    if digits and not file_sha256(path).startswith(digits):
        raise ValueError(f"{path} is damaged: its SHA-256 does not begin with {digits[:8]}; fetch it anew")


def cache() -> Path:
    """VBench's cache folder."""
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")


def _torch_hub() -> Path:
    """Where `torch.hub` puts files, as its documentation has it."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def hashes(path: Path) -> str:
    """`sha256:…` of a file, or of the weights in a folder of transformers' layout."""
    return f"sha256:{file_sha256(file_of(path))}"


def file_of(path: Path) -> Path:
    """The file, or the one with the weights in a folder of transformers' layout."""
    if not path.is_dir():
        return path
    files = [path / name for name in NAMES if (path / name).exists()]
    if not files:
        raise ValueError(f"{path} has none of {', '.join(NAMES)}")
    return files[0]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, of a .pth that holds nothing else, or of a folder with either, by name.

    A .pth may have them under "model", "params" or "state_dict". The prefix that training on several devices puts
    before each name is taken off. OpenAI's CLIP comes as TorchScript, of which nothing is run.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: Any
    path = file_of(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif _is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors: {said}") from error
    for key in ("model", "params", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds something else, not tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _is_torchscript(path: Path) -> bool:
    return zipfile.is_zipfile(path) and any(n.endswith("constants.pkl") for n in zipfile.ZipFile(path).namelist())


def assign(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Gives a network its weights, in float32, without a copy of those that are.

    Raises:
        ValueError: they are not all its weights, and no others; names `path`, and the first that is not.
    """
    want = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in want | have if want.get(name) != have.get(name)):
        shapes = f"{have.get(wrong[0], 'missing')}, where {type(network).__name__} has {want.get(wrong[0], 'none')}"
        raise ValueError(f"{path}: {len(wrong)} weights do not fit, such as {wrong[0]}: {shapes}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)


_shared: WeakValueDictionary[Any, Any] = WeakValueDictionary()


def shared(load: Callable[..., Network], path: Path, device: torch.device, *arguments: str) -> Network:
    """What `load(path, *arguments)` makes, on a device: the same network for all who ask while one of them has it."""
    key = (load, path, str(device), arguments)
    network = _shared.get(key)
    if network is None:
        network = _shared[key] = load(path, *arguments).to(device)
    return network


DINO = Weights(
    "DINO ViT-B/16",
    "Apache-2.0",
    343_000_000,
    "facebook/dino-vitb16",
    ("dino_model/dino_vitbase16_pretrain.pth",),
)
CLIP_B32 = Weights("CLIP ViT-B/32", "MIT", 605_000_000, "openai/clip-vit-base-patch32", ("clip_model/ViT-B-32.pt",))
CLIP_L14 = Weights("CLIP ViT-L/14", "MIT", 1_710_000_000, "openai/clip-vit-large-patch14", ("clip_model/ViT-L-14.pt",))
AESTHETIC = Weights(
    "LAION aesthetic head",
    "MIT",
    3_800,
    "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/main/sa_0_4_vit_l_14_linear.pth",
    ("aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",),
)
MUSIQ_SPAQ = Weights(
    "MUSIQ (SPAQ)",
    "Apache-2.0 (Google's weights, as converted by IQA-PyTorch)",
    109_000_000,
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
    ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
)
RAFT = Weights(
    "RAFT (things)",
    "BSD-3-Clause",
    21_000_000,
    "https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
    ("raft_model/models/raft_large_C_T_V1-22a6c225.pth", "raft_model/models/raft-things.pth"),
    needs="torchvision",
)
AMT_S = Weights(
    "AMT-S",
    "CC BY-NC 4.0, the network's code too: not for commercial use",
    12_000_000,
    f"{HUB}/lalala125/AMT/resolve/main/amt-s.pth",
    ("amt_model/amt-s.pth",),
    needs="--no-deps vbench==0.1.5",
)
VICLIP = Weights(
    "ViCLIP-L/14 (InternVid)",
    "MIT",
    1_710_000_000,
    f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
    ("ViCLIP/ViClip-InternVid-10M-FLT.pth",),
)
DINO_S16 = Weights(
    "DINO ViT-S/16",
    "Apache-2.0",
    87_000_000,
    "facebook/dino-vits16",
    ("dino_model/dino_deitsmall16_pretrain.pth",),
)
LAION_AESTHETIC = Weights(
    "LAION improved aesthetic head",
    "Apache-2.0",
    3_710_000,
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    ("aesthetic_model/emb_reader/sac+logos+ava1-l14-linearMSE.pth",),
)
PICK_SCORE = Weights(
    "PickScore v1", "MIT, of its code; its weights name none", 3_940_000_000, "yuvalkirstain/PickScore_v1"
)
HPS_V2 = Weights(
    "HPS v2.0",
    "Apache-2.0",
    1_970_000_000,
    f"{HUB}/xswu/HPSv2/resolve/main/HPS_v2_compressed.pt",
    ("hps/HPS_v2_compressed.pt",),
)
HPS_V2_1 = Weights(
    "HPS v2.1",
    "Apache-2.0",
    1_970_000_000,
    f"{HUB}/xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt",
    ("hps/HPS_v2.1_compressed.pt",),
)
INCEPTION = Weights(
    "Inception v3 (2015-12-05)",
    "Apache-2.0",
    95_600_000,
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ("inception/weights-inception-2015-12-05-6726825d.pth", "inception/pt_inception-2015-12-05-6726825d.pth"),
    needs="torch-fidelity",
)
IMAGE_REWARD = Weights(
    "ImageReward v1.0",
    "Apache-2.0",
    1_790_000_000,
    f"{HUB}/THUDM/ImageReward/resolve/main/ImageReward.pt",
    ("image_reward/ImageReward.pt",),
)
BERT_VOCABULARY = Weights(
    "BERT's vocabulary",
    "Apache-2.0",
    232_000,
    f"{HUB}/google-bert/bert-base-uncased/resolve/main/vocab.txt",
    ("image_reward/vocab.txt",),
)
# Its authors have it on a drive that no command fetches from; this copy is by imscore, a package of scorers.
MPS_OVERALL = Weights(
    "MPS (overall)",
    "none stated",
    4_420_000_000,
    f"{HUB}/RE-N-Y/mpsv1/resolve/main/model.safetensors",
    ("mps/mps.safetensors", "mps/MPS_overall_checkpoint.pth"),
)
