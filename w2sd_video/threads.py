"""How many threads torch computes with: on a CPU they decide the last digits of a result, and the time it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(workers: int) -> int:
    """The threads of each worker: together they have this machine's cores, and none has more than OMP_NUM_THREADS."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // workers)
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within it torch computes with so many threads; after it with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
