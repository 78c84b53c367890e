import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskwise import rle
from maskwise.data.images import read_image
from maskwise.data.open import open_data
from maskwise.data.source import FileSource, as_one
from maskwise.evaluate import validation
from maskwise.evaluate.coco import coco
from maskwise.evaluate.files import compare
from maskwise.evaluate.structures import pair, truth_of
from maskwise.evaluate.structures import truth as as_truth
from maskwise.masks import Masks
from maskwise.report.judged import pictures
from maskwise.structures import Instances, Targets

SIZE = (4, 10)


def found(**columns):
    masks = Masks.from_dense(torch.ones(2, *SIZE, dtype=torch.bool))
    one = torch.ones(2)
    columns = {"scores": one, "quality": one, "mask_scores": one} | columns
    return Instances(boxes=masks.boxes(), labels=torch.zeros(2, dtype=torch.int64), masks=masks, **columns)


@pytest.mark.parametrize("column", ["scores", "quality", "mask_scores"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(column, value):
    """It has no place in a ranking; files with such a score are refused as well."""
    with pytest.raises(ValueError, match=rf"a\.png: {column} must be finite numbers, 1 of 2 are not"):
        pair("a.png", Targets.none(SIZE), found(**{column: torch.tensor([0.5, value])}))


class OnMac(torch.Tensor):
    """Stands for one in the memory of Apple's GPU, which has no float64, not even on the way to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs)
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.double):
            if result.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            return result.as_subclass(torch.Tensor)
        return result


def test_what_was_found_on_a_mac_is_judged():
    score = torch.full((2,), 0.5)
    both = pair("a.png", Targets.none(SIZE), found(scores=score.as_subclass(OnMac)))
    assert both.found.scores.dtype == np.float64
    assert both.found.scores.tolist() == [0.5, 0.5]


def test_masks_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"a\.png: masks found for \(4, 10\), the truth is \(5, 10\)"):
        pair("a.png", Targets.none((5, 10)), found())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_truth_that_training_judges_by_is_that_of_the_file(seed, data_set, tmp_path_factory):
    """Boxes as stated, which need not be tight, and of masks where none is stated or it is none."""
    truth, _ = data_set(seed, images=3)
    for i, annotation in enumerate(truth["annotations"]):
        annotation |= ({}, {}, {"bbox": None}, {"bbox": []})[i % 4]
    path = tmp_path_factory.mktemp("data") / "truth.json"
    path.write_text(json.dumps(truth))
    source = FileSource(open_data(path))
    read = {source.data[i].id: truth_of(source, i) for i in range(len(source))}
    ids = sorted(picture["id"] for picture in truth["images"])
    for id_, expected in zip(ids, (both.truth for both in compare(truth, []).pairs), strict=True):
        found = as_truth(read[id_])
        assert found.boxes.tolist() == expected.boxes.tolist()
        np.testing.assert_allclose(found.areas, expected.areas)
        for name in ("labels", "crowd", "masks", "size"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_what_is_learned_from_is_the_box_of_the_mask(data_set, tmp_path):
    truth, _ = data_set(2, crowd=0)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    data = as_one(FileSource(open_data(path)))
    for i in range(len(data)):
        targets = data.data[i].labelled().targets
        assert targets.boxes.equal(targets.masks.boxes())
        assert not len(targets) or not truth_of(data, i).boxes.equal(targets.boxes.double())


class Sure(torch.nn.Module):
    """Finds the upper rows of every picture, and is always as sure of it."""

    view, device = (), torch.device("cpu")

    def __init__(self, categories):
        super().__init__()
        self.module, self.categories = self, categories

    def predict(self, images):
        return [found()[:1] for _ in images.sizes]


def test_of_equal_scores_those_of_the_lowest_picture_id_come_first_as_in_files(tmp_path):
    """The files of COCO themselves list pictures in no order."""
    upper, lower = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    lower[2:] = True
    codes = rle.encode([rle.Window(0, 0, bits) for bits in (lower, upper)], SIZE)
    rows = [{"id": i, "image_id": i, "category_id": 1, "segmentation": codes[i - 1]} for i in (1, 2)]
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (2, 1)],
        "annotations": [row | {"area": 9, "bbox": [0, 0, 10, 4], "iscrowd": 0} for row in rows],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for i in (1, 2):
        Image.new("L", SIZE[::-1], i).save(tmp_path / f"{i}.png")
    source = FileSource(open_data(tmp_path / "truth.json"))
    comparison, failures = validation.compare(Sure(source.data.categories), source, source.data.categories)
    assert not failures
    assert [both.image for both in comparison.pairs] == ["1.png", "2.png"]
    from_files = compare(truth, validation.results(comparison, [1, 2]))
    assert coco(comparison).numbers == pytest.approx(coco(from_files).numbers, nan_ok=True)
    shown = pictures(source, comparison)
    for name in ("1.png", "2.png"):
        np.testing.assert_array_equal(shown(name), read_image(tmp_path / name))
