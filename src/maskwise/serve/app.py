"""The routes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from maskwise.data.formats import json_file
from maskwise.serve import failure, schema
from maskwise.serve.answers import KINDS
from maskwise.serve.batching import Predictor
from maskwise.serve.failure import Failure
from maskwise.serve.guard import Access, Guard
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics
from maskwise.serve.schema import Options
from maskwise.serve.service import Service
from maskwise.serve.static import File, page
from maskwise.serve.uploads import FIELD, read_form
from maskwise.version import __version__

T = TypeVar("T")

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Refusal, "description": why}
    for status, why in {
        401: "the key is missing or wrong",
        408: "the request was sent too slowly",
        413: "the request is too large",
        415: "the request is no form",
        422: "a picture cannot be read, is too large, or an option is wrong",
        500: "the model failed on the picture",
        503: "no room now: try again after Retry-After seconds",
        504: "no answer in time",
    }.items()
}
REFUSALS[503]["content"] = {"application/json": {"example": schema.BUSY}}


def create_app(model: Predictor, limits: Limits | None = None, *, access: Access | None = None) -> FastAPI:
    """The server of one model, as an ASGI application; `app.state.service` is what it is made of."""
    limits, metrics = limits or Limits(), Metrics()
    service = Service(model, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="maskwise",
        version=__version__,
        summary="Instance segmentation that knows how good its masks are.",
        lifespan=lifespan,
        docs_url=None,  # both load scripts of others
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Guard, limits=limits, access=access or Access(), metrics=metrics)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.router.routes += [Route(path, _sent(file), name=path) for path, file in page().items()]
    _add_predictions(app, service)
    _add_states(app, service)
    return app


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/predict", summary="Find instances in pictures", openapi_extra=_form(), responses=_predictions())
    async def predict(request: Request) -> Response:
        """Pictures are read upright. With one picture a failure is the answer's status; with several, each has its own
        `error`. `overlay`, `labelme` and `label_map` are for one picture."""
        service.check_room()
        files, options = await read_form(request, service.limits)
        if len(files) > 1 and options.format not in ("rle", "polygons", "csv"):
            raise Failure(422, "too_many_pictures", f"{options.format} is for one picture, these are {len(files)}")
        request_id = request.state.request_id
        answer = await _unless_gone(request, service.predict(files, options, request_id=request_id))
        named = {"Content-Disposition": f'inline; filename="{answer.file_name}"'} if answer.file_name else {}
        more = {} if answer.limit_reached is None else {"Maskwise-Limit-Reached": str(answer.limit_reached)}
        headers = {**named, **more, "Cache-Control": "no-store"}
        return Response(answer.body, headers=headers, media_type=answer.media_type)

    @app.post("/v1/picture", summary="A picture as the model sees it", openapi_extra=_form(), responses=_pictures())
    async def picture(request: Request) -> Response:
        """PNG of 8 bits, upright: for pages that show what their browser cannot decode, such as TIFF of 16 bits."""
        service.check_room()
        files, _ = await read_form(request, service.limits)
        if len(files) > 1:
            raise Failure(422, "too_many_pictures", f"one picture at a time, these are {len(files)}")
        body = await _unless_gone(request, service.decode(files[0]))
        return Response(body, headers={"Cache-Control": "no-store"}, media_type="image/png")


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", summary="What is served", responses={200: {"model": schema.Models}, 401: REFUSALS[401]})
    async def models() -> Response:
        categories, limits = service.model.categories, service.limits
        known = zip(range(len(categories)), categories.ids, categories.names, strict=True)
        bounds = schema.Bounds(
            body_bytes=limits.max_body,
            pixels=limits.max_pixels,
            pictures=limits.files,
            queue=limits.queue,
            seconds=limits.timeout,
        )
        named = [schema.Category(label=label, id=id_, name=name) for label, id_, name in known]
        model = schema.Model(name=service.name, categories=named)
        content = schema.Models(models=[model], limits=bounds, version=__version__).model_dump()
        return Response(json_file.text(content), media_type="application/json")  # a name may be no text

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="It need not be restarted", response_class=PlainTextResponse, responses={503: {}})
    async def healthz() -> PlainTextResponse:
        if service.is_broken:
            return PlainTextResponse("the model's thread has ended; start the server again\n", 503)
        return PlainTextResponse("ok\n")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Requests are welcome", response_class=PlainTextResponse, responses={503: {}})
    async def readyz() -> PlainTextResponse:
        reason = service.trouble()
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = service.metrics.text(waiting=service.waiting, accepted=service.accepted)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _sent(file: File):
    async def send(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "ETag": file.tag}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers=headers, media_type=file.media_type)

    return send


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        error = Failure(422, "invalid_request", "the request is not as described in /openapi.json")
    return failure.response(error, request.state.request_id)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result, or the end of the work as soon as nobody waits for it any more."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Failure(499, "gone", "the client closed the connection")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _form() -> dict[str, Any]:
    """The body of a request; it is parsed by us, so that its limits are ours."""
    picture = {"type": "string", "format": "binary"}
    options = Options.model_json_schema()["properties"]
    fields = {FIELD: {"type": "array", "items": picture, "description": "one or more pictures"}, **options}
    content = {"schema": {"type": "object", "properties": fields, "required": [FIELD]}}
    query = [{"name": name, "in": "query", "required": False, "schema": option} for name, option in options.items()]
    return {"parameters": query, "requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def _predictions() -> dict[int | str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {media_type.partition(";")[0]: {} for media_type, _ in KINDS.values()}
    files["application/json"] = {"example": schema.EXAMPLE}
    return {200: {"model": schema.Prediction, "description": "what was found", "content": files}, **REFUSALS}


def _pictures() -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the picture", "content": {"image/png": {}}}, **REFUSALS}
