"""What the argument of an error is, as a setting and as the command line's option for it."""

from __future__ import annotations

from .settings import Settings, names, of
from .validation import by_option

OF_METHOD = "option of "  # what the argument of an error begins with that is of an option which a method does not have


def whole(argument: str) -> str:
    """The setting that an error's argument is, or is a part of: `controlnet` of `controlnet.strong`."""
    if argument.startswith(OF_METHOD):
        return "options"
    name = argument.partition(".")[0]
    parts = {"lora": "adapters", "image_encoder": "ip_adapter", "schedules": "scheduler"}
    return parts.get(name, name)


def option(argument: str) -> str:
    """The command line's name for an argument, or a part of one, as in `controlnet.strong`; else its own."""
    name = whole(argument)
    if name in names() and (options := of(name).options):
        return options[0].partition("/")[0]
    return argument


def of_setting(name: str) -> str:
    """The usual option of a setting that is called by its name or by that of any of its options; else empty."""
    said = option(by_option(Settings).get(name, name))
    return said if said.startswith("--") else ""
