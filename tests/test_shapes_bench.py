"""`shapes bench`: what a results file may hold, who may add to it, and what settings are tuned on."""

from __future__ import annotations

import json
import lzma
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import heard
from typer.testing import CliRunner

from w2sd_video import runs
from w2sd_video.errors import Refused
from w2sd_video.runs import Request
from w2sd_video.sampling.cost import evaluations, steps_for
from w2sd_video.shapes import bench, grammar, pairs, rows, table, tuning
from w2sd_video.shapes.cli import app
from w2sd_video.shapes.pairs import COLUMNS
from w2sd_video.shapes.rows import read

RENDERED = {"rendered": bench.Row("rendered truth")}
FEW = ["--set", "num_inference_steps=2", "--set", "num_frames=2"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def made(tmp_path) -> Path:
    """A results file of the rendered truth of three prompts."""
    bench.run("shapes", tmp_path / "rows.jsonl", RENDERED, grammar.prompts(3))
    return tmp_path / "rows.jsonl"


# What a results file holds


def test_a_row_says_its_seed_and_what_it_comes_from(made):
    for n, row in enumerate(lines(made)):
        assert (row["n"], row["seed"], list(row["of"])) == (n, n, ["judge"])
    assert list(bench.origin("shapes")) == ["judge", "preset", "weights"]
    assert bench.origin("shapes")["weights"] != bench.origin("shapes-style")["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["judge", "preset", "weights"])
def test_a_file_of_another_judge_preset_or_of_other_weights_is_not_continued(changed, made):
    row = lines(made)[0] | {"method": "strong", "arguments": bench.PLAIN, "of": bench.origin("shapes")}
    row["of"][changed] = "0" * 12
    write(made, [row])
    with pytest.raises(ValueError, match=f"holds strong made with another {changed}; take another file"):
        bench.run("shapes", made, {"strong": bench.Row("", bench.PLAIN)}, [row["prompt"]])
    assert lines(made) == [row]


def test_other_weights_have_another_hash(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "a.safetensors"
    file.write_bytes(b"one")
    before = bench._weights(str(file)), bench._weights(str(tmp_path / "weights"))
    file.write_bytes(b"two")
    assert before[0] == before[1] != bench._weights(str(file))


def test_a_file_that_does_not_say_what_it_comes_from_is_read_and_not_continued(made):
    rows = [{key: value for key, value in row.items() if key not in ("of", "seed")} for row in lines(made)]
    write(made, rows)
    assert read(made, "shapes") == rows
    with pytest.raises(ValueError, match="does not say of which judge; take another file"):
        bench.run("shapes", made, RENDERED, grammar.prompts(4))


def test_a_file_of_other_prompts_is_not_continued(made):
    with pytest.raises(ValueError, match="holds rendered 1 of another prompt"):
        bench.run("shapes", made, RENDERED, [grammar.prompts(1)[0], "a red circle", "a blue square", "a red star"])
    assert len(lines(made)) == 3


def test_a_sample_that_stands_twice_counts_once_and_is_refused_where_its_scores_differ(made):
    rows = lines(made)
    write(made, [*rows, rows[0] | {"seconds": 9.0}])
    assert read(made, "shapes") == rows
    write(made, [*rows, rows[0] | {"scores": {"right": 0.0}}])
    with pytest.raises(ValueError, match="holds rendered 0 twice, with different scores"):
        read(made, "shapes")


@pytest.mark.parametrize(
    "damage",
    [
        {"prompt": "a furry cat"},
        {"n": -1},
        {"n": True},
        {"arguments": 3},
        {"arguments": {"guidance_scale": "high"}},
        {"of": []},
        {"tuning": "no"},
        {"scores": 1},
        {"scores": {"right": 1.0, "motion": -1e160}},
    ],
)
def test_a_damaged_row_is_refused_by_the_option(damage, made):
    write(made, [lines(made)[0] | damage, *lines(made)[1:]])
    ran = CliRunner().invoke(app, ["bench", "--table", "--out", str(made)])
    assert ran.exit_code == 2 and "--out: " in " ".join(ran.output.split()) and "take another file" in ran.output


# Who adds to it


def test_reading_leaves_a_line_that_another_process_is_writing(made):
    text = made.read_text()
    made.write_text(text + '{"pair": "sha')
    assert len(read(made, "shapes")) == 3
    CliRunner().invoke(app, ["bench", "--table", "--out", str(made)])
    assert made.read_text() == text + '{"pair": "sha'


def test_a_file_that_another_process_adds_to_is_refused(made):
    text = made.read_text()
    with runs.alone(made):
        with pytest.raises(Refused, match="another process is adding to it"):
            bench.run("shapes", made, RENDERED, grammar.prompts(4))
        assert len(read(made, "shapes")) == 3  # reading is free
    assert made.read_text() == text and [path.name for path in made.parent.iterdir()] == [made.name]
    bench.run("shapes", made, RENDERED, grammar.prompts(4))


def test_what_is_refused_in_one_process_is_refused_so_in_another():
    told = pickle.loads(pickle.dumps(Refused("seed", -1, "give a whole number")))
    assert (told.argument, told.value, told.accepted) == ("seed", -1, "give a whole number")
    assert str(told) == "seed: -1 is not accepted; give a whole number"


COMMAND = [sys.executable, "-c", "from w2sd_video.cli import main; main()", "shapes", "bench", *FEW]


MANY = 200  # more than its runs come to before the last is ended


def begun(folder: Path) -> subprocess.Popen:
    """A command of two processes that has added some rows of many to its file, and makes the next."""
    rows = folder / "rows"
    before = len(lines(rows)) if rows.exists() else 0
    options = ["--out", str(rows), "--method", "strong", "--videos", str(MANY), "--processes", "2"]
    with open(folder / "said", "w") as said:
        running = subprocess.Popen(
            [*COMMAND, *options], stdout=said, stderr=said, start_new_session=True, preexec_fn=heard
        )
    while running.poll() is None and not (rows.exists() and len(lines(rows)) > before):
        time.sleep(0.02)
    return running


@pytest.mark.exhaustive
def test_a_run_that_is_ended_leaves_no_process_and_goes_on_where_it_was(tmp_path):
    """However it is ended: by a signal, or as one of its processes is killed."""
    import psutil

    held: list[dict] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None):
        running = begun(tmp_path)
        below = psutil.Process(running.pid).children(recursive=True)
        if number is None:
            next(each for each in below if "spawn_main" in " ".join(each.cmdline())).kill()
        else:
            os.killpg(running.pid, number) if number == signal.SIGINT else running.send_signal(number)
        codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9, None: 1}
        assert running.wait(300) == codes[number], number
        assert below and not psutil.wait_procs(below, 300)[1], number
        said = (tmp_path / "said").read_text()
        assert "Traceback" not in said, number
        assert ("a process that makes samples: was killed" in said) == (number is None)
        rows = lines(tmp_path / "rows")
        assert rows[: len(held)] == held and len(held) < len(rows) < MANY, number
        held = rows
    few = ["--method", "strong", "--videos", str(len(held) + 4)]
    ran = CliRunner().invoke(app, ["bench", *FEW, "--out", str(tmp_path / "rows"), *few])
    assert ran.exit_code == 0, ran.output
    rows = lines(tmp_path / "rows")
    assert rows[: len(held)] == held and len({row["n"] for row in rows}) == len(rows)
    assert {*range(len(held) + 4)} <= {row["n"] for row in rows}


# What settings are tuned on


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["shapes", "shapes-picture", "shapes-digits"])
def test_settings_are_tuned_on_other_texts_and_seeds_than_the_tables(pair, monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 24)
    asked = bench.preset(pair)
    texts = tuning.prompts_beside(pair, 12, 16)
    assert texts == tuning.prompts_beside(pair, 12, 24)  # so that a table of 16 can grow
    tuned = [pairs.prompt_of(asked, bench.seed_of(n, True), text) for n, text in enumerate(texts)]
    tested = [pairs.prompt_of(asked, bench.seed_of(n, False), text) for n, text in enumerate(grammar.prompts(24))]
    if asked.textual:
        assert len(set(tuned)) == 12 and not set(tuned) & set(tested)
    assert not {bench.seed_of(n, True) for n in range(10**5)} & {
        bench.seed_of(n, False) + bench.TRIED * k for n in (0, 1, 10**5 - 1) for k in range(bench.TRIES)
    }


