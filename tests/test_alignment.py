"""Which way a pair points: on denoisers whose error is known by hand, in pipelines, and on the shipped models."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from w2sd_video import presets, video
from w2sd_video.alignment import Alignment, Probe, align, latents_of
from w2sd_video.check_pair import by_level, mean_cosine, overall, proposed, samples, verdict, write
from w2sd_video.cli import app
from w2sd_video.levels import Level, Step, first_order
from w2sd_video.runs import Refused, Request
from w2sd_video.shapes import digits
from w2sd_video.strength import Proposal, proposal, strength


class At:
    """The ideal prediction for data of standard normal numbers, sigma x in noise predictions, and a constant error."""

    def __init__(self, level: Level, error: float, kind: str):
        self.level, self.error, self.kind = level, error, kind

    def reflect(self, x):
        # E[eps | x] = sigma x and E[z | x] = alpha x, so E[v | x] = 0.
        ideal = self.level.sigma * x if self.kind in ("epsilon", "sample") else 0 * x
        return ideal + self.error


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("strong", "weak"), [(0.5, 1.0), (0.5, 0.0), (0.5, 0.5)])
def test_the_inner_product_is_that_of_the_known_errors(kind, strong, weak):
    """d = strong - weak errors, and r has mean -strong: over n numbers, d r is -(strong - weak) strong n."""
    n, level = 200_000, Level(0.6, 0.8)
    step = first_order(level, Level(0.8, 0.6))
    generator = torch.Generator().manual_seed(0)
    probe = Probe(data=torch.randn(1, n, generator=generator), generator=generator)
    arms = (At(level, error, kind) for error in (strong, weak))
    whole = Step(0.0, kind, level, Level(0.8, 0.6), step, step, step)
    probe(torch.zeros(1, n), whole, *arms, noise=lambda: None)
    (found,) = probe.alignments
    assert found.sigma == 0.8
    assert found.dd == pytest.approx((strong - weak) ** 2 * n, rel=1e-5, abs=1e-6)
    assert found.dr == pytest.approx(-(strong - weak) * strong * n, abs=4 * abs(strong - weak) * n**0.5)
    assert np.sign(round(found.cosine, 3)) == -np.sign(strong - weak)


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILIES[0], FAMILIES[3], FAMILIES[5]], ids=str)
def test_a_pipeline_is_asked_through_its_own_loop(family):
    pipe = family.pipeline(dtype=torch.float32)
    frames = np.random.default_rng(0).integers(256, size=(3, 16, 16, 3), dtype=np.uint8)
    z = latents_of(pipe, frames)
    assert z.shape == family.latents().shape
    call = {name: value for name, value in family.call().items() if name in ("prompt", "image", "num_frames")}
    found = align(pipe, z, 4, **call, guidance_scale=1.0)
    assert len(found) == 4 and [a.sigma for a in found] == sorted((a.sigma for a in found), reverse=True)
    assert all(a.dd > 0 and abs(a.cosine) < 1 for a in found)
    assert pipe.evaluations["strong"] == pipe.evaluations["weak"] == 4
    assert align(pipe, z, 4, **call, guidance_scale=1.0) == found
    pipe.register_modules(weak_unet=None)
    assert all(a.dd == 0 == a.cosine for a in align(pipe, z, 4, **call, guidance_scale=1.0))


def test_what_is_found_is_summed_up_and_written(tmp_path):
    found = [[Alignment(0.9, 1.0, 4.0, 1.0), Alignment(0.1, 0.0, 0.0, 1.0)] for _ in range(5)]
    levels = by_level(found, "abcde")
    assert [(each.sigma, each.strength.g, each.cosine.mean) for each in levels[:1]] == [(0.9, 0.25, 0.5)]
    assert math.isnan(levels[1].strength.g) and levels[1].cosine.mean == 0
    assert overall(found, "abcde").g == 0.25 and mean_cosine(found, "abcde").mean == 0.25
    write(tmp_path, found, presets.load("shapes"))
    rows = list(csv.DictReader(open(tmp_path / "alignment.csv", encoding="utf-8")))
    assert len(rows) == 10 and float(rows[0]["cosine"]) == 0.5


def test_the_verdict_needs_a_strength_that_differs_from_zero_and_prompts_enough():
    def of(values, dd=1.0):
        said = [[Alignment(0.5, v, dd, 1.0)] for v in values]
        prompts = list(map(str, range(len(values))))
        return verdict(overall(said, prompts), by_level(said, prompts))

    towards = "the models' difference points towards the data, "
    assert of([0.7, 0.8] * 10) == towards + "and a reflection's full strength is not too much"
    assert of([0.1, 0.2] * 10) == towards + "but a reflection's full strength overshoots"
    assert of([0.2, 0.8] * 10) == towards + "and whether a reflection's full strength overshoots is not certain"
    assert of([-0.1, -0.2] * 10).startswith("WARNING: the models' difference points away from the data")
    assert of([0.1, -0.1] * 10).startswith("no direction is certain")
    assert of([0.0] * 10, dd=0.0).startswith("the models are the same")
    assert of([0.1] * 2).startswith("too few")


def test_a_level_of_the_wrong_sign_is_not_hidden_by_the_others():
    said = [[Alignment(0.9, 5 + n % 2, 4.0, 1.0), Alignment(0.2, -0.5 - 0.1 * (n % 2), 1.0, 1.0)] for n in range(12)]
    prompts = list(map(str, range(12)))
    assert verdict(overall(said, prompts), by_level(said, prompts)).endswith("at sigma 0.200 it points away")


def test_bounds_of_the_strength_are_where_a_t_test_stops_to_reject():
    """Fieller's, by scipy's test of <d, r> - g |d|^2 at the bounds."""
    rng = np.random.default_rng(0)
    dd = rng.uniform(1, 3, 20)
    dr = 0.6 * dd + rng.normal(0, 0.5, 20)
    of = strength(dr, dd)
    assert of.g == pytest.approx(dr.mean() / dd.mean()) and of.low < of.g < of.high
    for bound in (of.low, of.high):
        assert stats.ttest_1samp(dr - bound * dd, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert of.p == pytest.approx(stats.ttest_1samp(dr, 0).pvalue)


def test_bounds_of_the_strength_hold_the_truth_in_95_percent_of_samples():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        dd = rng.gamma(4, 0.5, 12)
        of = strength(0.4 * dd + rng.normal(0, 1, 12), dd)
        inside += of.low <= 0.4 <= of.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_bounds_are_infinite_where_the_difference_itself_is_not_told_from_zero():
    assert strength(np.array([1.0, -2.0, 0.5]), np.array([0.0, 0.0, 9.0])).high == math.inf


def test_a_proposal_is_of_the_levels_and_the_strength_that_lower_the_loss():
    """Three levels: reflection helps at the noisiest at full strength, less at the second, and not at the last."""
    rng = np.random.default_rng(2)
    dd = np.ones((40, 3))
    dr = np.array([1.5, 0.7, -1.0]) * dd + rng.normal(0, 0.1, (40, 3))
    best = proposal(dr, dd, [0.9, 0.5, 0.1])
    assert (best.strength, best.low, best.high) == (1.0, 0.5, 0.9) and 2.1 < best.gain < 2.4
    alone = proposal(dr[:, 1:], dd[:, 1:], [0.5, 0.1])
    assert (alone.strength, alone.low, alone.high) == (0.75, 0.5, 0.5) and 0.3 < alone.gain < 0.49
    none = proposal(dr[:, 2:], dd[:, 2:], [0.1])
    assert none.strength == 0 == none.gain
    assert proposal(-dr[:1], dd[:1], [0.9, 0.5, 0.1]).strength == 0


@pytest.mark.parametrize("name", ["shapes", "shapes-image"])
def test_a_proposal_is_a_preset_that_samples_so(name, tmp_path):
    preset = presets.load(name)
    write(tmp_path, [], proposed(preset, Proposal(0.5, 0.2504, 0.9), {"num_inference_steps": 3, "device": "cpu"}))
    request = Request.of("a red circle", 0, str(tmp_path / "proposed.yaml"))
    gains = {"still_gain": 0.5, "motion_gain": 0.5} if preset.video else {"still_gain": 0.5}
    assert request.options == {"interval": [0.25, 0.9], **gains} and request.num_inference_steps == 3
    request.check()
    write(tmp_path, [], proposed(preset, Proposal(0.0, 0.0, 1.0, 0.0), {}))
    assert Request.of("a red circle", 0, str(tmp_path / "proposed.yaml")).reflection_steps == 0


def test_data_is_drawn_or_given_with_prompts(tmp_path):
    shapes = presets.load("shapes")
    data = samples(shapes, 3, [], None, tmp_path)
    assert len(data) == 3 and data[0].data.shape == (16, 64, 64, 3) and data[0].data.dtype == np.uint8
    video.write_mp4(data[0].data, tmp_path / f"{data[0].prompt}-0.mp4", 8)
    (given,) = samples(shapes, 3, [str(tmp_path)], None, tmp_path)
    assert given.prompt == data[0].prompt and given.data.shape == data[0].data.shape and not given.told
    with pytest.raises(Refused, match="has no data of its own: give videos, with prompts"):
        samples(presets.load("animatediff-sdxl-juggernaut"), 3, [], None, tmp_path)
    with pytest.raises(Refused, match="has no data of its own: give images, with prompts"):
        samples(presets.load("dit-moe-s"), 3, [], None, tmp_path)


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    digits.data.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    run = CliRunner().invoke(app, ["check-pair", "--preset", "shapes-digits", "--out", str(tmp_path)])
    assert run.exit_code == 2 and 'pip install "w2sd-video[eval,digits]"' in " ".join(run.output.split())


def test_given_pictures_bring_what_the_pair_is_shown(tmp_path):
    given, edges = tmp_path / "given", tmp_path / "edges"
    for folder in (given, edges):
        folder.mkdir()
        Image.new("RGB", (16, 16)).save(folder / "a [red] fox.png")
    control, follow = presets.load("sdxl-controlnet"), presets.load("sdxl-ip-adapter")
    (one,) = samples(control, 3, [str(given)], edges, tmp_path)
    assert one.prompt == "a [red] fox" and one.told == {"control": str(edges / "a [red] fox.png")}
    (one,) = samples(follow, 3, [str(given)], None, tmp_path)
    assert one.told == {"ip_image": str(given / "a [red] fox.png")}
    with pytest.raises(Refused, match="control: None is not accepted; give a folder"):
        samples(control, 3, [str(given)], None, tmp_path)
    with pytest.raises(Refused, match=r"it has no file for a \[red\] fox.png"):
        samples(control, 3, [str(given)], tmp_path, tmp_path)


@pytest.mark.parametrize(
    "pair",
    [
        "shapes-control",
        "shapes-picture",
        "shapes-digits",
        "shapes-prompt",
        "mine",
    ],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda pair: pair == "shapes-digits")
def test_every_kind_of_pair_is_asked_and_scored(pair, tmp_path, monkeypatch):
    """In two samples of two steps: each by what it is shown, told, and scored by."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: shapes-style\ndescription: mine\nsource: me\nweak_guidance_scale: 0.0\n")
    preset = "mine.yaml" if pair == "mine" else pair
    run = CliRunner().invoke(app, ["check-pair", "--preset", preset, "--samples", "2", "--steps", "2", "--out", "out"])
    assert run.exit_code == 0, run.output
    rows = list(csv.DictReader(open("out/alignment.csv", encoding="utf-8")))
    assert len(rows) == 2 * 8 and all(float(row["dd"]) > 0 for row in rows)
    scores = json.loads(Path("out/scores.json").read_text())
    judged = "digits_right" if pair == "shapes-digits" else "shapes_right"
    assert set(scores["groups"]) == {"out/plain", "out/w2sd"} and judged in scores["groups"]["out/w2sd"]["columns"]


