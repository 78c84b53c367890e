"""RSIS: its three losses and who learns from them, by hand; what is learned when; what is found; both ablations."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from given import pictures
from small import CLASSES, batch, small
from torch import nn

from maskwise.data.synthetic.scenes import Scenes
from maskwise.evaluate.coverage import dice
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.structures import pair
from maskwise.masks import Masks
from maskwise.methods import rsis
from maskwise.methods.rsis import Config, Decoder, Stage, Steps, match, stage, stop_loss
from maskwise.optimization import build
from maskwise.recipes.run import Optim
from maskwise.structures import Images, Targets

LOG2 = math.log(2)
SURE = 20.0
"""A logit."""


def targets(*rows, labels, size=(32, 32), **rest):
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.tensor(labels), **rest)


class Blind(nn.Module):
    """A backbone that sees nothing."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def forward(self, _):
        return []


class Said(nn.Module):
    """A decoder that says what it is told to, as many steps of it as it is asked for."""

    def __init__(self, masks, classes, objectness):
        super().__init__()
        self.masks, self.classes, self.objectness = (nn.Parameter(v) for v in (masks, classes, objectness))

    def forward(self, *_, steps):
        return Steps(self.masks[:, :steps], self.classes[:, :steps], self.objectness[:, :steps])

    def gradients(self):
        """Of each step, how much there is: of masks, classes, objectness."""
        several = (p.grad[0] for p in (self.masks, self.classes, self.objectness))
        return [grad.reshape(len(grad), -1).abs().sum(1) for grad in several]


@cache
def empty():
    """The method without its networks, which are large to copy."""
    model = small("rsis", stop_threshold=0.5, mask_threshold=0.5)
    model.backbone, model.decoder = Blind(), nn.Identity()
    return model


def saying(masks, classes, objectness, **options):
    """The method with a decoder that says this about one picture."""
    model = deepcopy(empty())
    model.cfg, model.stage = replace(model.cfg, max_steps=len(masks), **options), Stage(len(masks))
    model.decoder = Said(masks[None], classes[None], objectness[None])
    return model


def right(several, *, order=None, steps=4, sure=SURE, **options):
    """What draws the objects one after the other, and says that there are none after that."""
    order = range(len(several)) if order is None else order
    masks = torch.full((steps, *several.masks.size), -sure)
    classes, objectness = torch.zeros(steps, CLASSES), torch.full((steps,), -sure)
    for step, k in enumerate(order):
        masks[step][several.masks.dense()[k]] = sure
        classes[step, several.labels[k]] = sure
        objectness[step] = sure
    return saying(masks, classes, objectness, **options)


def chance(steps=4, size=(32, 32), **options):
    torch.manual_seed(0)
    return saying(torch.randn(steps, *size), torch.randn(steps, CLASSES), torch.randn(steps), **options)


SCENE = targets((2, 10, 2, 10), (2, 20, 10, 18), (22, 30, 2, 30), labels=[1, 1, 3])


# --- the losses


def test_the_losses_by_hand():
    """One object of 2 of 4 pixels, drawn with p = 1/2 everywhere: IoU 1 / (2 + 2 - 1); 8 classes alike: log 8.

    Two steps learn whether there is an object, each log 2 times the balance 1/2. Weights 1, .1 and .5.
    """
    several = targets((0, 1, 0, 2), labels=[5], size=(2, 2))
    model = saying(torch.zeros(3, 32, 32), torch.zeros(3, CLASSES), torch.zeros(3))
    losses = {name: value.item() for name, value in model(pictures((2, 2)), [several]).items()}
    assert losses == pytest.approx({"mask": 2 / 3, "class": 0.1 * math.log(8), "stop": 0.5 * 0.5 * LOG2})


def test_half_the_cross_entropy_says_whether_there_is_an_object():
    """Logits ln 3: p = 3/4. An object, then one after the last: (-ln 3/4 - ln 1/4) / 2, halved; and of a picture with
    none the first step alone."""
    logits = torch.full((1, 4), math.log(3))
    assert stop_loss(logits, torch.tensor([1])).item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 4)
    assert stop_loss(logits, torch.tensor([0])).item() == pytest.approx(-math.log(1 / 4) / 2)


def test_means_are_over_steps_of_all_pictures():
    """Two objects drawn right and one not at all: a third; were it a mean of means it were a half."""
    several, other = SCENE[:2], SCENE[2:]
    model = right(several)
    for name, parameter in list(model.decoder.named_parameters()):
        wrong = torch.full_like(parameter, -SURE) if name == "masks" else parameter
        setattr(model.decoder, name, nn.Parameter(torch.cat([parameter, wrong])))
    losses = model(pictures((32, 32), (32, 32)), [several, other])
    assert losses["mask"].item() == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_objects_may_be_drawn_in_any_order(order):
    losses = right(SCENE, order=order)(pictures((32, 32)), [SCENE])
    assert all(value < 0.01 for value in losses.values())


