"""Each limit is met, and says so: sizes, counts, times, room."""

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from serve.fakes import Bright, as_file, ask, served, spots, wait_for

from maskwise.serve import connection, guard, service
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics
from maskwise.serve.schema import Options

SMALL = Limits(max_body=20_000, max_pixels=10_000, max_files=3, queue=4, timeout=5, body_timeout=0.4)


@pytest.fixture(scope="module")
def client():
    with served(Bright(), SMALL) as client:
        yield client


def error(answer: httpx.Response) -> tuple[int, str]:
    content = answer.json()
    assert set(content) == {"error", "request_id"}
    assert set(content["error"]) == {"code", "message"}
    assert content["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, content["error"]["code"]


def test_a_body_that_says_it_is_too_large(client):
    answer = ask(client, b"x" * 30_000)
    assert error(answer) == (413, "too_large")
    assert "20,000 bytes" in answer.json()["error"]["message"]


def test_a_body_that_does_not_say_how_large_it_is(client):
    sent = []

    def chunks():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(60):
            sent.append(1)
            yield b"x" * 1000

    answer = client.post("/v1/predict", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert error(answer) == (413, "too_large")


@pytest.mark.parametrize("length", [b"9" * 18, b"9" * 40, b"-1", b"1e3", b"0x10"])
def test_lengths_that_lie(client, length):
    head = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + length + b"\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=5) as odd:
        odd.sendall(head)
        assert odd.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_body_with_no_end_is_cut_off(client):
    sent = []

    def chunks():
        while len(sent) < 10_000:
            sent.append(1)
            yield b"x" * 5000

    with contextlib.suppress(httpx.HTTPError):  # the connection is closed while this is sent: the answer may be lost
        client.post("/v1/predict", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert len(sent) < 10_000, "50 MB are not read from anyone who may send 20 kB"
    assert client.get("/healthz").status_code == 200


def test_pixels_are_counted_before_decoding(client):
    answer = ask(client, as_file(np.zeros((101, 100, 3), np.uint8)))
    assert error(answer) == (422, "too_many_pixels")
    assert ask(client, as_file(np.zeros((100, 100, 3), np.uint8))).status_code == 200


def test_a_header_that_promises_a_billion_pixels(client):
    file = bytearray(as_file(spots()))
    file[16:24] = (40_000).to_bytes(4, "big") * 2
    assert error(ask(client, bytes(file)))[0] == 422


def test_count_of_pictures(client):
    assert error(ask(client, *[as_file(spots())] * 4)) == (422, "too_many_pictures")


def test_a_request_may_not_have_more_pictures_than_the_queue():
    assert Limits(max_files=16, queue=2).files == 2


def test_a_body_that_comes_too_slowly(client):
    def chunks():
        yield b"--b\r\n"
        time.sleep(0.8)
        yield b"more"

    answer = client.post("/v1/predict", content=chunks(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert error(answer) == (408, "too_slow")


def test_requests_together_may_not_fill_the_memory(client, monkeypatch):
    monkeypatch.setattr(Limits, "bodies_at_once", 500)
    answer = ask(client, as_file(spots()))
    assert error(answer) == (503, "busy")
    assert answer.headers["retry-after"] == "2"


def test_bytes_are_given_back(client, monkeypatch):
    monkeypatch.setattr(Limits, "bodies_at_once", 2 * len(as_file(spots())) + 1000)
    for _ in range(5):
        assert ask(client, as_file(spots())).status_code == 200
        assert ask(client, b"no picture").status_code == 422


def background(client: httpx.Client, count: int) -> tuple[list[threading.Thread], list[int]]:
    """Requests that stay on their way."""
    codes: list[int] = []

    def post() -> None:
        codes.append(ask(client, as_file(spots())).status_code)

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, codes


def test_a_full_queue_is_told_at_once_and_nothing_taken_on_is_lost():
    model = Bright()
    model.may_go.clear()
    with served(model, Limits(queue=3, max_batch=1)) as client:
        threads, codes = background(client, 3)
        wait_for(lambda: client.app.state.service.accepted == 3)
        refused = ask(client, as_file(spots()))
        assert error(refused) == (503, "busy")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert "maskwise_accepted_pictures 3" in client.get("/metrics").text
        model.may_go.set()
        for thread in threads:
            thread.join(10)
        assert codes == [200, 200, 200]
        assert ask(client, as_file(spots())).status_code == 200


def test_an_answer_that_takes_too_long():
    model = Bright()
    model.may_go.clear()
    with served(model, Limits(timeout=0.3)) as client:
        assert error(ask(client, as_file(spots()))) == (504, "timeout")
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert "at one batch for" in client.get("/readyz").text
        assert client.get("/healthz").status_code == 200
        model.may_go.set()
        wait_for(lambda: client.get("/readyz").status_code == 200)
        wait_for(lambda: client.app.state.service.accepted == 0)


def test_a_picture_that_takes_too_long_to_decode(monkeypatch):
    monkeypatch.setattr(service, "_decoded", lambda *_: time.sleep(1))
    with served(Bright(), Limits(timeout=0.3)) as client:
        asked = client.post("/v1/picture", files=[("file", ("x", as_file(spots())))])
        assert error(asked) == (504, "timeout")
        assert client.app.state.service.accepted == 1, "the thread is still at it"
        wait_for(lambda: client.app.state.service.accepted == 0)


def test_who_gives_up_has_its_room_until_its_picture_is_decoded(monkeypatch):
    """Otherwise clients that come and go would have any number decoded at once."""
    now, most = [], []

    def slow(*_: object) -> np.ndarray:
        now.append(1)
        most.append(len(now))
        time.sleep(0.3)
        now.pop()
        return spots()

    monkeypatch.setattr(service, "_decoded", slow)
    file = as_file(np.zeros((100, 100, 3), np.uint8))

    async def come_and_go() -> None:
        tried = service.Service(Bright(), Limits(max_pixels=10_000), Metrics())  # room for two such pictures
        tried._pool = ThreadPoolExecutor(4)
        tried.start()
        for i in range(8):
            asked = asyncio.create_task(tried.predict([file], Options(), request_id=str(i)))
            await asyncio.sleep(0.03)
            asked.cancel()
        assert tried.accepted > 0
        while tried.accepted:
            await asyncio.sleep(0.01)
        assert tried._pixels.held == 0
        tried.stop()

    asyncio.run(come_and_go())
    assert max(most) == 2


def test_work_for_a_client_that_has_gone_is_dropped():
    model = Bright()
    model.may_go.clear()
    with served(model, Limits(max_batch=1)) as client:
        threads, _ = background(client, 1)
        wait_for(lambda: model.batches)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/predict", files=[("file", ("x", as_file(spots())))], timeout=0.3)
        wait_for(lambda: client.app.state.service.accepted == 1)
        model.may_go.set()
        threads[0].join(5)
        assert ask(client, as_file(spots())).status_code == 200
        assert model.batches == [1, 1], "the first and the last; the one in between was never begun"
        assert 'outcome="dropped"} 1' in client.get("/metrics").text


def seconds_until_closed(client: httpx.Client, words: Iterator[bytes], *, reads: bool = True) -> float:
    """For which the server bears a connection that sends these words, one after another."""
    with socket.socket() as odd:
        odd.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        odd.connect((client.base_url.host, client.base_url.port))
        odd.settimeout(0.05)
        began = time.monotonic()
        while time.monotonic() - began < 10:
            try:
                odd.sendall(next(words, b""))
                if reads and odd.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - began


def test_connections_that_never_finish_asking_are_closed(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with served(Bright()) as client:
        for words in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-"):
            assert 0.2 < seconds_until_closed(client, iter([words])) < 3
        drops = (bytes([letter]) for letter in b"GET / HTTP/1.1\r\nHost: " + b"x" * 1000)
        assert 0.2 < seconds_until_closed(client, drops) < 3
        assert client.get("/healthz").status_code == 200


def test_a_client_that_does_not_read_its_answers_is_closed(monkeypatch):
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    request = b"GET /page/page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with served(Bright()) as client:
        assert 0.2 < seconds_until_closed(client, itertools.repeat(request * 20), reads=False) < 5
        assert client.get("/healthz").status_code == 200


def test_limits_that_make_no_sense_are_refused():
    wrongs = ({"queue": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"max_wait_ms": -1.0}, {"max_body": -5})
    for wrong in (*wrongs, {"timeout": 1e12}, {"body_timeout": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)
    with pytest.raises(ValueError, match="max_wait_ms must be a number from 0 to 60,000, got 10000000000000"):
        Limits(max_wait_ms=1e13)


def test_a_refused_body_is_read_for_a_while_so_that_the_reason_arrives():
    assert guard.DRAIN_SECONDS > 0
    with served(Bright(), Limits(max_body=1_000_000)) as client:
        for _ in range(5):  # without it, the reset would overtake the answer now and then
            assert error(ask(client, b"x" * 1_500_000)) == (413, "too_large")
