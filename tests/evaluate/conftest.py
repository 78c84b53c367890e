"""Random COCO data sets, and pycocotools as the oracle."""

import contextlib
import copy
import io

import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskwise.categories import Categories
from maskwise.evaluate.objects import Comparison, Found, Pair, Truth, mask_areas, mask_boxes


def _rle(bits):
    code = pycocotools.mask.encode(np.asfortranarray(bits, np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def _blob(rng, height, width):
    bits = np.zeros((height, width), bool)
    y, x = rng.integers(0, height), rng.integers(0, width)
    bits[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = True
    if rng.random() < 0.4:
        bits[rng.integers(0, height) :, rng.integers(0, width) :] ^= True
    return bits


def _data_set(seed, *, images=5, classes=3, objects=7, found=9, size=(36, 50), crowd=0.2, ties=True):
    """Sparse ids, an empty class, empty images, crowds, `area` unlike the mask, detections near and far."""
    rng = np.random.default_rng(seed)
    pictures = [
        {"id": int(i), "height": size[0], "width": size[1], "file_name": f"{i}.png"}
        for i in rng.choice(1000, images, replace=False)
    ]
    categories = [{"id": 7 * k + 3, "name": f"class {k}"} for k in range(classes)]
    annotations, results = [], []
    for picture in pictures:
        drawn = []
        for _ in range(rng.integers(0, objects + 1)):
            bits = _blob(rng, *size)
            label = int(rng.integers(0, max(1, classes - 1)))
            drawn.append((bits, label))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture["id"],
                    "category_id": categories[label]["id"],
                    "segmentation": _rle(bits),
                    "area": float(bits.sum() * rng.choice([1, 0.9, 3, 9])),
                    "bbox": _box(rng, bits),
                    "iscrowd": int(rng.random() < crowd),
                }
            )
        for _ in range(rng.integers(0, found + 1)):
            bits, label = _blob(rng, *size), int(rng.integers(0, classes))
            if drawn and rng.random() < 0.7:
                near, of = drawn[rng.integers(0, len(drawn))]
                bits = np.roll(near, rng.integers(-2, 3), axis=int(rng.integers(0, 2)))
                label = of if rng.random() < 0.8 else label
            score = float(rng.random())
            results.append(
                {
                    "image_id": picture["id"],
                    "category_id": categories[label]["id"],
                    "segmentation": _rle(bits),
                    "score": round(score, 1) if ties else score,
                }
            )
    return {"images": pictures, "annotations": annotations, "categories": categories}, results


def _box(rng, bits):
    x, y, w, h = pycocotools.mask.toBbox(pycocotools.mask.encode(np.asfortranarray(bits, np.uint8))).tolist()
    shift = round(float(rng.random()), 2)
    return [x + shift, y + shift, w, h]


def _pycocotools(truth, results, iou, kind=COCOeval, **params):
    """The evaluator, when it is done."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = kind(coco, coco.loadRes(copy.deepcopy(results)), iou)
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
        evaluator.accumulate()
        if not params:
            evaluator.summarize()
    return evaluator


def _comparison_of(*images, classes=1, size=(4, 10)):
    """Images drawn by hand, each a list of objects (bits, label, crowd) and a list of detections (bits, label, score);
    bits may be a slice of a row-major picture."""

    def masks(rows):
        bits = np.zeros((len(rows), *size), bool)
        for picture, row in zip(bits, rows, strict=True):
            picture.reshape(-1)[row[0].reshape(-1) if isinstance(row[0], np.ndarray) else row[0]] = True
        return tuple(_rle(b) for b in bits)

    def column(rows, i, dtype):
        return np.array([row[i] for row in rows], dtype)

    pairs = []
    for i, (truths, founds) in enumerate(images):
        true_masks, found_masks, scores = masks(truths), masks(founds), column(founds, 2, float)
        truth = Truth(
            size=size,
            labels=column(truths, 1, np.int64),
            boxes=mask_boxes(true_masks),
            areas=mask_areas(true_masks).astype(float),
            crowd=column(truths, 2, bool),
            masks=true_masks,
            keypoints=None,
            ids=tuple(range(len(truths))),
        )
        found = Found(
            labels=column(founds, 1, np.int64),
            boxes=mask_boxes(found_masks),
            scores=scores,
            quality=np.ones(len(founds)),
            mask_scores=scores,
            masks=found_masks,
            keypoints=None,
        )
        pairs.append(Pair(i, truth, found))
    return Comparison(categories=Categories(names=tuple("abcdefgh"[:classes])), pairs=tuple(pairs))


@pytest.fixture(scope="session")
def comparison_of():
    return _comparison_of


@pytest.fixture(scope="session")
def data_set():
    return _data_set


@pytest.fixture(scope="session")
def pycocotools_eval():
    return _pycocotools


@pytest.fixture(scope="session")
def rle():
    return _rle
