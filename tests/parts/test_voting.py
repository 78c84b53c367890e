"""Whose masks count, and what their mean is."""

import pytest
import torch

from maskwise.masks import Masks
from maskwise.parts.voting import Survivors, means, shares, survivors

THREE = torch.tensor([[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4]])
"""The first overlaps the second with IoU 12 / 20, the third with 8 / 24."""


def only(*which, label=0):
    return Survivors(torch.tensor(which), torch.full((len(which),), label), torch.ones(len(which)))


def test_three_boxes_by_hand():
    """The first is the surest and suppresses both others (0.3); of these only the second votes (0.5).

    Shares .6 : .3, that is 2/3 and 1/3. Its mask is .3 everywhere, the second's .9, one column further to the right:
    .2 in the first column, .5 in the next three, .3 in the last. At .4 the three remain.
    """
    scores = torch.tensor([[0.6, 0.01], [0.3, 0.2], [0.5, 0.01]])
    found = survivors(THREE, scores, min_score=0.05, nms_iou=0.3, most=10)
    assert found.which.tolist() == [0, 1]
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.6, 0.2])
    votes = shares(THREE, scores, found, least_iou=0.5)
    torch.testing.assert_close(votes, torch.tensor([[2 / 3, 1 / 3, 0], [1 / 22, 20 / 22, 1 / 22]]))
    drawn = torch.tensor([0.3, 0.9, 1.0])[:, None, None].expand(3, 4, 4)
    masks = means(drawn, THREE, votes, (8, 8), threshold=0.4)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, 1:4] = True
    assert torch.equal(masks.dense()[0], expected)
    expected[:4, 4] = True  # 20/22 * .9 where the second is alone with a little of the third
    assert torch.equal(masks.dense()[1], expected)


def test_a_vote_without_others_is_the_mask_as_it_is_pasted():
    torch.manual_seed(0)
    boxes = torch.rand(20, 4) * torch.tensor([40, 30, 40, 30])
    boxes[:, 2:] += boxes[:, :2]
    boxes = torch.cat([boxes, torch.tensor([[-5.0, -3, 90, 70], [3, 4, 3.2, 9], [60, 50, 64, 48], [5, 5, 5, 5]])])
    drawn = torch.rand(len(boxes), 7, 7)
    masks = means(drawn, boxes, torch.eye(len(boxes)), (48, 64), threshold=0.4)
    assert torch.equal(masks.dense(), Masks.paste(drawn, boxes, (48, 64), threshold=0.4).dense())
    assert masks.area()[:20].all()


def test_the_mean_is_that_of_whole_pictures():
    torch.manual_seed(0)
    boxes = torch.tensor([[3.3, 4, 40, 31], [5, 1, 44.7, 30], [0, 6, 39, 36]])
    drawn, votes = torch.rand(3, 28, 28), torch.tensor([[0.5, 0.3, 0.2], [0, 0.6, 0.4]])
    levels = [i / 100 for i in range(1, 100)]
    whole = torch.stack([Masks.paste(drawn, boxes, (48, 64), threshold=t).dense().float() for t in levels]).mean(0)
    masks = means(drawn, boxes, votes, (48, 64), threshold=0.4).dense()
    for mask, vote in zip(masks, votes, strict=True):
        mean = (vote[:, None, None] * whole).sum(0)
        assert mask[mean > 0.43].all()
        assert not mask[mean < 0.37].any()


def test_a_box_without_area_votes_for_itself():
    boxes = torch.tensor([[5.0, 5, 5, 5], [0, 0, 10, 10]])
    votes = shares(boxes, torch.tensor([[0.5], [0.4]]), only(0, 1), least_iou=0.5)
    torch.testing.assert_close(votes, torch.eye(2))


def test_nothing_survives_and_nothing_is_drawn():
    found = survivors(torch.zeros(0, 4), torch.zeros(0, 3), min_score=0.0, nms_iou=0.3, most=10)
    votes = shares(torch.zeros(0, 4), torch.zeros(0, 3), found, least_iou=0.5)
    masks = means(torch.zeros(0, 7, 7), torch.zeros(0, 4), votes, (8, 8), threshold=0.4)
    assert (len(masks), masks.size) == (0, (8, 8))


def test_no_more_than_asked_for_and_the_best_first():
    scores = torch.tensor([[0.1, 0.3], [0.2, 0.9], [0.6, 0.4]])
    found = survivors(THREE * 100, scores, min_score=0.05, nms_iou=0.9, most=4)
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.4, 0.3])
    assert found.which.tolist() == [1, 2, 2, 0]
    assert found.labels.tolist() == [1, 0, 1, 1]
