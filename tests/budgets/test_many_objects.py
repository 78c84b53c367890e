"""Two thousand objects in one picture: nothing is made whose size is that of all masks, dense, together."""

import tracemalloc

import pytest
import torch
from small import small
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskwise.categories import Categories
from maskwise.evaluate.coco import coco
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.structures import pair
from maskwise.masks import Masks
from maskwise.methods import METHODS
from maskwise.structures import Images, Instances, Targets

MANY = 2000
SIDE = 320
DENSE = MANY * SIDE * SIDE
"""Bytes of all masks as whole pictures: 200 MB."""
ONE_A_FAMILY = list({entry.family: name for name, entry in METHODS.items()}.values())
"""Methods of a family share the parts that meet all objects."""


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return out


def many() -> Masks:
    corners = torch.rand(MANY, 2, generator=torch.Generator().manual_seed(0)) * (SIDE - 12)
    return Masks.paste(torch.ones(MANY, 28, 28), torch.cat([corners, corners + 10], 1), (SIDE, SIDE))


@pytest.mark.long
@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_two_thousand_objects_are_learned_from(name):
    targets = Targets.from_masks(many(), torch.arange(MANY) % 8)
    with Largest() as largest:
        losses = small(name)(Images.batch([torch.rand(3, SIDE, SIDE)]), [targets])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert largest.bytes < DENSE / 4


def test_two_thousand_objects_are_judged():
    masks, labels = many(), torch.zeros(MANY, dtype=torch.long)
    scores = torch.linspace(1, 0.1, MANY)
    found = Instances(
        boxes=masks.boxes(), labels=labels, scores=scores, quality=torch.ones(MANY), mask_scores=scores, masks=masks
    )
    tracemalloc.start()
    both = pair(1, Targets.from_masks(masks, labels), found)
    report = coco(Comparison(categories=Categories(names=("disc",)), pairs=(both,)), "segm")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.ground_truths == MANY
    assert report.numbers["AP50"] > 0
    assert most < DENSE / 4


def test_a_dense_stack_would_be_noticed():
    with Largest() as largest:
        many().dense()
    assert largest.bytes >= DENSE
