"""Refiners: the shapes world's own, and any local causal language model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.refine import INSTRUCTION, language_model
from w2sd_video.shapes.grammar import parse, refine


def test_the_shapes_world_says_what_a_prompt_leaves_open_and_nothing_else():
    refined = refine("a red circle")
    thing, scene = parse(refined).things[0], parse(refined)
    assert (thing.colour, thing.shape) == ("red", "circle")
    assert None not in (thing.size, thing.direction, scene.background)
    assert refine("a red circle") == refined and refine(refined) == refined
    assert len({refine(f"a {colour} circle").split("circle")[1] for colour in ("red", "blue", "green", "yellow")}) > 1
    with pytest.raises(ValueError, match="cat"):
        refine("a red cat")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny Llama that knows the words of the instruction, a few more, and answers at random."""
    folder = tmp_path_factory.mktemp("llm")
    words = sorted({*INSTRUCTION.replace("\n", " ").split(), "fox", "a", "snow", "New", "prompt:"})
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    tiny.seeded(0, lambda: LlamaForCausalLM(config)).save_pretrained(folder)
    return folder


def test_a_language_model_refines_the_same_prompt_the_same_way(model):
    first, again = (language_model(model, max_new_tokens=12)("a fox") for _ in range(2))
    assert first == again and first and "\n" not in first and INSTRUCTION[:20] not in first


def test_a_chat_template_is_used_where_there_is_one(model, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{% for m in messages %}snow snow snow {{ m.content }}{% endfor %}"
    path.write_text(json.dumps(config))
    assert language_model(tmp_path, max_new_tokens=12)("a fox") != language_model(model, max_new_tokens=12)("a fox")


def test_a_model_that_answers_nothing_is_said_so(model, tmp_path):
    network = LlamaForCausalLM.from_pretrained(model)
    torch.nn.init.zeros_(network.lm_head.weight)  # always the first token, "<unk>"
    PreTrainedTokenizerFast.from_pretrained(model).save_pretrained(tmp_path)
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the refiner answers nothing to prompt 'a fox'"):
        language_model(tmp_path)("a fox")


def test_a_model_that_is_not_here_is_refused(tmp_path):
    ran = CliRunner().invoke(
        app, ["generate", "a red circle", "--refine", str(tmp_path / "none"), "--out", str(tmp_path)]
    )
    assert ran.exit_code == 2
    assert "--refine" in ran.output and "give shapes, or a causal language model that is here" in ran.output


@pytest.mark.slow
def test_the_strong_arm_is_told_the_refined_prompt_and_the_weak_arm_the_raw_one(tmp_path):
    arguments = ["generate", "a red circle", "--refine", "shapes", "--steps", "2", "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    (path,) = tmp_path.glob("*.json")
    asked = json.loads(path.read_text())["request"]
    assert (asked["prompt"], asked["weak_prompt"]) == (refine("a red circle"), "a red circle")
