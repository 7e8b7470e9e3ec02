"""Workers of runs: what they make, and what ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from plan_cases import SMALL, TEXTS, frames, plan
from programs import heard

from w2sd_video import plans
from w2sd_video.plans.cells import CellTask
from w2sd_video.plans.engine import Outcome
from w2sd_video.plans.processes import SideBySide


def _stand_in(connection, start, threads, files):
    """A worker that dies at seed 1, each time or, where it starts with `once`, the first time."""
    mark, times = start
    connection.send(None)  # it is ready
    try:
        while True:
            task = connection.recv()
            if task.request.seed == 1 and not (mark.exists() and times == "once"):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            connection.send(Outcome(task, record={"by": os.getpid()}))
    except EOFError:
        pass


def tasks(tmp_path: Path, count: int) -> list[CellTask]:
    request = next(plan(axes={}).cells()).request()
    of = request.loading, "w2sd"
    return [CellTask(str(n), replace(request, seed=n), tmp_path, str(n), ("mp4",), *of) for n in range(count)]


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda times: times == "once")
@pytest.mark.parametrize("times", ["once", "always"])
def test_a_worker_that_dies_is_replaced_and_its_cell_tried_again_with_a_bound(times, tmp_path):
    made = SideBySide(2, _stand_in).run(tasks(tmp_path, 6), (tmp_path / "mark", times), 1, tmp_path)
    outcomes = {outcome.task.key: outcome for outcome in made}
    assert outcomes.keys() == set("012345")
    failed = {key: outcome.error for key, outcome in outcomes.items() if outcome.error}
    assert failed == ({} if times == "once" else {"1": "its worker died: SIGKILL"})


@pytest.mark.exhaustive
def test_workers_make_what_one_process_makes(tmp_path):
    of = plan(seeds="0-1")
    plans.run(of, tmp_path / "one", threads=1)
    plans.run(of, tmp_path / "two", workers=2, threads=1)
    assert frames(tmp_path / "one") == frames(tmp_path / "two") and len(frames(tmp_path / "two")) == 8


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda number: number == signal.SIGINT)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_a_run_ends_its_workers(number, tmp_path):
    settings = {**SMALL, "num_inference_steps": 200, "num_frames": 16}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": settings, "seeds": "0-9"}))
    command = [sys.executable, "-m", "w2sd_video", "run", "plan.yaml", "--threads", "1", "--workers", "2"]
    how = {"start_new_session": True, "cwd": tmp_path, "preexec_fn": heard}
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, **how)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        time.sleep(0.05)
        assert process.poll() is None
        with suppress(psutil.Error):  # of one that has just ended
            below = psutil.Process(process.pid).children()
            workers = [each for each in below if "spawn_main" in " ".join(each.cmdline())]
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # while they import, and to all, as of Ctrl-C
    else:
        time.sleep(6)
        os.kill(process.pid, number)
    try:
        assert process.wait(600) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        assert not psutil.wait_procs(workers, timeout=600)[1]
    finally:  # what a fault leaves would slow down all other tests
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in (text := (tmp_path / "said").read_text()) and "leaked" not in text, text


@pytest.mark.slow
def test_a_worker_ends_even_where_it_was_deleting_an_object():
    """There, Python drops the exception that is to end it."""
    code = """
import os, signal, sys, time
from w2sd_video.plans.processes import _ended_by_an_exception
class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with _ended_by_an_exception():
    slow = Slow()
    del slow
    time.sleep(900)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (143, "")
