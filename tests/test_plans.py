"""Plans: their cells, and what they may not say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from plan_cases import ARMS, SMALL, TEXTS, plan
from typer.testing import CliRunner

from w2sd_video import cli, plans
from w2sd_video.errors import Refused
from w2sd_video.plans import Cell, Folder, Keys, Plan


def test_the_cells_are_the_product_of_prompts_seeds_and_axes():
    of = plan(seeds="0,2-3", axes={**ARMS, "weak_guidance_scale": [-1, 0.5]})
    cells = list(of.cells())
    assert len(cells) == 2 * 3 * 4 == len({(c.arm.name, c.prompt.text, c.seed) for c in cells})
    assert [arm.name for arm in of.arms] == [
        f"{arm}, weak_guidance_scale={w}" for arm in ("strong", "w2sd") for w in ("-1", "0.5")
    ]
    assert {c.seed for c in cells} == {0, 2, 3} and [c.number for c in cells] == list(range(24))
    last = cells[-1].request()
    assert (last.prompt, last.seed, last.weak_guidance_scale, last.variant) == (TEXTS[1], 3, 0.5, "w2sd")
    assert len({(c.arm.folder, c.stem) for c in cells}) == 24


@pytest.mark.parametrize(
    "use",
    [
        lambda of: plans.run(of, "run"),
        lambda of: plans.score(of, "run"),
        lambda of: plans.status(of, "run"),
        lambda of: plans.videos(of, "run"),
        lambda of: plans.experiment(of, "title"),
        plans.check_tuning,
    ],
)
def test_what_uses_a_plan_refuses_the_name_of_its_file_and_says_how_it_is_read(use):
    for file in ("mine.yaml", Path("mine.yaml")):
        with pytest.raises(Refused, match=r"plan: .*'mine.yaml'\)? is not accepted; .* `plans.read\('mine.yaml'\)`"):
            use(file)


@pytest.mark.parametrize("use", [plans.read, plans.read_run, lambda path: plans.run(plan(), path)])
def test_what_reads_a_plan_or_a_run_refuses_what_is_no_path(use):
    with pytest.raises(Refused, match="path: 3 is not accepted; give the (path|folder) of a"):
        use(3)


def test_what_is_no_setting_is_an_option_of_the_method_and_options_add_up():
    of = plan(settings={**SMALL, "still_gain": 0.5}, axes={"motion_gain": [0, 1, 2]})
    assert [arm.template.options for arm in of.arms] == [{"still_gain": 0.5, "motion_gain": gain} for gain in (0, 1, 2)]
    assert [arm.name for arm in of.arms] == ["motion_gain=0", "motion_gain=1", "motion_gain=2"]


def test_arms_of_lists_are_called_by_their_axis_too():
    of = plan(axes={"interval": [[0, 1], [0.3, 1]], "motion_gain": [1, 2]})
    assert [arm.name for arm in of.arms][::3] == ["interval=[0, 1], motion_gain=1", "interval=[0.3, 1], motion_gain=2"]


def test_a_plan_without_axes_has_one_arm():
    assert [(arm.name, arm.folder) for arm in plan(axes={}).arms] == [("all", "all")]


def test_a_text_counts_once_also_with_spaces_around_it():
    assert [prompt.text for prompt in Plan(prompts=["a cat", " a cat", "a cat\n", "A cat"]).suite.prompts] == [
        "a cat",
        "A cat",
    ]


def test_a_suite_is_drawn_from_and_a_larger_draw_has_the_smaller():
    few, more = (plan(prompts="shapes", n=n, sample_seed=3) for n in (3, 6))
    assert {p.text for p in few.suite.prompts} < {p.text for p in more.suite.prompts}


def test_a_plan_is_read_from_yaml_and_files_lie_beside_it(tmp_path):
    (tmp_path / "mine.txt").write_text("a red circle\n")
    (tmp_path / "plan.yaml").write_text("prompts: mine.txt\nseeds: 0-1\naxes:\n  motion_gain: [0, 1]\n")
    of = plans.read(tmp_path / "plan.yaml")
    assert [prompt.text for prompt in of.suite.prompts] == ["a red circle"] and len(list(of.cells())) == 4


def test_models_lie_beside_the_plan_wherever_it_is_read_and_keep_their_labels(tmp_path, monkeypatch):
    from shutil import copytree

    from w2sd_video.shapes import WEIGHTS

    (tmp_path / "a").mkdir()
    for name in ("one", "two"):
        copytree(WEIGHTS / "motion", tmp_path / "a" / name)
    (tmp_path / "a" / "plan.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS, "settings": SMALL | {"motion_adapter": "one"}, "axes": {"arm": {"none": {}}}})
    )
    (tmp_path / "a" / "axis.yaml").write_text(
        yaml.safe_dump({"prompts": TEXTS, "settings": SMALL, "axes": {"motion_adapter": ["one", "two"]}})
    )
    monkeypatch.chdir(tmp_path)
    for folder in (Path("a"), tmp_path / "a"):
        (arm,) = plans.read(folder / "plan.yaml").arms
        assert arm.template.motion_adapter == str(tmp_path / "a" / "one")
        arms = plans.read(folder / "axis.yaml").arms
        assert {arm.name: arm.template.motion_adapter for arm in arms} == {
            name: str(tmp_path / "a" / name) for name in ("one", "two")
        }
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "a" / "plan.yaml").rename(tmp_path / "plan.yaml")
    (arm,) = plans.read("../plan.yaml").arms  # a path from where the command runs, as before
    assert arm.template.motion_adapter == str(tmp_path / "a" / "one")


def test_paths_tell_arms_apart_that_differ_in_case_or_signs(tmp_path):
    labels = ["𐐷" * 90, "A", "a", "a b", "a_b", "../x", "con.", "é", "x" * 300, "<b>", "🐈"]
    of = plan(axes={"arm": {label: {} for label in labels}})
    folders = [arm.folder.lower() for arm in of.arms]
    assert len(set(folders)) == len(labels)
    assert all(len(name.encode()) < 120 and "/" not in name and not name.startswith(".") for name in folders)


@pytest.mark.parametrize(
    ("beside", "settings", "axes", "refused"),
    [
        ({"reflection_steps": 1}, {}, {}, "axes (arm equal): reflection_steps: 1"),
        ({"variant": "plain", "num_inference_steps": 2}, {}, {}, "axes (arm equal): num_inference_steps: 2"),
        ({"method": "optimistic"}, {"reflection_steps": 1}, {}, "settings.reflection_steps: 1"),
        ({}, {}, {"reflection_steps": [1, 2]}, "axes (arm equal, reflection_steps 1): reflection_steps: 1"),
        ({"variant": "plain"}, {"reflection_steps": 1}, {}, ""),
        ({"method": "optimistic"}, {"reflection_steps": None}, {}, ""),
        ({"as_costly_as": None}, {"reflection_steps": 1}, {}, ""),
        ({"method": "optimistic", "reflection_steps": None}, {}, {}, ""),
    ],
)
def test_steps_beside_as_costly_as_are_refused_where_they_would_not_be_used(beside, settings, axes, refused):
    arms = {"w2sd": {}, "equal": {"as_costly_as": "w2sd", **beside}}
    of = plan(settings={**SMALL, **settings}, axes={"arm": arms, **axes})
    if not refused:
        assert len(of.arms) == 2
        return
    with pytest.raises(Refused) as error:
        list(of.arms)
    assert f"{refused} is not accepted; as_costly_as sets it: leave it out" in str(error.value)


def test_an_arm_can_have_the_steps_that_cost_what_another_arm_costs():
    arms = {**ARMS["arm"], "equal": {"variant": "plain", "as_costly_as": "w2sd"}}
    of = plan(settings={"num_inference_steps": 15}, axes={"arm": arms, "weak_guidance_scale": [1, 2]})
    steps = {arm.name: arm.template.num_inference_steps for arm in of.arms}
    assert steps["w2sd, weak_guidance_scale=1"] == 15
    assert steps["equal, weak_guidance_scale=1"] == 36 and steps["equal, weak_guidance_scale=2"] == 43


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompts": []}, "prompts: [] is not accepted; give at least one text"),
        ({"prompts": ["a red circle", " "]}, "prompts: ' ' is not accepted"),
        ({"prompts": "moton"}, "did you mean 'motion'?"),
        ({"prompts": ["a red dog"]}, "outside the shapes world"),
        ({"seeds": "3-1"}, "seeds: '3-1' is not accepted"),
        ({"seeds": -1}, "seeds: -1 is not accepted"),
        ({"prompts": "x" * 10_000}, "is not accepted; Available: smoke"),
        ({"axes": {"motion_gain": [10**400]}}, "is not accepted; give smaller whole numbers"),
        ({"axes": {"a\nb": {"c": {}}}}, "axes: 'a\\nb' is not accepted; give names of printable characters"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_scale": [[1], 2]}}}}}, "tune.guidance_scale: [[1], 2] is not acc"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_sacle": [1, 2]}}}}, "tuning": {"by": ["clipped"]}},
         "axes (arm a): 'guidance_sacle' is no setting (did you mean 'guidance_scale'?)"),
        ({"tuning": {"by": ["clipped"], "promts": "smoke"}}, "tuning.promts: 'smoke' is not accepted; no setting"),
        ({"axes": {"arm": {"a": {"as_costly_as": "a"}}}}, "as_costly_as: 'a' is not accepted; give the axis another"),
        ({"seeds": []}, "seeds: [] is not accepted; give at least one"),
        ({"seeds": "0-99999999"}, "give at most 100000 seeds at once"),
        ({"n": 3}, "n: 3 is not accepted; texts has 2"),
        ({"axes": {"motion_gain": []}}, "axes.motion_gain: [] is not accepted"),
        ({"axes": {"motion_gain": 3}}, "axes.motion_gain: 3 is not accepted"),
        ({"axes": {"arm": {"a": 3}}}, "axes.arm.a: 3 is not accepted; give settings"),
        ({"axes": {"arm": {"a": {"motion_gian": 1}}}}, "did you mean 'motion_gain'?"),
        ({"settings": {"steps": 4}}, "settings: 'steps' is no setting (did you mean 'num_inference_steps'?)"),
        ({"axes": {"frames": [4]}}, "axes (frames 4): 'frames' is no setting (did you mean 'num_frames'?)"),
        ({"settings": {**SMALL, "num_inference_step": 2}},
         "settings: 'num_inference_step' is no setting (did you mean 'num_inference_steps'?) and no option of w2sd"),
        ({"axes": {"arm": {"a": {"nothing": 1}}}},
         "axes (arm a): 'nothing' is no setting and no option of w2sd; Available: interval"),
        ({"settings": {**SMALL, "options": {"nothing": 1}}}, "option of w2sd: 'nothing' is not accepted"),
        ({"axes": {"guidance_scale": [1, "x"]}}, "axes (guidance_scale x): "),
        ({"axes": {"arm": {"a": {"as_costly_as": "b"}, "c": {}}}}, "as_costly_as: 'b' is not accepted; Available: c"),
        ({"settings": {"as_costly_as": "a"}}, "as_costly_as: 'a' is not accepted; set it on a label of an axis"),
        ({"axes": {"guidance_scale": [1, 2], "arm": {"a": {"guidance_scale": 5}, "b": {}}}},
         "axes: arm and guidance_scale both set guidance_scale: set it on one of them"),
        ({"axes": {"motion_gain": [1, 2], "arm": {"a": {"options": {"motion_gain": 5}}, "b": {}}}},
         "axes: arm and motion_gain both set motion_gain: set it on one of them"),
        ({"axes": {"arm": {"a": {"tune": {"motion_gain": [1, 2]}}, "b": {}}, "options": [{"motion_gain": 5}]}},
         "axes: arm and options both set motion_gain: set it on one of them"),
        ({"axes": {"arm": {"a": {"options": {"motion_gain": 5}, "motion_gain": 4}}}},
         "axes.arm.a: it sets motion_gain twice: set it once"),
        ({"settings": {**SMALL, "options": {"motion_gain": 5}, "motion_gain": 4}},
         "settings: they set motion_gain twice: set it once"),
        ({"axes": {"seed": [1]}}, "all arms share the plan's own"),
        ({"axes": {"scheduler": ["DDIMScheduler", "EulerAncestralDiscreteScheduler"]}},
         "axes (EulerAncestralDiscreteScheduler): scheduler: 'EulerAncestralDiscreteScheduler' is not accepted;"),
        ({"settings": {**SMALL, "scheduler": "DDIMScheduler thresholding=true"}, "axes": {}},
         "Error: scheduler: 'DDIMScheduler' is not accepted; DDIMScheduler with `thresholding=True` is not supported"),
        ({"axes": {"scheduler": ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler prediction_type=foo"]}},
         "DPMSolverMultistepScheduler with `prediction_type='foo'` is not supported here"),
        ({"settings": {**SMALL, "convention": "published", "scheduler": "EulerDiscreteScheduler"}, "axes": {}},
         "`convention='published'` exists for a DDIMScheduler"),
        ({"axes": {"scheduler": ["CogVideoXDPMScheduler"]}}, "animatediff-sdxl cannot step by it"),
        ({"settings": {**SMALL, "variant": "plain"}, "axes": {"scheduler": ["DDIMScheduler", "RePaintScheduler"]}},
         "animatediff-sdxl cannot step by it: RePaintScheduler.step() missing"),
        ({"axes": {"arm": {"a": {"scheduler": {"class": "FlowMatchEulerDiscreteScheduler"}, "variant": "plain"}}}},
         "'FlowMatchEulerDiscreteScheduler' is not accepted; animatediff-sdxl takes one that scales its first noise"),
        ({"axes": {"arm": {"a": {}}}, "base": "b"}, "base: 'b' is not accepted"),
        ({"axes": {"motion_gain": [1, 1.0]}}, "two of their points have the same labels"),
        ({"prompt": "x"}, "no setting has this name; did you mean 'prompts'?"),
        ({"axes": {"guidance_scale": list(range(1, 1001)), "weak_guidance_scale": list(range(100))}, "seeds": "0-99"},
         "the plan has 100000 arms, and a run at most 10000 arms"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name_before_anything_is_made(more, says, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL, "axes": ARMS} | more))
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and says in " ".join(result.output.split()), result.output
    assert not (tmp_path / "run").exists()


def test_a_plan_of_ten_thousand_cells_is_looked_through_in_a_moment(tmp_path):
    of = plan(prompts="shapes", n=100, seeds="0-49")
    began = time.process_time()
    cells = [(key, cell) for keys in [Keys(1)] for cell in of.cells() for key in [keys.of(cell)]]
    assert len(cells) == 10_000 == len({key for key, _ in cells})
    assert Folder(tmp_path).state(cells).complete == {}
    assert time.process_time() - began < 5


def test_a_cell_knows_its_arm():
    (cell,) = plan(prompts=TEXTS[:1], axes={}).cells()
    assert isinstance(cell, Cell) and cell.arm.labels == {}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompts": [1]}, "prompts: [1] is not accepted; give a suite, a file, or a list of texts"),
        ({"prompts": TEXTS[:1] + ["\ud800"], "preset": "animatediff-dreamshaper"}, "give text that is Unicode"),
        ({"seeds": {}}, "seeds: {} is not accepted; give a whole number, a list of them, or a text"),
        ({"seeds": "0,9999999999999999999"}, "give whole numbers from 0 to 9223372036854775807"),
        ({"tags": "camera"}, "tags: 'camera' is not accepted; give a list of texts"),
        ({"tags": ["camera"]}, "tags: 'camera' is not accepted; texts has no tags"),
        ({"self": 1}, "self: 1 is not accepted; no setting has this name"),
        ({"settings": {"method": 3}}, "settings.method: 3 is not accepted"),
        ({"settings": {"schedule": [3]}}, "settings.schedule: [3] is not accepted"),
        ({"settings": {"preset": [3]}}, "settings.preset: [3] is not accepted"),
        ({"settings": {"options": 3}}, "options: 3 is not accepted; give names and values"),
        ({"settings": {"options": 3, "motion_gain": 2}}, "options: 3 is not accepted; give names and values"),
        ({"settings": {"num_frames": 2000}}, "settings.num_frames: 2000 is not accepted; give a whole number"),
        ({"settings": {"device": "banana"}}, "settings.device: 'banana' is not accepted"),
        ({"settings": {"pictures": {"control": "x"}}}, "settings: 'pictures' is no setting and no option of w2sd"),
        ({"settings": {"variant": "compare"}},
         "settings.variant: 'compare' is not accepted; give w2sd, plain (the strong model alone) or weak; an arm"),
        ({"axes": {"variant": ["plane"]}},
         "'plane' is not accepted; give w2sd, plain (the strong model alone) or weak; an arm of each compares them"),
        ({"settings": {"method": "x.py:Mine"}}, "code runs only from a file that is named: give --method"),
        ({"axes": {"arm": {2: {}}}}, "give names that are texts, such as '2' with quotes"),
        ({"axes": {"arm": {"a\nb": {}}}}, "axes.arm: 'a\\nb' is not accepted; give labels"),
        ({"axes": {"prompts": ["a"]}}, "prompts: 'a' is not accepted; all arms share the plan's own"),
        ({"settings": {}, "axes": {"preset": ["shapes", "shapes-image"]}}, "give arms of one kind"),
        (
            {"settings": {}, "preset": "shapes-prompt", "refined": {"a red circle": " "}},
            "refined.a red circle: ' ' is not accepted; give a text that is not empty",
        ),
        ({"settings": {}, "preset": "shapes-control"}, "needs a picture: give a file"),
        ({"settings": {}, "preset": "shapes-image", "formats": ["gif"]}, "images are always PNG"),
        ({"settings": {}, "preset": "shapes-image", "dimensions": ["temporal_flickering"]}, "it takes 2 frames"),
        ({"formats": ["avi"]}, "formats: 'avi' is not accepted; give some of mp4, gif, png, differences"),
        ({"formats": []}, "formats: [] is not accepted"),
        ({"formats": ["gif"], "dimensions": ["clipped"]}, "add mp4, on which the dimensions are scored"),
        ({"dimensions": ["banana"]}, "dimensions: 'banana' is not accepted"),
        ({"dimensions": ["fid"]}, "dimensions: 'fid' is not accepted; it compares with other pictures"),
        ({"dimensions": ["x.py:f"]}, "a plan names no code"),
        ({"dimensions": ["imaging_quality"]}, "the weights of"),
    ],
)  # fmt: skip
def test_a_hostile_plan_is_refused_in_one_sentence_before_anything_is_made(more, says, tmp_path, monkeypatch):
    for name in ("HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "none").mkdir()
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL} | more))
    command = ["run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "none")]
    result = CliRunner().invoke(cli.app, command)
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and says in said and said.count("Error:") == 1, result.output
    assert not any(option in said for option in ("--frames", "--set", "--seed ", "--prompts", "PROMPT"))
    assert not (tmp_path / "run").exists()


def test_a_plan_without_a_suffix_needs_a_folder(tmp_path):
    (tmp_path / "plan").write_text(yaml.safe_dump({"prompts": TEXTS, "settings": SMALL}))
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "plan"), "--dry-run"])
    assert result.exit_code == 2 and "--out is missing" in result.output
    result = CliRunner().invoke(cli.app, ["status", str(tmp_path / "plan")])
    assert result.exit_code == 2 and "RUN: " in result.output and "give the folder of a run" in result.output


def test_what_is_scored_is_mp4(tmp_path):
    with pytest.raises(Refused, match="videos are scored as mp4"):
        plans.videos(plan(formats=["gif"]), tmp_path)
