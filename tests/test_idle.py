"""Settings that change nothing of a request's videos, and who says so: the command, a plan, a caller from Python."""

from __future__ import annotations

import pytest
from commands import generate as command

from w2sd_video.errors import note_once
from w2sd_video.generation import generate
from w2sd_video.plans import Plan
from w2sd_video.plans.notes import notes
from w2sd_video.plugins import from_name
from w2sd_video.runs import Request
from w2sd_video.sampling import changed, idle, in_effect, load, sample

PROMPT = "a red circle moving right"
SMALL = {"num_inference_steps": 2, "num_frames": 2}
ALL_AT_1 = {"guidance_scale": 1.0, "strong_guidance_scale": 1.0, "weak_guidance_scale": 1.0}
ALIKE = "have the same settings, and make the same videos"
PLAIN = {"variant": "plain"}
NEGATIVE = {"negative_prompt", "weak_negative_prompt"}


def request(**values) -> Request:
    return Request.of(PROMPT, **{**SMALL, **values})


@pytest.mark.parametrize(
    ("values", "are", "are_not"),
    [
        ({}, {"weak_negative_prompt"}, {"negative_prompt", "guidance_rescale", "weak_guidance_scale", "options"}),
        ({"weak_guidance_scale": 2.0}, set(), NEGATIVE),
        (ALL_AT_1, {*NEGATIVE, "guidance_rescale"}, {"inversion"}),
        ({"guidance_scale": 1.0}, {"weak_negative_prompt"}, {"negative_prompt", "guidance_rescale"}),
        ({"variant": "plain"}, {"weak_prompt", "reflection_steps", "method", "options"}, {"negative_prompt"}),
        ({"variant": "plain", "guidance_scale": 1.0}, {*NEGATIVE, "guidance_rescale"}, {"guidance_scale"}),
        ({"variant": "weak"}, {"weak_guidance_scale", "inversion"}, {"guidance_scale", "weak_prompt", *NEGATIVE}),
        ({"variant": "weak", "guidance_scale": 1.0}, NEGATIVE, {"weak_prompt"}),
        ({"variant": "compare"}, set(), {"weak_guidance_scale", "weak_prompt", *NEGATIVE}),
        ({"variant": "compare", "reflection_steps": 0}, {"strong_guidance_scale"}, {"weak_prompt", *NEGATIVE}),
        ({"reflection_steps": 0}, {"weak_prompt", "strong_guidance_scale", "options"}, {"reflection_steps"}),
        ({"options": {"interval": [0.0, 0.01]}}, {"weak_prompt", "reflection_steps", "inversion"}, {"options"}),
        ({"options": {"interval": [0.0, 0.01]}, "guidance_scale": 1.0},
         {"weak_prompt"}, {"negative_prompt", "guidance_rescale"}),
        ({"options": {"interval": [0.0, 0.5]}}, {"weak_prompt", "inversion"}, {"options"}),  # the last step
        ({"options": {"interval": [0.5, 1.0]}}, set(), {"weak_prompt", "reflection_steps", "inversion"}),
        ({"method": "z_sampling"}, {"weak", "weak_prompt"}, {"weak_guidance_scale", "negative_prompt"}),
        ({"method": "z_sampling"}, set(), {"weak_embedded_guidance", "strong_embedded_guidance"}),
        ({"method": "slg"}, {"weak_embedded_guidance", "strong_embedded_guidance"}, {"options"}),
        ({"weak_motion_scale": 0.0}, {"weak_motion_adapter"}, {"motion_adapter", "weak_motion_scale"}),
        ({"weak_motion_scale": 0.5}, set(), {"weak_motion_adapter"}),
        ({"method": "apg"} | ALL_AT_1, {"weak_prompt", "weak_guidance_scale", *NEGATIVE}, {"options"}),
        ({"method": "foresight"} | ALL_AT_1, {"weak_prompt"}, {"weak_guidance_scale", "negative_prompt"}),
        ({"method": "guidance_schedule", "options": {"guidance": [3.0]}} | ALL_AT_1, {"weak"}, {"negative_prompt"}),
        ({"method": "slg"}, {"strong_guidance_scale", "weak_guidance_scale"}, {"guidance_scale", "negative_prompt"}),
    ],
)  # fmt: skip
def test_what_is_idle_is_told_from_what_may_change_a_video(values, are, are_not):
    of = idle(request(**values)).keys()
    assert are <= of and not are_not & of


