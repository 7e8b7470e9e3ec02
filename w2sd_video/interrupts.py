"""What ends a program, and what waits for the end of something that must not be cut in half."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


def of_plugin(error: SystemExit) -> RuntimeError:
    """The error in place of a SystemExit that a plug-in's code raised, with the file and the line.

    Raises:
        SystemExit: it is of this package, or of a signal's handler, and ends the program.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    last, line = frames[-1]
    ours = last.f_globals.get("__name__", "").startswith("w2sd_video.")
    if ours or any(frame.f_code in handlers for frame, _ in frames):
        raise error
    code = "" if error.code is None else f": {error.code}"
    return RuntimeError(f"SystemExit{code} ({last.f_code.co_filename}, line {line})")


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