@pytest.mark.slow
def test_the_weak_arm_that_is_asked_has_the_motion_module_it_is_given(tmp_path):
    asked = {"own": [], "other": ["--weak-motion", "package:shapes/weights/motion-tuned"]}
    asked["scaled"] = [*asked["other"], "--weak-motion-scale", "0.5"]
    differences = {}
    for name, options in asked.items():
        few = ["--samples", "2", "--frames", "4", "--dimensions", "none", "--out", str(tmp_path / name)]
        ran = CliRunner().invoke(app, ["check-pair", *few, *options])
        assert ran.exit_code == 0, ran.output
        rows = list(csv.DictReader(open(tmp_path / name / "alignment.csv", encoding="utf-8")))
        differences[name] = [float(row["dd"]) for row in rows]
    assert all(a != b for a, b in itertools.combinations(differences.values(), 2))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("strong", "weak", "says"),
    [
        ("tuned", "base", "no direction is certain"),  # over all levels; see below
        ("base", "tuned", "WARNING: the models' difference"),
    ],
)
def test_the_shipped_pair_points_towards_the_data_and_swapped_away_from_it(tmp_path, strong, weak, says):
    arms = [f"package:shapes/weights/{name}" for name in (strong, weak)]
    arguments = [
        "--samples",
        "16",
        "--dimensions",
        "none",
        "--out",
        str(tmp_path),
        "--strong",
        arms[0],
        "--weak",
        arms[1],
        "--vae",
        "package:shapes/weights/tuned/vae",  # base has none of its own
    ]
    ran = CliRunner().invoke(app, ["check-pair", *arguments])
    assert ran.exit_code == 0, ran.output
    rows = list(csv.DictReader(open(Path(tmp_path) / "alignment.csv", encoding="utf-8")))
    assert len(rows) == 16 * 8 and not any(math.isnan(float(row["cosine"])) for row in rows)
    assert says in ran.output
    # In the middle levels, where it is decided what is where, the one points towards the data and the other away.
    middle = [row for row in rows if 0.4 < float(row["sigma"]) < 0.8]
    dr, dd = (sum(float(row[name]) for row in middle) for name in ("dr", "dd"))
    assert 0.1 < dr / dd < 0.5 if strong == "tuned" else dr < 0
