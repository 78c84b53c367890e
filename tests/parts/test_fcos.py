"""FCOS: who learns what, by hand and by its definition; its three losses; what is found."""

import math
from dataclasses import replace

import given
import pytest
import torch
from hypothesis import given as each
from hypothesis import strategies as st
from torch import distributed as dist

from maskwise.masks import Masks
from maskwise.parts import fcos
from maskwise.parts.fcos import (
    Head,
    HeadOutputs,
    assign,
    best_places,
    centreness,
    decode,
    detect,
    encode,
    locations,
    loss,
    mean_of_processes,
    overlap,
)
from maskwise.parts.matching import BACKGROUND
from maskwise.structures import Targets

FOUR = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
"""Two levels over 32 x 32 pixels."""


def here(limits=(16.0,)):
    return locations(FOUR, [8, 16], limits)


def targets(*rows, labels=None):
    return given.targets(*rows, labels=labels or [0] * len(rows))


def silent(classes=3, *, logit=-20.0):
    """A head that finds nothing in one picture."""
    maps = [torch.full((1, m, 20, 1), value) for m, value in ((classes, logit), (4, 0.0), (1, 0.0))]
    logits, distances, centre = (m[..., 0].mT.clone().requires_grad_() for m in maps)
    return HeadOutputs(logits, distances, centre[..., 0], [])


# --- locations


def test_locations_are_the_middles_of_cells():
    at = here()
    assert at.counts == (16, 4)
    assert at.points[[0, 1, 4, 16, 19]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8], [24, 24]]
    assert at.strides[[15, 16]].tolist() == [8, 16]
    assert at.least[[0, 16]].tolist() == [-1, 16]
    assert at.most[[0, 16]].tolist() == [16, math.inf]


corners = st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(1, 30), st.floats(1, 30))


@each(st.lists(corners, min_size=1, max_size=5))
def test_boxes_come_back_from_distances(several):
    box = torch.tensor(several)
    box[:, 2:] += box[:, :2]
    places = torch.arange(len(box)) * 3
    torch.testing.assert_close(decode(here(), places, encode(here(), places, box)), box)


# --- who learns what


def test_assignment_by_hand():
    """A box of 24 x 16: x from 0 to 24, y from 8 to 24, its middle at (12, 16).

    On the finer level points are at 4, 12, 20: those at y = 4 and 28 are outside. From (4, y) the right side is 20
    away, from (20, y) the left one: farther than 16. (12, 12) and (12, 20) stay. On the coarser one are (8, 8), on the
    upper side and so outside, and (8, 24), outside too; x = 24 is on the right side.
    """
    owner = assign(here(), targets((8, 24, 0, 24)))
    assert here().points[owner == 0].tolist() == [[12, 12], [12, 20]]
    wider = assign(here(limits=(12.0,)), targets((7, 26, 0, 24)))
    assert here().points[wider == 0].tolist() == [[8, 8], [8, 24]]


def test_the_radius_is_counted_in_strides():
    """A box over the whole picture: its middle is (16, 16)."""
    for radius, expected in ((0.4, 0), (1.0, 4), (1.5, 4), (1.6, 16)):
        owner = assign(here(limits=(64.0,)), targets((0, 32, 0, 32)), radius=radius)
        assert (owner == 0).sum() == expected


def test_the_smallest_of_several_objects_is_found_and_of_equal_ones_the_first():
    several = targets((0, 16, 0, 16), (2, 14, 2, 14), (2, 14, 2, 14), (3, 13, 20, 30))
    owner = assign(here(), several)
    assert owner.unique().tolist() == [BACKGROUND, 1, 3]
    assert (owner == 1).sum() == 4


def test_locations_beside_the_mask_find_nothing():
    ring = torch.zeros(1, 32, 32, dtype=torch.bool)
    ring[0, 2:22, 2:22] = True
    ring[0, 6:18, 6:18] = False
    several = Targets.from_masks(Masks.from_dense(ring), torch.tensor([0]))
    at = here(limits=(64.0,))
    everywhere, on_it = assign(at, several), assign(at, several, inside_mask=True)
    assert (everywhere == 0).sum() == 9
    assert torch.where((everywhere == 0) & (on_it == BACKGROUND))[0].tolist() == [5]  # (12, 12), in the hole
    assert (on_it == 0).sum() == 8


def test_many_objects_are_assigned_in_parts(monkeypatch):
    torch.manual_seed(0)
    low = torch.randint(0, 20, (30, 2))
    rows = [
        (y, y + h, x, x + w)
        for (y, x), (h, w) in zip(low.tolist(), torch.randint(1, 12, (30, 2)).tolist(), strict=True)
    ]
    several = targets(*rows)
    whole = assign(here(), several, inside_mask=True)
    monkeypatch.setattr(fcos, "PAIRS_AT_ONCE", 60)
    assert torch.equal(assign(here(), several, inside_mask=True), whole)
    assert len(whole.unique()) > 5


def test_without_objects_all_is_background():
    assert (assign(here(), Targets.none((32, 32)), inside_mask=True) == BACKGROUND).all()


# --- the best location of each object


def test_overlap_is_that_of_boxes():
    found, wanted = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]]), torch.tensor([[1.0, 1, 3, 1], [2, 2, 2, 2]])
    assert overlap(found, wanted).tolist() == [0.5, 1]
    assert overlap(torch.zeros(1, 4), wanted[:1]).tolist() == [0]


def test_each_object_has_the_location_whose_box_is_best():
    several = targets((0, 16, 0, 16), (3, 13, 20, 30), (31, 32, 31, 32))
    owner = assign(here(), several)
    right = torch.where(owner == 0)[0]
    found = torch.zeros(20, 4)
    found[right[2]] = encode(here(), right[2:3], several.boxes[:1])[0]
    which, places = best_places(found, here(), owner, several)
    assert which.tolist() == [0, 1]
    assert places.tolist() == [right[2].item(), torch.where(owner == 1)[0][0].item()]


