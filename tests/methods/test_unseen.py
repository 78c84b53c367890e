"""What is learned from some pictures is true of others: loss, network and what is made of its maps fit together.

Two scenes by heart (test_learning.py) do not tell: there a network may know each pixel, and here it has to see. The
networks are small and begin from chance; the numbers say nothing about those of the papers.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from given import Given
from torch import Tensor
from torch.nn import functional as F
from trunk import Trunk

from maskwise import backbones, boxes
from maskwise.categories import OBJECT
from maskwise.data.synthetic.scenes import Scenes
from maskwise.evaluate.coverage import dice
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.recall import recall
from maskwise.evaluate.structures import pair
from maskwise.masks import Masks
from maskwise.methods import METHODS, Method, sharpmask
from maskwise.methods.deepmask import Painter, SampledWindows
from maskwise.methods.sharpmask import SharpMask
from maskwise.parts.label_maps import owners
from maskwise.structures import Images, Instances, Targets


class Shapes(NamedTuple):
    """Pictures of one size, and their objects, all of one class."""

    pixels: Tensor
    targets: list[Targets]

    @property
    def images(self) -> Images:
        """Not padded: small pictures would be mostly padding."""
        sizes = (tuple(self.pixels.shape[2:]),) * len(self.pixels)
        return Images(pixels=self.pixels, sizes=sizes, originals=sizes)

    def some(self, which: list[int]) -> "Shapes":
        return Shapes(self.pixels[which], [self.targets[i] for i in which])

    def compared(self, found: list[Instances]) -> Comparison:
        pairs = tuple(pair(i, t, f) for i, (t, f) in enumerate(zip(self.targets, found, strict=True)))
        return Comparison(categories=OBJECT, pairs=pairs)


def learn(
    model: Method, seen: Shapes, steps: int, *, rate: float = 2e-3, before_step: Callable[[int], None] = lambda _: None
) -> None:
    """Adam, whose rate falls to zero, on four pictures a step."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        before_step(step)
        some = seen.some(torch.randint(len(seen.pixels), (4,), generator=chance).tolist())
        optimizer.zero_grad()
        sum(v for v in model(some.images, some.targets).values() if v.requires_grad).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    model.eval()


# --- grouping

SIDE = 48
GROUPING = {
    "discriminative": {"coordinates": True, "leftover": 20},
    "spatial_embeddings": {"unit": 48.0, "sigma_start": 0.25, "threshold": 0.5, "min_pixels": 10},
}
"""A Gaussian begins as wide as an object is: 48 / sqrt(2 exp(2.5)) pixels, 9.7."""


def ellipses(count: int, *, seed: int) -> Shapes:
    """Two to five in each picture, of plain colours with a darker rim, the later ones before the earlier ones.

    The connected parts of the true foreground are no answer: their symmetric best dice is about 0.63.
    """
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    pixels, several = [], []
    for _ in range(count):
        picture, owner = chance.uniform(0, 0.3, (3, SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int32)
        for number in range(1, chance.integers(2, 6) + 1):
            (a, b), (cx, cy), turn = chance.uniform(5, 10, 2), chance.uniform(5, SIDE - 5, 2), chance.uniform(0, np.pi)
            along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
            across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
            out, colour = np.hypot(along / a, across / b), chance.uniform(0.4, 1, (3, 1))
            picture[:, out < 1], picture[:, (out < 1) & (out > 0.8)] = colour, colour / 2
            owner[out < 1] = number
        noisy = picture + chance.normal(0, 0.05, picture.shape)
        pixels.append(torch.from_numpy(noisy.clip(0, 1)).float())
        masks = Masks.from_label_map(owner)[0]
        masks = masks[masks.area() >= 20]
        several.append(Targets.from_masks(masks, torch.zeros(len(masks.windows), dtype=torch.int64)))
    return Shapes(torch.stack(pixels), several)


def grouping(name: str) -> Method:
    torch.manual_seed(0)
    entry = METHODS[name]
    return entry.build(entry.config(num_classes=1, backbone="resnet18", width=32, **GROUPING[name]))


def right_maps(name: str, several: Targets) -> Given:
    """What a network would say that had nothing left to learn."""
    owner = owners(several)
    sure = torch.where(owner >= 0, 10.0, -10.0)
    if name == "discriminative":
        return Given(torch.stack([sure, -sure])[None], 3.0 * owner.clamp(min=0).expand(1, 8, -1, -1))
    field = torch.full((1, 4, SIDE, SIDE), 0.7)  # a Gaussian of one pixel, for centres may lie close together
    field[:, :2] = 0.0
    for k in range(len(several)):
        y, x = torch.where(owner == k)
        for axis, at in enumerate((x, y)):
            field[0, axis, y, x] = ((at.float().mean() - at) / SIDE).atanh()
    return Given(field, sure[None, None])


@pytest.fixture
def _small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build", lambda *_, **__: Trunk(16, 32, 48, 64))


@pytest.mark.parametrize("name", GROUPING)
@pytest.mark.usefixtures("_small_backbone")
def test_right_maps_are_grouped_into_the_objects(name):
    unseen, model, found = ellipses(20, seed=1), grouping(name).eval(), []
    for i, several in enumerate(unseen.targets):
        model.network = right_maps(name, several)
        found += model.predict(unseen.some([i]).images)
    assert dice(unseen.compared(found)).numbers["SBD"] > 0.96


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("discriminative", 0.7), ("spatial_embeddings", 0.88)])
@pytest.mark.usefixtures("_small_backbone")
def test_ellipses_that_overlap_are_told_apart(name, least):
    """Spatial embeddings reach 0.92: other machines round otherwise."""
    model, unseen = grouping(name), ellipses(40, seed=1)
    learn(model, ellipses(1600, seed=0), 400)
    assert dice(unseen.compared(model.predict(unseen.images))).numbers["SBD"] > least


