"""Where is this model: every kind of reference, and what is no reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from w2sd_video.errors import Refused, WeightsNotFound
from w2sd_video.models.sources import PACKAGE, absolute, resolve


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_what_is_here_comes_before_the_hub(tmp_path):
    assert resolve("owner/name").repository == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve("owner/name").path == Path("owner/name") and resolve("owner/name").repository is None
    assert resolve("~/owner/name").path == tmp_path / "owner" / "name"
    assert resolve(tmp_path / "owner").path == tmp_path / "owner"


def test_a_file_or_a_folder_in_a_hub_repository():
    file = resolve("owner/name/a/b.ckpt")
    assert (file.repository, file.inside, file.is_file) == ("owner/name", "a/b.ckpt", True)
    folder = resolve("owner/name/a/b", folders=True)
    assert (folder.repository, folder.inside, folder.is_file) == ("owner/name", "a/b", False)


def test_what_the_package_ships_has_a_name_and_no_way_leads_out_of_the_package():
    assert resolve("package:shapes/weights/tuned").path == PACKAGE / "shapes" / "weights" / "tuned"
    for out in ("package:../pipelines", "package:shapes/../../tests", "package:/etc", "package:", "package:a\0b"):
        with pytest.raises(Refused, match="strong: .* is not accepted; after package: give a path inside the package"):
            resolve(out, "strong")
    for missing in ("package:none", "package:" + "a" * 5000):
        with pytest.raises(WeightsNotFound, match="strong: the shipped model is missing"):
            resolve(missing, "strong")


@pytest.mark.parametrize(
    "value", ["", "  ", None, 5, b"name", "~nosuchuser/x", "a\0b", "a" * 5000, "a/" + "b" * 5000, ["a/b"]], ids=repr
)
def test_what_is_no_reference_is_one_short_refusal(value):
    with pytest.raises((Refused, WeightsNotFound), match="strong: ") as error:
        resolve(value, "strong")
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["./x", "/no/such", "w.safetensors", "a/w.ckpt", "a/b/c", "a/b/../c.pt", "a/b/c.txt"])
def test_a_path_that_is_not_there_is_not_taken_for_the_hubs(value):
    with pytest.raises(WeightsNotFound, match="strong: .* is not there, and is no hub id"):
        resolve(value, "strong")


def test_paths_are_written_in_full_and_other_references_stay(tmp_path):
    (tmp_path / "model").mkdir()
    assert absolute("model") == absolute("~/model") == str(tmp_path / "model")
    for other in ("owner/name", "package:x", "a\0b", "a" * 5000):
        assert absolute(other) == other


def test_resolving_needs_no_torch():
    code = (
        "import sys, w2sd_video.models.sources; print({'torch', 'diffusers', 'huggingface_hub'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert ran.stdout.strip() == "set()"
