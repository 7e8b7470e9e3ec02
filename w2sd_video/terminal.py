"""What all commands share: printing, messages for errors, and reading the values of options."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from . import setting_options
from .documents import parse_yaml, words_as_booleans
from .errors import Failed, Named, NotFinite, Refused, out_of_memory, shown
from .interrupts import of_plugin

# Errors of the machine, not of what the user gave.
MACHINE = {getattr(errno, n) for n in "ENOSPC EDQUOT EFBIG EIO ENOMEM EMFILE ENFILE".split() if hasattr(errno, n)}
# The options of arguments that are not settings of a run, for messages.
OPTIONS = {
    "formats": "--gif/--png",
    "stage": "--stage",
    "videos": "VIDEO",
    "out": "--out",
    "rows_file": "--out",
    "dimensions": "--dimensions",
    "prompts": "--prompts",
    "references": "--references",
    "weights": "--weights",
    "backend": "--backend",
    "official_python": "--official-python",
    "schedule": "--schedule",
    "lora": "--lora",
    "image_encoder": "--image-encoder",
    "by": "--by",
}
BROKEN_PIPE = 1  # nobody reads what is said: not all of it arrived


class _Terminal(Console):
    """A console that reports failed writes to stdout, by the stream's name, and ignores failed writes to stderr."""

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
        except OSError as error:
            give_up("stderr" if self.stderr else "stdout")
            if not self.stderr:
                raise unwritable(error) from None

    def on_broken_pipe(self) -> None:  # which rich calls, in place of letting the error through
        give_up("stderr" if self.stderr else "stdout")
        if not self.stderr:
            raise SystemExit(BROKEN_PIPE)


_stdout: IO[str] | None = None  # of a command whose output is data; None: it is `sys.stdout`


def give_up(stream: str) -> None:
    """Discards a stream's buffer and all later output, because Python would fail on it at exit."""
    with suppress(OSError, ValueError):
        of = sys.stderr if stream == "stderr" else _stdout or sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), of.fileno())


def unwritable(error: OSError) -> BaseException:
    """The exception for a failed write to standard output: an error with its name, or an exit if the reader is gone."""
    if isinstance(error, BrokenPipeError):
        return SystemExit(BROKEN_PIPE)
    return OSError(error.errno or errno.EIO, error.strerror or str(error), "standard output")


out = _Terminal(highlight=False, soft_wrap=True)
err = _Terminal(stderr=True, highlight=False, soft_wrap=True)


def say(*lines: str) -> None:
    """Prints lines. If the reader is gone, the program exits, as programs in a pipe do.

    Raises:
        OSError: they cannot be written, as to a full disk.
    """
    try:
        print(*lines, sep="\n", flush=True, file=_stdout)
    except OSError as error:
        give_up("stdout")
        raise unwritable(error) from None


class Command(TyperCommand):
    """A command. If its output is data, what others' code prints, such as a method of one's own, goes to stderr."""

    def invoke(self, ctx: Any) -> Any:
        data = ctx.params.get("form") not in (None, "text", "table")
        with _prints_aside() if data else nullcontext():
            return super().invoke(ctx)


@contextmanager
def _prints_aside() -> Iterator[None]:
    """Leaves stdout to `say` and `out`, and sends all other prints to stderr."""
    global _stdout
    _stdout = out.file = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = None
        out.file = None  # type: ignore[assignment] # which is `sys.stdout` again


def command_line() -> list[str]:
    """The command line, for records; what is not UTF-8 in it is escaped."""
    return ["w2sd-video", *(a.encode(errors="surrogateescape").decode(errors="backslashreplace") for a in sys.argv[1:])]


def parse_path(value: str | Path) -> Path:
    """A path; an empty one, as of a shell's variable that is not set, would be the current folder."""
    if value == "":
        raise typer.BadParameter("'' is not accepted; give a path, such as . for the current folder")
    return Path(value)


PATH: dict[str, Any] = {"parser": parse_path, "metavar": "PATH"}  # of an option or argument


def words(*known: str) -> dict[str, Any]:
    """Arguments of an option whose value a shell completes to these words."""
    return {"autocompletion": lambda: list(known)}


FORMAT = typer.Option("--format", help="text, or json: data on stdout, all else on stderr.", **words("text", "json"))


def wants_json(form: str) -> bool:
    """Whether `--format` is json."""
    if form not in ("text", "json"):
        raise Refused("--format", form, "give text or json")
    return form == "json"


def check_file(path: Path, overwrite: bool) -> None:
    """Refuses a file that cannot be written, or that is there and is not to be replaced.

    Raises:
        Refused: says what it is instead.
    """
    if os.path.lexists(path) and not path.is_file():
        raise Refused("--out", str(path), "it is a folder or a device: give a file")
    if path.exists() and not overwrite:
        raise Refused("--out", str(path), "it already exists: give another file, or --overwrite")


