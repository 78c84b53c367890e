"""EmbedMask: likeness, margins and their gradient by hand, the loss of masks, and what right vectors give."""

import math
from dataclasses import replace

import pytest
import torch
from given import pictures, targets
from small import CLASSES, batch, small
from torch.nn import functional as F

from maskwise.masks import Masks
from maskwise.methods import embed_mask
from maskwise.methods.embed_mask import (
    BORDER,
    Config,
    EmbeddingOutputs,
    around,
    exponents,
    logits,
    mask_losses,
    truth_of,
    windows_of,
)
from maskwise.parts import fcos
from maskwise.parts.fcos import HeadOutputs
from maskwise.parts.lovasz import hinge
from maskwise.structures import Targets

TWO = math.log(2)


def told(several, **options):
    """The method when its network is right: each object has a number of its own, its pixels have the same one, and
    nothing else is like it. Levels of strides 8 and 16, so that the map of pixels has stride 4."""
    model = small("embed_mask", **{"positions": False, "limits": (64.0,), "min_score": 0.05, **options})
    h, w = several.masks.size
    at = fcos.locations([torch.zeros(1, 1, h // s, w // s) for s in (8, 16)], (8, 16), model.cfg.limits)
    owner = fcos.assign(at, several)
    found = torch.where(owner >= 0)[0]
    scores, distances = torch.full((1, len(owner), CLASSES), -20.0), torch.zeros(1, len(owner), 4)
    scores[0, found, several.labels[owner[found]]] = 5.0
    distances[0, found] = fcos.encode(at, found, several.boxes[owner[found]])
    centres, pixels = torch.zeros(2, len(owner), 4), torch.zeros(1, 4, h // 4, w // 4)
    centres[0, :, 2] = 10.0 * (owner + 1)
    pixels[0, 2] = 10.0 * torch.from_numpy(several.masks.label_map()[1::4, 1::4].astype("float32"))
    coupling = EmbeddingOutputs(centres[:1], torch.full_like(centres[:1], TWO / 4), pixels)
    for part in (*coupling, scores, distances):
        part.requires_grad_()
    seen = HeadOutputs(scores, distances, torch.full((1, len(owner)), 20.0), []), at, coupling
    model._outputs = lambda _: seen
    return model


SCENE = targets((0, 16, 0, 8), (0, 16, 8, 24), (16, 32, 0, 28), labels=[1, 1, 1])
"""Three of one class that touch each other, in whole cells."""


# --- likeness


@pytest.mark.parametrize("margin", [0.5, 2.0, 3.0])
def test_likeness_is_a_half_at_the_margin(margin):
    cfg = Config(num_classes=2, margin_start=margin)
    centre, scale = torch.zeros(3), torch.full((3,), cfg.scale)
    directions = F.normalize(torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 2, -3]]), dim=1)
    near = exponents(margin * directions, centre, scale)
    torch.testing.assert_close((-near).exp(), torch.full((3,), 0.5))
    torch.testing.assert_close(logits(near), torch.zeros(3), rtol=0, atol=1e-6)
    assert (logits(exponents(0.99 * margin * directions, centre, scale)) > 0).all()
    assert (logits(exponents(1.01 * margin * directions, centre, scale)) < 0).all()


def test_each_dimension_has_its_own_margin():
    """1 away in x at a margin of 1, 3 in y at one of 3: a half times a half."""
    scale = TWO / torch.tensor([1.0, 9.0])
    assert exponents(torch.tensor([1.0, 3.0]), torch.zeros(2), scale).item() == pytest.approx(2 * TWO)


def test_logits_by_hand_and_at_their_ends():
    """phi = 1/2, 1/4 and sigma(-1): ln(1/1), ln(1/3) and -1; never further from 0 than ln(10^9)."""
    exponent = torch.tensor([TWO, 2 * TWO, BORDER, 0.0, 100.0], requires_grad=True)
    found = logits(exponent)
    end = 9 * math.log(10)
    assert found.tolist() == pytest.approx([0, -math.log(3), -1, end, -end], abs=1e-5)
    found.sum().backward()
    assert exponent.grad.isfinite().all()
    assert exponent.grad[3:].tolist() == [0, 0]
    assert exponent.grad[0].item() == pytest.approx(-2)  # -1 / (1 - phi)


# --- the loss of masks


def test_a_mask_by_hand():
    """Pixels at 0, 1 and 2 of a margin of 1: phi = 1, 1/2, 1/16. The first two are the object.

    Errors 1 - logit of its own: 0 and 1; 1 + logit of the other: 1 - ln 15 < 0. From the worst: 1 of 2 is left.
    """
    pixels = torch.tensor([[[0.0, 1, 2]]])
    truth = torch.tensor([[[True, True, False]]])
    centre, scale = torch.zeros(1, 1), torch.full((1, 1), TWO)
    assert mask_losses(pixels, centre, scale, truth).tolist() == pytest.approx([0.5])
    wider = mask_losses(pixels, centre, scale / 4, truth)  # phi = 1, 2^(-1/4), 1/2: the third is wrong by 1
    own = 1 - math.log(1 / (2**0.25 - 1))
    assert own < 0
    assert wider.tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize(("at", "own", "sign"), [(3.0, True, 1), (1.0, False, -1)])
def test_margins_widen_to_pixels_of_the_object_and_narrow_before_others(at, own, sign):
    """The scale is one over the margin: a positive gradient makes it smaller, and the margin wider."""
    pixels = torch.tensor([[[0.0, at]], [[0.0, 0.0]]])
    truth = torch.tensor([[[True, own]]])
    centre, scale = torch.zeros(1, 2), torch.full((1, 2), TWO / 4).requires_grad_()
    mask_losses(pixels, centre, scale, truth).sum().backward()
    assert scale.grad[0, 0].sign() == sign
    assert scale.grad[0, 1] == 0


def some_objects(count=5, dimensions=3):
    torch.manual_seed(0)
    pixels = torch.randn(dimensions, 12, 20).requires_grad_()
    truth = torch.randint(-1, count, (12, 20)) == torch.arange(count)[:, None, None]
    return pixels, torch.randn(count, dimensions), torch.rand(count, dimensions) * 5, truth


def test_pixels_without_an_error_are_left_out_and_change_nothing():
    pixels, centre, scale, truth = some_objects()
    whole = logits(exponents(pixels.movedim(0, 2), centre[:, None, None], scale[:, None, None]))
    which = torch.arange(5)[:, None].expand(5, 240)
    expected = hinge(whole.flatten(), truth.flatten(), which.flatten(), 5)
    found = mask_losses(pixels, centre, scale, truth)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(loss.sum(), pixels)[0] for loss in (found, expected))
    torch.testing.assert_close(one, other)
    kept = len(embed_mask.pairs_that_matter(pixels.flatten(1).T, centre, scale, truth.flatten(1), None)[0])
    assert kept < 800 < truth.numel()


