"""Tiny pipelines of diffusers' real classes, each with a call of it, and Algorithm 1 written for all of them at once.

A case says how to build a pipeline and to call it, and what its own `__call__` does that is not usual: where the
latents lie in the network's input, how it mixes the two branches, what its scheduler's step is. Nothing of this is read
from the package under test.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import tiny
import torch
from any_formulas import Mixture, Order, flow, usual
from test_hook import draw
from torch import Tensor, nn

TEXT = 8  # width of the text embeddings
STEPS = 4


@dataclass(frozen=True)
class Case:
    """A pipeline class, as it is tested.

    Args:
        build: a pipeline of this seed's networks.
        call: arguments of its call.
        denoiser: the name of its network.
        latents: the part of the network's input that is the latents.
        mix: its own mixture of (uncond, cond) at its guidance number `w`.
        w: that number. None: it does not guide, and the reflection's guidance is 1 too.
        order: its scheduler's step.
        sign: of what its network predicts.
        conditional_first: the order of the rows.
        learned: whether the network predicts a variance too.
        sampled: latents in the network's layout as the scheduler has them.
        chosen: the sample's part to compare (where a pipeline steps parts that it throws away).
        moving: of its latents and what its network is told, where they are not held still.
        painted: of its latents, where they go on from a step; elsewhere the pipeline paints a noised picture over them.
        control: whether a ControlNet's residuals go into the network, made anew for every x.
        reflection: the guidance of the strong arm and of the weak one.
        steps: its number of steps, if not four.
        made: how many of them it makes, if not all.
    """

    build: Callable[[int], Any]
    call: Callable[[Any], dict[str, Any]]
    denoiser: str = "transformer"
    latents: Callable[[Tensor], Tensor] = lambda x: x
    mix: Mixture = usual
    w: float | Tensor | None = 3.0
    order: Callable[[Any, int], Order] = flow
    sign: int = 1
    conditional_first: bool = False
    learned: bool = False
    sampled: Callable[[Any, Tensor], Tensor] = lambda pipe, x: x
    chosen: Callable[[Tensor], Tensor] = lambda x: x
    moving: Callable[[Tensor, dict[str, Any]], Tensor] | None = None
    painted: Callable[[Tensor], Tensor] | None = None
    control: bool = False
    reflection: tuple[float, float] = (2.0, 1.0)
    steps: int = STEPS
    made: int | None = None


CASES: dict[str, Case] = {}


def called(case: Case, **more: Any) -> Case:
    """A case, called with more arguments."""
    return replace(case, call=lambda pipe: {**case.call(pipe), **more})


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """A network with no weight that is 0 at first, as modulations and last layers are."""
    network = tiny.seeded(seed, build).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def network(name: str, **config: Any) -> Callable[[int], nn.Module]:
    return lambda seed: seeded(seed, lambda: getattr(diffusers, name)(**config))


def pipeline(name: str, of: Callable[[int], nn.Module], scheduler: Callable[[], Any], **parts: Any) -> Any:
    """A builder: of a pipeline without text encoders, and of other parts as they are given (by functions)."""

    def build(seed: int) -> Any:
        cls = getattr(diffusers, name)
        needed = [each for each in inspect.signature(cls).parameters.values() if each.default is each.empty]
        given: dict[str, Any] = dict.fromkeys(each.name for each in needed)
        given |= {"scheduler": scheduler(), "transformer": of(seed)}
        given |= {key: part() if callable(part) else part for key, part in parts.items()}
        return quiet(cls(**given))

    return build


def told_embeddings(cls: type, *embeddings: Any) -> type:
    """The pipeline class, whose `__call__` is inherited, with these embeddings in the place of its text encoders'."""
    return type(f"{cls.__name__}Told", (cls,), {"encode_prompt": lambda self, *args, **kwargs: embeddings})


def texts(width: int = TEXT, tokens: int = 5, **names: Any) -> dict[str, Tensor]:
    """Embeddings of a prompt and of a negative one, of several lengths."""
    return {
        "prompt_embeds": draw(1, tokens, width, seed=1),
        "negative_prompt_embeds": draw(1, tokens - names.get("fewer", 0), width, seed=2),
    }


def masks(tokens: int = 5, kind: torch.dtype = torch.long) -> dict[str, Tensor]:
    return {
        each: torch.ones(1, tokens, dtype=kind) for each in ("prompt_attention_mask", "negative_prompt_attention_mask")
    }


