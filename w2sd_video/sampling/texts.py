"""Words of a request's texts that the text encoders cut off, or do not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..runs import Request
from .call import pictures_of

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
    """What no text encoder reads of each of a request's prompts, by field; CLIP reads 77 tokens."""
    cut: dict[str, str] = {}
    for pipe in pipelines.values():
        for kind in ("prompt", "negative_prompt", "weak_prompt", "weak_negative_prompt"):
            ends = [_cut(pipe, name, text) for name in _tokenizers(pipe) if (text := getattr(request, kind))]
            if ends and all(ends) and kind not in cut:
                cut[kind] = min(ends, key=len)
    return cut


def _cut(pipe: Any, name: str, text: str) -> str:
    """What one text encoder does not read of a text."""
    tokenizer, most = getattr(pipe, name), _most_tokens(pipe, name)
    tokens = tokenizer(text, truncation=False, add_special_tokens=False, return_offsets_mapping=True)
    kept = most - tokenizer.num_special_tokens_to_add()
    return text[tokens.offset_mapping[kept][0] :] if len(tokens.input_ids) > kept else ""


def _tokenizers(pipe: Any) -> list[str]:
    """The names of a pipeline's tokenizers whose text encoder is there."""
    names = [name.replace("text_encoder", "tokenizer") for name in pipe.encoder_names]
    return [
        name
        for name in names
        if getattr(pipe, name, None) is not None and getattr(pipe, _encoder(name), None) is not None
    ]


def _encoder(tokenizer: str) -> str:
    return tokenizer.replace("tokenizer", "text_encoder")


def _most_tokens(pipe: Any, tokenizer: str) -> int:
    """How many tokens of a text an encoder reads: what it has positions for, and what the pipeline hands it."""
    encoder, call = getattr(pipe, _encoder(tokenizer)), signature(type(pipe).__call__).parameters
    handed = call["max_sequence_length"].default if "max_sequence_length" in call else None
    limits = [
        getattr(pipe, tokenizer).model_max_length,
        getattr(encoder.config, "max_position_embeddings", None),
        handed,
    ]
    return min(each for each in limits if isinstance(each, int))


def notes(request: Request, cut: Mapping[str, str], pipelines: Mapping[str, Pipeline]) -> Iterator[str]:
    """What a user would want to know of a request before it is sampled, each in a sentence."""
    for kind, text in cut.items():
        pipe = next(iter(pipelines.values()))
        name, most = kind.replace("_", " "), max(_most_tokens(pipe, each) for each in _tokenizers(pipe))
        beginning = f"{text[:100]} …" if len(text) > 100 else text
        yield f"the text encoder reads the first {most} tokens of a text; cut off the {name}: {beginning!r}"
    if request.image is not None:
        width, height = pictures_of(request, "image", 1)[0].size
        if abs(width * request.height / (height * request.width) - 1) > 0.05:
            yield (
                f"the picture is {width}x{height}, and is stretched to {request.width}x{request.height}: cut it to that"
                " shape, or give a height and a width of its own"
            )
    numbers = [request.guidance_scale]
    if request.reflection_steps != 0:
        numbers += [request.strong_guidance_scale, request.weak_guidance_scale]
    if not any(numbers) and request.variant in ("w2sd", "compare"):
        which = "all three guidance scales are" if len(numbers) > 1 else "the guidance scale is"
        yield f"{which} 0, the unconditional prediction: the prompt has no effect"
