"""COCO mask AP of 300 images with 6,000 objects: pycocotools, hotcoco and maskwise on the same run-length codes.

    python benchmarks/evaluate.py

Each program runs in a process of its own, one after the other. `evaluate` is evaluate, accumulate and summarise with
everything loaded and indexed (of ours: from a `Comparison` to the report); `all` begins with the plain dictionaries of
the JSON files, ours with its checks. The twelve numbers must be equal to 1e-9.
"""

import contextlib
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from maskwise import rle
from maskwise.evaluate.coco import coco
from maskwise.evaluate.files import compare
from maskwise.evaluate.objects import Comparison

SEED = 7
IMAGES, OBJECTS, CLASSES, SIZE = 300, 20, 10, (480, 640)
RESULTS = Path(__file__).parent / "results" / "evaluate.json"


Numbers = tuple[float, ...]
Truth = dict[str, object]
Results = list[dict[str, object]]
Loaded = TypeVar("Loaded")


class Measured(NamedTuple):
    evaluate: float
    """seconds, fastest run"""
    all: float
    """seconds, with loading"""
    megabytes: float
    """peak of the process above what it held with the dictionaries alone"""
    numbers: Numbers


def main() -> int:
    measured = {name: _in_own_process(name) for name in PROGRAMS}
    reference = measured["pycocotools"]
    difference = max(np.abs(np.subtract(m.numbers, reference.numbers)).max() for m in measured.values())
    speedup = reference.evaluate / measured["maskwise"].evaluate
    _print(measured, reference)
    print(f"largest difference of the twelve numbers: {difference:.1e}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(_record(measured, speedup=speedup, difference=float(difference)), indent=2) + "\n")
    return 0 if difference < 1e-9 and speedup >= 10 else 1


def scene() -> tuple[Truth, Results]:
    """Ellipses of 6 to 180 pixels; 3 % are crowds; about as many detections, most near an object of their class."""
    rng = np.random.default_rng(SEED)
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, IMAGES + 1)]
    annotations: list[dict[str, object]] = []
    results: Results = []
    for image in images:
        shapes = _shapes(rng, OBJECTS)
        labels = rng.integers(1, CLASSES + 1, OBJECTS)
        for code, label in zip(_draw(shapes), labels.tolist(), strict=True):
            area = int(rle.from_string(code["counts"])[1::2].sum())
            entry = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label, "segmentation": code}
            annotations.append(entry | {"area": area, "iscrowd": int(rng.random() < 0.03), "bbox": _box(code)})
        kept = rng.random(OBJECTS) < 0.85
        near = _moved(rng, shapes)
        others = _shapes(rng, int(rng.poisson(3)))
        found = np.concatenate([near[kept], others])
        guesses = np.concatenate([labels[kept], rng.integers(1, CLASSES + 1, len(others))]).tolist()
        for code, label in zip(_draw(found), guesses, strict=True):
            score = round(float(rng.random()), 3)
            results.append({"image_id": image["id"], "category_id": label, "segmentation": code, "score": score})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


class Program(NamedTuple, Generic[Loaded]):
    load: Callable[[Truth, Results], Loaded]
    evaluate: Callable[[Loaded], Numbers]
    runs: int


def load_in_pycocotools(truth: Truth, results: Results) -> tuple[COCO, COCO]:
    data = COCO()
    data.dataset = cast(Any, truth)  # their annotations do not admit what their code does
    data.createIndex()
    return data, data.loadRes(cast(Any, [dict(result) for result in results]))


