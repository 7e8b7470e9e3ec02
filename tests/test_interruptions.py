"""Interruptions at every rename: the same command goes on, and ends with the bytes of an undisturbed run.

This file is a program too: it imports everything and loads the shipped model once, and forks the command line, of two
steps of two frames, from there. An audit hook of Python's sends the child a signal right before its n-th rename.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from programs import forked

BATCH = "--prompt,a red circle moving right,--prompt,a blue square moving left".split(",")
SMALL = "--steps 2 --frames 2 --size 16 --device cpu".split()
KINDS = {
    "new": [*BATCH, *SMALL, "--gif", "--png"],
    "overwrite": [*BATCH, *SMALL, "--png", "--overwrite"],
    "compare": [BATCH[1], *SMALL, "--compare"],
}
# The plan; MP4, GIF, frames and sidecar, or MP4, sheet, sidecar and three single videos; and what is set aside before:
# sidecar, GIF and frames.
RENAMES = {"new": 1 + 4, "overwrite": 1 + 3 + 3, "compare": 1 + 3 + 3 * 2}
FORMER = [*BATCH, *SMALL, "--gif", "--png", "--guidance", "2"]  # what is overwritten; its GIFs are stale then
EXITS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


def contents(folder: Path) -> dict[str, object]:
    """Every file by its name: its bytes, and of a sidecar all but the times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
            if path.suffix == ".json" and not path.name.startswith("."):
                record = json.loads(path.read_text())
                for each in (record, *record["videos"].values()):
                    del each["seconds"]
                for each in record["hashes"].values():
                    del each["modified_ns"]
                del record["created"], record["command"]
                found[path.relative_to(folder).as_posix()] = record
        elif path.name.startswith("."):
            found[path.name] = "a hidden folder"
    return found


def fork(cli, arguments: list[str], out: Path, log: Path, at: int = 0, by: int = 0) -> int:
    """How a forked command line ended that got the signal `by` before its rename number `at`."""
    renames = count(1)

    def interrupt(event: str, of: tuple) -> None:
        if event == "os.rename" and str(out) in os.path.abspath(os.fsdecode(of[1])) and next(renames) == at:
            os.kill(os.getpid(), by)

    log.unlink(missing_ok=True)
    command = ["generate", *arguments, "--out", str(out)]
    child = forked(cli.main, command, log, lambda: sys.addaudithook(interrupt))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def drive(folder: Path, kinds: dict[str, int]) -> dict[str, dict[str, int]]:
    """Interrupts commands as many times as `kinds` says, and compares what they end with; what was done, by signal."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
    from w2sd_video import cli, generation
    from w2sd_video.runs import Request

    seen, load = {}, generation.load
    for kind, wanted in kinds.items():
        arguments = KINDS[kind]
        variant = "compare" if kind == "compare" else "w2sd"
        small = {"num_inference_steps": 2, "num_frames": 2, "height": 16, "width": 16, "device": "cpu"}
        pipelines = load(Request.of(BATCH[1], variant=variant, **small))
        generation.load = lambda request, variant, pipelines=pipelines: dict(pipelines)
        former, log = folder / f"former-{kind}", folder / "said"
        former.mkdir()
        if kind == "overwrite":
            assert fork(cli, FORMER, former, log) == 0, log.read_text()
        undisturbed = folder / f"undisturbed-{kind}"
        shutil.copytree(former, undisturbed)
        assert fork(cli, arguments, undisturbed, log) == 0, log.read_text()
        expected = contents(undisturbed)
        assert not [name for name in expected if "gif" in name] or kind == "new"
        done = dict.fromkeys(EXITS, 0)
        rounds, out = 0, folder / f"disturbed-{kind}"
        while sum(done.values()) < wanted or out.exists():
            if not out.exists():
                shutil.copytree(former, out)
            number = sum(done.values())
            by = list(EXITS)[number % 3]
            at = 1 + number % RENAMES[kind] if number < wanted else 0
            code = fork(cli, arguments, out, log, at, by)
            if code:
                assert code == EXITS[by], f"{kind}, signal {by} at rename {at}: {code}\n{log.read_text()}"
                done[by] += 1
            else:
                assert contents(out) == expected, f"{kind}: {sorted(contents(out))}"
                shutil.rmtree(out)
                rounds += 1
        seen[kind] = {**{signal.Signals(by).name: times for by, times in done.items()}, "rounds": rounds}
    return seen


def run(folder: Path, kinds: dict[str, int]) -> dict[str, dict[str, int]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), json.dumps(kinds)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    "times", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.exhaustive)]
)
def test_interruptions_at_every_rename_resume_to_the_undisturbed_bytes(times, tmp_path):
    """Of all signals at each: `python tests/test_interruptions.py FOLDER '{"overwrite": 21, "compare": 30}'`."""
    wanted = {"new": times * RENAMES["new"], "overwrite": RENAMES["overwrite"], "compare": RENAMES["compare"]}
    seen = run(tmp_path, wanted)
    for kind, times in wanted.items():
        assert sum(number for name, number in seen[kind].items() if name.startswith("SIG")) == times
    assert all(kind["rounds"] for kind in seen.values())


if __name__ == "__main__":
    print(json.dumps(drive(Path(sys.argv[1]), json.loads(sys.argv[2]))))
