"""What a request's texts are to the text encoders: what they do not read of them, and what they do not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..runs import Request

if TYPE_CHECKING:
    from ..pipelines.reflection import Reflection as Pipeline


def check_words(request: Request, pipelines: Mapping[str, Pipeline]) -> None:
    """Refuses words of a grammar that a model was not trained on: its tokenizer has one token for each that it was."""
    for pipe in pipelines.values() if request.grammar else ():
        for name in ("prompt", "weak_prompt"):
            for word in (request.text(name) or "").split():
                if len(pipe.tokenizer(word, add_special_tokens=False).input_ids) != 1:
                    raise Refused(name, word, "give words that this model was trained on")


def cut_off(request: Request, pipelines: Mapping[str, Pipeline]) -> dict[str, str]:
    """What the text encoders do not read of each of a request's prompts, by field; they read 77 tokens (CLIP)."""
    cut = {}
    for pipe in pipelines.values():
        names = [name for name in ("tokenizer", "tokenizer_2") if getattr(pipe, name, None) is not None]
        for kind in ("prompt", "negative_prompt", "weak_prompt", "weak_negative_prompt"):
            for name in names if (text := getattr(request, kind)) else ():
                tokenizer, most = getattr(pipe, name), _most_tokens(pipe, name)
                tokens = tokenizer(text, truncation=False, add_special_tokens=False, return_offsets_mapping=True)
                kept = most - tokenizer.num_special_tokens_to_add()
                if len(tokens.input_ids) > kept and kind not in cut:
                    cut[kind] = text[tokens.offset_mapping[kept][0] :]
    return cut


def _most_tokens(pipe: Any, tokenizer: str) -> int:
    encoder = getattr(pipe, tokenizer.replace("tokenizer", "text_encoder"))
    return min(getattr(pipe, tokenizer).model_max_length, encoder.config.max_position_embeddings)


def notes(request: Request, cut: Mapping[str, str], pipelines: Mapping[str, Pipeline]) -> Iterator[str]:
    """What a user would want to know of a request before it is sampled, each in a sentence."""
    for kind, text in cut.items():
        pipe = next(iter(pipelines.values()))
        name, most = kind.replace("_", " "), _most_tokens(pipe, "tokenizer")
        beginning = f"{text[:100]} …" if len(text) > 100 else text
        yield f"the text encoder reads the first {most} tokens of a text; cut off the {name}: {beginning!r}"
    numbers = [request.guidance_scale]
    if request.reflection_steps != 0:
        numbers += [request.strong_guidance_scale, request.weak_guidance_scale]
    if not any(numbers) and request.variant in ("w2sd", "compare"):
        which = "all three guidance scales are" if len(numbers) > 1 else "the guidance scale is"
        yield f"{which} 0, the unconditional prediction: the prompt has no effect"
