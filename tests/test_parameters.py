"""What evaluations cost by the parameters that they run through, before anything is loaded and in a video's record."""

from __future__ import annotations

from typing import Any

import any_cases
import pytest
import torch
from any_pipeline import sample
from families import add_lora
from test_transformer_families import WAN, saved, textual
from typer.testing import CliRunner

from w2sd_video import doctor, presets
from w2sd_video.cli import app
from w2sd_video.generation import generate
from w2sd_video.hook import parameters_of
from w2sd_video.models import sizes
from w2sd_video.runs import Request
from w2sd_video.sampling import in_strong_evaluations, strong_evaluations

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
TINY: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 3, "dtype": "float32"}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_wan_s_published_sizes_are_counted_without_weights(offline):
    """The numbers of tensors in the files on the hub: 1,418,996,800 and 14,288,491,584 parameters."""
    for name, expected in (("1.3B", 1_418_996_800), ("14B", 14_288_491_584)):
        known, unknown = sizes.parameters(f"Wan-AI/Wan2.1-T2V-{name}-Diffusers")
        assert ({each: sum(of.values()) for each, of in known.items()}, unknown) == ({"transformer": expected}, [])
    request = Request.of("a cat", preset="wan21-14b-1.3b")
    # 50 steps of two branches, and 49 reflected with one more of the strong arm and one of the weak
    assert strong_evaluations(request) == pytest.approx(149 + 49 * 1_418_996_800 / 14_288_491_584)
    assert strong_evaluations(Request.of("a cat", preset="wan21-14b-1.3b", variant="plain")) == 100


def test_a_dry_run_says_what_a_command_would_make_and_makes_nothing(offline, tmp_path):
    typed = ["generate", "a cat", "a dog", "--preset", "wan21-14b-1.3b", "--out", str(tmp_path / "out"), "--dry-run"]
    ran = CliRunner().invoke(app, typed)
    assert ran.stdout == "2 videos, 198 network evaluations each (153.9 of the strong network's by parameters)\n"
    noted = " ".join(ran.stderr.split())
    for role, size in (("strong", "14B"), ("weak", "1.3B")):
        assert f"note: {role}: Wan-AI/Wan2.1-T2V-{size}-Diffusers is missing; get it with: hf download" in noted
    assert not (tmp_path / "out").exists()


def test_a_pair_that_is_not_here_has_unknown_costs_and_one_network_needs_none_to_be_known(offline):
    assert strong_evaluations(Request.of("a cat", preset="sd35-large-medium")) is None
    assert strong_evaluations(Request.of("a cat", preset="flux-dev-embedded")) == 28 * 3 - 2
    assert strong_evaluations(Request.of("a cat", preset="sdxl-juggernaut")) is not None
    assert in_strong_evaluations({"strong": 1, "weak": 2}, {"strong": 10, "weak": 5}, 10) == 2
    assert in_strong_evaluations({"strong": 1, "weak": 2}, {"strong": 10}, 10) is None
    assert in_strong_evaluations({"strong": 4, "weak": 0}, {"strong": 5}, None) is None


@pytest.mark.slow
def test_the_record_of_a_video_has_the_parameters_and_the_dry_run_said_the_same(tmp_path):
    strong = saved(WAN, tmp_path / "strong", **textual("WanPipeline"))
    weak = saved(WAN, tmp_path / "weak", network := WAN.weak(), **textual("WanPipeline"))
    fields = TINY | {"preset": "wan21-14b-1.3b", "strong": str(strong), "weak": str(weak), "device": "cpu"}
    request = Request.of("a cat", **fields, variant="compare")
    (output,) = generate(request, tmp_path / "out")
    videos, larger = output.record["videos"], count(network)
    one = next(count(each) for each in [WAN.pipeline().transformer])
    assert videos["weak"]["parameters"] == {"strong": larger} and videos["strong"]["parameters"] == {"strong": one}
    assert videos["w2sd"]["parameters"] == {"strong": one, "weak": larger}
    costs = {name: video["strong_evaluations"] for name, video in videos.items()}
    assert costs == pytest.approx({"weak": 6 * larger / one, "strong": 6, "w2sd": 8 + 2 * larger / one})
    assert strong_evaluations(request) == pytest.approx(sum(costs.values()))
    (alone,) = generate([Request.of("a cat", **fields, variant="weak")], tmp_path / "alone")
    assert alone.record["videos"]["weak"]["strong_evaluations"] is None
    plan = tmp_path / "plan.yaml"
    lines = [f"{name}: {value}" for name, value in fields.items() if name != "preset"]
    plan.write_text("preset: wan21-14b-1.3b\nprompts: [a cat]\nsettings:\n  " + "\n  ".join(lines) + "\n")
    ran = CliRunner().invoke(app, ["run", str(plan), "--dry-run"])
    assert ran.exit_code == 0, ran.output
    said = f"10 network evaluations each ({costs['w2sd']:.4g} of the strong network's by parameters)"
    assert said in " ".join(ran.output.split())