def test_the_order_of_the_ground_truth_makes_no_difference():
    model, found = chance(), []
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        found.append(model(pictures((32, 32)), [SCENE[order]]))
    for losses in found[1:]:
        torch.testing.assert_close(losses, found[0])


def test_only_as_many_first_steps_as_there_are_objects_draw_any():
    """The third step draws the object best, but there is only one, which is the first step's."""
    overlaps = [torch.tensor([[0.1], [0.5], [0.9]]), torch.tensor([[0.2, 0.6], [0.1, 0.7], [0.9, 0.9]])]
    assert match(overlaps).tolist() == [[0, -1, -1], [0, 1, -1]]


def test_of_more_objects_than_steps_those_drawn_best_are_learned():
    assert match([torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.8, 0.85]])]).tolist() == [[2, 1]]


def test_steps_after_the_last_object_learn_that_there_is_none_and_nothing_else():
    model = chance(steps=5)
    sum(model(pictures((32, 32)), [SCENE[:2]]).values()).backward()
    masks, classes, objectness = model.decoder.gradients()
    assert (masks > 0).tolist() == (classes > 0).tolist() == [True, True, False, False, False]
    assert (objectness > 0).tolist() == [True, True, True, False, False]


def test_without_objects_no_mask_learns_even_to_draw_less():
    model = chance()
    losses = model(pictures((32, 32)), [Targets.none((32, 32))])
    assert losses["mask"].item() == losses["class"].item() == 0
    sum(losses.values()).backward()
    masks, classes, objectness = model.decoder.gradients()
    assert not masks.any()
    assert not classes.any()
    assert (objectness > 0).tolist() == [True, False, False, False]


def test_as_many_steps_are_made_as_the_picture_with_most_objects_needs_to_end():
    model, asked = chance(steps=5), []
    for name, parameter in list(model.decoder.named_parameters()):
        setattr(model.decoder, name, nn.Parameter(torch.cat([parameter, parameter])))
    model.decoder.register_forward_hook(lambda _, __, said: asked.append(said.masks.shape[1]))
    for several in ([SCENE[:1], SCENE[:2]], [SCENE[:0], SCENE[:0]], [SCENE[[0, 1, 2, 0, 1, 2]], SCENE]):
        model(pictures((32, 32), (32, 32)), several)
    assert asked == [3, 1, 5]


def test_the_largest_objects_are_learned_where_there_are_many():
    losses = right(SCENE, order=(1, 2), max_objects=2)(pictures((32, 32)), [SCENE])
    assert all(value < 0.01 for value in losses.values())


def test_crowds_and_padding_teach_nothing():
    several = targets((2, 10, 2, 10), (6, 20, 0, 20), labels=[1, 1], size=(24, 20), crowd=torch.tensor([False, True]))
    model = chance()
    sum(model(pictures((24, 20)), [several]).values()).backward()
    grad = model.decoder.masks.grad[0, 0]
    assert grad[2:10, 2:10].all(), "the crowd lies behind the object"
    assert grad[:6, :20].all()
    assert not grad[10:20, :20].any()
    assert not grad[24:].any()
    assert not grad[:, 20:].any()


def test_a_network_that_has_lost_its_way_shows_in_its_losses():
    model = chance()
    model.decoder.masks.data[0, 0, 0, 0] = math.nan
    assert model(pictures((32, 32)), [SCENE])["mask"].isnan()


# --- what is learned when


def told(step, **options):
    model = small("rsis")
    model.cfg = replace(model.cfg, **options)
    model.on_step(step, 100)
    return model


def test_masks_come_first_then_classes_then_the_end():
    options = {"num_classes": 2, "class_from": 0.2, "stop_from": 0.5, "encoder_from": 0.1}
    learned = {done: stage(Config(**options), done)[1:] for done in (0.0, 0.1, 0.2, 0.5)}
    assert learned == {
        0.0: (False, False, False),
        0.1: (True, False, False),
        0.2: (True, True, False),
        0.5: (True, True, True),
    }


def test_objects_are_added_one_by_one():
    cfg = Config(num_classes=2, max_steps=10, first_steps=2, all_steps_from=0.5, stop_from=0.0, min_steps=5)
    stages = [stage(cfg, done / 100) for done in range(101)]
    steps = [now.steps for now in stages]
    assert steps[0] == 2
    assert steps == sorted(steps)
    assert set(steps) == set(range(2, 11))
    assert steps.index(10) == 50
    assert [now.stop for now in stages] == [count > 5 for count in steps]


