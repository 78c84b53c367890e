"""Fetch one file whose digest is known: it is there whole and right, or not at all.

A cut connection is taken up where it broke, if the server can and the file is still the same; everything else begins
anew. No redirect leads to anything but http and https. Two processes that want one file fetch it once.
"""

import hashlib
import http.client
import json
import logging
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from maskwise.data.locks import locked
from maskwise.version import __version__

MOST = 4 << 30
"""Bytes of a file whose size nobody has published."""
CHUNK = 1 << 18
AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *(s for s in HTTPStatus if s >= 500)}
"""Answers that another try may change."""

log = logging.getLogger(__name__)


class DownloadError(ValueError):
    """What could not be fetched, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file somewhere else."""

    url: str
    sha256: str
    bytes: int | None = None
    """None: not known before; at most `MOST`."""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"expected an address that begins with https:// or http://, got {self.url!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.url}: expected a sha256 of 64 hexadecimal digits, got {self.sha256!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often it is tried."""

    attempts: int = 5
    """In a row that bring no byte."""
    wait: float = 1.0
    """Seconds after the first of them; twice as long after each further one."""
    timeout: float = 30.0
    """Seconds without a byte."""


PATIENCE = Patience()


def home() -> Path:
    """Where fetched files are kept: `MASKWISE_HOME`, or where the platform keeps what can be fetched again."""
    if named := os.environ.get("MASKWISE_HOME"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "maskwise" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "maskwise"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskwise"


def fetch(remote: Remote, target: Path, *, patience: Patience = PATIENCE) -> Path:
    """The file at `target`, fetched if it is not there or not what it should be."""
    if _is_right(target, remote):
        return target
    if os.environ.get("MASKWISE_OFFLINE"):
        raise DownloadError(f"{remote.url} is not in {target.parent}, and MASKWISE_OFFLINE forbids to fetch it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not _is_right(target, remote):  # another process may have fetched it while we waited
            _fetch(remote, _Partial(target.with_name(f"{target.name}.part")), target, patience)
    return target


def _fetch(remote: Remote, part: "_Partial", target: Path, patience: Patience) -> None:
    with _shown(remote) as told:
        while not _is_right(part.path, remote):
            resumed = part.length > 0
            _complete(remote, part, patience, told)
            if (found := digest(part.path)) == remote.sha256:
                break
            part.remove()
            if not resumed:
                raise DownloadError(
                    f"{remote.url} has sha256 {found}, expected {remote.sha256}: not the published file"
                )
            log.info("%s: its parts do not fit together; fetching it anew", remote.url)
    part.path.replace(target)
    part.remove()
    _flush_folder(target.parent)


def _complete(remote: Remote, part: "_Partial", patience: Patience, told: Callable[[int, int | None], None]) -> None:
    """Until all bytes are there, trying again what may have been bad luck."""
    failed = 0
    while True:
        before = part.length
        try:
            return _attempt(remote, part, patience.timeout, told)
        except _TryAgain as error:
            failed = 1 if part.length > before else failed + 1
            if failed >= patience.attempts:
                raise DownloadError(f"{remote.url}: {error} ({failed} tries; what came is kept)") from error
            pause = max(error.wait, patience.wait * 2 ** (failed - 1))
            log.info("%s: %s; trying again in %.0f s", remote.url, error, pause)
            time.sleep(pause)


class _TryAgain(Exception):
    """Bad luck, perhaps."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _attempt(remote: Remote, part: "_Partial", timeout: float, told: Callable[[int, int | None], None]) -> None:
    """One request: what is missing, or all of it."""
    try:
        with _answer(remote, part, timeout) as answer:
            total = _begin(remote, part, answer)
            with part.path.open("ab") as file:
                while block := answer.read(CHUNK):
                    if file.tell() + len(block) > (remote.bytes or MOST):
                        file.close()
                        part.remove()
                        raise DownloadError(f"{remote.url}: longer than the {_limit(remote)}")
                    file.write(block)
                    told(file.tell(), total)
                file.flush()
                os.fsync(file.fileno())
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _TryAgain(str(error) or type(error).__name__) from error
    expected = remote.bytes or total
    if expected is not None and part.length < expected:
        raise _TryAgain(f"the connection ended after {part.length:,} of {expected:,} bytes")


def _answer(remote: Remote, part: "_Partial", timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"maskwise/{__version__}", "Accept-Encoding": "identity"}
    if part.length and (mark := part.mark(remote.url)):
        headers |= {"Range": f"bytes={part.length}-", "If-Range": mark}
    else:
        part.remove()
    try:
        return _opener().open(urllib.request.Request(remote.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.remove()
                raise _TryAgain("the server has no such rest; beginning anew") from error
            if error.code in AGAIN:
                raise _TryAgain(f"HTTP {error.code} {error.reason}", _retry_after(error.headers)) from error
            raise DownloadError(f"{remote.url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"{remote.url}: {error.reason}") from error
        raise _TryAgain(str(error.reason)) from error


def _begin(remote: Remote, part: "_Partial", answer: http.client.HTTPResponse) -> int | None:
    """Whether this is the rest or the whole. Returns how long the whole is, where the server says so."""
    length = int(answer.headers.get("Content-Length") or -1)
    start = 0
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != part.length:
            part.remove()
            raise _TryAgain("the server sent another part than was asked for")
        start = part.length
    else:
        part.start(remote.url, answer.headers)
    total = start + length if length >= 0 else None
    if total is not None and (total > MOST if remote.bytes is None else total != remote.bytes):
        part.remove()
        raise DownloadError(f"{remote.url}: {total:,} bytes, expected the {_limit(remote)}")
    return total


def _limit(remote: Remote) -> str:
    return f"published {remote.bytes:,} bytes" if remote.bytes else f"at most {MOST:,} bytes"


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks for, up to a minute; dates are not understood."""
    asked = headers.get("Retry-After", "")
    return min(60.0, float(asked)) if asked.isdigit() else 0.0


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """To http and https only, and never from the second to the first."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url}: refused to be redirected to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of files, FTP and data that `build_opener` would bring."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SafeRedirect(),
    ):
        opener.add_handler(handler)
    return opener


# Files


@dataclass(frozen=True, slots=True)
class _Partial:
    """What came so far, and beside it of which file."""

    path: Path

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def mark(self, url: str) -> str | None:
        """By which the server knows whether the file has changed; None where it gave none."""
        try:
            note = json.loads(self._note.read_bytes())
            return note["mark"] if note["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def start(self, url: str, headers: Message) -> None:
        """Anew. A weak tag (`W/`) does not promise the same bytes."""
        tag = headers.get("ETag", "")
        mark = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.remove()
        self._note.write_text(json.dumps({"url": url, "mark": mark}))

    def remove(self) -> None:
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_right(path: Path, remote: Remote) -> bool:
    return path.is_file() and digest(path) == remote.sha256


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# For people


@contextmanager
def _shown(remote: Remote) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error; where that is no terminal, a line."""
    console = Console(stderr=True)
    name = Path(urlsplit(remote.url).path).name
    if not console.is_terminal:
        print(f"fetching {remote.url}", file=sys.stderr)
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"fetching {name}", total=remote.bytes)
        yield lambda done, total: bar.update(task, completed=done, total=remote.bytes or total)
