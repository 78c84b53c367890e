"""Spatial embeddings: likeness and its gradient by hand, the three losses, and what right maps give."""

import math
from dataclasses import replace

import pytest
import torch
from given import Given, pictures
from small import CLASSES, batch, small

from maskwise.masks import Masks
from maskwise.methods import spatial_embeddings
from maskwise.methods.spatial_embeddings import FAINT, Config, mask_losses, pairs_that_matter, scale_of
from maskwise.parts.clustering import likeness
from maskwise.parts.label_maps import owners
from maskwise.parts.lovasz import hinge
from maskwise.structures import Targets

TWO = math.log(2)


def targets(*rows, labels, size=(32, 32), **rest):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.tensor(labels), **rest)


def told(several, *, shift=0.0, sigma=0.5, **options):
    """The method on maps that are right: each pixel points at the middle of its object, `shift` pixels beside it.

    The width is the same for all: 64 / sqrt(2 exp(5)), 3.7 pixels.
    """
    model = small("spatial_embeddings", **({"candidate": 0.5, "min_pixels": 10} | options))
    field = torch.full((1, 4, 32, 32), 10.0)  # the background points far away
    field[:, 2:] = sigma
    seeds = torch.full((1, CLASSES, 32, 32), -10.0)
    owner = owners(several)
    for k, label in enumerate(several.labels.tolist()):
        y, x = torch.where(owner == k)
        if len(y):
            field[0, 0, y, x] = ((x.float().mean() + shift - x) / 64).atanh()
            field[0, 1, y, x] = ((y.float().mean() - y) / 64).atanh()
            seeds[0, label, y, x] = 10.0
    model.network = Given(field, seeds)
    return model


SCENE = targets((2, 10, 2, 10), (2, 20, 10, 18), (22, 30, 2, 30), (12, 20, 2, 8), labels=[1, 1, 3, 1])


# --- likeness


def test_likeness_and_its_gradient_by_hand():
    """e = (1, 0), C = (0, 0), s = (ln 2, 1): phi = exp(-ln 2) = 1/2.

    d phi / d e_x = -2 s_x (e_x - C_x) phi = -ln 2, and for C the other way; d phi / d s_x = -(e_x - C_x)² phi = -1/2.
    """
    e, c, s = (torch.tensor(v, requires_grad=True) for v in ([[1.0], [0.0]], [[0.0], [0.0]], [[TWO], [1.0]]))
    phi = likeness(e, c, s)
    assert phi.item() == pytest.approx(0.5)
    phi.sum().backward()
    torch.testing.assert_close(e.grad, torch.tensor([[-TWO], [0.0]]))
    torch.testing.assert_close(c.grad, torch.tensor([[TWO], [0.0]]))
    torch.testing.assert_close(s.grad, torch.tensor([[-0.5], [0.0]]))


def test_a_width_of_r_over_root_2_ln_2_takes_in_the_disc_of_radius_r():
    y, x = torch.meshgrid(torch.arange(-8.0, 9), torch.arange(-8.0, 9), indexing="ij")
    sigma = 5.2 / math.sqrt(2 * TWO)
    phi = likeness(torch.stack([x, y]), torch.zeros(2, 1, 1), torch.full((2, 1, 1), 1 / (2 * sigma**2)))
    assert torch.equal(phi > 0.5, x**2 + y**2 < 5.2**2)


def test_a_gaussian_begins_five_pixels_wide_as_published():
    scale = scale_of(torch.full((2, 1), Config(num_classes=1).sigma_start))[0]
    assert (1024 / (2 * scale).sqrt()).item() == pytest.approx(4.88, abs=0.01)


def test_sigmas_out_of_bounds_do_not_overflow():
    assert scale_of(torch.full((2, 3), 100.0)).isfinite().all()