def test_objects_in_groups_are_as_all_at_once(monkeypatch):
    losses, gradients = [], []
    for most in (1, 1500, 10**6):
        monkeypatch.setattr(embed_mask, "NUMBERS_AT_ONCE", most)
        pixels, *rest = some_objects()
        losses.append(mask_losses(pixels, *rest))
        gradients.append(torch.autograd.grad(losses[-1].sum(), pixels)[0])
    for loss, gradient in zip(losses, gradients, strict=True):
        torch.testing.assert_close(loss, losses[-1])
        torch.testing.assert_close(gradient, gradients[-1])


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_cells_of_an_object_are_those_where_it_is_seen_when_shrunk(stride):
    torch.manual_seed(stride)
    dense = torch.rand(6, 30, 45) > torch.tensor([0.5, 0.9, 0.97, 0.99, 0.999, 1.0])[:, None, None]
    padded = F.pad(dense.float(), (0, 48 - 45, 0, 32 - 30))
    expected = F.interpolate(padded[None], scale_factor=1 / stride, mode="bilinear")[0] > 0
    assert torch.equal(truth_of(Masks.from_dense(dense), (32 // stride, 48 // stride), stride), expected)


def test_masks_are_a_mean_over_found_objects_and_over_pictures():
    """The second object is one pixel between locations, which none finds; the second picture has none."""
    several = targets((0, 16, 0, 8), (31, 32, 31, 32), labels=[1, 1])
    model = told(several)
    found, at, coupling = model._outputs(None)
    with torch.no_grad():
        coupling.pixels[0, 2, :4, 1] += 2  # half of the object is at the margin, each wrong by 1: half of it is left
    twice = EmbeddingOutputs(*(part.expand(2, *part.shape[1:]) for part in coupling))
    both = HeadOutputs(*(part.expand(2, *part.shape[1:]) for part in found[:3]), [])
    model._outputs = lambda _: (both, at, twice)
    losses = model(pictures((32, 32), (32, 32)), [several, Targets.none((32, 32))])
    assert losses["mask"].item() == pytest.approx(0.5 * 0.5 / 2, rel=1e-4)


def test_only_the_best_location_of_an_object_is_learned_from():
    model = told(SCENE)
    _, at, coupling = model._outputs(None)
    with torch.no_grad():
        coupling.pixels[0, 2] += 2.0
    model(pictures((32, 32)), [SCENE])["mask"].backward()
    moved = coupling.centres.grad[0, :, 2] != 0
    assert moved.sum() == 3
    assert sorted(fcos.assign(at, SCENE)[moved].tolist()) == [0, 1, 2]


# --- the ablations and the versions


def test_one_margin_for_all_cannot_hold_a_small_and_a_large_object():
    """Pixels that are where they are, two discs of 3 and 9 pixels: a margin of 6 is wrong for both."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    centre = torch.tensor([[10.0, 10.0], [34.0, 16.0]])
    far = ((x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2).sqrt()
    truth = far < torch.tensor([3.0, 9.0])[:, None, None]
    learned, fixed = TWO / torch.tensor([[3.0], [9.0]]).square(), torch.full((2, 1), TWO / 36)

    def wrong(scale):
        near = exponents(torch.stack([x, y], 2), centre[:, None, None], scale.expand(2, 2)[:, None, None])
        return ((logits(near) > 0) != truth).sum((1, 2)).tolist()

    assert wrong(learned) == [0, 0]
    assert min(wrong(fixed)) > 80


@pytest.mark.parametrize("margin", ["learned", "fixed"])
@pytest.mark.parametrize("version", ["2021", "2020"])
def test_margins_are_learned_for_each_dimension_or_all_or_are_fixed(version, margin):
    torch.manual_seed(0)
    model = small("embed_mask", version=version, margin=margin, dimensions=None)
    images, truth = batch(count=1)
    _, at, coupling = model._outputs(images)
    wide = {"2021": 16, "2020": 8}[version]
    assert coupling.scales.shape == (1, sum(at.counts), wide)
    torch.testing.assert_close(coupling.scales, torch.full_like(coupling.scales, TWO / 4), rtol=0.1, atol=0)
    assert bool((coupling.scales == model.cfg.scale).all()) == (margin == "fixed")
    same = coupling.scales == coupling.scales[..., :1]
    assert bool(same.all()) == (margin == "fixed" or version == "2020")
    sum(model(images, truth).values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    assert len(model.eval().predict(images)[0]) > 0


def test_levels_scale_their_margins_in_x_and_y_alone():
    model, (images, _) = small("embed_mask"), batch(count=1)
    before = model._outputs(images)[2].scales
    _, at, _ = model._outputs(images)
    with torch.no_grad():
        model.embedding.level_scales[1] = 2.0
    after = model._outputs(images)[2].scales
    first = at.counts[0]
    assert torch.equal(after[:, :first], before[:, :first])
    torch.testing.assert_close(after[:, first:, :2], before[:, first:, :2].square())
    assert torch.equal(after[:, first:, 2:], before[:, first:, 2:])


@pytest.mark.parametrize("positions", [True, False])
def test_vectors_begin_where_their_location_is(positions):
    """Of a network that says nothing: positions over the unit, or zeros; of pixels at stride 4, between the cells."""
    model = small("embed_mask", positions=positions)
    for layer in (model.embedding.proposal, model.embedding.pixel):
        torch.nn.init.zeros_(layer.weight)
    _, at, coupling = model._outputs(batch(count=1)[0])
    unit = 8.0 if positions else math.inf
    torch.testing.assert_close(coupling.centres[0, :, :2], at.points / unit)
    middles = fcos.middles((16, 24), 4, device=at.points.device)
    torch.testing.assert_close(coupling.pixels[0, :2, 1:-1, 1:-1], middles[1:-1, 1:-1].movedim(2, 0) / unit)
    assert not coupling.centres[..., 2:].any()
    assert not coupling.pixels[:, 2:].any()


def test_version_2020_learns_in_boxes_grown_by_a_tenth_and_a_cell():
    """A box of 40 x 20 pixels from (20, 24): cells 5 to 15 and 6 to 11; grown by 2 and by 1.5: 3 to 17, 4.5 to 12.5."""
    cells = torch.zeros(1, 24, 24, dtype=torch.bool)
    found = around(torch.tensor([[20.0, 24.0, 60.0, 44.0]]), cells, 4)[0]
    assert torch.where(found.any(0))[0].tolist() == list(range(3, 17))
    assert torch.where(found.any(1))[0].tolist() == list(range(5, 13))
    pixels, centre, scale, truth = some_objects(count=1)
    learned = torch.zeros_like(truth)
    learned[:, 3:7, 2:9] = True
    inside = mask_losses(pixels[:, 3:7, 2:9], centre, scale, truth[:, 3:7, 2:9])
    torch.testing.assert_close(mask_losses(pixels, centre, scale, truth, learned), inside)
    assert not torch.allclose(mask_losses(pixels, centre, scale, truth), inside)


def test_masks_are_drawn_in_the_box_and_two_cells_more_or_one():
    several = torch.tensor([[3.4, 5.0, 7.5, 8.0], [0.5, 0.2, 30.0, 16.0]])
    assert windows_of(several, (16, 30), log=True).tolist() == [[1, 3, 9, 10], [0, 0, 30, 16]]
    assert windows_of(several, (16, 30), log=False).tolist() == [[3, 4, 9, 9], [0, 0, 30, 16]]


def test_edges_are_read_from_exponents_or_from_probabilities():
    """Between a pixel that is the centre and one with an exponent of 5: .53 is 1/8 of the way, or just before half."""
    widths = {}
    for version in ("2021", "2020"):
        model = told(targets((8, 24, 8, 24), labels=[1]), version=version)
        _, _, coupling = model._outputs(None)
        with torch.no_grad():
            coupling.pixels[:, 2] = 10 + (coupling.pixels[:, 2] != 10) * math.sqrt(5 * 4 / TWO)
        found = model.predict(replace(pictures((32, 32)), originals=((1024, 1024),)))[0]
        x0, _, x1, _ = found.masks.boxes()[0].tolist()
        widths[version] = (x1 - x0) / 128  # in cells: 3 between the outermost middles, and such a way at each end
    assert widths["2021"] == pytest.approx(3 + 2 * -math.log(0.53) / 5, abs=0.02)
    assert widths["2020"] == pytest.approx(3 + 2 * 0.47 / (1 - math.exp(-5)), abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (3, 5)}, "levels: expected a row"),
        ({"levels": (6, 7)}, "levels: expected a row"),
        ({"limits": (64.0,)}, "limits: expected 4, .*, got 1"),
        ({"dimensions": 2}, "dimensions: expected at least 3"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(num_classes=2, **options)


# --- what is found


@pytest.mark.parametrize("version", ["2021", "2020"])
def test_objects_of_one_class_that_touch_are_told_apart(version):
    model = told(SCENE, version=version, unit=1.0)
    found = model.predict(pictures((32, 32)))[0]
    best = SCENE.masks.iou(found.masks).max(1)
    shared = SCENE.masks.intersection(found.masks) > 0
    assert shared.sum(0).tolist() == shared.sum(1).tolist() == [1, 1, 1]
    assert best.values.min() > {"2021": 0.6, "2020": 0.95}[version]  # edges are drawn between cells
    assert found.boxes[best.indices].tolist() == SCENE.boxes.tolist()
    torch.testing.assert_close(found.mask_scores, torch.tensor(5.0).sigmoid().expand(3))
    losses = model(pictures((32, 32)), [SCENE])
    assert losses["mask"] < 1e-6
    assert losses["box"] < 1e-6


def test_a_mask_ends_with_its_box_though_all_pixels_are_like_it():
    model = told(targets((8, 16, 8, 16), labels=[1]))
    with torch.no_grad():
        model._outputs(None)[2].pixels[0, 2] = 10.0
    found = model.predict(pictures((32, 32)))[0]
    assert found.boxes.tolist() == [[8, 8, 16, 16]]
    assert found.masks.boxes().tolist() == [[0, 0, 22, 22]]  # to the middle of the second cell behind it


@pytest.mark.parametrize(
    ("several", "least"),
    [(Targets.none((32, 32)), 0), (targets((11, 13, 11, 13), labels=[0]), 0), (targets((0, 32, 0, 32), labels=[7]), 1)],
    ids=["none", "four pixels", "the whole picture"],
)
def test_extremes(several, least):
    model = told(several, limits=(8.0,))
    found = model.predict(pictures((32, 32)))[0]
    assert len(found) == len(several)
    assert (several.masks.iou(found.masks) >= least).all()
    losses = model(pictures((32, 32)), [several])
    assert all(losses[name] < 0.01 for name in ("class", "box", "mask"))
    sum(losses.values()).backward()


def test_an_object_that_no_location_finds_teaches_no_mask():
    several = targets((0, 1, 0, 1), labels=[3])
    losses = told(several)(pictures((32, 32)), [several])
    assert losses["mask"] == 0
    assert losses["box"] == 0
