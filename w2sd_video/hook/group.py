"""What a pipeline calls between two steps of its scheduler, and the method's answer to it.

A pipeline keeps its own loop: it calls its denoiser, mixes what comes back by its guidance, and hands the mixture to
`scheduler.step`. Two places in that loop are ours. The denoiser's call is answered with the strong arm's prediction
at x~_t, for which the networks are evaluated as often as the method needs; and `scheduler.step` then goes from x~_t
instead of x_t, after the pipeline has mixed, rescaled or normalised. So the final step is the pipeline's own, whatever
it does with its guidance, and a multistep scheduler keeps a history of predictions at x~_t.

Between two steps the denoiser has to be called once: on [unconditional; conditional] rows where the pipeline guides, or
on plain ones. What the scheduler gets has to be the mixture of what was answered. A pipeline that does anything else is
refused by name, at its first step. Channels that a network takes beside the latents and after them (a mask and a
picture, as in inpainting) are held as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from diffusers.hooks import ModelHook
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from ..arms import Settings, identity_attention, skipped, switched, transformer_blocks
from ..levels import Step, check_invertible, full_precision, read_step, step_index
from ..methods import Answer, Method
from .arm import BOTH, PIPELINES_OWN, BoundArm, Conditioning, Evaluations, branches, check_finite
from .control import Deferred
from .inputs import parameters
from .recording import Recorder

# Residuals computed from x_t outside the denoiser: at x_s and x~_t they are stale. Those of a ControlNet a
# `ControlHook` defers.
STALE_UNDER_REFLECTION = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "block_controlnet_hidden_states",
)


@dataclass(frozen=True)
class Pending:
    """An answer that the scheduler has not stepped with yet."""

    step: Step
    where: str
    x_t: Tensor
    answer: Answer
    prediction: Tensor  # (k, B, …), as the pipeline got it
    doubled: bool


class Group:
    """One pipeline's denoisers and scheduler, under a method.

    Args:
        method: the method, or None to pass calls through untouched and only count them.
        scheduler: the pipeline's scheduler, read at every step, so it may be reset during the run.
        current: the scheduler that the pipeline has now, read at every step. Default: that one.
        running: whether it is the pipeline's own call that sets the scheduler's timesteps, read when they are set.
        name: the pipeline's, for messages.
        weak_conditioning: what the weak arm is told; by default what the pipeline tells the denoiser.
        weak_settings: what is set while the weak arm is evaluated; see `arms`.
        weak_control_scale: the weak arm's `controlnet_conditioning_scale`, where a `ControlHook` defers the ControlNet.
            Default: the pipeline's.
        guidance: the pipeline's guidance number, read at every step.
        doubled: whether the pipeline sends [unconditional; conditional] rows, read at every step.
        rescaled: whether it scales its mixture, by both branches (`guidance_rescale`), read at every step.
        perturbed: whether it evaluates a third branch (PAG), read at every step.
        num_steps: steps of the current loop, read at every step. Default: all of `scheduler.timesteps`.
        noise: draws standard normal noise like a tensor. Default: from torch's global generator.
        conditional_first: whether the rows come as [conditional; unconditional], as `DiTPipeline` sends them.
        recorder: keeps what the method does, in numbers.
    """

    def __init__(
        self,
        method: Method | None,
        scheduler: Any,
        *,
        name: str = "The pipeline",
        current: Callable[[], Any] | None = None,
        running: Callable[[], bool] = lambda: True,
        weak_conditioning: Conditioning = PIPELINES_OWN,
        weak_settings: Settings | None = None,
        weak_control_scale: float | list[float] | None = None,
        guidance: Callable[[], float] = lambda: 1.0,
        doubled: Callable[[], bool] = lambda: False,
        rescaled: Callable[[], bool] = lambda: False,
        perturbed: Callable[[], bool] = lambda: False,
        num_steps: Callable[[], int] | None = None,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
        conditional_first: bool = False,
        recorder: Recorder | None = None,
    ):
        self.method = method
        self.scheduler = scheduler
        self.name = name
        self.current = current or (lambda: scheduler)
        self.running = running
        self._foreign = False
        self.weak_conditioning = weak_conditioning
        self.weak_settings = weak_settings or []
        self.weak_control_scale = weak_control_scale
        self.guidance = guidance
        self.doubled = doubled
        self.rescaled = rescaled
        self.perturbed = perturbed
        self.num_steps = num_steps
        self.noise = noise
        self.conditional_first = conditional_first
        self.recorder = recorder
        self.evaluations = Evaluations()
        self._pending: Pending | None = None
        self._first = self._last = -1  # the scheduler's index of the loop's first step, and of the last one seen
        self._carried: tuple[int, Any] = (-1, None)  # the last step's place in the loop, and what its answer carries

    def restart(self) -> None:
        """A new loop begins: what an earlier one left, ended by an error, does not count."""
        self._pending = None
        self._first = self._last = -1
        self._foreign = not self.running()

    def answer(self, hook: DenoiserHook, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The denoiser's call, answered: the pipeline's inputs are read, the method answers by two arms that are bound
        to them, and its answer is kept for the scheduler's step."""
        forward = hook.evaluation(module)
        names = parameters(type(unwrap_module(module)).forward)
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        x = inputs.pop(names[0])
        if self._foreign:
            raise ValueError(
                f"another pipeline uses the networks and the scheduler of {self.name}, to which a method is applied:"
                " apply one to that pipeline instead."
            )
        doubled = self.doubled()
        if self.method is None:
            self.evaluations.videos = len(x) // 2 if doubled else len(x)
            self.evaluations.strong += len(x)
            return forward(*args, **kwargs)
        self._check_turn()
        x_t, beside = self._latents(module, x, doubled)
        self.evaluations.videos = len(x_t)
        index, num_steps, step = self._step(self.method, inputs)
        where = f"step {index + 1} of {num_steps} (timestep {step.timestep:g})"
        check_finite(x_t, f"the latents before {where}")
        bound = self._bound(inputs, doubled)
        bound |= {"x_name": names[0], "x_dtype": x.dtype, "beside": beside, "step": step, "where": where}
        strong = running = BoundArm("strong", forward, self.method.strong_guidance, **bound)
        if self.method.reflects(index, num_steps, step.level):
            weak = self._weak(self.method, hook, module, index, bound)
            before, carried = self._carried
            step = replace(
                step,
                index=index,
                num_steps=num_steps,
                later=later(self.scheduler, index if self.num_steps is None else self._last, num_steps - 1 - index),
                carried=carried if before == index - 1 else None,
            )
            answer = self._reflected(self.method, x_t, step, strong, weak)
            running = strong if strong.evaluated else weak
        else:
            answer = Answer(strong.denoise(x_t))
        self._check_answer(answer, x_t, doubled, where)
        self._carried = (index, answer.carry)
        if self.recorder is not None:
            self.recorder.add(index, step, x_t, answer)
        p = answer.p.to(x.dtype)
        self._pending = Pending(step, where, x_t, answer, p, doubled)
        return self._reply(running, p)

    def _check_turn(self) -> None:
        """Refuse a call of the denoiser that is not the only one since the scheduler's last step."""
        if self.current() is not self.scheduler:
            raise ValueError(
                f"the scheduler of {self.name} was replaced after the method was applied: set it before"
                " `apply_reflection`."
            )
        if self._pending is not None:
            self._refuse(
                "calls its denoiser more than once a step (with the prompt and without it, or with layers skipped);"
                " supported is one call, with both in one batch"
            )

    def _bound(self, inputs: dict[str, Any], doubled: bool) -> dict[str, Any]:
        """What both arms are bound to, beside the latents and the step: arguments of `BoundArm`."""
        control = inputs.get("down_block_additional_residuals")
        if isinstance(control, Deferred):
            inputs = {key: value for key, value in inputs.items() if value is not control}
        else:
            control = None
        guidance = self.guidance() if doubled else 1.0
        if not isinstance(guidance, (int, float)):
            self._refuse(f"guides by a {type(guidance).__name__}, of a number for each frame, and not by one number")
        return {
            "inputs": inputs,
            "control": control,
            "doubled": doubled,
            "conditional_first": self.conditional_first,
            "final": BOTH if doubled and self.rescaled() else branches(guidance, doubled and self._mixes),
            "evaluations": self.evaluations,
        }

    @property
    def _mixes(self) -> bool:
        return self.method is not None and self.method.mixes

    def _weak(
        self, method: Method, hook: DenoiserHook, module: nn.Module, index: int, bound: dict[str, Any]
    ) -> BoundArm:
        """The weak arm at step `index`, with what it has of its own."""
        own = hook.weak if hook.weak is not None and not method.one_model else None
        network = module if own is None else own
        return BoundArm(
            "weak",
            hook.evaluation(module) if own is None else own,
            method.weak_guidance,
            conditioning=self.weak_conditioning,
            settings=self.weak_settings + perturbation(network, method, index),
            control_scale=self.weak_control_scale,
            **bound,
        )

    def _reflected(self, method: Method, x_t: Tensor, step: Step, strong: BoundArm, weak: BoundArm) -> Answer:
        """The method's answer to a step that it changes."""
        self._check_reflectable(strong.inputs)
        method.check(tuple(x_t.shape))
        return method(x_t, step, strong, weak, lambda: self.noise(x_t))

    def _check_answer(self, answer: Any, x_t: Tensor, doubled: bool, where: str) -> None:
        """Refuse an answer that the scheduler cannot step with, and values that are not finite."""
        name = type(self.method).__name__
        if not isinstance(answer, Answer):
            raise ValueError(f"{name} returns a {type(answer).__name__}: a method returns an `Answer`.")
        shape = tuple(x_t.shape)
        for part, tensor in (("prediction", answer.p), ("displacement", answer.d), ("correction", answer.e)):
            if tensor is None and part != "prediction":
                continue
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name} answers with a {part} that is a {type(tensor).__name__}: give a tensor.")
            accepted = [(k, *shape) for k in range(1, 2 + doubled)] if part == "prediction" else [shape]
            fits = tuple(tensor.shape) in accepted if part == "prediction" else _broadcasts(tensor, x_t)
            if not fits:
                way = ", as `denoise` gives it" if part == "prediction" else ", that of x_t"
                raise ValueError(
                    f"{name} answers with a {part} of shape {tuple(tensor.shape)}: give one of"
                    f" {' or '.join(map(str, accepted))}{way}."
                )
            check_finite(tensor, f"the method's {part} at {where}")

    def _reply(self, arm: BoundArm, p: Tensor) -> Any:
        """A prediction (k, B, …) as the arm's network would have returned it."""
        if arm.doubled:
            p = p.expand(2, *p.shape[1:])  # one branch stands for both: their mixture is that branch
            p = p.flip(0) if self.conditional_first else p
        p = p.flatten(0, 1)
        if arm.learned_sigma:  # the supported schedulers take no variance from the network
            p = torch.cat([p, torch.zeros_like(p)], 1)
        return (p,) if arm.output_type is tuple else arm.output_type(sample=p)

    def step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step: from x~_t where the method displaced x_t, with what it adds to the prediction."""
        names = ("model_output", "timestep", "sample")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not isinstance(given.get("model_output"), Tensor) or not isinstance(given.get("sample"), Tensor):
            self._refuse("steps its scheduler with something else than tensors")
        rest = args[len(names) :]
        pending, self._pending = self._pending, None
        if pending is None:
            self._refuse("makes a step of its scheduler without a call of its denoiser before it (a cache, perhaps)")
        output, sample = given["model_output"], given["sample"]
        # With times of their own for tokens, FlowMatchEulerDiscreteScheduler steps by minus the flow.
        sign = -1 if given.get("per_token_timesteps") is not None else 1
        times = self._check_stepped(pending, sign * output, sample)
        answer = pending.answer
        if answer.d is None and answer.e is None:
            return step(*args, **kwargs)
        dtype = torch.promote_types(sample.dtype, output.dtype)
        if answer.d is not None:  # half precision would round away what tells x~_t from x_t
            d = answer.d.expand_as(pending.x_t)
            given["sample"] = full_precision(sample) + pending.step.scale * torch.cat([d] * times)
        if answer.e is not None:
            e = answer.e.expand_as(pending.x_t)
            given["model_output"] = full_precision(output) + sign * torch.cat([e] * times)
        made = step(*(given.pop(name) for name in names), *rest, **given)
        if isinstance(made, tuple):
            return (made[0].to(dtype), *made[1:])
        made.prev_sample = made.prev_sample.to(dtype)
        return made

    def _latents(self, network: nn.Module, x: Any, doubled: bool) -> tuple[Tensor, Tensor | None]:
        """x_t (B, …) in float32 or better, and what lies beside it, of every row; from the denoiser's input."""
        if not isinstance(x, Tensor):
            self._refuse(f"hands its denoiser a {type(x).__name__} where others hand one tensor of latents")
        if self.perturbed():
            self._refuse("evaluates a third branch, with its attention perturbed; set `pag_scale` to 0")
        beside = None
        taken, predicted = channels(network)
        if taken is not None and predicted is not None and predicted < taken:
            if x.ndim < 2 or x.shape[1] != taken:
                raise ValueError(
                    f"{type(unwrap_module(network)).__name__} takes {taken} channels and predicts {predicted}, and not"
                    " along the second axis: what lies beside the latents in its input (as in image to video) is not"
                    " known, which is not supported under a method. Use `method=None`."
                )
            x, beside = x[:, :predicted], x[:, predicted:]
        if not doubled:
            return full_precision(x), beside
        first, second = x[: len(x) // 2], x[len(x) // 2 :]
        if len(x) % 2 or not (torch.equal(first, second) or not torch.isfinite(x).all()):  # NaN is not equal to NaN
            self._refuse(
                f"guides and sends its denoiser {len(x)} {'rows' if len(x) != 1 else 'row'} that are not the same"
                " latents twice: one call with the prompt and one without it, or more branches than two; supported are"
                " two branches in one batch"
            )
        return full_precision(first), beside

    def _step(self, method: Method, inputs: Mapping[str, Any]) -> tuple[int, int, Step]:
        """Which step of the loop this is, from 0; of how many; and the step."""
        timestep = inputs["timestep"] if "timestep" in inputs else inputs.get("t")
        if timestep is None:
            self._refuse("tells its denoiser no `timestep`")
        if isinstance(timestep, Tensor):
            timestep = timestep.flatten()
            if not bool((timestep == timestep[0]).all()):
                self._refuse("gives parts of the latents times of their own (tokens or frames that are held still)")
            timestep = timestep[0]
        try:
            found = step_index(self.scheduler, timestep)
        except (ValueError, IndexError):
            self._refuse(f"tells its denoiser the time {float(timestep):g}, which is none of its scheduler's timesteps")
        index = found
        num_steps = len(self.scheduler.timesteps)
        if self.num_steps is not None:
            num_steps = self.num_steps()
            if found <= self._last or self._last < 0:  # a loop may start late in the schedule, or anew
                self._first = found
            self._last = found
            index = found - self._first
        timesteps = self.scheduler.timesteps
        step = read_step(self.scheduler, timesteps[found])
        last = found - index + num_steps - 1
        if index == 0 and method.inverts and method.reflects(num_steps - 1, num_steps) and last < len(timesteps):
            check_invertible(read_step(self.scheduler, timesteps[last], index=last))
        if method.convention != "exact" and method.reflects(index, num_steps, step.level):
            step = read_step(self.scheduler, timesteps[found], convention=method.convention)
        return index, num_steps, step

    def _check_reflectable(self, inputs: Mapping[str, Any]) -> None:
        for name in STALE_UNDER_REFLECTION:
            if inputs.get(name) is not None:
                raise ValueError(
                    f"`{name}` was computed from x_t, and a reflection evaluates the denoiser elsewhere too: such"
                    " residuals are not supported under a method that reflects, but for a ControlNet's that a"
                    " `ControlHook` defers. Use `method=None`, or `reflection_steps=0`."
                )

    def _check_stepped(self, pending: Pending, output: Any, sample: Any) -> int:
        """Refuse a step from other latents, or with another prediction, than those of the denoiser's call.

        Returns:
            How many times the scheduler's batch holds the latents: 2 where it steps the doubled batch.
        """
        x, tolerance = pending.x_t, max(16 * torch.finfo(pending.prediction.dtype).eps, 1e-4)
        times = 2 if pending.doubled and len(sample) == 2 * len(x) else 1
        expected = pending.step.scale * torch.cat([x] * times)
        if sample.shape != expected.shape or not _near(sample, expected, tolerance):
            self._refuse("hands its scheduler other latents than its denoiser")
        branch = full_precision(pending.prediction)
        numbers = [0.0]
        if len(branch) == 2:
            numbers = [self.guidance(), self.guidance() + 1]  # Kandinsky 3: (w + 1) cond - w uncond
        for w in numbers:
            mixed = torch.cat([branch[0] + w * (branch[-1] - branch[0])] * times)
            if output.shape != mixed.shape:
                break
            if _near(output, mixed, tolerance):
                return times
            if self.rescaled() and _near(output, _scaled_like(output, mixed), tolerance):
                return times
            if _near(-output, mixed, tolerance):
                self._refuse("negates what its denoiser predicts before its scheduler gets it")
        self._refuse(
            "hands its scheduler something else than `uncond + guidance_scale * (cond - uncond)` of what its denoiser"
            " predicts"
        )

    def _refuse(self, does: str) -> NoReturn:
        raise ValueError(f"{self.name} is not supported under a method: it {does}. Use it with `method=None`.")


def perturbation(network: nn.Module, method: Method, index: int) -> Settings:
    """What a method sets on the layers of the weak arm's network at step `index`.

    Raises:
        ValueError: it names a layer that the network does not have, or one that cannot be perturbed.
    """
    if method.perturbation is None:
        return []
    blocks = transformer_blocks(network)
    chosen = {name: blocks[name] for name in method.perturbed(index, list(blocks))}
    return skipped(chosen) if method.perturbation == "skip" else identity_attention(chosen)


def later(scheduler: Any, index: int, most: int) -> Callable[[int], Step]:
    """Reads the steps after the one at an index of a scheduler's timesteps, of which `most` are left."""

    def step(n: int) -> Step:
        at = index + min(n, most)
        return read_step(scheduler, scheduler.timesteps[at], index=at)

    return step


class DenoiserHook(ModelHook):
    """Answers one denoiser's calls for its group.

    Networks may be compiled before or after, by `network.compile()`, `torch.compile(network)` or, block by block,
    `network.compile_repeated_blocks()`.

    Args:
        group: the pipeline's.
        weak: the weak arm's network. None: the denoiser itself.
    """

    def __init__(self, group: Group, weak: nn.Module | None = None):
        super().__init__()
        self.group = group
        self.weak = weak
        self.compiled: Any = None

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.group.answer(self, module, args, kwargs)

    def evaluation(self, module: nn.Module) -> Callable[..., Any]:
        """The network itself, compiled if `module.compile()` was called: then its forward is, and not the method's."""
        forward = self.fn_ref.original_forward
        if self.compiled is None:
            return forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with switched([(vars(module), "forward", forward)]):
                return self.compiled(*args, **kwargs)

        return run


def channels(network: nn.Module) -> tuple[int | None, int | None]:
    """How many channels a network takes, and how many it predicts; None where its configuration does not say."""
    config = getattr(network, "config", {})
    taken, predicted = (config.get(name) for name in ("in_channels", "out_channels"))
    return (taken if isinstance(taken, int) else None, predicted if isinstance(predicted, int) else None)


def _broadcasts(x: Tensor, y: Tensor) -> bool:
    """Whether x can be added to y and leave its shape."""
    try:
        return torch.broadcast_shapes(x.shape, y.shape) == y.shape
    except RuntimeError:
        return False


def _near(x: Tensor, y: Tensor, tolerance: float) -> bool:
    x, y = full_precision(x), full_precision(y)
    return bool((x - y).norm() <= tolerance * y.norm() + torch.finfo(x.dtype).tiny)


def _scaled_like(x: Tensor, y: Tensor) -> Tensor:
    """y, each sample times the number from 0 up that brings it nearest to x."""
    x, y = full_precision(x), full_precision(y)
    axes = tuple(range(1, y.ndim))
    return y * ((x * y).sum(axes, keepdim=True) / (y * y).sum(axes, keepdim=True).clamp(min=1e-30)).clamp(min=0)
