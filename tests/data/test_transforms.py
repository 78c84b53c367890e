"""Everything in a sample moves together: dense masks moved by torch are the reference."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.data import geometry, transforms
from maskwise.data.chance import generator
from maskwise.data.copy_paste import CopyPaste, paste
from maskwise.data.sample import Sample
from maskwise.masks import Masks
from maskwise.structures import Parts, Targets

properties = settings(deadline=None, max_examples=25)
KEYPOINTS = (0, 2, 1)


def make_sample(seed, size=(24, 31), count=4, *, everything=True, floats=False):
    """Noise with random rectangles; the label of an instance is its number, so that fields can be matched."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((count, *size), bool)
    for bits in dense:
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        bits[y : y + rng.integers(1, size[0] + 1), x : x + rng.integers(1, size[1] + 1)] = True
        bits[y + 1 :, x + 2 :] &= rng.random() < 0.7
    masks = Masks.from_dense(torch.from_numpy(dense))
    targets = Targets.from_masks(masks, torch.arange(count), crowd=torch.from_numpy(rng.random(count) < 0.2))
    if everything:
        points = torch.from_numpy(rng.random((count, 3, 3)).astype(np.float32))
        points *= torch.tensor([size[1], size[0], 1.0])
        points[..., 2] = torch.from_numpy(rng.integers(0, 3, (count, 3)))
        points[points[..., 2] == 0] = 0
        targets = replace(
            targets,
            areas=masks.area().float(),
            keypoints=points,
            depth=torch.arange(count),
            tracks=torch.arange(count) + 10,
            parts=Parts(masks=masks, labels=torch.arange(count) % 3, owner=torch.arange(count)),
        )
    pixels = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
    return Sample(pixels=pixels.float() / 255 if floats else pixels, targets=targets, name=f"sample {seed}")


