"""What benchmarks/mask_scoring.py found, as tables and pictures of docs/results.md: means over seeds, their spread, and
what a paired test says of differences."""

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats
from scoring_cells import ABLATIONS, NETWORKS, PACE, PEER, PEERS_ARITHMETIC
from tables import Rows, markdown, put

from maskwise.report.svg import Plot, Scale, share

Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Row]]
"""Rows by budget and name."""

BEGIN = "<!-- benchmarks/mask_scoring.py -->"
DASH, NOTHING = "-", "It has not been run yet.\n"
PICTURES = "pictures/{}-{}.svg"
CAPTIONS = {
    "rankings": "Points of mask AP that the order by mask score gains over that by class score (dots), and that the "
    "order by true IoU would (ends), for each training:",
    "calibration": "Mean true IoU of detections that hit an object, by their predicted quality:",
}
COLOURS = (("#0a6cb0", "#5cb3f0"), ("#d1590a", "#f2924e"), ("#0a8f6b", "#3fc49d"), ("#b8608f", "#dd93b9"))
COLOURS += (("#b98300", "#e5b53f"), ("#4a9ed6", "#a5d6f7"))
"""In light and in dark mode."""


# Summaries


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Differences of pairs that share a seed."""

    pairs: int
    mean: float
    low: float
    high: float
    """Of the 95 % interval of the mean, by Student."""
    p: float
    """Of Student's paired t-test, two-sided."""


def paired(first: Sequence[float], second: Sequence[float]) -> Paired | None:
    """How much more the second ones are; nothing of less than two pairs."""
    apart = [b - a for a, b in zip(first, second, strict=True)]
    if len(apart) < 2:
        return None
    mean, error = statistics.mean(apart), statistics.stdev(apart) / math.sqrt(len(apart))
    constant = max(apart) - min(apart) < 1e-12  # the test would divide by zero
    p = float(mean == 0) if constant else float(stats.ttest_rel(second, first).pvalue)
    reach = error * float(stats.t.ppf(0.975, len(apart) - 1))
    return Paired(pairs=len(apart), mean=mean, low=mean - reach, high=mean + reach, p=p)


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    return f"{statistics.mean(known):.3f}" + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


def apart(first: Sequence[float], second: Sequence[float]) -> dict[str, str]:
    found = paired(first, second)
    if found is None:
        return {"difference": DASH, "p": DASH}
    return {"difference": f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})", "p": f"{found.p:.3f}"}


# Rows that belong together


def of(rows: Iterable[Row], **wanted: Any) -> dict[int, Row]:
    """By seed."""
    return {row["seed"]: row for row in rows if all(row[name] == value for name, value in wanted.items())}


def both(first: Mapping[int, Row], second: Mapping[int, Row]) -> tuple[list[Row], list[Row]]:
    """Of the seeds that both have, made in the same way."""
    seeds = [
        seed for seed in sorted(first.keys() & second.keys()) if first[seed]["protocol"] == second[seed]["protocol"]
    ]
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def values(rows: Iterable[Row], *place: str) -> list[Any]:
    found = list(rows)
    for name in place:
        found = [row[name] for row in found]
    return found


def triplet(rows: Sequence[Row], *place: str) -> str:
    """AP / AP50 / AP75, the first with its spread."""
    if not rows:
        return DASH
    others = [f"{statistics.mean(values(rows, *place, name)):.3f}" for name in ("AP50", "AP75")]
    return " / ".join([spread(values(rows, *place, "AP")), *others])