def test_more_prompts_to_tune_on_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(tuning, "FIRST", 5)
    monkeypatch.setattr(tuning, "prompts", lambda count, seed=2026: ["a red circle", "a blue square"])
    with pytest.raises(ValueError, match="--tune: 9 is not accepted; beside those of the table, shapes has 0 prompts"):
        tuning.prompts_beside("shapes", 9, 5)


def test_a_picture_to_follow_is_never_that_of_another_prompt_of_the_same_number(tmp_path):
    """Settings are tuned first, in the same folder."""
    asked = bench.preset("shapes-control")
    one, two = (pairs.sample_of(asked, 0, text, tmp_path) for text in ("a red circle", "a large blue square"))
    shown = [np.asarray(Image.open(each.told["control"]))[None] for each in (one, two)]
    for each, picture in zip((one, two), shown, strict=True):
        assert pairs.agreement(picture[0, ..., 0] > 127, pairs.edges(each.data[0] / 255)[..., 0] > 0.5) == 1.0
    assert one.told == pairs.sample_of(asked, 0, "a red circle", tmp_path).told


def test_plain_sampling_without_guidance_costs_half_a_step():
    """24 steps of 5 evaluations and one of 2 make 122: 61 steps at guidance 2, and 122 at guidance 1."""
    asked = bench.preset("shapes")
    assert (bench.equal_steps(asked), bench.equal_steps(asked, 1.0)) == (61, 122)
    # With a final step of 1 evaluation, 24 of 4 and one of 1.
    assert bench.equal_steps(bench.preset("shapes", {"guidance_scale": 1.0})) == 97
    grid = tuning.tuned(asked)["tuned-equal-cost"].first
    assert grid[0] == {"guidance_scale": 1.0, "num_inference_steps": 122} and grid[1] == {"guidance_scale": 1.5}


