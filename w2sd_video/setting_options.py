"""What the argument of an error is, as a setting and as the command line's option for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from .errors import Refused
from .settings import names, of

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


def refuse(values: Mapping[str, Any], unknown: Iterable[str]) -> None:
    """Refuses names that are no settings where they are, or are nearly, options of the method.

    Args:
        values: the fields of a request, and the unknown names.
    """
    for name in unknown:
        from .methods import find

        try:
            method = find(values["method"], values.get("method_sha256"))
        except Refused:  # the request's check says why
            return
        options = [field.name for field in fields(method) if field.name not in names()]
        near = get_close_matches(name, [*options, *names()], 1)
        if near and near[0] in options:
            accepted = f"it is no setting. Options of {values['method']} are given as options={{{near[0]!r}: ...}}"
            raise Refused(name, values[name], accepted)
