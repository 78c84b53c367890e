"""What SharpMask adds to DeepMask, and which stage learns what."""

import pytest
import torch
from small import batch, small
from torch import nn
from torch.nn import functional as F

from maskwise.methods import sharpmask
from maskwise.methods.deepmask import WindowFeatures
from maskwise.methods.sharpmask import Config, Refinement, RefinementModule
from maskwise.parts.padding import SymmetricConv2d
from maskwise.parts.windows import cut


def features(channels, *, cells, count=1):
    """From the finest to the coarsest."""
    return [torch.randn(count, c, *(2 * [cells << i])) for i, c in reversed(list(enumerate(reversed(channels))))]


def seen(maps):
    return WindowFeatures(maps, maps[-1], torch.randn(len(maps[-1]), 512, 1, 1))


def widths(layers):
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    return [convolutions[0].in_channels, *(m.out_channels for m in convolutions)]


def test_channels_are_those_of_the_paper():
    """ResNet-50, windows of 160 pixels: Figure 2 and Section 3 with k = 32, halved by each module."""
    refinement = Refinement(Config(), [64, 256, 512, 1024], 10)
    across = [[1024, 64, 32, 16], [512, 64, 16, 8], [256, 64, 8, 4], [64, 32, 4, 2]]
    assert [widths(layers) for layers in refinement.across] == across
    assert [widths(m.down) for m in refinement.down] == [[32, 32, 16], [16, 16, 8], [8, 8, 4], [4, 4, 2]]
    assert refinement.start.out_features == 32 * 10 * 10
    maps = refinement.maps(seen(features([64, 256, 512, 1024], cells=10, count=2)))
    assert refinement(torch.randn(2, 512), maps).shape == (2, 160, 160)


def test_adding_two_convolutions_is_convolving_what_was_concatenated():
    """As the paper draws it: one convolution of 3 + 4 channels. Without biases twice."""
    torch.manual_seed(0)
    above, beside = SymmetricConv2d(4, 2, 3), SymmetricConv2d(3, 2, 3)
    both = SymmetricConv2d(7, 2, 3)
    both.weight.data = torch.cat([above.weight, beside.weight], 1)
    both.bias.data = above.bias + beside.bias
    x, y = torch.randn(1, 4, 5, 5), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(both(torch.cat([x, y], 1)), above(x) + beside(y))


def test_a_module_halves_channels_and_doubles_sides():
    torch.manual_seed(0)
    module = RefinementModule(Config(), 8)
    above, beside = torch.randn(1, 8, 5, 5), torch.randn(1, 4, 5, 5)
    found = module(above, beside)
    small = (module.down(above) + beside).relu()
    assert torch.equal(found, small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    smooth = RefinementModule(Config(doubling="bilinear"), 8)
    smooth.load_state_dict(module.state_dict())
    expected = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(smooth(above, beside), expected)


@pytest.mark.parametrize(("kind", "count"), [("three", 3), ("one", 1), ("none", 0)])
def test_horizontal_paths_may_be_shorter_or_missing(kind, count):
    torch.manual_seed(0)
    refinement = Refinement(Config(horizontal=kind, code=512, channels=16), [8, 12, 16], 4)
    assert [len(widths(layers)) - 1 for layers in refinement.across] == [count] * (3 if count else 0)
    codes = torch.randn(1, 512)
    one, other = (refinement(codes, refinement.maps(seen(features([8, 12, 16], cells=4)))) for _ in range(2))
    assert one.shape == (1, 32, 32)
    assert torch.equal(one, other) == (kind == "none"), "only then do masks not depend on features"


def test_horizontal_paths_of_a_whole_picture_are_those_of_a_window_but_for_its_border():
    """Three convolutions see three cells further; there a window alone sees its mirror image."""
    torch.manual_seed(0)
    refinement = Refinement(Config(channels=16), [8, 12], 8)
    whole = features([8, 12], cells=20)
    parts = [cut(x, torch.tensor([3 * f]), torch.tensor([5 * f]), 8 * f) for x, f in zip(whole, (2, 1), strict=True)]
    dense, alone = refinement.maps(seen(whole)), refinement.maps(seen(parts))
    for x, y, f in zip(dense, alone, (1, 2), strict=True):
        there = cut(x, torch.tensor([3 * f]), torch.tensor([5 * f]), 8 * f)
        torch.testing.assert_close(there[..., 3:-3, 3:-3], y[..., 3:-3, 3:-3], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(there, y)


# --- two stages


def gradients(model, losses):
    sum(v for v in losses.values() if v.requires_grad).backward()
    return {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None}


def test_one_stage_learns_after_the_other():
    images, targets = batch(count=1)
    for step, learned in ((0, "coarse"), (5, "coarse"), (6, "refinement"), (11, "refinement")):
        model = small("sharpmask")
        model.on_step(step, 12)
        losses = model(images, targets)
        assert losses.keys() == {"mask", "score", "refined"}, "those that do not learn are told"
        assert gradients(model, losses) == {learned}


def test_nothing_of_refinement_reaches_the_trunk_even_side_by_side():
    images, targets = batch(count=1)
    model = small("sharpmask")
    assert gradients(model, {"refined": model(images, targets)["refined"]}) == {"refinement"}


def test_in_the_second_stage_deepmask_stays_as_it_is_to_the_bit():
    """Also its running means, and under weight decay, which moves what has a gradient of zero."""
    images, targets = batch(count=1)
    model = small("sharpmask", norm="batch").train()
    model.on_step(6, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        sum(v for v in model(images, targets).values() if v.requires_grad).backward()
        optimizer.step()
        model.eval().train()  # as a validation between the steps does
    changed = {k.partition(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"refinement"}


def test_under_no_grad_no_stage_learns():
    images, targets = batch(count=1)
    with torch.no_grad():
        assert not any(v.requires_grad for v in small("sharpmask")(images, targets).values())


def test_masks_have_the_resolution_of_windows_and_scores_are_those_of_deepmask():
    images, _ = batch(count=1)
    model = small("sharpmask").eval()
    fine, coarse = model.predict(images)[0], model.coarse.predict(images)[0]
    torch.testing.assert_close(fine.scores[:3], coarse.scores[:3])
    assert not torch.equal(fine.masks.bits, coarse.masks.bits)


def test_channels_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match=r"channels: expected a multiple of 16, .* got 24"):
        sharpmask.build(Config(channels=24))
