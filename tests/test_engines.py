"""What makes the cells of a plan: workers of this machine, or of a Ray cluster; and what ends them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from command_lines import command_lines
from typer.testing import CliRunner

from w2sd_video import cli, plans
from w2sd_video.errors import Refused
from w2sd_video.plans import OnRay, Plan
from w2sd_video.plans.engine import Outcome, hand_out
from w2sd_video.plans.on_ray import _compare, facts
from w2sd_video.plans.processes import SideBySide
from w2sd_video.threads import threads_for, torch_threads

ROOT = Path(__file__).parents[1]
SMALL = {"num_inference_steps": 2, "num_frames": 2, "device": "cpu"}
ARMS = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}
TEXTS = ["a red circle", "a blue square"]


@dataclass(frozen=True)
class Task:
    key: str
    models: str = ""

    @property
    def stem(self):
        return self.key


class Crew:
    """Workers in this process: `dies` says of a worker's number and a task, None while it starts, whether it dies."""

    def __init__(self, dies=lambda number, task: False, slow=()):
        self.dies, self.slow = dies, slow
        self.hired, self.ended = [], []
        self.log: list[tuple[int, str]] = []

    def hire(self):
        worker = Hired(self, len(self.hired))
        self.hired.append(worker)
        return worker

    def listen(self, crew):
        waiting = [each for each in crew if each.said]
        each = next((each for each in waiting if each.number not in self.slow), waiting[0])
        yield each, each.said.pop()


class Hired:
    def __init__(self, crew, number):
        self.crew, self.number = crew, number
        self.ready, self.task, self.models = False, None, None
        self.said = ["killed" if crew.dies(number, None) else None]

    def hand(self, task):
        self.crew.log.append((self.number, task.key))
        self.said.append("killed" if self.crew.dies(self.number, task) else Outcome(task, {"by": self.number}))

    def end(self):
        self.crew.ended.append(self.number)


def test_tasks_of_the_same_models_go_to_the_worker_that_holds_them():
    crew = Crew()
    tasks = [Task(f"{models}{n}", models) for models in "abc" for n in range(4)]
    outcomes = list(hand_out(tasks, 2, crew.hire, crew.listen))
    assert {each.task.key for each in outcomes} == {each.key for each in tasks} and len(outcomes) == 12
    changes = [(w, a[0], b[0]) for w in (0, 1) for keys in [[k for n, k in crew.log if n == w]]
               for a, b in zip(keys, keys[1:], strict=False) if a[0] != b[0]]  # fmt: skip
    assert len(changes) <= 3 and crew.ended == [0, 1]


def test_a_worker_that_is_not_ready_keeps_no_task_from_the_others():
    crew = Crew(slow=(1,))
    outcomes = list(hand_out([Task(str(n)) for n in range(5)], 2, crew.hire, crew.listen))
    assert Counter(each.record["by"] for each in outcomes) == {0: 5} and crew.ended == [0, 1]


def test_a_task_whose_worker_dies_is_tried_once_more_by_another_and_then_failed():
    crew = Crew(lambda number, task: task is not None and task.key == "2")
    outcomes = {each.task.key: each for each in hand_out([Task(str(n)) for n in range(5)], 2, crew.hire, crew.listen)}
    assert {key: each.error for key, each in outcomes.items() if each.error} == {"2": "its worker died: killed"}
    assert len({number for number, key in crew.log if key == "2"}) == 2 and len(crew.hired) == 4


def test_workers_that_never_start_end_the_run():
    crew = Crew(lambda number, task: True)
    with pytest.raises(ChildProcessError, match="it does not start .killed.; a script has to call below"):
        list(hand_out([Task("0")], 2, crew.hire, crew.listen))
    assert len(crew.hired) <= 5


def invoke(tmp_path, *options):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL}))
    run = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan.yaml"), *options])
    assert run.exit_code == 2 and not (tmp_path / "plan").exists(), run.output
    return " ".join(run.output.split())


@command_lines("""
    --engine dask => --engine: 'dask' is not accepted; give local or ray
    --address auto => --address: 'auto' is not accepted; it goes with --engine ray
    --gpus-per-worker 1 => --gpus-per-worker: 1.0 is not accepted; it goes with --engine ray
    --engine ray --gpus-per-worker 1.5 => --gpus-per-worker: 1.5 is not accepted; give a whole
    --engine ray --device cuda:1 => Ray says which GPU a worker has: give cuda or auto
    --engine ray --address ray://a:1 => --address: 'ray://a:1' is not accepted; give HOST:PORT
""")
def test_options_of_engines_are_refused_by_name_before_anything_is_made(options, says, tmp_path):
    assert says in invoke(tmp_path, *options)


def test_ray_that_is_missing_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "w2sd-video[ray]"' in invoke(tmp_path, "--engine", "ray")


def test_a_machine_that_would_make_other_videos_or_elsewhere_is_named(tmp_path):
    ours = facts([]) | {"folder": True}
    _compare("one", dict(ours), ours, tmp_path)
    with pytest.raises(Refused, match="two does not see it: give a folder that all machines of the cluster share"):
        _compare("two", ours | {"folder": False}, ours, tmp_path)
    with pytest.raises(Refused, match=f"torch is 1.0 on two, and {ours['torch']} here"):
        _compare("two", ours | {"torch": "1.0"}, ours, tmp_path)
    with pytest.raises(Refused, match="on two, method: .* cannot be read"):
        _compare("two", "method: 'x.py:A' is not accepted; the file cannot be read", ours, tmp_path)


