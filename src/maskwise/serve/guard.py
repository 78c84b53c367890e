"""Around every request: who may ask, how much may be sent and how slowly, what every answer carries, what is logged.

Checks come before the framework sees the request, and the body is counted while it is read: a length that lies, or
none, changes nothing.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskwise.serve import failure
from maskwise.serve.failure import Failure, busy, internal
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer."""

DRAIN_SECONDS = 2.0
"""For which the rest of a refused body is still read, and thrown away: a client that is cut off while it sends
never sees why."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("maskwise.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask."""

    key: str | None = None
    """Needed for everything below /v1 and for /metrics, as `Authorization: Bearer KEY`."""
    hosts: tuple[str, ...] = ()
    """Names that the server may be called by; none: any. On loopback they keep out foreign pages whose name was
    made to point here (DNS rebinding)."""

    def __post_init__(self) -> None:
        if self.key is not None and (len(self.key) < 16 or not self.key.isascii() or not self.key.isprintable()):
            raise ValueError("an API key is at least 16 characters of printable ASCII")

    def check(self, path: str, method: str, headers: Headers) -> None:
        if self.hosts and host_name(headers.get("host", "")) not in self.hosts:
            raise Failure(421, "unknown_host", "this server is not called by that name; see --allow-host")
        if method not in ("GET", "HEAD") and is_foreign(headers):
            raise Failure(403, "foreign_page", "requests from pages of other sites are refused")
        if self.key is not None and is_protected(path) and not self._has_key(headers.get("authorization", "")):
            message = "this server needs a key, as the header Authorization: Bearer KEY"
            raise Failure(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})

    def _has_key(self, authorization: str) -> bool:
        """In a time that says nothing about the key or its length."""
        assert self.key is not None
        scheme, _, given = authorization.partition(" ")
        digests = [hashlib.sha256(text.encode()).digest() for text in (given.strip(), self.key)]
        return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


class Guard:
    """The outermost layer of our own."""

    def __init__(self, app: ASGIApp, *, limits: Limits, access: Access, metrics: Metrics) -> None:
        self.app, self.limits, self.access, self.metrics = app, limits, access, metrics
        self._bodies = 0  # bytes of all requests that are being read or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = Body(receive, self.limits, headers, self)
        exchange = Exchange(scope, send, body, _request_id(headers))
        try:
            self.access.check(scope["path"], scope["method"], headers)
            body.check_stated()
            await self.app(scope, body.receive, exchange.send)
        except Exception as error:
            await exchange.fail(error)
        finally:
            self._bodies -= body.read
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, exchange.status, exchange.finish())

    def take(self, count: int) -> None:
        if self._bodies + count > self.limits.bodies_at_once:
            raise busy(2, "too much is being sent at once; try again in 2 s")
        self._bodies += count


@dataclass(slots=True)
class Body:
    """A request's body on its way in."""

    source: Receive
    limits: Limits
    headers: Headers
    guard: Guard
    read: int = 0
    is_complete: bool = field(init=False)
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.is_complete = self._stated() == 0 and "transfer-encoding" not in self.headers
        self.until = asyncio.get_running_loop().time() + self.limits.body_timeout

    def _stated(self) -> int:
        """What is no number is too much."""
        length = self.headers.get("content-length", "0")
        return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else sys.maxsize

    def check_stated(self) -> None:
        if self._stated() > self.limits.max_body:
            raise self._too_large()

    async def receive(self) -> Message:
        if self.is_complete:  # then only a client that goes is waited for
            return await self.source()
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.source()
        except TimeoutError:
            message = f"the request was not sent within {self.limits.body_timeout:g} s"
            raise Failure(408, "too_slow", message) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.guard.take(count)
            self.read += count
            self.is_complete = not message.get("more_body", False)
            if self.read > self.limits.max_body:
                raise self._too_large()
        return message

    async def drain(self) -> None:
        """Read on for a while without keeping anything."""
        rest = self.limits.max_body
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.is_complete and rest > 0:
                    message = await self.source()
                    rest -= len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            return

    def _too_large(self) -> Failure:
        most = self.limits.max_body
        return Failure(413, "too_large", f"a request may have {most:,} bytes ({most / 2**20:g} MiB)")


@dataclass(slots=True)
class Exchange:
    """A request's answer on its way out."""

    scope: Scope
    target: Send
    body: Body
    request_id: str
    status: int = 0
    began: float = field(default_factory=time.monotonic)
    lingers: bool = False

    def __post_init__(self) -> None:
        state: MutableMapping[str, object] = self.scope.setdefault("state", {})
        state["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.lingers = not self.body.is_complete
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        elif self.lingers and not message.get("more_body", False):
            await self.target({**message, "more_body": True})
            await self.body.drain()
            message = {"type": "http.response.body", "body": b""}
        await self.target(message)

    async def fail(self, error: Exception) -> None:
        """Answer for what got this far, unless an answer has begun."""
        if not isinstance(error, Failure):
            log.exception("request %s: not foreseen", self.request_id, exc_info=error)
        if not self.status:
            told = error if isinstance(error, Failure) else internal()
            await failure.response(told, self.request_id)(self.scope, self.body.source, self.send)

    def finish(self) -> float:
        """Seconds in all, and the line of the log."""
        seconds = time.monotonic() - self.began
        path = self.scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:100]
        told = self.status or "gone"  # the client went before there was an answer
        log.info("%s %s %s %s %.0f ms", self.request_id, self.scope["method"], path, told, seconds * 1e3)
        return seconds

    def _headers(self) -> Iterator[tuple[bytes, bytes]]:
        more = {"Connection": "close"} if self.lingers else {}
        for name, value in {**HEADERS, **more, "X-Request-ID": self.request_id}.items():
            yield name.lower().encode(), value.encode()


def _request_id(headers: Headers) -> str:
    """The client's, as proxies give them, where it is fit to be logged; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else secrets.token_hex(8)


def host_name(host: str) -> str:
    """Of a Host header, without the port."""
    return re.sub(r":\d*$", "", host).lower()


def is_foreign(headers: Headers) -> bool:
    """Whether a browser sent this for a page of somebody else."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    return origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}")


def is_protected(path: str) -> bool:
    return path.startswith("/v1/") or path == "/metrics"
