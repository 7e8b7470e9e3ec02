"""The miniatures of the other pairs: their trainer, their measures, and those that ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from w2sd_video import presets, runs
from w2sd_video.models import sources
from w2sd_video.pipelines import W2SDDiTMoEPipeline, W2SDStableDiffusionXLPipeline
from w2sd_video.runs import Request
from w2sd_video.sampling import load, sample
from w2sd_video.shapes import WEIGHTS, bench, digits, pairs
from w2sd_video.shapes.grammar import describe, parse, prompts, refine
from w2sd_video.shapes.judge import filled, judge, read
from w2sd_video.shapes.miniatures import HOLE, MiniatureRecipe, MiniatureTrainer
from w2sd_video.shapes.world import edges, render

TINY = tiny.recipe(MiniatureRecipe, videos=2, image_batch=2, video_batch=1)
SCENE = parse("a large red circle above a small blue square on a grey background")


def pixels(frames: np.ndarray) -> np.ndarray:
    return (frames * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """All miniatures, after two steps each."""
    folder = tmp_path_factory.mktemp("miniatures")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(digits, "VAE_STEPS", 2)
        trainer = MiniatureTrainer(folder / "run", TINY, "cpu")
        trainer.train()
    assert trainer.finished
    trainer.export(folder / "weights", "the command")
    return folder / "weights"


@pytest.mark.slow
def test_each_miniature_is_written_in_the_layout_that_its_kind_is_shared_in(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files >= {
        "style/pytorch_lora_weights.safetensors",
        "control/diffusion_pytorch_model.safetensors",
        "picture/ip-adapter.safetensors",
        "picture/image_encoder/model.safetensors",
        "motion-tuned/diffusion_pytorch_model.safetensors",
        "digits/transformer/diffusion_pytorch_model.safetensors",
        *(f"{name}/README.md" for name in ("style", "control", "picture", "motion-tuned", "digits")),
    }
    assert "the command" in (trained / "style" / "README.md").read_text()
    assert "| digits-vae | 2 |" in (trained / "digits" / "README.md").read_text()


@pytest.mark.parametrize("pair", ["style", "control", "picture", "motion", "digits"])
@pytest.mark.slow
def test_each_preset_samples_what_was_trained(pair, trained, tmp_path, monkeypatch):
    """The presets' own paths, with the folder of the weights in place of the shipped one."""
    preset = presets.load(f"shapes-{pair}")

    def here(argument: str, reference: str) -> Path:
        name = reference.removeprefix("package:shapes/weights/")
        return WEIGHTS / name if name.split("/")[0] in ("base", "tuned", "motion") else trained / name

    monkeypatch.setattr(sources, "_shipped", here)
    (asked,) = pairs.samples(preset, 1, tmp_path)
    request = Request.of(asked.prompt, preset=preset, num_inference_steps=3, **asked.told)
    request = replace(request, num_frames=request.num_frames and 2)
    made = {variant: sample(load(request)["w2sd"], request, variant)[0] for variant in ("w2sd", "strong")}
    monkeypatch.undo()
    shipped = sample(load(request)["w2sd"], request, "strong")[0]
    assert not np.array_equal(made["strong"], shipped) or pair in ("control", "picture")  # whose output begins at zero
    assert made["w2sd"].shape == made["strong"].shape and made["w2sd"].dtype == np.uint8
    assert not np.array_equal(made["w2sd"], made["strong"])  # two steps of training are a difference already


def test_the_measures_know_what_is_rendered():
    still = render(SCENE, 3, frames=1)
    assert judge(pixels(still), SCENE)["right"] == 1.0
    outlines = pixels(render(SCENE, 3, frames=1, hole=HOLE))
    # Filled, outlines are the things that they are of; things that have no hole stay as they are.
    for outline, thing in zip(read(filled(outlines)).tracks, read(pixels(still)).tracks, strict=True):
        assert outline.shape == thing.shape and outline.area == pytest.approx(thing.area, rel=0.05)
    assert np.array_equal(filled(pixels(still)), pixels(still))
    asked = pairs.Sample("", pixels(still), scene=SCENE)
    assert pairs.score("shapes-style", outlines, asked)["outlined"] == pytest.approx(1.0, abs=0.05)
    assert pairs.score("shapes-style", pixels(still), asked)["outlined"] == pytest.approx(0.0, abs=0.05)
    assert pairs.score("shapes-picture", pixels(still), asked)["like the picture"] == 1.0
    other = parse("a small red circle above a small blue square on a white background")
    assert (
        pairs.score("shapes-picture", pixels(still), replace(asked, scene=other))["like the picture"] == 0.25
    )  # one of two


