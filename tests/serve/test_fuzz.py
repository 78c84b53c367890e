"""Whatever is sent: never a 500, never another shape than ours, and the server goes on."""

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve.fakes import Bright, as_file, served, spots

# The server's threads run beside hypothesis, which takes whatever they do to `random` for the strategies' doing.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")

GOOD = (
    b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + as_file(spots(16, 12))
    + b'\r\n--boundary\r\nContent-Disposition: form-data; name="min_score"\r\n\r\n0.5\r\n--boundary--\r\n'
)


@pytest.fixture(scope="module")
def client():
    with served(Bright()) as client:
        yield client


@st.composite
def damaged(draw, good: bytes) -> bytes:
    """Cut, changed, doubled or filled with noise in a few places."""
    body = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(body) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0:
                del body[place:]
            case 1:
                body[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 2:
                body[place:place] = draw(st.binary(max_size=20))
            case 3:
                del body[place : place + draw(st.integers(1, 30))]
            case _:
                body[place:place] = body[: draw(st.integers(0, len(body)))]
    return bytes(body)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    content = answer.json()
    if answer.status_code != 200:
        assert set(content) == {"error", "request_id"}
        assert "Traceback" not in answer.text


TYPES = st.sampled_from(
    [
        "multipart/form-data; boundary=boundary",
        'multipart/form-data; boundary="boundary"; charset=nonsense',
        "multipart/form-data; charset=utf-16; boundary=boundary",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/x-www-form-urlencoded",
        "application/json",
    ]
)


def test_the_undamaged_body_is_answered(client):
    headers = {"content-type": "multipart/form-data; boundary=boundary"}
    assert client.post("/v1/predict", content=GOOD, headers=headers).status_code == 200


# Starlette leaves uploads that were begun and not ended to the garbage collector, which closes them.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
@given(damaged(GOOD), TYPES)
def test_damaged_forms(client, body, kind):
    check(client.post("/v1/predict", content=body, headers={"content-type": kind}))


@given(st.data(), st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]))
def test_damaged_pictures(client, data, kind):
    file = data.draw(damaged(as_file(spots(16, 12), kind)))
    check(client.post("/v1/predict", files=[("file", ("x", file))]))


@given(st.binary(max_size=300))
def test_noise(client, noise):
    check(client.post("/v1/predict", files=[("file", ("x", noise))]))
    check(client.post("/v1/predict", content=noise, headers={"content-type": "multipart/form-data; boundary=boundary"}))


WORDS = st.text(st.characters(codec="utf-8"), max_size=12)


@given(
    st.dictionaries(
        st.sampled_from(["min_score", "min_quality", "format", "file", "x"]) | WORDS,
        WORDS | st.floats().map(str),
        max_size=4,
    ),
    st.booleans(),
)
def test_odd_options(client, options, is_query):
    files = [("file", ("x", as_file(spots(16, 12))))]
    answer = client.post("/v1/predict", files=files, **{"params" if is_query else "data": options})
    if answer.headers["content-type"] == "application/json":
        check(answer)
    assert answer.status_code < 500


PATHS = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="?#\x7f"), max_size=30)


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "ODD"]), PATHS)
@settings(max_examples=25)
def test_odd_paths_and_methods(client, method, path):
    answer = client.request(method, httpx.URL(str(client.base_url)).copy_with(path="/" + path.lstrip("/")))
    assert answer.status_code < 500


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
@settings(max_examples=25)
def test_names_of_uploads_are_read_by_nobody(client, name):
    answer = client.post("/v1/predict", files=[("file", (f"../../{name}", as_file(spots(16, 12))))])
    assert answer.status_code == 200
    assert "../" not in answer.text


def test_it_still_works(client):
    assert client.get("/readyz").status_code == 200
    assert client.app.state.service.accepted == 0
