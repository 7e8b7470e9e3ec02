"""Files of weights from anyone are tensors by name, or one refusal of one sentence; none runs code."""

from __future__ import annotations

import io
import pickle
import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from w2sd_video.errors import WeightsError
from w2sd_video.models import checkpoints
from w2sd_video.models.sources import Source

TENSORS = {"a.weight": torch.ones(2, 3), "b": torch.tensor(4.0)}


def source(path: Path) -> Source:
    return Source("strong", str(path), path)


def read(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(source(path))


@pytest.mark.parametrize("suffix", ["ckpt", "pth", "pt", "bin", "safetensors", "CKPT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_from_every_format(tmp_path, suffix, zipped):
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert checkpoints.shapes(source(path)) == {"a.weight": (2, 3), "b": ()}
    assert all(torch.equal(read(path)[name], tensor) for name, tensor in TENSORS.items())


def test_wrappers_are_opened_and_parts_named(tmp_path):
    wrapped = [{"state_dict": TENSORS, "global_step": 3}, {"state_dict": {"state_dict": OrderedDict(TENSORS)}}]
    wrapped += [{**TENSORS, "steps": 5, 7: "seven"}]
    for n, content in enumerate(wrapped):
        torch.save(content, tmp_path / f"{n}.ckpt")
        assert read(tmp_path / f"{n}.ckpt").keys() == TENSORS.keys()
    torch.save({"image_proj": TENSORS, "ip_adapter": {"1": torch.ones(1)}}, tmp_path / "ip.bin")
    assert read(tmp_path / "ip.bin").keys() == {"image_proj.a.weight", "image_proj.b", "ip_adapter.1"}


class _Code:
    def __reduce__(self):
        return Path.mkdir, (Path("pwned"),)


def selfish() -> dict:
    content: dict = {"n": 1}
    content["state_dict"] = content
    content |= {f"again{i}": content for i in range(50)}
    return content


def deep(levels: int) -> dict:
    content: dict = dict(TENSORS)
    for _ in range(levels):
        content = {"inner": content}
    return content


HOSTILE = {
    "a dictionary that holds itself": selfish(),
    "a list": [torch.ones(2)],
    "a number": 5,
    "nothing": {},
    "no tensors": {"a": "text"},
    "tensors under numbers": {1: torch.ones(2)},
    "deeper than anyone means": deep(50),
    "code": {"a": torch.ones(2), "b": _Code()},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_one_refusal(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save(HOSTILE[what], "w.ckpt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match="^strong: 'w.ckpt' ") as error:
            read(Path("w.ckpt"))
        assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    Path("plain.ckpt").write_bytes(pickle.dumps(HOSTILE[what]))
    with pytest.raises(WeightsError, match="^strong: 'plain.ckpt' "):
        read(Path("plain.ckpt"))
    assert not Path("pwned").exists()


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "text": (b"no weights", "damaged"),
    "a huge header": (b"\xff" * 7 + b"\x00" + b"{}", "damaged"),
    "zeros": (bytes(4096), "damaged"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "bin"])
@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files_say_what_is_wrong(tmp_path, what, suffix):
    path = tmp_path / f"w.{suffix}"
    content, says = DAMAGED[what]
    path.write_bytes(content)
    for look in (checkpoints.read, checkpoints.shapes):
        with pytest.raises(WeightsError, match=f"strong: .*{says}") as error:
            look(source(path))
        assert "\n" not in str(error.value)


def test_no_damage_whatever_gets_past_the_one_refusal(tmp_path):
    random.seed(0)
    for suffix, old in (("ckpt", True), ("ckpt", False), ("safetensors", False)):
        path = tmp_path / f"w.{suffix}"
        if suffix == "safetensors":
            save_file(TENSORS, path)
        else:
            buffer = io.BytesIO()
            torch.save(TENSORS, buffer, _use_new_zipfile_serialization=not old)
            path.write_bytes(buffer.getvalue())
        whole = path.read_bytes()
        for _ in range(50):
            content = bytearray(whole)
            for _ in range(random.choice([1, 3, 20])):
                content[random.randrange(len(content))] = random.randrange(256)
            path.write_bytes(content[: random.choice([len(content), random.randrange(len(content))])])
            for look in (checkpoints.read, checkpoints.shapes):
                try:
                    look(source(path))
                except WeightsError as error:
                    assert "\n" not in str(error) and len(str(error)) < 600


def test_a_configuration_that_is_no_object_is_refused(tmp_path):
    for n, content in enumerate((b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000)):
        (tmp_path / f"{n}.json").write_bytes(content)
        with pytest.raises(WeightsError, match=rf"strong: .* has a {n}.json"):
            checkpoints.configuration(source(tmp_path), tmp_path / f"{n}.json")


def test_a_small_pickle_that_asks_for_all_memory_is_damaged(tmp_path):
    path = tmp_path / "huge.ckpt"
    size = b"\x8a\x06" + (10**13).to_bytes(6, "little")
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\n" + size + b"\x85R.")
    with pytest.raises(WeightsError, match="huge.ckpt"):
        checkpoints.read(Source("strong", str(path), path))
