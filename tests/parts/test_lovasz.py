"""The Lovász hinge: by hand, by its definition, and masks side by side."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskwise.parts.lovasz import hinge


def one(logits, truth):
    return hinge(torch.tensor(logits), torch.tensor(truth), torch.zeros(len(logits), dtype=torch.int64), 1)[0]


def by_definition(logits, truth):
    """The Jaccard loss of the pixels whose error exceeds t, over all t."""
    errors = [max(1 - x if t else 1 + x, 0) for x, t in zip(logits, truth, strict=True)]
    levels = sorted({0.0, *errors})
    total = 0.0
    for low, high in pairwise(levels):
        wrong = [e > low for e in errors]
        left = sum(t and not w for t, w in zip(truth, wrong, strict=True))
        union = sum(t or w for t, w in zip(truth, wrong, strict=True))
        total += (high - low) * (1 - left / union)
    return total


def test_three_pixels_by_hand():
    """Errors .5, 1.2, 1.4. From the worst: 1 of 2 left (.5), a surplus pixel (1 of 3: 2/3), none left (1).

    1.4 / 2 + 1.2 / 6 + .5 / 3.
    """
    logits = torch.tensor([0.5, 0.2, -0.4], requires_grad=True)
    truth = torch.tensor([True, False, True])
    value = hinge(logits, truth, torch.zeros(3, dtype=torch.int64), 1)
    assert value.item() == pytest.approx(0.7 + 0.2 + 0.5 / 3)
    value.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([-1 / 3, 1 / 6, -1 / 2]))


@given(st.lists(st.tuples(st.integers(-12, 12), st.booleans()), min_size=1, max_size=6))
def test_it_is_the_extension_of_the_jaccard_loss(pixels):
    logits, truth = [x / 8 for x, _ in pixels], [t for _, t in pixels]
    assert one(logits, truth).item() == pytest.approx(by_definition(logits, truth), abs=1e-5)


def test_right_and_sure_is_nothing_and_all_wrong_is_the_worst_error():
    assert one([1.0, -1.0, 2.0], [True, False, True]) == 0
    assert one([-1.0, 1.0], [True, False]) == pytest.approx(2)
    assert one([0.5, -0.5], [False, False]) == pytest.approx(1.5)  # a mask without pixels: its largest error
    assert hinge(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), 0).shape == (0,)


def test_masks_mixed_with_each_other_are_as_each_alone():
    torch.manual_seed(0)
    logits, truth, which = torch.randn(60), torch.rand(60) > 0.5, torch.randint(3, (60,))
    alone = [one(logits[which == k].tolist(), truth[which == k].tolist()) for k in range(3)]
    torch.testing.assert_close(hinge(logits, truth, which, 3), torch.stack(alone))


def test_what_is_nearly_right_may_be_left_out():
    torch.manual_seed(0)
    logits, truth = torch.randn(50).tolist(), (torch.rand(50) > 0.5).tolist()
    whole = one([*logits, *[-0.999] * 40], [*truth, *[False] * 40])
    assert 0 <= whole - one(logits, truth) < 0.001


def test_pixels_of_a_large_object_that_are_equally_wrong_are_taught_alike():
    """Missed, half of a million pixels: each counts as one of them, exactly."""
    logits, truth = torch.zeros(1_000_000, requires_grad=True), torch.arange(1_000_000) < 500_000
    value = hinge(logits + 0.1 * ~truth, truth, torch.zeros(1_000_000, dtype=torch.int64), 1)
    assert value.item() == pytest.approx(1.1 * 0.5 + 1.0 * 0.5, rel=1e-5)
    value.sum().backward()
    surplus_first = torch.full((500_000,), -1 / 1_000_000)
    torch.testing.assert_close(logits.grad[truth], surplus_first, rtol=1e-5, atol=0)
