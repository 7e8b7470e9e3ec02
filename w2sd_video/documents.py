"""Reads the small files that people write or edit by hand: prompts, presets (YAML) and sidecars (JSON).

Such a file may be damaged or hostile. To bound time and memory, the size of a file, its nesting depth and the number of
values after YAML's aliases are expanded are limited. Duplicate keys are refused.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from copy import deepcopy
from functools import lru_cache
from typing import Any

import yaml

MOST_BYTES = 16 * 2**20
MOST_YAML_BYTES = 256 * 2**10
MOST_VALUES = 10_000
DEEPEST = 32
_SCALARS = ("str", "int", "float", "bool", "null", "seq", "map")
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{name}" for name in _SCALARS))


class Unreadable(ValueError):
    """The content of a file cannot be used; the message starts with the path and says what is wrong."""


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The bytes of a small file.

    A pipe, such as `<(command)` in a shell, is read to its end; one to which no process writes counts as empty.

    Raises:
        OSError: it cannot be opened.
        Unreadable: it is larger than `most` bytes.
    """
    path = os.path.expanduser(path)
    if "\0" in path:
        raise Unreadable(f"{path!r}: a path has no NUL character")
    # Without O_NONBLOCK, opening a named pipe waits until a process writes to it.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISDIR(os.fstat(file).st_mode):
        os.close(file)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with open(file, "rb") as opened:
        if stat.S_ISFIFO(os.fstat(file).st_mode):
            os.set_blocking(file, True)
        data = opened.read(most + 1) or b""
    if len(data) > most:
        raise Unreadable(f"{path}: it is larger than {most // 2**10} KiB")
    return data


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """The text of a small file in UTF-8, with or without a byte order mark; see `read_bytes`.

    Raises:
        OSError: it cannot be opened.
        Unreadable: it is larger than `most` bytes, or not UTF-8.
    """
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: not a text in UTF-8, at byte {error.start}") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file. `NaN` and `Infinity`, which are not JSON, are refused.

    Raises:
        OSError: it cannot be opened.
        Unreadable: it is not JSON, or has a duplicate key.
    """
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=once)
    except RecursionError:
        raise Unreadable(f"{path}: not a JSON file: it nests too deep") from None
    except ValueError as error:
        raise Unreadable(f"{path}: not a JSON file: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of JSON in which no key may stand twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return values


def read_yaml(path: str | os.PathLike[str], most: int = MOST_YAML_BYTES, most_values: int = MOST_VALUES) -> Any:
    """The value in a YAML file; see `parse_yaml`.

    Args:
        most: the most bytes.
        most_values: the most values.

    Raises:
        OSError: it cannot be opened.
        Unreadable: it is not YAML, `parse_yaml` does not accept it, or it is too large.
    """
    text = read_text(path, most)
    try:
        return deepcopy(_parsed(text, most_values))
    except ValueError as error:
        raise Unreadable(f"{path}: not a YAML file: {error}") from None


def parse_yaml(text: str) -> Any:
    """The value in a YAML text, in numbers, texts, booleans, lists and dictionaries.

    Scalars follow YAML 1.2 where 1.1 surprises: `1e-3` is a number, `010` is ten; `no`, `on` and `2024-05-01` are
    texts.

    Raises:
        ValueError: the text is not YAML, has a duplicate key or a custom tag, or nests or expands too far; says where.
    """
    return deepcopy(_parsed(text, MOST_VALUES))


@lru_cache(maxsize=128)  # a preset is read many times, for itself and for presets that extend it
def _parsed(text: str, most_values: int) -> Any:
    try:
        _check_size(text, most_values)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except (KeyError, OverflowError, AttributeError) as error:  # a tag that does not fit its text
        raise ValueError(f"it has a value that cannot be read ({error})") from None


def _check_size(text: str, most_values: int) -> None:
    """Refuses a text with too many values or too deep nesting before it is loaded. An alias counts as its target."""
    open_sizes: list[int] = [0]
    names: list[str | None] = [None]
    sizes: dict[str, int | None] = {}
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag not in _TAGS:
            raise ValueError(f"tag {event.tag!r} is not accepted; give plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            if event.anchor:
                sizes[event.anchor] = None
            names.append(event.anchor)
            open_sizes.append(1)
            if len(open_sizes) > DEEPEST:
                raise ValueError(f"it nests deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = open_sizes.pop(), names.pop()
            open_sizes[-1] += size
            if name:
                sizes[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size_of = sizes.get(event.anchor or "", 1)  # the loader refuses an unknown alias
            if size_of is None:
                raise ValueError(f"alias *{event.anchor} is within its own anchor")
            open_sizes[-1] += size_of
        if sum(open_sizes) > most_values:
            raise ValueError(f"it holds more than {most_values} values")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers and booleans, and without duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError("a key is a list or a dictionary; give a name")
            if (key.tag, key.value) in seen:
                raise ValueError(f"key {key.value!r} stands twice")
            seen.add((key.tag, key.value))
        return node

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        # JSON, which is YAML too, writes a character beyond U+FFFF as two escapes.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def construct_yaml_int(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        try:
            return int(text, 0 if re.match("[-+]?0[bxX]", text) else 10)  # 010 is ten, and no octal number
        except ValueError:  # a tag !!int of another text, or thousands of digits
            raise ValueError(f"{text[:40]!r}{' and so on' * (len(text) > 40)} is no whole number to be read") from None

    def construct_yaml_float(self, node: Any) -> float:
        return float(self.construct_scalar(node).replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


_FIRST = {  # for each kind of scalar, a pattern of its text, and the characters with which it starts
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0b[01_]+|0[xX][0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
_Loader.yaml_implicit_resolvers = {}
for _kind, (_written, _starts) in _FIRST.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_written})$"), list(_starts))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def words_as_booleans(value: Any) -> Any:
    """Converts `yes`, `no`, `on` and `off` within a value to booleans, as in YAML 1.1."""
    if isinstance(value, dict):
        return {key: words_as_booleans(each) for key, each in value.items()}
    if isinstance(value, list):
        return [words_as_booleans(each) for each in value]
    words = {"yes": True, "on": True, "no": False, "off": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def finite(value: Any, digits: int | None = None) -> Any:
    """The value with None in place of NaN and infinite numbers, which JSON cannot express.

    Args:
        digits: round numbers with a fraction to so many significant digits.
    """
    if isinstance(value, dict):
        return {key: finite(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each, digits) for each in value]
    if not isinstance(value, float):
        return value
    return None if not math.isfinite(value) else value if digits is None else float(f"{value:.{digits}g}")
