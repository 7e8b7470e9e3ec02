"""A plot of what a method did at every step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..figures import save
from ..runs import naming


def draw_differences(differences: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draws `Recorder.rows()` of a call with one sample as an SVG: by step, how far the method led, whether it went on
    in the direction of the step before, and for a video how much of it changes frames against each other, and which.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import numpy as np
    from matplotlib.figure import Figure

    video = any(each["frames"] for each in differences)
    figure = Figure(figsize=(10, 3.2) if video else (7, 3.2), dpi=120, layout="constrained")
    plots = figure.subplots(1, 3 if video else 2)
    figure.suptitle(title.replace("$", r"\$"), fontsize=9)
    steps = [each["step"] + 1 for each in differences]
    of = "x_t" if not differences or differences[0]["of"] == "latents" else "the prediction"
    plots[0].plot(steps, [each["norm"][0] for each in differences], marker="o", markersize=3)
    plots[0].set_title(f"length, as a share of {of}", fontsize=8)
    turned = [(each["step"] + 1, each["cosine"][0]) for each in differences if each["cosine"]]
    plots[1].plot(
        [x for x, _ in turned], [y for _, y in turned], marker="o", markersize=3, label="cosine with the step before"
    )
    if video:
        still = [each["still"][0] for each in differences]
        plots[1].plot(steps, still, marker="o", markersize=3, label="share common to all frames")
        frames = np.array([each["frames"][0] for each in differences]).T
        drawn = plots[2].imshow(
            frames, aspect="auto", origin="lower", extent=(0.5, len(steps) + 0.5, 0.5, len(frames) + 0.5)
        )
        plots[2].set_title("length by frame", fontsize=8)
        plots[2].set_ylabel("frame", fontsize=8)
        figure.colorbar(drawn, ax=plots[2]).ax.tick_params(labelsize=7)
    plots[1].set_title("direction", fontsize=8)
    plots[1].set_ylim(-1.05, 1.05)
    plots[1].legend(fontsize=7, frameon=False, loc="lower right")
    for axes in plots:
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
    with naming(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        save(figure, path)
