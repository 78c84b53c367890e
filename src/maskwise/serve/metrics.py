"""Counters and histograms in Prometheus' text format, which is simple enough to be written by hand."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PICTURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Histogram:
    """How many values fell at or below each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {below}"


class Metrics:
    """What `/metrics` tells. Written by the event loop and by the model's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._pictures: Counter[str] = Counter()
        self._instances = 0
        self._latency = Histogram(SECONDS)
        self._batches = Histogram(PICTURES)
        self._model = Histogram(SECONDS)

    def request(self, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[route, status] += 1
            if route == "/v1/predict":
                self._latency.add(seconds)

    def batch(self, pictures: int, seconds: float) -> None:
        with self._lock:
            self._batches.add(pictures)
            self._model.add(seconds)

    def picture(self, outcome: str, *, instances: int = 0) -> None:
        """`outcome`: answered, refused, failed or dropped."""
        with self._lock:
            self._pictures[outcome] += 1
            self._instances += instances

    def text(self, *, waiting: int, accepted: int) -> str:
        with self._lock:
            return "\n".join(self._lines(waiting, accepted)) + "\n"

    def _lines(self, waiting: int, accepted: int) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Answered requests.")
        for (route, status), count in sorted(self._requests.items()):
            yield f'maskwise_requests_total{{route="{route}",code="{status}"}} {count}'
        yield from _head("pictures_total", "counter", "Pictures by what became of them.")
        for outcome, count in sorted(self._pictures.items()):
            yield f'maskwise_pictures_total{{outcome="{outcome}"}} {count}'
        yield from _one("instances_total", "counter", "Instances in answers.", self._instances)
        yield from _one("queue_pictures", "gauge", "Decoded pictures that wait for the model.", waiting)
        yield from _one("accepted_pictures", "gauge", "Pictures taken on and not yet answered.", accepted)
        yield from _many("predict_seconds", "Time to answer /v1/predict.", self._latency.lines)
        yield from _many("batch_pictures", "Pictures that the model was given at once.", self._batches.lines)
        yield from _many("batch_seconds", "Time of the model for a batch.", self._model.lines)


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP maskwise_{name} {meaning}"
    yield f"# TYPE maskwise_{name} {kind}"


def _one(name: str, kind: str, meaning: str, value: int) -> Iterator[str]:
    yield from _head(name, kind, meaning)
    yield f"maskwise_{name} {value}"


def _many(name: str, meaning: str, lines: Callable[[str], Iterator[str]]) -> Iterator[str]:
    yield from _head(name, "histogram", meaning)
    yield from lines(f"maskwise_{name}")