@pytest.mark.parametrize("max_steps", [1, 3, 5])
def test_the_end_is_learned_also_of_short_sequences(max_steps):
    now = stage(Config(num_classes=2, max_steps=max_steps, first_steps=2, min_steps=5), 1.0)
    assert now == Stage(max_steps)


def test_without_a_loop_that_tells_the_step_all_is_learned():
    assert rsis.build(config(backbone="resnet18", max_steps=5, first_steps=2)).stage == Stage(5)


def test_the_stage_follows_from_the_step_alone():
    """So that a training that goes on is where it was."""
    one, other = chance(first_steps=2), chance(first_steps=2)
    for step in range(61):
        one.on_step(step, 100)
    other.on_step(60, 100)
    assert one.stage == other.stage


def test_what_is_not_learned_yet_is_told_without_a_gradient():
    images, several = batch(count=1)
    for step, learned in ((0, {"mask"}), (20, {"mask", "class"}), (50, {"mask", "class", "stop"})):
        losses = told(step, class_from=0.2, stop_from=0.5)(images, several)
        assert {name for name, value in losses.items() if value.requires_grad} == learned
        assert all(value > 0 for value in losses.values())


def test_the_backbone_may_wait():
    images, several = batch(count=1)
    for step, learns in ((0, False), (20, True)):
        model = told(step, encoder_from=0.2)
        model(images, several)["mask"].backward()
        assert any(p.grad is not None for p in model.backbone.parameters()) == learns
        assert all(p.grad is not None for p in model.decoder.cells.parameters())


def test_the_first_objects_alone_are_drawn_at_first():
    model = right(SCENE, order=(2, 0, 1), first_steps=2)
    model.on_step(0, 100)
    losses = model(pictures((32, 32)), [SCENE])
    losses["mask"].backward()
    assert losses["mask"] < 0.01
    assert model.decoder.masks.grad[0].flatten(1).any(1).tolist() == [True, True, False, False]


def test_the_backbone_learns_more_slowly():
    model = small("rsis")
    model.cfg = replace(model.cfg, encoder_rate=0.01)
    groups = build(model, Optim(kind="adamw", lr=1e-3, lr_batch=None), 4).param_groups
    of_backbone = {id(p) for p in model.backbone.parameters()}
    rates = {group["base_lr"]: {id(p) in of_backbone for p in group["params"]} for group in groups[::2]}
    assert rates == {1e-3: {False}, 1e-5: {True}}
    assert [(group["base_lr"], group["weight_decay"] > 0) for group in groups] == [
        (1e-3, True),
        (1e-3, False),
        (1e-5, True),
        (1e-5, False),
    ], "norm layers are not decayed"
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


# --- the ablations


def decoded(cfg, features):
    torch.manual_seed(0)
    return Decoder(cfg, [x.shape[1] for x in features])(features, (64, 64), steps=2)


def features(seed=0):
    torch.manual_seed(seed)
    return [torch.randn(1, c, 64 >> k, 64 >> k) for c, k in ((20, 5), (16, 4), (12, 3), (8, 2), (4, 1))]


def config(**options):
    return Config(**({"num_classes": 3, "width": 32, "norm": "group"} | options))


@pytest.mark.parametrize("skips", ["concat", "sum", "multiply", "none"])
def test_finer_features_are_seen_only_by_way_of_skips(skips):
    one, other = features(0), features(1)
    same, changed = (decoded(config(skips=skips), [one[0], *x[1:]]) for x in (one, other))
    assert torch.equal(same.masks, changed.masks) == (skips == "none")
    assert same.masks.shape == (1, 2, 64, 64)


def test_each_cell_sees_what_the_mode_gives_it():
    for skips, seen in {"concat": (32, 64, 32, 16, 8), "sum": (32, 32, 16, 8, 4), "none": (32, 32, 16, 8, 4)}.items():
        decoder = Decoder(config(skips=skips), [20, 16, 12, 8, 4])
        assert [cell.gates.in_channels - cell.channels for cell in decoder.cells] == list(seen)
        assert [cell.channels for cell in decoder.cells] == [32, 16, 8, 4, 2]
        assert len(decoder.skips) == (1 if skips == "none" else 5)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_fewer_levels_do_not_see_the_finest_features(levels):
    one, other = features(0), features(1)
    found = [decoded(config(levels=levels), x) for x in (one, [*one[:levels], *other[levels:]])]
    assert torch.equal(*(steps.masks for steps in found))
    assert found[0].masks.shape == (1, 2, 64, 64)
    if levels > 1:
        finest = [*one[: levels - 1], *other[levels - 1 :]]
        assert not torch.equal(found[0].masks, decoded(config(levels=levels), finest).masks)


