import inspect
import tracemalloc
from dataclasses import replace
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import ImageDraw

from maskwise.categories import Categories
from maskwise.data.synthetic.scenes import Scenes
from maskwise.draw import PALETTE, PAPER, QUALITY, colour, contact_sheet, overlay
from maskwise.masks import Masks
from maskwise.rle import Window
from maskwise.structures import Instances, Targets

NAMES = Categories(names=("cell", "Zellkern ü 核"))


def grey(h: int, w: int) -> np.ndarray:
    return np.full((h, w, 3), 128, np.uint8)


def truth(windows: list[Window], size: tuple[int, int], *, crowd: bool = False) -> Targets:
    n = len(windows)
    labels = torch.arange(n) % 2
    return Targets.from_masks(Masks.of(windows, size), labels, crowd=torch.full((n,), crowd))


def found(windows: list[Window], size: tuple[int, int], scores: list[float], quality: float = 1.0) -> Instances:
    masks = Masks.of(windows, size)
    rank = torch.tensor(scores)
    return Instances(
        boxes=masks.boxes(),
        labels=torch.zeros(len(windows), dtype=torch.int64),
        scores=rank,
        quality=torch.full_like(rank, quality),
        mask_scores=rank * quality,
        masks=masks,
    )


def block(x: int, y: int, w: int, h: int) -> Window:
    return Window(x, y, np.ones((h, w), bool))


def words_of(*args, **options) -> list[str]:
    """What the labels of an overlay say."""
    with patch.object(ImageDraw.ImageDraw, "text", autospec=True) as text:
        overlay(*args, **options)
    return [call.args[2].strip() for call in text.call_args_list]


def test_masks_are_tinted_and_the_rest_is_left_alone() -> None:
    pixels = grey(60, 80)
    drawn = overlay(pixels, truth([block(10, 20, 30, 20)], (60, 80)), NAMES, labels=False, fill=0.5)
    inside = np.zeros((60, 80), bool)
    inside[20:40, 10:40] = True
    assert (drawn[~inside] == 128).all()
    assert (drawn[20, 10:40] == PALETTE[0]).all()  # the contour
    half = np.add(PALETTE[0], 128) / 2
    assert np.abs(drawn[30, 20] - half).max() <= 1
    assert (pixels == 128).all()


def test_outlines_alone() -> None:
    drawn = overlay(grey(60, 80), truth([block(10, 20, 30, 20)], (60, 80)), NAMES, labels=False, fill=0)
    assert (drawn[30, 20] == 128).all()
    assert (drawn[39, 39] == PALETTE[0]).all()


def test_without_instances() -> None:
    for nothing in (Targets.none((30, 40)), Instances.none((30, 40))):
        assert (overlay(grey(30, 40), nothing, NAMES) == 128).all()


def test_one_pixel_in_the_corner() -> None:
    drawn = overlay(grey(30, 40), truth([block(39, 29, 1, 1)], (30, 40)), NAMES, labels=False)
    assert (drawn[29, 39] == PALETTE[0]).all()
    assert np.count_nonzero((drawn != 128).any(2)) == 1


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (30, 2000)])
def test_labels_never_leave_the_picture(size: tuple[int, int]) -> None:
    drawn = overlay(grey(*size), truth([block(0, 0, 1, 1)], size), NAMES)
    assert drawn.shape == (*size, 3)


def test_crowds_are_hatched() -> None:
    plain, hatched = (
        overlay(grey(200, 200), truth([block(20, 20, 160, 160)], (200, 200), crowd=crowd), NAMES, labels=False)
        for crowd in (False, True)
    )
    inner = (slice(40, 160), slice(40, 160))
    assert len(np.unique(plain[inner].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(hatched[inner].reshape(-1, 3), axis=0)) == 2
    share = (plain[inner] != hatched[inner]).any(2).mean()
    assert 0.25 < share < 0.42


def test_the_best_lies_on_top() -> None:
    windows = [block(10, 10, 20, 20), block(15, 15, 20, 20)]
    for order, top in (([0.9, 0.5], 0), ([0.5, 0.9], 1)):
        drawn = overlay(grey(50, 50), found(windows, (50, 50), order), NAMES, labels=False, fill=1.0)
        assert (drawn[20, 20] == PALETTE[top]).all()


def test_small_objects_lie_on_top_of_large_ones() -> None:
    windows = [block(20, 20, 5, 5), block(5, 5, 40, 40)]
    drawn = overlay(grey(50, 50), truth(windows, (50, 50)), NAMES, labels=False, fill=1.0)
    assert (drawn[22, 22] == PALETTE[0]).all()


@pytest.mark.parametrize(
    ("quality", "tone"),
    [(0.1, QUALITY[0]), (0.5, QUALITY[0]), (0.75, QUALITY[1]), (0.875, (138, 160, 130)), (1.0, QUALITY[2])],
)
def test_colours_by_quality(quality: float, tone: tuple[int, int, int]) -> None:
    instances = found([block(0, 0, 5, 5)], (50, 50), [0.9], quality)
    drawn = overlay(grey(50, 50), instances, NAMES, labels=False, fill=1.0, colours="quality")
    assert np.abs(np.subtract(drawn[2, 2], tone, dtype=int)).max() <= 1


def test_colours_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="colours: expected one of instance, class, part, quality, got 'foo'"):
        inspect.unwrap(overlay)(grey(9, 9), Targets.none((9, 9)), NAMES, colours="foo")


