"""The same weights, the same answer: against Detectron, its two successors, and Detectron2, written from formulas."""

from dataclasses import replace

import pytest
import torch
from foreign import ONE_LEVEL, PYRAMID, Detector, of_detectron, of_detectron2, with_opinions

from maskwise import boxes
from maskwise.structures import Images
from maskwise.weights import benchmark, detectron, detectron2

D2 = {"legacy": False, "mean": (103.53, 116.28, 123.675)}
SLOW = pytest.mark.slow
C4 = {"variant": "c4", "proposals": 24, "most": 12}
ORIGINAL = (150, 171)


def picture():
    return torch.rand(3, 120, 150, generator=torch.Generator().manual_seed(3))


def seen(theirs, state, source, **options):
    """What maskwise says with these weights."""
    same = {"proposals_test": theirs.proposals, "max_instances": theirs.most, "min_score": theirs.min_score}
    model = source.load(state, cfg=replace(source.config(state), **same, **options)).eval()
    images = replace(Images.batch([picture()]), originals=(ORIGINAL,))
    return model.predict(images)[0]


def agree(found, want, *, legacy, least=8):
    """The same boxes, classes, scores and masks; equal scores may change places."""
    expected = boxes.to_continuous(want.boxes) if legacy else want.boxes
    assert len(want.boxes) >= least
    assert len(found) == len(want.boxes)
    labels = want.classes - int(legacy)
    place = torch.cdist(
        torch.cat([expected, 1000 * labels[:, None]], 1), torch.cat([found.boxes, 1000 * found.labels[:, None]], 1)
    ).argmin(1)
    found = found[place]
    assert torch.equal(found.labels, labels)
    assert len(labels.unique()) >= 2
    torch.testing.assert_close(found.boxes, expected, rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(found.scores, want.scores, rtol=1e-4, atol=1e-4)
    wanted = want.scores * (want.mask_scores / want.scores).clamp(0, 1)
    torch.testing.assert_close(found.mask_scores, wanted, rtol=1e-4, atol=1e-4)
    masks = found.masks.dense()
    assert (masks != want.masks).float().mean() < 1e-3
    assert masks.any((1, 2)).float().mean() > 0.3


CASES = {
    "maskscoring_rcnn": {"legacy": True, "maskiou": True},
    "of smaller blocks": {"legacy": True, "maskiou": True, "blocks": (2, 2, 2, 2), "bottlenecks": False},
    "C4": {"legacy": True} | C4,
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=SLOW if case == "C4" else ()) for case in CASES])
def test_maskrcnn_benchmark(case):
    theirs = with_opinions(Detector(**CASES[case]), picture())
    want = theirs(picture(), ORIGINAL)
    state = of_benchmark(theirs)
    agree(seen(theirs, state, benchmark), want, legacy=True)


def of_benchmark(theirs):
    """With what else is in such a file: anchors, and one head under two names."""
    anchors = PYRAMID if theirs.variant == "fpn" else [ONE_LEVEL]
    state = dict(theirs.weights)
    state |= {f"rpn.anchor_generator.cell_anchors.{i}": torch.tensor(a).float() for i, a in enumerate(anchors)}
    return state | {k.replace("box.feature_extractor.head", "mask.feature_extractor.head"): v for k, v in state.items()}


def test_detectron():
    """A norm there is a scale and a shift."""
    theirs = with_opinions(Detector(legacy=True), picture())
    for name, value in theirs.weights.items():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(float(name.endswith("var")))
    want = theirs(picture(), ORIGINAL)
    agree(seen(theirs, of_detectron(theirs.weights), detectron), want, legacy=True)


D2_CASES = {"FPN": {}, "C4": C4, "DC5": {"variant": "dc5"}}
D2_CASES["ResNeXt"] = {"stride_first": False, "groups": 32, "blocks": (3, 4, 23, 3), "std": (57.375, 57.12, 58.395)}


@pytest.mark.parametrize("case", ["FPN", *(pytest.param(case, marks=SLOW) for case in ("C4", "DC5", "ResNeXt"))])
def test_detectron2(case):
    theirs = with_opinions(Detector(**D2, **D2_CASES[case]), picture())
    want = theirs(picture(), ORIGINAL)
    agree(seen(theirs, of_detectron2(theirs), detectron2), want, legacy=False)


MISTAKES = {
    "background last": "cls_score",
    "boxes of background": "bbox_pred",
    "masks of background": "mask_fcn_logits",
    "IoU of background": "predictor.maskiou",
}
OTHERWISE = {
    "the usual pixels": {"pixel_mean": None, "pixel_std": None},
    "torchvision's arithmetic": {"convention": "torchvision"},
    "continuous arithmetic": {"convention": "continuous"},
    "bins as fine as they are": {"convention": "legacy_c4"},
}


@pytest.fixture(scope="module")
def small():
    theirs = with_opinions(Detector(**CASES["of smaller blocks"]), picture())
    return theirs, theirs(picture(), ORIGINAL)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_order_of_classes_would_be_noticed(small, mistake):
    """Shapes fit, and yet the answer is another."""
    theirs, want = small
    rows = 4 if mistake == "boxes of background" else 1
    state = {k: v.roll(rows, 0) if MISTAKES[mistake] in k else v for k, v in theirs.weights.items()}
    with pytest.raises(AssertionError):
        agree(seen(theirs, state, benchmark), want, legacy=True)


def test_another_order_of_colours_would_be_noticed(small):
    theirs, want = small
    state = {k: v.flip(1) if k == "backbone.body.stem.conv1.weight" else v for k, v in theirs.weights.items()}
    with pytest.raises(AssertionError):
        agree(seen(theirs, state, benchmark), want, legacy=True)


@pytest.mark.parametrize("other", OTHERWISE)
def test_another_arithmetic_would_be_noticed(small, other):
    theirs, want = small
    with pytest.raises(AssertionError):
        agree(seen(theirs, theirs.weights, benchmark, **OTHERWISE[other]), want, legacy=True)


@SLOW
def test_strides_elsewhere_would_be_noticed():
    theirs = with_opinions(Detector(legacy=True), picture())
    with pytest.raises(AssertionError):
        agree(seen(theirs, theirs.weights, benchmark, stride_first=False), theirs(picture(), ORIGINAL), legacy=True)


@SLOW
def test_red_first_is_told_by_the_means():
    """As in later configurations of Detectron2, where these still stand in the file."""
    theirs = Detector(legacy=False, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))
    theirs = with_opinions(theirs, picture())
    state, want = of_detectron2(theirs), theirs(picture(), ORIGINAL)
    place = "backbone.bottom_up.stem.conv1.weight"
    state[place] = state[place].flip(1)
    state["pixel_mean"] = torch.tensor(theirs.mean).flip(0)[:, None, None]
    state["pixel_std"] = torch.tensor(theirs.std).flip(0)[:, None, None]
    agree(seen(theirs, state, detectron2), want, legacy=False)
