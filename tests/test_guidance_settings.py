"""Every guidance number of a pipeline is reachable from the command line, or refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import any_cases
import pytest
from test_transformer_families import FLUX, WAN, family, saved, textual
from typer.testing import CliRunner

from w2sd_video import pipelines
from w2sd_video.cli import app
from w2sd_video.errors import Refused
from w2sd_video.families import FAMILIES
from w2sd_video.generation import generate
from w2sd_video.runs import Request
from w2sd_video.sampling import arguments, evaluations, load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
TINY: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 4, "dtype": "float32", "device": "cpu"}


def hashed(folder: Any, **fields: Any) -> tuple[str, dict[str, int]]:
    request = Request.of("a cat", **TINY | fields)
    (output,) = generate([request], folder / f"out{len(list(folder.iterdir()))}")
    ((_, video),) = output.record["videos"].items()
    assert video["evaluations"] == evaluations(request)
    return video["frames_sha256"], video["evaluations"]


@pytest.mark.slow
def test_the_second_expert_has_its_guidance_and_a_model_with_one_expert_takes_none(tmp_path):
    two = {"transformer_2": any_cases.wan(2), "boundary_ratio": 0.9}
    strong = saved(WAN, tmp_path / "two", **textual("WanPipeline"), **two)
    weak = saved(WAN, tmp_path / "one", WAN.weak(), **textual("WanPipeline"))
    fields = {"preset": "wan22-a14b-wan21-14b", "num_frames": 5, "strong": str(strong), "weak": str(weak)}
    request = Request.of("a cat", **TINY | fields)
    assert request.guidance_scale_2 == 3.0
    first, _ = hashed(tmp_path, **fields)
    # Guidance 1 in the first expert alone does not take the second one's branch away.
    other, counts = hashed(tmp_path, **fields, guidance_scale=1.0, guidance_scale_2=2.0)
    assert counts == {"strong": 2 * 4 + 3, "weak": 3, "total": 14} and other != first
    assert arguments(load(request)["w2sd"], request, "w2sd")["guidance_scale_2"] == 3.0
    numbers = {"strong_guidance_scale": 3.0, "strong_guidance_scale_2": 2.0, "weak_guidance_scale_2": 0.0}
    seconds, counts = hashed(tmp_path, **fields, **numbers)
    assert counts == {"strong": 2 * (4 + 3), "weak": 3, "total": 17} and seconds != first
    assert seconds != hashed(tmp_path, **fields, **numbers | {"weak_guidance_scale_2": 1.0})[0]
    numbers = {"guidance_scale": 1.0, "guidance_scale_2": 1.0, "strong_guidance_scale_2": 0.0}
    assert hashed(tmp_path, **fields, **numbers)[1] == {"strong": 2 * 4 + 3, "weak": 3, "total": 14}
    with pytest.raises(Refused, match="strong_guidance_scale_2: 2.0 is not accepted; beside 1 with the first exp"):
        Request.of("a cat", **TINY | fields, strong_guidance_scale_2=2.0)
    alone = Request.of("a cat", **TINY | fields, variant="weak")
    assert "guidance_scale_2" not in arguments(load(alone)["weak"], alone, "weak")
    fields["strong"] = str(weak)
    for file in (weak / "transformer").glob("*.safetensors"):
        file.unlink()  # it is refused before any weight is read
    with pytest.raises(Refused, match="guidance_scale_2: 3.0 is not accepted; the model has one expert, and not a sec"):
        load(Request.of("a cat", **TINY | fields))
    with pytest.raises(Refused, match="guidance_scale_2: 3.0 is not accepted; ltx has none"):
        Request.of("a cat", preset="ltx-guidance", guidance_scale_2=3.0)


def test_the_strong_arm_of_the_reflection_embeds_its_own_guidance(tmp_path):
    strong = saved(FLUX, tmp_path / "flux", **textual("FluxPipeline"))
    fields = {"preset": "flux-dev-embedded", "strong": str(strong)}
    told = load(request := Request.of("a cat", **TINY | fields, strong_embedded_guidance=7.0))["w2sd"]
    call = arguments(told, request, "w2sd")
    assert (call["guidance_scale"], call["strong_embedded_guidance"], call["weak_embedded_guidance"]) == (3.5, 7.0, 1.0)


@pytest.mark.slow
def test_guidance_is_rescaled_where_the_pipeline_rescales_it(tmp_path):
    of = family("LTXPipeline", {})
    strong = saved(of, tmp_path / "ltx", **textual("LTXPipeline"))
    fields = {"preset": "ltx-guidance", "strong": str(strong), "height": 64, "width": 64, "num_frames": 17}
    assert hashed(tmp_path, **fields) != hashed(tmp_path, **fields, guidance_rescale=0.7)
    with pytest.raises(Refused, match="guidance_rescale: 1.5 is not accepted"):
        Request.of("a cat", preset="ltx-guidance", guidance_rescale=1.5)
    with pytest.raises(Refused, match="guidance_rescale: 0.5 is not accepted; wan has none"):
        Request.of("a cat", preset="wan21-14b-1.3b", guidance_rescale=0.5)


def test_families_that_take_a_rescale_or_a_second_guidance_are_those_whose_pipelines_do():
    for family_name, each in FAMILIES.items():
        call = inspect.signature(getattr(pipelines, each.pipeline).stock.__call__).parameters
        assert each.rescaled == ("guidance_rescale" in call), family_name
        assert each.experts == ("guidance_scale_2" in call), family_name


def test_what_no_setting_says_is_refused_by_its_name():
    for argument in ("use_dynamic_cfg", "skip_layer_guidance_scale"):
        ran = CliRunner().invoke(
            app, ["generate", "a cat", "--preset", "cogvideox-5b-guidance", "--set", f"{argument}=1"]
        )
        assert ran.exit_code == 2 and argument in ran.output


def test_the_options_stand_on_the_command_line():
    said = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200"}).output
    for option in ("--guidance-2", "--guidance-rescale", "--strong-embedded-guidance"):
        assert option in said


def test_eta_is_of_ddim_alone_and_reaches_the_pipeline():
    request = Request.of("a red circle", preset="shapes", eta=0.7)
    assert arguments_of(request)["eta"] == 0.7 and "eta" not in arguments_of(Request.of("a red circle"))
    for more, says in (
        ({"scheduler": "EulerDiscreteScheduler"}, "give none: of the schedulers, DDIMScheduler takes one"),
        ({"eta": 1.1}, "from 0 to 1"),
    ):
        with pytest.raises(Refused, match=f"eta: .* is not accepted; .*{says}"):
            Request.of("a red circle", preset="shapes", **{"eta": 0.7, **more})
    with pytest.raises(Refused, match="eta: 0.5 is not accepted; wan has none"):
        Request.of("a cat", preset="wan21-14b-1.3b", eta=0.5)


def arguments_of(request: Request) -> dict:
    pipe = load(request)["w2sd"]
    return arguments(pipe, request, "w2sd")
