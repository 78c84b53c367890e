"""Anchors that older checkpoints carry along as if they were weights: a proof that ours are the same."""

import re

import torch
from torch import Tensor

from maskwise import boxes
from maskwise.methods.mask_rcnn import MaskRCNN
from maskwise.parts.convention import CONVENTIONS
from maskwise.tensor_files import State

_KEY = re.compile(r"(?:rpn|proposal_generator)\.anchor_generator\.cell_anchors\.\d")


def apart(state: State) -> tuple[State, list[Tensor]]:
    """The weights, and the anchors of a cell of each level."""
    return {k: v for k, v in state.items() if not _KEY.fullmatch(k)}, [v for k, v in state.items() if _KEY.fullmatch(k)]


def check(model: MaskRCNN, given: list[Tensor]) -> None:
    """One level has several sizes, which older programs count after the shapes."""
    convention = CONVENTIONS[model.cfg.convention]
    for level, (anchors, theirs) in enumerate(zip(model.rpn.base, given, strict=False)):
        mine = anchors
        if convention.inclusive:
            mine = boxes.to_inclusive(anchors.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1))
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs.to(mine.dtype), atol=0.01):
            raise ValueError(
                f"anchors of level {level}: the file has {_rounded(theirs)}, those of {model.cfg.convention!r} here "
                f"are {_rounded(mine)}; no option makes other anchors yet than sizes with three shapes"
            )


def _rounded(several: Tensor) -> list[list[float]]:
    return [[round(float(x), 1) for x in row] for row in several]
