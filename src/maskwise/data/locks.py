"""Locks between processes; the system opens a lock when its holder ends, however that ends."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

LOCK = ".lock"
"""In a folder that one process alone may write to."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: the next one waits."""
    with path.open("ab") as file:
        if not _is_locked(path, file):
            log.info("waiting for another process: %s", path)
            while not _is_locked(path, file):
                time.sleep(0.1)
        yield


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether it is ours; nobody waits. The file is taken away with the lock; what a killed process left of it locks
    nothing."""
    while True:
        with path.open("ab") as file:
            ours = _is_locked(path, file)
            if ours and not _is_there(path, file):
                continue  # its holder took it away after we had opened it
            try:
                yield ours
            finally:
                if ours and sys.platform != "win32":
                    path.unlink(missing_ok=True)
        if ours and sys.platform == "win32":  # which takes no open file away
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return


def _is_there(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(path: Path, file: BinaryIO) -> bool:
    """Now by us. Where there are no locks it goes on without."""
    try:
        return _try_lock(file)
    except OSError as error:
        log.warning("%s: no lock is to be had there (%s); going on without", path, error)
        return True


def _try_lock(file: BinaryIO) -> bool:
    """False: another process has it. An OSError of another kind: this file system has no locks."""
    with contextlib.suppress(BlockingIOError, PermissionError):
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
