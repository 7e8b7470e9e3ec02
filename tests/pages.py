"""Pages to look at in a browser, of videos that show the number of their frame as a grey."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from w2sd_video import video
from w2sd_video.columns import Column
from w2sd_video.eval import report
from w2sd_video.eval.dimensions import ByFunction
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.report import Experiment
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video

FPS, FRAMES = 8, 24
ARMS = ("strong", "weak", "w2sd")
HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<!-- <script> --> ]]> &amp; <img src=x onerror=document.title='taken'>",
    "\"quotes\" 'and' `more` \\ \u2028 \u2029 ${1} {{ 7 * 7 }} {% raw %}",
    r"$\frac{a}{b}$ \begin{document}",
    '=HYPERLINK("http://example.com")',
    "🐈‍⬛ a cat مرحبا" + "\u202e" + "reversed",
    "x" * 10_000,
]


def quality(frames: np.ndarray) -> float:
    return float(frames.mean())


def grey(frame: int) -> int:
    """What a frame shows."""
    return 20 + 9 * frame


def write_video(path: Path, frames: int = FRAMES, shade: int = 0, fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.zeros((frames, 32, 48, 3), np.uint8)
    shown += np.array([grey(n) for n in range(frames)], np.uint8)[:, None, None, None]
    shown[:, :4, :4] = shade  # so that no two files are equal
    video.write_mp4(shown, path, fps)


def summary(
    folder: Path, prompts: list[str], arms: tuple[str, ...] = ARMS, seeds: int = 1, files: bool = True
) -> Summary:
    """Scores of made-up videos: the score of prompt i in arm j is i * (1, -1, 2)[j]."""
    scores = Scores([ByFunction(quality, Column("quality"))], [], weights={"quality": {}})
    for j, arm in enumerate(arms):
        for i, prompt in enumerate(prompts):
            for seed in range(seeds):
                path = folder / arm / f"p{i}-{seed}.mp4"
                if files:
                    write_video(path, shade=(40 * j + 7 * i + 3 * seed) % 256)
                each = Video(path, arm, f"{prompt}, seed {seed}", prompt)
                if not files:
                    object.__setattr__(each, "_hashed", ([], f"{len(scores.videos):024x}"))
                scores.videos.append(each)
                scores.of[each] = {"quality": float(i * (1, -1, 2)[j % 3])}
                scores.facts[each] = {"frames": FRAMES, "fps": float(FPS), "height": 32, "width": 48}
    return Summary(scores)


def experiment(prompts: list[str], arms: tuple[str, ...] = ARMS) -> Experiment:
    tags = {prompt: ["camera=static" if i % 2 else "camera=pan"] for i, prompt in enumerate(prompts)}
    labels = {arm: {"arm": arm} for arm in arms}
    paper = {"strong": {"quality": report.Published(1.0, "Quality", 1)}}
    return Experiment("A run", {"arm": list(arms)}, labels, prompts, tags, paper)


def many(folder: Path, count: int, arms: tuple[str, ...] = ARMS) -> Path:
    """A page of so many videos of each arm, each with a still of its own; made without decoding any."""
    from PIL import Image
    from plotly.offline import get_plotlyjs

    prompts = [f"prompt number {n} of a long list" for n in range(count)]
    write_video(folder / "one.mp4")
    media = folder / "media"
    media.mkdir()
    scores = Scores([ByFunction(quality, Column("quality"))], [], weights={"quality": {}})
    shown: dict[Video, dict[str, Any]] = {}
    rng = np.random.default_rng(0)
    for arm in arms:
        for n, prompt in enumerate(prompts):
            each = Video(folder / arm / f"p{n}-0.mp4", arm, f"{prompt}, seed 0", prompt)
            name = f"{len(shown):024x}"
            object.__setattr__(each, "_hashed", ([], name))
            scores.videos.append(each)
            scores.of[each] = {"quality": float(rng.normal())}
            scores.facts[each] = {"frames": FRAMES, "fps": float(FPS), "height": 32, "width": 48}
            shutil.copyfile(folder / "one.mp4", media / f"{name}.mp4")
            Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8)).resize((192, 128)).save(
                media / f"{name}.webp", method=0
            )
            still = {"file": f"{name}.mp4", "still": f"{name}.webp", "strip": f"{name}.webp"}
            shown[each] = {**still, "frames": FRAMES, "fps": FPS, "width": 48, "height": 32}
    (media / report.PLOTLY).write_text(get_plotlyjs(), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(report.page(Summary(scores), experiment(prompts, arms), shown), encoding="utf-8")
    return page


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser.

    Raises:
        AssertionError: none is installed.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    assert path, f"install a browser, one of {', '.join(names)}: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
