"""How many network evaluations a request takes, known before anything is loaded."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..runs import VARIANTS, Request
from .load import scheduler
from .method import method_of

if TYPE_CHECKING:
    from torch import Tensor


def evaluations(request: Request) -> dict[str, int]:
    """Network evaluations of a request's videos, by arm: "strong", "weak" and "total".

    They are counted while the method runs on its real steps with networks that predict nothing, by what counts them
    in a pipeline. What only networks say, as how their predictions are to be read, has no part in the number.
    """
    counts = {"strong": 0, "weak": 0, "total": 0}
    for variant in VARIANTS[request.variant]:
        for arm, count in _of_variant(request, variant).items():
            counts[arm] += count * (request.free_init or 1)
    return counts


def steps_for(request: Request, most: int) -> int:
    """The fewest steps with which a request takes at least so many evaluations, reflecting in as many of them as its
    method does by default."""
    trained = request.scheduler.get("num_train_timesteps", 1000)
    low, high = 1, int(trained)
    while low < high:
        middle = (low + high) // 2
        enough = evaluations(request.of_steps(middle))["total"] >= most
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _of_variant(request: Request, variant: str) -> dict[str, int]:
    import torch

    from .. import pipelines, settings
    from ..hook.arm import BoundArm, Evaluations, branches
    from ..hook.form import known
    from ..hook.group import later
    from ..hook.sent import BOTH, Latents, Sent
    from ..levels import read_step, shifted
    from ..methods import Answer

    steps = request.num_inference_steps
    method = method_of(request, variant)
    entry = known(getattr(pipelines, settings.FAMILIES[request.family].pipeline))
    form = entry.form if entry else None
    whole = form is not None and (form.calls == "apart" or form.flag is None)  # both branches, also at guidance 0
    final = branches(request.guidance_scale, whole or (method is not None and method.mixes))
    if whole and method is not None and method.reflects(0, steps) and any(w != 1 for w in method.guidances):
        final = BOTH
    if method is None:
        return {"strong": steps * len(final), "weak": 0, "total": steps * len(final)}
    built = scheduler(request)
    built.set_timesteps(steps, **shifted(built))
    counts = Evaluations()

    def network(**inputs: Any) -> tuple[Tensor]:
        return (torch.zeros_like(inputs["x"]),)

    x = torch.zeros((1, 1, 2, 1, 1) if request.video else (1, 1, 1, 1))
    sent = Sent(BOTH, Latents("x", x.dtype), {})
    carried: deque[Any] = deque([None], maxlen=1)
    for index, timestep in enumerate(built.timesteps[:steps]):
        step = replace(read_step(built, timestep, convention=method.convention, index=index), index=index)
        strong, weak = (
            BoundArm(name, network, w, [sent], step, "", final, counts)
            for name, w in (("strong", method.strong_guidance), ("weak", method.weak_guidance))
        )
        if not method.reflects(index, steps, step.level):
            carried.append(None)
            strong.denoise(x)
            continue
        step = replace(step, num_steps=steps, later=later(built, index, steps - 1 - index), carried=carried[0])
        answer: Answer = method(x, step, strong, weak, lambda: torch.zeros_like(x))
        carried.append(answer.carry)
    return {name: count for name, count in counts.per_video().items() if name != "controlnet"}
