"""The distribution: a wheel holds every room and all data, and works from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = (".typed", ".yaml", ".json", ".safetensors", ".gz", ".md", ".txt", ".j2", ".css", ".js")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git would have, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("w2sd_video", "pipelines", "eval", "prompts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in (".toml", ".md", ".in", ".cfg", "") and path.name[0] != ".":
            shutil.copy(path, folder)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    ran = subprocess.run([*pip, "-w", folder / "wheels", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return next((folder / "wheels").glob("*.whl"))


def test_every_package_folder_is_listed():
    rooms = {"w2sd_video": "w2sd_video", **PYPROJECT["tool"]["setuptools"]["package-dir"]}
    packages = {
        ".".join([room, *path.parent.relative_to(ROOT / folder).parts])
        for room, folder in rooms.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert packages == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_type_checking_finds_each_mapped_folder_under_its_installed_name():
    links = {f"w2sd_video.{link.name}": link for link in (ROOT / ".ci" / "package" / "w2sd_video").iterdir()}
    mapped = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert {name: link.resolve() for name, link in links.items()} == {n: ROOT / folder for n, folder in mapped.items()}


@pytest.mark.slow
def test_a_wheel_holds_all_code_and_all_data(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    rooms = {"w2sd_video": "w2sd_video", **PYPROJECT["tool"]["setuptools"]["package-dir"]}
    for room, folder in rooms.items():
        for path in (ROOT / folder).rglob("*"):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
            if path.is_file() and path.suffix in (".py", *DATA) and not hidden:
                wanted.add(f"{room.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    assert wanted <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_a_wheel_works_from_another_folder(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    code = """if True:
        import w2sd_video.pipelines, w2sd_video.eval, w2sd_video.prompts
        from w2sd_video import presets
        from w2sd_video.models.sources import resolve
        print(w2sd_video.pipelines.W2SDAnimateDiffSDXLPipeline.__module__)
        for name in presets.names():
            preset = presets.load(name)
        for role in ("strong", "weak", "motion_adapter"):
            print(resolve(getattr(presets.load("shapes"), role)).path)
    """
    environment = os.environ | {"PYTHONPATH": str(target)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    module, *models = ran.stdout.split()
    assert module == "w2sd_video.pipelines.animatediff_sdxl"
    assert all(Path(model).is_relative_to(target) and Path(model).is_dir() for model in models)


@pytest.mark.slow
def test_the_installed_command_is_there():
    command = Path(sys.executable).parent / "w2sd-video"
    ran = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "generate" in ran.stdout


@pytest.mark.slow
def test_a_type_checker_sees_the_classes_of_an_installed_wheel(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    zipfile.ZipFile(wheel).extractall(site)
    # Of diffusers itself, type checkers see a placeholder without `__call__`: that of a machine without torch.
    (Path(site) / "diffusers").mkdir()
    (Path(site) / "diffusers" / "py.typed").touch()
    (Path(site) / "diffusers" / "__init__.py").write_text("class AnimateDiffSDXLPipeline: ...\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import w2sd_video\n"
        "from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline\n"
        "reveal_type(W2SDAnimateDiffSDXLPipeline)\n"
        "reveal_type(w2sd_video.W2SDAnimateDiffSDXLPipeline)\n"
        "reveal_type(w2sd_video.evaluate)\n"
        "reveal_type(w2sd_video.generate)\n"
        "reveal_type(w2sd_video.__version__)\n"
        "pipe = W2SDAnimateDiffSDXLPipeline.from_pretrained('folder')\n"
        "pipe('a fox', num_frames=8, strong_guidance_scale=5.5, weak_prompt='an animal', motion_gain=2.0)\n"
        "pipe('a fox', strong_guidance_scale='high')  # type: ignore[arg-type]\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache"]
    ran = subprocess.run([*mypy, "--python-executable", python, script], cwd=tmp_path, capture_output=True, text=True)
    revealed = [line.partition("note: Revealed type is ")[2].strip('"') for line in ran.stdout.splitlines()][:5]
    of_class = "-> w2sd_video.pipelines.animatediff_sdxl.W2SDAnimateDiffSDXLPipeline"
    assert all(kind.startswith("def (") and kind.endswith(of_class) for kind in revealed[:2]), ran.stdout
    assert revealed[2].endswith("-> w2sd_video.eval.evaluate.Scores"), ran.stdout
    assert "Sequence[w2sd_video.runs.request.Request]" in revealed[3], ran.stdout
    assert revealed[4] == "str", ran.stdout
    assert ran.returncode == 0, ran.stdout