@torch.no_grad()
def sample(pipe: Any, case: Case, each: Callable[[], None] = lambda: None) -> tuple[Any, list[Tensor]]:
    """The pipeline's call; and what its scheduler stepped to, in steps after each of which `each` is called."""
    stepped: list[Tensor] = []
    theirs = pipe.scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        made = theirs(*args, **kwargs)
        stepped.append(made[0])
        each()
        return made

    step.__signature__ = inspect.signature(theirs)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    call = {"generator": generator, "num_inference_steps": case.steps, "output_type": "latent", **case.call(pipe)}
    pipe.scheduler.step = step
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pipe(**call)[0], stepped
    finally:
        del pipe.scheduler.step


@torch.no_grad()
def algorithm_1(case: Case, pipe: Any, weak: Any) -> tuple[Tensor, int, int]:
    """Algorithm 1, over a plain call's own inputs: the last latents as the scheduler has them, and the evaluations of
    the strong network and the weak one."""
    strong = getattr(pipe, case.denoiser)
    name = next(iter(inspect.signature(strong.forward).parameters))
    steps: list[list[tuple[Any, dict[str, Any], int]]] = [[]]

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x = given.pop(name)  # copied: some pipelines step their latents in place
        seen = list(map(Tensor.clone, x)) if isinstance(x, list) else x.clone()
        given = {key: list(each) if isinstance(each, list) else each for key, each in given.items()}
        steps[-1].append((seen, given, len(steps) - 1))

    controls: list[dict[str, Any]] = []

    def keep_control(module: Any, args: Any, kwargs: Any) -> None:
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        controls.append({**dict(zip(names, args, strict=False)), **kwargs})

    handles = [strong.register_forward_pre_hook(keep, with_kwargs=True)]
    if case.control:
        handles.append(pipe.controlnet.register_forward_pre_hook(keep_control, with_kwargs=True))
    sample(pipe, case, lambda: steps.append([]))
    for handle in handles:
        handle.remove()
    steps.pop()
    counts = [0, 0]

    def run(arm: int, x: Tensor, at: tuple[Any, dict[str, Any], int], videos: int) -> Tensor:
        seen, told, _ = at
        listed = isinstance(seen, list)
        whole = (torch.stack(seen) if listed else seen).clone()
        part = case.latents(whole)
        part.copy_(x.repeat(len(whole) // videos, *[1] * (x.ndim - 1)))
        told = {key: list(each) if isinstance(each, list) else each for key, each in told.items()}  # some are emptied
        told["return_dict"] = False
        if case.control:
            rows = x.repeat(len(whole) // videos, *[1] * (x.ndim - 1))
            rows = rows.transpose(1, 2).flatten(0, 1) if rows.ndim == 5 else rows
            down, mid = pipe.controlnet(**{**controls[at[2]], "sample": rows})
            told |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        p = (strong, weak)[arm](**{name: list(whole.unbind(0)) if listed else whole}, **told)
        p = p if isinstance(p, Tensor) else p[0]
        counts[arm] += len(whole)
        p = torch.stack(p) if isinstance(p, list) else p
        p = p.chunk(2, 1)[0] if case.learned else p
        return case.sign * (p if p.shape == part.shape else case.latents(p))

    def branches(arm: int, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        calls = steps[i]
        if case.w is None:
            p = run(arm, x, calls[0], len(x))
            return p, p
        if len(calls) == 2:
            cond, uncond = (run(arm, x, each, len(x)) for each in calls)
            return uncond, cond
        p = run(arm, x, calls[0], len(x)).chunk(2)
        return (p[1], p[0]) if case.conditional_first else (p[0], p[1])

    def latents(i: int) -> Tensor:
        """Those that the plain call's network sees at a step."""
        seen = steps[i][0][0]
        x = case.latents(torch.stack(seen) if isinstance(seen, list) else seen).clone()
        return x.chunk(2)[0] if case.w is not None and len(steps[i]) == 1 else x

    x = latents(0)
    held = x.clone()
    moving = torch.ones_like(x) if case.moving is None else case.moving(x, steps[0][0][1])
    scheduler, (ws, ww) = pipe.scheduler, case.reflection
    for i in range(len(steps)):
        order = case.order(scheduler, i)
        if i < len(steps) - 1:
            x_s = order.a * x + order.b * usual(*branches(0, x, i), ws)
            x_s = torch.where(moving.bool(), x_s, held)
            back = (x_s - order.b * usual(*branches(1, x_s, i), ww)) / order.a
            x = torch.where(moving.bool(), back, held)
        uncond, cond = branches(0, x, i)
        p = cond if case.w is None else case.mix(uncond, cond, case.w)
        x = torch.where(moving.bool(), order.a * x + order.b * p, held)
        if case.painted is not None and i < len(steps) - 1:
            x = torch.where(case.painted(x), x, latents(i + 1))
    return case.sampled(pipe, x), *counts
