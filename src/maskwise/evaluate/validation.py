"""How good a model is on a data set: boxes, masks, and whether its quality says how good the masks are.

Training calls it after an epoch, `maskwise val` for a trained model; both look at the same pictures in the same way.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from maskwise.categories import OBJECT, Categories
from maskwise.data.dataset import Id
from maskwise.data.failures import BadFiles, Failure
from maskwise.data.formats import coco_results
from maskwise.data.loader import Batch, Loader
from maskwise.data.source import FileSource, Source, as_one
from maskwise.data.transforms import Transform, compose
from maskwise.evaluate.coco import COCO, Settings, coco
from maskwise.evaluate.keypoints import keypoints, usual_sigmas
from maskwise.evaluate.objects import Comparison, Pair, order_of_id, present, xywh
from maskwise.evaluate.quality import quality
from maskwise.evaluate.recall import recall
from maskwise.evaluate.report import Report, finite
from maskwise.evaluate.structures import Predict, numbered_pairs
from maskwise.methods import Method
from maskwise.structures import Images, Instances

log = logging.getLogger(__name__)

Watched = Callable[[Iterable[Batch], int], Iterable[Batch]]
"""Given batches and how many there are, the same batches, while it tells people how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    boxes: Report
    masks: Report
    quality: Report
    keypoints: Report | None
    """Where the data has any and the model looks for them."""
    proposals: Report | None
    """Recall of masks, where all classes are one."""

    def ap(self, of: Literal["masks", "boxes", "keypoints", "proposals"]) -> float:
        """Of proposals, the area under their recall."""
        if of == "proposals":
            return math.nan if self.proposals is None else self.proposals.numbers["AUC"]
        reports = {"masks": self.masks, "boxes": self.boxes, "keypoints": self.keypoints}
        found = reports[of]
        return math.nan if found is None else found.numbers["AP"]

    def ranking(self) -> dict[str, float | int]:
        """How quality follows the true IoU, under the names that `Instances` have: scores, quality, mask_scores."""
        numbers = self.quality.numbers.items()
        return {f"{name}s" if name.endswith("score") else name: value for name, value in numbers}

    def metrics(self) -> dict[str, float]:
        """The numbers of masks, and the few others that are worth a curve."""
        ranked = self.ranking()
        others = {"boxes_AP": self.ap("boxes")}
        others |= {} if self.keypoints is None else {"keypoints_AP": self.ap("keypoints")}
        others |= {} if self.proposals is None else {name: self.proposals.numbers[name] for name in ("AR1000", "AUC")}
        others |= {name: ranked[name] for name in ("spearman_scores", "spearman_mask_scores", "AP_by_scores")}
        return {name: float(value) for name, value in {**self.masks.numbers, **others}.items()}

    def to_json(self) -> dict[str, object]:
        """One object for programs. What cannot be measured is null."""
        masks = self.masks
        others = {"keypoints": self.keypoints, "proposals": self.proposals}
        return {
            "boxes": finite(self.boxes.numbers),
            "masks": finite(masks.numbers),
            "quality": finite(self.ranking()),
            **{name: finite(report.numbers) for name, report in others.items() if report is not None},
            "images": masks.images,
            "ground_truths": masks.ground_truths,
            "data": masks.data,
            "policy": masks.policy,
            "max_dets": list(masks.max_dets),
            "classes": [
                {"name": row.name, "ground_truths": row.ground_truths, **finite(row.numbers)} for row in masks.classes
            ],
        }


def validation(comparison: Comparison, settings: Settings = COCO) -> Validation:
    """Everything that is told of a model by default."""
    both = ((pair.truth.keypoints, pair.found.keypoints) for pair in comparison.pairs)
    points = next((true.shape[1] for true, found in both if true is not None and found is not None), 0)
    return Validation(
        boxes=coco(comparison, "bbox", settings),
        masks=coco(comparison, "segm", settings),
        quality=quality(comparison, settings=settings),
        keypoints=keypoints(comparison, sigmas=usual_sigmas(points)) if points else None,
        proposals=recall(comparison) if comparison.categories == OBJECT else None,
    )