# --- losses


def test_centreness_by_hand():
    assert centreness(torch.tensor([[1.0, 2, 4, 8], [3, 3, 3, 3]])).tolist() == pytest.approx([0.25, 1])


def test_losses_by_hand():
    """One positive location, in the middle of a box of 10 x 10 pixels, 0.625 strides from each side.

    Predicted is half of it on each side: IoU 1/4, and nothing is around both but the box itself. The focal loss at
    p = 1/2 of its class is .25 * (1/2)² * ln 2; of 59 other numbers it is .75 * sigma(-20)² * ..., nothing.
    """
    several, at, found = targets((7, 17, 7, 17), labels=[1]), here(), silent()
    owner = assign(at, several)
    assert torch.where(owner == 0)[0].tolist() == [5]
    with torch.no_grad():
        found.logits[0, 5, 1] = 0
        found.distances[0, 5] = 0.3125
        found.centre[0, 5] = math.log(3)
    losses = loss(found, at, [owner], [several])
    assert losses["class"].item() == pytest.approx(0.25 * 0.25 * math.log(2), rel=1e-5)
    assert losses["box"].item() == pytest.approx(0.75, rel=1e-5)
    assert losses["centreness"].item() == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_boxes_near_the_middle_count_more():
    """Two boxes that are wrong by 1 and 0: their mean, by centreness."""
    several, at, found = targets((8, 24, 0, 24)), here(), silent()
    several = replace(several, boxes=torch.tensor([[0.0, 9, 24, 24]]))
    owner = assign(at, several)
    first, second = torch.where(owner == 0)[0].tolist()
    with torch.no_grad():
        found.distances[0, second] = encode(at, torch.tensor([second]), several.boxes)[0]
    near = centreness(encode(at, torch.tensor([first, second]), several.boxes[[0, 0]]))
    found_loss = loss(found, at, [owner], [several])["box"]
    assert found_loss.item() == pytest.approx((near[0] / near.sum()).item(), rel=1e-4)


def test_without_objects_only_classes_are_learned():
    found = silent(logit=0.0)
    losses = loss(found, here(), [torch.full((20,), BACKGROUND)], [Targets.none((32, 32))])
    assert losses["class"].item() == pytest.approx(60 * 0.75 * 0.25 * math.log(2), rel=1e-5)
    assert losses["box"] == losses["centreness"] == 0
    sum(losses.values()).backward()


def test_losses_are_over_what_there_is_in_all_processes(monkeypatch):
    """Two of them: this one has 4, the other 8."""
    for name, answer in (("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.add_(8))
    values = torch.tensor([4.0])
    assert mean_of_processes(values).tolist() == [6]
    with torch.no_grad():
        assert mean_of_processes(values).tolist() == [4]
    assert values.tolist() == [4]


# --- the head


def test_a_new_head_thinks_that_all_is_background_and_has_a_scale_for_each_level():
    torch.manual_seed(0)
    head = Head(8, 3, levels=2, convolutions=1)
    found = head([torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)])
    assert found.logits.shape == (1, 20, 3)
    assert found.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)
    assert (found.distances >= 0).all()
    found.distances[:, 16:].sum().backward()
    assert head.scales.grad[0] == 0
    assert head.scales.grad[1] != 0


# --- what is found


def certain(**values):
    """Nothing but class `label` with probability `p` and centreness 1/2 at each given place, of boxes of 10 x 10."""
    found = silent()
    with torch.no_grad():
        found.distances[:] = 5 / here().strides[:, None]
        for place, (label, p) in values.items():
            found.logits[0, int(place[1:]), label] = math.log(p / (1 - p))
    return found


OPTIONS = {"min_score": 0.05, "per_level": 100, "nms_iou": 0.6, "most": 100}


def test_scores_are_probabilities_times_centreness_and_only_the_former_must_be_enough():
    found = detect(certain(_5=(1, 0.8), _10=(2, 0.06), _0=(0, 0.04)), here(), [(32, 32)], **OPTIONS)[0]
    assert found.scores.tolist() == pytest.approx([0.4, 0.03], rel=1e-4)
    assert found.labels.tolist() == [1, 2]
    assert found.places.tolist() == [5, 10]
    assert found.boxes.tolist() == [[7, 7, 17, 17], [15, 15, 25, 25]]


def test_boxes_end_with_the_picture_and_those_beside_it_are_dropped():
    found = detect(certain(_3=(1, 0.8), _2=(1, 0.7)), here(), [(20, 21)], **OPTIONS)[0]
    assert found.boxes.tolist() == [[15, 0, 21, 9]]


def test_each_level_has_its_best_and_all_of_them_the_best_of_these():
    several = {"_0": (0, 0.9), "_3": (0, 0.8), "_12": (0, 0.7), "_16": (1, 0.2), "_19": (1, 0.1)}
    found = detect(certain(**several), here(), [(32, 32)], **OPTIONS | {"per_level": 1})[0]
    assert found.places.tolist() == [0, 16]
    found = detect(certain(**several), here(), [(32, 32)], **OPTIONS | {"most": 4})[0]
    assert found.places.tolist() == [0, 3, 12, 16]


def test_of_boxes_that_overlap_the_best_of_each_class_stays():
    found = certain(_0=(0, 0.9), _16=(0, 0.8))
    with torch.no_grad():
        found.distances[0, 16] = torch.tensor([9.0, 9, 1, 1]) / 16
        found.logits[0, 16, 1] = 0
    first, second = detect(found, here(), [(32, 32)], **OPTIONS)[0].labels.tolist()
    assert (first, second) == (0, 1)
