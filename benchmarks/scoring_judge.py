"""What a trained model of benchmarks/mask_scoring.py reaches: under two rankings of the same detections, with a perfect
quality, with powers of score and quality that were fitted on pictures nobody learned from, and on pictures of another
domain."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from maskwise.categories import Categories
from maskwise.data.source import FileSource, Source
from maskwise.data.transforms import Blur, Invert, Noise, RandomScale
from maskwise.evaluate.coco import Settings, coco, curves
from maskwise.evaluate.objects import Comparison, Found
from maskwise.evaluate.overlaps import of_kind
from maskwise.evaluate.quality import HIT, RANKINGS, Calibration, calibrate, pearson, quality, true_iou
from maskwise.evaluate.validation import compare, limited
from maskwise.model import Model
from maskwise.recipes.run import Change, Files, Run, Synthetic
from maskwise.recipes.sources import (
    FIRST_TEST_SCENE,
    FIRST_VALIDATION_SCENE,
    opened_split,
    without_those_learned_from,
)

SCENES, HELD_SCENES = 300, 200
SHARES = tuple(i / 10 for i in range(11))
"""Powers of the predicted quality that are tried; that of the score is the rest of 1. Only their ratio ranks."""
PLAIN = 0.5
"""The product, as in the paper."""
DIGITS = 5

SHIFTS: Mapping[str, tuple[tuple[Change, ...], tuple[Change, ...]]] = {
    "inverted": ((Invert(probability=1.0),), ()),
    "blurred": ((Blur(sigma=(2.0, 2.0), probability=1.0),), ()),
    "noisy": ((Noise(sigma=(0.1, 0.1), probability=1.0),), ()),
    "half the size": ((), (RandomScale(factor=(0.5, 0.5)),)),
    "1.6 times the size": ((), (RandomScale(factor=(1.6, 1.6)),)),
}
"""What happens to a picture before and after it is prepared; always the same to the same picture."""

Ranking = Callable[[Found], np.ndarray]


def judgement(model: Model, run: Run[Any], *, workers: int, shifted: bool, scenes: int = SCENES) -> dict[str, Any]:
    """The numbers of a row."""
    source, categories = pictures(run, scenes)
    settings = limited(run.config.max_instances)
    found, failures = compare(model, source, categories, workers=workers)
    row = {"pictures": len(source) - len(failures), **numbers(found, settings)}
    if run.method == "ms_rcnn":
        held, _ = compare(model, held_out(run, HELD_SCENES * scenes // SCENES), categories, workers=workers)
        row["fit"] = fit(held, found, settings)
    if shifted:
        kinds = {name: seen(model, *steps) for name, steps in SHIFTS.items()}
        several = {name: compare(one, source, categories, workers=workers)[0] for name, one in kinds.items()}
        row["shift"] = {name: told(one, settings) for name, one in {"none": found, **several}.items()}
    return row


def pictures(run: Run[Any], scenes: int) -> tuple[Source, Categories]:
    """That nothing was learned from or chosen by."""
    source = run.data.source
    if isinstance(source, Synthetic):
        return source.scenes.samples(scenes, start=FIRST_TEST_SCENE), source.scenes.categories
    data = opened_split(Files(path=source.path), "val")
    return FileSource(data), data.categories


def held_out(run: Run[Any], scenes: int) -> Source:
    """Training pictures that were not learned from."""
    source = run.data.source
    if isinstance(source, Synthetic):
        return source.scenes.samples(scenes, start=FIRST_VALIDATION_SCENE)
    return FileSource(without_those_learned_from(source))


def seen(model: Model, before: Sequence[Change], after: Sequence[Change]) -> Model:
    return replace(model, view=(*before, *model.view, *after))


# Numbers


def numbers(found: Comparison, settings: Settings) -> dict[str, Any]:
    measured, (hits, calibration_of_hits) = quality(found, settings=settings), of_hits(found)
    rankings = {"scores": by_score(found), "mask_scores": found}
    return {
        "boxes": _short(coco(found, "bbox", settings).numbers),
        "boxes_by_mask_score": _rounded(ap(boxes_by_mask_score(found), settings, iou="bbox")),
        "masks": {name: _short(coco(one, "segm", settings).numbers) for name, one in rankings.items()},
        "boundary": {name: _rounded(ap(one, settings, iou="boundary")) for name, one in rankings.items()},
        "quality": {name: _rounded(value) for name, value in {**measured.numbers, **hits}.items()},
        "calibration": _bins(measured.tables["calibration"]),
        "calibration_of_hits": _bins(bin_._asdict() for bin_ in calibration_of_hits.bins),
    }


def told(found: Comparison, settings: Settings) -> dict[str, Any]:
    """The few that a shift of domain is about."""
    measured = {**quality(found, settings=settings).numbers, **of_hits(found)[0]}
    names = ("calibration_error", "calibration_error_of_hits", "spearman_quality", "spearman_of_hits_quality")
    names += ("AP_by_score", "AP_by_mask_score", "AP_oracle", "detections", "hits")
    return {name: _rounded(measured[name]) for name in names}


def of_hits(found: Comparison) -> tuple[dict[str, float], Calibration]:
    """Linear correlation with the true IoU, and calibration, of detections that found an object: no head for quality is
    taught what a region without one is."""
    true = np.concatenate([np.zeros(0), *(true_iou(pair, of_kind("segm")) for pair in found.pairs)])
    hits = true >= HIT
    several = {n: np.concatenate([np.zeros(0), *(by(p.found) for p in found.pairs)]) for n, by in RANKINGS.items()}
    calibration = calibrate(several["quality"][hits], true[hits])
    correlations = {f"pearson_of_hits_{name}": pearson(values[hits], true[hits]) for name, values in several.items()}
    return {**correlations, "calibration_error_of_hits": calibration.error}, calibration


def boxes_by_mask_score(found: Comparison) -> Comparison:
    """Boxes are ranked by their score, and so this takes its place."""
    pairs = (pair._replace(found=replace(pair.found, scores=pair.found.mask_scores)) for pair in found.pairs)
    return replace(found, pairs=tuple(pairs))


def ranked(found: Comparison, by: Ranking) -> Comparison:
    """The same detections in another order."""
    pairs = (pair._replace(found=replace(pair.found, mask_scores=by(pair.found))) for pair in found.pairs)
    return replace(found, pairs=tuple(pairs))


def by_score(found: Comparison) -> Comparison:
    return ranked(found, lambda one: one.scores)


def ap(found: Comparison, settings: Settings, *, iou: str = "segm") -> float:
    return curves(found, iou, settings).average_precision()


# Powers of score and quality


def fit(held: Comparison, found: Comparison, settings: Settings) -> dict[str, Any]:
    """The power of quality with the best mask AP on held-out pictures, and what it gives on others."""
    aps = {share: ap(ranked(held, powers(share)), settings) for share in SHARES}
    share = best_share(aps)
    return {
        "share": share,
        "held": {f"{s:g}": _rounded(value) for s, value in aps.items()},
        "plain": _rounded(ap(ranked(found, powers(PLAIN)), settings)),
        "fitted": _rounded(ap(ranked(found, powers(share)), settings)),
    }


def powers(share: float) -> Ranking:
    """score ** (1 - share) * quality ** share; a half is the order of the product."""
    return lambda found: found.scores ** (1 - share) * found.quality**share


def best_share(aps: Mapping[float, float]) -> float:
    """Among equals the one nearest to the product."""
    return max(aps, key=lambda share: (round(aps[share], 6), -abs(share - PLAIN)))


def _short(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _rounded(values[name]) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}


def _bins(bins: Iterable[Mapping[str, float]]) -> list[list[float | None]]:
    """Predicted, true and how many, where there are any."""
    known = [one for one in bins if one["detections"]]
    return [[_rounded(one["predicted"]), _rounded(one["true"]), one["detections"]] for one in known]


def _rounded(value: float) -> float | None:
    """What cannot be measured is null."""
    if isinstance(value, int):
        return value
    return None if np.isnan(value) else round(float(value), DIGITS)
