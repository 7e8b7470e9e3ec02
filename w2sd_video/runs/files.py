"""Files and folders that appear whole or not at all, whatever ends the process.

A set of files is written to a hidden folder beside its places. When it is complete, a plan in that folder says where
each of its files goes, and only then are they moved. A process that dies before has changed nothing, and the next one
clears its folder; of one that dies between two moves, the next one carries out the plan. Dead processes are told from
living ones by a lock on a file in the hidden folder, which the system releases when its process ends.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from ..errors import Refused
from ..interrupts import uninterrupted

if sys.platform == "win32":
    import msvcrt

    def _hold(descriptor: int, wait: bool) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _hold(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


Key = TypeVar("Key")
PREFIX = ".partial-"
# With the number of the process; the former version had names without it.
HIDDEN = re.compile(re.escape(PREFIX) + r"(\d+-)?\w{8}")
LOCK, PLAN = "lock", "plan.json"
FULL = (errno.ENOSPC, errno.EDQUOT)


def placeable(out: Path, argument: str = "out") -> None:
    """Refuses, as `writable` does, what cannot become an output folder; it makes nothing.

    Args:
        argument: the folder's argument, for the message.

    Raises:
        Refused: it is not a folder that can be written to, nor can be made one.
    """
    try:
        there = _check_names(out)
    except OSError as error:
        raise _unwritable(out, error.strerror, argument) from None
    reason = None if os.path.isdir(there) else errno.ENOTDIR
    if reason is None and not os.access(there, os.W_OK | os.X_OK):
        reason = errno.EACCES
    if reason:
        raise _unwritable(out, os.strerror(reason), argument)


def _check_names(out: Path) -> Path:
    """The part of a path that is there. Each further name is looked up in it, as a folder refuses one too long.

    Raises:
        OSError: the path, or such a name, cannot be.
    """
    there = next(each for each in (out, *out.parents) if os.path.lexists(each))
    for path in (out, *(there / name for name in out.parts[len(there.parts) :])):
        with suppress(FileNotFoundError):
            os.lstat(path)
    return there


def _unwritable(out: Path, reason: str | None, argument: str) -> Refused:
    return Refused(argument, str(out), f"give a folder that can be written to ({reason})")


def writable(out: Path, argument: str = "out") -> None:
    """Makes the output folder, settles what dead processes left in it, and refuses one that cannot be written to.

    Args:
        argument: the folder's argument, for the message.

    Raises:
        Refused: it is not a folder that can be written to.
        OSError: its disk is full.
    """
    try:
        _check_names(out)  # before the first of several folders is made
        out.mkdir(parents=True, exist_ok=True)
        with hidden(out):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise _unwritable(out, error.strerror, argument) from None


def usable(out: Path, argument: str = "out") -> None:
    """Refuses what `writable` refuses, and makes no folder yet: for what may still be refused for another reason.

    Args:
        argument: the folder's argument, for the message.

    Raises:
        Refused, OSError: see `writable`.
    """
    (writable if os.path.isdir(out) else placeable)(out, argument)


@contextmanager
def gone_if_empty(out: Path) -> Iterator[None]:
    """Removes a folder, and its parents, that were not there before and have nothing in them after."""
    absent = [each for each in (out, *out.parents) if not os.path.lexists(each)]
    try:
        yield
    finally:
        for each in absent:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is made if it is not there, and then removed again if it stays empty."""
    with gone_if_empty(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def gone_on_error(out: Path) -> Iterator[None]:
    """Removes a folder that was not there before, with all that is in it, and its parents, if the body raises."""
    absent = not os.path.lexists(out)
    with gone_if_empty(out.parent):
        try:
            yield
        except BaseException:
            if absent:
                shutil.rmtree(out, ignore_errors=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an error of writing to it, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def locked(folder: Path) -> AbstractContextManager[None]:
    """One process at a time: for the moments in which names in a folder are looked at and taken."""
    return _lock(folder / f"{PREFIX}{LOCK}")


def alone(path: Path) -> AbstractContextManager[None]:
    """A file that grows, to which this process adds rows and no other one meanwhile.

    Raises:
        Refused: another process adds to it.
    """
    taken = Refused("out", str(path), "another process is adding to it: wait, or give another file")
    return _lock(path.with_name(f"{PREFIX}{path.name}.{LOCK}"), taken)


@contextmanager
def _lock(path: Path, taken: Refused | None = None) -> Iterator[None]:
    """Holds the lock of a file, which is removed afterwards.

    Args:
        taken: the error if another process holds it. None: wait for that process.
    """
    held, descriptor = False, -1
    try:
        while not held:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _hold(descriptor, wait=taken is None)
            except OSError as error:  # some network file systems have no locks
                if taken and isinstance(error, (BlockingIOError, PermissionError)):
                    raise taken from None
            held = _is(path, descriptor)
            if not held:  # who held it has removed it
                os.close(descriptor)
                descriptor = -1
        yield
    finally:
        with uninterrupted():
            if held:
                with suppress(OSError):
                    path.unlink()
            if descriptor >= 0:
                os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def hidden(parent: Path) -> Iterator[Path]:
    """A hidden folder of this process, removed at the end; if the process dies, by the next one that comes here.

    A folder with a plan stays, for the next process to carry it out.
    """
    folder, descriptor = None, -1
    try:
        with locked(parent):
            settle(parent)
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            with suppress(OSError):
                _hold(descriptor, wait=False)
            with naming(parent):
                os.write(descriptor, json.dumps([os.getpid(), socket.gethostname()]).encode())
        yield folder
    finally:
        with uninterrupted():
            planned = folder is not None and (folder / PLAN).exists()
            if descriptor >= 0:
                os.close(descriptor)
            if folder is not None and not planned:
                shutil.rmtree(folder, ignore_errors=True)


def alive(folder: Path) -> bool:
    """Whether the process of a hidden folder runs; one that cannot be looked into counts as running."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False  # it died before it had made the lock, or is of the former version
    except OSError:
        return True
    try:
        _hold(descriptor, wait=False)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        import psutil

        try:
            number, host = json.loads(os.read(descriptor, 1000))
        except ValueError:
            return True
        return host != socket.gethostname() or psutil.pid_exists(number)
    finally:
        os.close(descriptor)
    return False


def hidden_folders(parent: Path) -> list[Path]:
    """The hidden folders of all processes, in the order of their last change."""
    found: list[tuple[int, str]] = []
    with os.scandir(parent) as entries:
        for entry in entries:
            if HIDDEN.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):  # its process has just removed it
                    found.append((entry.stat().st_mtime_ns, entry.path))
    return [Path(path) for _, path in sorted(found)]


def settle(parent: Path) -> None:
    """Carries out the plans of dead processes, and clears the rest of what they left; the caller
    holds the folder's lock.

    Raises:
        Refused: since the process died, something else took a place that one of its files is to have.
    """
    for folder in hidden_folders(parent):
        if not alive(folder):
            if (folder / PLAN).is_file():
                _carry_out(folder, check=True)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole(
    finals: Mapping[Key, Path], stale: Iterable[Path] = (), check: Callable[[], object] | None = None
) -> Iterator[dict[Key, Path]]:
    """Files and folders that appear whole or not at all: all of them, or none.

    The body writes to the paths that it is given, which lie in a hidden folder; when it ends without an exception the
    files take their places, in order. An interruption waits until all have. The last one, the sidecar, is removed
    before anything is replaced, so that it never stands beside files that are not its own.

    Args:
        finals: the places, all of them in the last one's folder or below it. The folder is made if it is not there.
        stale: what is removed with it.
        check: called before the files take their places; no other process takes one meanwhile. What it raises leaves
            everything as it was.

    Raises:
        OSError: names the place of the file that cannot be written.
    """
    parent = list(finals.values())[-1].parent
    with _made(parent), hidden(parent) as folder:
        staged = {kind: folder / str(n) / path.name for n, (kind, path) in enumerate(finals.items())}
        try:
            for path in staged.values():
                path.parent.mkdir()
            yield staged
            with locked(parent):
                if check:
                    check()
                with uninterrupted():
                    _plan(folder, {staged[kind]: path for kind, path in finals.items()}, stale)
                    _carry_out(folder)
        except OSError as error:
            place = _place(error, folder, {staged[kind]: path for kind, path in finals.items()})
            if not place and error.filename is None and error.errno in FULL:  # a write to an open file names none
                place = str(parent)
            if not place:
                raise
            raise OSError(error.errno, error.strerror, place) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all. On an error, a former one stays.

    Raises:
        OSError: it cannot be written.
    """
    with whole({"file": path}) as staged, naming(staged["file"]):
        staged["file"].write_text(text, encoding="utf-8")


def _plan(folder: Path, moves: Mapping[Path, Path], stale: Iterable[Path]) -> None:
    """Writes down what goes where; from here on it goes there.

    Raises:
        OSError: a file is missing, or has a folder in its place. Nothing has changed.
    """
    for source, path in moves.items():
        os.lstat(source)
        if path.is_dir() and not source.is_dir():
            raise IsADirectoryError(f"{path} is a folder, and is left as it is")
    parent = folder.parent
    *others, last = moves.values()
    removed = [path for path in [*([last] if others else []), *stale] if os.path.lexists(path)]
    plan = {
        "moves": [
            [os.path.relpath(source, folder), os.path.relpath(path, parent), os.path.lexists(path)]
            for source, path in moves.items()
        ],
        "removed": [os.path.relpath(path, parent) for path in removed],
    }
    draft = folder / f"{PLAN}.draft"
    with naming(parent):
        with draft.open("w", encoding="ascii") as file:
            json.dump(plan, file)
            file.flush()
            os.fsync(file.fileno())  # so that a power cut leaves no plan without its content
    draft.replace(folder / PLAN)


def _carry_out(folder: Path, check: bool = False) -> None:
    """Moves what the plan says and has not been moved yet.

    Args:
        check: of a dead process's plan, that nothing else has come to a place since.
    """
    parent, former = folder.parent, folder / "former"
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="ascii"))
        moves = [(folder / source, parent / name, there) for source, name, there in plan["moves"]]
        names = [*plan["removed"], *(name for move in plan["moves"] for name in move[:2])]
        within = bool(moves) and all(_within(name) for name in names)
    except (ValueError, KeyError, TypeError):
        raise Refused("out", str(folder), "its plan cannot be read, as after a power cut: remove it") from None
    if not within:
        raise Refused("out", str(folder), "its plan names files outside of it, or none: remove it")
    former.mkdir(exist_ok=True)

    def set_aside(path: Path) -> None:
        path.rename(Path(tempfile.mkdtemp(dir=former)) / path.name)

    if os.path.lexists(moves[-1][0]):
        for source, path, there in moves if check else ():
            in_its_way = not there or (path.is_dir() and not source.is_dir())
            if os.path.lexists(source) and os.path.lexists(path) and in_its_way:
                accepted = f"an interrupted run has yet to put a file here, which waits in {folder}"
                raise Refused("out", str(path), f"{accepted}: move one of the two away")
        for name in plan["removed"]:
            if os.path.lexists(parent / name):
                set_aside(parent / name)
    for source, path, _ in moves:
        if os.path.lexists(source):
            path.parent.mkdir(exist_ok=True)
            if os.path.lexists(path) and (path.is_dir() or source.is_dir()):
                set_aside(path)
            os.replace(source, path)
    (folder / PLAN).unlink()


def _within(name: str) -> bool:
    return not os.path.isabs(name) and os.pardir not in Path(name).parts


def _place(error: OSError, folder: Path, places: Mapping[Path, Path]) -> str:
    """The place of the file whose hidden path an error names; empty where it names another."""
    if not isinstance(error.filename, (str, bytes)):
        return ""
    named = Path(os.fsdecode(error.filename))
    if not named.is_relative_to(folder):
        return ""
    within = [place / named.relative_to(path) for path, place in places.items() if named.is_relative_to(path)]
    return str(within[0] if within else folder.parent)
