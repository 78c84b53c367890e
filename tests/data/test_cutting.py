"""Cut into tiles and laid together again is what was there."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.data.cutting import Tiling, cut
from maskwise.data.dataset import Labelled, Scores
from maskwise.data.tiles import Tile, cut_from, name_of, tiles
from maskwise.masks import Masks
from maskwise.rle import Window
from maskwise.structures import Parts, Targets


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 120), st.floats(0, 0.9))
@settings(deadline=None, max_examples=60)
def test_tiles_cover_the_picture_and_overlap(height, width, side, share):
    overlap = int(side * share)
    cover = np.zeros((height, width), int)
    places = tiles((height, width), side, overlap)
    for t in places:
        assert 0 <= t.x0 < t.x1 <= width
        assert 0 <= t.y0 < t.y1 <= height
        assert t.size == (min(side, height), min(side, width))
        cover[t.y0 : t.y1, t.x0 : t.x1] += 1
    assert cover.min() >= 1
    for one, other in pairwise(places):
        if one.y0 == other.y0:
            assert one.x1 - other.x0 >= overlap


def test_an_overlap_of_a_whole_tile_is_refused():
    with pytest.raises(ValueError, match="tiles of 10 pixels cannot overlap by 10"):
        tiles((20, 20), 10, 10)


def test_names_are_unique_sort_as_tiles_lie_and_say_where():
    places = tiles((95, 1200), 90, 0)
    names = [name_of("a/slide 1.tif", tile, (95, 1200)) for tile in places]
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    assert names[1] == f"a/slide 1_y0000_x{places[1].x0:04}.png"
    assert [(int(n[-14:-10]), int(n[-8:-4])) for n in names] == [(t.y0, t.x0) for t in places]
    assert {cut_from(name) for name in names} == {"a/slide 1.png"}
    again = [name_of(name, tile, (90, 90)) for name in names for tile in tiles((90, 90), 50, 0)]
    assert {cut_from(name) for name in again} == {"a/slide 1.png"}
    assert cut_from("a_y0_x0_leftImg8bit_y00_x50_leftImg8bit.png") == cut_from("a_y0_x0_leftImg8bit.png") == "a.png"
    assert not any(cut_from(name) for name in ("a/slide 1.png", "a_y00_x00/b.png", "a_y_x.png", "a_y00_x00_b.png"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"side": 0}, "tile: .* at least 1 pixel .* got 0"),
        ({"side": 8, "overlap": 8}, "overlap: .* less than the tile of 8, got 8"),
        ({"side": 8, "overlap": -1}, "overlap: .* got -1"),
        ({"side": 8, "min_visible": 1.5}, "min-visible: .* 0 to 1, got 1.5"),
        ({"side": 8, "min_visible": float("nan")}, "min-visible: .* got nan"),
    ],
)
def test_tiles_that_cannot_be_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Tiling(**options)


def labelled(masks: Masks, **rest) -> Labelled:
    return Labelled(Targets.from_masks(masks, torch.arange(len(masks)), **rest), tuple(range(len(masks))))


def boxes(size: tuple[int, int], *corners: tuple[int, int, int, int]) -> Masks:
    windows = [Window(x0, y0, np.ones((y1 - y0, x1 - x0), bool)) for x0, y0, x1, y1 in corners]
    return Masks.of(windows, size)


def together(parts, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """What all tiles show of each instance, by its id, in the picture."""
    found: dict[int, np.ndarray] = {}
    for tile, read in parts:
        assert tuple(read.targets.masks.size) == tile.size
        dense = read.targets.masks.dense().numpy()
        for id_, label, mask in zip(read.ids, read.targets.labels.tolist(), dense, strict=True):
            assert label == id_
            assert mask.any()
            found.setdefault(id_, np.zeros(size, bool))[tile.y0 : tile.y1, tile.x0 : tile.x1] |= mask
    return found


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(8, 30), st.floats(0, 0.6))
@settings(deadline=None, max_examples=20)
def test_tiles_laid_together_are_the_picture(seed, size, side, share):
    rng = np.random.default_rng(seed)
    dense = rng.random((5, *size)) < rng.random((5, 1, 1)) ** 4
    dense[0, rng.integers(size[0]), rng.integers(size[1])] = True
    whole = Masks.from_dense(torch.from_numpy(dense))
    crowd = torch.from_numpy(rng.random(5) < 0.3)
    read = labelled(whole, crowd=crowd)
    tiling = Tiling(side=side, overlap=int(side * share))
    parts, losses = cut(read, tiling)
    assert [tile for tile, _ in parts] == tiles(size, side, int(side * share))
    found = together(parts, size)
    assert losses["instances without pixels"] == sum(not mask.any() for mask in dense)
    for i, mask in enumerate(dense):
        assert np.array_equal(found.get(i, np.zeros(size, bool)), mask)
    for tile, part in parts:
        shown = dense[:, tile.y0 : tile.y1, tile.x0 : tile.x1]
        assert sorted(part.ids) == np.flatnonzero(shown.any((1, 2))).tolist()
        assert torch.equal(part.targets.boxes, part.targets.masks.boxes())
        assert part.targets.crowd[crowd[list(part.ids)]].all(), "a crowd stays one"
    objects = {i for _, part in parts for i in part.targets.labels[~part.targets.crowd].tolist()}
    assert objects == {i for i, mask in enumerate(dense) if mask.any() and not crowd[i]}, "each is an object somewhere"


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 80), st.integers(0, 50), st.integers(20, 40))
@settings(deadline=None, max_examples=20)
def test_an_object_no_larger_than_the_overlap_is_whole_in_a_tile(width, height, x, y, side):
    size = (62, 92)
    read = labelled(boxes(size, (x, y, x + width, y + height)))
    parts, _ = cut(read, Tiling(side=side, overlap=12))
    areas = [int(part.targets.masks.area()) for _, part in parts if len(part.targets)]
    assert max(areas) == width * height


def test_small_pieces_are_crowds_and_those_of_the_share_are_not():
    """The border at column 100 leaves 1 of 99 pixels, 9 of 90, and 9 of 91."""
    masks = boxes((30, 200), (99, 0, 199, 1), (91, 10, 190, 11), (91, 20, 191, 21))
    parts, losses = cut(labelled(masks), Tiling(side=100, overlap=0, min_visible=0.1))
    (_, left), (_, right) = parts
    assert left.targets.masks.area().tolist() == [1, 9, 9]
    assert left.targets.crowd.tolist() == [True, False, True]
    assert right.targets.crowd.tolist() == [False, False, False]
    assert losses == {"remainders marked as crowds": 2}
    assert not cut(labelled(masks), Tiling(side=100, overlap=0, min_visible=0))[1]


def test_an_object_that_is_larger_than_all_tiles_stays_an_object():
    road = labelled(boxes((40, 4000), (0, 18, 4000, 22)))
    parts, losses = cut(road, Tiling(side=40, overlap=0))
    assert len(parts) == 100
    assert not losses
    assert not any(part.targets.crowd.any() for _, part in parts)


def test_of_predictions_small_pieces_are_left_out_and_scores_follow():
    masks = boxes((10, 20), (9, 0, 20, 1), (0, 5, 3, 6), (12, 5, 15, 6))
    scores = torch.tensor([0.2, 0.9, 0.5])
    read = replace(labelled(masks), scores=Scores(scores, scores / 2, scores / 3))
    parts, losses = cut(read, Tiling(side=10, overlap=0, min_visible=0.2))
    assert losses == {"remainders left out": 1}
    assert [part.ids for _, part in parts] == [(1,), (0, 2)]
    found = parts[1][1].instances()
    assert found.labels.tolist() == [2, 0]
    assert torch.equal(found.scores, torch.tensor([0.5, 0.2]))
    assert torch.equal(found.mask_scores, torch.tensor([0.5, 0.2]) / 3)


def test_keypoints_outside_of_the_tile_are_not_labelled():
    points = [[[2.5, 3.5, 2], [12.5, 3.5, 1], [0, 0, 0]], [[2.5, 1.5, 2], [12.5, 1.5, 2], [2.5, 9.5, 2]]]
    masks = boxes((10, 20), (0, 3, 20, 4), (0, 1, 3, 2))
    read = labelled(masks, keypoints=torch.tensor(points))
    parts, losses = cut(read, Tiling(side=10, overlap=0))
    (_, left), (_, right) = parts
    assert left.targets.keypoints.tolist() == [
        [[2.5, 3.5, 2], [0, 0, 0], [0, 0, 0]],
        [[2.5, 1.5, 2], [0, 0, 0], [2.5, 9.5, 2]],
    ]
    assert right.targets.keypoints.tolist() == [[[0, 0, 0], [2.5, 3.5, 1], [0, 0, 0]]]
    assert losses == {"keypoints outside of all tiles of their object": 1}


def test_keypoints_that_were_found_move_whatever_their_score():
    masks, scores = boxes((10, 20), (12, 3, 18, 6)), torch.ones(1)
    points = torch.tensor([[[13.0, 4, -2.5], [14, 5, 0], [3, 5, 4]]])
    read = replace(labelled(masks, keypoints=points), scores=Scores(scores, scores, scores))
    (_, _), (_, right) = cut(read, Tiling(side=10, overlap=0)).parts
    assert right.targets.keypoints.tolist() == [[[3, 4, -2.5], [4, 5, 0], [0, 0, 0]]]


def test_boxes_and_areas_of_the_file_are_kept_for_what_is_whole():
    masks = boxes((10, 20), (1, 1, 4, 4), (8, 5, 14, 9), (11, 1, 13, 3))
    read = labelled(masks, areas=torch.tensor([8.0, 48.0, 5.0]))
    stated = torch.tensor([[0.5, 0.5, 4.5, 4.5], [7.0, 4.0, 15.0, 10.0], [9.5, 0.5, 13.5, 3.5]])
    parts, _ = cut(replace(read, stated_boxes=stated), Tiling(side=10, overlap=0))
    (_, left), (_, right) = parts
    assert left.stated_boxes.tolist() == [[0.5, 0.5, 4.5, 4.5], [8, 5, 10, 9]]
    assert right.stated_boxes.tolist() == [[0, 5, 4, 9], [0, 0.5, 3.5, 3.5]]
    assert left.targets.areas.tolist() == [8, 16]
    assert right.targets.areas.tolist() == [32, 5]


def test_parts_depth_and_tracks_follow():
    masks = boxes((10, 20), (0, 0, 3, 3), (8, 0, 12, 4))
    parts = Parts(
        masks=boxes((10, 20), (0, 0, 1, 1), (8, 0, 9, 1), (8, 0, 11, 4)),
        labels=torch.tensor([5, 6, 7]),
        owner=torch.tensor([0, 1, 1]),
    )
    read = labelled(masks, parts=parts, depth=torch.tensor([4, 2]), tracks=torch.tensor([11, 12]))
    (_, _), (_, right) = cut(read, Tiling(side=10, overlap=0)).parts
    assert (right.targets.depth.tolist(), right.targets.tracks.tolist()) == ([2], [12])
    assert (right.targets.parts.labels.tolist(), right.targets.parts.owner.tolist()) == ([7], [0])
    assert right.targets.parts.masks.windows.tolist() == [[0, 0, 1, 4]]


def test_tiles_without_objects_are_left_out_if_that_is_asked():
    masks = boxes((10, 40), (0, 0, 3, 3), (12, 0, 14, 4))
    read = labelled(masks, crowd=torch.tensor([False, True]))
    assert len(cut(read, Tiling(side=10, overlap=0)).parts) == 4
    parts, losses = cut(read, Tiling(side=10, overlap=0, skip_empty=True))
    assert [tile for tile, _ in parts] == [Tile(0, 0, 10, 10)]
    assert losses == {"tiles without objects": 3}


def test_a_mosaic_costs_what_its_objects_cover():
    """500 objects in 529 tiles of 20,000 x 20,000 pixels: one row of bits of all of it would be 400 MB."""
    rng = np.random.default_rng(0)
    corners = [(int(x), int(y), int(x) + 40, int(y) + 40) for x, y in rng.integers(0, 19_960, (500, 2))]
    read = labelled(boxes((20_000, 20_000), *corners))
    parts, _ = cut(read, Tiling(side=1024, overlap=128))
    assert len(parts) == 529
    held = sum(part.targets.masks.bits.numel() for _, part in parts)
    assert 500 * 40 * 40 <= held < 2 * 500 * 40 * 40