def places(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Beds and networks, in the order of NETWORKS."""
    found = {(row["bed"], row["network"]) for row in rows}
    return sorted(found, key=lambda place: (place[0], list(NETWORKS).index(place[1])))


# Tables


def protocols(rows: Sequence[Row]) -> Rows:
    """How the rows were made."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["method"] != PACE:
            groups.setdefault((row["bed"], row["network"], row["method"], *row["protocol"].values()), []).append(row)
    return [_protocol(several) for _, several in sorted(groups.items(), key=lambda item: str(item[0]))]


def _protocol(rows: Sequence[Row]) -> dict[str, str]:
    first, about = rows[0], rows[0]["protocol"]
    on = sorted({row["machine"]["device"] for row in rows})
    clock = "process_seconds" if on == ["cpu"] else "seconds"
    return {
        "bed": first["bed"],
        "network": first["network"],
        "method": first["method"],
        "begins with": str(about["weights"]),
        "cells": str(len(rows)),
        "steps": f"{about['steps']} of {about['batch']}",
        "crops": str(about["side"] or "whole"),
        "minutes": f"{statistics.median(values(rows, clock)) / 60:.1f}",
        "parameters": f"{statistics.median(values(rows, 'parameters')) / 1e6:.1f} M",
        "judged by": f"{first['pictures']} pictures",
        "on": ", ".join(on),
        "commits": ", ".join(sorted({str(row["machine"]["commit"])[:8] for row in rows})),
    }


def trainings(rows: Sequence[Row]) -> Rows:
    """Two networks, with and without a head for quality."""
    found = []
    for bed, network in places(rows):
        at = {"bed": bed, "network": network, "options": {}}
        without, having = both(of(rows, **at, method="mask_rcnn"), of(rows, **at, method="ms_rcnn"))
        if without:
            aps = [values(several, "masks", "mask_scores", "AP") for several in (without, having)]
            found.append(
                {
                    "bed": bed,
                    "network": network,
                    "seeds": str(len(without)),
                    "Mask R-CNN": triplet(without, "masks", "mask_scores"),
                    "Mask Scoring R-CNN": triplet(having, "masks", "mask_scores"),
                    **apart(*aps),
                    "boxes": spread(values(without, "boxes", "AP")),
                    "boxes with scoring": spread(values(having, "boxes", "AP")),
                }
            )
    return found


def scored(rows: Sequence[Row]) -> Iterator[tuple[dict[str, str], list[Row]]]:
    """Where scoring was learned as published: what to say of it, and a row a seed."""
    for bed, network in places(rows):
        if several := list(of(rows, bed=bed, network=network, method="ms_rcnn", options={}).values()):
            yield {"bed": bed, "network": network, "seeds": str(len(several))}, several


def rankings(rows: Sequence[Row]) -> Rows:
    """One network, its masks in two orders."""
    found = []
    for about, several in scored(rows):
        kinds = [values(several, "masks", name, "AP") for name in ("scores", "mask_scores")]
        edges = [values(several, "boundary", name) for name in ("scores", "mask_scores")]
        found.append(
            {
                **about,
                "by class score": triplet(several, "masks", "scores"),
                "by mask score": triplet(several, "masks", "mask_scores"),
                **apart(*kinds),
                "by true IoU": spread(values(several, "quality", "AP_oracle")),
                "boundary AP by class score": spread(edges[0]),
                "by mask score ": spread(edges[1]),
                "box AP by class score": spread(values(several, "boxes", "AP")),
                "by mask score  ": spread(values(several, "boxes_by_mask_score")),
            }
        )
    return found


def correlations(rows: Sequence[Row]) -> Rows:
    """With the true IoU."""
    found = []
    for about, several in scored(rows):
        for name in ("score", "quality", "mask_score"):
            told = {k: spread(values(several, "quality", f"{k.replace(' ', '_')}_{name}")) for k in _CORRELATIONS}
            found.append({**about, "": name.replace("_", " "), **told})
    return found


_CORRELATIONS = ("pearson", "pearson of hits", "spearman", "spearman of hits", "spearman of sure hits")


def ablations(rows: Sequence[Row]) -> Rows:
    """Against the default of the same seeds."""
    found = []
    for bed in sorted({row["bed"] for row in rows if row["group"] in ABLATIONS}):
        of_bed = {"bed": bed, "network": "lite0 fpn", "method": "ms_rcnn"}
        usual = of(rows, **of_bed, options={})
        tried = [(group, options) for group, several in ABLATIONS.items() for options in several]
        found += [_ablation(bed, "", "as published", usual, usual)] if usual else []
        for group, options in tried:
            if changed := of(rows, **of_bed, options=dict(options)):
                what = ", ".join(f"{name}={value}" for name, value in options.items())
                found.append(_ablation(bed, group, what, usual, changed))
    return found


def _ablation(bed: str, group: str, what: str, usual: Mapping[int, Row], changed: Mapping[int, Row]) -> dict[str, str]:
    mine = list(changed.values())
    aps = [values(several, "masks", "mask_scores", "AP") for several in both(usual, changed)]
    return {
        "bed": bed,
        "of": group,
        "option": what,
        "seeds": str(len(mine)),
        "mask AP": triplet(mine, "masks", "mask_scores"),
        **(apart(*aps) if usual is not changed else {"difference": DASH, "p": DASH}),
        "more than by class score": spread(_gains(mine)),
        "Spearman of quality, hits": spread(values(mine, "quality", "spearman_of_hits_quality")),
    }


def _gains(rows: Sequence[Row]) -> list[float]:
    by = [values(rows, "masks", name, "AP") for name in ("scores", "mask_scores")]
    return [b - a for a, b in zip(*by, strict=True)]


def powers(rows: Sequence[Row]) -> Rows:
    found = []
    for about, several in scored(rows):
        aps = [values(several, "fit", name) for name in ("plain", "fitted")]
        shares = ", ".join(f"{1 - share:.1f} : {share:.1f}" for share in values(several, "fit", "share"))
        told = {"score x quality": spread(aps[0]), "fitted": spread(aps[1]), **apart(*aps)}
        found.append({**about, "a : b of each seed": shares, **told})
    return found


def shifts(rows: Sequence[Row]) -> Rows:
    several = [row for row in rows if "shift" in row]
    names = {
        "calibration error": "calibration_error",
        "of hits": "calibration_error_of_hits",
        "Spearman of quality": "spearman_quality",
        "of hits ": "spearman_of_hits_quality",
        "AP by class score": "AP_by_score",
        "by mask score": "AP_by_mask_score",
        "by true IoU": "AP_oracle",
    }
    kinds = several[0]["shift"] if several else ()
    found = []
    for kind in kinds:
        at = values(several, "shift", kind)
        told = {title: spread(values(at, name)) for title, name in names.items()}
        aps = [values(at, name) for name in ("AP_by_score", "AP_by_mask_score")]
        shown = "as they are" if kind == "none" else kind
        found.append({"pictures": shown, "seeds": str(len(several)), **told, **apart(*aps)})
    return found


def peers(rows: Sequence[Row]) -> Rows:
    """Ours against torchvision's, by seed."""
    found = []
    for bed, network in places(rows):
        at = {"bed": bed, "network": network}
        theirs = of(rows, **at, method=PEER, options={})
        for method, options in (("mask_rcnn", {}), ("ms_rcnn", {}), ("mask_rcnn", PEERS_ARITHMETIC)):
            others, ours = both(theirs, of(rows, **at, method=method, options=options))
            if ours:
                aps = [values(several, "masks", "mask_scores", "AP") for several in (others, ours)]
                found.append(
                    {
                        "bed": bed,
                        "ours": ", ".join([method, *(f"{name}={value}" for name, value in options.items())]),
                        "seeds": str(len(ours)),
                        "mask AP": triplet(ours, "masks", "mask_scores"),
                        "torchvision": triplet(others, "masks", "mask_scores"),
                        **apart(*aps),
                        "boxes": spread(values(ours, "boxes", "AP")),
                        "torchvision's": spread(values(others, "boxes", "AP")),
                    }
                )
    return found


def pace(rows: Sequence[Row]) -> Rows:
    """The same batches, in turn, in one process."""
    found = []
    for row in rows:
        if row["method"] == PACE:
            for what, seconds in row["pace"].items():
                told = {name: f"{1000 * value:.0f} ms" for name, value in seconds.items()}
                pairs = [(one, other) for one, other in RATIOS if {one, other} <= seconds.keys()]
                ratios = {f"{one} / {other}": f"{seconds[one] / seconds[other]:.2f}" for one, other in pairs}
                found.append({"bed": row["bed"], "seconds of": what, **told, **ratios})
    return found


PEERS = """Against torchvision's Mask R-CNN, with the same backbone and weights, data, steps and optimiser. Its heads
begin with numbers of its own, so that a seed shares no more than pictures and backbone. With `convention=torchvision`
ours reads regions, teaches and pastes masks by its arithmetic:"""
RATIOS = (("mask_rcnn", PEER), ("ms_rcnn", PEER), ("ms_rcnn", "mask_rcnn"))

MADE = """How the rows were made. Minutes are the median of a training's: on a CPU, where other work may have run beside
it, of the processor, else of the clock:"""
TRAININGS = """Two trainings, one without and one with the head. The difference is what the paper's Table 1 is about,
and holds the chance of two trainings:"""
RANKED = """One training, its masks in two orders: the same detections, ranked by the score of their class and by that
times the predicted quality. *By true IoU* is what a perfect prediction would reach:"""
FOLLOWED = """How the numbers follow the true IoU: over all detections, over those that hit an object (an IoU of at
least .5), and over those of them whose class score is above .5 too, as in the paper's Figure 2:"""
VARIED = """Variants of the head, each against the published one from the same seeds: what it sees (Table 4), what it
learns (Table 5), from which regions (Table 6), and whether its loss also teaches the masks and the features, which the
paper does not ask. So many comparisons with one default give a small *p* here and there by chance alone. Where all
classes are targets the loss is a mean over them, and that of the object is one of many:"""
TABLES: Sequence[tuple[str, Callable[[Sequence[Row]], Rows]]] = (
    (MADE, protocols),
    (TRAININGS, trainings),
    (RANKED, rankings),
    (FOLLOWED, correlations),
    (VARIED, ablations),
    ("Ranking by score^a x quality^b, with a and b chosen on pictures nobody learned from:", powers),
    ("Pictures of another kind than those learned from:", shifts),
    (PEERS, peers),
    ("What a step and a picture take, measured in turn in one process:", pace),
)
"""What each says, and its rows."""


# Pictures


def drawn(rows: Sequence[Row]) -> dict[str, str]:
    """Files by name, as far as there is something to draw."""
    scored = [row for row in rows if row["method"] == "ms_rcnn" and not row["options"]]
    shown = {"rankings": _rankings(scored), "calibration": _calibration(scored)} if scored else {}
    return {name: svg for name, svg in shown.items() if svg}


def _rankings(rows: Sequence[Row]) -> str:
    """Above 0 the predicted quality helped."""
    first = [100 * ap for ap in values(rows, "masks", "scores", "AP")]
    last = [values(rows, "masks", "mask_scores", "AP"), values(rows, "quality", "AP_oracle")]
    gained, most = ([100 * ap - from_ for ap, from_ in zip(aps, first, strict=True)] for aps in last)
    y = Scale.around([*gained, *most, 0.0], "gained by mask score, by true IoU")
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


def publish(page: Path, results: Results) -> None:
    """All tables and pictures anew, from what is there."""
    parts = [part for budget, rows in sorted(results.items()) for part in _told(page, budget, list(rows.values()))]
    put(page, BEGIN, "\n".join(["", *parts, ""]) if parts else NOTHING)


def _told(page: Path, budget: str, rows: Sequence[Row]) -> list[str]:
    """Of one budget: its tables as far as they have rows, and the pictures that are written beside the page."""
    tables = [f"{text}\n\n{markdown(found)}" for text, table in TABLES if (found := table(rows))]
    pictures = []
    for name, svg in drawn(rows).items():
        place = PICTURES.format(name, budget)
        (page.parent / place).parent.mkdir(exist_ok=True)
        (page.parent / place).write_text(svg)
        pictures += [f"{textwrap.fill(CAPTIONS[name], 120)}\n", f"![{name}, budget {budget}]({place})\n"]
    return [f"### Budget `{budget}`\n", *tables, *pictures] if tables else []
