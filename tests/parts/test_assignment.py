"""Soft overlaps by hand, and assignments against all others."""

from itertools import permutations
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskwise.parts.assignment import assign, soft_iou
from maskwise.parts.label_maps import NOBODY


def one(*rows):
    return assign(torch.tensor([rows]))[0].tolist()


# --- overlaps


def test_soft_overlap_by_hand():
    """p = .5, 1, .25. With the first two pixels: 1.5 / (1.75 + 2 - 1.5); with the last: .25 / (1.75 + 1 - .25)."""
    drawn, truth = torch.tensor([[0.5, 1.0, 0.25]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(soft_iou(drawn, truth), torch.tensor([[1.5 / 2.25, 0.25 / 2.5]]))


def test_of_masks_that_are_sure_it_is_the_iou():
    torch.manual_seed(0)
    drawn, truth = torch.rand(3, 50) > 0.5, torch.rand(4, 50) > 0.5
    either, both = ((op(drawn[:, None], truth)).sum(2) for op in (torch.logical_or, torch.logical_and))
    torch.testing.assert_close(soft_iou(drawn.float(), truth.float()), both / either)


def test_its_gradient_by_hand():
    """a = .5 on the object's only pixel, b = .5 beside it: I = a / (1 + b), dI/da = 1 / 1.5, dI/db = -a / 1.5²."""
    drawn = torch.tensor([[0.5, 0.5]], requires_grad=True)
    soft_iou(drawn, torch.tensor([[1.0, 0.0]])).sum().backward()
    torch.testing.assert_close(drawn.grad, torch.tensor([[1 / 1.5, -0.5 / 1.5**2]]))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_an_object_without_pixels_teaches_nothing(value):
    """Zero, and with no gradient: whatever is drawn where there is nothing, overlap alone never takes it back."""
    drawn = torch.full((1, 6), value, requires_grad=True)
    overlap = soft_iou(drawn, torch.zeros(1, 6))
    overlap.sum().backward()
    assert overlap.item() == 0
    assert not drawn.grad.any()


# --- assignments


def test_the_cheapest_choice_is_not_each_ones_cheapest():
    assert one([1.0, 2.0], [2.0, 9.0]) == [1, 0]


tables = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(-20, 20), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def total(rows, objects):
    return sum(row[k] for row, k in zip(rows, objects, strict=True) if k != NOBODY)


@given(tables)
def test_no_other_choice_is_cheaper(rows):
    """All predictions have an object, or all objects a prediction."""
    predictions, count = len(rows), len(rows[0])
    found = one(*[[float(v) for v in row] for row in rows])
    pairs = [k for k in found if k != NOBODY]
    assert len(pairs) == len(set(pairs)) == min(predictions, count)
    places = [*range(count)] + [NOBODY] * max(predictions - count, 0)
    assert total(rows, found) == min(total(rows, other) for other in permutations(places, predictions))


def test_pairs_that_cost_infinity_are_never_made():
    assert one([inf, 5.0], [inf, 1.0]) == [NOBODY, 1]
    assert one([inf, inf]) == [NOBODY]


def test_as_many_pairs_as_can_be_come_before_what_they_cost():
    assert one([0.0, 50.0], [50.0, inf]) == [1, 0]
    assert one([-9.0, 50.0, inf], [50.0, inf, inf], [inf, -9.0, 50.0]) == [1, 0, 2]


def test_a_cost_that_is_no_number_is_the_last_choice_but_one():
    assert one([nan, 5.0], [1.0, 1.0]) == [1, 0]
    assert one([nan, nan], [nan, nan]) == [0, 1]
    assert one([nan, inf], [inf, inf]) == [0, NOBODY]
    assert one([nan, -inf]) in ([0], [1])


def test_pictures_of_a_batch_are_assigned_each_for_itself():
    cost = torch.tensor([[[1.0, 2.0, inf], [2.0, 9.0, inf]], [[inf] * 3, [3.0, inf, 1.0]]])
    assert assign(cost).tolist() == [[1, 0], [NOBODY, 2]]


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 0, 0)])
def test_nothing_to_assign(shape):
    found = assign(torch.zeros(shape))
    assert found.shape == shape[:2]
    assert (found == NOBODY).all()


def test_it_takes_no_gradient():
    cost = torch.rand(1, 2, 2, requires_grad=True)
    assert not assign(cost).requires_grad