def limited(most: int) -> Settings:
    """COCO's settings with another number of detections of a picture and class."""
    if most < 1:
        raise ValueError(f"at least one detection must count, got {most}")
    return replace(COCO, max_dets=(*(n for n in (1, 10) if n < most), most))


# Looking at a data set


@runtime_checkable
class Detector(Protocol):
    """What is asked of a model; `maskwise.Model` has it."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def view(self) -> Sequence[Transform]: ...

    @property
    def categories(self) -> Categories: ...

    @property
    def device(self) -> torch.device: ...


def _all(batches: Iterable[Batch], _: int) -> Iterable[Batch]:
    return batches


def compare(
    model: Detector,
    source: Source,
    categories: Categories,
    *,
    data: str = "",
    batch: int = 1,
    workers: int = 0,
    watched: Watched = _all,
) -> tuple[Comparison, tuple[Failure, ...]]:
    """What a model finds in all pictures of a source, beside the truth; and the pictures that could not be read.

    For a model that tells no classes apart, all classes of the data are one.
    """
    if model.categories == OBJECT and categories != OBJECT:
        source, categories = as_one(source), OBJECT
    predict = renamed(cast(Method, model.module).predict, model.categories, categories)
    loader = Loader(
        source,
        batch_size=batch,
        transform=compose(*model.view),
        shuffle=False,
        last="keep",
        bad_files=BadFiles(then="leave out"),
        workers=workers,
    )
    with loader, torch.no_grad():
        shown = watched(loader, len(loader))
        pairs = in_order(source, numbered_pairs(predict, shown, source, model.device))
    return Comparison(categories=categories, pairs=tuple(pair for _, pair in pairs), data=data), loader.failures


def in_order(source: Source, numbered: Iterable[tuple[int, Pair]]) -> list[tuple[int, Pair]]:
    """Pictures with their positions in the source, by their ids, as files of results are read: where scores are equal
    the order decides, and it must be the same."""
    return sorted(numbered, key=lambda one: order_of_id(image_id(source, one[0])))


def renamed(predict: Predict, known: Categories, wanted: Categories) -> Predict:
    """The same under the labels of other categories, by name; a class that is alone is another that is alone, whatever
    they are called, as in training. What these do not name is no longer found."""
    if known.names == wanted.names:
        return predict
    if len(known) == len(wanted) == 1:
        log.info("the one class of the data, %s, is taken for that of the model, %s", *wanted.names, *known.names)
        return predict
    if unknown := [name for name in wanted.names if name not in known.names]:
        raise ValueError(
            f"the data has classes that the model does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(known.names)}. Classes are matched by name: name them alike in the data "
            "(docs/data.md says where each format has the names)"
        )
    place = {name: label for label, name in enumerate(wanted.names)}
    labels = torch.tensor([place.get(name, -1) for name in known.names])

    def predict_as(images: Images) -> list[Instances]:
        return [_relabelled(found, labels) for found in predict(images)]

    return predict_as


def _relabelled(found: Instances, labels: Tensor) -> Instances:
    there = labels.to(found.labels.device)[found.labels]
    kept = (there >= 0).nonzero()[:, 0]
    return replace(found[kept], labels=there[kept])


# COCO results


def results(comparison: Comparison, ids: Sequence[Id]) -> list[dict[str, object]]:
    """What was found, as `maskwise eval` reads it; `ids` are those of the pictures in the file of the truth."""
    pairs = zip(comparison.pairs, ids, strict=True)
    return [entry for pair, id_ in pairs for entry in _entries(pair, id_, comparison.categories)]


def _entries(pair: Pair, image: Id, categories: Categories) -> list[dict[str, object]]:
    found = pair.found
    columns = (found.labels, xywh(found.boxes), found.mask_scores, found.scores, found.quality)
    points = None if found.keypoints is None else found.keypoints.reshape(len(found.scores), -1).tolist()
    masks = present(found.masks, "model")
    return coco_results.entries(image, categories, masks, *(column.tolist() for column in columns), keypoints=points)


def image_id(source: Source, i: int) -> Id:
    """Of a picture in the file of its annotations; its position where there is no file."""
    return source.data[i].id if isinstance(source, FileSource) else i
