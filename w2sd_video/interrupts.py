"""What ends a program, and what waits for the end of something that must not be cut in half."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

AGAIN = 0.2  # seconds after which a signal is raised again whose exception Python dropped


def of_plugin(error: SystemExit) -> RuntimeError:
    """The error in place of a SystemExit that a plug-in's code raised, with the file and the line.

    Raises:
        SystemExit: it is of this package, or of a signal's handler, and ends the program.
    """
    *_, (last, line) = traceback.walk_tb(error.__traceback__)
    if last.f_globals.get("__name__", "").startswith("w2sd_video.") or _of_signal(error.__traceback__):
        raise error
    code = "" if error.code is None else f": {error.code}"
    return RuntimeError(f"SystemExit{code} ({last.f_code.co_filename}, line {line})")


def _of_signal(trace: TracebackType | None) -> bool:
    """Whether an exception was raised in a handler of a signal."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(trace))


def insist() -> None:
    """From here on, a signal whose exception Python drops is raised again a moment later.

    Python drops an exception that is raised while it deletes an object, such as a handler's. A KeyboardInterrupt counts
    as SIGINT's, and a handler's SystemExit as SIGTERM's. On Windows, which has no `setitimer`, nothing changes.
    """
    if not hasattr(signal, "setitimer"):
        return
    lost: list[int] = []

    def dropped(what: sys.UnraisableHookArgs, report: Callable[..., object] = sys.unraisablehook) -> None:
        ended = issubclass(what.exc_type, SystemExit) and _of_signal(what.exc_traceback)
        if not ended and not issubclass(what.exc_type, KeyboardInterrupt):
            report(what)
            return
        lost.append(signal.SIGTERM if ended else signal.SIGINT)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def again(*_: object) -> None:
        while lost:
            signal.raise_signal(lost.pop())

    sys.unraisablehook = dropped
    signal.signal(signal.SIGALRM, again)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the body's end. Python handles them in its main thread only."""
    waiting: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: waiting.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arrived in waiting:
            signal.raise_signal(arrived)


@contextmanager
def started_uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the body's end. A process of `multiprocessing` that the body starts never has it: it imports
    for seconds before it could say so itself."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # until Python 3.12 its start lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
