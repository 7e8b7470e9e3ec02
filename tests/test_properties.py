"""Whatever stands in a sidecar, a preset or a checkpoint, a command ends in time, with one message and a right code.

Everything runs in one process, and towards a folder that cannot be made, so that what is accepted costs no video.
"""

from __future__ import annotations

import copy
import io
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from typer.testing import CliRunner

from w2sd_video import cli, presets
from w2sd_video.runs import Request

NOWHERE = "/dev/null/out"
SECONDS = 20  # of the processor: far above what any of these takes, the first one's imports too
FEW, MANY = 25, 200  # examples of each kind

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "no", "1e-3", "nan", "x_s", "../..", "package:../..", "package:", "~nosuchuser/x", "a/b", "a/b/c.bin"]
        + [
            "/dev/zero",
            "/dev/null",
            "/",
            ".",
            "\x00",
            "a\x00b",
            "\udcff",
            "x" * 300,
            "a" * 5000,
            "http://a/b",
            "file:/etc",
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 7, 8, 64, 10**9, 10**30, 2**63, -(2**63)]),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


def places(data: Any, within: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in nested lists and dictionaries."""
    found = [within]
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += places(value, (*within, key))
    return found


def edited(data: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    """The data with what stands at a place replaced, removed, or something added to it."""
    if not place:
        return value
    data = copy.deepcopy(data)
    *way, last = place
    owner = data
    for key in way:
        owner = owner[key]
    if how == "replace":
        owner[last] = value
    elif how == "remove":
        del owner[last]
    elif isinstance(owner[last], dict):
        owner[last][str(value)[:20]] = value
    elif isinstance(owner[last], list):
        owner[last].append(value)
    else:
        owner[last] = [value]
    return data


def edits(data: Any) -> st.SearchStrategy[Any]:
    """The data with up to three edits."""

    def once(now: Any) -> st.SearchStrategy[Any]:
        hows = st.sampled_from(["replace", "replace", "replace", "remove", "add"])
        return st.builds(edited, st.just(now), st.sampled_from(places(now)), hows, VALUES)

    one = once(data)
    return st.one_of(one, one.flatmap(once))


def damaged(text: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are cut, or have others put into them."""
    place = st.integers(0, len(text))
    return st.one_of(
        place.map(lambda end: text[:end]),
        st.builds(lambda at, other, gap: text[:at] + other + text[at + gap :], place, st.binary(max_size=8), place),
        st.binary(max_size=200),
    )


def says_one_thing(*arguments: object, names: tuple[str, ...]) -> None:
    """A command that ends in time, with code 1 or 2 and one message, which names the argument or the file."""
    began = time.process_time()
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input="y\ny\n")
    assert time.process_time() - began < SECONDS
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert result.output.count("Error:") == 1 and len(result.output) < 5000
    assert any(name in result.output for name in names), result.output


def budget(examples: int) -> Any:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks)


@pytest.fixture(scope="module", autouse=True)
def elsewhere():
    """An empty folder, without a hub."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "200")
        os.chdir(folder)
        yield
        os.chdir(before)


def record() -> dict[str, Any]:
    request = Request.of("a red circle moving right", adapters={}, options={"motion_gain": 2, "interval": [0.1, 1]})
    videos = {"w2sd": {"method": "w2sd", "evaluations": {"total": 3}, "seconds": 1.0, "frames_sha256": "0"}}
    made = {"videos": videos, "files": ["a.mp4"], "formats": ["mp4", "gif"], "weights": {"w2sd": {"unet": "0"}}}
    return {"request": asdict(request), **made, "versions": {"torch": "2"}, "device": "cpu"}


SIDECAR = record()
PRESETS = [yaml.safe_load((presets.FOLDER / f"{name}.yaml").read_text()) for name in ("shapes", "shapes-control")]


def a_sidecar(data: Any) -> None:
    Path("v.json").write_text(json.dumps(data), encoding="utf-8")
    says_one_thing("generate", "--from", "v.json", "--out", NOWHERE, names=("v.json", "--out"))


def a_sidecar_of_bytes(data: bytes) -> None:
    Path("v.json").write_bytes(data)
    says_one_thing("generate", "--from", "v.json", "--out", NOWHERE, names=("v.json", "--out"))


def a_preset(data: Any) -> None:
    Path("p.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    command = ("generate", "a red circle", "--preset", "p.yaml", "--out", NOWHERE)
    says_one_thing(*command, names=("p.yaml", "--", "PROMPT", "motion_adapter"))


def a_preset_of_bytes(data: bytes) -> None:
    Path("p.yaml").write_bytes(data)
    command = ("generate", "a red circle", "--preset", "p.yaml", "--out", NOWHERE)
    says_one_thing(*command, names=("p.yaml", "--"))


def a_checkpoint(data: bytes) -> None:
    name = "m.safetensors" if data[8:9] == b"{" else "m.ckpt"
    Path(name).write_bytes(data)
    models = ("--strong", name, "--weak", name)
    says_one_thing("image", "a red circle", *models, "--steps", 2, "--out", "out", names=(name,))


def checkpoint(suffix: str) -> bytes:
    """A file of tensors whose names are of a checkpoint."""
    prefix = "model.diffusion_model."
    tensors = {f"{prefix}input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3), "x.attn2.to_k.weight": torch.zeros(4, 2048)}
    if suffix == "safetensors":
        return save(tensors)
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


CASES = {
    "sidecar": (a_sidecar, edits(SIDECAR)),
    "sidecar of bytes": (a_sidecar_of_bytes, damaged(json.dumps(SIDECAR).encode())),
    "preset": (a_preset, st.sampled_from(PRESETS).flatmap(edits)),
    "preset of bytes": (a_preset_of_bytes, damaged((presets.FOLDER / "shapes.yaml").read_bytes())),
}


CHECKPOINTS = {
    "safetensors": (a_checkpoint, damaged(checkpoint("safetensors"))),
    "pickle": (a_checkpoint, damaged(checkpoint("ckpt"))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow_unless(case=lambda case: case == "sidecar of bytes")
def test_a_damaged_file_ends_in_one_message(case):
    check, values = CASES[case]
    budget(FEW)(given(values)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_any_damaged_file_ends_in_one_message(case):
    check, values = CASES[case]
    budget(MANY)(given(values)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_any_damaged_checkpoint_ends_in_one_message(case):
    import w2sd_video.pipelines  # noqa: F401 - which takes seconds, and on a busy machine more than SECONDS

    check, values = CHECKPOINTS[case]
    budget(MANY // 2)(given(values)(check))()
