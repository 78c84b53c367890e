"""The model's one thread: pictures that it sees at one size and that wait at the same time are predicted on together.

A large picture is looked at in tiles, exactly as the command line does, so that memory has a bound; between two tiles
it is given up if nobody waits for it any more. A picture on which the model fails costs only itself; where memory does
not suffice a batch is halved, then the picture.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from maskwise.categories import Categories
from maskwise.out_of_memory import is_out_of_memory
from maskwise.predict import Options, batch_size
from maskwise.predictions import memory
from maskwise.predictions.memory import NO_LIMIT, Found, Keep, Limit
from maskwise.rle import Size
from maskwise.serve.failure import Failure
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics
from maskwise.structures import Instances

Picture = UInt8[np.ndarray, "_ _ 3"]

log = logging.getLogger(__name__)


@runtime_checkable
class Predictor(Protocol):
    """What is served: `maskwise.Model`, or anything that does the same."""

    @property
    def name(self) -> str: ...

    @property
    def categories(self) -> Categories: ...

    def instances(self, pictures: Sequence[Picture]) -> list[Instances]: ...


class Expected(Future[Found]):
    """What a picture is waited for with. Cancelled before its turn it is passed over, later it is given up between
    tiles."""

    is_unwanted = False

    def cancel(self) -> bool:
        self.is_unwanted = True
        return super().cancel()


class Unwanted(Exception):
    """Nobody waits for this picture any more."""


def everything(found: Instances) -> Instances:
    return found


@dataclass(slots=True, eq=False)
class Job:
    """A picture that waits for the model."""

    picture: Picture
    request_id: str
    keep: Keep
    limit: Limit
    seen: Size
    """As large as the model sees it."""
    tile: int | None
    """Side of the tiles that it is looked at in; None: whole."""
    found: Expected = field(default_factory=Expected)
    arrived: float = field(default_factory=time.monotonic)

    def kept_of_tile(self, found: Instances) -> Instances:
        """Or the end of the work, if nobody waits for it any more."""
        if self.found.is_unwanted:
            raise Unwanted
        return self.keep(found)


class Batcher:
    """A queue and the thread that empties it. `Limits.queue` is enforced by who submits."""

    def __init__(self, model: Predictor, limits: Limits, metrics: Metrics) -> None:
        self._model, self._limits, self._metrics = model, limits, metrics
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._began: float | None = None
        self._seconds_each = 0.2
        self._thread = threading.Thread(target=self._work, name="maskwise-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """What waits is still predicted on, as far as time allows."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def submit(self, picture: Picture, request_id: str, keep: Keep = everything, limit: Limit = NO_LIMIT) -> Expected:
        """`keep` is what is left of what is found; of a picture in tiles it is asked tile by tile."""
        size = (picture.shape[0], picture.shape[1])
        seen, tile = memory.viewed_size(self._model, size), memory.tile_side(self._model, size)
        job = Job(picture, request_id, keep, limit, seen, tile)
        with self._changed:
            if self._stopping or not self.is_alive:
                raise stopping()
            self._jobs.append(job)
            self._changed.notify()
        job.found.add_done_callback(lambda found: self._forget(job) if found.cancelled() else None)
        return job.found

    def _forget(self, job: Job) -> None:
        """Nobody waits for it: its pixels are given back now, and not when its turn comes."""
        with self._changed, suppress(ValueError):
            self._jobs.remove(job)

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def trouble(self) -> str | None:
        """Why nothing is to be expected of the model now; None where all is well."""
        if not self.is_alive:
            return "the model's thread is not running"
        began = self._began
        if began is not None and (spent := time.monotonic() - began) > self._limits.timeout:
            return f"the model has been at one batch for {spent:.0f} s"
        return None

    def seconds_for(self, pictures: int) -> float:
        """About how long that many pictures take."""
        return pictures * self._seconds_each

    # In the thread

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._began = began = time.monotonic()
                self._predict([job for job in batch if job.found.set_running_or_notify_cancel()])
                spent, self._began = time.monotonic() - began, None
                self._seconds_each += 0.3 * (spent / len(batch) - self._seconds_each)
        finally:  # after `stop`, or where something broke that should not
            with self._changed:
                self._stopping = True
                for job in self._jobs:
                    if job.found.set_running_or_notify_cancel():
                        job.found.set_exception(stopping())
                self._jobs.clear()

    def _next_batch(self) -> list[Job]:
        """The oldest job and those that fit to it; nothing only once all is done and the server stops."""
        with self._changed:
            while self._has_waited():
                if batch := self._fitting():  # none where all were cancelled meanwhile
                    self._jobs = deque(job for job in self._jobs if job not in batch)
                    return batch
            return []

    def _has_waited(self) -> bool:
        """For a job, and a little for more; false where none will come."""
        self._changed.wait_for(lambda: self._jobs or self._stopping)
        if not self._jobs:
            return False
        until = self._jobs[0].arrived + self._limits.max_wait_ms / 1000
        while self._jobs and (left := until - time.monotonic()) > 0 and not self._stopping:
            if len(self._fitting()) == self._limits.max_batch:
                break
            self._changed.wait(left)
        return True

    def _fitting(self) -> list[Job]:
        chosen: list[Job] = []
        for job in self._jobs:
            together = (*chosen, job)
            fits = all(one.tile is None for one in together) and fit_together([one.seen for one in together])
            if not chosen or (fits and len(chosen) < self._limits.max_batch):
                chosen.append(job)
        return chosen

    def _predict(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        began = time.monotonic()
        try:
            found = [self._alone(jobs[0])] if len(jobs) == 1 else self._together(jobs)
        except Unwanted as unwanted:
            if len(jobs) == 1:
                jobs[0].found.set_exception(unwanted)
            else:  # the others are still waited for
                for job in jobs:
                    self._predict([job])
        except BaseException as error:  # nothing a model raises may end this thread
            self._recover(jobs, error)
        else:
            self._metrics.batch(len(jobs), time.monotonic() - began)
            for job, of_one in zip(jobs, found, strict=True):
                job.found.set_result(of_one)

    def _together(self, jobs: Sequence[Job]) -> list[Found]:
        found = self._model.instances([job.picture for job in jobs])
        assert len(found) == len(jobs), f"{len(found)} answers for {len(jobs)} pictures"
        return [
            memory.complete(self._model, job.picture, whole, job.keep(whole), job.kept_of_tile, job.limit)
            for job, whole in zip(jobs, found, strict=True)
        ]

    def _alone(self, job: Job) -> Found:
        """Whole or in tiles, and in smaller ones where memory lacks or objects are many."""
        if job.tile is not None:
            batch = batch_size(self._model, Options())
            return memory.tiled(self._model, job.picture, job.kept_of_tile, job.limit, side=job.tile, batch=batch)
        [found] = memory.find(self._model, [job.picture], job.kept_of_tile, job.limit)
        return found

    def _recover(self, jobs: Sequence[Job], error: BaseException) -> None:
        """Smaller batches; of a single picture, its failure."""
        lacks_memory = is_out_of_memory(error)
        if len(jobs) > 1:
            log.warning("the model failed on %d pictures at once (%s); trying fewer", len(jobs), type(error).__name__)
            half = len(jobs) // 2
            for few in [jobs[:half], jobs[half:]] if lacks_memory else [[job] for job in jobs]:
                self._predict(few)
            return
        log.error("request %s: the model failed on a picture", jobs[0].request_id, exc_info=error)
        if lacks_memory:
            failure = Failure(500, "out_of_memory", "this picture needs more memory than the server has")
        else:
            failure = Failure(500, "model_failed", "the model failed on this picture; the server's log tells more")
        jobs[0].found.set_exception(failure)


def stopping() -> Failure:
    return Failure(503, "stopping", "the server is being stopped", headers={"Retry-After": "5"})


def fit_together(sizes: Sequence[Size]) -> bool:
    """Whether pictures that the model sees at these sizes may be a batch: of one size, since with padding around it a
    picture's answer would depend on what else is asked, and not too large."""
    return len(set(sizes)) == 1 and sum(h * w for h, w in sizes) <= memory.MOST_SEEN
