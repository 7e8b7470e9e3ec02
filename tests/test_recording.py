"""What a method did at every step, recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.hook import Recorder
from w2sd_video.levels import FirstOrder, Level, Step
from w2sd_video.methods import Answer
from w2sd_video.runs import Request
from w2sd_video.sampling import load, sample

PROMPT = "a red circle moving right"
SMALL = {"num_inference_steps": 3, "num_frames": 4}
HALF = Level.from_flow(0.5)
STEP = Step(500.0, "flow_prediction", HALF, HALF, FirstOrder(1.0, 0.0), FirstOrder(1.0, 0.0))


def test_the_numbers_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    x, d, before = (rng.normal(size=(2, 3, 4, 5, 5)) for _ in range(3))
    recorder = Recorder(latents=True)
    for index, each in enumerate((before, d)):
        recorder.add(replace(STEP, index=index), torch.from_numpy(x), Answer(torch.zeros(1), torch.from_numpy(each)))
    row = recorder.steps[1]
    for b in range(2):
        flat = [each[b].ravel() for each in (x, d, before)]
        norms = [np.linalg.norm(each) for each in flat]
        assert row.norm[b] == pytest.approx(norms[1] / norms[0], rel=1e-5)
        assert row.cosine[b] == pytest.approx(flat[1] @ flat[2] / norms[1] / norms[2], abs=1e-5)
        mean = np.broadcast_to(d[b].mean(1, keepdims=True), d[b].shape)
        assert row.still[b] == pytest.approx(np.linalg.norm(mean) ** 2 / norms[1] ** 2, rel=1e-5)
        for f in range(4):
            assert row.frames[b][f] == pytest.approx(np.linalg.norm(d[b][:, f]) / np.linalg.norm(x[b][:, f]), rel=1e-5)
    assert recorder.steps[0].cosine is None and (row.step, row.timestep, row.sigma) == (1, 500.0, 0.5)
    assert [step for step, _, _ in recorder.tensors] == [0, 1]


def test_what_is_added_to_the_prediction_is_recorded_too_and_nothing_of_a_plain_step():
    recorder = Recorder()
    p, e = torch.ones(2, 1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    recorder.add(STEP, torch.zeros(1, 3, 2, 2), Answer(p))
    recorder.add(replace(STEP, index=1), torch.zeros(1, 3, 2, 2), Answer(p, e=e))
    (row,) = recorder.steps
    assert (row.step, row.of, row.norm, row.frames, row.still) == (1, "prediction", [0.5], None, None)


@pytest.mark.parametrize("method, rows", [("w2sd", 2), ("auto_guidance", 2), ("optimistic", 2)])
@pytest.mark.slow_unless(case=lambda method: method == "w2sd")
def test_a_recorder_changes_nothing_and_has_a_row_of_every_changed_step(method, rows):
    request = Request.of(PROMPT, method=method, **SMALL)
    pipe = load(request)["w2sd"]
    plain, recorder = sample(pipe, request, "w2sd"), Recorder()
    recorded = sample(pipe, request, "w2sd", recorder=recorder)
    assert np.array_equal(plain[0], recorded[0]) and plain[1] == recorded[1]
    assert [row.step for row in recorder.steps] == list(range(rows))
    assert all(len(row.frames[0]) == 4 and row.norm[0] > 0 for row in recorder.steps)
    sample(pipe, request, "w2sd")
    assert len(recorder.steps) == rows  # a recorder is of one call


@pytest.mark.slow
def test_record_writes_numbers_and_a_plot(tmp_path):
    arguments = ["generate", PROMPT, "--record", "--steps", "3", "--frames", "4", "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    record = json.loads((tmp_path / "a-red-circle-moving-right-seed0.json").read_text())
    assert [row["step"] for row in record["videos"]["w2sd"]["differences"]] == [0, 1]
    plot = (tmp_path / "a-red-circle-moving-right-seed0-differences.svg").read_text()
    assert plot.rstrip().endswith("</svg>") and "length by frame" in plot and "(seed 0)" in plot
    assert "already made" in CliRunner().invoke(app, arguments).output
    refused = CliRunner().invoke(app, [*arguments, "--plain"])
    assert refused.exit_code == 2 and "--record: --plain and --weak-only sample without a method" in refused.stderr


@pytest.mark.slow
def test_a_comparison_records_the_method_alone(tmp_path):
    arguments = ["generate", PROMPT, "--record", "--compare", "--steps", "2", "--frames", "2", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    plots = [path.relative_to(tmp_path).parts[:-1] for path in tmp_path.rglob("*-differences.svg")]
    assert sorted(plots) == [(), ("w2sd",)]
    again = ["generate", "--from", str(tmp_path / "plain" / "a-red-circle-moving-right-seed0-plain.json"), "--record"]
    ran = CliRunner().invoke(app, [*again, "--out", str(tmp_path / "again")])
    assert ran.exit_code == 2 and "was sampled without a method" in ran.stderr


def test_cosines_are_of_steps_that_follow_each_other():
    recorder, x = Recorder(), torch.ones(1, 3, 2, 2)
    for index in (0, 1, 0, 1, 3):
        recorder.add(replace(STEP, index=index), x, Answer(x[None], x))
    assert [row.cosine is None for row in recorder.steps] == [True, False, True, False, True]
