"""Cut, found and joined is what would have been found whole."""

import numpy as np
import pytest
import torch
from bright import Bright, found, picture, same
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.data.tiles import Tile, tiles
from maskwise.masks import Masks
from maskwise.predictions.tiles import Part, in_tiles, joined
from maskwise.structures import Instances

OBJECTS = {
    "inside one tile": (10, 10, 40, 40),
    "across a border": (50, 20, 90, 50),
    "across a corner": (50, 50, 100, 95),
    "inside the strip that two share": (52, 5, 60, 12),
    "over four tiles and more": (5, 60, 190, 140),
    "one pixel at a border": (63, 20, 64, 21),
    "a line through all": (0, 100, 200, 103),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_comes_out_whole_and_once(name):
    pixels = picture((160, 200), OBJECTS[name])
    joint = in_tiles(pixels, lambda parts: [found(p) for p in parts], side=64)
    assert same(joint, found(pixels))


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=8)
def test_tiles_make_no_difference_to_separate_objects(seed):
    rng = np.random.default_rng(seed)
    pixels = np.zeros((160, 200, 3), np.uint8)
    for row in range(4):
        for column in range(4):
            y, x = 38 * row + rng.integers(1, 8), 48 * column + rng.integers(1, 8)
            pixels[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = (200, 150, 0)
    joint = in_tiles(pixels, lambda parts: [found(p) for p in parts], side=int(rng.integers(50, 120)), overlap=25)
    whole = found(pixels)
    assert sorted(m["counts"] for m in joint.masks.rle()) == sorted(m["counts"] for m in whole.masks.rle())


def test_only_a_few_tiles_are_looked_at_together():
    finder = Bright()
    in_tiles(picture((160, 200)), finder.instances, side=64, batch=3)
    assert {len(call) for call in finder.calls} <= {3, 2, 1}
    assert sum(map(len, finder.calls)) == len(tiles((160, 200), 64, 16))


def part(tile, *rows):
    """Each row: x0, y0, x1, y1, label, score, and whether the tile cuts it."""
    masks = torch.zeros(len(rows), 100, 200, dtype=torch.bool)
    for mask, (x0, y0, x1, y1, *_) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    packed = Masks.from_dense(masks)
    scores = torch.tensor([float(row[5]) for row in rows])
    found = Instances(
        boxes=packed.boxes(), labels=torch.tensor([row[4] for row in rows]), scores=scores,
        quality=torch.ones(len(rows)), mask_scores=scores, masks=packed,
    )  # fmt: skip
    return Part(tile, found, np.array([row[6] for row in rows], bool))


LEFT, RIGHT = Tile(0, 0, 110, 100), Tile(90, 0, 200, 100)


@pytest.mark.parametrize(
    ("left", "right", "boxes"),
    [
        pytest.param((80, 10, 108, 30, 0, 0.6, 0), (90, 10, 108, 30, 0, 0.9, 1), [(80, 10, 108, 30)], id="whole wins"),
        pytest.param((92, 10, 104, 30, 0, 0.6, 0), (92, 10, 105, 30, 0, 0.9, 0), [(92, 10, 105, 30)], id="twins"),
        pytest.param((50, 10, 110, 30, 0, 0.6, 1), (90, 10, 150, 30, 0, 0.9, 1), [(50, 10, 150, 30)], id="halves"),
        pytest.param(
            (50, 10, 110, 30, 0, 0.6, 1),
            (90, 10, 150, 30, 1, 0.9, 1),
            [(50, 10, 110, 30), (90, 10, 150, 30)],
            id="classes",
        ),
        pytest.param(
            (50, 10, 110, 30, 0, 0.6, 1),
            (90, 30, 150, 50, 0, 0.9, 1),
            [(50, 10, 110, 30), (90, 30, 150, 50)],
            id="apart",
        ),
        pytest.param(
            (100, 10, 104, 14, 0, 0.6, 0),
            (90, 5, 150, 60, 0, 0.9, 1),
            [(90, 5, 150, 60), (100, 10, 104, 14)],
            id="in it",
        ),
    ],
)
def test_what_two_tiles_found_is_compared(left, right, boxes):
    joint = joined([part(LEFT, left), part(RIGHT, right)], (100, 200))
    assert sorted(tuple(b) for b in joint.boxes.int().tolist()) == sorted(boxes)
    assert (joint.mask_scores.diff() <= 0).all()


def test_a_joined_object_has_the_scores_of_its_best_part():
    joint = joined([part(LEFT, (50, 10, 110, 30, 1, 0.6, 1)), part(RIGHT, (90, 10, 150, 30, 1, 0.9, 1))], (100, 200))
    assert joint.scores.tolist() == pytest.approx([0.9])
    assert joint.masks.area().tolist() == [100 * 20]


def test_nothing_found_in_any_tile():
    assert len(in_tiles(picture((100, 100)), lambda parts: [found(p) for p in parts], side=64)) == 0
