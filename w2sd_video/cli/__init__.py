"""`w2sd-video`: the command line. Commands are thin: the work is in `generate`, `doctor`, `eval` and `shapes`.

torch and diffusers take seconds to import, so nothing here imports them before a command needs them.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Annotated

import typer

import w2sd_video

from ..bench.cli import app as bench_app
from ..families import MIXTURES, VIDEOS
from ..interrupts import insist
from ..shapes.cli import app as shapes_app
from ..terminal import finish, give_up, messages, say, unwritable
from .generate import IMAGES, generate
from .lists import doctor, show_dimensions, show_methods, show_presets
from .options import having, with_settings
from .plans import COMMANDS as PLANS
from .prompts import app as prompts_app
from .report import report
from .reproduce import reproduce
from .scoring import best, check_pair, evaluate
from .studies import study

app = typer.Typer(
    help="Text to video by weak-to-strong diffusion with reflection (W2SD).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """The program. Its exit codes are those of `EXITS`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-made files are cleared away
    insist()
    for stream in ("stdin", "stdout", "stderr"):  # that are closed: without this, the next file opened takes its place
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # what they warn of, a user of this program cannot mend
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of how diffusers calls it
    # Threads that wait busily take the cores from those that work, where other programs run. With a shorter wait than
    # OpenMP's own, seen on two cores: as fast on an idle machine, 5 times as fast on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # of typer's own messages, such as --help
        give_up("stdout")
        with suppress(typer.Exit), messages():
            raise unwritable(error) from None
        sys.exit(1)


EXITS = (
    "Exit codes: 0 done; 1 something failed or the machine did (a broken video, a skipped dimension, a full disk, no"
    " memory); 2 the input cannot be used; 130 and 143 interrupted."
)
app.info.epilog = EXITS


def _version(wanted: bool) -> None:
    if wanted:
        say(f"w2sd-video {w2sd_video.__version__}")
        raise typer.Exit()


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself."""


app.command()(with_settings([*having((*VIDEOS, *MIXTURES)), "schedule"], {"kind": "video"})(generate))
app.command("image", help="Make images from prompts: a PNG and a JSON sidecar each. Options as for `generate`.")(
    with_settings([*having(IMAGES), "schedule"], {"kind": "image", "gif": False, "png": False})(generate)
)
for name, command in PLANS.items():
    app.command(name)(command)
app.command()(reproduce)
app.command()(report)
app.command("presets")(show_presets)
app.command("methods")(show_methods)
app.command("dimensions")(show_dimensions)
app.command()(doctor)
app.command("eval")(evaluate)
app.command("best")(best)
app.command("check-pair")(check_pair)
app.command()(study)
app.add_typer(shapes_app, name="shapes")
app.add_typer(bench_app, name="bench")
app.add_typer(prompts_app, name="prompts")


for each in (app, bench_app, prompts_app):
    finish(each)
