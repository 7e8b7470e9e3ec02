"""Checks of a call, before any network runs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from diffusers.callbacks import (
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

from w2sd_video import arms
from w2sd_video.errors import shown
from w2sd_video.families import least_steps
from w2sd_video.hook import Conditioning, check_multiple, check_perturbation, check_same_casting
from w2sd_video.levels import Level, Step, check_invertible
from w2sd_video.methods import Method
from w2sd_video.schedulers import check_scheduler, read_step, shifted

from .weak_arm import WeakArm, batch_size, is_of

# Callbacks of diffusers that end guidance during a call.
CUTOFFS = (SDCFGCutoffCallback, SDXLCFGCutoffCallback, SDXLControlnetCFGCutoffCallback, SD3CFGCutoffCallback)


class Checks(WeakArm):
    """The checks of a call. A family adds its own. Part of `Reflection`; not used alone.

    A family describes its stock pipeline by these attributes:

    - `guidance_name`: the argument of the call that is the guidance of the final step.
    - `guides_below_1`: whether it guides at every number but 1, or only over 1.
    - `guided_by`: the arguments, in words, that make it evaluate the unconditional branch, if nothing else can.
    - `scales_noise`: whether it scales its initial noise by the scheduler's `init_noise_sigma`.
    - `own_scheduler`: the class of schedulers that it alone can step by, as it gives them more than others do.
    - `agreeing`: the entries in which the configurations of the two arms' denoisers have to agree.
    - `one_per_prompt`: whether it makes one video of a prompt, whatever `num_videos_per_prompt` is.
    - `tokens`: whether frames, height and width share one axis of its videos' latents.
    - `least_steps`: the fewest steps, whatever the scheduler; see `families.least_steps`.
    """

    guidance_name: ClassVar[str] = "guidance_scale"
    guides_below_1: ClassVar[bool] = False
    guided_by: ClassVar[str] = "a `guidance_scale` over 1"
    scales_noise: ClassVar[bool] = True
    own_scheduler: ClassVar[str] = ""
    agreeing: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels")
    one_per_prompt: ClassVar[bool] = False
    tokens: ClassVar[bool] = False
    least_steps: ClassVar[int] = 1

    @property
    def multiple(self) -> int:
        """Height and width, in pixels, have to be multiples of this, where it differs between models of a family."""
        return 1

    def _check_call(
        self,
        method: Method,
        call: dict[str, Any],
        weak_inputs: dict[str, Any],
        scales: dict[str, Any],
        second: dict[str, float | None],
    ) -> tuple[Conditioning, bool]:
        """Refuses a call that the method cannot serve, and encodes the weak arm's prompt.

        Args:
            second: the arms' guidance in the reflection while the second of two experts runs. None: the method's.

        Returns:
            The weak arm's conditioning; and whether the denoiser needs both branches where the stock pipeline would
            send one alone.
        """
        self._check_takes(method, weak_inputs | scales)
        levels = self._check_run(method, call, weak_inputs)
        num_steps = len(levels)
        self._check_scales(method, scales)
        for name in ("strong_embedded_guidance", "weak_embedded_guidance"):
            if scales[name] is not None:
                check_multiple(name, scales[name], call["guidance_scale"])
        guidance_2: dict[str, Any] = {}
        for name, number in second.items():
            if number is not None:
                _check_scale(name, number)
                guidance_2[name.removesuffix("_scale_2")] = number
        of_second = replace(method, **guidance_2) if guidance_2 else method
        conditioning = Conditioning()
        reflection = [*method.guidances, *of_second.guidances] if method.reflects(0, num_steps) else ()
        forced_halves = self._unconditional(call, reflection)
        if method.reflects(0, num_steps) and method.uses_weak:
            for network in self._strong_networks().values() if method.perturbation else ():
                check_perturbation(network, method, num_steps)
            encoding = of_second if method.weak_guidance == 1 else method  # the one that may need a negative prompt
            loras, guides = scales["weak_adapter_scales"] or {}, forced_halves or self._guides(call)
            conditioning = self._weak_conditioning(encoding, call, weak_inputs, loras, guides)
        self._check_callback(method, call, levels, forced_halves)
        return conditioning, forced_halves

    def _check_takes(self, method: Method, arguments: dict[str, Any]) -> None:
        """Refuse arguments that tell apart arms which the method does not have."""
        name = next((name for name, value in arguments.items() if value is not None and not method.takes(name)), None)
        if name is None:
            return
        arms = "has no weak arm" if name.startswith("weak_") else "has no guidance of the reflection"
        if method.uses_weak and name.startswith("weak_"):
            apart = "guidance alone tells" if method.guides else "perturbed layers alone tell"
            arms = f"uses the strong model in both arms, which {apart} apart"
        raise ValueError(f"`{name}` is given, but {type(method).__name__} {arms}: leave it out.")

    def _guidance(self, call: dict[str, Any]) -> float:
        """The effective guidance of the final step: 1 if the call gives the stock pipeline no unconditional branch."""
        return call[self.guidance_name]

    def _guides(self, call: dict[str, Any]) -> bool:
        """Whether the stock pipeline evaluates the unconditional branch by itself."""
        return self.guides_at(self._guidance(call))

    @classmethod
    def guides_at(cls, guidance: float) -> bool:
        """Whether the stock pipeline evaluates the unconditional branch by itself at a guidance number."""
        return guidance != 1 if cls.guides_below_1 else guidance > 1

    @classmethod
    def can_be_made_to_guide(cls) -> bool:
        """Whether the stock pipeline can be made to evaluate the unconditional branch where it would not by itself."""
        return hasattr(cls.stock, "do_classifier_free_guidance")

    def _unconditional(self, call: dict[str, Any], reflection: Collection[float]) -> bool:
        """Whether a call needs the unconditional branch, and the stock pipeline would leave it out.

        Args:
            reflection: the guidance numbers in the reflection.

        Raises:
            ValueError: so it is, and the stock pipeline cannot be made to evaluate it.
        """
        second = call.get("guidance_scale_2")
        guidances = [self._guidance(call), *([] if second is None else [second]), *reflection]
        needed = next((w for w in guidances if w != 1), None)
        if self._guides(call) or needed is None:
            return False
        if not self.can_be_made_to_guide():
            raise ValueError(
                f"a guidance of {needed:g} needs the unconditional branch, which {self.stock.__name__} evaluates only"
                f" with {self.guided_by}: give that, or guidance 1 everywhere."
            )
        return True

    def _check_numbers(self, call: dict[str, Any]) -> None:
        steps = call["num_inference_steps"]
        for name in (self.guidance_name, "guidance_scale", "guidance_scale_2"):
            guidance: Any = call.get(name)
            if guidance is None and (name not in call or name != self.guidance_name):
                continue
            if not is_of(guidance, int, float) or not math.isfinite(guidance):
                raise ValueError(f"`{name}` has to be a finite number, but is {guidance!r}.")
        custom = any(call.get(name) is not None for name in ("timesteps", "sigmas"))
        least = least_steps(self.least_steps, self.scheduler.config)
        if not custom and (not is_of(steps, int) or steps < least):
            raise ValueError(f"`num_inference_steps` has to be a whole number from {least}, but is {steps!r}.")

    def _check_initial_noise_scale(self, call: dict[str, Any]) -> None:
        """Refuse a scheduler without the scale of the initial noise that the stock pipeline needs."""
        if self.scales_noise and not hasattr(self.scheduler, "init_noise_sigma"):
            raise ValueError(
                f"`scheduler` has the class {type(self.scheduler).__name__}, which {self.stock.__name__} does not take;"
                " accepted: one that scales its first noise, as EulerDiscreteScheduler, or for flow matching"
                " DPMSolverMultistepScheduler with prediction_type='flow_prediction' and use_flow_sigmas=True."
            )

    def _check_run(self, method: Method, call: dict[str, Any], weak_inputs: dict[str, Any]) -> Sequence[Level | None]:
        """Refuse a call that the method cannot serve; return the levels of its steps, as `_steps` does."""
        self._check_inputs(call)
        denoisers = self._strong_networks().values()
        if any(denoiser.config.get("time_cond_proj_dim") is not None for denoiser in denoisers):  # type: ignore[union-attr, operator]
            raise ValueError(
                f"`{self.denoiser_name}` embeds its guidance scale (`time_cond_proj_dim` is set, as in"
                " guidance-distilled models), so an arm's guidance cannot be chosen apart. Use `method=None`, or one"
                " without it."
            )
        self._check_denoisers_agree(call)
        videos = call.get("num_videos_per_prompt")
        if self.one_per_prompt and videos not in (None, 1):
            raise ValueError(
                f"`num_videos_per_prompt` is {shown(videos)}, and {self.stock.__name__} makes one video of a prompt,"
                " whatever it is: give the prompt several times, in a list, and a list of generators."
            )
        sizes = [n for n in ("negative_original_size", "negative_target_size") if call.get(n) is not None]
        if sizes and batch_size(call) > 1:
            raise ValueError(
                f"`{sizes[0]}` is accepted for one video at a time under a method: diffusers pairs the size"
                f" conditioning of a batch wrongly; got {batch_size(call)} prompts."
            )
        check_scheduler(self.scheduler, convention=method.convention)
        levels, last = self._steps(call)
        num_steps = len(levels)
        method.check_steps(num_steps)
        if last is not None and method.inverts and method.reflects(num_steps - 1, num_steps, last.level):
            check_invertible(last)
        method.check((1,) * (3 if self.tokens else 5 if "num_frames" in call else 4))
        self._check_weak_inputs(call, weak_inputs)
        return levels

    def _check_inputs(self, call: dict[str, Any]) -> None:
        """Runs the stock pipeline's own check, which its call repeats, before the weak arm's prompt is encoded."""
        if not hasattr(self, "check_inputs"):
            return
        sides = [name for name in ("height", "width") if name in call]
        size: dict[str, Any] = {name: call[name] or self._usual_side(name, call[name]) for name in sides}
        arguments = {**call, **size, "callback_steps": None}
        self.check_inputs(
            **{n: arguments[n] for n in inspect.signature(self.check_inputs).parameters if n in arguments}
        )

    def _usual_side(self, name: str, value: Any) -> int | None:
        """The height or the width that the stock pipeline uses if a call gives none.

        Returns:
            None if the pipeline chooses it itself, from a picture or a table.

        Raises:
            ValueError: the pipeline needs a number.
        """
        usual = inspect.signature(self.stock.__call__).parameters[name].default
        if usual is not None:
            raise ValueError(f"`{name}` is {value!r}: give pixels; the default of {self.stock.__name__} is {usual}.")
        if (side := getattr(self, f"default_{name}", None)) is not None:
            return int(side)
        config = getattr(self, self.denoiser_name).config
        size = getattr(self, "default_sample_size", None) or config.get(f"sample_{name}") or config.get("sample_size")
        scale = getattr(self, "vae_scale_factor_spatial", None) or getattr(self, "vae_scale_factor", None)
        if size is None or scale is None:
            return None
        return int(scale * (size if isinstance(size, int) else size[name == "width"]))

    def _steps(self, call: dict[str, Any]) -> tuple[Sequence[Level | None], Step | None]:
        """The level that each step of the run starts from, and its last step, from a copy of the scheduler.

        Returns:
            None in place of a level that depends on the sample's size; and of the step in a run without steps.

        Raises:
            ValueError: a step cannot be read.
        """
        scheduler = copy.deepcopy(self.scheduler)
        shift = shifted(scheduler)
        timesteps, _ = retrieve_timesteps(
            scheduler, call["num_inference_steps"], "cpu", call.get("timesteps"), call.get("sigmas"), **shift
        )
        read_step(scheduler, timesteps[0])
        num_steps, end = len(timesteps), call.get("denoising_end")
        if isinstance(end, float) and 0 < end < 1:  # the stock pipelines' own rule
            total = scheduler.config.num_train_timesteps
            num_steps = sum(float(t) >= int(round(total - end * total)) for t in timesteps)
        steps = [read_step(scheduler, timesteps[index], index=index) for index in range(num_steps)]
        return [None if shift else step.level for step in steps], steps[-1] if steps else None

    def _check_callback(
        self, method: Method, call: dict[str, Any], levels: Sequence[Level | None], forced_halves: bool
    ) -> None:
        """Refuse a diffusers callback that ends guidance before the last step that needs it.

        Args:
            levels: the levels of the steps, as `_steps` returns them.
        """
        callback, num_steps = call.get("callback_on_step_end"), len(levels)
        for each in getattr(callback, "callbacks", [callback]):
            if not isinstance(each, CUTOFFS):
                continue
            at, ratio = each.config.cutoff_step_index, each.config.cutoff_step_ratio
            after = (int(num_steps * ratio) if at is None else at) + 1  # the first step without guidance
            guided = any(w != 1 for w in method.guidances)
            reflects = [i for i, level in enumerate(levels) if method.reflects(i, num_steps, level) and guided]
            if after < num_steps and (forced_halves or (reflects and reflects[-1] >= after)):
                raise ValueError(
                    f"`callback_on_step_end` is a {type(each).__name__}, which ends guidance after step {after} of"
                    f" {num_steps}, and later steps need the unconditional branch. Accepted: `reflection_steps` up to"
                    f" {after} with a `guidance_scale` over 1, guidance 1 for both arms of the reflection, or no such"
                    " callback."
                )

    def _check_denoisers_agree(self, call: dict[str, Any]) -> None:
        """Refuse denoisers of two arms that take different latents."""
        for name, strong in self._strong_networks().items():
            weak = getattr(self, f"weak_{name}")
            if weak is not None:
                check_same_casting(type(self).__name__, weak, strong)
                self._check_networks(name, strong, weak)

    @classmethod
    def agree_in(cls) -> tuple[str, ...]:
        """All entries in which the configurations of the two arms' denoisers have to agree."""
        return cls.agreeing

    def _check_networks(self, name: str, strong: Any, weak: Any) -> None:
        if weak.dtype != strong.dtype:
            raise ValueError(
                f"`weak_{name}` is in {weak.dtype} and `{name}` in {strong.dtype}; accepted: one"
                " dtype for both, as after `pipe.to(dtype)`."
            )
        for key in self.agree_in():
            strong_value, weak_value = (_plain(network.config.get(key)) for network in (strong, weak))
            if strong_value != weak_value:
                raise ValueError(
                    f"`weak_{name}` has {key} {weak_value}, and `{name}` {strong_value}; accepted: the same."
                )

    def _check_scales(self, method: Method, scales: dict[str, Any]) -> None:
        """Refuse scales of adapters or modules that the weak arm does not have."""
        networks, own = self._evaluated(method), self._weak_networks(method)
        where = next((f"weak_{name}" for name in own), next(iter(networks)))
        loras = scales["weak_adapter_scales"]
        if loras is not None:
            if not isinstance(loras, dict):
                accepted = 'a dictionary of scales by adapter name, such as {"style": -1.5}'
                raise ValueError(f"`weak_adapter_scales` is {loras!r}: give {accepted}.")
            loaded_loras: dict[str, Any] = {}
            for network in networks.values():
                for name, layers in arms.adapters(network).items():
                    loaded_loras.setdefault(name, []).extend(layers)
            for encoder in self._strong_text_encoders().values():
                loaded_loras |= arms.adapters(encoder)
            for name, scale in loras.items():
                if name not in loaded_loras:
                    raise ValueError(self._no_lora(name, where, loaded_loras))
                _check_scale(f"weak_adapter_scales[{name!r}]", scale)
                if any(layer.merged for layer in loaded_loras[name]):
                    raise ValueError(f"`weak_adapter_scales` names {name!r}, which is fused: `unfuse_lora()` first.")
        ip = scales["weak_ip_adapter_scale"]
        if ip is not None:
            loaded = [each for network in networks.values() for each in arms.ip_adapter_processors(network)]
            if not loaded:
                raise ValueError(f"`weak_ip_adapter_scale` is {ip!r}, and `{where}` has no IP-Adapter loaded.")
            for each in ip if isinstance(ip, list) else [ip]:
                _check_scale("weak_ip_adapter_scale", each)
            if isinstance(ip, list) and len(ip) != len(loaded[0].scale):
                several = f"{len(ip)} scales for {len(loaded[0].scale)} IP-Adapters"
                raise ValueError(f"`weak_ip_adapter_scale` has {several}.")
        if scales["weak_motion_scale"] is not None:
            _check_scale("weak_motion_scale", scales["weak_motion_scale"])
        if scales["weak_skip_layers"] is not None:
            for network in networks.values():
                arms.skip_layers(network, scales["weak_skip_layers"])
        for name in ("strong_embedded_guidance", "weak_embedded_guidance"):
            if scales[name] is not None:
                self._check_embedded(
                    name, scales[name], networks if name.startswith("weak") else self._strong_networks()
                )
        control = scales["weak_controlnet_conditioning_scale"]
        for each in control if isinstance(control, list) else [control]:
            if each is not None:
                _check_scale("weak_controlnet_conditioning_scale", each)
        nets = len(getattr(getattr(self, "controlnet", None), "nets", [None]))
        if isinstance(control, list) and len(control) != nets:
            raise ValueError(f"`weak_controlnet_conditioning_scale` has {len(control)} scales for {nets} ControlNets.")

    def _check_embedded(self, name: str, value: Any, networks: dict[str, Any]) -> None:
        """Refuse an embedded guidance if a network embeds none."""
        _check_scale(name, value)
        without = [key for key, network in networks.items() if not network.config.get("guidance_embeds")]
        if without:
            raise ValueError(f"`{name}` is {value!r}, and `{without[0]}` embeds no guidance (`guidance_embeds`).")

    def _no_lora(self, name: str, where: str, loaded: dict[str, Any]) -> str:
        """The message for a LoRA that the weak arm does not have; `where` is the weak arm's network."""
        accepted = f"accepted: {', '.join(map(repr, loaded))}" if loaded else "it has none"
        strong = where.removeprefix("weak_")
        if where != strong and name in arms.adapters(getattr(self, strong)):
            return (
                f"`weak_adapter_scales` names {name!r}, which was loaded into `{strong}`, the strong arm's"
                f" network. The weak arm's is `{where}`, where it has no effect already: leave"
                f" {name!r} out, or load it there too, by `pipe.{where}.load_lora_adapter(…, adapter_name={name!r})`."
            )
        way = "" if loaded else ": `load_lora_weights` loads one"
        return f"`weak_adapter_scales` names {name!r}, which is no active LoRA of `{where}`; {accepted}{way}."


def _check_scale(name: str, value: Any) -> None:
    if not is_of(value, int, float) or not math.isfinite(value):
        raise ValueError(f"`{name}` has to be a finite number, but is {value!r}.")


def _plain(value: Any) -> Any:
    """A value of a configuration. A list, as JSON has it, becomes a tuple."""
    return tuple(value) if isinstance(value, list) else value