def test_the_truth_has_no_quality() -> None:
    with pytest.raises(ValueError, match="no quality to draw"):
        overlay(grey(9, 9), Targets.none((9, 9)), NAMES, colours="quality")


def test_colours_by_class_and_by_track() -> None:
    windows = [block(0, 0, 5, 5), block(10, 0, 5, 5), block(20, 0, 5, 5)]
    targets = truth(windows, (50, 50))
    drawn = overlay(grey(50, 50), targets, NAMES, labels=False, fill=1.0, colours="class")
    assert [tuple(drawn[2, x]) for x in (2, 12, 22)] == [PALETTE[0], PALETTE[1], PALETTE[0]]
    scenes = Scenes(mode="clip", frames=2)
    for frame in scenes.clip(3):
        drawn = overlay(frame.pixels, frame.targets, scenes.categories, labels=False, fill=1.0)
        assert frame.targets.tracks is not None
        for track, window in zip(frame.targets.tracks.tolist(), frame.targets.masks.crops(), strict=True):
            y, x = np.argwhere(window.bits)[0]
            assert tuple(drawn[window.y0 + y, window.x0 + x]) == colour(track)


def test_colours_are_far_apart() -> None:
    several = np.array([colour(k) for k in range(21)], float)
    assert min(np.abs(a - b).sum() for a, b in combinations(several, 2)) > 30
    assert colour(21) == colour(0)


def test_parts_and_keypoints() -> None:
    scenes = Scenes(mode="parts", count=(1, 1), radius=(20, 22))
    scene = scenes.scene(0)
    plain = overlay(
        scene.pixels, scene.targets, scenes.categories, labels=False, keypoints=False, fill=0, contour=False
    )
    assert np.array_equal(plain, scene.pixels)
    bones = overlay(scene.pixels, scene.targets, scenes.categories, labels=False, fill=0, contour=False)
    assert scene.targets.keypoints is not None
    for x, y, state in scene.targets.keypoints[0].tolist():
        if state:
            assert (bones[int(y), int(x)] != plain[int(y), int(x)]).any()
    coloured = overlay(
        scene.pixels, scene.targets, scenes.categories, labels=False, keypoints=False, fill=1.0, colours="part"
    )
    assert scene.targets.parts is not None
    shades = np.unique(coloured[scene.targets.masks.dense()[0].numpy()], axis=0)
    assert len(shades) == len(set(scene.targets.parts.labels.tolist()))
    with pytest.raises(ValueError, match="no parts"):
        overlay(grey(9, 9), Targets.none((9, 9)), NAMES, colours="part")