def test_two_experts_count_each_by_its_own_and_loras_do_not():
    """Expert 1 has a weak network of its own, expert 2 is its own weak one."""
    second, weak = any_cases.wan(2), WAN.weak(5)
    pipe = WAN.pipeline(weak, transformer_2=second, boundary_ratio=0.9)
    add_lora(pipe.transformer)
    one = count(second)
    assert parameters_of(pipe.transformer) == one < count(pipe.transformer)
    sample(pipe, WAN.of(pipe, strong_guidance_scale=1.0, reflection_steps=4))
    hearing = sum(t >= 900 for t in pipe.scheduler.timesteps.tolist())
    mean = (hearing * count(weak) + (4 - hearing) * one) / 4
    assert 0 < hearing < 4 and pipe.parameters == {"strong": one, "weak": round(mean)}


@pytest.mark.slow
def test_doctor_says_what_a_pair_takes_of_what_is_known_and_that_the_rest_is_unknown(offline):
    rows = dict(doctor.memory())
    assert rows["sd35-large-medium"] == (
        "unknown: the strong model, the weak model (no configuration or weights on this machine)"
    )
    said = rows["wan21-14b-1.3b"]
    assert said.startswith(
        "31.4 GB in bfloat16 (62.8 GB in float32) of weights; on the device with --offload model 31.4"
    )
    assert said.endswith("transformer 14.29, weak_transformer 1.42; unknown: text encoders and autoencoder")
    assert "weak_transformer" not in rows["wan21-1.3b-guidance"]  # whose arms are one network
    assert set(rows) == {n for n in presets.names() if presets.FAMILIES[presets.load(n).family].transformer}


def test_a_model_of_configurations_alone_is_counted_as_the_networks_have_it(tmp_path, monkeypatch):
    """Text encoders too; offloaded by models, a weak transformer stays beside the strong one, and texts go before."""
    strong = saved(WAN, tmp_path / "strong", **(parts := textual("WanPipeline")))
    weak = saved(WAN, tmp_path / "weak", network := WAN.weak(), **parts)
    for file in [*strong.rglob("*.safetensors"), *weak.rglob("*.safetensors")]:
        file.unlink()
    known, unknown = sizes.parameters(str(strong))
    expected = {name: count(each) for name, each in parts.items() if isinstance(each, torch.nn.Module)}
    one = count(WAN.pipeline().transformer)
    assert not unknown and {name: sum(each.values()) for name, each in known.items()} == expected | {"transformer": one}
    known["weak_transformer"] = sizes.parameters(str(weak), only="transformer")[0]["transformer"]
    most = doctor._offloaded(known)
    beside = count(network) + max(one, expected["vae"])
    assert most["model"] == max(expected["text_encoder"], beside) and most["group"] <= most["model"]
    (strong / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKLWan", "z_dim": "many"}')
    assert sizes.parameters(str(strong))[1] == ["vae"]


def test_blocks_that_are_fetched_ahead_are_the_two_largest_and_the_rest():
    tensors = {"embed.weight": 5, "blocks.0.a": 10, "blocks.0.b": 1, "blocks.1.a": 20, "blocks.2.a": 3, "head": 2}
    assert sizes.largest_at_once(tensors) == 5 + 2 + 20 + 11
