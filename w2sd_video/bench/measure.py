"""Tools of a benchmark: times, peak memory and deadlines. Nothing here depends on a model."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median_high
from typing import Any

import torch

GIB = 2**30


class TimeUp(BaseException):
    """The time of a part is over. It is not an `Exception`, so that no library in between catches it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `TimeUp` in the body after so many seconds, at Python's next instruction.

    On Windows, and outside of the main thread, there is no timer: the body has to check the time itself.
    """
    if seconds <= 0:
        raise TimeUp
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def ring(*_: Any) -> None:
        if armed:
            raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    # Repeats every 5 seconds, since Python drops an exception that is raised in a destructor.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize()


def seconds(run: Callable[[], Any], device: torch.device, repeats: int = 3, warmup: int = 1) -> float:
    """The median time of `run` on the device, in seconds."""
    times = []
    for index in range(warmup + repeats):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        if index >= warmup:
            times.append(time.perf_counter() - began)
    return median_high(times)


def release(device: torch.device) -> None:
    """Frees the device's memory that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def start_peak(device: torch.device) -> None:
    """Resets the peak of memory that `peak` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float | None:
    """The peak memory of tensors on the device since `start_peak`, in GiB. None: the device does not count it."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def held(device: torch.device) -> float | None:
    """The present memory of tensors on the device, in GiB. None: the device does not count it."""
    return torch.cuda.memory_allocated(device) / GIB if device.type == "cuda" else None


def error_line(error: BaseException) -> str:
    """An error on one line: its class, and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def forget_compiled() -> None:
    """Releases the code compiled by `torch.compile`, and the networks that it refers to."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def matrix_rate(device: torch.device, dtype: torch.dtype, width: int = 8192) -> float:
    """The rate in TFLOP/s of a product of two random `width` x `width` matrices."""
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2 * width**3 / seconds(lambda: a @ b, device, repeats=10, warmup=3) / 1e12


def copy_rate(device: torch.device, size: int = 2**30) -> float:
    """The rate in TB/s of a copy of `size` bytes on the device, counting reads and writes."""
    a = torch.empty(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / seconds(lambda: b.copy_(a), device, repeats=10, warmup=3) / 1e12
