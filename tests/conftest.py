"""Which cases of a test are of the fast part, and what all tests' processes have in common."""

from __future__ import annotations

import gc
import inspect
import os

import pytest

# The tests' networks are so small that threads only get in the way; before torch is loaded, and for its processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`slow_unless(case=...)`: of a parametrised test, cases that `case` is not true of are slow."""
    for item in items:
        for mark in item.iter_markers("slow_unless"):
            fast = mark.kwargs["case"]
            if not fast(*(item.callspec.params[name] for name in inspect.signature(fast).parameters)):
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is imported by now is never garbage: the collector need not look at its million objects again and again."""
    gc.collect()
    gc.freeze()
