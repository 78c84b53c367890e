"""What benchmarks/mask_scoring.py found, as the tables of docs/results.md: means over seeds, their spread, and what a
paired test says of differences."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats
from scoring_cells import A_PICTURE, ABLATIONS, BEGUN_ALIKE, NETWORKS, PACE, PEER, PEERS_ARITHMETIC
from tables import Rows

Row = Mapping[str, Any]
DASH = "-"


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

    def __str__(self) -> str:
        p = f"p {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}; {p})"


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


def apart(first: Sequence[float], second: Sequence[float]) -> str:
    return str(paired(first, second) or DASH)


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    return f"{statistics.mean(known):.3f}" + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


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


def aps(rows: Sequence[Row], ranking: str = "mask_scores", name: str = "AP") -> list[float]:
    """Of masks in one of two orders."""
    return values(rows, "masks", ranking, name)


def gains(rows: Sequence[Row], name: str = "AP") -> list[float]:
    """What the order by mask score has more than that by class score."""
    return [b - a for a, b in zip(aps(rows, "scores", name), aps(rows, name=name), strict=True)]


def triplet(rows: Sequence[Row], ranking: str = "mask_scores") -> str:
    """AP / AP50 / AP75 of masks, the first with its spread."""
    if not rows:
        return DASH
    others = [f"{statistics.mean(aps(rows, ranking, name)):.3f}" for name in ("AP50", "AP75")]
    return " / ".join([spread(aps(rows, ranking)), *others])


def places(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Beds and networks, in the order of NETWORKS."""
    found = {(row["bed"], row["network"]) for row in rows}
    return sorted(found, key=lambda place: (place[0], list(NETWORKS).index(place[1])))


def settings(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]


def named(method: str, options: Mapping[str, Any]) -> str:
    return ", ".join([method, *settings(options)])


def seconds(row: Row) -> float:
    """That a training took: on a CPU, where other work may have run beside it, of the processor."""
    return row["process_seconds" if row["machine"]["device"] == "cpu" else "seconds"]


def minutes(rows: Iterable[Row]) -> float:
    return statistics.median(map(seconds, rows)) / 60


# How the rows were made


def protocols(rows: Sequence[Row]) -> Rows:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["method"] != PACE:
            key = (row["bed"], row["network"], _what(row), *row["protocol"].values())
            groups.setdefault(key, []).append(row)
    return [_protocol(several) for _, several in sorted(groups.items(), key=lambda item: str(item[0]))]


def _what(row: Row) -> str:
    """Variants of the head are told as one."""
    is_variant = row["group"] in ABLATIONS
    return f"{row['method']}, variants" if is_variant else named(row["method"], row["options"])


def _protocol(rows: Sequence[Row]) -> dict[str, str]:
    first, about = rows[0], rows[0]["protocol"]
    return {
        "bed": first["bed"],
        "network": first["network"],
        "method": _what(first),
        "begins with": str(about["weights"]),
        "trainings": str(len(rows)),
        "steps": f"{about['steps']} of {about['batch']}",
        "crops": str(about["side"] or "whole"),
        "minutes": f"{minutes(rows):.1f}",
        "parameters": f"{statistics.median(values(rows, 'parameters')) / 1e6:.1f} M",
        "judged by": f"{first['pictures']} pictures",
    }


def machines(rows: Sequence[Row]) -> Rows:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = tuple(str(row["machine"][name]) for name in ("device", "platform", "torch", "threads"))
        groups.setdefault(key, []).append(row)
    return [
        {
            "on": device,
            "platform": platform,
            "torch": torch,
            "threads": threads,
            "rows": str(len(several)),
            "with a +": str(sum(str(row["machine"]["commit"]).endswith("+") for row in several)),
            "hours of training": f"{sum(seconds(row) for row in several if row['method'] != PACE) / 3600:.1f}",
            "of judging": f"{sum(row.get('judging', 0) for row in several) / 3600:.1f}",
        }
        for (device, platform, torch, threads), several in sorted(groups.items())
    ]


# What they say


