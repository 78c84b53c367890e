"""The charts of a report: training, precision and recall, calibration, and the three scatters."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from maskwise.evaluate.coco import Curves, position
from maskwise.evaluate.matching import RECALLS
from maskwise.report.findings import Findings
from maskwise.report.history import History
from maskwise.report.markup import figure, grid, legend, name, number
from maskwise.report.svg import TOP, Plot, Scale, share

COLOURS = 7
"""`c0` to `c6` of the page's style."""
MOST_POINTS = 2000
"""Of a scatter; and of a curve by step a fifth of them."""
FEW_CLASSES = 8
IOU_BANDS = 5
"""Colours of true IoU: below .2, .4, .6, .8, 1."""


def _look(i: int) -> str:
    """The colours, then the same dashed."""
    return f"c{i % COLOURS}" + (" dashed" if i // COLOURS % 2 else "")


def _said(value: float, form: str = ".3g") -> str:
    """In a sentence, which may be read aloud."""
    return format(value, form) if math.isfinite(value) else "not measurable"


# Training


def training(history: History) -> str:
    """Losses, learning rate and validation side by side, those that were written down."""
    charts = (_losses(history), _rate(history), _validation(history))
    return grid(*filter(None, charts))


def _losses(history: History) -> str:
    rows = history.epochs or history.steps
    names = [n for n in history.names(rows) if n.startswith("loss/")]
    if not names:
        return ""
    xs = history.x(rows)
    columns = {n.removeprefix("loss/"): history.column(rows, n) for n in names}
    total = [sum(values) for values in zip(*columns.values(), strict=True)]
    by_step = _thinned([row for row in history.steps if names[0] in row]) if history.epochs else []
    fine = [sum(values) for values in zip(*(history.column(by_step, n) for n in names), strict=True)]
    plot = Plot(x=_time(history), y=Scale.around([*total, *_most(fine)], "", low=0.0))
    marks = [plot.line(history.x(by_step), [min(v, plot.y.high) for v in fine], "faint", "every step")]
    marks += [plot.line(xs, values, _look(i + 1), n) for i, (n, values) in enumerate(columns.items())]
    marks.append(plot.line(xs, total, "c0 bold", "sum"))
    key = legend([("c0 bold", "sum"), *((_look(i + 1), name(n)) for i, n in enumerate(columns))])
    last = f"Loss by {history.unit}: from {_said(total[0])} to {_said(total[-1])}."
    return figure("Losses", plot.svg(marks, last), note=f"last {number(total[-1])}", key=key)


def _rate(history: History) -> str:
    rows = [row for row in history.steps if "lr" in row]
    if not rows:
        return ""
    values = history.column(_thinned(rows), "lr")
    plot = Plot(x=_time(history), y=Scale.around(values, "", low=0.0))
    described = f"Learning rate by {history.unit}: at most {_said(max(values))}, at last {_said(values[-1])}."
    return figure("Learning rate", plot.svg([plot.line(history.x(_thinned(rows)), values, "c0")], described))


def _validation(history: History) -> str:
    rows = history.epochs or history.steps
    rows = [row for row in rows if any(n.startswith("val/AP") for n in row)]
    names = [n for n in ("val/AP", "val/AP50", "val/AP75") if any(n in row for row in rows)]
    if len(rows) < 2:  # the numbers of one are elsewhere on the page, and make no curve
        return ""
    xs = history.x(rows)
    plot = Plot(x=_time(history), y=share("average precision"))
    columns = [history.column(rows, n) for n in names]
    marks = [plot.line(xs, values, _look(i) + (" bold" if not i else "")) for i, values in enumerate(columns)]
    key = legend((_look(i) + (" bold" if not i else ""), escape(n.removeprefix("val/"))) for i, n in enumerate(names))
    known = [(value, x) for value, x in zip(columns[0], xs, strict=True) if math.isfinite(value)]
    best = max(known, key=lambda point: (point[0], -point[1]), default=(math.nan, 0.0))
    note = f"best {number(best[0])} at {history.unit} {best[1]:g}" if known else ""
    described = f"Validation {', '.join(n.removeprefix('val/') for n in names)} by {history.unit}."
    return figure("Mask AP on validation", plot.svg(marks, described), note=note, key=key)


def _time(history: History) -> Scale:
    return Scale.until(max(history.x([*history.epochs, *history.steps]), default=1.0), history.unit)


def _thinned(rows: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Evenly, the first and the last among them."""
    return [rows[i] for i in evenly(len(rows), MOST_POINTS // 5).tolist()]


def _most(values: Sequence[float]) -> list[float]:
    """All but the rare outburst, which would flatten everything else."""
    known = [v for v in values if math.isfinite(v)]
    return [float(np.quantile(known, 0.98))] if known else []


def evenly(n: int, most: int) -> np.ndarray:
    """Positions of at most so many of n things, the same ones every time."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.zeros(0, np.int64)


# Precision and recall


def precision_recall(found: Findings) -> str:
    return grid(_by_threshold(found.curves), _by_class(found), _strictness(found.curves))


def _by_threshold(curves: Curves) -> str:
    """One line an IoU."""
    plot = Plot(x=share("recall"), y=share("precision"))
    thresholds = curves.settings.thresholds
    means = [_mean_curve(curves.precision[t, :, :, 0, -1]) for t in range(len(thresholds))]
    looks = [f"c0 shade{round(9 * t / max(len(thresholds) - 1, 1))}" for t in range(len(thresholds))]
    told = [f"IoU {threshold:.2f}" for threshold in thresholds]
    marks = [plot.line(RECALLS.tolist(), *line) for line in zip(means, looks, told, strict=True)]
    ends = sorted({0, len(thresholds) - 1})
    key = legend((looks[t], told[t] + (" and steps between" if t else "")) for t in ends)
    described = f"Precision by recall, the mean of all classes, one line for each IoU of {', '.join(told)}."
    return figure("By IoU", plot.svg(marks, described), note="mean of all classes", key=key)


def _strictness(curves: Curves) -> str:
    """How AP falls as masks must fit better."""
    thresholds = list(curves.settings.thresholds)
    aps = [curves.average_precision(threshold=threshold) for threshold in thresholds]
    x = Scale(low=min(thresholds) - 0.02, high=max(thresholds) + 0.02, ticks=tuple(thresholds[::2]), label="IoU")
    plot = Plot(x=x, y=share("average precision"))
    known = [(t, ap) for t, ap in zip(thresholds, aps, strict=True) if math.isfinite(ap)]
    places = [t for t, _ in known], [ap for _, ap in known]
    marks = [plot.line(*places, "c0"), plot.dots(*places, "c0 large")]
    marks += [plot.note(t, plot.down(ap) - 8, f"{ap:.2f}".removeprefix("0"), "mid") for t, ap in known]
    described = "; ".join(f"AP {ap:.3f} at IoU {t:.2f}" for t, ap in known)
    return figure("AP by IoU", plot.svg(marks, described), note=f"mean {number(curves.average_precision())}")


def _by_class(found: Findings) -> str:
    """Few classes in colours; of many the mean, the strongest and the weakest, and all others faint."""
    curves, names = found.curves, found.comparison.categories.names
    thresholds = curves.settings.thresholds
    threshold = next((t for t in (0.5, 0.75) if any(math.isclose(t, have) for have in thresholds)), thresholds[0])
    at = position(thresholds, threshold)
    aps = {k: curves.average_precision(threshold=threshold, label=k) for k in range(len(names))}
    known = sorted((k for k, ap in aps.items() if math.isfinite(ap)), key=lambda k: (-aps[k], k))
    told = known if len(known) <= FEW_CLASSES else [*known[:3], *known[-3:]]
    plot = Plot(x=share("recall"), y=share("precision"))
    looks = dict.fromkeys(known, "faint") | {k: _look(i) for i, k in enumerate(told)}
    line = {
        k: _class_line(plot, names[k], curves.precision[at, :, k, 0, -1], aps[k], look) for k, look in looks.items()
    }
    marks = [line[k] for k in known if k not in told] + [line[k] for k in told]
    entries = [(_look(i), f"{name(names[k])} {number(aps[k])}") for i, k in enumerate(told)]
    note = f"at IoU {threshold:.2f}" + ("" if len(told) == len(known) else "; three highest and lowest coloured")
    described = f"Precision by recall of {len(known)} classes at IoU {threshold:.2f}."
    return figure("By class", plot.svg(marks, described), note=note, key=legend(entries))


def _class_line(plot: Plot, title: str, precision: Float[np.ndarray, " r"], ap: float, look: str) -> str:
    return plot.line(RECALLS.tolist(), _reached(precision), look, f"{title}: AP {ap:.3f}")


def _mean_curve(precision: Float[np.ndarray, "r k"]) -> list[float]:
    known = precision[:, ~np.isnan(precision).all(axis=0)]
    return _reached(known.mean(axis=1)) if known.shape[1] else [math.nan] * len(precision)


def _reached(precision: Float[np.ndarray, " r"]) -> list[float]:
    """Up to the highest recall there is: beyond it precision counts as 0, but there is no curve."""
    return np.where(precision > 0, precision, math.nan).tolist()


# Quality


def scatters(found: Findings) -> str:
    """What the class score knows of a mask, what the predicted quality knows, and both against each other."""
    detections, numbers = found.detections, found.quality.numbers
    known = np.flatnonzero(~np.isnan(detections.true_iou))
    d = known[evenly(len(known), MOST_POINTS)]
    iou, scores, quality = detections.true_iou[d], detections.scores[d], detections.quality[d]
    against = [_against_truth("Class score", "class score", scores, iou, float(numbers["spearman_score"]))]
    if found.has_quality:
        rho = float(numbers["spearman_quality"])
        against.append(_against_truth("Predicted quality", "predicted quality", quality, iou, rho))
        against.append(_score_against_quality(scores, quality, iou))
    drawn = (
        "every detection is a point"
        if len(d) == len(known)
        else (
            f"{len(d):,} of {len(known):,} detections are drawn, evenly picked in the order of the pictures; "
            "the correlations are of all"
        )
    )
    bands = [f"{i / IOU_BANDS:.1f}–{(i + 1) / IOU_BANDS:.1f}" for i in range(IOU_BANDS)]
    key = legend((f"dot iou{i}", band) for i, band in enumerate(bands))
    return f'{grid(*against)}<div class="key"><span>true IoU</span>{key}<span class="soft">{drawn}</span></div>'


def _against_truth(title: str, axis: str, values: np.ndarray, iou: np.ndarray, rho: float) -> str:
    plot = Plot(x=share(axis), y=share("true IoU"))
    described = f"{title} against true IoU of {len(iou)} detections. Spearman correlation {_said(rho, '.3f')}."
    note = f"Spearman {number(rho)} with true IoU"
    return figure(f"{title} against true IoU", plot.svg(_coloured(plot, values, iou, iou), described), note=note)


def _score_against_quality(scores: np.ndarray, quality: np.ndarray, iou: np.ndarray) -> str:
    plot = Plot(x=share("class score"), y=share("predicted quality"))
    described = f"Predicted quality against class score of {len(iou)} detections, coloured by true IoU."
    marks = _coloured(plot, scores, quality, iou)
    note = "good masks belong on top, whatever their score"
    return figure("Score against quality", plot.svg(marks, described), note=note)


def _coloured(plot: Plot, xs: np.ndarray, ys: np.ndarray, iou: np.ndarray) -> list[str]:
    band = np.clip((iou * IOU_BANDS).astype(np.int64), 0, IOU_BANDS - 1)
    xs, ys = np.clip(xs, 0, 1), np.clip(ys, 0, 1)
    return [plot.dots(xs[band == i].tolist(), ys[band == i].tolist(), f"iou{i}") for i in reversed(range(IOU_BANDS))]


def calibration(found: Findings) -> str:
    """Mean predicted quality and mean true IoU of each bin, over the number of detections in it."""
    bins = [b for b in found.quality.tables["calibration"] if b["detections"]]
    most = max(b["detections"] for b in bins)
    y = Scale(low=0.0, high=1.1, ticks=share("").ticks, label="true IoU")  # with room for the counts
    plot = Plot(x=share("predicted quality"), y=y)
    marks = [plot.line([0, 1], [0, 1], "faint dashed", "perfect")]
    for b in bins:
        height = 0.3 * b["detections"] / most
        words = f"{b['detections']:,} detections from {b['low']:.1f} to {b['high']:.1f}"
        marks.append(plot.bar(b["low"], b["high"], height, "bar", words))
        at = (b["low"] + b["high"]) / 2
        marks.append(plot.note(at, TOP + 6, short_count(int(b["detections"])), "mid count"))
    places = [b["predicted"] for b in bins], [b["true"] for b in bins]
    marks += [plot.line(*places, "c0 bold"), plot.dots(*places, "c0 large")]
    error = float(found.quality.numbers["calibration_error"])
    described = "Mean true IoU by mean predicted quality: " + "; ".join(
        f"{b['predicted']:.2f} predicted, {b['true']:.2f} true, {b['detections']} detections" for b in bins
    )
    note = f"mean distance {number(error)}; bars are counts"
    return figure("Calibration of quality", plot.svg(marks, described), note=note)


def short_count(n: int) -> str:
    if n < 1000:
        return str(n)
    return f"{n / 1000:.1f}k" if n < 10_000 else f"{n // 1000}k"
