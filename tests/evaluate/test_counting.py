import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.evaluate.counting import counting, errors
from maskwise.evaluate.files import compare
from maskwise.evaluate.objects import above


def test_by_hand():
    """Class 0: counts 3, 0, 1 and errors 1, 2, 0; class 1 is in no image, once claimed."""
    truth = np.array([[3, 0], [0, 0], [1, 0]])
    found = np.array([[4.0, 0], [2, 1], [1, 0]])
    table = errors(found, truth)
    assert table["RMSE"] == pytest.approx([math.sqrt((1 + 4 + 0) / 3), math.sqrt(1 / 3)])
    assert table["RMSE-nz"] == pytest.approx([math.sqrt((1 + 0) / 2), math.nan], nan_ok=True)
    assert table["relRMSE"] == pytest.approx([math.sqrt((1 / 4 + 4 / 1 + 0) / 3), math.sqrt(1 / 3)])
    assert table["relRMSE-nz"] == pytest.approx([math.sqrt((1 / 4) / 2), math.nan], nan_ok=True)


def test_estimates_are_rounded_and_never_below_zero():
    table = errors(np.array([[2.5], [1.49], [-3.0]]), np.array([[3], [1], [0]]))
    assert table["RMSE"].tolist() == [0]


def test_a_comparison_is_counted(comparison_of):
    """Image one: two and a crowd, three found, one of them weak. Image two: nothing there, one found."""
    a = slice(0, 5)
    images = (
        ([(a, 0, False), (a, 0, False), (a, 0, True)], [(a, 0, 0.9), (a, 0, 0.8), (a, 0, 0.1)]),
        ([], [(a, 0, 0.6)]),
    )
    comparison = comparison_of(*images)
    report = counting(comparison)
    assert report.policy == "counting"
    assert report.ground_truths == 2
    assert report.numbers == pytest.approx(
        {"mRMSE": 1, "mRMSE-nz": 1, "mrelRMSE": math.sqrt((1 / 3 + 1) / 2), "mrelRMSE-nz": math.sqrt(1 / 3)}
    )
    assert counting(above(comparison, 0.5)).numbers["mRMSE-nz"] == 0


def test_extremes(comparison_of):
    assert all(math.isnan(v) for v in counting(comparison_of()).numbers.values())
    empty = counting(comparison_of(([], []), classes=2))
    assert empty.numbers["mRMSE"] == 0
    assert math.isnan(empty.numbers["mRMSE-nz"])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_random_files_equal_plain_loops(seed, data_set):
    comparison = compare(*data_set(seed))
    per_class = []
    for label in range(3):
        squares = [
            (int((p.found.labels == label).sum()) - int((p.truth.labels[~p.truth.crowd] == label).sum())) ** 2
            for p in comparison.pairs
        ]
        per_class.append(math.sqrt(sum(squares) / len(squares)))
    assert counting(comparison).numbers["mRMSE"] == pytest.approx(sum(per_class) / 3)