def trainings(rows: Sequence[Row]) -> Rows:
    """Two networks, with and without a head for quality."""
    found = []
    for bed, network in places(rows):
        at = {"bed": bed, "network": network, "options": {}}
        without, having = both(of(rows, **at, method="mask_rcnn"), of(rows, **at, method="ms_rcnn"))
        if without:
            found.append(
                {
                    "bed": bed,
                    "network": network,
                    "seeds": str(len(without)),
                    "Mask R-CNN": triplet(without),
                    "Mask Scoring R-CNN": triplet(having),
                    "difference": apart(aps(without), aps(having)),
                    "before its masks are ordered anew": apart(aps(without), aps(having, "scores")),
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
        by = {"by class score": triplet(several, "scores"), "by mask score": triplet(several)}
        oracle = {"as in Table 7": spread(values(several, "quality", "AP_oracle"))}
        found.append({**about, **by, **_apart_by_order(several), **oracle})
    return [*found, *_of_networks(rows)]


GAINED = {"difference": "AP", "of AP50": "AP50", "of AP75": "AP75"}


def _apart_by_order(rows: Sequence[Row]) -> dict[str, str]:
    return {title: apart(aps(rows, "scores", name), aps(rows, name=name)) for title, name in GAINED.items()}


def _of_networks(rows: Sequence[Row]) -> Rows:
    """Means over networks that have several seeds, each of which counts once."""
    found = []
    for bed in sorted({row["bed"] for row in rows}):
        networks = [several for about, several in scored(rows) if about["bed"] == bed and len(several) > 1]
        if len(networks) > 1:
            gained = {t: [statistics.mean(gains(several, name)) for several in networks] for t, name in GAINED.items()}
            about = {"bed": bed, "network": f"mean of {len(networks)}", "seeds": str(sum(map(len, networks)))}
            differences = {title: apart([0.0] * len(means), means) for title, means in gained.items()}
            blank = {"by class score": DASH, "by mask score": DASH}
            found.append({**about, **blank, **differences, "as in Table 7": DASH})
    return found


def others(rows: Sequence[Row]) -> Rows:
    """Boundaries and boxes in the same two orders."""
    found = []
    for about, several in scored(rows):
        edges = [values(several, "boundary", name) for name in ("scores", "mask_scores")]
        boxes = [values(several, "boxes", "AP"), values(several, "boxes_by_mask_score")]
        found.append(
            {
                **about,
                "boundary AP by class score": spread(edges[0]),
                "boundary AP by mask score": spread(edges[1]),
                "difference": apart(*edges),
                "box AP by class score": spread(boxes[0]),
                "box AP by mask score": spread(boxes[1]),
                "difference of boxes": apart(*boxes),
            }
        )
    return found


CORRELATIONS = ("pearson", "pearson of hits", "spearman", "spearman of hits", "spearman of sure hits")


def correlations(rows: Sequence[Row]) -> Rows:
    """With the true IoU."""
    found = []
    for about, several in scored(rows):
        for name in ("score", "quality", "mask_score"):
            told = {k: spread(values(several, "quality", f"{k.replace(' ', '_')}_{name}")) for k in CORRELATIONS}
            found.append({**about, "of": name.replace("_", " "), **told})
    return found


def calibrations(rows: Sequence[Row]) -> Rows:
    names = {"all detections": "calibration_error", "hits": "calibration_error_of_hits"}
    return [
        {
            **about,
            "detections": f"{statistics.mean(values(several, 'quality', 'detections')):,.0f}",
            "of them hits": f"{statistics.mean(values(several, 'quality', 'hits')):,.0f}",
            **{
                f"calibration error of {title}": spread(values(several, "quality", name))
                for title, name in names.items()
            },
        }
        for about, several in scored(rows)
    ]


def ablations(rows: Sequence[Row]) -> Rows:
    """Against the default of the same seeds."""
    found = []
    for bed in sorted({row["bed"] for row in rows if row["group"] in ABLATIONS}):
        of_bed = {"bed": bed, "network": "lite0 fpn", "method": "ms_rcnn"}
        usual = of(rows, **of_bed, options={})
        found += [_ablation(bed, "", "as published", usual, usual)] if usual else []
        for group, several in ABLATIONS.items():
            for options in several:
                if changed := of(rows, **of_bed, options=dict(options)):
                    found.append(_ablation(bed, group, ", ".join(settings(options)), usual, changed))
    return found


def _ablation(bed: str, group: str, what: str, usual: Mapping[int, Row], changed: Mapping[int, Row]) -> dict[str, str]:
    mine, is_other = list(changed.values()), usual is not changed
    pairs = both(usual, changed)
    return {
        "bed": bed,
        "of": group,
        "option": what,
        "seeds": str(len(mine)),
        "mask AP": triplet(mine),
        "difference": apart(*map(aps, pairs)) if is_other else DASH,
        "gain by the order": spread(gains(mine)),
        "difference of gains": apart(*map(gains, pairs)) if is_other else DASH,
        "spearman of hits": spread(_spearmans(mine)),
        "its difference": apart(*map(_spearmans, pairs)) if is_other else DASH,
    }


def _spearmans(rows: Sequence[Row]) -> list[float]:
    return values(rows, "quality", "spearman_of_hits_quality")


def powers(rows: Sequence[Row]) -> Rows:
    found = []
    for about, several in scored(rows):
        plain, fitted = (values(several, "fit", name) for name in ("plain", "fitted"))
        shares = ", ".join(f"{1 - share:.1f} : {share:.1f}" for share in values(several, "fit", "share"))
        told = {"by class score": spread(aps(several, "scores")), "score x quality": spread(plain)}
        told |= {"fitted": spread(fitted), "fitted less the product": apart(plain, fitted)}
        found.append({**about, "a : b of each seed": shares, **told})
    return found


SHIFTED = {
    "calibration error": "calibration_error",
    "of hits": "calibration_error_of_hits",
    "spearman of quality": "spearman_quality",
    "spearman of hits": "spearman_of_hits_quality",
    "AP by class score": "AP_by_score",
    "by mask score": "AP_by_mask_score",
}


def shifts(rows: Sequence[Row]) -> Rows:
    several = [row for row in rows if "shift" in row]
    kinds = several[0]["shift"] if several else ()
    found = []
    for kind in kinds:
        at = values(several, "shift", kind)
        told = {title: spread(values(at, name)) for title, name in SHIFTED.items()}
        by = [values(at, name) for name in ("AP_by_score", "AP_by_mask_score")]
        shown = "as they are" if kind == "none" else kind
        oracle = {"as in Table 7": spread(values(at, "AP_oracle"))}
        found.append({"pictures": shown, "seeds": str(len(several)), **told, "difference": apart(*by), **oracle})
    return found


def peers(rows: Sequence[Row]) -> Rows:
    """Ours against torchvision's and against itself with its arithmetic, by seed."""
    ours, scoring, of_peer, begun = (("mask_rcnn", {}), ("ms_rcnn", {}), (PEER, {}), (BEGUN_ALIKE, {}))
    alike = ("mask_rcnn", PEERS_ARITHMETIC)
    pairs = ((ours, of_peer), (scoring, of_peer), (alike, of_peer), (ours, alike), (begun, of_peer), (alike, begun))
    found = []
    for bed, network in places(rows):
        for pair in pairs:
            of_each = [of(rows, bed=bed, network=network, method=m, options=options) for m, options in pair]
            mine, theirs = both(*of_each)
            if mine:
                boxes = [values(several, "boxes", "AP") for several in (theirs, mine)]
                found.append(
                    {
                        "bed": bed,
                        "one": named(*pair[0]),
                        "other": named(*pair[1]),
                        "seeds": str(len(mine)),
                        "mask AP": triplet(mine),
                        "of the other": triplet(theirs),
                        "difference": apart(aps(theirs), aps(mine)),
                        "box AP": spread(boxes[1]),
                        "box AP of the other": spread(boxes[0]),
                        "difference of boxes": apart(*boxes),
                    }
                )
    return found


RATIOS = (("mask_rcnn", PEER), ("ms_rcnn", PEER), ("ms_rcnn", "mask_rcnn"))


def pace(rows: Sequence[Row]) -> Rows:
    """The same batches, in turn, in one process."""
    found = []
    for row in (row for row in rows if row["method"] == PACE):
        for what, medians in row["pace"].items():
            networks = "trained" if A_PICTURE in row["pace"] else "as they begin"
            told = {name: f"{1000 * value:.0f} ms" for name, value in medians.items()}
            pairs = [(one, other) for one, other in RATIOS if {one, other} <= medians.keys()]
            ratios = {f"{one} / {other}": f"{medians[one] / medians[other]:.2f}" for one, other in pairs}
            found.append({"bed": row["bed"], "seconds of": what, "networks": networks, **told, **ratios})
    return found


def durations(rows: Sequence[Row]) -> Rows:
    """Whole trainings with the same seeds: of the processor, where other work may have run beside them."""
    found = []
    for bed, network in places(rows):
        at = {"bed": bed, "network": network, "options": {}}
        for one, other in RATIOS:
            ours, theirs = both(of(rows, **at, method=one), of(rows, **at, method=other))
            if ours:
                took = [minutes(several) for several in (ours, theirs)]
                pair = {"one": one, "other": other, "seeds": str(len(ours))}
                told = {"minutes": f"{took[0]:.1f}", "of the other": f"{took[1]:.1f}"}
                found.append({"bed": bed, "network": network, **pair, **told, "ratio": f"{took[0] / took[1]:.2f}"})
    return found
