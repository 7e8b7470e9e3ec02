"""Records what a method did at every step, in numbers: the size and the direction of its change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..levels import Step
from ..methods import Answer


@dataclass(frozen=True)
class Difference:
    """What a method did at one step; a number for each sample of the batch.

    Attributes:
        step: the index of the step, from 0, the noisiest.
        timestep: the scheduler's timestep.
        sigma: the noise level, of x = alpha z + sigma eps.
        of: "latents" for a displacement d = x~_t - x_t (W2SD's is b / a times the weak-to-strong difference of the
            predictions); "prediction" for an addition e to the mixed prediction.
        norm: |d| / |x_t|; or |e| / |p|, with p the conditional prediction.
        cosine: the cosine of d (or e) with that of the step before. None if that step was not changed.
        still: for a video, the share of |d|^2 that is in the mean of d over frames (or of e).
        frames: for a video, |d_f| / |x_t,f| (or |e_f| / |p_f|) of each frame f.
    """

    step: int
    timestep: float
    sigma: float
    of: str
    norm: list[float]
    cosine: list[float] | None
    still: list[float] | None
    frames: list[list[float]] | None


def _norms(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.square().sum(axes).sqrt()


class Recorder:
    """Keeps a `Difference` in `steps` for every step that a method changes; of a further call, after those before.

    Args:
        latents: also keep x_t and the displacement (or addition) on the CPU, in `tensors`: (step, x_t, difference).
    """

    def __init__(self, latents: bool = False):
        self.steps: list[Difference] = []
        self.tensors: list[tuple[int, Tensor, Tensor]] = []
        self._latents = latents
        self._last: Tensor | None = None

    def add(self, step: Step, x_t: Tensor, answer: Answer, time: int | None = 2) -> None:
        """Records a step's answer, unless it leaves the step as it is.

        Args:
            time: the axis of the frames in a video's latents. None: there is none.
        """
        if answer.d is not None:
            of, difference, whole = "latents", answer.d, x_t
        elif answer.e is not None:
            of, difference, whole = "prediction", answer.e, answer.p[-1]
        else:
            return
        difference, whole = difference.float(), whole.float()
        axes = tuple(range(1, difference.ndim))
        norm = _norms(difference, axes)
        cosine = still = frames = None
        before = self.steps[-1].step if self.steps else None
        if self._last is not None and before == step.index - 1 and self._last.shape == difference.shape:
            both = (norm * _norms(self._last, axes)).clamp(min=1e-30)
            cosine = ((difference * self._last).sum(axes) / both).tolist()
        if difference.ndim == 5 and time is not None:
            mean = difference.mean(time)
            still = (difference.shape[time] * mean.square().sum((1, 2, 3)) / norm.square().clamp(min=1e-30)).tolist()
            of_frame = tuple(axis for axis in axes if axis != time)
            frames = (_norms(difference, of_frame) / _norms(whole, of_frame).clamp(min=1e-30)).tolist()
        share = (norm / _norms(whole, axes).clamp(min=1e-30)).tolist()
        self._last = difference
        self.steps.append(Difference(step.index, step.timestep, step.level.sigma, of, share, cosine, still, frames))
        if self._latents:
            # Copied because some pipelines, as Kandinsky 5, write each step into the same tensor.
            self.tensors.append((step.index, x_t.to("cpu", copy=True), difference.cpu()))

    def rows(self) -> list[dict[str, Any]]:
        """The recorded steps as dictionaries, for JSON."""
        return [asdict(each) for each in self.steps]
