"""The number of network evaluations that is said before a run is what the networks then are evaluated."""

from dataclasses import replace

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
SETTINGS = [
    {},
    {"weak_guidance_scale": 2.0},
    {"strong_guidance_scale": 1.0, "weak_guidance_scale": 0.0},
    {"reflection_steps": 1},
    {"inversion": 1},
    {"options": {"interval": [0.3, 0.9]}},
    {"guidance_scale": 1.0, "strong_guidance_scale": 1.0},
]


@pytest.fixture(
    scope="module",
    params=[name if name == "shapes" else pytest.param(name, marks=pytest.mark.slow) for name in PROMPTS],
)
def pair(request):
    few = {"num_inference_steps": 4, "device": "cpu"}
    if request.param in ("shapes", "shapes-motion"):
        few["num_frames"] = 2
    of = Request.of(PROMPTS[request.param], 0, request.param, variant="compare", **few)
    return of, load(of)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "weak"])
@pytest.mark.slow_unless(case=lambda method: method == "w2sd")
def test_the_number_is_what_is_counted_at_the_networks(pair, method, settings):
    of, pipelines = pair
    if "inversion" in settings and method not in ("w2sd", "s2wd", "optimistic", "z_sampling"):
        pytest.skip("it inverts nothing by a fixed point")
    if of.preset == "shapes-digits" and method == "foresight" and settings.get("guidance_scale") == 1:
        pytest.skip("DiT's pipeline sends no unconditional branch at guidance 1, which CFG++ needs")
    if of.preset == "shapes-digits" and method in ("slg", "pag"):  # whose network has no middle
        settings = settings | {"options": {**settings.get("options", {}), "layers": [1]}}
    of = replace(of, variant="w2sd", method=method, **settings)
    _, counted = sample(pipelines["w2sd"], of, "w2sd")
    assert evaluations(of)["total"] == counted["total"]


@pytest.mark.parametrize("variant", ["plain", "weak"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampling_without_a_method_costs_its_steps(pair, variant, guidance):
    of, pipelines = pair
    of = replace(of, variant=variant, guidance_scale=guidance, weak_guidance_scale=guidance)
    (name,) = VARIANTS[variant]
    _, counted = sample(pipelines[name], of, name)
    assert evaluations(of)["total"] == counted["total"]


def test_a_comparison_costs_what_its_videos_cost():
    of = Request.of("a red circle", variant="compare")
    alone = [evaluations(replace(of, variant=each))["total"] for each in ("weak", "plain", "w2sd")]
    assert evaluations(of)["total"] == sum(alone) and alone[2] == 5 * of.num_inference_steps - 3


@pytest.mark.parametrize("cost", [1, 44, 72, 73, 500])
def test_steps_for_a_cost_are_the_fewest_that_reach_it(cost):
    for fields in ({"variant": "plain"}, {"method": "optimistic"}):
        of = Request.of("a red circle", **fields)
        steps = steps_for(of, cost)

        def total(n, of=of):
            return evaluations(replace(of, num_inference_steps=n, reflection_steps=n - 1))["total"]

        assert total(steps) >= cost and (steps == 1 or total(steps - 1) < cost)