@pytest.mark.parametrize("pair", pairs.PAIRS)
def test_equal_cost_is_that_of_plans_and_sidecars(pair, tmp_path):
    for changes in ({}, {"guidance_scale": 1.0, "reflection_steps": 5}, {"weak_guidance_scale": 0.0}):
        asked = bench.preset(pair, changes)
        shown = pairs.sample_of(asked, 1, "a red circle", tmp_path)
        w2sd, plain = (Request.of(shown.prompt, 1, asked, variant=each, **shown.told) for each in ("w2sd", "plain"))
        assert bench.equal_steps(asked) == steps_for(plain, evaluations(w2sd)["total"])


# The table


def rows_of(method: str, count: int, **more) -> list[dict]:
    row = {"pair": "shapes", "method": method, "evaluations": 30, "seconds": 1.0, "arguments": {}}
    rng = np.random.default_rng(len(method))
    return [
        {**row, "n": n, "prompt": text, "scores": {"right": float(rng.random() < 0.5), "form": rng.random()}, **more}
        for n, text in enumerate(grammar.prompts(count))
    ]


def test_the_table_does_not_depend_on_the_order_of_rows(tmp_path):
    rows = [row for method in ("strong", "w2sd", "guidance", "raised") for row in rows_of(method, 12)]
    write(tmp_path / "one.jsonl", rows)
    write(tmp_path / "two.jsonl", [rows[n] for n in np.random.default_rng(0).permutation(len(rows))])
    one, one_again, two = (
        CliRunner().invoke(app, ["bench", "--table", "--out", str(tmp_path / f"{name}.jsonl")]).stdout
        for name in ("one", "one", "two")
    )
    assert one == one_again == two and "| right (one object)" in one


def test_rows_are_packed_beside_their_file_whatever_it_is_called_and_once(tmp_path):
    for name in ("rows.jsonl", "rows.v2"):
        write(tmp_path / name, rows_of("strong", 2))
        ran = CliRunner().invoke(app, ["bench", "--table", "--pack", "--out", str(tmp_path / name)])
        assert ran.exit_code == 0
    packed = sorted(path.name for path in tmp_path.glob("*.xz"))
    assert packed == ["rows.jsonl.xz", "rows.v2.jsonl.xz"]
    ran = CliRunner().invoke(app, ["bench", "--table", "--pack", "--out", str(tmp_path / packed[0])])
    assert ran.exit_code == 2 and "--pack: " in ran.output and len(list(tmp_path.iterdir())) == 4


def test_what_is_a_ceiling_and_on_how_many_prompts_settings_were_tuned_is_said_in_the_table():
    assert "(a ceiling)" in bench.methods(bench.preset("shapes"))["best-of-3"].label
    setting = {"arguments": {"variant": "plain", "guidance_scale": 2.5}}
    tried = rows_of("tuned: guidance_scale=2.5", 3, tuning=True)
    names = tuning.labels(tuning.tuned(bench.preset("shapes")), [*rows_of("tuned", 2, **setting), *tried])
    assert names == {"tuned": "strong, tuned guidance (2.5; on 3 prompts)"}


def test_the_strong_arms_scale_at_2_s_minus_w_is_a_rival(tmp_path):
    compared = table.rivalry(rows_of("raised", 12) + rows_of("w2sd", 12), COLUMNS)
    assert {(each.base, each.group) for each in compared} == {("raised", "w2sd")}


def test_w2sd_with_noise_is_compared_with_noise_alone():
    compared = table.rivalry(rows_of("noise", 12) + rows_of("w2sd-noise", 12), COLUMNS)
    assert {(each.base, each.group) for each in compared} == {("noise", "w2sd-noise")}