def test_a_new_network_points_at_each_pixel_itself():
    cfg = Config(num_classes=2, unit=64, sigma_start=0.3)
    model = spatial_embeddings.build(cfg).eval()
    field = model.network(batch(count=1)[0])[0]
    assert (field[:, :2] == 0).all()
    torch.testing.assert_close(field[:, 2:], torch.full_like(field[:, 2:], 0.3))


# --- the losses


def test_the_mask_of_an_object_by_hand():
    """Three pixels at 0, 1 and 2; the object has the first two and its middle at 0; s = ln 2: phi = 1, 1/2, 1/16.

    Errors 2 - 2 phi of its own: 0 and 1; 2 phi of the other: 1/8. From the worst: 1 of 2 left (1/2), then 1 of 3 (2/3).
    """
    there = torch.tensor([[0.0, 1, 2], [0, 0, 0]])
    found = mask_losses(there, torch.zeros(2, 1), torch.full((2, 1), TWO), torch.tensor([0, 0, -1]))
    assert found.tolist() == pytest.approx([1 / 2 + 1 / 8 / 6])


def some_objects():
    torch.manual_seed(0)
    there, owner = torch.rand(2, 300), torch.randint(-1, 5, (300,))
    return there.requires_grad_(), torch.rand(2, 5), torch.rand(2, 5) * 200, owner


def test_faint_pixels_change_next_to_nothing():
    there, centre, scale, owner = some_objects()
    with torch.no_grad():
        logits = 2 * likeness(there[:, None], centre[:, :, None], scale[:, :, None]) - 1
        own, which = owner == torch.arange(5)[:, None], torch.arange(5)[:, None].expand(5, 300)
        all_of_them = hinge(logits.flatten(), own.flatten(), which.flatten(), 5)
        few = len(pairs_that_matter(there, centre, scale, owner)[0])
    assert few < 1000
    assert (all_of_them - mask_losses(there, centre, scale, owner)).abs().max() < 2 * FAINT


def test_objects_in_groups_are_as_all_at_once(monkeypatch):
    losses, gradients = [], []
    for most in (300, 700, 10**6):
        monkeypatch.setattr(spatial_embeddings, "PAIRS_AT_ONCE", most)
        there, *rest = some_objects()
        losses.append(mask_losses(there, *rest))
        losses[-1].sum().backward()
        gradients.append(there.grad)
    for loss, gradient in zip(losses, gradients, strict=True):
        torch.testing.assert_close(loss, losses[-1])
        torch.testing.assert_close(gradient, gradients[-1])


def test_the_spread_of_sigma_by_hand():
    """Two pixels with .5 and .7: each .1 from the mean, in x and y; times 10. The mean itself is not pulled."""
    several = targets((0, 1, 0, 2), labels=[0])
    model = told(several)
    with torch.no_grad():
        model.network.maps[0][0, 2:, 0, 1] = 0.7
    loss = model(pictures((32, 32)), [several])["smooth"]
    assert loss.item() == pytest.approx(10 * 0.01)
    loss.backward()
    grad = model.network.maps[0].grad[0, 2:, 0, :2]
    torch.testing.assert_close(grad, torch.tensor([[-0.5, 0.5]] * 2))


def test_seeds_by_hand():
    """One pixel of 32 x 32 that points at itself: its seed should be 1. All others, and the other maps, should be 0."""
    several = targets((3, 4, 5, 6), labels=[2])
    model = told(several)
    model.network.maps[1].data[:] = -100.0
    model.network.maps[1].data[0, 2, 3, 5] = 0.0  # 1/2
    model.network.maps[1].data[0, 4, 9, 9] = 0.0
    assert model(pictures((32, 32)), [several])["seed"].item() == pytest.approx((10 * 0.25 + 0.25) / 1024)


def test_what_seeds_are_to_be_does_not_teach_where_pixels_point():
    several = targets((3, 9, 5, 9), labels=[2])
    model = told(several, shift=3.0)
    model(pictures((32, 32)), [several])["seed"].backward()
    assert not model.network.maps[0].grad.any()
    assert model.network.maps[1].grad.any()


