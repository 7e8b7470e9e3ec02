"""Whether the two arms of a pipeline are certainly the same, so that a method costs evaluations for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from ..methods import S2WD, W2SD, AutoGuidance, Method, Optimistic

# Methods that change a step by the difference of the arms alone. Z-Sampling and its like have one network on purpose.
BY_DIFFERENCE = (W2SD, S2WD, AutoGuidance, Optimistic)


def equal_arms(
    method: Method,
    weak: Mapping[str, nn.Module],
    second: Iterable[tuple[float | None, float | None]],
    own: Iterable[object],
) -> str | None:
    """What to say where a method reflects by arms that certainly do not differ. None: they may.

    Args:
        weak: the weak arm's networks that are not the strong arm's own. Equal copies count as different: what a network
            computes depends on more than its parameters.
        second: guidance of the strong and the weak arm that replaces the method's while a second denoiser runs.
        own: what else may be set for one of the arms. None: it is not.
    """
    more = method.convention != "exact" or getattr(method, "inversion_noise", 0.0) != 0
    strong_w, weak_w = method.strong_guidance, method.weak_guidance
    pairs = [(strong_w if s is None else s, weak_w if w is None else w) for s, w in [(None, None), *second]]
    if type(method) not in BY_DIFFERENCE or more or any(s != w for s, w in pairs):
        return None
    if not weak and all(each is None for each in own):
        return (
            f"the two arms do not differ: both have one network, guidance {weak_w:g} and the same inputs, so"
            f" {type(method).__name__} costs evaluations and has no effect beyond its inverse's error. Give the weak"
            " arm another network, guidance, prompt or setting"
        )
    return None