def test_a_measure_of_objects_is_of_videos_that_show_all_objects_of_the_prompt():
    """A video that lacks the worse of two objects is not better formed for it."""
    base, ours = rows_of("strong", 12), rows_of("w2sd", 12)
    for row in (*base, *ours):
        row["scores"] |= {"colour": 1.0, "form": 0.8}
    for row in ours[:3]:
        row["scores"] |= {"colour": 0.5, "form": 0.95}
    columns = [column for column in COLUMNS if column.name == "form"]
    summary = table.summarise([*base, *ours], columns)["w2sd"]
    assert summary["columns"]["form"].mean == 0.8 and summary["columns"]["form"].counted == "9 of 12"
    assert summary["against strong"]["form"].difference.mean == 0 and summary["against strong"]["form"].lost == (3, 0)


def test_all_comparisons_that_a_bench_prints_are_adjusted_together():
    """Three are shown, and that of W2SD with strong twice."""
    arms = {name: rows_of(name, 12) for name in ("strong", "w2sd", "equal-cost")}
    for row in arms["w2sd"]:
        row["scores"]["colour"] = 1.0
    for row in (*arms["strong"], *arms["equal-cost"]):
        row["scores"]["colour"] = 0.0
    columns = [column for column in COLUMNS if column.name == "colour"]
    rows = list(chain(*arms.values()))
    summary = table.summarise(rows, columns)
    against = summary["w2sd"]["against strong"]["colour"]
    assert against.p_adjusted == pytest.approx(3 * 2.0**-11) and against in table.rivalry(rows, columns)
    assert "over all 3 comparisons, is at most" in table.markdown(summary, {name: name for name in arms}, columns)


@pytest.mark.slow
def test_that_the_cheaper_reflection_is_as_good_is_a_claim_of_its_own():
    arms = {name: rows_of(name, 40) for name in ("weak", "strong", "w2sd")}
    for row in arms["weak"]:
        row["scores"]["form"] -= 1
    close, worse = ([{**row, "method": "optimistic"} for row in arms["w2sd"]] for _ in range(2))
    for n, row in enumerate(close):
        row["scores"] = {**row["scores"], "form": row["scores"]["form"] + 0.001 * (n % 3)}
    for n, row in enumerate(worse):
        row["scores"] = {**row["scores"], "form": row["scores"]["form"] - 0.2 - n / 1000}
    labels = {"w2sd": "W2SD", "optimistic": "Optimistic W2SD"}
    columns = [column for column in COLUMNS if column.name == "form"]
    for those, says in ((close, "is shown in form (by 0.1"), (worse, "is not shown in form (by 0.1")):
        (line,) = table.as_good([*chain(*arms.values()), *those], labels, columns).lines
        assert line[0].startswith("That Optimistic W2SD is worse than W2SD by less than a tenth") and says in line[0]
    assert not table.as_good(list(chain(*arms.values())), labels, columns).lines


@pytest.mark.slow
@pytest.mark.parametrize("pair", pairs.PAIRS)
def test_the_table_and_the_figure_of_the_documentation_are_those_of_the_rows_beside_it(pair, tmp_path):
    docs, drawn = Path(__file__).parents[1] / "docs", tmp_path / f"{pair}-table.svg"
    ran = CliRunner().invoke(
        app,
        ["bench", "--table", "--pair", pair, "--out", str(docs / "rows" / f"{pair}.jsonl.xz"), "--figure", str(drawn)],
    )
    page = docs / ("results.md" if pair == "shapes" else "results-pairs.md")
    assert ran.exit_code == 0 and ran.stdout.strip() in page.read_text(encoding="utf-8")
    texts = [re.findall(r">([^<>]+)</text>", p.read_text()) for p in (drawn, docs / "assets" / drawn.name)]
    assert texts[0] == texts[1] and len(texts[0]) > 20


def test_a_measure_that_does_not_apply_is_null_in_the_file_and_nan_here(made):
    """JSON has no NaN; files of earlier versions, which have it, are read."""
    (line, *_) = lines(made)
    line["scores"]["form"] = math.nan
    write(made, [line])
    assert "NaN" in made.read_text()
    (old,) = read(made, line["pair"])
    made.unlink()
    rows.add(made, [old])
    packed = lzma.decompress(rows.packed(made, line["pair"])).decode()
    assert packed == made.read_text() and "NaN" not in packed and json.loads(packed)["scores"]["form"] is None
    (new,) = read(made, line["pair"])
    assert math.isnan(old["scores"].pop("form")) and math.isnan(new["scores"].pop("form")) and old == new


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_full_disk_is_said_with_the_file(made):
    with pytest.raises(OSError, match="/dev/full"):
        rows.add(Path("/dev/full"), lines(made))
