"""The words of a prompt of the shapes world, as the models read them."""

import pytest

from w2sd_video import presets
from w2sd_video.runs import Refused, Request
from w2sd_video.sampling import check_words, inputs, load
from w2sd_video.shapes import WEIGHTS


def request(prompt, **settings):
    return Request.of(prompt, 0, presets.load("shapes"), **settings)


def test_models_read_a_prompt_in_the_grammars_words_however_it_is_written():
    typed = request("A large red circle moving right fast above a blue square, on a gray background.")
    plain = "a large red circle moving right quickly above a blue square on a grey background"
    pipe = load(typed)["w2sd"]
    assert inputs(pipe, typed)["prompt"] == plain and typed.prompt != plain
    assert request("a red circle", weak_prompt="A Red circle.").text("weak_prompt") == "a red circle"
    other = request("a dog, running", strong="some/model")  # another model's prompts are its own matter
    assert other.text("prompt") == "a dog, running"


def test_a_word_that_a_model_was_not_trained_on_is_refused(tmp_path):
    """A model of an earlier edition of the grammar has no token for what was added to it."""
    asked = request("a red circle moving right")
    pipelines = load(asked)
    check_words(asked, pipelines)
    tokenizer = type(pipelines["w2sd"].tokenizer)
    for file in (WEIGHTS / "tuned" / "tokenizer").iterdir():
        if file.name == "tokenizer.json":  # the same in one file
            continue
        lines = file.read_text().splitlines()
        # Without its last merge the word is two tokens.
        (tmp_path / file.name).write_text("\n".join(line for line in lines if line.replace(" ", "") != "right</w>"))
    pipelines["w2sd"].tokenizer = tokenizer.from_pretrained(tmp_path)
    with pytest.raises(Refused, match="prompt: 'right' is not accepted; give words that this model was trained on"):
        check_words(asked, pipelines)
