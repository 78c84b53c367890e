import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.coco import COCO
from maskwise.evaluate.files import compare
from maskwise.evaluate.recall import area_under, recall


@pytest.mark.parametrize("iou", [pytest.param("bbox", marks=pytest.mark.long), "segm"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_pycocotools_without_classes(iou, seed, data_set, pycocotools_eval):
    truth, results = data_set(seed, found=25)
    if results:
        oracle = pycocotools_eval(truth, results, iou, useCats=0, maxDets=[10, 100, 1000]).eval["recall"]
        numbers = recall(compare(truth, results, iou), iou).numbers
        for a, size in enumerate(("", "s", "m", "l")):
            for m, most in enumerate((10, 100, 1000)):
                expected = oracle[:, 0, a, m].mean()
                assert np.nan_to_num(numbers[f"AR{size}{most}"], nan=-1) == pytest.approx(expected, abs=1e-12)


def test_area_under_by_hand():
    """AR .2, .4, .5 at 10, 100, 1000: the means .3 and .45 of two equally wide steps."""
    assert area_under([0.2, 0.4, 0.5], [10, 100, 1000]) == pytest.approx(0.375)
    assert area_under([0.3, 0.3], [1, 7]) == pytest.approx(0.3)
    assert area_under([0.3], [100]) == 0.3


def test_classes_play_no_part(data_set):
    truth, results = data_set(2, images=8)
    first = truth["categories"][0]["id"]
    merged = [entry | {"category_id": first} for entry in results]
    assert str(recall(compare(truth, results)).numbers) != str(recall(compare(truth, [])).numbers)
    one_class = truth | {"annotations": [a | {"category_id": first} for a in truth["annotations"]]}
    reports = [recall(compare(*pair), "boundary") for pair in ((truth, merged), (one_class, merged))]
    assert reports[0].ground_truths == reports[1].ground_truths
    assert list(reports[0].numbers)[:4] == ["AR10", "AR100", "AR1000", "AUC"]


def test_settings_with_classes_are_refused(data_set):
    with pytest.raises(ValueError, match="class_agnostic must be True"):
        recall(compare(*data_set(2)), "segm", COCO)
