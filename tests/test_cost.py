"""The number of network evaluations that is said before a run is what the networks then are evaluated."""

from dataclasses import replace
from functools import cache

import pytest

from w2sd_video.methods import METHODS
from w2sd_video.runs import VARIANTS, Request
from w2sd_video.sampling import evaluations, load, sample, steps_for

PROMPTS = {
    "shapes": "a red circle",
    "shapes-image": "a red circle",
    "shapes-digits": "3",
    "shapes-motion": "a red circle",
}
WITHOUT_GUIDANCE = {"guidance_scale": 1.0, "strong_guidance_scale": 1.0}
SETTINGS = [
    {},
    {"weak_guidance_scale": 2.0},
    {"strong_guidance_scale": 1.0, "weak_guidance_scale": 0.0},
    {"reflection_steps": 1},
    {"inversion": 1},
    {"options": {"interval": [0.3, 0.9]}},
    WITHOUT_GUIDANCE,
]


FAST, SLOW, MORE = [], [pytest.mark.slow], [pytest.mark.exhaustive]
# Every method by every setting on the cheapest pair, one by every setting on shapes, and every method by none on all.
CASES = [
    pytest.param(
        name,
        method,
        settings,
        marks={("shapes", "w2sd"): FAST}.get((name, method), SLOW if name == "shapes-digits" else MORE),
    )
    for name in PROMPTS
    for method in METHODS
    for settings in SETTINGS
    if method != "weak"
    and (name == "shapes-digits" or name == "shapes" and method in ("w2sd", "foresight") or not settings)
    and (name, method, settings) != ("shapes-digits", "foresight", WITHOUT_GUIDANCE)  # classes have no such branch
    and ("inversion" not in settings or method in ("w2sd", "s2wd", "optimistic", "z_sampling"))  # has a fixed point
]
RESCALED = {"guidance_scale": 1.0, "strong_guidance_scale": 3.0, "guidance_rescale": 0.5}  # with both branches
CASES.append(pytest.param("shapes", "w2sd", RESCALED, marks=FAST))


@cache
def loaded(name):
    few = {"num_inference_steps": 4, "device": "cpu"}
    if name in ("shapes", "shapes-motion"):
        few["num_frames"] = 2
    of = Request.of(PROMPTS[name], 0, name, variant="compare", **few)
    return of, load(of)


@pytest.mark.parametrize(("name", "method", "settings"), CASES, ids=str)
def test_the_number_is_what_is_counted_at_the_networks(name, method, settings):
    of, pipelines = loaded(name)
    if name == "shapes-digits" and method in ("slg", "pag"):  # whose network has no middle
        settings = settings | {"options": {**settings.get("options", {}), "layers": [1]}}
    of = replace(of, variant="w2sd", method=method, **settings)
    _, counted = sample(pipelines["w2sd"], of, "w2sd")
    assert evaluations(of)["total"] == counted["total"]


@pytest.mark.parametrize("settings", [{}, {"reflection_steps": 3}, {"options": {"interval": [0.3, 0.9]}}], ids=str)
def test_the_number_under_the_published_convention_is_counted_too(settings):
    """By default all steps but the last reflect, which has no inverse in that convention."""
    of, pipelines = loaded("shapes")
    schedule = {**of.scheduler, "timestep_spacing": "leading", "prediction_type": "epsilon"}  # as if it predicted noise
    of = replace(of, variant="w2sd", convention="published", scheduler=schedule, **settings)
    _, counted = sample(pipelines["w2sd"], of, "w2sd")
    assert evaluations(of) == counted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", *(pytest.param(p, marks=pytest.mark.exhaustive) for p in [*PROMPTS][1:])])
@pytest.mark.parametrize("variant", ["plain", "weak"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampling_without_a_method_costs_its_steps(name, variant, guidance):
    of, pipelines = loaded(name)
    of = replace(of, variant=variant, guidance_scale=guidance, weak_guidance_scale=guidance)
    (arm,) = VARIANTS[variant]
    _, counted = sample(pipelines[arm], of, arm)
    assert evaluations(of)["total"] == counted["total"]


def test_a_comparison_costs_what_its_videos_cost():
    of = Request.of("a red circle", variant="compare")
    alone = [evaluations(replace(of, variant=each))["total"] for each in ("weak", "plain", "w2sd")]
    assert evaluations(of)["total"] == sum(alone) and alone[2] == 5 * of.num_inference_steps - 3


@pytest.mark.slow
@pytest.mark.parametrize("cost", [1, 44, 72, 73, 500])
def test_steps_for_a_cost_are_the_fewest_that_reach_it(cost):
    for fields in ({"variant": "plain"}, {"method": "optimistic"}):
        of = Request.of("a red circle", **fields)
        steps = steps_for(of, cost)

        def total(n, of=of):
            return evaluations(replace(of, num_inference_steps=n, reflection_steps=n - 1))["total"]

        assert total(steps) >= cost and (steps == 1 or total(steps - 1) < cost)


@pytest.mark.parametrize("preset, estimate", [("flux-dev-embedded", True), ("sdxl-guidance", False)])
def test_of_steps_in_an_interval_the_number_is_an_estimate_where_levels_depend_on_the_size(preset, estimate, caplog):
    request = Request.of("a cat", preset=preset, options={"interval": [0.3, 0.9]})
    assert evaluations(request)["total"]
    assert ("is an estimate" in caplog.text) == estimate