def test_edges_are_where_pixels_change():
    picture = np.zeros((5, 5, 3), np.float32)
    picture[:, 3:] = 1.0
    found = edges(picture)[..., 0]
    assert found[:, 2].all() and found.sum() == 5
    assert edges(np.full((5, 5, 3), 0.5, np.float32)).sum() == 0


def test_edges_agree_within_a_pixel():
    wanted = np.zeros((8, 8), bool)
    wanted[:, 3] = True
    assert pairs.agreement(wanted, wanted) == 1.0
    assert pairs.agreement(np.roll(wanted, 1, 1), wanted) == 1.0
    assert pairs.agreement(np.roll(wanted, 3, 1), wanted) == 0.0
    both = wanted | np.roll(wanted, 4, 1)  # all of it, and as much that is not: precision 1/2, recall 1
    assert pairs.agreement(both, wanted) == pytest.approx(2 / 3)
    assert pairs.agreement(np.zeros_like(wanted), wanted) == 0.0
    still = pixels(render(SCENE, 3, frames=1))
    assert pairs.score("shapes-control", still, pairs.Sample("", still, scene=SCENE))["edges"] == 1.0


def test_the_judge_of_digits_knows_the_data():
    pictures, labels = digits.data()
    assert len(pictures) == 1797 and 0 <= pictures.min() and pictures.max() == 1
    shown = ((digits.enlarged(pictures[:50]).permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    scores = [digits.judge(each, digits.NAMES[label]) for each, label in zip(shown, labels[:50], strict=True)]
    assert np.mean([s["right"] for s in scores]) > 0.95 and max(s["distance"] for s in scores) == 0.0
    assert digits.judge(shown[0], str((labels[0] + 1) % 10))["right"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("pair", pairs.PAIRS)
def test_samples_are_what_they_were_whatever_their_number(pair, tmp_path):
    asked = bench.preset(pair)
    few, more = (list(pairs.samples(asked, n, tmp_path)) for n in (3, 5))
    told = {"shapes-control": "control", "shapes-picture": "ip_image", "shapes-prompt": "weak_prompt"}
    for one, same in zip(few, more, strict=False):
        assert (one.prompt, one.told, one.scene) == (same.prompt, same.told, same.scene)
        assert np.array_equal(one.data, same.data) and one.data.dtype == np.uint8
        assert len(one.data) == (asked.num_frames or 1) and one.data.shape[1:] == (asked.height, asked.width, 3)
        assert list(one.told) == ([told[pair]] if pair in told else [])
        assert asked.video or asked.refine or "moving" not in one.prompt
        # The data is what is asked for.
        assert pairs.score(pair, one.data, one)["right"] == 1.0


def test_pictures_to_follow_say_what_the_prompt_does_not(tmp_path):
    (asked,) = pairs.samples(bench.preset("shapes-picture"), 1, tmp_path)
    drawn = np.asarray(Image.open(asked.told["ip_image"]))
    assert asked.scene is not None and asked.scene.background and asked.scene.background not in asked.prompt
    assert judge(drawn[None], asked.scene)["right"] == 1.0
    (asked,) = pairs.samples(bench.preset("shapes-control"), 1, tmp_path)
    shown = np.asarray(Image.open(asked.told["control"]))
    assert set(np.unique(shown)) == {0, 255} and pairs.agreement(
        shown[..., 0] > 127, edges(asked.data[0] / 255)[..., 0] > 0.5
    ) == pytest.approx(1.0)


def test_outlines_are_the_data_of_the_lora_that_ships_alone(tmp_path):
    style = bench.preset("shapes-style")
    (outlined,) = pairs.samples(style, 1, tmp_path)
    assert pairs.emptiness(outlined.data) == pytest.approx(1.0, abs=0.05)
    other = replace(style, adapters={"mine": style.adapters["outlines"]})
    (filled,) = pairs.samples(other, 1, tmp_path)
    assert pairs.emptiness(filled.data) == pytest.approx(0.0, abs=0.05)


def test_a_refined_prompt_says_more_and_the_weak_arm_is_told_the_raw_one(tmp_path):
    for asked in pairs.samples(bench.preset("shapes-prompt"), 3, tmp_path):
        assert len(asked.prompt.split()) > len(asked.told["weak_prompt"].split())
        assert asked.prompt == refine(asked.told["weak_prompt"]) and asked.scene is not None
        assert describe(asked.scene) != asked.prompt  # a picture does not show how things move
        assert asked.scene.background == parse(asked.prompt).background is not None


def test_the_rows_cost_what_they_say():
    rows = bench.methods(bench.preset("shapes-control"))
    # 25 steps of 2, and 24 reflections of 2 and 2 at guidance 0.5: 146 evaluations, or 73 plain steps
    assert rows["equal-cost"].says["num_inference_steps"] == 73
    assert rows["raised"].says["controlnet"]["strong"] == 2.0
    assert rows["guidance"].says["guidance_scale"] == 3.5  # the arms have one guidance: 2 more
    guided = bench.methods(bench.preset("shapes-guidance"))  # 5.5 and 0 are to first order 2 5.5 - 0
    assert guided["guidance"].says["guidance_scale"] == 11.0 and guided["equal-cost"].says["num_inference_steps"] == 61
    style = bench.methods(bench.preset("shapes-style"))
    assert style["raised"].says["adapters"]["outlines"]["strong"] == pytest.approx(1.6)
    assert style["w2sd-paper"].says["adapters"]["outlines"]["weak"] == -1.5 and "w2sd-paper" not in rows


def test_a_pair_is_measured_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "rows.jsonl"
    wanted = {name: bench.methods(bench.preset("shapes-image"))[name] for name in ("weak", "strong")}
    bench.run("shapes-image", out, wanted, prompts(1))
    first = out.read_text()
    bench.run("shapes-image", out, wanted, prompts(2))
    rows = runs.rows(out)
    assert out.read_text().startswith(first) and len(rows) == 4
    assert {row["evaluations"] for row in rows} == {50} and set(rows[0]["scores"]) >= {"right", "colour"}


@pytest.mark.parametrize("folder", ["style", "control", "picture", "motion-tuned", "digits"])
def test_every_shipped_miniature_has_its_card_and_is_small(folder):
    assert "| stage | steps | loss | minutes |" in (WEIGHTS / folder / "README.md").read_text()
    whole = sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file())
    first = sum(p.stat().st_size for n in ("base", "tuned", "motion") for p in (WEIGHTS / n).rglob("*") if p.is_file())
    assert whole - first < 15e6


@pytest.mark.slow
def test_the_shipped_lora_goes_onto_the_video_model_too():
    pipe = W2SDStableDiffusionXLPipeline.from_pretrained(WEIGHTS / "tuned", torch_dtype=torch.float32)
    pipe.load_lora_weights(WEIGHTS / "style", adapter_name="outlines")
    from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline

    video = W2SDAnimateDiffSDXLPipeline.from_pretrained(
        WEIGHTS / "tuned", motion_adapter=WEIGHTS / "motion", torch_dtype=torch.float32
    )
    video.load_lora_weights(WEIGHTS / "style", adapter_name="outlines")
    assert pipe.get_list_adapters()["unet"] == video.get_list_adapters()["unet"] == ["outlines"]


def test_the_shipped_digits_load_by_name():
    pipe = W2SDDiTMoEPipeline.from_pretrained(WEIGHTS / "digits", torch_dtype=torch.float32)
    assert pipe.get_label_ids(["three", "7"]) == [3, 7]
