"""What waits for the end of something that must not be cut in half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from w2sd_video.interrupts import uninterrupted

DELETING = """
import os, signal, sys, time
from w2sd_video.cli import app, main

class Slow:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.1)

@app.command()
def deletes() -> None:
    slow = Slow()
    del slow
    time.sleep(600)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
sys.argv = ["w2sd-video", "deletes"]
main()
"""
FIRST_PROCESS = """
import multiprocessing, time
from w2sd_video.interrupts import started_uninterrupted
context = multiprocessing.get_context("spawn")
with started_uninterrupted():
    first = context.Process(target=time.sleep, args=(60,), daemon=True)
    first.start()
print(*(open(f"/proc/{of}/status").read().split("SigBlk:")[1].split()[0] for of in ("self", first.pid)))
first.kill()
"""


def test_a_signal_arrives_once_the_body_has_ended():
    events = []
    before = signal.signal(signal.SIGTERM, lambda *_: events.append("the signal"))
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            events.append("the body")
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert events == ["the body", "the signal", "the signal"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what Linux says of a process")
def test_not_even_the_first_process_is_interrupted_while_it_imports():
    """With the first one, Python starts another of its own, and then lets SIGINT through."""
    ours, its = subprocess.run(
        [sys.executable, "-c", FIRST_PROCESS], capture_output=True, text=True, check=True
    ).stdout.split()
    blocked = 1 << (signal.SIGINT - 1)
    assert not int(ours, 16) & blocked
    assert int(its, 16) & blocked


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends_even_where_it_was_deleting_an_object(number, code):
    """There, Python drops the exception that is to end it."""
    program = DELETING.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (code, "")
