"""Who may ask, and what every answer carries."""

import logging
import socket

import pytest
from serve.fakes import Bright, as_file, ask, served, spots, wait_for

from maskwise.serve import static
from maskwise.serve.guard import HEADERS, Access

KEY = "correct horse battery"


@pytest.fixture(scope="module")
def client():
    with served(Bright()) as client:
        yield client


@pytest.fixture(scope="module")
def locked():
    with served(Bright(), access=Access(key=KEY, hosts=("127.0.0.1", "[::1]", "lab.example"))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/v1/models", "/nope", "/v1/predict", "/metrics"])
def test_every_answer_carries_the_headers(client, path):
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


def test_paths_of_the_page_are_a_fixed_list(client):
    for path in ("/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/"):
        assert client.get(path).status_code == 404
    for path, kind in (("/", "text/html"), ("/page/view.js", "text/javascript"), ("/page/page.css", "text/css")):
        assert client.get(path).headers["content-type"].startswith(kind)


def test_the_page_loads_nothing_of_others(client):
    for path in (path for path in static.page() if path.endswith((".js", "/"))):
        text = client.get(path).text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert " style=" not in text


def test_a_page_that_did_not_change_is_not_sent_again(client):
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_request_ids_are_taken_over_where_they_are_harmless(client):
    assert client.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "<script>", "x" * 65, '"'):
        assert client.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"] != bad


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY])
def test_without_the_key_nothing_is_told(locked, given):
    for answer in (
        locked.get("/v1/models", headers={"authorization": given}),
        locked.get("/metrics", headers={"authorization": given}),
        locked.post("/v1/predict", headers={"authorization": given}, files=[("file", ("x", as_file(spots())))]),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "unauthorized"


def test_with_the_key(locked):
    locked.headers["authorization"] = f"bearer {KEY}"
    try:
        assert locked.get("/v1/models").status_code == 200
        assert ask(locked, as_file(spots())).status_code == 200
    finally:
        del locked.headers["authorization"]


def test_the_page_and_the_probes_need_no_key(locked):
    for path in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/"])
def test_heads_can_be_asked_for(client, path):
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_key_must_be_worth_its_name():
    for wrong in ("short", "naïve naïve naïve naïve", "line\nline line line line"):
        with pytest.raises(ValueError, match="16 characters"):
            Access(key=wrong)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil"])
def test_foreign_names_are_refused(locked, host):
    answer = locked.get("/", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "LAB.example", "[::1]:80"])
def test_own_names_are_not(locked, host):
    assert locked.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[bad"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_pages_of_others_cannot_make_a_browser_ask(client, headers):
    answer = client.post("/v1/predict", files=[("file", ("x", as_file(spots())))], headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_page")


def test_the_own_page_can(client):
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": own}):
        files = [("file", ("x", as_file(spots())))]
        assert client.post("/v1/predict", files=files, headers=headers).status_code == 200


def test_there_is_no_cors(client):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = client.request("OPTIONS", "/v1/predict", headers=asked)
    assert answer.status_code in (403, 405)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_failures_of_the_framework_have_the_same_shape(client):
    for answer, code in (
        (client.get("/nope"), "not_found"),
        (client.delete("/v1/predict"), "method_not_allowed"),
        (client.post("/v1/predict", content=b"x"), "not_a_form"),
        (client.post("/v1/predict", data={"file": "text"}), "not_a_form"),
    ):
        assert answer.json()["error"]["code"] == code
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_what_is_no_http_is_answered_in_plain_words(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=5) as odd:
        odd.sendall(b"no request\r\n\r\n")
        answer = odd.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"text/plain" in answer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_scoer": "1"}, "did you mean 'min_score'?"),
        ({"url": "http://127.0.0.1/"}, "unknown option 'url'"),
        ({"min_score": "2"}, "min_score is '2'"),
        ({"min_quality": "nan"}, "min_quality is 'nan'"),
        ({"format": "exe"}, "format is 'exe'"),
    ],
)
def test_wrong_options_are_told(client, options, words):
    answer = ask(client, as_file(spots()), **options)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_wrong_names_of_fields_are_told(client):
    answer = client.post("/v1/predict", files=[("image", ("x", as_file(spots())))])
    assert "in fields 'file', not 'image'" in answer.json()["error"]["message"]


def test_the_log_has_ids_and_codes_but_nothing_a_client_can_forge(client, caplog):
    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if answer.headers["x-request-id"] in r.getMessage()]

    with caplog.at_level(logging.INFO, "maskwise.serve"):
        answer = client.get("/nope%0aforged?key=secret")
        wait_for(lines)  # a line is written after its answer
    (line,) = lines()
    assert "404" in line
    assert "\n" not in line
    assert "secret" not in line


def test_metrics_are_in_prometheus_format(client):
    ask(client, as_file(spots()))
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['maskwise_requests_total{route="/v1/predict",code="200"}']) >= 1
    assert values['maskwise_predict_seconds_bucket{le="+Inf"}'] == values["maskwise_predict_seconds_count"]
    assert float(values["maskwise_instances_total"]) >= 1
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    stems = {name.split("{")[0] for name in values}
    assert all(any(stem.startswith(kind) for kind in typed) for stem in stems)
