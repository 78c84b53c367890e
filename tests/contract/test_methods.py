"""Every method keeps every promise. One that cannot is excepted here, with a reason, and must really fail."""

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small import CLASSES, batch, small

from maskwise.categories import Categories
from maskwise.masks import Masks
from maskwise.methods import METHODS, Method
from maskwise.structures import Images, Targets
from maskwise.weights import classes

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Method and test, and why it cannot keep this promise."""

NEVER_LEARN: dict[str, dict[str, str]] = {}
"""Of a method, parameters (a pattern) that get no gradient though there are objects, and why."""

FROM_ZERO = {
    "discriminative": "timm begins the last norm of each residual block at zero, where norms learn",
    "spatial_embeddings": "the last layer of offsets and sigmas begins at zero, as published",
    "rsis": "timm begins the last norm of each residual block at zero, where norms learn",
}
"""Methods with layers whose weights are zero at first, and which: what is before them learns from the second step."""

MAY_VANISH: dict[str, dict[str, str]] = {
    "discriminative": {
        "variance": "nothing is pulled that is within the margin, and new networks give all pixels about the same",
        "distance": "objects are pushed from others of their class in their picture, where there are any",
    },
    "spatial_embeddings": {"smooth": "a new network gives all pixels the same sigma, as published"},
}
"""Losses of a method that may be zero though there are objects, and when."""

BOXES_OF_MASKS = {"grouping": 0.9, "proposals": 0.8, "recurrent": 0.8}
"""Families that predict no boxes: they are those of the masks, and of these drawn larger true to a pixel; and the least
IoU of masks with themselves drawn larger, which are ragged without training."""


def promise(test: Callable[..., None]) -> Callable[..., None]:
    """For each method. An exception that turns out to hold is an error too."""

    @functools.wraps(test)
    def kept(name: str, **rest) -> None:
        if (name, test.__name__) not in EXCEPTIONS:
            return test(name, **rest)
        with pytest.raises(AssertionError):
            test(name, **rest)
        return None

    return pytest.mark.parametrize("name", METHODS)(kept)


# --- learning


def dense(*rows):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), 64, 96, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.arange(len(rows)))


def crowded():
    targets = dense((10, 30, 10, 30), (5, 60, 20, 90))
    return replace(targets, crowd=torch.tensor([False, True]))


SELDOM = {"only a crowd", "at the border", "twice the same"}
"""Of the cases below those that are long tests: their paths are mostly those of others."""
CASES = {
    "none": lambda: Targets.none((64, 96)),
    "one pixel": lambda: dense((20, 21, 30, 31)),
    "no pixel": lambda: dense((10, 30, 10, 30), (0, 0, 0, 0)),
    "crowd": crowded,
    "only a crowd": lambda: crowded()[1:],
    "at the border": lambda: dense((0, 64, 0, 96), (40, 64, 80, 96), (0, 3, 0, 96)),
    "twice the same": lambda: dense((10, 30, 10, 30), (10, 30, 10, 30)),
}


def learn(model, images, targets):
    """Losses, after their gradient was taken."""
    torch.manual_seed(0)
    losses = model(images, targets)
    for name, value in losses.items():
        assert value.shape == (), name
        assert value.isfinite(), name
    sum(losses.values()).backward()
    return losses


def idle(model):
    """Parameters without a gradient, or with one of zeros."""
    return {n for n, p in trainable(model).items() if p.grad is None or not p.grad.any()}


def trainable(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


@promise
def test_objects_teach_every_parameter(name):
    model = small(name)
    learn(model, *batch())
    excepted = {n for n in trainable(model) for pattern in NEVER_LEARN.get(name, {}) if re.fullmatch(pattern, n)}
    if name in FROM_ZERO:
        assert idle(model) != excepted
        torch.optim.SGD(model.parameters(), lr=0.01).step()
        model.zero_grad()
        learn(model, *batch())
    assert idle(model) == excepted
    assert all(p.grad.isfinite().all() for p in trainable(model).values())


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.long) if c in SELDOM else c for c in CASES])
@promise
def test_unusual_pictures_give_losses_and_a_gradient_for_everything(name, case):
    """Also where it is zero: processes that train together wait for the gradient of every parameter."""
    model = small(name)
    images, _ = batch(count=1)
    learn(model, images, [CASES[case]()])
    assert [n for n, p in trainable(model).items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trainable(model).values())


@promise
def test_a_picture_of_no_numbers_breaks_nothing(name):
    """Training passes over such a step, and a model whose weights broke finds whatever it may."""
    model = small(name)
    images, targets = batch(count=1)
    broken = replace(images, pixels=images.pixels * torch.nan)
    assert all(value.shape == () for value in model(broken, targets).values())
    assert len(model.eval().predict(broken)) == 1


@promise
def test_pictures_of_different_sizes_are_learned_from_together(name):
    (one, first), (other, second) = batch(count=1), batch(size=(40, 50), count=1)
    losses = learn(small(name), Images.batch([one.pixels[0], other.pixels[0, :, :40, :50]]), [*first, *second])
    assert all(value >= 0 for value in losses.values())
    assert {n for n, value in losses.items() if value == 0} <= MAY_VANISH.get(name, {}).keys()


@promise
def test_what_is_drawn_by_chance_follows_the_seed(name):
    one, other = (learn(small(name), *batch(count=1)) for _ in range(2))
    assert {n: v.item() for n, v in one.items()} == {n: v.item() for n, v in other.items()}


@pytest.mark.long
@promise
def test_half_the_precision_gives_almost_the_same_losses(name):
    images, targets = batch()
    whole, model = learn(small(name), images, targets), small(name)
    with torch.autocast("cpu", torch.bfloat16):
        half = learn(model, images, targets)
    assert {n: v.item() for n, v in half.items()} == pytest.approx(
        {n: v.item() for n, v in whole.items()}, rel=0.02, abs=1e-9
    )
    assert all(p.grad.isfinite().all() for p in trainable(model).values())


# --- predicting


@promise
def test_predictions_are_ranked_and_fit_the_original_picture(name):
    images, _ = batch()
    images = replace(images, originals=((64, 96), (100, 130)))
    assert isinstance(small(name), Method)
    for found, size in zip(small(name).eval().predict(images), images.originals, strict=True):
        assert len(found) > 0
        assert found.masks.size == size
        assert found.masks.area().any()
        assert (found.mask_scores.diff() <= 0).all()
        assert ((found.quality >= 0) & (found.quality <= 1)).all()
        torch.testing.assert_close(found.mask_scores, found.scores * found.quality)
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()
        assert found.labels.min() >= 0
        assert found.labels.max() < CLASSES


@promise
def test_a_larger_original_has_the_same_instances_larger(name):
    images, _ = batch(count=1)
    model = small(name).eval()
    one, twice = model.predict(images)[0], model.predict(replace(images, originals=((128, 192),)))[0]
    if METHODS[name].family in BOXES_OF_MASKS:
        torch.testing.assert_close(twice.boxes, twice.masks.boxes())
        torch.testing.assert_close(twice.boxes, 2 * one.boxes, rtol=0, atol=2)
        least = BOXES_OF_MASKS[METHODS[name].family]
        assert one.masks.resize((128, 192)).iou(twice.masks).diagonal().mean() > least
    else:
        torch.testing.assert_close(twice.boxes, 2 * one.boxes)
    torch.testing.assert_close(twice.mask_scores, one.mask_scores)
    assert 3 < twice.masks.area().sum() / one.masks.area().sum() < 5


@promise
def test_nothing_found_is_an_answer(name):
    for found in small(name, min_score=1.0).eval().predict(batch()[0]):
        assert len(found) == 0
        assert len(found.masks) == 0


@promise
def test_a_picture_alone_is_answered_as_in_a_batch_of_the_same_padding(name):
    """Padding itself is seen by the convolutions near it, here as in other implementations."""
    first, second = batch(count=1)[0].pixels[0], batch(size=(48, 70), count=1)[0].pixels[0, :, :48, :70]
    model, together = small(name).eval(), Images.batch([first, second])
    for i, found in enumerate(model.predict(together)):
        one = slice(i, i + 1)
        pixels, sizes, originals = together.pixels[one], together.sizes[one], together.originals[one]
        alone = model.predict(Images(pixels=pixels, sizes=sizes, originals=originals))[0]
        torch.testing.assert_close(alone.boxes, found.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone.mask_scores, found.mask_scores, rtol=1e-3, atol=1e-4)


@promise
def test_what_lies_in_the_padding_is_not_seen(name):
    images, _ = batch(size=(50, 70), count=1)
    noisy = images.pixels.clone()
    noisy[..., 50:, :], noisy[..., 70:] = 0.7, 0.3
    model = small(name).eval()
    one, other = (model.predict(replace(images, pixels=p))[0] for p in (images.pixels, noisy))
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.mask_scores, other.mask_scores)


@promise
def test_the_same_question_gets_the_same_answer_also_after_saving(name, tmp_path):
    images, _ = batch(count=1)
    model, other = small(name), small(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    first, again = (model.eval().predict(images)[0] for _ in range(2))
    torch.save(model.state_dict(), tmp_path / "state.pth")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for found in (again, other.eval().predict(images)[0]):
        assert torch.equal(found.boxes, first.boxes)
        assert torch.equal(found.mask_scores, first.mask_scores)
        assert torch.equal(found.masks.bits, first.masks.bits)


WITH_CLASSES = [(name, {}) for name in METHODS if METHODS[name].family != "proposals"]
WITH_CLASSES += [("mask_rcnn", {"mask_loss": "softmax"}), ("ms_rcnn", {"quality_input": "all_classes"})]
WITH_CLASSES += [("discriminative", {"backbone": "erfnet"})]


@pytest.mark.long
@pytest.mark.parametrize(("name", "options"), WITH_CLASSES, ids=str)
def test_weights_of_classes_go_on_under_another_order(name, options):
    known, wanted = (Categories(names=tuple(names)) for names in ("abcdefgh", "hbadfceg"))
    model, other = small(name, **options).eval(), small(name, **options).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    states = model.state_dict(), other.state_dict(), small(name, num_classes=CLASSES + 1, **options).state_dict()
    other.load_state_dict(classes.moved(*states, same=classes.shared(known, wanted), known=CLASSES))
    one, again = (network.predict(batch(count=1)[0])[0] for network in (model, other))
    ranked, again = one[_ranked(one)], again[_ranked(again)]
    assert [known.names[i] for i in ranked.labels] == [wanted.names[i] for i in again.labels]
    torch.testing.assert_close(again.boxes, ranked.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(again.mask_scores, ranked.mask_scores, rtol=1e-4, atol=1e-5)


def _ranked(found):
    return (found.boxes.sum(1) + 1000 * found.mask_scores).argsort()


@pytest.mark.parametrize("name", METHODS)
def test_a_misspelt_option_is_refused(name):
    with pytest.raises(TypeError, match="min_scroe"):
        METHODS[name].config(num_classes=2, min_scroe=0.1)


# --- the exceptions themselves


def test_exceptions_name_what_exists_and_say_why():
    for method, test in EXCEPTIONS:
        assert method in METHODS
        assert test in globals()
    assert NEVER_LEARN.keys() | FROM_ZERO.keys() | MAY_VANISH.keys() <= METHODS.keys()
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())


@pytest.mark.parametrize("holds", [True, False])
def test_an_exception_must_really_fail(monkeypatch, holds):
    @promise
    def test(name):
        assert holds

    monkeypatch.setitem(EXCEPTIONS, ("mask_rcnn", "test"), "for the sake of this test")
    if holds:
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            test(name="mask_rcnn")
    else:
        test(name="mask_rcnn")
