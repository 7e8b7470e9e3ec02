"""What programs that tests start have in common."""

from __future__ import annotations

import signal


def heard() -> None:
    """For `preexec_fn`: what runs in the background may have inherited that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
