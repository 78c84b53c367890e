"""From pictures as files to an answer: room, header, decoding, model, form of the answer, all within a time.

Decoding and encoding run in a few threads, the model in its own; the event loop only waits for them.
"""

import asyncio
import logging
import math
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import TypeVar

from maskwise import predict
from maskwise.data.images import Header, ImageReadError, read_header, read_image
from maskwise.data.pillow import FORMATS
from maskwise.serve import answers
from maskwise.serve.answers import Answer
from maskwise.serve.batching import Batcher, Picture, Predictor
from maskwise.serve.budget import Budget
from maskwise.serve.failure import Failure, busy, internal
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics
from maskwise.serve.schema import Options

ACCEPTED = tuple(
    name
    for name in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
    if name in FORMATS  # a Pillow may be built without some of them
)
"""Of all that can be read, what strangers may send."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Service:
    """A model and everything that stands between it and requests."""

    def __init__(self, model: Predictor, limits: Limits, metrics: Metrics) -> None:
        self.model, self.limits, self.metrics = model, limits, metrics
        self.name = PurePath(model.name).name  # a model may be a file; where it lies is nobody's business
        self.accepted = 0
        self.draining = False
        self._batcher = Batcher(model, limits, metrics)
        self._pixels = Budget(limits.pixels_at_once)
        self._tasks: set[asyncio.Task] = set()
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="maskwise-picture")

    def start(self) -> None:
        self._batcher.start()

    def stop(self) -> None:
        self.draining = True
        self._batcher.stop(self.limits.timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    def trouble(self) -> str | None:
        """Why no request should be sent here now."""
        return "the server is being stopped" if self.draining else self._batcher.trouble()

    @property
    def is_broken(self) -> bool:
        """For good: the model's thread has ended, and nobody told it to."""
        return not (self.draining or self._batcher.is_alive)

    def check_room(self, pictures: int = 1) -> None:
        """Refuse what there is no room for, before any of it is read."""
        if self.accepted + pictures > self.limits.queue:
            seconds = min(max(math.ceil(self._batcher.seconds_for(self.accepted)), 1), 30)
            raise busy(seconds, f"{self.accepted} of {self.limits.queue} places are taken; try again in {seconds} s")

    async def predict(self, files: Sequence[bytes], options: Options, *, request_id: str) -> Answer:
        reached: set[int] = set()
        parts = await self._in_time(self._parts(files, options, request_id, reached))
        answer = answers.whole(parts, options, model=self.name, request_id=request_id)
        return answer._replace(limit_reached=max(reached, default=None))

    async def decode(self, file: bytes) -> bytes:
        """The picture as the model sees it, as PNG: upright, 8 bits, in colours."""
        return await self._in_time(self._shown(file))

    async def _shown(self, file: bytes) -> bytes:
        with self._room(1):
            (height, width), _ = await self._in_pool(lambda: _header(file, self.limits.max_pixels))
            async with self._pixels.hold(height * width):
                return await self._in_pool(lambda: answers.png(_decoded(file, self.limits.max_pixels)))

    async def _in_time(self, work: Coroutine[None, None, T]) -> T:
        """Who asked is told in time; the work itself ends when the threads that are at it are done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise Failure(504, "timeout", f"there was no answer within {self.limits.timeout:g} s") from None
        finally:
            task.cancel()

    @contextmanager
    def _room(self, pictures: int) -> Iterator[None]:
        self.check_room(pictures)
        self.accepted += pictures
        try:
            yield
        finally:
            self.accepted -= pictures

    async def _parts(
        self, files: Sequence[bytes], options: Options, request_id: str, reached: set[int]
    ) -> list[bytes | Failure]:
        with self._room(len(files)):
            tasks = [self._part(i, file, options, request_id, reached) for i, file in enumerate(files)]
            return await asyncio.gather(*tasks)

    async def _part(
        self, index: int, file: bytes, options: Options, request_id: str, reached: set[int]
    ) -> bytes | Failure:
        """The answer about one picture; a failure is of this picture only."""
        try:
            return await self._answered(index, file, options, request_id, reached)
        except asyncio.CancelledError:
            self.metrics.picture("dropped")
            raise
        except Failure as failure:
            self.metrics.picture("refused" if failure.status_code < 500 else "failed")
            return failure
        except Exception:
            log.exception("request %s: picture %d", request_id, index)
            self.metrics.picture("failed")
            return internal()

    async def _answered(self, index: int, file: bytes, options: Options, request_id: str, reached: set[int]) -> bytes:
        """`reached`: limits of the model that were; added to."""
        wanted = predict.Options(min_score=options.min_score, min_quality=options.min_quality)
        keep, limit = predict.keeper(self.model.categories, wanted), predict.limit_of(self.model, wanted)
        (height, width), turned = await self._in_pool(lambda: _header(file, self.limits.max_pixels))
        async with self._pixels.hold(height * width):
            picture = await self._in_pool(lambda: _decoded(file, self.limits.max_pixels))
            found, _, limited = await _done(self._batcher.submit(picture, request_id, keep, limit))
            most = limit.most if limited else None
            reached |= set() if most is None else {most}
            notes = {"exif_orientation": turned if turned > 1 else None, "limit_reached": most}
            body = await self._in_pool(
                lambda: answers.part(index, picture, found, options, self.model.categories, notes=notes)
            )
        self.metrics.picture("answered", instances=len(found))
        return body

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await _done(self._pool.submit(work))


async def _done(future: Future[T]) -> T:
    """What a thread makes. Who gives up goes when the thread does, which cannot be stopped: its memory is taken."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel():
            with suppress(Exception):
                await asyncio.wrap_future(future)
        raise


def _header(file: bytes, max_pixels: int) -> Header:
    """Read before memory is taken."""
    try:
        return read_header(file, max_pixels=max_pixels, formats=ACCEPTED)
    except ImageReadError as error:
        raise _unreadable(error) from None


def _decoded(file: bytes, max_pixels: int) -> Picture:
    try:
        return read_image(file, max_pixels=max_pixels, formats=ACCEPTED)
    except ImageReadError as error:
        raise _unreadable(error) from None


def _unreadable(error: ImageReadError) -> Failure:
    code = "too_many_pixels" if error.reason.startswith("too many pixels") else "unreadable_picture"
    return Failure(422, code, f"the picture cannot be read: {error.reason}")