def test_crowds_and_padding_teach_nothing():
    several = targets((2, 10, 2, 10), (12, 20, 0, 20), labels=[1, 1], size=(24, 20), crowd=torch.tensor([False, True]))
    one = small("spatial_embeddings")
    one.network = Given(0.1 * torch.randn(1, 4, 32, 32), torch.zeros(1, CLASSES, 32, 32))
    sum(one(pictures((24, 20)), [several]).values()).backward()
    seeds = one.network.maps[1].grad[0].abs().sum(0)
    assert (seeds[:12, :20] > 0).all()
    for grad in (seeds, one.network.maps[0].grad[0].abs().sum(0)):
        assert not grad[24:].any()
        assert not grad[:, 20:].any()
        assert not grad[12:20].any()


# --- the ablations


@pytest.mark.parametrize(("sigma", "maps"), [("fixed", 2), ("circular", 3), ("elliptical", 4)])
def test_sigma_is_fixed_or_one_or_two_numbers(sigma, maps):
    """Of a new network all are the same; what can be learned differs."""
    images, truth = batch(count=1)
    model = small("spatial_embeddings", sigma=sigma)
    field = model.network(images)[0]
    assert field.shape[1] == maps
    where = model._pointing(torch.randn(maps, 64, 96))
    assert torch.equal(where.sigma[0], where.sigma[1]) == (sigma != "elliptical")
    assert bool((where.sigma == model.cfg.sigma_start).all()) == (sigma == "fixed")
    assert all(loss.isfinite() for loss in model(images, truth).values())
    model.eval().predict(images)


@pytest.mark.parametrize("centre", ["embedding", "centroid"])
def test_pixels_point_at_their_mean_or_at_the_middle_of_the_object(centre):
    """All point three pixels to the right of the middle: that is right if to agree is all, and else wrong."""
    several = targets((8, 16, 8, 16), labels=[0])
    losses = told(several, shift=3.0, centre=centre)(pictures((32, 32)), [several])
    assert (losses["instance"] < 0.1) == (centre == "embedding")


# --- what is found


def test_right_maps_give_the_objects():
    found = told(SCENE).predict(pictures((32, 32)))[0]
    iou = SCENE.masks.iou(found.masks)
    assert len(found) == 4
    assert (iou.max(1).values == 1).all()
    assert found.labels[iou.argmax(1)].tolist() == SCENE.labels.tolist()
    torch.testing.assert_close(found.mask_scores, torch.tensor(10.0).sigmoid().expand(4))


def test_masks_of_an_enlarged_picture_are_drawn_there():
    images = replace(pictures((32, 32)), originals=((96, 64),))
    found = told(SCENE).predict(images)[0]
    assert found.masks.size == (96, 64)
    assert (SCENE.masks.resize((96, 64)).iou(found.masks).max(1).values > 0.95).all()


def test_objects_of_other_classes_share_no_pixel():
    model = told(SCENE)
    model.network.maps[1].data[0, 5] = 5.0  # a class that is everywhere, and nowhere the best of an object
    found = model.predict(pictures((32, 32)))[0]
    assert found.masks.dense().sum(0).max() == 1
    assert (SCENE.masks.iou(found.masks).max(1).values == 1).all()


@pytest.mark.parametrize(
    "several",
    [Targets.none((32, 32)), targets((5, 6, 5, 6), labels=[0]), targets((0, 32, 0, 32), labels=[7])],
    ids=["none", "one pixel", "the whole picture"],
)
def test_extremes(several):
    model = told(several, min_pixels=0)
    instances = model.predict(pictures((32, 32)))[0]
    assert instances.masks.area().tolist() == several.masks.area().tolist()
    assert all(loss < 0.01 for loss in model(pictures((32, 32)), [several]).values())