def run_pycocotools(loaded: tuple[COCO, COCO]) -> Numbers:
    evaluator = COCOeval(*loaded, "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return tuple(evaluator.stats.tolist())


def load_in_hotcoco(truth: Truth, results: Results) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    data = hotcoco.COCO(truth)
    return data, data.load_res(results)


def run_hotcoco(loaded: tuple[hotcoco.COCO, hotcoco.COCO]) -> Numbers:
    evaluator = hotcoco.COCOeval(*loaded, "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return tuple(evaluator.stats)


def run_ours(comparison: Comparison) -> Numbers:
    return tuple(coco(comparison).numbers.values())


PROGRAMS: dict[str, Program[Any]] = {
    "pycocotools": Program(load_in_pycocotools, run_pycocotools, 3),
    "hotcoco": Program(load_in_hotcoco, run_hotcoco, 7),
    "maskwise": Program(compare, run_ours, 7),
}


def _in_own_process(name: str) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name,))


def _measure(name: str) -> Measured:
    load, evaluate, runs = PROGRAMS[name]
    truth, results = scene()
    loading, evaluating, numbers = [], [], ()
    before = _start_of_peak()
    with _silence():
        for _ in range(runs):
            start = time.perf_counter()
            loaded = load(truth, results)
            middle = time.perf_counter()
            numbers = evaluate(loaded)
            evaluating.append(time.perf_counter() - middle)
            loading.append(middle - start)
    return Measured(min(evaluating), min(loading) + min(evaluating), _memory("VmHWM") - before, numbers)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Their tables go nowhere; compiled code prints past sys.stdout."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _start_of_peak() -> float:
    """Megabytes now; the highest value is counted from here on. Linux alone can tell."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> float:
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(float(line.split()[1]) / 1024 for line in status if line.startswith(field))


def _shapes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Centre and half axes: x y a b"""
    half = np.exp(rng.uniform(np.log(3), np.log(90), (n, 2)))
    return np.column_stack([rng.uniform(0, SIZE[1], n), rng.uniform(0, SIZE[0], n), half])


def _moved(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """By some 6 % of the half axes, which change as much."""
    noise = rng.normal(0, 0.06, shapes.shape)
    return shapes + noise * np.tile(shapes[:, 2:], 2)


def _draw(shapes: np.ndarray) -> list[rle.RLE]:
    return rle.encode([_ellipse(*shape) for shape in shapes.tolist()], SIZE)


def _ellipse(x: float, y: float, a: float, b: float) -> rle.Window:
    """At least one pixel of it in the picture."""
    x, y = min(max(x, 0.0), SIZE[1] - 1.0), min(max(y, 0.0), SIZE[0] - 1.0)
    columns = np.arange(max(0, int(x - a)), min(SIZE[1], int(x + a) + 1))
    rows = np.arange(max(0, int(y - b)), min(SIZE[0], int(y + b) + 1))
    bits = ((columns - x) / a) ** 2 + ((rows[:, None] - y) / b) ** 2 <= 1
    return rle.Window(int(columns[0]), int(rows[0]), bits)


def _box(code: rle.RLE) -> list[int]:
    window = rle.decode(code)
    height, width = window.bits.shape
    return [window.x0, window.y0, width, height]


def _print(measured: dict[str, Measured], reference: Measured) -> None:
    table = Table("", "evaluate s", "faster", "all s", "faster", "peak MB", "AP", box=None)
    for name, m in measured.items():
        faster = (f"{reference.evaluate / m.evaluate:.1f} x", f"{reference.all / m.all:.1f} x")
        seconds = (f"{m.evaluate:.3f}", f"{m.all:.3f}")
        table.add_row(name, seconds[0], faster[0], seconds[1], faster[1], f"{m.megabytes:.0f}", f"{m.numbers[0]:.6f}")
    Console().print(table)


def _record(measured: dict[str, Measured], *, speedup: float, difference: float) -> dict[str, object]:
    return {
        "what": f"{IMAGES} images of {SIZE[1]} x {SIZE[0]}, {IMAGES * OBJECTS} objects, {CLASSES} classes, masks",
        "seed": SEED,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "pycocotools", "hotcoco", "maskwise")},
        "speedup_over_pycocotools": round(speedup, 1),
        "largest_difference": difference,
        "programs": {name: m._asdict() for name, m in measured.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
