"""Against a server on loopback that cuts, changes, lies and refuses."""

import errno
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from maskwise.data.locks import locked
from maskwise.models import download
from maskwise.models.download import DownloadError, Patience, Remote, fetch, home

CONTENT = bytes(range(256)) * 4000
OTHER = CONTENT[::-1]
QUICK = Patience(attempts=3, wait=0.01, timeout=2)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Server:
    """What it answers may be changed from request to request; what it was asked is written down."""

    port: int = 0
    content: bytes = CONTENT
    tag: str | None = '"one"'
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers ends."""
    before: list[Callable[["Server", BaseHTTPRequestHandler], bool]] = field(default_factory=list)
    """Called with the next requests; true: it has answered."""
    asked: list[dict[str, str]] = field(default_factory=list)

    def remote(self, *, bytes: int | None = len(CONTENT), content: bytes = CONTENT, path: str = "/m.bin") -> Remote:
        return Remote(url=f"http://127.0.0.1:{self.port}{path}", sha256=sha(content), bytes=bytes)


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(dict(self.headers))
            if not (state.before and state.before.pop(0)(state, self)):
                answer(state, self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # of clients that have gone
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.port = http.server_port
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def answer(state: Server, handler: BaseHTTPRequestHandler) -> None:
    asked, start = handler.headers.get("Range"), 0
    if asked and state.ranges and handler.headers.get("If-Range") == state.tag:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
    else:
        handler.send_response(200)
    body = state.content[start:]
    handler.send_header("Content-Length", str(len(body)))
    if state.tag:
        handler.send_header("ETag", state.tag)
    handler.end_headers()
    handler.wfile.write(body[: state.cut.pop(0)] if state.cut else body)


def status(code: int, **headers: str) -> Callable[[Server, BaseHTTPRequestHandler], bool]:
    def respond(_, handler):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return respond


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_file_is_fetched_once(server, tmp_path):
    target = tmp_path / "deep" / "m.bin"
    for _ in range(2):
        assert fetch(server.remote(), target, patience=QUICK).read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert left(target.parent) == {"m.bin", "m.bin.lock"}


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut = [300_000, 200_000]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT
    assert [a.get("Range") for a in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert server.asked[1]["If-Range"] == '"one"'


@pytest.mark.parametrize("bytes", [len(CONTENT), None])
def test_what_came_is_kept_for_the_next_process(server, tmp_path, bytes):
    server.cut = [300_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"the connection ended after 300,000 of 1,024,000 bytes \(3 tries"):
        fetch(server.remote(bytes=bytes), tmp_path / "m", patience=QUICK)
    assert not (tmp_path / "m").exists()
    assert (tmp_path / "m.part").stat().st_size == 300_000
    fetch(server.remote(bytes=bytes), tmp_path / "m", patience=QUICK)
    assert server.asked[-1]["Range"] == "bytes=300000-"
    assert left(tmp_path) == {"m", "m.lock"}


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": 'W/"weak"'}, {"tag": None}])
def test_without_support_it_begins_anew(server, tmp_path, change):
    for name, value in change.items():
        setattr(server, name, value)
    server.cut = [300_000]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_file_that_changed_between_two_tries_begins_anew(server, tmp_path):
    def replaced(state, _):
        state.content, state.tag = OTHER, '"two"'
        return False

    server.before, server.cut = [lambda *_: False, replaced], [300_000]
    assert fetch(server.remote(content=OTHER), tmp_path / "m", patience=QUICK).read_bytes() == OTHER


def test_a_server_that_changes_the_file_and_says_nothing_is_found_out(server, tmp_path):
    server.content, server.cut = OTHER, [300_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)
    server.content, server.cut = CONTENT, []  # and the tag is still the same
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT
    assert "Range" not in server.asked[-1]


def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path):
    server.content = OTHER
    with pytest.raises(DownloadError, match=f"has sha256 {sha(OTHER)}, expected {sha(CONTENT)}"):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)
    assert left(tmp_path) == {"m.lock"}


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(server, tmp_path):
    (tmp_path / "m").write_bytes(CONTENT[:-1])
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize(("bytes", "complaint"), [(1000, "1,024,000 bytes, expected the published 1,000 bytes")])
def test_another_size_is_refused_before_anything_is_read(server, tmp_path, bytes, complaint):
    with pytest.raises(DownloadError, match=complaint):
        fetch(server.remote(bytes=bytes), tmp_path / "m", patience=QUICK)
    assert left(tmp_path) == {"m.lock"}


def test_no_file_may_fill_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST", 500_000)
    with pytest.raises(DownloadError, match="1,024,000 bytes, expected the at most 500,000 bytes"):
        fetch(server.remote(bytes=None), tmp_path / "m", patience=QUICK)

    def endless(_, handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)
        return True

    server.before = [endless]
    with pytest.raises(DownloadError, match="longer than the at most 500,000 bytes"):
        fetch(server.remote(bytes=None), tmp_path / "m", patience=QUICK)
    assert left(tmp_path) == {"m.lock"}


@pytest.mark.parametrize("code", [500, 503, 429])
def test_trouble_of_the_server_is_waited_out(server, tmp_path, code):
    server.before = [status(code), status(code, Retry_After="0")]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [404, 403, 410])
def test_what_is_not_there_is_not_asked_for_again(server, tmp_path, code):
    server.before = [status(code)]
    with pytest.raises(DownloadError, match=f"m.bin: HTTP {code}"):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)
    assert len(server.asked) == 1


def test_trouble_that_does_not_end_is_an_error(server, tmp_path):
    server.before = [status(503)] * 3
    with pytest.raises(DownloadError, match=r"HTTP 503 .* \(3 tries"):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)


def test_a_silent_server_is_given_up(server, tmp_path):
    release = threading.Event()
    server.before = [lambda *_: release.wait(10)] * 2
    try:
        with pytest.raises(DownloadError, match="timed out"):
            fetch(server.remote(), tmp_path / "m", patience=Patience(attempts=2, wait=0, timeout=0.1))
    finally:
        release.set()


def test_nobody_listens(tmp_path):
    remote = Remote(url="http://127.0.0.1:9/m", sha256=sha(CONTENT))
    with pytest.raises(DownloadError, match="127"):
        fetch(remote, tmp_path / "m", patience=QUICK)


def test_a_redirect_is_followed_to_http_and_to_nothing_else(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    server.before = [status(302, Location=secret.as_uri())]
    with pytest.raises(DownloadError, match="302"):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)
    server.before = [status(302, Location="ftp://127.0.0.1/m")]
    with pytest.raises(DownloadError, match="refused to be redirected to ftp:"):
        fetch(server.remote(), tmp_path / "m", patience=QUICK)
    server.before = [status(302, Location="/elsewhere.bin")]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT


def test_a_rest_that_was_not_asked_for_is_refused(server, tmp_path):
    server.cut = [300_000]
    wrong = status(206, Content_Range="bytes 5-9/1024000")
    server.before = [lambda *_: False, wrong]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT


def test_more_than_there_is_was_kept(server, tmp_path):
    (tmp_path / "m.part").write_bytes(CONTENT + b"more")
    (tmp_path / "m.part.json").write_text(json.dumps({"url": server.remote().url, "mark": '"one"'}))
    server.before = [status(416)]
    assert fetch(server.remote(), tmp_path / "m", patience=QUICK).read_bytes() == CONTENT


def test_a_process_killed_before_the_last_step_needs_no_server(tmp_path):
    (tmp_path / "m.part").write_bytes(CONTENT)
    remote = Remote(url="http://127.0.0.1:9/m", sha256=sha(CONTENT))
    assert fetch(remote, tmp_path / "m", patience=QUICK).read_bytes() == CONTENT


FETCH = """
import sys
from pathlib import Path
from maskwise.models.download import Remote, fetch
fetch(Remote(url=sys.argv[1], sha256=sys.argv[2]), Path(sys.argv[3]))
"""


def test_two_processes_fetch_it_once(server, tmp_path):
    server.before = [lambda *_: time.sleep(0.7)]
    command = [sys.executable, "-c", FETCH, server.remote().url, sha(CONTENT), str(tmp_path / "m")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[1].count(b"fetching") for process in both].count(1) == 1
    assert [process.returncode for process in both] == [0, 0]
    assert len(server.asked) == 1
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_where_there_are_no_locks_it_goes_on_without(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", none)
    with locked(tmp_path / "lock"):
        assert "no lock is to be had there" in caplog.text


def test_a_process_that_must_not_fetch_says_so(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_OFFLINE", "1")
    with pytest.raises(DownloadError, match="MASKWISE_OFFLINE forbids"):
        fetch(server.remote(), tmp_path / "m")
    assert server.asked == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"url": "file:///etc/passwd"}, "begins with https:// or http://"),
        ({"url": "http:///m"}, "begins with https:// or http://"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
    ],
)
def test_what_is_no_remote_file_is_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Remote(**{"url": "https://example.org/m", "sha256": "0" * 64, **fields})


def test_the_place_of_fetched_files_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKWISE_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("MASKWISE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home() == tmp_path / "xdg" / "maskwise"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "maskwise"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert home() == Path.home() / "Library" / "Caches" / "maskwise"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert home() == tmp_path / "maskwise" / "Cache"
