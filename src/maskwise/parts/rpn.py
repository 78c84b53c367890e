"""Region proposal network (Ren et al., 2015): where there may be objects, whatever their class.

Legend: b pictures, a anchors of a level or of all levels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from maskwise import boxes
from maskwise.parts.convention import AnchorStyle, Convention
from maskwise.parts.matching import match, sample
from maskwise.rle import Size
from maskwise.structures import Losses, Targets

RATIOS = (0.5, 1.0, 2.0)
"""Height to width of anchors."""
NMS_IOU = 0.7
"""Proposals of a level that overlap a better one more than this are dropped."""
POSITIVES = 0.5
"""Share of the anchors with an object, at most, among those that are learned from."""


class AnchorOutputs(NamedTuple):
    """What the network says about the anchors of each level."""

    scores: list[Float[Tensor, "b a"]]
    offsets: list[Float[Tensor, "b a 4"]]
    anchors: list[Float[Tensor, "a 4"]]


class RPN(nn.Module):
    """One small head for all levels."""

    def __init__(
        self,
        channels: int,
        *,
        sizes: Sequence[Sequence[float]],
        strides: Sequence[int],
        convention: Convention,
        convolutions: int = 1,
    ):
        super().__init__()
        self.strides, self.convention = tuple(strides), convention
        self.base = [
            anchors_of_cell(s, stride=stride, style=convention.anchors)
            for s, stride in zip(sizes, strides, strict=True)
        ]
        count = len(self.base[0])
        self.hidden = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convolutions))
        self.score, self.offset = nn.Conv2d(channels, count, 1), nn.Conv2d(channels, 4 * count, 1)
        for layer in (*self.hidden, self.score, self.offset):
            nn.init.normal_(layer.get_parameter("weight"), std=0.01)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, levels: list[Float[Tensor, "b c _ _"]]) -> AnchorOutputs:
        outputs = AnchorOutputs([], [], [])
        for x, base, stride in zip(levels, self.base, self.strides, strict=True):
            shape = (x.shape[2], x.shape[3])
            for layer in self.hidden:
                x = F.relu(layer(x))
            outputs.scores.append(self.score(x).permute(0, 2, 3, 1).flatten(1))
            outputs.offsets.append(self.offset(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            outputs.anchors.append(anchors_of_map(base.to(x.device), shape, stride=stride))
        return outputs

    def propose(
        self, outputs: AnchorOutputs, sizes: Sequence[Size], *, per_level: int, keep: int
    ) -> list[Float[Tensor, "_ 4"]]:
        """The best boxes of each picture, best first, after suppression within each level.

        They have the gradient of their offsets, for methods that teach boxes by what is seen in them.
        """
        return [self._of_one(outputs, i, size, per_level, keep) for i, size in enumerate(sizes)]

    def _of_one(self, outputs: AnchorOutputs, i: int, size: Size, per_level: int, keep: int) -> Float[Tensor, "n 4"]:
        candidates = []
        for level, (scores, offsets, anchor) in enumerate(zip(*outputs, strict=True)):
            top = scores[i].detach().topk(min(per_level, scores.shape[1]))
            box = self.convention.clip(boxes.decode(offsets[i, top.indices].float(), anchor[top.indices]), size)
            candidates.append((box, top.values, torch.full_like(top.indices, level)))
        box, score, level = (torch.cat(v) for v in zip(*candidates, strict=True))
        large = boxes.at_least(box, self.convention.least_proposal)
        box, score, level = box[large], score[large], level[large]
        return box[batched_nms(box.detach(), score.float(), level, NMS_IOU)[:keep]]

    def loss(self, outputs: AnchorOutputs, targets: list[Targets], *, total: int = 256) -> Losses:
        """Is it an object, and which box is it; both over the number of anchors that were sampled."""
        # in float32: numbers of 16 bits cannot hold the sum of the scores of a picture
        scores, offsets = (torch.cat(part, 1).float() for part in (outputs.scores, outputs.offsets))
        anchor = torch.cat(outputs.anchors)
        objectness, distance, count = scores.sum() * 0, offsets.sum() * 0, 0
        for score, offset, target in zip(scores, offsets, targets, strict=True):
            matches = match(anchor, target.boxes, positive=0.7, negative=0.3, rescue=True)
            first, rest = sample(matches, total=total, positives=POSITIVES)
            sampled = torch.cat([first, rest])
            truth = (matches[sampled] >= 0).to(score.dtype)
            objectness = objectness + F.binary_cross_entropy_with_logits(score[sampled], truth, reduction="sum")
            wanted = boxes.encode(target.boxes[matches[first]], anchor[first])
            distance = distance + F.smooth_l1_loss(
                offset[first], wanted, beta=self.convention.rpn_beta, reduction="sum"
            )
            count += len(sampled)
        return {"rpn_score": objectness / max(count, 1), "rpn_box": distance / max(count, 1)}


def anchors_of_cell(
    sizes: Sequence[float], *, stride: int, style: AnchorStyle = "exact", ratios: Sequence[float] = RATIOS
) -> Float[Tensor, "a 4"]:
    """Anchors of the cell at the origin: for each size (root of the area) all ratios."""
    size, ratio = torch.tensor(sizes)[:, None], torch.tensor(ratios)
    if style == "legacy":  # rounded at the size of the stride, then enlarged; the middle of the cell is the centre
        width = (stride**2 / ratio).sqrt().round()
        sides = torch.stack([width, (width * ratio).round()], 1) * (size / stride)[..., None]
        return _around(sides.reshape(-1, 2), stride / 2)
    sides = torch.stack([size / ratio.sqrt(), size * ratio.sqrt()], -1).reshape(-1, 2)
    return _around(sides, 0.0).round() if style == "rounded" else _around(sides, 0.0)


def anchors_of_map(anchors: Float[Tensor, "a 4"], shape: tuple[int, int], *, stride: int) -> Float[Tensor, "cells 4"]:
    """Anchors of every cell of a map, row by row, those of a cell together."""
    y, x = (torch.arange(n, device=anchors.device) * stride for n in shape)
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (corners + anchors).reshape(-1, 4)


def _around(sides: Float[Tensor, "a 2"], centre: float) -> Float[Tensor, "a 4"]:
    return torch.cat([centre - sides / 2, centre + sides / 2], 1)
