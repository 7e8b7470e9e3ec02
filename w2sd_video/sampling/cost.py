"""How many network evaluations a request takes, computed before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import note_once
from ..families import FAMILIES, least_steps
from ..runs import VARIANTS, Request
from ..runs.outputs import SINGLES
from .load import check_schedule, scheduler
from .method import method_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods import Method


def evaluations(request: Request) -> dict[str, int]:
    """Network evaluations of a request's videos, by arm: "strong", "weak" and "total".

    The method runs on its real steps with networks that predict 0, and the counter of the pipelines counts. The number
    does not depend on anything that only the real networks know, such as their kind of prediction. A note says where it
    is an estimate: of steps in an `interval`, where a schedule's shift depends on the sample's size.

    Raises:
        Refused: diffusers does not make the request's schedule, or the method cannot be made of its options.
    """
    check_schedule(request)
    counts = {"strong": 0, "weak": 0, "total": 0}
    for variant in VARIANTS[request.variant]:
        for arm, count in _of_variant(request, variant).items():
            counts[arm] += count * (request.free_init or 1)
    return counts


def in_strong_evaluations(counts: Mapping[str, int], parameters: Mapping[str, int], strong: int | None) -> float | None:
    """Evaluations in units of the strong network's, each weighted by the parameters of its network.

    An evaluation of a network of 1.4 billion parameters beside one of 14.3 billion counts 0.1. Its real cost is higher,
    since the work of attention grows with the square of a video's length, and not with the parameters.

    Args:
        counts: evaluations by arm, as `evaluations` returns them.
        parameters: the parameters of each arm's network.
        strong: the parameters of the pair's strong network. None: not known.

    Returns:
        None if the parameters of an evaluated network, or of the strong one, are not known.
    """
    evaluated = [arm for arm in ("strong", "weak") if counts[arm]]
    if not strong or any(arm not in parameters for arm in evaluated):
        return None
    return math.fsum(counts[arm] * parameters[arm] for arm in evaluated) / strong


def strong_evaluations(request: Request, counts: Mapping[str, int] | None = None) -> float | None:
    """A request's evaluations in units of the strong network's; see `in_strong_evaluations`. Nothing is loaded.

    Args:
        counts: the request's `evaluations`, if they are known already.

    Returns:
        None if the networks may differ in size, and their parameters are not known on this machine.
    """
    counts = counts or evaluations(request)
    if request.weak is None or not FAMILIES[request.family].transformer:  # one network, or two of one size
        return float(counts["total"])
    strong, weak = (_mean_size(model, arm) for model, arm in ((request.strong, "strong"), (request.weak, "weak")))
    if strong is None or weak is None:
        return None
    whole = 0.0
    for variant in VARIANTS[request.variant]:
        of = evaluations(replace(request, variant=SINGLES[variant]))
        own = {"strong": weak if variant == "weak" else strong, "weak": weak}
        whole += in_strong_evaluations(of, own, strong) or 0.0
    return whole


def _mean_size(model: str, arm: str) -> int | None:
    """The parameters of a model's transformer; for two experts, their mean. None: not known."""
    from ..models import sizes

    known, unknown = sizes.parameters(model, arm, "transformer")
    return round(sizes.total(known) / len(known)) if known and not unknown else None


def steps_for(request: Request, least: int) -> int:
    """The fewest steps with which a request takes at least `least` evaluations, with the method's default number of
    reflected steps."""

    def enough(steps: int) -> bool:
        return evaluations(request.of_steps(steps))["total"] >= least

    trained = int(request.scheduler.get("num_train_timesteps", 1000))
    low = high = least_steps(FAMILIES[request.family].least_steps, request.scheduler)
    while high < trained and not enough(high):
        low, high = high + 1, min(2 * high, trained)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _final_branches(request: Request, method: Method | None) -> tuple[str, ...]:
    """The branches that the final step of a request evaluates."""
    from .. import pipelines
    from ..hook.form import Form, final_branches, known

    guidances: list[float | None] = [request.guidance_scale, request.guidance_scale_2]
    if method is not None and method.reflects(0, request.num_inference_steps):
        seconds = (request.strong_guidance_scale_2, request.weak_guidance_scale_2)
        guidances += [*method.guidances, *seconds[: len(method.guidances)]]
    if all(w in (1, None) for w in guidances):  # the pipeline does not guide, and is not made to
        return ("cond",)
    entry = known(getattr(pipelines, FAMILIES[request.family].pipeline))
    form = (entry and entry.form) or Form()
    mixes = method is not None and method.mixes
    return final_branches(form, request.guidance_scale, bool(request.guidance_rescale), mixes)


def _of_variant(request: Request, variant: str) -> dict[str, int]:
    """The network evaluations of one video of a request, by arm."""
    import torch

    from ..hook.arm import BoundArm, Evaluations
    from ..hook.loop import Loop
    from ..hook.sent import BOTH, Latents, Sent
    from ..schedulers import shifted

    steps = request.num_inference_steps
    method = method_of(request, variant)
    final = _final_branches(request, method)
    if method is None:
        return {"strong": steps * len(final), "weak": 0, "total": steps * len(final)}
    built = scheduler(request)
    built.set_timesteps(steps, **(shift := shifted(built)))
    if shift and tuple(method.interval) != (0.0, 1.0):
        levels = f"the noise levels of {request.preset}, and so the steps in `interval`, depend on the sample's size"
        note_once(f"the number of network evaluations is an estimate: {levels}")
    counts = Evaluations()

    def network(**inputs: Any) -> tuple[Tensor]:
        return (torch.zeros_like(inputs["x"]),)

    x = torch.zeros((1, 1, 2, 1, 1) if request.video else (1, 1, 1, 1))
    sent = Sent(BOTH, Latents("x", x.dtype), {"timestep": 0.0})
    loop = Loop(built)
    for index in range(min(steps, len(built.timesteps))):
        step = loop.step_at(index, index, steps, method)
        strong, weak = (
            BoundArm(name, network, w, [sent], step, final, counts)
            for name, w in (("strong", method.strong_guidance), ("weak", method.weak_guidance))
        )
        loop.answer(method, x, step, strong, weak, lambda: torch.zeros_like(x))
    return {name: count for name, count in counts.per_video().items() if name != "controlnet"}
