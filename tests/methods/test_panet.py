"""The path from fine to coarse, reading of all levels, and the second path of the mask head."""

from functools import partial

import pytest
import torch
from small import batch, small
from torch import nn
from torchvision.ops import roi_align

from maskwise.methods.mask_rcnn import Reader
from maskwise.methods.panet import AllLevels, BottomUp, Config, FusedLevels, TwoPathMaskHead, box_body
from maskwise.parts.convention import CONVENTIONS
from maskwise.parts.roi import Pool

VARIANTS = [
    {"bottom_up": False, "levels": "own", "foreground": None},
    {"fuse": "sum", "box_head": "layers", "foreground": "product", "foreground_after": 4},
    {"head_norm": None, "foreground": "maximum", "foreground_after": 2, "class_agnostic": True},
    {"head_norm": "synchronized", "norm": "synchronized", "box_head": "layers"},
    {"fpn_from": 3, "num_classes": 1, "keypoints": 17, "keypoint_width": 16, "convention": "legacy"},
    {"masks": False},
]


@pytest.mark.long
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_learn_and_predict(options):
    model = small("panet", **{"region_samples": 16} | options)
    images, targets = batch(size=(64, 64), **{"mode": "parts"} if options.get("keypoints") else {})
    losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(len(found) > 0 for found in model.eval().predict(images))


@pytest.mark.parametrize("options", [{"variant": "c4"}, {"mask_head": "mlp2"}, {"mask_loss": "softmax"}])
def test_what_has_no_pyramid_or_no_small_masks_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} '.*', not"):
        Config(num_classes=2, **options)


# --- the second path


def identity(path):
    """Every convolution takes the middle of what it sees."""
    for layer in path.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
    return path


def test_the_second_path_by_hand():
    """N2 is P2; N3 is every second cell of it, no less than 0, and P3; the coarsest is every second cell of N4."""
    p2 = torch.arange(64.0).view(1, 1, 8, 8) - 20
    p3, p4, p5 = torch.full((1, 1, 4, 4), 100.0), torch.full((1, 1, 2, 2), -1000.0), torch.zeros(1, 1, 1, 1)
    n2, n3, n4, n5 = identity(BottomUp(1, 3, norm=None))([p2, p3, p4, p5])
    assert torch.equal(n2, p2)
    assert torch.equal(n3, p2[..., ::2, ::2].relu() + 100)
    assert torch.equal(n4, torch.zeros(1, 1, 2, 2)), "ReLU follows the sum too"
    assert n5.shape == (1, 1, 1, 1)


def test_the_second_path_can_be_left_out_and_leaves_the_finest_level_as_it_was():
    images, _ = batch(count=1)
    both, one = (small("panet", bottom_up=on).eval() for on in (True, False))
    one.load_state_dict({k.replace("neck.0.", "neck."): v for k, v in both.state_dict().items() if "neck.1." not in k})
    with torch.no_grad():
        found, pyramid = both.levels(images), one.levels(images)
    assert [x.shape for x in found] == [x.shape for x in pyramid]
    assert [torch.equal(x, y) for x, y in zip(found, pyramid, strict=True)] == [True] + [False] * 4


def test_fine_features_reach_the_coarsest_level():
    levels = [torch.rand(1, 4, side, side, requires_grad=True) for side in (16, 8, 4, 2, 1)]
    BottomUp(4, 4, norm="group")(levels)[3].square().sum().backward()
    assert levels[0].grad.any()
    assert levels[4].grad is None, "made anew"


# --- reading of all levels


def test_regions_are_read_from_each_level_as_roi_align_reads_it():
    torch.manual_seed(0)
    levels = [torch.rand(2, 3, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64)]
    pool = Pool(size=7, strides=(4, 8, 16, 32), convention=CONVENTIONS["continuous"])
    one, other = torch.tensor([[3.0, 5, 60, 41], [10, 10, 14, 12]]), torch.tensor([[0.0, 0, 64, 64]])
    found = AllLevels(pool)(levels, [one, other])
    rois = torch.tensor([[0, 3.0, 5, 60, 41], [0, 10, 10, 14, 12], [1, 0, 0, 64, 64]])
    expected = [roi_align(x, rois, 7, 1 / s, 0, True) for x, s in zip(levels, pool.strides, strict=False)]
    torch.testing.assert_close(found, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fuse", "expected"), [("maximum", 6.0), ("sum", 11.0)])
def test_levels_are_fused_behind_a_layer_of_their_own_by_hand(fuse, expected):
    """A region shows 3 on one level and 5 on the other; their layers multiply by 2 and by 1: 6 and 5."""
    layers = FusedLevels(partial(nn.Conv2d, 1, 1, 1), levels=2, fuse=fuse)
    for layer, weight in zip(layers.layers, (2.0, 1.0), strict=True):
        nn.init.constant_(layer.weight, weight)
        nn.init.zeros_(layer.bias)
    maps = [torch.full((1, 1, 16, 16), 3.0), torch.full((1, 1, 8, 8), 5.0)]
    pool = Pool(size=2, strides=(4, 8), convention=CONVENTIONS["continuous"])
    found = layers(AllLevels(pool)(maps, [torch.tensor([[8.0, 8, 40, 40]])]))
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), expected))
    found.sum().backward()
    taught = [layer.weight.grad.item() for layer in layers.layers]
    assert taught == pytest.approx([12, 0] if fuse == "maximum" else [12, 20])


