"""What benchmarks/mask_scoring.py found, put into docs/results.md: tables with what to say of each, and pictures."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import scoring_tables as tables
from scoring_tables import Row, aps, of, values
from tables import Rows, markdown, put

from maskwise.report.svg import Plot, Scale, share

Results = Mapping[str, Mapping[str, Row]]
"""Rows by budget and name."""

BEGIN = "<!-- benchmarks/mask_scoring.py -->"
NOTHING = "It has not been run yet.\n"
PICTURES = "pictures/{}-{}.svg"
CAPTIONS = {
    "rankings": "Points of mask AP that the order by mask score gains over that by class score (dots), and that the "
    "order of Table 7 would (ends), for each training:",
    "calibration": "Mean true IoU of detections that hit an object, by their predicted quality:",
}
COLOURS = (("#0a6cb0", "#5cb3f0"), ("#d1590a", "#f2924e"), ("#0a8f6b", "#3fc49d"), ("#b8608f", "#dd93b9"))
COLOURS += (("#b98300", "#e5b53f"), ("#4a9ed6", "#a5d6f7"))
"""In light and in dark mode."""


# Pictures


def drawn(rows: Sequence[Row]) -> dict[str, str]:
    """Files by name, as far as there is something to draw."""
    scored = [row for row in rows if row["method"] == "ms_rcnn" and not row["options"]]
    shown = {"rankings": _rankings(scored), "calibration": _calibration(scored)} if scored else {}
    return {name: svg for name, svg in shown.items() if svg}


def _rankings(rows: Sequence[Row]) -> str:
    """Above 0 the predicted quality helped."""
    first = [100 * ap for ap in aps(rows, "scores")]
    last = [aps(rows), values(rows, "quality", "AP_oracle")]
    gained, most = ([100 * ap - from_ for ap, from_ in zip(several, first, strict=True)] for several in last)
    y = Scale.around([*gained, *most, 0.0], "gained by mask score, as in Table 7")
    plot = Plot(x=Scale.around(first, "mask AP by class score, in points"), y=y)
    marks = [plot.line([plot.x.low, plot.x.high], [0, 0], "faint dashed")]
    beds = sorted({row["bed"] for row in rows})
    for i, bed in enumerate(beds):
        at = [k for k, row in enumerate(rows) if row["bed"] == bed]
        marks += [plot.line([first[k]] * 2, [gained[k], most[k]], f"c{i}") for k in at]
        marks.append(plot.dots([first[k] for k in at], [gained[k] for k in at], f"c{i}"))
    return standalone(plot, marks, beds, CAPTIONS["rankings"])


def _calibration(rows: Sequence[Row]) -> str:
    """Mean true IoU of hits by predicted quality, of EfficientNet-Lite0, all seeds together."""
    plot = Plot(x=share("predicted quality of detections that hit an object"), y=share("their true IoU"))
    marks = [plot.line([0, 1], [0, 1], "faint dashed")]
    beds = sorted({row["bed"] for row in rows if row["network"] == "lite0 fpn"})
    for i, bed in enumerate(beds):
        line = together(values(of(rows, bed=bed, network="lite0 fpn").values(), "calibration_of_hits"))
        marks += [plot.line(*line, f"c{i} bold"), plot.dots(*line, f"c{i}")]
    return standalone(plot, marks, beds, CAPTIONS["calibration"]) if beds else ""


def together(several: Sequence[Sequence[Sequence[float]]]) -> tuple[list[float], list[float]]:
    """Bins of several calibrations as one, each detection counted once."""
    bins: dict[int, list[Sequence[float]]] = {}
    for bin_ in (bin_ for one in several for bin_ in one):
        bins.setdefault(min(int(bin_[0] * 10), 9), []).append(bin_)
    found = [[_mean(rows, i) for i in (0, 1)] for _, rows in sorted(bins.items())]
    return [x for x, _ in found], [y for _, y in found]


def _mean(rows: Sequence[Sequence[float]], column: int) -> float:
    return sum(row[column] * row[2] for row in rows) / sum(row[2] for row in rows)


def standalone(plot: Plot, marks: Sequence[str], names: Sequence[str], description: str) -> str:
    """A file of its own, which brings its style for light and dark pages, and its legend."""
    key = [plot.note(plot.x.low, 26 + 13 * i, name, f"key c{i}") for i, name in enumerate(names)]
    moved = [text.replace('x="44"', 'x="54"') for text in key]
    whole = plot.svg([*marks, *moved], description)
    return whole.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{_style()}", 1) + "\n"


def _style() -> str:
    light, dark = (
        "".join(f".c{i}{{--k:{pair[mode]}}}" for i, pair in enumerate(COLOURS)) + f"svg{{--soft:{soft};--rule:{rule}}}"
        for mode, (soft, rule) in enumerate((("#5c6670", "#d5dbe0"), ("#9aa5b0", "#343c44")))
    )
    return (
        f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}"
        "text{font:11px system-ui,sans-serif;fill:var(--soft)}.mid{text-anchor:middle}.end{text-anchor:end}"
        ".rule,.base{stroke:var(--rule);fill:none}.line{fill:none;stroke:var(--k,var(--soft));stroke-width:1.5}"
        ".bold{stroke-width:2.2}.dashed{stroke-dasharray:4 4}.key{fill:var(--k)}"
        ".dots{fill:none;stroke:var(--k);stroke-width:6;stroke-linecap:round;opacity:.75}</style>"
    )


# The page

MADE = """How the rows were made. Minutes are the median of a training's: on a CPU, where other work may have run beside
it, of the processor, else of the clock:"""
MACHINES = """Where they were made. Each row names its commit, with a + where files had been changed since: of most rows
the file of rows itself, by those before them:"""
TRAININGS = """Two trainings, one without and one with the head. The difference is what the paper's Table 1 is about,
and holds the chance of two trainings; before its masks are ordered anew, it is that chance and what the head's loss
teaches the rest:"""
RANKED = """One training, its masks in two orders: the same detections, ranked by the score of their class and by that
times the predicted quality. *As in Table 7*: by class score times the true IoU, where that is above 0; what hits
nothing keeps the quality that was predicted, so that a perfect prediction could reach more. *Mean of*: over networks,
each of which counts once:"""
OTHERS = "The same two orders, for the boundaries of masks and for boxes:"
FOLLOWED = """How the numbers follow the true IoU: over all detections, over those that hit an object (an IoU of at
least .5), and over those of them whose class score is above .5 too, as in the paper's Figure 2:"""
CALIBRATED = """How far the predicted quality is from the true IoU. *Calibration error*: detections go into ten bins by
their predicted quality; the mean over detections of how far the mean predicted and the mean true IoU of their bin are
apart. Hits have a true IoU of .5 at least, so that there is less to be wrong by:"""
VARIED = """Variants of the head, each against the published one from the same seeds: what it sees (Table 4), what it
learns (Table 5), from which regions (Table 6), and whether its loss also teaches the masks and the features, which the
paper does not ask. *Gain by the order*: mask AP by mask score less that by class score. Where all classes are targets
the loss is a mean over them, and that of the object is one of many:"""
FITTED = "Ranking by score^a x quality^b, with a and b chosen on pictures nobody learned from:"
MOVED = """Nuclei of another kind than those learned from, shown to Mask Scoring R-CNN as published with
EfficientNet-Lite0: inverted, blurred by 2 pixels, with noise of a tenth of the range, and in other sizes. Training saw
sizes of 0.6 to 1.5, and neither blur nor inversion:"""
PEERS = """Against torchvision's Mask R-CNN, with the same backbone and weights, data, steps and optimiser. Its heads
begin with numbers of its own, so that a seed shares no more than pictures and backbone. With `convention=torchvision`
ours has its anchors, reads regions, teaches boxes and pastes masks by its arithmetic; `torchvision_begun_alike` is
torchvision's, but its layers for boxes begin with numbers drawn as ours are:"""
PACED = """What a step and a picture take, measured in turn in one process: medians of nine rounds. Networks that have
learned propose more objects, and take longer:"""
LASTED = "Whole trainings, judging left out, with clocks as above; other work ran beside some of them:"
TABLES: Sequence[tuple[str, Callable[[Sequence[Row]], Rows]]] = (
    (RANKED, tables.rankings),
    (TRAININGS, tables.trainings),
    (OTHERS, tables.others),
    (FOLLOWED, tables.correlations),
    (CALIBRATED, tables.calibrations),
    (VARIED, tables.ablations),
    (FITTED, tables.powers),
    (MOVED, tables.shifts),
    (PEERS, tables.peers),
    (PACED, tables.pace),
    (LASTED, tables.durations),
    (MADE, tables.protocols),
    (MACHINES, tables.machines),
)
"""What each says, and its rows."""


def publish(page: Path, results: Results) -> None:
    """All tables and pictures anew, from what is there."""
    parts = [part for budget, rows in sorted(results.items()) for part in _told(page, budget, list(rows.values()))]
    put(page, BEGIN, "\n".join(["", *parts, ""]) if parts else NOTHING)


def _told(page: Path, budget: str, rows: Sequence[Row]) -> list[str]:
    """Of one budget: its tables as far as they have rows, and the pictures that are written beside the page."""
    shown = [f"{text}\n\n{markdown(found)}" for text, table in TABLES if (found := table(rows))]
    pictures = []
    for name, svg in drawn(rows).items():
        place = PICTURES.format(name, budget)
        (page.parent / place).parent.mkdir(exist_ok=True)
        (page.parent / place).write_text(svg)
        pictures += [f"{textwrap.fill(CAPTIONS[name], 120)}\n", f"![{name}, budget {budget}]({place})\n"]
    return [f"### Budget `{budget}`\n", *pictures, *shown] if shown else []
