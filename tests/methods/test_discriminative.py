"""The discriminative loss, by hand, and what is found once it has nothing left to pull or push."""

from dataclasses import replace

import pytest
import torch
from given import Given, pictures
from small import CLASSES, batch, small

from maskwise.masks import Masks
from maskwise.methods.discriminative import terms
from maskwise.parts.label_maps import owners
from maskwise.structures import Targets

MARGINS = {"within": 0.5, "apart": 1.5}


def targets(*rows, labels, size=(32, 32), **rest):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.tensor(labels), **rest)


def told(several, *, spread=0.0, apart=3.0, **options):
    """The method on maps that are right: a vector for each object `apart` from those of the others."""
    torch.manual_seed(0)
    model = small("discriminative", **options)
    h, w = several.masks.size
    owner = owners(several)
    named = torch.where(owner >= 0, several.labels[owner.clamp(min=0)] if len(several) else 0, CLASSES)
    logits = torch.zeros(1, CLASSES + 1, 32, 32)
    logits[0, :, :h, :w] = 10 * torch.nn.functional.one_hot(named, CLASSES + 1).permute(2, 0, 1).float()
    vectors = torch.zeros(1, 4, 32, 32)
    vectors[0, 0, :h, :w] = apart * torch.where(owner >= 0, owner, 0)
    model.network = Given(logits, vectors + spread * (2 * torch.rand_like(vectors) - 1))
    return model


# --- the loss


def test_three_pixels_by_hand():
    """Object a: (0, 0) and (2, 0), mean (1, 0), each 1 away, pulled by .5² = .25. Object b: (1, 2) alone, not pulled.

    Pull: (.25 + 0) / 2. The means are 2 apart and not 3, for both orders of the pair: push 1. Lengths: (1 + √5) / 2.
    """
    found = terms(torch.tensor([[0.0, 2, 1], [0, 0, 2]]), torch.tensor([0, 0, 1]), 2, **MARGINS)
    assert found.variance.item() == pytest.approx(0.125)
    assert found.distance.item() == pytest.approx(1)
    assert found.regularization.item() == pytest.approx((1 + 5**0.5) / 2)


def test_the_push_is_the_mean_over_pairs():
    """Means at 0, 1 and 5: the pairs lack 2, 0 and 0 of 3. 6 ordered pairs: (2² + 2²) / 6."""
    found = terms(torch.tensor([[0.0, 1, 5]]), torch.arange(3), 3, **MARGINS)
    assert found.distance.item() == pytest.approx(8 / 6)


def test_an_object_counts_alike_however_large():
    vectors, which = torch.tensor([[0.0, 2, 5, 9]]), torch.tensor([0, 0, 1, 1])
    one = terms(vectors, which, 2, **MARGINS)
    more = terms(torch.cat([vectors, *[vectors[:, :2]] * 10], 1), torch.cat([which, *[which[:2]] * 10]), 2, **MARGINS)
    torch.testing.assert_close(torch.stack(one), torch.stack(more))


def test_within_and_apart_enough_nothing_is_left_but_the_lengths():
    vectors = torch.tensor([[-0.5, 0.5, 2.5, 3.5]])
    found = terms(vectors, torch.tensor([0, 0, 1, 1]), 2, **MARGINS)
    assert found.variance == 0
    assert found.distance == 0
    assert found.regularization.item() == pytest.approx(1.5)


def test_numbers_of_objects_and_turns_of_the_space_change_nothing():
    torch.manual_seed(0)
    vectors, which = torch.randn(3, 40), torch.arange(40) % 4
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    one = torch.stack(terms(vectors, which, 4, **MARGINS))
    torch.testing.assert_close(one, torch.stack(terms(vectors, 3 - which, 4, **MARGINS)))
    torch.testing.assert_close(one, torch.stack(terms(turn @ vectors, which, 4, **MARGINS)))


