"""Every method keeps every promise. A method that cannot must be excepted here, with a reason."""

from dataclasses import replace

import pytest
import torch

from maskwise.data.scenes import Scenes
from maskwise.masks import Masks
from maskwise.methods import METHODS
from maskwise.structures import Images, Targets

SMALL = {"num_classes": 8, "backbone": "resnet18", "width": 32, "hidden": 64, "min_score": 0.0, "max_instances": 10}
SMALL |= {"per_level_train": 50, "per_level_test": 50, "proposals_train": 30, "proposals_test": 20}


@pytest.fixture(params=METHODS)
def model(request):
    torch.manual_seed(0)
    entry = METHODS[request.param]
    return entry.build(entry.config(**SMALL))


def batch(*, size=(64, 96), count=2, **dials):
    scenes = Scenes(size=size, count=(2, 4), **dials)
    several = [scenes.scene(i) for i in range(count)]
    pixels = [torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()) / 255 for s in several]
    return Images.batch(pixels), [s.targets for s in several]


def dense(*rows):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), 64, 96, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.arange(len(rows)))


def crowded():
    targets = dense((10, 30, 10, 30), (5, 60, 20, 90))
    return replace(targets, crowd=torch.tensor([False, True]))


CASES = {
    "objects": lambda: batch(count=1)[1][0],
    "none": lambda: Targets.none((64, 96)),
    "one pixel": lambda: dense((20, 21, 30, 31)),
    "no pixel": lambda: dense((10, 30, 10, 30), (0, 0, 0, 0)),
    "crowd": crowded,
    "only a crowd": lambda: crowded()[1:],
    "at the border": lambda: dense((0, 64, 0, 96), (40, 64, 80, 96), (0, 3, 0, 96)),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_are_finite_scalars_with_a_gradient_for_everything(model, case):
    images, targets = batch()
    losses = model.train()(images, [CASES[case](), targets[1] if case == "objects" else CASES[case]()])
    for name, value in losses.items():
        assert value.shape == (), name
        assert value.isfinite(), name
    sum(losses.values()).backward()
    lonely = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lonely
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_crowds_are_no_objects(name):
    torch.manual_seed(0)
    entry = METHODS[name]
    model = entry.build(entry.config(**SMALL | {"anchor_samples": 10**6}))
    images, _ = batch(count=1)
    with_crowd, without = (model(images, [targets]) for targets in (crowded(), crowded()[:1]))
    for part in ("rpn_score", "rpn_box"):
        torch.testing.assert_close(with_crowd[part], without[part])


def test_predictions_are_ranked_and_fit_the_original_picture(model):
    images, _ = batch()
    images = replace(images, originals=((64, 96), (100, 130)))
    for found, size in zip(model.eval().predict(images), images.originals, strict=True):
        assert 0 < len(found) <= 10
        assert found.masks.size == size
        assert (found.mask_scores.diff() <= 0).all()
        assert ((found.quality >= 0) & (found.quality <= 1)).all()
        torch.testing.assert_close(found.mask_scores, found.scores * found.quality)
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()
        assert found.labels.min() >= 0
        assert found.labels.max() < 8


def test_nothing_found_is_an_answer(model):
    object.__setattr__(model.cfg, "min_score", 1.0)
    for found in model.eval().predict(batch()[0]):
        assert len(found) == 0
        assert len(found.masks) == 0


def test_a_picture_alone_is_answered_as_in_a_batch(model):
    images, _ = batch()
    small, _ = batch(size=(48, 70), count=1)
    pictures = [images.pixels[0], small.pixels[0, :, :48, :70]]
    together = model.eval().predict(Images.batch(pictures))
    for picture, found in zip(pictures, together, strict=True):
        padded = Images.batch([picture, torch.zeros(3, 64, 96)])
        alone = model.predict(
            replace(padded, pixels=padded.pixels[:1], sizes=padded.sizes[:1], originals=padded.originals[:1])
        )[0]
        torch.testing.assert_close(alone.boxes, found.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone.mask_scores, found.mask_scores, rtol=1e-3, atol=1e-4)


def test_the_same_question_gets_the_same_answer_also_after_saving(model, tmp_path):
    images, _ = batch(count=1)
    first, again = (model.eval().predict(images)[0] for _ in range(2))
    torch.save(model.state_dict(), tmp_path / "state.pth")
    entry = next(e for e in METHODS.values() if e.config is type(model.cfg))
    other = entry.build(model.cfg).eval()
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for found in (again, other.predict(images)[0]):
        assert torch.equal(found.boxes, first.boxes)
        assert torch.equal(found.mask_scores, first.mask_scores)
        assert torch.equal(found.masks.bits, first.masks.bits)


@pytest.mark.parametrize("name", METHODS)
def test_a_misspelt_option_is_refused(name):
    with pytest.raises(TypeError, match="min_scroe"):
        METHODS[name].config(num_classes=2, min_scroe=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "c4", "proposals_train": 10},
        {"variant": "dc5"},
        {"operator": "warp", "reduce": "maximum", "mask_head": "mlp3", "class_agnostic": True},
        {"operator": "pool", "mask_loss": "softmax", "head_norm": "group", "norm": "group"},
        {"quality_input": "multiplied", "quality_classes": "all"},
        {"quality_input": "all_classes", "quality_classes": "present", "quality_above": 0.3},
        {"quality_input": "unpooled"},
        {"quality_input": "mask_only"},
        {"convention": "legacy", "soft_nms_sigma": 0.6, "deformable": (4, 5), "min_score": 0.001},
    ],
    ids=str,
)
def test_variants_learn_and_predict(options):
    """Mask Scoring R-CNN has all options of Mask R-CNN."""
    torch.manual_seed(0)
    entry = METHODS["ms_rcnn"]
    model = entry.build(entry.config(**SMALL | {"region_samples": 16} | options))
    images, targets = batch(size=(64, 64))
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(found.masks.size == (64, 64) for found in model.eval().predict(images))
