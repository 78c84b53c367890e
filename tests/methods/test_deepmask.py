"""What windows teach DeepMask, and that it sees the same in windows and in whole pictures."""

from dataclasses import replace

import pytest
import torch
from small import batch, small
from torch import nn
from torch.nn import functional as F

from maskwise import boxes
from maskwise.masks import Masks
from maskwise.methods import deepmask
from maskwise.methods.deepmask import (
    Config,
    MaskHead,
    Reducer,
    Scorer,
    WindowFeatures,
    canonical,
    mask_loss,
    sampled_windows,
)
from maskwise.structures import Images, Targets


def objects(*rows, size=(64, 96)):
    """One of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.zeros(len(rows), dtype=torch.int64))


class Constant(nn.Module):
    """A painter that draws the same logits in each window."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def maps(self, _):
        return []

    def forward(self, codes, _):
        return self.logits.expand(len(codes), -1, -1)


# --- the heads


def test_heads_over_a_whole_map_equal_linear_layers_on_each_window():
    """The paper's fully connected layers, written out for the window that begins at row 2, column 5."""
    torch.manual_seed(0)
    cfg, cells = Config(width=8, code=16, hidden=12, mask_side=6, drawn_side=12), 10
    reducer, scorer, head = Reducer(cfg, 24, cells), Scorer(cfg).eval(), MaskHead(cfg, cells)
    features = torch.randn(1, 24, 13, 17)
    reduced, codes = reducer(features)
    assert codes.shape == (1, 16, 4, 8)
    window = features[:, :, 2:12, 5:15]
    narrow = F.linear(window.movedim(1, 3), reducer.narrow.weight[:, :, 0, 0], reducer.narrow.bias).relu().movedim(3, 1)
    code = F.linear(narrow.flatten(1), reducer.encode.weight.flatten(1), reducer.encode.bias)
    torch.testing.assert_close(codes[:, :, 2, 5], code, rtol=0, atol=1e-4)
    torch.testing.assert_close(scorer(codes[0].movedim(0, 2))[2, 5], scorer(code)[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(head(codes[:, :, 2, 5], []), head(code, []), rtol=0, atol=1e-4)
    assert torch.equal(narrow, reduced[:, :, 2:12, 5:15]) or (narrow - reduced[:, :, 2:12, 5:15]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["low_rank", "full"])
def test_masks_of_the_low_rank_head_have_the_rank_of_the_code(kind):
    torch.manual_seed(0)
    cfg, cells = Config(mask_head=kind, width=8, code=4, mask_side=6, drawn_side=6), 5
    reducer, head = Reducer(cfg, 8, cells), MaskHead(cfg, cells)
    reduced, codes = reducer(torch.randn(30, 8, cells, cells))
    logits = head(codes[:, :, 0, 0], head.maps(WindowFeatures([], reduced, codes))).flatten(1) - head.predict.bias
    rank = int(torch.linalg.matrix_rank(logits, rtol=1e-4))
    assert rank == 4 if kind == "low_rank" else rank > 20


def test_the_full_head_reads_its_windows_out_of_a_whole_picture_too():
    images, targets = batch(count=1)
    model = small("deepmask", mask_head="full", octaves=(0.0,)).eval()
    assert len(model.predict(images)[0]) > 0
    assert model(images, targets)["mask"].isfinite()


# --- what is learned


def test_the_mask_loss_is_the_mean_over_pixels_of_log_1_plus_exp_of_minus_m_f():
    """An object fills the left half of its window. f is 2 everywhere: right there, wrong elsewhere."""
    targets = objects((0, 64, 0, 48), (0, 0, 0, 0))
    at = deepmask.SampledWindows(
        torch.tensor([[16.0, 0, 80, 64]]), torch.tensor([0]), torch.zeros(0, 4), torch.zeros(0)
    )
    seen = WindowFeatures([], torch.zeros(1, 1, 1, 1), torch.zeros(1, 4, 1, 1))
    loss = mask_loss(Constant(torch.full((1, 8, 8), 2.0)), seen, [at], [targets])
    wrong, right = torch.tensor([1 + torch.e**2, 1 + torch.e**-2]).log()
    assert loss.item() == pytest.approx((0.5 * wrong + 0.5 * right).item())


def test_scores_weigh_a_32nd_of_masks():
    images, targets = batch()
    losses = []
    for model in (small("deepmask"), small("deepmask", score_weight=1.0)):
        torch.manual_seed(0)
        losses.append(model(images, targets))
    assert losses[0]["mask"] == losses[1]["mask"]
    assert losses[1]["score"].item() == pytest.approx(32 * losses[0]["score"].item())
    assert 0.5 < losses[1]["score"] < 1, "of random weights about log 2"


def test_each_head_learns_from_its_own_loss_and_the_trunk_from_both():
    images, targets = batch()
    for loss, idle in (("mask", "scorer"), ("score", "mask")):
        model = small("deepmask")
        model(images, targets)[loss].backward()
        assert all(p.grad is None or not p.grad.any() for p in model.get_submodule(idle).parameters())
        assert all(p.grad.any() for p in model.reducer.parameters())
        assert any(p.grad.any() for p in model.backbone.parameters())


def test_canonical_sizes_are_those_of_the_paper_and_of_the_code():
    assert canonical(Config(patch=224)).long == 128
    ours = canonical(Config())
    assert (ours.long, ours.shift, ours.away, ours.octaves_away) == (92, 16, 48, 2.5)
    octaves = torch.tensor(Config().octaves)
    torch.testing.assert_close(2**-octaves, 2 ** torch.arange(0.5, -2.6, -0.5))


def test_small_objects_and_crowds_are_not_learned_from_but_kept_away_from():
    targets = objects((10, 14, 10, 60), (20, 26, 20, 30), (30, 50, 40, 70), (0, 30, 60, 90))
    targets = replace(targets, crowd=torch.tensor([False, False, False, True]))
    cfg = Config(patch=64, samples=50)
    torch.manual_seed(0)
    found = sampled_windows(cfg, canonical(cfg), targets)
    assert found.matched.unique().tolist() == [2], "4 pixels high; 60 pixels in all; and a crowd"
    assert found.positive.tolist() == [1.0] * 25 + [0.0] * (len(found.scores) - 25)
    torch.testing.assert_close(boxes.centres(found.scores[:25]), torch.tensor([[55.0, 40]]).expand(25, 2))


@pytest.mark.parametrize("row", [(0, 64, 0, 96), (0, 20, 0, 20), (63, 64, 0, 96)])
def test_objects_as_large_as_the_picture_or_at_its_border(row):
    images, _ = batch(count=1)
    losses = small("deepmask")(images, [objects(row)])
    assert all(v.isfinite() for v in losses.values())
    assert (losses["mask"] > 0) == (row != (63, 64, 0, 96))


def test_nothing_at_all_to_learn_from_gives_zero_with_a_gradient():
    """A crowd everywhere: no object, and no place without one."""
    images, _ = batch(count=1)
    targets = replace(objects((0, 64, 0, 96)), crowd=torch.tensor([True]))
    model = small("deepmask")
    losses = model(images, [targets])
    sum(losses.values()).backward()
    assert {n: v.item() for n, v in losses.items()} == {"mask": 0, "score": 0}
    assert all(p.grad is not None for p in model.parameters())


# --- what is found


@pytest.mark.parametrize(("octave", "row", "column"), [(-1.0, 3, 4), (0.0, 2, 3), (1.0, 1, 1)])
def test_a_mask_in_a_window_comes_back_where_it_was(octave, row, column):
    """The object at the centre of a window, as cells of that window, pasted into a picture of twice the size."""
    model = small("deepmask", drawn_side=64).eval()
    rows, columns = torch.tensor([row]), torch.tensor([column])
    at = model.sliding.windows(rows, columns, octave)
    (cx, cy), half = boxes.centres(at)[0].int().tolist(), int(16 * 2**octave)
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    disc = Masks.from_dense((((y - cy) ** 2 + (x - cx) ** 2) < half**2)[None])
    logits = 12 * disc.sample(at, torch.tensor([0]), 64) - 6
    seen = WindowFeatures([], torch.zeros(1, 1, 40, 40), torch.zeros(1, 4, 40, 40))
    drawn = model._drawn(seen, rows, columns, 2 * at, (256, 256), Constant(logits))
    assert drawn.iou(disc.resize((256, 256))).item() > 0.95


@pytest.mark.long
def test_the_best_windows_of_all_sizes_are_reported():
    images, _ = batch(count=1)
    model = small("deepmask", max_instances=1000).eval()
    whole = model.predict(images)[0]
    octaves = [small("deepmask", max_instances=1000, octaves=(o,)).eval() for o in model.cfg.octaves]
    scores = torch.cat([one.predict(images)[0].scores for one in octaves]).sort(descending=True).values
    torch.testing.assert_close(whole.scores, scores)
    few = small("deepmask", max_instances=7).eval().predict(images)[0]
    torch.testing.assert_close(few.scores, whole.scores[:7])
    least = whole.scores[5].item()
    assert len(small("deepmask", max_instances=1000, min_score=least).eval().predict(images)[0]) == 5


def test_masks_that_show_nothing_are_left_out_and_doubles_where_that_is_wanted():
    images, _ = batch(count=1)
    assert len(small("deepmask", threshold=1.0).eval().predict(images)[0]) == 0
    found = small("deepmask", max_instances=100, nms_iou=0.5).eval().predict(images)[0]
    overlap = boxes.iou(found.boxes, found.boxes).fill_diagonal_(0)
    assert 0 < len(found) < 100
    assert overlap.max() <= 0.5


@pytest.mark.parametrize("stage", [3, 4])
def test_a_picture_smaller_than_a_cell_is_answered(stage):
    for found in small("deepmask", stage=stage).eval().predict(Images.batch([torch.rand(3, 5, 3)])):
        assert found.masks.size == (5, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"num_classes must be 1, got 8.*data.as_one=true"):
        deepmask.build(Config(num_classes=8))
    with pytest.raises(ValueError, match=r"patch: expected a multiple of 16, .* got 100"):
        deepmask.build(Config(patch=100))