def number(kind: type, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """Arguments of an option that is a number: a parser whose error names the value and what is accepted.

    Args:
        kind: int or float.
        least, most: the bounds, both included. None: there is none, or it is checked with the other settings.
    """
    accepted = f"give a {'whole ' * (kind is int)}number"
    accepted += "".join(f" {way} {end}" for way, end in (("from", least), ("to", most)) if end is not None)

    def parse(value: Any) -> Any:
        try:
            read: Any = kind(value)
        except (ValueError, OverflowError):
            raise typer.BadParameter(f"{shown(value)} is not accepted; {accepted}") from None
        if (least is not None and not least <= read < math.inf) or (most is not None and not read <= most):
            raise typer.BadParameter(f"{shown(read)} is not accepted; {accepted}")
        return read

    return {"parser": parse, "metavar": "N" if kind is int else "NUMBER"}


@contextmanager
def messages(context: typer.Context | None = None) -> Iterator[dict[str, str]]:
    """Turns errors that a user can fix into one message and an exit code.

    Args:
        context: of the command, so that no option is named which the command has not.

    Yields:
        Names of options by argument, which a command fills where a user has given another option than the usual one.
    """
    options: dict[str, str] = {}
    try:
        yield options
    except Named as error:
        _fail(_message(error, options, context), 2)
    except BrokenPipeError:  # nobody reads on; typer ends the program
        raise
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            _fail(f"{error.filename or 'a file'}: {error.strerror}. What is finished is kept", 1)
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        _fail(f'{error}. What needs it comes with an extra: pip install "w2sd-video[eval,digits]"', 2)
    except NotFinite as error:
        way = "give --dtype float32, or another autoencoder by --vae"
        _fail(f"{error.frames} have values that are not finite; {way}", 1)
    except (FloatingPointError, Failed) as error:
        _fail(str(error), 1)
    except SystemExit as error:
        _fail(f"a plug-in ended the program: {of_plugin(error)}", 1)
    except KeyboardInterrupt:
        _fail("Interrupted. Finished videos are kept; the same command goes on from there.", 130)
    except Exception as error:
        if not out_of_memory(error):
            from .plugins import place_of

            if place := place_of(error):
                _fail(f"{type(error).__name__}: {error} ({place})", 1)
            raise
        way = "Try --offload model on a GPU, fewer --frames, less --height and --width, or --dtype float16"
        _fail(f"Out of memory: {error}\n{way}", 1)


def _message(error: Named, options: Mapping[str, str], context: typer.Context | None) -> str:
    """The message of an error: it names the option of the argument, or else where the value comes from."""
    if not error.argument:
        return str(error)
    setting = setting_options.whole(error.argument)
    option = options.get(error.argument) or options.get(setting) or OPTIONS.get(error.argument.partition(".")[0])
    option = option or setting_options.option(error.argument)
    if context and option.startswith("--"):
        names = next((each.opts for each in context.command.params if option in each.opts), [])
        typed = [name for name in names if any(each.partition("=")[0] == name for each in sys.argv[1:])]
        option = typed[0] if typed else option if names else ""
    if error.origin:
        name = f"{error.origin} {error.argument}"
        if error.replaceable and context and option.startswith("--"):
            name += f" ({option} replaces it)"
    else:
        name = option or error.argument
        if isinstance(error, Refused) and error.value is None:
            return f"{name} is missing; {error.accepted}"
    return f"{name}: {_problem(error, context if name.startswith('--') else None)}"


def _problem(error: Named, context: typer.Context | None) -> str:
    """The problem of an error, with methods' options written as `--set` takes them.

    Args:
        context: of a command that has set it; None where something else has, such as a plan.
    """
    if not isinstance(error, Refused) or setting_options.whole(error.argument) != "options":
        return error.problem
    if isinstance(error.value, Mapping):
        said = ", ".join(f"{name}={_as_typed(value)}" for name, value in error.value.items())
        return f"{said[:300]} is not accepted; {error.accepted}"
    if error.origin or context is None or not error.argument.startswith(setting_options.OF_METHOD):
        return error.problem
    method = error.argument.removeprefix(setting_options.OF_METHOD)
    if own := setting_options.of_setting(str(error.value)):  # as of `inversion`
        return f"{shown(error.value)} is no option of {method}; give {own}"
    said = f"{shown(error.value)} is no option of {method}; {error.accepted}"
    other = "method" in context.params and context.params["method"] is None
    return f"{said}; --method names another method" if other else said


def _as_typed(value: object) -> str:
    """A value in the form that `--set` reads."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a date, or a whole number of thousands of digits
        return shown(value)


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]Error:[/] {escape(message)}" if code != 130 else escape(message))
    raise typer.Exit(code)


def quiet() -> None:
    """Silences the libraries' progress bars, except the hub's for downloads."""
    import diffusers
    import huggingface_hub
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()


def read_setting(text: str) -> tuple[str, Any]:
    """The name and the value of `NAME=VALUE`; the value is read as YAML."""
    name, equals, value = text.partition("=")
    try:
        read = words_as_booleans(parse_yaml(value))
    except ValueError:
        value = ""
    if not name or not value.strip():
        raise Refused("--set", text, "give NAME=VALUE, such as motion_gain=2 or interval=[0.2,0.9]")
    return name, read


def read_settings(texts: list[str]) -> dict[str, Any]:
    """The values of several `NAME=VALUE` by name; each name may be there once."""
    values: dict[str, Any] = {}
    for text in texts:
        name, value = read_setting(text)
        if name in values:
            raise Refused("--set", text, f"{name} is set twice")
        values[name] = value
    return values


def finish(app: typer.Typer) -> None:
    """Makes each command a `Command`, and joins each paragraph of its help to one line; typer would break lines where
    the docstrings do."""
    for command in app.registered_commands:
        command.cls = Command
        paragraphs = inspect.cleandoc(command.help or getattr(command.callback, "__doc__", None) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
