"""Decodes in a process of its own, so that a file which crashes its decoder, or keeps it busy, ends no run."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import decode
from .decode import first_line, open_video, watched

if TYPE_CHECKING:
    from w2sd_video.video import Frames


class Crashed(ValueError):
    """A decoder ended its process, or was ended because no frame came."""


class Decoder:
    """The process that decodes; it starts with the first request, and again after a crash.

    A request names a video to `open`, or how many frames to `read` of the one that was opened last.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, path: Path, decord: bool) -> dict[str, Any]:
        """The facts of a video.

        Raises:
            Crashed: its decoder crashed.
            ModuleNotFoundError: a library that decodes cannot be imported.
            ValueError: it cannot be decoded; says why.
        """
        return self._ask({"open": os.fspath(path), "decord": decord})

    def read(self, count: int, height: int, width: int) -> Frames:
        """The next frames, (n, height, width, 3), n at most `count`; none after the last.

        Raises:
            Crashed, ValueError: as for `open`.
        """
        return self._ask({"read": count}, 3 * height * width).reshape(-1, height, width, 3)

    def _ask(self, request: dict[str, Any], bytes_of_frame: int = 0) -> Any:
        """The answer to a request, or the pixels of the frames that it announces."""
        try:
            process = self._process = self._process or _started()
            assert process.stdin and isinstance(process.stdout, io.BufferedReader)
            with suppress(OSError):  # of a process that has ended, which its answer then shows
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else {}
            pixels = bytearray(bytes_of_frame * answer.get("read", 0))
            if not answer or process.stdout.readinto(pixels) < len(pixels):
                self.close()
                raise Crashed("its decoder crashes on it")
        except (KeyboardInterrupt, SystemExit):  # the rest of the answer would be taken for the next one
            self.close()
            raise
        if "unimportable" in answer:
            raise ModuleNotFoundError(answer["unimportable"])
        if "error" in answer:
            raise ValueError(answer["error"])
        return np.frombuffer(pixels, np.uint8) if bytes_of_frame else answer

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            process, self._process = self._process, None
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe:
                        pipe.close()
            process.wait()

    def __del__(self) -> None:
        self.close()


def _started() -> subprocess.Popen[bytes]:
    """A process that runs `main`, with this process's modules, and not what happens to lie in the current folder."""
    code = f"import sys; sys.path[:] = {[folder for folder in sys.path if folder]!r}; "
    code += "from w2sd_video.eval import decoder; decoder.main()"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)


def main() -> None:
    """Answers requests, a line of JSON each, until there are no more; the pixels follow the answer to `read`.

    The next frames are decoded while the last ones are scored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    frames: Iterator[Frames] = iter(())
    ahead: list[Frames] | str | None = None

    def read_ahead(count: int) -> list[Frames] | str:
        try:
            return list(islice(watched(frames), count))
        except Exception as error:  # damaged files make libraries raise errors of every kind
            return first_line(error)

    for line in sys.stdin.buffer:
        faulthandler.dump_traceback_later(decode.PATIENCE, exit=True)
        request, answer, pixels = json.loads(line), {}, []
        if "open" in request:
            frames, ahead = iter(()), None
            try:
                facts, frames = open_video(Path(request["open"]), request["decord"])
                answer = facts._asdict()
            except ImportError as error:  # which is no fault of the video
                answer = {"unimportable": f"what decodes videos cannot be imported ({first_line(error)})"}
            except Exception as error:
                answer = {"error": first_line(error)}
        else:
            ahead = read_ahead(request["read"]) if ahead is None else ahead
            if isinstance(ahead, str):
                answer = {"error": ahead}
            else:
                pixels, answer = ahead, {"read": len(ahead)}
        answers.write(json.dumps(answer).encode() + b"\n")
        for frame in pixels:
            answers.write(np.ascontiguousarray(frame).data)
        answers.flush()
        if pixels:
            ahead = read_ahead(request["read"])
        faulthandler.cancel_dump_traceback_later()
