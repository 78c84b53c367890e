"""`maskwise eval GT.json RESULTS.json`: numbers as a table for people or as one JSON object for programs."""

import difflib
import json as json_format
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from maskwise.evaluate.accuracy import accuracy
from maskwise.evaluate.cityscapes import cityscapes
from maskwise.evaluate.coco import COCO, Settings, coco
from maskwise.evaluate.counting import counting
from maskwise.evaluate.coverage import best_overlap, coverage, dice
from maskwise.evaluate.errors import errors
from maskwise.evaluate.files import Kind, load_comparison
from maskwise.evaluate.keypoints import keypoints
from maskwise.evaluate.objects import Comparison, above
from maskwise.evaluate.panoptic import panoptic
from maskwise.evaluate.quality import quality
from maskwise.evaluate.recall import recall
from maskwise.evaluate.region_ap import cihp, matching_iou, oxford, sds, voc07
from maskwise.evaluate.report import Report
from maskwise.terminal import Terminal, grid, plain

Policy = Callable[[Comparison, str], Report]

WITH_SETTINGS = {"coco": coco, "quality": quality}
"""Policies that can be asked for other limits and thresholds than COCO's."""

POLICIES: dict[str, Policy] = {
    "accuracy": accuracy,
    "best-overlap": best_overlap,
    "cihp": cihp,
    "cityscapes": cityscapes,
    "coco": coco,
    "counting": counting,
    "coverage": coverage,
    "dice": dice,
    "keypoints": keypoints,
    "matching-iou": matching_iou,
    "oxford": oxford,
    "panoptic": panoptic,
    "quality": quality,
    "recall": recall,
    "sds": sds,
    "tide": errors,
    "voc07": voc07,
}


def main(argv: list[str]) -> int:
    """Exit code: 0, or 2 when the command line or a file is wrong."""
    try:
        tyro.cli(evaluate, args=argv, prog="maskwise eval")
    except ValueError as error:
        print(f"maskwise eval: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(
    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="GT.json")],
    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS.json")],
    *,
    iou: Kind = "segm",
    policy: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(POLICIES) + "}")] = "coco",
    max_dets: tuple[int, ...] = COCO.max_dets,
    thresholds: Annotated[
        tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...", help_behavior_hint="(default: 0.5 0.55 0.6 ... 0.95)")
    ] = COCO.thresholds,
    min_score: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: all)")] = None,
    json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")] = False,
) -> None:
    """Compare COCO results with COCO ground truth.

    Args:
        truth: ground truth, a COCO data set
        results: COCO results, or what predict --save coco wrote, matched by the names of pictures and classes; `score`
            ranks masks, `class_score` (else `score`) ranks boxes
        iou: what is compared
        policy: whose rules
        max_dets: best detections of an image and class, for coco and quality; AP is told at the largest
        thresholds: IoU from which a detection is right, for coco and quality
        min_score: leave out results whose `score` is lower
        json: one JSON object on standard output; what cannot be measured is null
    """
    if min_score is not None and not math.isfinite(min_score):
        raise ValueError(f"--min-score: expected a number, got {min_score}")
    if policy == "keypoints" != iou:
        raise ValueError("--policy keypoints compares keypoints: add --iou keypoints")
    for path in (truth, results):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the JSON file in it")
    judge = with_settings(policy, replace(COCO, max_dets=max_dets, thresholds=thresholds))
    comparison = load_comparison(truth, results, iou)
    if min_score is None:
        report = judge(comparison, iou)
    else:
        report = judge(above(comparison, min_score), iou)
        report = replace(report, notes=(*report.notes, f"results of score {min_score:g} or more"))
    if json:
        print(json_format.dumps(report.to_json(), allow_nan=False))
    else:
        show(report, Terminal(width=None if sys.stdout.isatty() else 1000))  # a pipe has no width to fit into


def chosen(policy: str) -> Policy:
    """The policy of that name, or the nearest name in the complaint."""
    if policy not in POLICIES:
        near = difflib.get_close_matches(policy, POLICIES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown policy {policy!r}{hint}; known: {', '.join(sorted(POLICIES))}")
    return POLICIES[policy]


def with_settings(policy: str, settings: Settings) -> Policy:
    """The policy under other limits and thresholds, where it has any."""
    if settings == COCO:
        return chosen(policy)
    if policy not in WITH_SETTINGS:
        raise ValueError(f"--max-dets and --thresholds belong to {' and '.join(WITH_SETTINGS)}, not to {policy!r}")
    return partial(WITH_SETTINGS[policy], settings=settings)


def show(report: Report, console: Console) -> None:
    """Tables for people; what cannot be measured is a dash."""
    console.print(f"[bold]{report.policy}[/] {report.iou} {escape(plain(report.data))}", highlight=False)
    console.print(_settings(report), highlight=False, markup=False)
    console.print(grid([{"": name, " ": value} for name, value in report.numbers.items()]))
    if report.classes:
        console.print(
            grid([{"class": row.name, "objects": row.ground_truths, **row.numbers} for row in report.classes])
        )
    for name, table in report.tables.items():
        console.print(name)
        console.print(grid(table))


def _settings(report: Report) -> str:
    parts = [f"{report.images} images", f"{report.ground_truths} objects"]
    if report.thresholds:
        parts.append("IoU " + _range(report.thresholds))
    if report.max_dets:
        parts.append("at most " + "/".join(map(str, report.max_dets)) + " detections")
    return ", ".join([*parts, *report.notes])


def _range(values: Sequence[float]) -> str:
    """first:step:last where the steps are equal, all of them where not"""
    steps = {round(after - before, 9) for before, after in pairwise(values)}
    shown = [values[0], steps.pop(), values[-1]] if len(steps) == 1 and len(values) > 2 else values
    return (":" if shown is not values else " ").join(f"{value:.4g}" for value in shown)
