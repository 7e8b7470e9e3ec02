"""Kills `w2sd-video run`, `score` and `report` at random moments, and compares their ends to an undisturbed run's.

    python tests/kill_runs.py --times 20

The commands run as forks of this process, which has imported everything: an import takes longer than a run as small.
Of Ray, one cluster of this machine serves all commands, but for those that have to end one of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from programs import forked

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the threads that its parent had
os.environ["RAY_AUTH_MODE"] = "disabled"  # of a cluster that nobody else reaches
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # which kills workers where other programs fill the memory
os.environ["RAY_gcs_server_port_wait_time_s"] = "600"  # for a cluster to start on a machine that has much else to do
PLAN = """
prompts: [a red circle, a blue square]
seeds: 0-2
settings: {num_inference_steps: 2, num_frames: 2, device: cpu}
axes: {arm: {strong: {variant: plain}, w2sd: {}}}
dimensions: [shapes, temporal_flickering]
"""
CELLS, IN_A_ROW = 12, 3
STAGES = ["run", "score", "report", "stop"]  # of which the last is all of Ray's workers with their run
ENGINES = {"one": [], "workers": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}
CLUSTER = """
import logging, ray, sys
ray.init("local", num_cpus=8, include_dashboard=False, logging_level=logging.CRITICAL, object_store_memory=80 * 2**20,
         _node_ip_address="127.0.0.1")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
ACTOR, BUSY = "ray::_Actor", "ray::_Actor.make"  # titles of processes: of a worker, and of one that has a task
PATIENCE = 600  # seconds after which something that has to end, and does not, is a fault
# What Python itself says in a process that it starts, where that is not told what to run because its parent was killed.
STILLBORN = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+EOFError: Ran out of input\n")


def start(folder: Path, *arguments: str, said: str = "said") -> int:
    """A command as a process of its own, in a folder; what it says is appended to a file there."""
    from w2sd_video.cli import main

    sys.stdout.flush()
    return forked(main, arguments, folder / said, lambda: (os.setsid(), os.chdir(folder)))


def ended(process: int, seconds: float = PATIENCE) -> int | None:
    """How a process ended within a time: its code, or the signal, negative. None: it runs."""
    until = time.monotonic() + seconds
    while True:
        there, status = os.waitpid(process, os.WNOHANG)
        if there:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def command(stage: str, engine: list[str]) -> list[str]:
    if stage == "report":
        return ["report", "run"]
    return [stage, *(["plan.yaml", "--out", "run"] if stage == "run" else ["run"]), "--threads", "1", *engine]


def lines(file: Path) -> list[dict[str, object]]:
    """The whole rows of a file that grows."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def made(run: Path) -> Counter[str]:
    """How often each cell was made, by the record."""
    rows = [row for file in run.glob("record/*.jsonl") for row in lines(file)]
    return Counter(str(row["cell"]) for row in rows if "error" not in row)


def tables(run: Path) -> dict[str, object]:
    """What a run ends with, but for times and commands."""
    scores = json.loads((run / "scores" / "scores.json").read_text())
    for name in ("made", "seconds", "command"):
        del scores[name]
    frames = {}
    for file in sorted(run.glob("videos/*/*.json")):
        frames[str(file.relative_to(run))] = json.loads(file.read_text())["videos"]
        for video in frames[str(file.relative_to(run))].values():
            del video["seconds"]
    files = {file.name: file.read_bytes() for file in (run / "scores").iterdir() if file.suffix == ".csv"}
    assert len(frames) == CELLS and files and "index.html" in page(run), run
    return {"scores": scores, "frames": frames, **files}


def page(run: Path) -> dict[str, bytes]:
    """The files of a run's page, which says how long each video of this run took."""
    folder = run / "report"
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def cluster():
    """The address of a Ray cluster of this machine, and its process."""
    command = [sys.executable, "-c", CLUSTER]
    quiet = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | quiet
    ) as it:
        try:
            address = it.stdout.readline().strip()
            assert address, "the cluster does not start"
            yield address, it.pid
        finally:
            it.stdin.close()


def actors(process: int, title: str = ACTOR) -> list[Any]:
    """The actors below a process."""
    import psutil

    found = []
    for each in psutil.Process(process).children(recursive=True):
        with suppress(psutil.Error):
            found += [each] if each.cmdline()[:1] and each.cmdline()[0].startswith(title) else []
    return found


def without_actors(process: int) -> None:
    """Waits until the cluster has ended those of commands that were killed."""
    until = time.monotonic() + PATIENCE
    while left := actors(process):
        assert time.monotonic() < until, f"{left} outlive their runs"
        time.sleep(0.2)


def rows_of(stage: str, run: Path) -> int:
    """How many rows a stage has written."""
    return made(run).total() if stage == "run" else len(lines(run / "scores/scores.jsonl"))