# --- proposals

SCENES = Scenes(size=(64, 64), count=(1, 2), radius=(13, 20), classes=("disc", "square"), overlap=0.0, clutter=0.0)
"""Objects about as large as in the window that is made for them, so that a cell of a mask is a pixel."""
COARSE, REFINEMENT = 200, 600
"""Steps. Refinement has no norms and begins from nothing: after 200 it has made a half of its way."""


def scenes(start: int, count: int) -> Shapes:
    several = [SCENES.scene(start + i) for i in range(count)]
    pixels = torch.stack([torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()) / 255 for s in several])
    return Shapes(pixels, [replace(s.targets, labels=torch.zeros_like(s.targets.labels)) for s in several])


def proposing(monkeypatch: pytest.MonkeyPatch) -> SharpMask:
    monkeypatch.setattr(backbones, "build", lambda *_, **__: Trunk(16, 32, 48))
    torch.manual_seed(0)
    cfg = sharpmask.Config(
        norm="batch",
        stage=3,
        patch=64,
        width=32,
        code=64,
        hidden=64,
        mask_side=16,
        drawn_side=64,
        octaves=(-0.5, 0.0, 0.5),
        threshold=0.5,
        nms_iou=0.7,
        max_instances=20,
        coarse_share=COARSE / (COARSE + REFINEMENT),
    )
    return sharpmask.build(cfg)


def windows(model: SharpMask, unseen: Shapes, *, beside: tuple[float, float] = (0.0, 0.0)) -> list[Tensor]:
    """One for each object, of its size; perhaps beside it by shares of its sides."""
    return [
        model.coarse.canonical.exact(t.boxes) + (boxes.sides(t.boxes) * torch.tensor(beside)).repeat(1, 2)
        for t in unseen.targets
    ]


@torch.no_grad()
def scores(model: SharpMask, unseen: Shapes, several: list[Tensor]) -> Tensor:
    at = [SampledWindows(w[:0], torch.arange(0), w, torch.ones(len(w))) for w in several]
    return model.coarse.scorer(model.coarse.patches(unseen.images, at).codes[:, :, 0, 0])


@torch.no_grad()
def masks(model: SharpMask, unseen: Shapes, painter: Painter) -> tuple[Tensor, Tensor]:
    """Of each object in its window, 64 cells a side: as it is drawn, and as it is."""
    at = [SampledWindows(w, torch.arange(len(w)), w[:0], torch.ones(0)) for w in windows(model, unseen)]
    seen = model.coarse.patches(unseen.images, at)
    truth = [t.masks.sample(w.masks, w.matched, 64) >= 0.5 for t, w in zip(unseen.targets, at, strict=True)]
    return painter(seen.codes[:, :, 0, 0], painter.maps(seen)) > 0, torch.cat(truth)


def mean_iou(found: Tensor, truth: Tensor) -> float:
    both, either = (several.flatten(1).sum(1) for several in (found & truth, found | truth))
    return (both / either).mean().item()


def borders(several: Tensor) -> Tensor:
    """Cells beside the outline, on both sides of it."""
    inside, outside = (F.max_pool2d(bits[:, None].float(), 3, stride=1, padding=1) for bits in (several, ~several))
    return (inside * outside)[:, 0] > 0


@pytest.mark.slow
def test_objects_in_windows_are_scored_drawn_and_refined(monkeypatch):
    """DeepMask first, then its refinement: in one test, for it is one training."""
    model, seen, unseen = proposing(monkeypatch), scenes(0, 400), scenes(10_000, 40)
    total = COARSE + REFINEMENT
    learn(model, seen, COARSE, before_step=lambda step: model.on_step(step, total))
    coarse = masks(model, unseen, model.coarse.mask)
    assert mean_iou(*coarse) > 0.7

    centred = scores(model, unseen, windows(model, unseen))
    for way in ((0.5, 0.0), (0.0, 0.5)):
        beside = scores(model, unseen, windows(model, unseen, beside=way))
        assert (centred > beside).float().mean() > 0.95
    assert recall(unseen.compared(model.coarse.predict(unseen.images))).numbers["AR10"] > 0.5

    learn(model, seen, REFINEMENT, rate=5e-3, before_step=lambda step: model.on_step(COARSE + step, total))
    assert all(torch.equal(*two) for two in zip(coarse, masks(model, unseen, model.coarse.mask), strict=True))
    fine = masks(model, unseen, model.refinement)
    assert mean_iou(*map(borders, fine)) > mean_iou(*map(borders, coarse)) + 0.1