@pytest.mark.parametrize("far", [4000.0, 3e9, 1e38])
def test_a_keypoint_far_outside_costs_no_memory(far: float) -> None:
    """Files may have any number there. The bone to it is drawn as far as the picture goes."""
    named = Categories(names=("fly",), keypoints=("head", "tail"), skeleton=((0, 1),))
    targets = truth([block(10, 5, 20, 10)], (40, 60))
    points = torch.tensor([[[20.0, 10.0, 2.0], [far, far, 2.0]]])
    tracemalloc.start()
    drawn = overlay(grey(40, 60), replace(targets, keypoints=points), named, labels=False, fill=0, contour=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert (drawn[10, 20] == colour(0)).all()
    assert (drawn[39] != 128).any()


@pytest.mark.parametrize("odd", [(float("nan"), 5.0, 2.0), (5.0, 5.0, float("nan"))])
def test_a_keypoint_that_is_no_number_is_not_drawn(odd: tuple[float, float, float]) -> None:
    named = Categories(names=("fly",), keypoints=("head", "tail"), skeleton=((0, 1),))
    targets = truth([block(10, 5, 20, 10)], (40, 60))
    drawn = [
        overlay(grey(40, 60), replace(targets, keypoints=torch.tensor([[[20.0, 10.0, 2.0], other]])), named, fill=0)
        for other in (odd, (0.0, 0.0, 0.0))
    ]
    assert (drawn[0] == drawn[1]).all()


def test_labels_say_class_score_and_quality() -> None:
    windows = [block(10, 30, 60, 30), block(100, 90, 60, 30)]
    size = (200, 300)
    assert words_of(grey(*size), found(windows, size, [0.9, 0.5]), NAMES) == ["cell 0.90", "cell 0.50"]
    assert words_of(grey(*size), found(windows[:1], size, [0.9], 0.75), NAMES) == ["cell 0.90 q0.75"]
    assert set(words_of(grey(*size), truth(windows, size), NAMES)) == {"cell", "Zellkern ü 核"}
    assert words_of(grey(*size), truth(windows[:1], size, crowd=True), NAMES) == ["cell (crowd)"]


def test_labels_are_legible_and_do_not_cover_each_other() -> None:
    windows = [block(50, 50, 60, 60), block(52, 52, 60, 60), block(54, 54, 60, 60)]
    plain = overlay(grey(200, 200), found(windows, (200, 200), [0.9, 0.8, 0.7]), NAMES, labels=False)
    labelled = overlay(grey(200, 200), found(windows, (200, 200), [0.9, 0.8, 0.7]), NAMES)
    changed = (plain != labelled).any(2)
    one = overlay(grey(200, 200), found(windows[:1], (200, 200), [0.9]), NAMES)
    alone = (one != overlay(grey(200, 200), found(windows[:1], (200, 200), [0.9]), NAMES, labels=False)).any(2)
    assert changed.sum() > 2.6 * alone.sum()
    text = labelled[changed].astype(int)
    assert text.sum(1).min() < 100  # ink
    assert np.percentile(text.sum(1), 60) > 250  # on its ground


def test_zoom() -> None:
    scenes = Scenes()
    scene = scenes.scene(0)
    drawn = overlay(scene.pixels, scene.targets, scenes.categories, zoom=3, labels=False, fill=1.0, contour=False)
    assert drawn.shape == (384, 384, 3)
    once = overlay(scene.pixels, scene.targets, scenes.categories, labels=False, fill=1.0, contour=False)
    inside = scene.targets.masks.dense().numpy().any(0)
    assert np.array_equal(drawn[1::3, 1::3][inside], once[inside])


def test_a_mosaic_needs_memory_for_itself_alone() -> None:
    side = 6000
    pixels = np.zeros((side, side, 3), np.uint8)
    targets = truth([block(x, x, 50, 40) for x in range(0, side - 100, 30)], (side, side))
    tracemalloc.start()
    overlay(pixels, targets, NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * pixels.nbytes  # the result; dense masks would be 65 times as much


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(30, 41\)"):
        overlay(grey(30, 40), Targets.none((30, 41)), NAMES)
    with pytest.raises(ValueError, match="zoom"):
        overlay(grey(30, 40), Targets.none((30, 40)), NAMES, zoom=0)


def test_contact_sheet() -> None:
    pictures = [np.full((h, w, 3), value, np.uint8) for h, w, value in ((10, 10, 10), (100, 400, 90), (900, 30, 200))]
    sheet = contact_sheet(pictures, ["a", "ü" * 200, ""], columns=2, cell=100, gap=10)
    assert sheet.shape[1] == 230
    assert (sheet[0] == PAPER).all()
    assert (sheet[60, 60] == 10).all()
    assert (sheet[60, 170] == 90).all()
    assert (sheet[20, 170] == PAPER).all()  # a wide picture leaves room above and below
    caption = sheet[110 : sheet.shape[0] // 2, 120:220]
    assert caption.min() < 120
    assert (sheet[:, 220:] == PAPER).all()


def test_contact_sheet_without_captions() -> None:
    assert contact_sheet([grey(8, 8)] * 5, cell=20, gap=4).shape == (2 * 24 + 4, 3 * 24 + 4, 3)
    assert contact_sheet([grey(8, 8)], columns=6, cell=20, gap=4).shape == (28, 28, 3)


def test_contact_sheets_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 pictures but 1"):
        contact_sheet([grey(4, 4)] * 2, ["a"])