def at_random(process: int, stage: str, run: Path, rng: random.Random) -> bool:
    """Waits until a stage has written some rows more, and then a little. Returns whether it still runs."""
    rows = rows_of(stage, run) + rng.randint(0, CELLS // 3)
    while ended(process, 0) is None:
        if stage == "report" or rows_of(stage, run) >= rows:
            return ended(process, rng.uniform(0, rng.choice([0.1, 2.0]))) is None
        time.sleep(0.005)
    return False


def disturbed(stage: str, engine: list[str], count: int, times: int, base: Path, rng: random.Random) -> str:
    """Kills a stage so many times, a few times in a row, and lets it come to its end then, which is compared."""
    undisturbed, kills, at_once, twice = tables(base / "run"), 0, 0, 0
    while kills < times:
        # Workers of what was killed may still write to it.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder, in_a_row = Path(name), 0
            shutil.copy(base / "plan.yaml", folder)
            if stage != "run":
                made_by_it = {"score": ("scores", "report"), "report": ("report",)}[stage]
                shutil.copytree(base / "run", folder / "run", ignore=shutil.ignore_patterns(*made_by_it))
            while kills < times and in_a_row < IN_A_ROW:
                process = start(folder, *command(stage, engine), said="killed")
                if not at_random(process, stage, folder / "run", rng):
                    break
                kill(process)
                kills, in_a_row = kills + 1, in_a_row + 1
            code = ended(start(folder, *command(stage, engine)))
            said = (folder / "said").read_text()
            assert code == 0 and "Traceback" not in said, said
            if (folder / "killed").exists():
                said = STILLBORN.sub("", (folder / "killed").read_text())
                assert "Traceback" not in said, said
            assert tables(folder / "run") == undisturbed, f"{stage} {engine} ends with other tables"
            assert stage != "report" or page(folder / "run") == page(base / "run"), "report ends with another page"
            cells, rows = made(folder / "run"), Counter(r["key"] for r in lines(folder / "run/scores/scores.jsonl"))
            assert len(cells) == CELLS, cells
            extra = cells.total() - CELLS, (rows.total() - len(rows)) // 2
            assert max(extra) <= in_a_row * count, (cells, rows)
            at_once, twice = max(at_once, in_a_row), twice + max(extra)
    return f"{kills} kills, up to {at_once} in a row; {twice} made twice; the tables are those of an undisturbed run"


def held(worker: Any) -> bool:
    """Stops a worker for as long as it has a task, which it then has for good. Returns whether it has one."""
    import psutil

    with suppress(psutil.Error, ProcessLookupError):
        worker.suspend()
        while worker.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        if worker.cmdline()[0].startswith(BUSY):
            return True
        worker.resume()
    return False


def workers_killed(address: str, process: int, base: Path) -> str:
    """Kills two of three Ray workers, each with a task, while the third goes on.

    Both are stopped first. So the run cannot end before, and no task is that of both.
    """
    without_actors(process)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copy(base / "plan.yaml", folder)
        engine = ["--engine", "ray", "--address", address, "--workers", "3"]
        running, victims = start(folder, *command("run", engine)), []
        while len(victims) < 2:
            code = ended(running, 0.005)
            assert code is None, f"it ended with {code} before two workers had a task"
            busy = [each for each in actors(process, BUSY) if each not in victims]
            victims += [each for each in busy[: 2 - len(victims)] if held(each)]
        already = made(folder / "run").total()
        until = time.monotonic() + PATIENCE
        while made(folder / "run").total() == already < CELLS - 2:
            assert time.monotonic() < until and ended(running, 0.02) is None, (folder / "said").read_text()
        for each in victims:
            each.kill()
        assert ended(running) == 0, (folder / "said").read_text()
        assert tables(folder / "run") == tables(base / "run")
        assert made(folder / "run").total() == CELLS
        assert (folder / "said").read_text().count("note: a worker died") == 2
        return "two of three workers killed; each cell made once; the tables are those of an undisturbed run"


def stopped(number: signal.Signals, base: Path) -> str:
    """Ends a command that has a Ray cluster of its own, and waits until nothing of it is left."""
    import psutil

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copy(base / "plan.yaml", folder)
        running = start(folder, *command("run", ENGINES["ray"]))
        while not (below := actors(running)):
            assert ended(running, 0.02) is None, (folder / "said").read_text()
        if number != signal.SIGKILL:  # after which Ray's own agents look for their cluster for a minute
            below = psutil.Process(running).children(recursive=True)
        (os.killpg if number == signal.SIGINT else os.kill)(running, number)  # Ctrl-C goes to all of its group
        code = ended(running)
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], code
        assert not psutil.wait_procs(below, timeout=PATIENCE)[1]
        said = (folder / "said").read_text()
        assert "Traceback" not in said, said
        return f"{len(below)} processes ended with it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    import w2sd_video.cli
    import w2sd_video.eval.cli
    import w2sd_video.eval.report
    import w2sd_video.pipelines  # noqa: F401 - all of which a fork then has

    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "plan.yaml").write_text(PLAN)
        assert ended(start(base, *command("run", []))) == 0, (base / "said").read_text()
        for engine in given.engines:
            with cluster() if engine == "ray" else nullcontext() as at:
                options = ENGINES[engine] + (["--address", at[0]] if at else [])
                for stage in given.stages:
                    # The page is made by one process, whatever made the run.
                    if stage == "stop" or stage == "report" and engine != "one":
                        continue
                    rng = random.Random(f"{given.seed} {engine} {stage}")
                    what = disturbed(stage, options, 1 if engine == "one" else 2, given.times, base, rng)
                    print(f"{stage}, {engine}: {what}", flush=True)
                if at:
                    print(f"run, ray: {workers_killed(*at, base)}", flush=True)
                    without_actors(at[1])
            stop = engine == "ray" and "stop" in given.stages
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) if stop else ():
                print(f"run, ray, {number.name}: {stopped(number, base)}", flush=True)


if __name__ == "__main__":
    main()
