"""The front door: the version, the public names of the package, and the two ways to start the program."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import w2sd_video
from w2sd_video import method_names

HOMES = {
    "METHODS": "methods",
    "Refused": "errors",
    "Request": "runs.request",
    "WeightsNotFound": "errors",
    "W2SD": "methods.w2sd",
    "W2SDAnimateDiffSDXLPipeline": "pipelines.animatediff_sdxl",
    "W2SDDiTMoEPipeline": "pipelines.dit_moe",
    "apply_reflection": "hook.attach",
    "evaluate": "eval.evaluate",
}


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"requests": "a red circle"}, "requests: 'a red circle' .* such as `Request.of\\('a red circle'\\)`"),
        ({"requests": ["a cat"]}, "requests: 'a cat' is not accepted; .* such as `Request.of\\('a cat'\\)`"),
        ({"requests": 3}, "requests: 3 is not accepted; give a `Request`"),
        ({"out": 3}, "out: 3 is not accepted; give the path of a folder"),
        ({"formats": "png, gif"}, "formats: 'png, gif' is not accepted; give some of mp4, gif, png, .*, in a list"),
        ({"formats": 3}, "formats: 3 is not accepted; give some of mp4, gif, png"),
    ],
)
def test_generate_refuses_other_things_than_requests_a_folder_and_formats_by_name(arguments, says):
    with pytest.raises(w2sd_video.Refused, match=says):
        w2sd_video.generate(**{"requests": [], **arguments})


def test_an_import_of_the_package_loads_no_library_of_models():
    heavy = "{'torch', 'diffusers', 'transformers', 'numpy', 'pydantic'} & sys.modules.keys()"
    code = f"import sys, w2sd_video; dir(w2sd_video); w2sd_video.__version__; w2sd_video.Refused; print({heavy})"
    assert run("-c", code) == "set()"


def test_requests_and_generate_load_neither_torch_nor_diffusers():
    heavy = "{'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    code = f"import sys, w2sd_video; w2sd_video.Request; w2sd_video.generate; print({heavy})"
    assert run("-c", code) == "set()"


@pytest.mark.parametrize("name", HOMES)
def test_a_public_name_is_what_its_module_holds(name):
    assert getattr(w2sd_video, name) is getattr(import_module(f"w2sd_video.{HOMES[name]}"), name)


def test_every_public_name_is_there_and_listed():
    assert all(hasattr(w2sd_video, name) for name in w2sd_video.__all__)
    assert set(w2sd_video.__all__) <= set(dir(w2sd_video))


def test_type_checkers_are_told_of_the_same_names():
    tree = ast.parse(Path(w2sd_video.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {"__version__"}
    for node in (node for node in block.body if isinstance(node, ast.ImportFrom)):
        every = node.names[0].name == "*"
        module = import_module(f"w2sd_video.{node.module}")
        names |= set(module.__all__) if every else {alias.asname for alias in node.names}
    assert names == set(w2sd_video.__all__)


def test_the_names_of_methods_that_need_no_torch_are_those_of_the_methods():
    assert method_names.METHODS == {
        name: cls.__name__ for name, cls in w2sd_video.METHODS.items() if cls is not w2sd_video.Weak
    }


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'w2sd_video' has no attribute 'W2SDPipeline'"):
        w2sd_video.W2SDPipeline  # noqa: B018


COMMANDS = {"module": [sys.executable, "-m", "w2sd_video"], "script": [Path(sys.executable).parent / "w2sd-video"]}


@pytest.mark.slow
@pytest.mark.parametrize("start", COMMANDS)
def test_the_program_says_its_version(start):
    ran = subprocess.run([*COMMANDS[start], "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"w2sd-video {metadata.version('w2sd-video')}\n"


@pytest.mark.slow
def test_the_package_runs_as_a_module():
    assert "generate" in run("-m", "w2sd_video", "--help")
