"""What programs that tests start have in common."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


def heard() -> None:
    """For `preexec_fn`: what runs in the background may have inherited that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def forked(main: Callable[[], object], arguments: Sequence[str], said: Path, prepare: Callable[[], object]) -> int:
    """Runs the command line's `main` in a forked process, which appends what it says to a file; the process's number.

    Args:
        prepare: what the process does first.
    """
    if child := os.fork():
        return child
    code: object = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        prepare()
        sys.argv = ["w2sd-video", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)
