"""Files that annotations name, and files that appear whole or not at all."""

import csv
import functools
import io
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maskwise.terminal import plain

log = logging.getLogger(__name__)

OF_PREDICTIONS = "predict.json"
"""What a folder of predictions has, which lie in data sets below it."""


def exists(path: Path) -> bool:
    """Also of names out of annotations, which may be longer than any file's, or in a folder that is closed to us."""
    try:
        return path.exists()
    except OSError:
        return False


def at_home(source: Path | str) -> Path:
    """'~' begins the name of a home, unless there is a file of that name, or no such home."""
    path = Path(source)
    try:
        return path if exists(path) else path.expanduser()
    except RuntimeError:
        return path


def is_open(folder: Path) -> bool:
    """Whether we may look into it. Of others, as `lost+found` is one, a warning tells."""
    try:
        may_be_read = os.access(folder, os.R_OK | os.X_OK)
        os.scandir(folder).close()  # Windows and macOS keep folders closed whose permissions do not say so
    except PermissionError:
        may_be_read = False
    if not may_be_read:
        _tell_closed(folder)
    return may_be_read


@functools.cache
def _tell_closed(folder: Path) -> None:
    """Once, though every format looks for its own folders."""
    log.warning("%s: closed to us, passed over", plain(str(folder)))


def absolute(path: Path) -> Path:
    """Without '..'; `Path.resolve` would follow links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name in the same folder; what is made there takes the place of `path` when the block ends without an error.

    It is short, so that any name that fits the file system can be written, and hidden from folder listings.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write, whole or not at all. It is created like any new one, with the permissions that the process gives
    (a `tempfile` would be private to its owner)."""
    with beside(Path(path)) as temporary, temporary.open("xb") as file:
        yield file


def write_table(
    path: Path, header: Iterable[object], rows: Iterable[Iterable[object]], *, errors: str = "backslashreplace"
) -> Path:
    """CSV, whole or not at all. `errors`: of names of files that are no text; `surrogateescape` keeps their bytes, for
    whoever finds the files by them."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors, newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
        text.detach()
    return path
