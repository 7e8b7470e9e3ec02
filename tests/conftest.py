"""Which cases of a test are of the fast part, and what all tests' processes have in common."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing

# The tests' networks are so small that threads only get in the way; before torch is loaded, and for its processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test is fast, slow or exhaustive; `slow_unless(case=...)` and `exhaustive_unless` are of some cases alone."""
    for item in items:
        for mark in ("slow", "exhaustive"):
            for unless in item.iter_markers(f"{mark}_unless"):
                spared = unless.kwargs["case"]
                if not spared(*(item.callspec.params[name] for name in inspect.signature(spared).parameters)):
                    item.add_marker(mark)
        if item.get_closest_marker("exhaustive"):
            item.own_markers[:] = (mark for mark in item.own_markers if mark.name != "slow")


def pytest_collection_finish() -> None:
    """What is imported by now is never garbage: the collector need not look at its million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads_are_put_back() -> Iterator[None]:
    """More threads would make all tests after it several times slower, since the workers share the cores."""
    yield
    if "torch" in sys.modules:
        assert sys.modules["torch"].get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """Typer builds the program's whole tree at each call; a session of tests needs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _models_read_once() -> Iterator[None]:
    """A pipeline of models that no test changes is read once by a process: after that, a copy of it as it was read."""
    import torch  # which the process that starts the workers does without
    from copies import UNCHANGED, copier

    load = importlib.import_module("w2sd_video.sampling.load")  # the module; the package has its function of that name
    read, kept = load._load, {}
    sources = importlib.import_module("w2sd_video.models.sources")
    shipped = sources._shipped

    def copied(request: Any, strong: str, **pair: object) -> object:
        names = (strong, request.family, request.dtype, request.motion_adapter, request.vae, request.controlnet)
        networks = {name: part for name, part in pair.items() if isinstance(part, torch.nn.Module)}
        key = repr((*names, sorted(networks), sorted(pair.items() - networks.items())))
        unchanged = all(str(model).startswith(tuple(UNCHANGED)) for model in (strong, pair.get("weak", strong)))
        if not unchanged or sources._shipped is not shipped:  # a test has other models under the names of the shipped
            return read(request, strong, **pair)
        if key not in kept:
            kept[key] = copier(read(request, strong, **pair))
        pipe = kept[key]()
        pipe.register_modules(**networks)
        return pipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "_load", copied)
        yield


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from videofiles import PROMPT, shapes_video, video

    folder = tmp_path_factory.mktemp("written")
    for seed in range(3):
        video.write_mp4(shapes_video(seed), folder / f"{PROMPT}-{seed}.mp4", 8)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Three videos, a test's own."""
    return Path(shutil.copytree(written, tmp_path / "videos"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to run in, without a hub, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the hub, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path.with_name("hub")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name tiny strong, weak and motion folders."""
    from commands import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def small(models: list[str]) -> list[str]:
    """Tiny models at a tiny size."""
    from commands import STEPS

    return [*models, *f"--height 16 --width 24 --frames 3 --steps {STEPS} --device cpu".split()]


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models of SDXL, by name, with a LoRA, a ControlNet, an IP-Adapter and a picture."""
    from pair_models import XL, image_models

    return image_models(tmp_path_factory.mktemp("xl"), XL)


@pytest.fixture(scope="session")
def sd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Those of Stable Diffusion 1, and two motion modules."""
    from pair_models import video_models

    return video_models(tmp_path_factory.mktemp("sd"))