def test_equal_vectors_have_a_gradient_that_is_a_number():
    vectors = torch.zeros(2, 6, requires_grad=True)
    found = terms(vectors, torch.tensor([0, 0, 0, 1, 1, 2]), 3, **MARGINS)
    sum(found).backward()
    assert found.distance == 9
    assert vectors.grad.isfinite().all()


def test_one_object_is_pushed_by_none():
    assert terms(torch.randn(2, 6), torch.zeros(6, dtype=torch.int64), 1, **MARGINS).distance == 0


def test_objects_are_pushed_from_those_of_their_class_only():
    places = (2, 10, 2, 10), (12, 20, 12, 20)
    same, others = (targets(*places, labels=labels) for labels in ([1, 1], [1, 2]))
    for several, lost in ((same, 9), (others, 0)):
        losses = told(several, apart=0.0)(pictures((32, 32)), [several])
        assert losses["distance"].item() == pytest.approx(lost)


def test_crowds_and_padding_teach_nothing():
    several = targets((2, 10, 2, 10), (12, 20, 0, 20), labels=[1, 1], size=(24, 20), crowd=torch.tensor([False, True]))
    model = told(several, spread=1.0)
    sum(model(pictures((24, 20)), [several]).values()).backward()
    logits, vectors = (m.grad[0].abs().sum(0) for m in model.network.maps)
    assert (logits[:12, :20] > 0).all()
    for grad in (logits, vectors):
        assert not grad[24:].any()
        assert not grad[:, 20:].any()
        assert not grad[12:20].any()


# --- the ablations


def test_without_the_variance_term_objects_are_not_pulled_together():
    images, truth = batch(count=1)
    for weight in (0.0, 2.0):
        model = small("discriminative", variance_weight=weight, within=0.0)
        loss = model(images, truth)["variance"]
        loss.backward()
        taught = any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
        assert (loss > 0) == taught == (weight > 0)


@pytest.mark.parametrize("dimensions", [2, 16])
def test_there_are_as_many_dimensions_as_asked_for(dimensions):
    model = small("discriminative", dimensions=dimensions)
    assert model.network(batch(count=1)[0])[1].shape[1] == dimensions


# --- what is found

SCENE = targets((2, 10, 2, 10), (2, 20, 10, 18), (22, 30, 2, 30), (12, 20, 2, 8), labels=[1, 1, 3, 1])


@pytest.mark.parametrize(("clustering", "spread"), [("mean_shift", 0.25), ("threshold", 0.25)])
def test_right_maps_give_the_objects(clustering, spread):
    """In four dimensions, each off by a quarter at most: half a unit from the mean, as far as nothing is pulled."""
    found = told(SCENE, spread=spread, clustering=clustering).predict(pictures((32, 32)))[0]
    iou = SCENE.masks.iou(found.masks)
    assert len(found) == 4
    assert (iou.max(1).values == 1).all()
    assert found.labels[iou.argmax(1)].tolist() == SCENE.labels.tolist()
    assert (found.mask_scores > 0.99).all()


def test_masks_of_an_enlarged_picture_are_drawn_there():
    images = replace(pictures((32, 32)), originals=((96, 64),))
    found = told(SCENE).predict(images)[0]
    assert found.masks.size == (96, 64)
    assert (SCENE.masks.resize((96, 64)).iou(found.masks).max(1).values > 0.95).all()


def test_each_may_score_1_as_the_authors_have_it():
    assert (told(SCENE, score="constant").predict(pictures((32, 32)))[0].mask_scores == 1).all()


@pytest.mark.parametrize(
    ("several", "found"),
    [
        (Targets.none((32, 32)), 0),
        (targets((5, 6, 5, 6), labels=[0]), 1),
        (targets((0, 32, 0, 32), labels=[7]), 1),
    ],
    ids=["none", "one pixel", "the whole picture"],
)
def test_extremes(several, found):
    model = told(several, min_pixels=1, leftover=1)
    instances = model.predict(pictures((32, 32)))[0]
    assert instances.masks.area().tolist() == several.masks.area().tolist()
    assert len(instances) == found
    assert all(loss < 0.01 for loss in model(pictures((32, 32)), [several]).values())
