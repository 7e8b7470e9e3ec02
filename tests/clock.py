"""The clock of tests that hold a cost."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(call: Callable[[], object], repeats: int) -> float:
    """The least of the times that a call takes, in seconds of this thread alone: the machine may be busy."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)
