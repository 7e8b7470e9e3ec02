"""Prompts with more in them, by a language model: the strong arm is told the refined one, the weak arm the raw one.

A refiner is any function from prompt to prompt. The paper (arXiv:2502.00473, Table 5) has one of Qwen-Plus; the shapes
world has its own, `shapes.grammar.refine`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import PathLike
from typing import Any

Refiner = Callable[[str], str]

INSTRUCTION = (
    "Rewrite the prompt below for a model that makes pictures and videos of text. Keep all that it says. Add concrete"
    " details of what is seen: the subject, its surroundings, light, colours, composition and, if anything moves, how."
    " Answer with the new prompt alone, in one line of at most 60 words.\n\nPrompt: {prompt}"
)


def language_model(model: str | PathLike[str], device: str = "cpu", max_new_tokens: int = 100) -> Refiner:
    """A refiner by a causal language model in transformers' layout: a folder, or a hub id that is on this machine.

    It is decoded greedily, so the same prompt is refined the same way. No code of the model's is run: a model that
    needs some is refused.

    Raises:
        ValueError: there is no such model here, or it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = os.path.expanduser(model)
    # Where it is left out, transformers asks on the terminal whether to run the code.
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **local)
        network = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True, dtype="auto", **local)
    except MemoryError:
        raise
    except Exception as error:  # of a damaged folder, transformers raises errors of every kind
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    network = network.to(device).eval()

    def refine(prompt: str) -> str:
        """The prompt, refined.

        Raises:
            ValueError: the model answers nothing.
        """
        text = INSTRUCTION.format(prompt=prompt)
        if tokenizer.chat_template:
            message = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        else:
            text += "\n\nNew prompt:"
        tokens = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(device)
        with torch.no_grad():
            output = network.generate(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
        answer = tokenizer.decode(output[0, tokens.input_ids.shape[1] :], skip_special_tokens=True)
        lines = [line.strip().strip('"').strip() for line in answer.splitlines()]
        refined = next((line for line in lines if line), "")
        if not refined:
            raise ValueError(f"the refiner answers nothing to prompt {prompt!r}; give another model")
        return refined

    return refine
