"""The tables of a report: headline, what ranking by quality brings, errors, confusions, classes, what was run."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from maskwise.evaluate.report import Report
from maskwise.report.findings import Findings
from maskwise.report.markup import fold, name, nothing, number, scrolling, table

FEW_CLASSES = 20
"""More make no readable matrix, but a list of the most frequent confusions."""
MOST_CONFUSIONS = 25
CLASSES_SHOWN = 12
LONGEST_VALUE = 2000
"""Letters of one setting, of many."""

MEANINGS = {
    "classification": "right place, wrong class",
    "localisation": "right class, mask too far off",
    "both": "wrong class and mask too far off",
    "duplicate": "a second mask on an object that is found",
    "background": "a mask on nothing",
    "missed": "an object that nothing aims at",
}


def headline(found: Findings) -> str:
    """The numbers that people ask for first, and whose rules they follow."""
    masks, quality = found.masks, found.quality.numbers
    tiles = [("mask AP", masks.numbers["AP"], "first")]
    tiles += [(n, masks.numbers[n], "") for n in ("AP50", "AP75") if n in masks.numbers]
    most = f"AR{masks.max_dets[-1]}"
    tiles += [("box AP", found.boxes.numbers["AP"], ""), (most, masks.numbers[most], "")]
    tiles.append(("Spearman, mask score with true IoU", quality["spearman_mask_score"], ""))
    shown = "".join(_tile(*tile) for tile in tiles)
    everything = fold("All numbers", _all_numbers(found))
    return f'<dl class="tiles">{shown}</dl><p class="policy">{policy(masks)}</p>{everything}'


def _tile(label: str, value: float, look: str) -> str:
    return f'<div class="{look}"><dt>{label}</dt><dd>{number(value)}</dd></div>'


def policy(report: Report) -> str:
    """Under which rules numbers were measured."""
    parts = [f"Policy <b>{escape(report.policy)}</b>", escape(report.iou)]
    if report.thresholds:
        parts.append(f"IoU {_range(report.thresholds)}")
    if report.max_dets:
        parts.append(f"at most {report.max_dets[-1]} detections a picture and class")
    return ", ".join([*parts, *map(escape, report.notes)])


def _all_numbers(found: Findings) -> str:
    names = list(found.masks.numbers)
    rows = [[escape(n), number(found.masks.numbers[n]), number(found.boxes.numbers.get(n, math.nan))] for n in names]
    return table("COCO's numbers of masks and boxes", ["", "masks", "boxes"], rows)


def _range(values: Sequence[float]) -> str:
    steps = {round(after - before, 9) for before, after in pairwise(values)}
    if len(steps) == 1 and len(values) > 2:
        return f"{values[0]:.2f} to {values[-1]:.2f} by {steps.pop():.2f}"
    return ", ".join(f"{value:.2f}" for value in values)


def rankings(found: Findings) -> str:
    """Mask AP of the same detections, ordered by what they are ranked by."""
    words = {"score": "class score", "quality": "predicted quality", "mask_score": "mask score"}
    shown = {words[n]: found.quality.numbers[f"AP_by_{n}"] for n in words}
    shown["class score × true IoU (the most there is to gain)"] = found.quality.numbers["AP_bound"]
    most = max((value for value in shown.values() if math.isfinite(value)), default=1.0)
    rows = [[escape(label), _bar(value, most) + number(value)] for label, value in shown.items()]
    return table("The same detections, ranked by", ["ranked by", "mask AP"], rows, look="bars")


def calibration(found: Findings) -> str:
    bins = found.quality.tables["calibration"]
    rows = [
        [f"{b['low']:.1f} to {b['high']:.1f}", *(number(b[n]) for n in ("detections", "predicted", "true"))]
        for b in bins
    ]
    return fold("Numbers", table("Calibration", ["quality", "detections", "mean predicted", "mean true IoU"], rows))


def classes(found: Findings) -> str:
    """The weakest first; those without objects last."""
    rows = list(found.masks.classes)
    rows.sort(key=lambda row: (not row.ground_truths, _last_if_unknown(row.numbers["AP"]), -row.ground_truths))
    columns = list(rows[0].numbers) if rows else []
    lines = [[name(r.name), number(r.ground_truths), *(number(r.numbers[c]) for c in columns)] for r in rows]
    heads = [{"score_at_F1": "score at best F1", "F1": "best F1"}.get(c, c) for c in columns]
    return table("Lowest AP first", ["class", "objects", *heads], lines, shown=CLASSES_SHOWN)


def _last_if_unknown(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def errors(found: Findings) -> str:
    """What setting right each kind would gain, and how many there are."""
    numbers = found.errors.numbers
    most = max([*(abs(numbers[kind]) for kind in MEANINGS if math.isfinite(numbers[kind])), 1e-9])
    rows = [
        [
            f'{kind} <span class="soft">{meaning}</span>',
            number(int(numbers[f"n_{kind}"])),
            _bar(numbers[kind], most) + number(numbers[kind]),
        ]
        for kind, meaning in MEANINGS.items()
    ]
    sums = [
        f"{number(numbers['false_positive'])} if there were no wrong detection",
        f"{number(numbers['false_negative'])} if every object were found",
    ]
    head = ["kind of error", "how many", "AP50 to gain"]
    start = f"AP at IoU {found.errors.thresholds[0]:g} is {number(numbers['AP'])}"
    total = f'<p class="soft">{start}; to gain {" and ".join(sums)}. {policy(found.errors)}.</p>'
    return table("By kind", head, rows, look="bars") + total + fold("By class", _errors_by_class(found))


def _errors_by_class(found: Findings) -> str:
    columns = list(MEANINGS)
    rows = sorted(found.errors.classes, key=lambda row: -sum(int(row.numbers[c]) for c in columns))
    lines = [[name(row.name), *(number(int(row.numbers[c])) for c in columns)] for row in rows]
    return table("Errors by class, most errors first", ["class", *columns], lines, shown=CLASSES_SHOWN)


def _bar(value: float, most: float) -> str:
    share = max(value, 0.0) / most if math.isfinite(value) and most else 0.0
    return f'<i class="length" style="--share:{share:.3f}"></i>'


def confusion(found: Findings) -> str:
    """A matrix of few classes, a list of many."""
    names = found.comparison.categories.names
    if not found.confusion.any():
        return nothing("There are neither objects nor detections to be confused.")
    if len(names) > FEW_CLASSES:
        return _top_confusions(found.confusion, names)
    counts = found.confusion
    head = "".join(f'<th scope="col"><span>{name(n)}</span></th>' for n in names)
    head += '<th scope="col"><span class="soft">missed</span></th>'
    rows = "".join(_matrix_row(counts, t, name(n)) for t, n in enumerate(names))
    rows += _matrix_row(counts, len(names), '<span class="soft">nothing</span>')
    caption = "Rows are what is there, columns what it was found as; shades are shares of a row"
    body = f"<caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>"
    return scrolling(caption, f'<table class="matrix">{body}</table>')


def _matrix_row(counts: np.ndarray, t: int, heading: str) -> str:
    """Shades are shares of the row."""
    total, nothing_ = int(counts[t].sum()), len(counts) - 1
    cells = []
    for f, count in enumerate(counts[t].tolist()):
        if t == f == nothing_:
            cells.append("<td></td>")
            continue
        look = "right" if t == f else "wrong"
        shade = round(60 * count / total) if total else 0
        inside = '<span class="soft zero">0</span>' if not count else number(count)
        words = f"{count / max(total, 1):.1%} of the row"
        cells.append(f'<td class="{look}" style="--shade:{shade}%" title="{words}">{inside}</td>')
    return f'<tr><th scope="row">{heading}</th>{"".join(cells)}</tr>'


def _top_confusions(counts: np.ndarray, names: Sequence[str]) -> str:
    """Pairs of classes, then what is missed and what is found where nothing is."""
    nothing_ = len(names)
    objects, shown = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    wrong = counts[:nothing_, :nothing_].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [divmod(int(i), nothing_) for i in order if wrong.flat[i]]
    between = [
        [f"{name(names[t])} → {name(names[f])}", number(int(wrong[t, f])), _percent(int(wrong[t, f]), objects[t])]
        for t, f in pairs
    ]
    parts = [
        table(
            "Most frequent confusions",
            ["is → was found as", "how often", "of the objects"],
            between,
            shown=CLASSES_SHOWN,
        )
    ]
    if not between:
        parts = [nothing("No object was found as another class.")]
    lost, invented = counts[:nothing_, nothing_], counts[nothing_, :nothing_]
    for caption, values, of, heading in (
        ("Most often missed", lost, objects, "of the objects"),
        ("Most often found where nothing is", invented, shown, "of the detections"),
    ):
        top = [int(k) for k in np.argsort(-values, kind="stable")[:MOST_CONFUSIONS] if values[k]]
        rows = [[name(names[k]), number(int(values[k])), _percent(int(values[k]), of[k])] for k in top]
        parts.append(table(caption, ["class", "how often", heading], rows, shown=CLASSES_SHOWN))
    return f'<div class="columns">{"".join(parts)}</div>'


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


# What was run


def about(facts: Mapping[str, object]) -> str:
    """Plain facts in one table, whole sections folded below it."""
    plain = {key: value for key, value in facts.items() if not isinstance(value, Mapping)}
    rows = [[escape(key), _value(value)] for key, value in plain.items()]
    parts = [table("What was run", ["", ""], rows, look="facts")] if rows else []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            inner = [[escape(path), _value(leaf)] for path, leaf in _leaves(value, "")]
            parts.append(fold(key, table(key, ["", ""], inner, look="facts")))
    return "".join(parts)


def _leaves(tree: Mapping[str, object], before: str) -> list[tuple[str, object]]:
    """Settings inside settings by their path: data.source.path."""
    found: list[tuple[str, object]] = []
    for key, value in tree.items():
        path = f"{before}{key}"
        found += _leaves(value, f"{path}.") if isinstance(value, Mapping) and value else [(path, value)]
    return found


def _value(value: object) -> str:
    match value:
        case None:
            return '<span class="soft">none</span>'
        case bool():
            return "yes" if value else "no"
        case list() | tuple() if all(isinstance(item, str | int | float) for item in value):
            words = ", ".join(map(str, value))
        case _:
            words = str(value)
    cut = words if len(words) <= LONGEST_VALUE else words[:LONGEST_VALUE] + " …"
    return f"<span>{escape(cut)}</span>"