def test_what_was_drawn_is_remembered():
    first, second = decoded(config(), features()).masks[0]
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels: expected 1 to 5"),
        ({"levels": 6}, "levels: expected 1 to 5"),
        ({"width": 24}, "multiple of 16, as levels halve it, got 24"),
        ({"backbone": "convnext_tiny"}, "stride 2, which convnext_tiny has not"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rsis.build(config(**options))


# --- what is found


def test_what_was_drawn_is_found():
    found = right(SCENE).predict(pictures((32, 32)))[0]
    best = found[found.scores > 0.5]
    iou = SCENE.masks.iou(best.masks)
    assert len(found) == 3 * CLASSES, "each mask once for each class"
    assert (iou.max(1).values == 1).all()
    assert best.labels[iou.argmax(1)].tolist() == SCENE.labels.tolist()


def test_scores_are_the_class_times_the_objectness():
    classes, objectness = torch.randn(3, CLASSES), torch.tensor([1.0, 0.5, 2.0])
    model = saying(torch.full((3, 32, 32), SURE), classes, objectness)
    expected = classes.softmax(1) * objectness.sigmoid()[:, None]
    found = model.predict(pictures((32, 32)))[0]
    torch.testing.assert_close(found.scores, expected.flatten().sort(descending=True).values)
    model.cfg = replace(model.cfg, all_classes=False)
    found = model.predict(pictures((32, 32)))[0]
    torch.testing.assert_close(found.scores, expected.amax(1).sort(descending=True).values)
    assert found.labels.tolist() == classes.argmax(1)[expected.amax(1).argsort(descending=True)].tolist()


def test_a_step_without_an_object_is_passed_over_and_does_not_end_the_search():
    model = right(SCENE)
    model.decoder.objectness.data[0] = torch.tensor([SURE, -0.1, 0.1, -SURE])
    found = model.predict(pictures((32, 32)))[0]
    assert SCENE.masks.iou(found.masks).max(1).values.tolist() == [1, 0, 1]


@pytest.mark.parametrize(("rows", "found"), [(32, True), (31, False)])
def test_masks_of_less_than_a_thousandth_of_the_picture_are_dropped(rows, found):
    """Of 100 x 320 pixels."""
    several = targets((0, rows, 5, 6), labels=[0], size=(100, 320))
    model = right(several)
    padding = torch.full((1, 4, 128, 320), -SURE)
    padding[..., :100, :] = model.decoder.masks.data
    model.decoder.masks = nn.Parameter(padding)
    assert (len(model.predict(pictures((100, 320)))[0]) > 0) == found


def test_masks_of_an_enlarged_picture_are_drawn_there():
    images = replace(pictures((32, 32)), originals=((96, 64),))
    found = right(SCENE).predict(images)[0]
    assert found.masks.size == (96, 64)
    assert (SCENE.masks.resize((96, 64)).iou(found.masks).max(1).values > 0.95).all()


@pytest.mark.parametrize(
    "several",
    [Targets.none((32, 32)), targets((5, 6, 5, 6), labels=[0]), targets((0, 32, 0, 32), labels=[7])],
    ids=["none", "one pixel", "the whole picture"],
)
def test_extremes(several):
    """A pixel that is drawn is little beside all others that nearly are not."""
    model = right(several, min_area=0.0, all_classes=False)
    assert model.predict(pictures((32, 32)))[0].masks.area().tolist() == several.masks.area().tolist()
    assert all(loss < 0.01 for loss in model(pictures((32, 32)), [several]).values())


# --- learning


def discs(start, count):
    scenes = Scenes(size=(64, 64), count=(1, 3), classes=("disc",), radius=(7, 14), overlap=0.0, clutter=0.0)
    samples = scenes.samples(count, start=start)
    several = [scenes.scene(start + i) for i in range(len(samples))]
    pixels = torch.stack([torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()) / 255 for s in several])
    return pixels, [s.targets for s in several], scenes.categories


def taken(pixels):
    sizes = ((64, 64),) * len(pixels)
    return Images(pixels=pixels, sizes=sizes, originals=sizes)


@pytest.mark.slow
def test_discs_are_told_apart_and_counted():
    """Up to three discs in pictures that were never seen."""
    pixels, several, categories = discs(0, 400)
    model = small("rsis", num_classes=1, width=16, max_steps=4, stop_threshold=0.5, mask_threshold=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for _ in range(600):
        some = torch.randint(len(pixels), (8,))
        optimizer.zero_grad()
        sum(model(taken(pixels[some]), [several[i] for i in some.tolist()]).values()).backward()
        optimizer.step()
    unseen, truth, _ = discs(1000, 50)
    found = model.eval().predict(taken(unseen))
    pairs = tuple(pair(i, t, f) for i, (t, f) in enumerate(zip(truth, found, strict=True)))
    numbers = dice(Comparison(categories=categories, pairs=pairs)).numbers
    assert numbers["SBD"] > 0.7
    assert numbers["|DiC|"] < 0.5