def disc_sample(size=(80, 100), at=(40, 50), radius=20):
    """A white disc on black: what the pixels show is the mask."""
    y, x = np.mgrid[: size[0], : size[1]]
    bits = torch.from_numpy((y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2)
    targets = Targets.from_masks(Masks.from_dense(bits[None]), torch.zeros(1, dtype=torch.int64))
    return Sample(pixels=(bits * 255).to(torch.uint8).expand(3, -1, -1).contiguous(), targets=targets, name="disc")


def same(a, b):
    assert torch.equal(a.pixels, b.pixels)
    assert (a.scale, a.lost, a.size) == (b.scale, b.lost, b.size)
    same_targets(a.targets, b.targets)


def same_targets(a, b):
    assert torch.equal(a.masks.dense(), b.masks.dense())
    for name in ("boxes", "labels", "crowd", "areas", "keypoints", "depth", "tracks"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        assert x is None or torch.allclose(x, y, atol=1e-4), name
    if a.parts is not None:
        assert torch.equal(a.parts.masks.dense(), b.parts.masks.dense())
        assert a.parts.owner.tolist() == b.parts.owner.tolist()
        assert a.parts.labels.tolist() == b.parts.labels.tolist()


def holds_together(before, after):
    """Fields still belong to the instances they came with, boxes are tight, nothing is empty, losses are counted."""
    targets = after.targets
    assert torch.equal(targets.boxes, targets.masks.boxes())
    assert bool((targets.masks.area() > 0).all())
    assert len(before.targets) - len(targets) == sum(v for k, v in after.lost.items())
    assert torch.equal(targets.crowd, before.targets.crowd[targets.labels])
    if targets.depth is not None:
        assert torch.equal(targets.depth, targets.labels)
        assert torch.equal(targets.tracks, targets.labels + 10)
        inside = set(range(len(targets)))
        assert set(targets.parts.owner.tolist()) == inside, "each part here is the whole instance"
        assert torch.equal(targets.parts.masks.dense(), targets.masks.dense()[targets.parts.owner])


# Makers and not samples: what checks shapes draws from `random`, which hypothesis forbids in a strategy.
samples = st.builds(
    partial,
    st.just(make_sample),
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 5),
    everything=st.booleans(),
    floats=st.booleans(),
)


# Geometry


@properties
@given(samples)
def test_flips_undo_themselves(make):
    sample = make()
    for flip in (geometry.flip_horizontal, geometry.flip_vertical):
        once = flip(sample, keypoints=KEYPOINTS)
        holds_together(sample, once)
        same(flip(once, keypoints=KEYPOINTS), sample)


@properties
@given(samples)
def test_flips_and_turns_are_those_of_torch(make):
    sample = make()
    dense = sample.targets.masks.dense()
    right = geometry.flip_horizontal(sample, keypoints=KEYPOINTS)
    assert torch.equal(right.targets.masks.dense(), dense.flip(2))
    assert torch.equal(right.pixels, sample.pixels.flip(2))
    down = geometry.flip_vertical(sample, keypoints=KEYPOINTS)
    assert torch.equal(down.targets.masks.dense(), dense.flip(1))
    assert torch.equal(down.pixels, sample.pixels.flip(1))
    for quarters in range(5):
        turned = geometry.rotate(sample, quarters)
        holds_together(sample, turned)
        assert torch.equal(turned.targets.masks.dense(), dense.rot90(quarters, (1, 2)))
        assert torch.equal(turned.pixels, sample.pixels.rot90(quarters, (1, 2)))


@properties
@given(samples)
def test_four_quarters_are_nothing(make):
    sample = make()
    turned = sample
    for _ in range(4):
        turned = geometry.rotate(turned, 1)
    same(turned, sample)
    same(geometry.rotate(sample, -3), geometry.rotate(sample, 1))


@properties
@given(samples)
def test_both_flips_are_half_a_turn(make):
    sample = make()
    both = geometry.flip_vertical(geometry.flip_horizontal(sample, keypoints=KEYPOINTS), keypoints=KEYPOINTS)
    same(both, geometry.rotate(sample, 2))


@properties
@given(samples, st.tuples(st.integers(1, 70), st.integers(1, 70)))
def test_resize_is_the_nearest_of_the_dense_masks(make, size):
    sample = make()
    resized = geometry.resize(sample, size)
    holds_together(sample, resized)
    dense = sample.targets.masks.dense()
    rows, columns = (np.floor((np.arange(new) + 0.5) * old / new) for old, new in zip(sample.size, size, strict=True))
    expected = dense[:, torch.from_numpy(rows).long()][:, :, torch.from_numpy(columns).long()]
    seen = expected.flatten(1).any(1)
    assert torch.equal(resized.targets.masks.dense(), expected[seen])
    assert resized.size == size
    assert resized.original == sample.original == sample.size
    assert resized.lost.get("without pixels after resizing", 0) == int((~seen).sum())


@properties
@given(samples, st.integers(-20, 45), st.integers(-20, 45), st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_crop_shows_what_the_frame_shows(make, x0, y0, size):
    sample = make()
    cut = geometry.crop(sample, x0, y0, size)
    holds_together(sample, cut)
    padded = torch.nn.functional.pad(sample.targets.masks.dense(), (50, 100, 50, 100))
    expected = padded[:, y0 + 50 : y0 + 50 + size[0], x0 + 50 : x0 + 50 + size[1]]
    assert torch.equal(cut.targets.masks.dense(), expected[cut.targets.labels])
    grey = torch.tensor(128 if sample.pixels.dtype == torch.uint8 else 0.5, dtype=sample.pixels.dtype)
    frame = torch.nn.functional.pad(sample.pixels.double(), (50, 100, 50, 100), value=float(grey))
    shown = frame[:, y0 + 50 : y0 + 50 + size[0], x0 + 50 : x0 + 50 + size[1]]
    assert torch.equal(cut.pixels.double(), shown)
    if cut.targets.areas is not None:
        assert torch.allclose(cut.targets.areas, cut.targets.masks.area().float())


def test_keypoints_move_and_left_becomes_right():
    sample = make_sample(0, (20, 30), 1)
    points = torch.tensor([[[10.0, 5.0, 2.0], [3.0, 4.0, 1.0], [0.0, 0.0, 0.0]]])
    sample = replace(sample, targets=replace(sample.targets, keypoints=points))
    flipped = geometry.flip_horizontal(sample, keypoints=KEYPOINTS).targets.keypoints
    assert flipped.tolist() == [[[20, 5, 2], [0, 0, 0], [27, 4, 1]]]
    assert geometry.rotate(sample, 1).targets.keypoints.tolist() == [[[5, 20, 2], [4, 27, 1], [0, 0, 0]]]
    grown = geometry.resize(sample, (40, 90)).targets.keypoints
    assert grown.tolist() == [[[30, 10, 2], [9, 8, 1], [0, 0, 0]]]
    full = Masks.from_dense(torch.ones(1, 20, 30, dtype=torch.bool))
    targets = Targets.from_masks(full, torch.zeros(1, dtype=torch.int64), keypoints=points)
    whole = replace(sample, targets=targets)
    assert geometry.crop(whole, 4, 0, (20, 20)).targets.keypoints.tolist() == [[[6, 5, 2], [0, 0, 0], [0, 0, 0]]]


def test_a_mirror_that_does_not_know_left_from_right_refuses():
    with pytest.raises(ValueError, match="each of 3 keypoints becomes, got 0"):
        geometry.flip_horizontal(make_sample(0))
    with pytest.raises(ValueError, match="label 2, the mirror knows 2"):
        geometry.flip_vertical(make_sample(0), keypoints=KEYPOINTS, parts=(1, 0))


def test_a_mirror_renames_parts():
    flipped = geometry.flip_horizontal(make_sample(0), keypoints=KEYPOINTS, parts=(1, 0, 2))
    assert flipped.targets.parts.labels.tolist() == [1, 0, 2, 1]


def test_areas_are_scaled_by_the_true_factor():
    sample = make_sample(3, (20, 30), 2)
    sample = replace(sample, targets=replace(sample.targets, areas=torch.tensor([10.0, 7.0])))
    resized = geometry.resize(sample, (41, 30))
    assert torch.allclose(resized.targets.areas, torch.tensor([10.0, 7.0]) * 41 / 20)
    assert resized.scale == (1.0, 41 / 20)


def test_one_pixel_is_lost_and_counted_or_kept_and_grown():
    dense = torch.zeros(1, 30, 30, dtype=torch.bool)
    dense[0, 0, 29] = True
    targets = Targets.from_masks(Masks.from_dense(dense), torch.zeros(1, dtype=torch.int64))
    sample = Sample(pixels=torch.zeros(3, 30, 30, dtype=torch.uint8), targets=targets, name="dot")
    assert geometry.resize(sample, (60, 60)).targets.boxes.tolist() == [[58, 0, 60, 2]]
    assert geometry.resize(sample, (3, 3)).lost == {"without pixels after resizing": 1}
    assert geometry.crop(sample, 29, 0, (1, 1)).targets.boxes.tolist() == [[0, 0, 1, 1]]
    assert geometry.crop(sample, 0, 0, (30, 29)).lost == {"without pixels after cropping": 1}
    lost = geometry.crop(geometry.crop(sample, 0, 0, (30, 29)), 0, 0, (5, 5)).lost
    assert lost == {"without pixels after cropping": 1}, "losses are carried on"


def test_too_little_left_is_dropped_but_crowds_stay():
    dense = torch.zeros(2, 10, 10, dtype=torch.bool)
    dense[:, 2:4] = True
    targets = Targets.from_masks(Masks.from_dense(dense), torch.arange(2), crowd=torch.tensor([False, True]))
    sample = Sample(pixels=torch.zeros(3, 10, 10), targets=targets, name="two")
    cut = geometry.crop(sample, 0, 0, (10, 4), least_left=0.5)
    assert cut.targets.labels.tolist() == [1]
    assert cut.lost == {"with too little left after cropping": 1}
    assert len(geometry.crop(sample, 0, 0, (10, 5), least_left=0.5).targets) == 2


def test_a_sample_refuses_masks_of_another_size():
    with pytest.raises(ValueError, match=r"picture is \(4, 5\), the masks are for \(5, 4\)"):
        Sample(pixels=torch.zeros(3, 4, 5), targets=Targets.none((5, 4)), name="x")


# Pixels and masks agree

GEOMETRIC = [
    transforms.Resize(short=53, long=200),
    transforms.RandomResize(short=(40, 160), long=170),
    transforms.Enlarge(short=90),
    transforms.RandomScale(factor=(0.5, 2.0)),
    transforms.ScaleJitter(size=(96, 90), factor=(0.5, 2.0)),
    transforms.RandomCrop(size=(50, 60), keep_one=True),
    transforms.RandomRelativeCrop(share=(0.4, 0.9), keep_one=True),
    transforms.HorizontalFlip(probability=1),
    transforms.VerticalFlip(probability=1),
    transforms.RightAngles(),
    transforms.compose(transforms.RightAngles(), transforms.ScaleJitter(size=(120, 70)), transforms.HorizontalFlip()),
]


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
def test_pixels_show_the_mask(transform):
    sample = disc_sample(at=(30, 70), radius=17)
    for seed in range(20):
        moved = transform(sample, generator(seed))
        if not len(moved.targets):
            continue
        shown, mask = moved.pixels[0] > 128, moved.targets.masks.dense()[0]
        shared, either = int((shown & mask).sum()), int((shown | mask).sum())
        assert shared / either > 0.9 or either - shared < 12, (seed, shared, either)


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
@properties
@given(make=samples, seed=st.integers(0, 1000))
def test_everything_follows_any_transform(transform, make, seed):
    sample = make()
    sample = replace(sample, targets=replace(sample.targets, keypoints=None))
    moved = transform(sample, generator(seed))
    holds_together(sample, moved)
    same(moved, pickle.loads(pickle.dumps(transform))(sample, generator(seed)))


# Choices


def test_sides_are_limited():
    assert transforms.fitted((480, 640), short=800, long=1333) == (800, 1067)
    assert transforms.fitted((400, 1000), short=800, long=1333) == (533, 1333)
    assert transforms.fitted((1, 20_000), short=800, long=1333) == (1, 1333)
    assert transforms.fitted((10, 10), short=7, long=None) == (7, 7)


def test_random_sides_reach_both_ends():
    transform, sample = transforms.RandomResize(short=(10, 12), long=None), make_sample(0, everything=False)
    assert {transform(sample, generator(seed)).size[0] for seed in range(40)} == {10, 11, 12}


def test_a_picture_of_one_column_is_resized_to_the_same_each_time():
    sample, again = make_sample(0, size=(35, 1), everything=False), []
    for _ in range(50):
        torch.randint(0, 256, (100_000,), dtype=torch.uint8)  # another content of the memory around it
        again.append(geometry.resize(sample, (99, 3)).pixels)
    assert all(torch.equal(pixels, again[0]) for pixels in again)


def test_only_small_pictures_are_enlarged():
    small, large = (make_sample(0, size=size, everything=False) for size in ((20, 30), (40, 31)))
    assert transforms.Enlarge(short=31)(small).size == (31, 47)
    assert transforms.Enlarge(short=31)(large) is large


def test_scales_are_as_often_larger_as_smaller():
    transform, sample = transforms.RandomScale(factor=(0.5, 2.0)), make_sample(0, size=(100, 10), everything=False)
    heights = [transform(sample, generator(seed)).size[0] for seed in range(200)]
    assert 50 <= min(heights) < 55
    assert 185 < max(heights) <= 200
    assert 75 < sum(height > 100 for height in heights) < 125


def test_scale_jitter_fits_then_frames_and_stores_the_scale():
    sample, source = disc_sample(), generator(5)
    sizes = set()
    for _ in range(30):
        moved = transforms.ScaleJitter(size=(64, 48), factor=(0.1, 2.0))(sample, source)
        assert moved.size == (64, 48)
        sizes.add(moved.scale)
        assert 0.045 <= moved.scale[0] <= 0.97, "48 / 100 times the factor"
        if moved.scale[0] < 0.45:
            assert torch.equal(moved.pixels[:, -1], torch.full((3, 48), 128, dtype=torch.uint8))
    assert len(sizes) > 20


@properties
@given(samples, st.integers(0, 1000), st.floats(0, 1))
def test_a_crop_can_keep_one(make, seed, least_left):
    sample = make()
    sample = replace(sample, targets=replace(sample.targets, keypoints=None))
    cut = transforms.RandomCrop(size=(5, 7), keep_one=True, least_left=least_left)(sample, generator(seed))
    assert cut.size == (min(5, sample.size[0]), min(7, sample.size[1]))
    assert bool((~cut.targets.crowd).any()) == bool((~sample.targets.crowd).any())


def test_crops_reach_every_corner():
    sample = make_sample(0, (6, 6), 0, everything=False)
    crops = [transforms.RandomCrop(size=(4, 5))(sample, generator(seed)) for seed in range(90)]
    corners = {tuple(crop.pixels[:, 0, 0].tolist()) for crop in crops}
    assert corners == {tuple(sample.pixels[:, y, x].tolist()) for y in range(3) for x in range(2)}


def test_chance_is_a_chance():
    sample = disc_sample(at=(40, 10), radius=5)
    transform = transforms.HorizontalFlip(probability=0.3)
    flipped = sum(transform(sample, generator(1, i)).targets.boxes[0, 0].item() > 50 for i in range(300))
    assert 60 < flipped < 120


COLOURS = [
    transforms.ColourJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2),
    transforms.Invert(probability=1),
    transforms.Blur(probability=1),
    transforms.Noise(sigma=(0.05, 0.1), probability=1),
]


@pytest.mark.parametrize("transform", COLOURS, ids=lambda t: type(t).__name__)
@properties
@given(make=samples, seed=st.integers(0, 1000))
def test_colours_change_pixels_alone(transform, make, seed):
    sample = make()
    torch.manual_seed(seed + 1)
    before = torch.random.get_rng_state()
    changed = transform(sample, generator(seed))
    assert torch.equal(torch.random.get_rng_state(), before), "no chance but the one handed in"
    same_targets(changed.targets, sample.targets)
    assert changed.pixels.dtype == sample.pixels.dtype
    assert changed.size == sample.size
    most = 255 if sample.pixels.dtype == torch.uint8 else 1
    assert 0 <= changed.pixels.min() <= changed.pixels.max() <= most
    same(changed, transform(sample, generator(seed)))


def test_colours_do_something():
    sample = make_sample(1)
    for transform in COLOURS:
        assert (transform(sample, generator(0)).pixels.float() - sample.pixels.float()).abs().mean() > 1
    inverted = transforms.Invert(probability=1)(sample, generator(0))
    assert torch.equal(inverted.pixels, 255 - sample.pixels)
    same(transforms.ColourJitter()(sample, generator(0)), sample)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: transforms.Resize(short=0),
        lambda: transforms.RandomResize(short=(9, 8)),
        lambda: transforms.ScaleJitter(factor=(0.0, 1.0)),
        lambda: transforms.RandomCrop(size=(0, 4)),
        lambda: transforms.RandomRelativeCrop(share=(0.5, 1.5)),
        lambda: transforms.HorizontalFlip(probability=1.5),
        lambda: transforms.VerticalFlip(probability=-0.5),
        lambda: transforms.ColourJitter(hue=0.6),
        lambda: transforms.Invert(probability=2.0),
        lambda: transforms.Blur(sigma=(0.0, 1.0)),
        lambda: transforms.Noise(sigma=(-1.0, 1.0)),
        lambda: CopyPaste(source=[], most=0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        wrong()


# Copy-paste


@properties
@given(st.integers(0, 1000), st.integers(0, 4), st.integers(1, 4), st.booleans())
def test_what_is_pasted_hides_what_is_below(seed, below, above, everything):
    sample = make_sample(seed, (20, 25), below)
    other = make_sample(seed + 1, (30, 22), above, everything=everything)
    chosen = torch.where(~other.targets.crowd)[0]
    pasted = paste(sample, other, chosen)
    top = geometry.crop(replace(other, targets=other.targets[chosen]), 0, 0, sample.size)
    cover = top.targets.masks.dense().any(0)
    assert torch.equal(pasted.pixels, torch.where(cover, top.pixels, sample.pixels))
    expected = sample.targets.masks.dense() & ~cover
    alive = expected.flatten(1).any(1)
    kept = int(alive.sum())
    found = pasted.targets
    assert torch.equal(found.masks.dense(), torch.cat([expected[alive], top.targets.masks.dense()]))
    assert torch.equal(found.boxes, found.masks.boxes())
    assert torch.equal(found.labels, torch.cat([sample.targets.labels[alive], top.targets.labels]))
    assert pasted.lost.get("without pixels after pasting", 0) == below - kept
    if kept:
        assert torch.allclose(found.areas[:kept], found.masks.area()[:kept].float())
        assert len(set(found.tracks.tolist())) == len(found)
        assert found.depth[:kept].min() > (found.depth[kept:].max() if len(top.targets) else -1)
        assert set(found.parts.owner.tolist()) >= set(range(kept))


def test_covered_keypoints_are_hidden():
    sample, other = make_sample(0, (20, 20), 1), make_sample(1, (20, 20), 1)
    sample = replace(
        sample,
        targets=replace(
            sample.targets,
            masks=Masks.from_dense(torch.ones(1, 20, 20, dtype=torch.bool)),
            crowd=torch.tensor([False]),
            keypoints=torch.tensor([[[5.0, 5.0, 2.0], [15.0, 15.0, 2.0], [6.0, 5.0, 0.0]]]),
        ),
    )
    dense = torch.zeros(1, 20, 20, dtype=torch.bool)
    dense[0, :10, :10] = True
    other = replace(other, targets=Targets.from_masks(Masks.from_dense(dense), torch.zeros(1, dtype=torch.int64)))
    pasted = paste(sample, other, torch.tensor([0]))
    assert pasted.targets.keypoints[0, :, 2].tolist() == [1, 2, 0]
    assert pasted.targets.keypoints[1].tolist() == [[0, 0, 0]] * 3
    assert sample.targets.keypoints[0, 0, 2] == 2, "the sample itself is as it was"
    assert paste(sample, other, torch.tensor([0]), least_left=0.8).lost == {"with too little left after pasting": 1}


def test_a_sample_decides_what_is_known_of_instances_also_where_none_of_its_own_is_left():
    sample, other = make_sample(0, (20, 20), 2), make_sample(1, (20, 20), 1)
    whole = Targets.from_masks(Masks.from_dense(torch.ones(1, 20, 20, dtype=torch.bool)), torch.zeros(1).long())
    pasted = paste(sample, replace(other, targets=whole), torch.tensor([0]))
    assert pasted.lost["without pixels after pasting"] == 2
    assert pasted.targets.keypoints.shape == (1, *sample.targets.keypoints.shape[1:])
    assert not pasted.targets.keypoints.any()
    assert pasted.targets.areas.tolist() == [400]
    assert pasted.targets.depth.tolist() == pasted.targets.tracks.tolist() == [0]
    assert len(pasted.targets.parts.labels) == 0


def test_crowds_are_never_pasted():
    other = make_sample(1, (20, 20), 3, everything=False)
    crowd = replace(other, targets=replace(other.targets, crowd=torch.ones(3, dtype=torch.bool)))
    with pytest.raises(ValueError, match="crowd cannot be pasted"):
        paste(make_sample(0), crowd, torch.tensor([1]))
    same(CopyPaste(source=[crowd], probability=1)(make_sample(0), generator(0)), make_sample(0))


def test_copy_paste_draws_from_its_source_and_prepares_it():
    source = [make_sample(seed, count=3) for seed in range(5)]
    transform = CopyPaste(source=source, prepare=transforms.ScaleJitter(size=(24, 31)), probability=0.8, most=2)
    base = make_sample(99, count=2)
    results = [transform(base, generator(seed)) for seed in range(30)]
    assert 3 <= max(len(result.targets) for result in results) <= 4
    assert any(torch.equal(result.pixels, base.pixels) for result in results)
    for seed, result in enumerate(results):
        same(result, transform(base, generator(seed)))


def test_floats_and_bytes_may_be_mixed():
    pasted = paste(make_sample(0, floats=True), make_sample(1), torch.where(~make_sample(1).targets.crowd)[0])
    assert pasted.pixels.dtype == torch.float32
    assert pasted.pixels.max() <= 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 300), (512, 600)), ((1, 300), (7, 2048)), ((1, 10_000), (1, 10_000)), ((600, 700), (600, 700))],
)
def test_no_strip_is_enlarged_to_more_than_four_squares(size, expected):
    assert transforms.Enlarge(short=512).enlarged(size) == expected
