"""The trainer: an interrupted run ends in the same weights, and captions are what a recipe says of them."""

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_shapes import scenes

from w2sd_video.shapes import captions, reading, run, train
from w2sd_video.shapes.grammar import describe, parse
from w2sd_video.shapes.model import tokenizer
from w2sd_video.shapes.recipe import Recipe

TINY = tiny.recipe(Recipe, videos=3, vae_batch=2, image_batch=2, video_batch=1)


def weights(folder):
    return {p.relative_to(folder): load_file(p) for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 1)
    train.Trainer(tmp_path / "whole", TINY, "cpu").train()

    kills = {(stage, 1) for stage in range(1, 7)}  # in its second step, after a checkpoint
    rng = train.Trainer.rng

    def killed(self, *key):
        if key in kills:
            kills.remove(key)
            raise KeyboardInterrupt
        return rng(self, *key)

    monkeypatch.setattr(train.Trainer, "rng", killed)
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            train.Trainer(tmp_path / "broken", TINY, "cpu").train()
    trainer = train.Trainer(tmp_path / "broken", TINY, "cpu")
    trainer.train()
    assert trainer.finished
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for path in whole:
        assert all(torch.equal(whole[path][k], broken[path][k]) for k in whole[path]), path

    monkeypatch.setattr(train, "HELD_OUT", 2)
    trainer.export(tmp_path / "weights", "the command")
    card = (tmp_path / "weights" / "README.md").read_text()
    assert "the command" in card
    assert all(f"is {trainer.held_out('base'):.4f} of `base`" in card for _ in range(2))
    assert not (tmp_path / "weights/base/vae").exists() and (tmp_path / "weights/tuned/vae").is_dir()
    base, tuned = (
        load_file(tmp_path / "weights" / m / "unet/diffusion_pytorch_model.safetensors") for m in ("base", "tuned")
    )
    assert base.keys() == tuned.keys() and any(not torch.equal(base[k], tuned[k]) for k in base)


def test_a_folder_is_not_continued_with_another_recipe(tmp_path):
    train.Trainer(tmp_path, TINY, "cpu")
    with pytest.raises(ValueError, match="started with another"):
        train.Trainer(tmp_path, Recipe(seed=1), "cpu")


def test_export_before_the_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vae, decoder, text, image, video, tuned not done"):
        train.Trainer(tmp_path, TINY, "cpu").export(tmp_path / "weights", "")


@pytest.mark.slow
def test_an_exchange_moves_values_between_objects_and_invents_none():
    rng = np.random.default_rng(0)
    changed = {"shape": [], "size": [], "direction": []}
    for scene, _ in scenes(400, things=2):
        other = captions.exchange(scene, rng, 0.3)
        parse(describe(other))
        by_colour = {thing.colour: thing for thing in other.things}
        assert by_colour.keys() == {thing.colour for thing in scene.things}
        for name, moved in changed.items():
            own = [getattr(thing, name) for thing in scene.things]
            theirs = [getattr(by_colour[thing.colour], name) for thing in scene.things]
            assert sorted(own) == sorted(theirs)
            if len(set(own)) == 2:
                moved.append(own != theirs)
    assert {name: pytest.approx(0.3, abs=0.08) for name in changed} == {n: np.mean(m) for n, m in changed.items()}
    alone = [scene for scene, _ in scenes(20, things=1)]
    assert [captions.exchange(scene, rng, 1.0) for scene in alone] == alone


def test_mislabelling_replaces_about_the_share_that_is_asked_for():
    rng = np.random.default_rng(0)
    pairs = [(scene, captions.mislabel(scene, rng, 0.2)) for scene, _ in scenes(500, things=1)]
    assert np.mean([a.things[0].colour != b.things[0].colour for a, b in pairs]) == pytest.approx(0.2, abs=0.06)
    assert all(captions.mislabel(scene, rng, 0.0) == scene for scene, _ in pairs[:50])


def test_words_are_told_of_the_object_they_belong_to():
    prompt = "a red circle moving right above a small blue square on a grey background"
    tokens = tokenizer()
    ids = tokens([prompt, "a red circle"], padding="max_length", return_tensors="pt").input_ids
    things, scenes = reading.facts([parse(prompt), parse("a red circle")])
    number = reading.numbers(ids, tokens.convert_tokens_to_ids("a</w>"), tokens.eos_token_id, things)
    none = reading.UNSAID
    assert number[0, :15].tolist() == [none, *[0] * 6, *[1] * 5, none, none, none]
    assert number[1, :5].tolist() == [none, 0, 0, 0, none] and (number[:, 15:] == none).all()
    assert things[0].tolist() == [[0, 0, none, 1, none], [2, 1, 0, none, none], [none] * 5]
    assert scenes.tolist() == [[0, 1], [none, none]]


@pytest.mark.parametrize("can, dtype", [({"avx512_bf16": True}, torch.bfloat16), ({"avx512_f": True}, torch.float32)])
def test_a_cpu_trains_in_bfloat16_only_if_it_has_instructions_for_it(tmp_path, monkeypatch, can, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    trainer = train.Trainer(tmp_path, TINY, "cpu")
    with trainer._autocast():
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == dtype