def test_one_level_or_all_of_them():
    every, own = (small("panet", levels=levels) for levels in ("all", "own"))
    assert isinstance(every.box_pool, AllLevels)
    assert isinstance(own.box_pool, Reader)
    for model, count in ((every, 4), (own, 1)):
        fused = [m for m in model.modules() if isinstance(m, FusedLevels)]
        assert [len(m.layers) for m in fused] == [count, count], "of the box head and of the mask head"


def test_two_layers_are_linear_ones():
    cfg = Config(num_classes=2, hidden=6, box_head="layers", head_norm=None, levels="own")
    body, length = box_body(cfg, 5)
    x = torch.rand(3, 5, 7, 7)
    first, second = (m for m in body.modules() if isinstance(m, nn.Conv2d))
    hidden = (x.flatten(1) @ first.weight.flatten(1).T + first.bias).relu()
    expected = (hidden @ second.weight.flatten(1).T + second.bias).relu()
    torch.testing.assert_close(body(x), expected)
    assert expected.shape == (3, length)


# --- the second path of the mask head


def head(**options):
    return TwoPathMaskHead(Config(num_classes=3, width=8, levels="own", **options), 8)


@pytest.mark.parametrize("after", [2, 3, 4])
def test_the_paths_part_behind_a_convolution_and_have_the_same_cells(after):
    masks = head(foreground_after=after)
    assert len(masks.shared) == 1 + 2 * (after - 1), "each with ReLU, the first knows of levels"
    assert len(masks.classes.convolutions) == 2 * (4 - after)
    x = torch.rand(5, 8, 14, 14)
    whole = masks.foreground(masks.shared(x))
    assert masks.foreground.convolutions(masks.shared(x)).shape == (5, 4, 14, 14), "half as wide in the end"
    assert masks.foreground.layer.weight.shape == (28 * 28, 4 * 14 * 14)
    assert whole.shape == (5, 1, 28, 28)
    assert masks(x).shape == (5, 3, 28, 28)
    assert masks(x[:0]).shape == (0, 3, 28, 28)


@pytest.mark.parametrize(("join", "expected"), [("sum", -1.0), ("product", -2.0), ("maximum", 1.0), (None, -2.0)])
def test_the_foreground_joins_the_logits_of_every_class_by_hand(join, expected):
    """Each class says -2 and the linear layer 1, everywhere: -1 before the sigmoid, which is 0.27 and not 0.12 + 0.73.
    Without ReLU, the layer can also take away."""
    masks = head(foreground=join)
    nn.init.zeros_(masks.classes.predict.weight)
    nn.init.constant_(masks.classes.predict.bias, -2.0)
    if join:
        nn.init.zeros_(masks.foreground.layer.weight)
        nn.init.constant_(masks.foreground.layer.bias, 1.0)
    x = torch.rand(2, 8, 14, 14)
    torch.testing.assert_close(masks(x), torch.full((2, 3, 28, 28), expected))
    if join == "sum":
        nn.init.constant_(masks.foreground.layer.bias, -1.0)
        torch.testing.assert_close(masks(x), torch.full((2, 3, 28, 28), -3.0))
    assert (masks.foreground is None) == (join is None)


def test_every_cell_of_the_foreground_sees_the_whole_region_and_that_of_a_class_a_window():
    masks = head(head_norm=None)
    x = torch.rand(1, 8, 14, 14, requires_grad=True)
    masks.foreground(x)[0, 0, 0, 0].backward()
    assert x.grad[0, :, -1, -1].any()
    x.grad = None
    masks.classes(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, 0, 0].any()
    assert not x.grad[0, :, -1, -1].any()
