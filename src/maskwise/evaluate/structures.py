"""What training and prediction hold, as evaluation reads it: tensors become arrays, masks become run lengths."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskwise.data.loader import Batch
from maskwise.data.source import FileSource, Source
from maskwise.evaluate.objects import Found, Pair, Truth
from maskwise.structures import Images, Instances, Targets

Predict = Callable[[Images], list[Instances]]


def pair(image: int | str, targets: Targets, found: Instances) -> Pair:
    """One picture, both sides in the coordinates of the original."""
    if tuple(targets.masks.size) != tuple(found.masks.size):
        raise ValueError(f"{image}: masks found for {found.masks.size}, the truth is {targets.masks.size}")
    return Pair(image, truth(targets), _ranking(image, predicted(found)))


def truth(targets: Targets) -> Truth:
    """Areas are those of the masks where the file states none."""
    height, width = targets.masks.size
    areas = targets.masks.area() if targets.areas is None else targets.areas
    return Truth(
        size=(height, width),
        labels=targets.labels.cpu().numpy(),
        boxes=_floats(targets.boxes),
        areas=_floats(areas),
        crowd=targets.crowd.cpu().numpy(),
        masks=tuple(targets.masks.rle()),
        keypoints=None if targets.keypoints is None else _floats(targets.keypoints),
        ids=tuple(range(1, len(targets) + 1)),
    )


def predicted(found: Instances) -> Found:
    return Found(
        labels=found.labels.cpu().numpy(),
        boxes=_floats(found.boxes),
        scores=_floats(found.scores),
        quality=_floats(found.quality),
        mask_scores=_floats(found.mask_scores),
        masks=tuple(found.masks.rle()),
        keypoints=None if found.keypoints is None else _floats(found.keypoints),
    )


def _ranking(image: int | str, found: Found) -> Found:
    """The same, unless it cannot be ranked."""
    for name in ("scores", "quality", "mask_scores"):
        if bad := int((~np.isfinite(getattr(found, name))).sum()):
            raise ValueError(f"{image}: {name} must be finite numbers, {bad} of {len(found)} are not")
    return found


def _floats(values: Tensor) -> Float[np.ndarray, "..."]:
    """float64, as files of results are read, so that both ways lead to the same digits; on the CPU, as MPS has none."""
    return values.detach().cpu().double().numpy()


def numbered_pairs(
    predict: Predict, batches: Iterable[Batch], source: Source, on: torch.device
) -> Iterator[tuple[int, Pair]]:
    """What `predict` of a method finds beside the truth, with the position of each picture in the source."""
    for batch in batches:
        found = predict(batch.images.to(on))
        for i, name, instances in zip(batch.indices, batch.names, found, strict=True):
            yield i, pair(name, truth_of(source, i), instances)


def truth_of(source: Source, i: int) -> Targets:
    """As the file has it, which no transform has touched."""
    return source.data[i].labelled().truth() if isinstance(source, FileSource) else source[i].targets