def test_under_a_method_of_ones_own_nothing_is_idle(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from w2sd_video.methods import APG\n\n\nclass Own(APG):\n    pass\n")
    own = from_name("method", f"{file}:Own")
    assert own and idle(request(method=own.name, **ALL_AT_1, reflection_steps=0)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"variant": "plain"} | ALL_AT_1,
        {"variant": "weak"} | ALL_AT_1,
        ALL_AT_1,
        {},
        {"reflection_steps": 0, "guidance_scale": 1.0},
        {"options": {"interval": [0.0, 0.01]}},
        {"options": {"interval": [0.0, 0.5]}},
        {"method": "z_sampling"},
        {"method": "apg"},
        {"method": "slg"},
    ],
)
def test_the_frames_are_the_same_whatever_an_idle_setting_is(values):
    others = {
        "negative_prompt": "a green triangle",
        "weak_negative_prompt": "a blue square",
        "weak_prompt": "a blue square",
        "weak_guidance_scale": 2.5,
        "strong_guidance_scale": 1.7,
        "guidance_rescale": 0.7,
        "weak_motion_scale": 0.3,
        "inversion": "x_t",
    }
    plain = request(**values)
    changes = {name: other for name, other in others.items() if name in idle(plain)}
    several = request(**{**values, **changes})
    pipe = load(plain)
    variant = {"plain": "strong"}.get(plain.variant, plain.variant)
    frames = [sample(pipe[variant], each, variant)[0] for each in (plain, several)]
    assert changes and (frames[0] == frames[1]).all()


def test_settings_that_are_idle_alone_tell_no_requests_apart():
    assert in_effect(request(variant="plain")) == in_effect(request(variant="plain", weak_guidance_scale=3.0))
    assert in_effect(request()) != in_effect(request(weak_guidance_scale=3.0))


def test_only_what_differs_from_the_preset_counts_as_set():
    assert changed(request(variant="plain")) == []
    assert changed(request(variant="plain", weak_guidance_scale=3.0, reflection_steps=1)) == ["weak_guidance_scale"]
    assert changed(request(variant="plain", reflection_steps=0, options={"motion_gain": 2.0})) == [
        "reflection_steps",
        "options",
    ]
    assert changed(Request.of(PROMPT, preset="shapes-prompt", variant="plain", weak_prompt="a blue square")) == []


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"axes": {"weak_guidance_scale": [None, 1]}},
         [f"arms 'weak_guidance_scale=null' and 'weak_guidance_scale=1' {ALIKE}"]),
        ({"axes": {"variant": [None, "w2sd"]}},
         [f"arms 'variant=null' and 'w2sd' {ALIKE}"]),
        ({"axes": {"arm": {"a": {"variant": "plain", "motion_gain": 3}, "b": {}, "c": {**PLAIN, "as_costly_as": "b"}}}},
         ["the strong model is sampled alone; motion_gain has no effect in 'a'"]),
        ({"settings": {"weak_guidance_scale": 2}, "axes": {"variant": ["plain", "w2sd"]}}, []),
        ({"settings": {"weak_guidance_scale": 2}, "axes": {"variant": ["plain"]}},
         ["the strong model is sampled alone; weak_guidance_scale has no effect"]),
        ({"axes": {"weak_guidance_scale": [1, 2], "arm": {"a": {"variant": "plain"}, "b": {}}}},
         ["the strong model is sampled alone; weak_guidance_scale has no effect in"
          " 'weak_guidance_scale=1, a' and 'weak_guidance_scale=2, a'",
          f"arms 'weak_guidance_scale=1, a' and 'weak_guidance_scale=2, a' {ALIKE}"]),
        ({"settings": {"weak_guidance_scale": 2}, "axes": {"variant": ["weak", "plain"]}},
         ["the weak arm is sampled alone, at guidance_scale 1.5; weak_guidance_scale has no effect in 'weak'",
          "the strong model is sampled alone; weak_guidance_scale has no effect in 'plain'"]),
        ({"axes": {"arm": {"weak": {"variant": "weak"}, "plain": {"variant": "plain"}, "w2sd": {}}}}, []),
    ],
)  # fmt: skip
def test_a_plan_says_what_is_idle_of_what_it_sets_and_which_arms_make_the_same_videos(plan, says):
    plan = {"prompts": [PROMPT], **plan, "settings": {**SMALL, **plan.get("settings", {})}}
    assert list(notes(Plan(**plan))) == says


def test_a_check_of_a_plan_notes_it(caplog):
    note_once.cache_clear()
    Plan(prompts=[PROMPT], settings=SMALL, axes={"guidance_scale": [None, 1.5]}).check()
    assert "make the same videos" in caplog.text


def test_a_caller_from_python_is_told_what_is_idle_and_the_command_says_it_once(caplog, tmp_path):
    note_once.cache_clear()
    generate(request(variant="plain", weak_guidance_scale=3.0), tmp_path)
    assert "the strong model is sampled alone; weak_guidance_scale has no effect" in caplog.text
    note_once.cache_clear()
    caplog.clear()
    generate(request(variant="plain", weak_guidance_scale=3.0), tmp_path, command=["w2sd-video"])
    generate(request(variant="plain"), tmp_path)
    assert not caplog.text


def test_a_dry_run_of_the_command_says_what_is_idle_by_its_options():
    said = command(PROMPT, "--weak-negative-prompt", "a blue square", "--dry-run")
    assert (
        "Note: at weak guidance 1 the weak arm uses no negative prompt; --weak-negative-prompt has no effect." in said
    )
