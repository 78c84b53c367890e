"""Masks against what everybody uses: `python benchmarks/masks.py [--out benchmarks/results/masks.json]`.

Draws 100 small masks into a picture and compresses them, and compares 500 masks with 500 others, beside pycocotools and
torchvision in the same process. A row's time is the median of several rounds in which the ways take turns.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskwise.masks import Masks

SIZE = (800, 1216)
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    out = parser.parse_args().out
    torch.manual_seed(0)
    rows = [*drawing(), *comparing(), memory()]
    show(rows)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def drawing() -> list[dict[str, object]]:
    """Paste and compress: one row for smooth masks, as networks draw them, and one for noise, the worst case."""
    boxes = regions(100, least=32, most=256)
    rows = []
    for kind, cells in (("smooth", 6), ("noise", 28)):
        small = F.interpolate(torch.rand(100, 1, cells, cells), (28, 28), mode="bilinear")[:, 0]
        times = take_turns(
            {
                "ours": lambda small=small: Masks.paste(small, boxes, SIZE, convention="legacy").rle(),
                "theirs": lambda small=small: reference_runs(small, boxes),
            }
        )
        same = Masks.paste(small, boxes, SIZE, convention="legacy").rle()
        equal = sum(a["counts"] == b for a, b in zip(same, reference_runs(small, boxes), strict=True))
        rows.append(row(f"paste + RLE, 100 {kind} 28x28 on 800x1216", times, f"{equal} of 100 byte-identical"))
    return rows


def comparing() -> list[dict[str, object]]:
    """Pairwise IoU of masks as a crowded picture has them, and of larger ones."""
    rows = []
    for kind, least, most in (("spread", 32, 256), ("half meet", 200, 600)):
        first, second = (drawn(500, least=least, most=most) for _ in range(2))
        runs = reference_form(first), reference_form(second)
        times = take_turns(
            {"ours": lambda a=first, b=second: a.iou(b), "theirs": lambda runs=runs: reference_iou(*runs)}
        )
        error = np.abs(first.iou(second).numpy() - reference_iou(*runs)).max()
        meet = float((first.iou(second) > 0).float().mean())
        rows.append(
            row(
                f"IoU 500x500, {kind} ({meet:.0%} of pairs)",
                times,
                f"largest difference {error:.0e}; theirs begins with runs, ours with bitmaps",
            )
        )
    return rows


def memory() -> dict[str, object]:
    """375 nuclei on a microscope's picture: what a training target holds."""
    size = (1040, 1388)
    masks = drawn(375, least=20, most=60, size=size)
    ours, dense = masks.bits.nbytes + masks.windows.nbytes, 375 * size[0] * size[1]
    ratio = f"{dense / ours:.0f}x less"
    return {"what": "memory of 375 nuclei on 1388x1040, MB", "ours": ours / 1e6, "theirs": dense / 1e6, "note": ratio}


def reference_runs(small: Tensor, boxes: Tensor) -> list[str]:
    """torchvision draws onto N whole pictures, pycocotools compresses those."""
    dense = paste_masks_in_image(small[:, None], boxes, SIZE)[:, 0] > 0.5
    runs: list[Any] = list(coco.encode(np.asfortranarray(dense.permute(1, 2, 0).numpy().astype(np.uint8))))
    return [r["counts"].decode() for r in runs]


def reference_form(masks: Masks) -> Any:
    """As pycocotools wants them; its type stubs know less than it takes."""
    return [{"size": m["size"], "counts": m["counts"].encode()} for m in masks.rle()]


def reference_iou(first: Any, second: Any) -> np.ndarray:
    return np.asarray(coco.iou(first, second, [0] * len(second)))


def drawn(count: int, *, least: float, most: float, size: tuple[int, int] = SIZE) -> Masks:
    small = F.interpolate(torch.rand(count, 1, 6, 6), (28, 28), mode="bilinear")[:, 0]
    return Masks.paste(small, regions(count, least=least, most=most, size=size), size, threshold=0.4)


def regions(count: int, *, least: float, most: float, size: tuple[int, int] = SIZE) -> Tensor:
    """Boxes inside the picture."""
    limit = torch.tensor([size[1], size[0]])
    sides = torch.minimum(torch.rand(count, 2) * (most - least) + least, limit)
    corner = torch.rand(count, 2) * (limit - sides)
    return torch.cat([corner, corner + sides], 1)


def take_turns(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up


def row(what: str, times: dict[str, float], note: str) -> dict[str, object]:
    ours, theirs = times["ours"] * 1e3, times["theirs"] * 1e3
    return {"what": what + ", ms", "ours": ours, "theirs": theirs, "note": f"{theirs / ours:.1f}x faster; {note}"}


def machine() -> dict[str, object]:
    packages = {name: version(name) for name in ("torch", "torchvision", "pycocotools", "numpy", "maskwise")}
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **packages,
    }


def show(rows: list[dict[str, object]]) -> None:
    table = Table("", "ours", "theirs", "", box=None)
    for r in rows:
        table.add_row(str(r["what"]), f"{r['ours']:.1f}", f"{r['theirs']:.1f}", str(r["note"]))
    Console().print(table)


if __name__ == "__main__":
    main()
