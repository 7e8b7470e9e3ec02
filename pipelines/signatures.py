"""The arguments of a family's call: the stock pipeline's, the weak arm's, and the methods' options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from typing import Any

from w2sd_video import plugins
from w2sd_video.errors import did_you_mean, shown
from w2sd_video.methods import METHODS, OPTIONS, Method, no_method
from w2sd_video.methods import find as find_method
from w2sd_video.methods.method import ARM_GUIDANCES, finite, own_options

# Arguments that a call has only if the stock pipeline has the argument on the right, or one of several.
NEEDS = {
    "weak_prompt": "prompt",
    "weak_negative_prompt": "prompt",
    "weak_prompt_embeds": "prompt_embeds",
    "weak_negative_prompt_embeds": "prompt_embeds",
    "weak_pooled_prompt_embeds": "pooled_prompt_embeds",
    "weak_negative_pooled_prompt_embeds": "pooled_prompt_embeds",
    "weak_adapter_scales": "cross_attention_kwargs attention_kwargs joint_attention_kwargs",
    "weak_ip_adapter_scale": "ip_adapter_image",
    "weak_motion_scale": "num_frames",
    "weak_controlnet_conditioning_scale": "controlnet_conditioning_scale",
    "weak_routing": "class_labels",
    "weak_skip_layers": "num_inference_steps",
    "strong_embedded_guidance": "true_cfg_scale",
    "weak_embedded_guidance": "true_cfg_scale",
    "strong_guidance_scale_2": "guidance_scale_2",
    "weak_guidance_scale_2": "guidance_scale_2",
}

# Deprecated arguments of diffusers, which stock pipelines read from their **kwargs.
DEPRECATED = ("callback", "callback_steps")


def has(parameters: Collection[str], name: str) -> bool:
    """Whether a stock pipeline's call has the argument that one of ours needs; see `NEEDS`."""
    return name not in NEEDS or any(each in parameters for each in NEEDS[name].split())


def keyword(name: str, default: Any, kind: Any) -> inspect.Parameter:
    """A keyword-only parameter of type `kind`."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def named(function: Callable[..., Any], cls: type) -> Callable[..., Any]:
    """Gives a function the names of a method of a class, for `help` and tracebacks."""
    function.__module__, function.__qualname__ = cls.__module__, f"{cls.__qualname__}.{function.__name__}"
    return function


def with_keywords(signature: inspect.Signature, parameters: list[inspect.Parameter]) -> inspect.Signature:
    """A signature with more keyword-only parameters, before its `**kwargs` if it has them."""
    old = list(signature.parameters.values())
    rest = [p for p in old if p.kind == p.VAR_KEYWORD]
    return signature.replace(parameters=[*(p for p in old if p not in rest), *parameters, *rest])


def options_of(method: Any, stock: Collection[str]) -> list[str]:
    """The arguments of a call that are options of methods: of all built-in ones, and of the plug-in in use.

    Args:
        stock: the stock call's arguments, such as `generator`. They stay the stock call's even if a plug-in has a field
            of the same name.
    """
    cls = type(method)
    if isinstance(method, str) and method not in METHODS and method in plugins.installed("method"):
        cls = find_method(method)
    if not issubclass(cls, Method):
        return list(OPTIONS)
    own = [field.name for field in own_options(cls)]
    return [*OPTIONS, *(name for name in own if name not in OPTIONS and name not in stock)]


def check_names(cls: Any, names: Iterable[str], options: Collection[str], method: Any) -> None:
    """Raise a TypeError for arguments that neither the stock pipeline's call nor ours reads.

    A stock call that ends in **kwargs ignores unknown names. Without a method, this check lets such a call ignore them,
    except names that begin with `weak_` or `strong_`.

    Args:
        cls: the pipeline's class.
        names: the names of the call's arguments.
        options: the names that are options of methods.
    """
    stock = inspect.signature(cls.stock.__call__).parameters.values()
    drops = any(p.kind == p.VAR_KEYWORD for p in stock)
    known = [*cls.arguments, *(name for name in options if name not in cls.arguments)]
    for name in names:
        if name in known or (drops and name in DEPRECATED):
            continue
        if method is not None or not drops or name.startswith(("weak_", "strong_")):
            raise TypeError(f"`{name}` is no argument of {cls.__name__}; {did_you_mean(name, known)}")


def method_of(name: Any, options: dict[str, Any]) -> Method:
    """The method of a name, with those of the options that it takes.

    Raises:
        ValueError: there is no such method, or an option that it does not take is set to another value than a default.
    """
    if not isinstance(name, str) or (name not in METHODS and name not in plugins.installed("method")):
        raise no_method(name)
    cls = find_method(name)
    takes = inspect.signature(cls).parameters
    for option, value in options.items():
        defaults = [OPTIONS.get(option), *(f.default for m in METHODS.values() for f in fields(m) if f.name == option)]
        if option not in takes and value not in defaults:
            accepted = ", ".join(field.name for field in own_options(cls))
            raise ValueError(
                f"`{option}` is {shown(value)}, and is no option of `method={name!r}`, which has {accepted}."
            )
    own = {name: value for name, value in options.items() if name in takes}
    for arm in (arm for arm in ARM_GUIDANCES if arm in own):
        finite(f"{arm}_scale", own[arm])  # as a call has it
    return cls(**{name: value for name, value in own.items() if value is not None or OPTIONS.get(name, 0) is not None})
