"""What is claimed of the shipped model, measured on it. What it is compared with is `test_shapes`' world and judge."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from w2sd_video import presets
from w2sd_video.runs import Request
from w2sd_video.sampling import load, sample
from w2sd_video.shapes import WEIGHTS
from w2sd_video.shapes.grammar import describe
from w2sd_video.shapes.judge import judge
from w2sd_video.shapes.world import COLOURS, SHAPES, SIZES, Scene, Thing, render, sample_scene


def autoencoded(vae: AutoencoderKL, video: np.ndarray) -> np.ndarray:
    """Frames (F, H, W, 3) in [0, 1] after the autoencoder's round trip, in uint8."""
    x = torch.from_numpy(video).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
    return ((y.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)


@pytest.mark.exhaustive
def test_what_the_autoencoder_makes_of_rendered_videos_is_right():
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "tuned" / "vae")
    rng = np.random.default_rng(11)
    scores = []
    for _ in range(40):
        scene = sample_scene(rng)
        scores.append(judge(autoencoded(vae, render(scene, rng)), scene))
    assert np.mean([each["right"] for each in scores]) >= 0.99
    assert np.mean([each["background_instability"] for each in scores]) < 0.005


# One object of each shape, size and colour, moving or not.
MOVES = ("right", "up", "still")
SINGLE = [
    Scene(
        (
            Thing(
                list(COLOURS)[n],
                SHAPES[n % 3],
                list(SIZES)[n // 3],
                MOVES[n // 2],
            ),
        ),
        None,
        ("black", "grey", "white")[n // 2],
    )
    for n in range(6)
]
STEPS = 15  # of the preset's 25: enough for the forms


@pytest.mark.slow
def test_single_objects_have_their_form_and_the_background_stands():
    asked = presets.load("shapes")
    requests = [
        Request.of(describe(scene), n, asked, variant="plain", num_inference_steps=STEPS)
        for n, scene in enumerate(SINGLE)
    ]
    strong = load(requests[0])["strong"]
    scores, moved = [], []
    for scene, request in zip(SINGLE, requests, strict=True):
        frames, _ = sample(strong, request, "strong")
        scores.append(judge(frames, scene))
        grey = np.median(frames.reshape(len(frames), -1, 3).astype(float), axis=1).mean(-1)
        moved.append(np.ptp(grey))
    assert np.nanmean([each["form"] for each in scores]) >= 0.95
    assert np.mean([each["background_instability"] for each in scores]) <= 0.01
    assert max(moved) <= 40
