"""The study of what a reflection can reuse: each ablation against its loop written literally, and what is said."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
import torch
from torch import Tensor

from w2sd_video.errors import ArgumentError, Refused
from w2sd_video.methods import W2SD, Optimistic
from w2sd_video.shapes import bench, rows
from w2sd_video.studies import points, reuse, study
from w2sd_video.studies.points import Mixture

T = 8  # of 1000, so that steps are equally long
NOISE = points.normal_points(16, 1)
STRONG, WEAK = (
    points.Exact(Mixture([share, 1.0], [[-4.0], [4.0]], [1.0, 1.0]), points.scheduler()) for share in (0.5, 0.2)
)


def literal(corrected: bool = True, every: int = 1) -> Tensor:
    """DDIM of eps by the formula; the arms' difference of the last step in place of the first evaluation."""
    scheduler = points.scheduler()
    scheduler.set_timesteps(T)
    x, difference = NOISE.clone(), torch.zeros_like(NOISE)
    for i, t in enumerate(scheduler.timesteps):
        later = scheduler.timesteps[i + 1] if i + 1 < T else None
        bar = scheduler.alphas_cumprod[t].double()
        bar_s = scheduler.final_alpha_cumprod.double() if later is None else scheduler.alphas_cumprod[later].double()
        a = (bar_s / bar).sqrt()
        b = (1 - bar_s).sqrt() - a * (1 - bar).sqrt()
        if i == T - 1:
            return a * x + b * STRONG(x, t)[0]
        before = x + b / a * difference
        p = STRONG(before, t)[0]
        if i % every == 0:
            difference = p - WEAK(a * before + b * p, t)[0]
            x = a * (x + b / a * difference if corrected else before) + b * p
        else:
            x = a * before + b * p
    raise AssertionError


@pytest.mark.parametrize(
    ("method", "how"),
    [
        (Optimistic(), {}),
        (reuse.NotCorrected(), {"corrected": False}),
        (reuse.EverySecond(), {"every": 2}),
    ],
)
def test_what_is_not_corrected_or_used_twice_is_the_literal_loop(method, how):
    made = points.sample(STRONG, WEAK, method, NOISE, num_inference_steps=T)
    assert made.flatten().tolist() == pytest.approx(literal(**how).flatten().tolist(), abs=1e-5)


def test_halves_are_those_of_the_steps_that_reflect():
    halves = [[i for i in range(25) if half.reflects(i, 25)] for half in (reuse.Half(), reuse.Half(noisier=False))]
    assert halves == [list(range(12)), list(range(12, 24))]
    first = points.sample(STRONG, WEAK, reuse.Half(), NOISE, num_inference_steps=T)
    same = points.sample(STRONG, WEAK, Optimistic(reflection_steps=4), NOISE, num_inference_steps=T)
    assert torch.equal(first, same)


def test_the_larger_half_of_a_frames_places_keeps_its_difference():
    d = torch.arange(1.0, 17).reshape(1, 1, 1, 4, 4).repeat(1, 2, 3, 1, 1)

    class Given(W2SD):
        def _displacement(self, *arguments: object) -> Tensor:
            return d

    class Of(reuse.Places, Given):
        pass

    kept = Of()._displacement(d, None, None, None)
    assert torch.equal(kept, torch.where(d > 8, d, 0.0))


@pytest.mark.slow
def test_evaluations_are_those_that_each_part_leaves_out_and_rows_are_taken_over(tmp_path):
    """Of four steps, three reflect. Plain: 2 each; W2SD 3 more in each that reflects, optimistic 1."""
    result = study.perform("reuse", study.Run(quick=True, cache=tmp_path, prompts=1))
    cost = {row["method"]: row["evaluations"] for row in result.rows}
    assert cost == {
        "W2SD": 17,
        "plain": 8,
        "auto-guidance": 11,
        "optimistic": 11,
        "not corrected": 11,
        "weak arm every second step": 10,
        "first half": 10,
        "second half": 11,  # its first step is W2SD's
        "half of the places": 11,
        "W2SD, unconditional of x_t": 14,
    }
    kept = tmp_path / "kept.jsonl.xz"
    kept.write_bytes(lzma.compress((tmp_path / "reuse-quick.jsonl").read_bytes()))
    again = study.perform("reuse", study.Run(quick=True, cache=tmp_path / "other", prompts=1, workers=0, rows=[kept]))
    assert str(again.rows) == str(result.rows)  # NaN is not equal to itself
    with pytest.raises(Refused, match="1 of 2 prompts are not sampled yet"):
        study.perform("reuse", study.Run(quick=True, cache=tmp_path / "other", prompts=2, workers=0))


@pytest.mark.parametrize(
    ("run", "text"), [(study.Run(seed=1), "give 0"), (study.Run(workers=2), "samples in one process")]
)
def test_what_the_study_cannot_do_is_refused(run, text):
    with pytest.raises(Refused, match=text):
        study.perform("reuse", run)


def test_kept_rows_of_another_judge_are_refused_before_more_are_sampled(tmp_path):
    """Both would be in the file then, and it would not be read again."""
    of = {**bench.origin(reuse.PAIR), "judge": "another"}
    line = rows.line_of(reuse.PAIR, reuse.REFERENCE, 0, "a red circle", 0, {"right": 1.0}, 122, 1.0, of)
    rows.add(tmp_path / "reuse.jsonl", [line])
    with pytest.raises(ArgumentError, match="holds rows made with another judge and study: remove it"):
        study.perform("reuse", study.Run(cache=tmp_path))


def test_earlier_rows_that_do_not_say_what_they_are_of_are_not_taken_over(tmp_path):
    line = rows.line_of(reuse.PAIR, reuse.REFERENCE, 0, "a red circle", 0, {"right": 1.0}, 122, 1.0, {})
    del line["of"]
    rows.add(tmp_path / "rows.jsonl", [line])
    with pytest.raises(Refused, match="12 of 12 prompts are not sampled yet"):
        study.perform("reuse", study.Run(workers=0, rows=[tmp_path / "rows.jsonl"]))


def test_what_is_said_is_what_the_distances_are():
    distances = {"W2SD": 0.0, "plain": 20.0, "auto-guidance": 8.0, "optimistic": 3.0, "not corrected": 5.0}
    lines = {}
    for label in reuse.METHODS:
        noise = np.random.default_rng(len(label)).normal(0, 0.1, 10)
        of = [{"distance": distances.get(label, 3.0) + each, "right": 1.0, "form": None} for each in noise]
        lines[label] = [{"evaluations": 122 if label == "W2SD" else 74, "scores": scores} for scores in of]
    result = reuse._result(json.loads(json.dumps(lines)), b"")
    assert "At 61% of its evaluations optimistic reflection is 3.0 levels from W2SD's videos" in result.outcome
    assert "Farther than it: plain (+17.0), auto-guidance (+5.0), not corrected (+2.0)" in result.outcome
    (row,) = (row for row in result.rows if row["method"] == "plain")
    assert (row["right"], row["form"], row["form_videos"]) == (1.0, "", 0)
