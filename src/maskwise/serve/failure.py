"""What a client is told when something goes wrong: one shape, `{"error": {"code", "message"}, "request_id"}`."""

import json

from starlette.exceptions import HTTPException
from starlette.responses import Response

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "invalid_request",
}
"""Of failures that the framework names by number only."""


class Failure(HTTPException):
    """An answer that is no success: a status, a stable code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def error(self) -> dict[str, str]:
        return {"code": self.code, "message": self.detail}


def busy(seconds: int, message: str) -> Failure:
    """No room now; worth another try after some seconds."""
    return Failure(503, "busy", message, headers={"Retry-After": str(seconds)})


def internal() -> Failure:
    """Something of ours broke. Details are in the log, under the request's id, and nowhere else."""
    return Failure(500, "internal", "the server made a mistake; its log tells more under this request id")


def response(error: HTTPException, request_id: str) -> Response:
    code = error.code if isinstance(error, Failure) else CODES.get(error.status_code, "refused")
    content = {"error": {"code": code, "message": str(error.detail)}, "request_id": request_id}
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    headers = {**(error.headers or {}), "Cache-Control": "no-store"}
    return Response(body, error.status_code, headers, media_type="application/json")
