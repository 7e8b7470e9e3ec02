"""Attaches a method to the denoiser and the scheduler of a diffusers pipeline, which keeps its own loop.

One step of the loop, from top to bottom:

    pipeline                   hook                                          method and networks
    --------                   ----                                          -------------------
    denoiser(x_t, ...)   ->    DenoiserHook -> Group.answer
                               read_call: what was sent, as `Sent`
                               the call joins the `Turn` of this step
                               Arms binds a `BoundArm` for each network  ->  method(x_t, step, strong, weak)
                                                                             evaluates the arms as it needs
                         <-    the answer as a `Traced` tensor           <-  `Answer`: p, d, e
    mixes by its guidance,     `Tape` records this arithmetic
    rescales, ...
    scheduler.step(...)  ->    Group.step: replays the tape on x_t, to check
                               the sample, and on d, for its layout;
                               the scheduler's own step from x_t + d
    the next latents     <-

If the pipeline calls its denoiser once for each branch, the first answers have no values yet. The group fills them in
when it has seen the last call, or when the pipeline reads one. Without a method a `Counter` takes the group's place,
which passes everything through and counts.
"""

from .arguments import DENOISERS, check_same_casting
from .arm import Evaluations, branches, parameters_of
from .attach import HOOK_NAME, apply_reflection, attached, check_free, check_multiple, stepping
from .binding import Arms, check_perturbation
from .control import ControlHook
from .counter import Counter
from .denoiser import DenoiserHook
from .form import Form
from .group import Group
from .host import Host
from .recording import Difference, Recorder
from .sent import Conditioning

__all__ = [
    "DENOISERS",
    "HOOK_NAME",
    "Arms",
    "Conditioning",
    "ControlHook",
    "Counter",
    "DenoiserHook",
    "Difference",
    "Evaluations",
    "Form",
    "Group",
    "Host",
    "Recorder",
    "apply_reflection",
    "attached",
    "branches",
    "check_free",
    "check_multiple",
    "check_perturbation",
    "check_same_casting",
    "parameters_of",
    "stepping",
]
