"""Methods small enough for two cores and half a second, and scenes for them."""

from copy import deepcopy
from functools import cache
from typing import Any

import torch

from maskwise.data.synthetic.scenes import Scenes
from maskwise.methods import METHODS, Method
from maskwise.structures import Images, Targets

CLASSES = 8
TWO_STAGE = {"num_classes": CLASSES, "backbone": "resnet18", "width": 32, "hidden": 64, "min_score": 0.0}
TWO_STAGE |= {"per_level_train": 200, "per_level_test": 50, "proposals_train": 100, "proposals_test": 20}
TWO_STAGE |= {"anchor_scale": 2.0, "region_samples": 64, "max_instances": 10}
CASCADE = {"num_classes": CLASSES, "backbone": "resnet18", "head": "layers", "hidden": 64, "mask_hidden": 64}
CASCADE |= {"min_score": 0.0, "anchor_sizes": (16.0, 32.0), "least_side": 0.0, "boxes_train": 200, "boxes_test": 50}
CASCADE |= {"proposals_train": 100, "proposals_test": 20, "region_samples": 32, "max_instances": 10}
ONE_STAGE = {"num_classes": CLASSES, "backbone": "resnet18", "width": 32, "min_score": 0.0, "max_instances": 10}
ONE_STAGE |= {"levels": (3, 4), "limits": (16.0,), "convolutions": 2, "per_level": 50}
PROPOSALS = {"backbone": "resnet18", "stage": 3, "patch": 64, "width": 16, "code": 64, "hidden": 64, "mask_side": 16}
PROPOSALS |= {"drawn_side": 32, "octaves": (-1.0, 0.0, 1.0), "threshold": 0.5, "max_instances": 10}
GROUPING = {"num_classes": CLASSES, "width": 32, "min_pixels": 10}
RECURRENT = {"num_classes": CLASSES, "backbone": "resnet18", "width": 32, "max_steps": 5}
OPTIONS = {"two-stage": TWO_STAGE, "one-stage": ONE_STAGE, "proposals": PROPOSALS, "grouping": GROUPING}
OPTIONS |= {"recurrent": RECURRENT, "cascade": CASCADE}
"""Of each family of methods."""
OF_METHOD: dict[str, dict[str, Any]] = {
    "discriminative": {"backbone": "resnet18", "dimensions": 4, "leftover": 20},
    "embed_mask": {"dimensions": 4, "unit": 8.0},
    "rsis": {"stop_threshold": 0.4, "mask_threshold": 0.521},  # a new network is sure of nothing
    "spatial_embeddings": {"unit": 64.0, "sigma_start": 0.4, "candidate": 0.3, "threshold": 0.5, "min_pixels": 60},
}
"""And of single ones."""


def build(name: str, **options) -> Method:
    """A method of random weights, the same each time; in training."""
    torch.manual_seed(0)
    entry = METHODS[name]
    return entry.build(entry.config(**OPTIONS[entry.family] | OF_METHOD.get(name, {}) | options))


def small(name: str, **options) -> Method:
    """The same, and quicker where it was built before: it takes longer to draw the weights than to use them."""
    return deepcopy(_built(name, tuple(sorted(options.items()))))


@cache
def _built(name: str, options: tuple[tuple[str, Any], ...]) -> Method:
    return build(name, **dict(options))


def batch(*, size=(64, 96), count=2, objects=(2, 4), **dials) -> tuple[Images, list[Targets]]:
    """The first scenes of some kind."""
    scenes = Scenes(size=size, count=objects, **dials)
    several = [scenes.scene(i) for i in range(count)]
    pixels = [torch.from_numpy(s.pixels.transpose(2, 0, 1).copy()) / 255 for s in several]
    return Images.batch(pixels), [s.targets for s in several]