def _waiting(connection, start, threads, files):
    """A worker whose cells only wait. It writes what a cell's sidecar would say of when."""
    connection.send(None)  # it is ready
    try:
        while True:
            task, began = connection.recv(), time.monotonic()
            time.sleep(2)
            (task.folder / f"{task.stem}.json").write_text("{}")
            record = {"hashes": {}, "videos": {}, "seconds": 2.0, "when": [began, time.monotonic()]}
            connection.send(Outcome(task, record))
    except EOFError:
        pass


@pytest.mark.slow
def test_three_workers_on_cells_that_wait_are_busy(tmp_path, monkeypatch):
    module = import_module("w2sd_video.plans.run")  # the package has the function under this name
    spans, line = [], module._line
    monkeypatch.setattr(module, "_line", lambda *of: spans.append(of[2].record["when"]) or line(*of))
    of = Plan(prompts=TEXTS, seeds="0-5", settings=SMALL)
    assert plans.run(of, tmp_path, threads=1, engine=SideBySide(3, _waiting)).made == 12
    first, last = sorted(begin for begin, _ in spans)[2], sorted(end for _, end in spans)[-3]
    busy = sum(min(end, last) - max(begin, first) for begin, end in spans if end > first and begin < last)
    assert busy / (3 * (last - first)) > 0.75  # of two, it is 0.67


@pytest.mark.exhaustive
def test_workers_score_what_one_process_scores(tmp_path):
    of = Plan(prompts=TEXTS, seeds="0-1", axes=ARMS, settings=SMALL, dimensions=["shapes", "temporal_flickering"])
    plans.run(of, tmp_path / "run", threads=1)
    videos = plans.videos(of, tmp_path / "run")
    videos[0].path.unlink()  # what is not there is left to whoever says so

    def rows(name, work):
        (tmp_path / "run" / "scores").mkdir()
        work(tmp_path / "run" / "scores" / "scores.jsonl")
        text = (tmp_path / "run" / "scores" / "scores.jsonl").read_text()
        (tmp_path / "run" / "scores").rename(tmp_path / name)
        return sorted(text.splitlines())

    from w2sd_video.eval.evaluate import evaluate

    alone = rows("alone", lambda file: evaluate(videos, of.dimensions, file))
    together = rows("together", lambda _: plans.score(of, tmp_path / "run", workers=2))
    assert alone == together and len(alone) == 14


@pytest.mark.parametrize(
    "options, tables",
    [
        pytest.param(["--engines", "one", "--times", "3"], 3, marks=pytest.mark.slow),
        pytest.param(["--engines", "workers", "--times", "1"], 2, marks=pytest.mark.slow),
        pytest.param(["--engines", "ray", "--times", "1", "--stages", "run", "score"], 3, marks=pytest.mark.slow),
        pytest.param(["--times", "6"], 8, marks=pytest.mark.exhaustive),
    ],
)
def test_whatever_is_killed_the_same_command_ends_with_the_tables_of_an_undisturbed_run(options, tables):
    """`tests/kill_runs.py --times 20` does more of it."""
    command = [sys.executable, str(ROOT / "tests" / "kill_runs.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # which has its own limit of all that it waits for
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the tables are those of an undisturbed run") == tables


@pytest.mark.slow
def test_a_method_of_a_file_runs_on_ray_and_its_frames_are_those_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("w2sd_video.plugins._RUN", {})
    (tmp_path / "on_ray.py").write_text("from w2sd_video.methods import W2SD\n\n\nclass Mine(W2SD):\n    pass\n")
    settings = {**SMALL, "method": "on_ray.py:Mine"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS[:1], "settings": settings}))
    method = ["--method", f"{tmp_path / 'on_ray.py'}:Mine", "--threads", "1"]
    frames = []
    for engine in ("local", "ray"):
        command = ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / engine), "--engine", engine, *method]
        done = CliRunner().invoke(cli.app, command)
        assert done.exit_code == 0, done.output
        (sidecar,) = (tmp_path / engine).glob("videos/all/*.json")
        frames.append(json.loads(sidecar.read_text())["videos"]["w2sd"]["frames_sha256"])
    assert frames[0] == frames[1]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:", "127.0.0.1:99999", "no.such.host.invalid:6379"])
def test_an_address_at_which_no_cluster_answers_is_refused(address):
    with pytest.raises(Refused, match=f"address: '{address}' is not accepted; nothing answers there"):
        OnRay(address=address).__enter__()


@pytest.mark.parametrize(
    ("gpus", "threads", "says"),
    [
        (2e9, 1, "gpus: 2000000000.0 is not accepted; a machine of the cluster has at most 1 GPU: give less"),
        (1, 16, "threads: 16 is not accepted; no machine has 16 cores for a worker: give less"),
        (0.5, 4, "threads: 4 is not accepted; no machine has 4 cores beside 0.5 GPUs for a worker: give less"),
        (1, 1, ""),
    ],
)
def test_where_no_worker_fits_a_machine_of_the_cluster_what_is_short_is_named(gpus, threads, says):
    ray = OnRay(1, "auto", gpus)
    ray._machines, ray.gpus, ray.workers = [{"CPU": 2, "GPU": 1}, {"CPU": 8}], gpus, 1
    assert says == (str(ray._lacking(threads)) if not ray._room(threads) else "")


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_torch_has_its_threads_again_however_what_changed_them_ends(error):
    before = torch.get_num_threads()
    with suppress(RuntimeError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        if error:
            raise error
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("limit, threads", [("1", 1), ("3", 3), ("64", 8), ("", 8), ("0", 8), ("two", 8)])
def test_workers_share_the_cores_and_have_at_most_the_threads_of_the_environment(limit, threads, monkeypatch):
    monkeypatch.setattr("w2sd_video.threads.cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_for(2) == threads
    assert threads_for(100) == 1
