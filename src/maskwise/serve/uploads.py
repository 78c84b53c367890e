"""From a request's form to pictures in memory and checked options. Names of uploads are read by nobody."""

import difflib

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from maskwise.serve.failure import Failure
from maskwise.serve.limits import Limits
from maskwise.serve.schema import Options

FIELD = "file"
"""Of the form, repeated for each picture."""


async def read_form(request: Request, limits: Limits) -> tuple[list[bytes], Options]:
    """The pictures, still as files, and what is asked about them."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Failure(415, "not_a_form", f"send pictures as multipart/form-data, each in a field {FIELD!r}")
    form = await _parsed(request)
    try:
        uploads = _uploads(form, limits)
        asked = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        chosen = _options({**request.query_params, **asked})
        return [await upload.read() for upload in uploads], chosen
    finally:
        await form.close()


async def _parsed(request: Request) -> FormData:
    """Larger uploads lie in files without a name meanwhile, smaller ones in memory."""
    try:
        return await request.form(max_files=1000, max_fields=100, max_part_size=1000)
    except ClientDisconnect:
        raise Failure(499, "gone", "the client closed the connection") from None
    except (HTTPException, OSError):
        raise
    except Exception as error:  # parsers have many kinds, all of them caused by what was sent
        raise Failure(400, "bad_form", f"the form cannot be read ({type(error).__name__})") from error


def _uploads(form: FormData, limits: Limits) -> list[UploadFile]:
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if wrong := next((name for name, _ in files if name != FIELD), None):
        raise Failure(422, "invalid_request", f"pictures are sent in fields {FIELD!r}, not {wrong[:40]!r}")
    if not files:
        raise Failure(422, "no_picture", f"there is no picture: send at least one as a file in a field {FIELD!r}")
    if len(files) > limits.files:
        raise Failure(422, "too_many_pictures", f"{len(files)} pictures; a request may have {limits.files}")
    return [upload for _, upload in files]


def _options(asked: dict[str, str]) -> Options:
    known = list(Options.model_fields)
    if unknown := [name for name in asked if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise Failure(422, "invalid_request", f"unknown option {unknown[0][:40]!r}; {hint}")
    try:
        return Options.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where, value = ".".join(map(str, first["loc"])), str(first["input"])[:40]
        raise Failure(422, "invalid_request", f"{where} is {value!r}: {first['msg'].lower()}") from None
