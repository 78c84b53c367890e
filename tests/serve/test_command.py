"""`maskwise serve` as it is run: a process, its options, its end."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serve.fakes import as_file, ask, spots, wait_for

from maskwise.serve.command import access_of, is_loopback, listening, main

TESTS = Path(__file__).parents[1]
RUN = """
import logging, signal, sys
from serve.fakes import Bright
from maskwise.serve.command import access_of, listening, run
from maskwise.serve.limits import Limits
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
model = Bright()
model.may_go.clear()
signal.signal(signal.SIGUSR1, lambda *_: model.may_go.set())
with listening("127.0.0.1", 0) as listener:
    run(model, listener, limits=Limits(max_batch=1), access=access_of("127.0.0.1", None, ()))
"""


@contextmanager
def process() -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server with a model that begins when it is told to, by SIGUSR1."""
    started = subprocess.Popen(
        [sys.executable, "-c", RUN], stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    try:
        assert started.stderr is not None
        for line in started.stderr:
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise AssertionError("it never said where it listens")
        with httpx.Client(base_url=found[0], timeout=20, trust_env=False) as client:
            yield started, client
    finally:
        started.kill()
        started.wait()
        started.stderr.close()


@pytest.mark.long
def test_on_loopback_and_a_stop_that_answers_what_was_begun():
    with process() as (server, client):
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(client, as_file(spots())))) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: "maskwise_accepted_pictures 3" in client.get("/metrics").text, 20)
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers_at_all(client), 20)
        server.send_signal(signal.SIGUSR1)
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert server.wait(20) == 0
        assert "stopped" in server.stderr.read()


def answers_at_all(client: httpx.Client) -> bool:
    """Whether anybody new gets an answer."""
    try:
        with httpx.Client(base_url=client.base_url, trust_env=False) as another:
            return another.get("/healthz").is_success
    except httpx.TransportError:
        return False


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--model", "no-such-model"]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_limits_that_are_wrong_are_told(capsys):
    assert main(["--queue", "0"]) == 2
    assert "queue must be" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from maskwise.serve.command import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'fastapi' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_other_addresses_than_loopback_bring_a_warning(caplog, tmp_path):
    with caplog.at_level(logging.WARNING, "maskwise.serve"):
        access_of("127.0.0.1", None, ())
        assert not caplog.records
        open_to_all = access_of("0.0.0.0", None, ())
        assert "anyone who can reach 0.0.0.0" in caplog.text
    assert open_to_all.hosts == ()
    (tmp_path / "key").write_text("correct horse battery\n")
    assert access_of("0.0.0.0", tmp_path / "key", ()).key == "correct horse battery"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfcorrect horse battery\r\n", b"  correct horse battery\n\n"])
def test_what_editors_add_is_no_part_of_a_key(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert access_of("127.0.0.1", tmp_path / "key", ()).key == "correct horse battery"


def test_a_key_file_that_holds_or_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "key").write_bytes(b"\xff\xfe" + "correct horse battery".encode("utf-16-le"))
    assert main(["--key-file", str(tmp_path / "key")]) == 2
    assert f"{tmp_path / 'key'}: a key is printable ASCII" in capsys.readouterr().err
    assert main(["--key-file", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'}: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("LOCALHOST", True), ("0.0.0.0", False)],
)
def test_what_loopback_is(host, expected):
    assert is_loopback(host) == expected


def test_addresses():
    with listening("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0
    with pytest.raises(ValueError, match="cannot listen on no-such-host"):
        listening("no-such-host.invalid", 0)
    with pytest.raises(ValueError, match="a port is a number from 0 to 65535, got 70000"):
        listening("127.0.0.1", 70_000)
