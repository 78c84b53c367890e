"""The box head (Girshick, 2015): of which class a region is, and where its box really lies.

Legend: n regions, c classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from maskwise import boxes
from maskwise.parts import norms
from maskwise.parts.convention import Convention
from maskwise.parts.norms import Norm
from maskwise.parts.roi import Regions
from maskwise.parts.suppression import soft_nms
from maskwise.rle import Size
from maskwise.structures import Losses, Targets

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""By what offsets of boxes are multiplied, so that they are of the size of the other outputs."""


class BoxOutputs(NamedTuple):
    """What the head says about each region."""

    logits: Float[Tensor, "n c1"]
    """Background last."""
    offsets: Float[Tensor, "n c 4"]


class Detections(NamedTuple):
    """The boxes of one picture, best first."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]


class BoxHead(nn.Module):
    """Any body that turns a region into a vector, and two linear layers on it."""

    def __init__(self, body: nn.Module, width: int, classes: int, *, convention: Convention):
        super().__init__()
        self.classes, self.convention = classes, convention
        self.body = body
        self.score, self.offset = nn.Linear(width, classes + 1), nn.Linear(width, 4 * classes)
        for layer, std in ((self.score, 0.01), (self.offset, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "n d s s"]) -> BoxOutputs:
        x = self.body(features)
        return BoxOutputs(self.score(x), self.offset(x).unflatten(1, (self.classes, 4)))

    def loss(self, outputs: BoxOutputs, regions: list[Regions], targets: list[Targets]) -> Losses:
        """Both over all regions, so that a picture with few objects does not pull harder at their boxes."""
        labels = torch.cat([r.labels for r in regions])
        positive = torch.where(labels < self.classes)[0]
        wanted = torch.cat([t.boxes[r.matched] for r, t in zip(regions, targets, strict=True)])
        wanted = boxes.encode(wanted, torch.cat([r.positive for r in regions]), WEIGHTS)
        offsets = outputs.offsets[positive, labels[positive]]
        distance = F.smooth_l1_loss(offsets, wanted, beta=self.convention.box_beta, reduction="sum")
        entropy = F.cross_entropy(outputs.logits, labels, reduction="sum")
        return {"box_class": entropy / max(len(labels), 1), "box": distance / max(len(labels), 1)}

    def detect(
        self,
        outputs: BoxOutputs,
        regions: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[Size],
        *,
        min_score: float,
        nms_iou: float,
        soft_sigma: float | None,
        most: int,
    ) -> Iterator[Detections]:
        """Best boxes of each picture after suppression within each class; `soft_sigma` lowers scores instead (0.6)."""
        counts = [len(r) for r in regions]
        scores = outputs.logits.float().softmax(1)[:, :-1].split(counts)
        offsets = outputs.offsets.float().split(counts)
        for score, offset, region, size in zip(scores, offsets, regions, sizes, strict=True):
            which, label = torch.where(score > min_score)
            box = self.convention.clip(boxes.decode(offset[which, label], region[which], WEIGHTS), size)
            large = boxes.at_least(box, self.convention.least_detection)
            box, label, value = box[large], label[large], score[which, label][large]
            if soft_sigma is None:
                keep = batched_nms(box, value, label, nms_iou)[:most]
            else:
                keep, value = soft_nms(box, value, label, sigma=soft_sigma, least=min_score, most=most)
            yield Detections(box[keep], label[keep], value[keep])


def two_layers(channels: int, size: int, *, hidden: int = 1024) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), _linear(channels * size**2, hidden), nn.ReLU(), _linear(hidden, hidden), nn.ReLU()
    )


def convolutions_and_layer(
    channels: int, size: int, *, norm: Norm | None, hidden: int = 1024, convolutions: int = 4
) -> nn.Sequential:
    """Four convolutions and one layer: with group norm (Wu & He, 2018) better than two layers."""
    return nn.Sequential(
        *norms.stack(channels, convolutions, norm=norm), nn.Flatten(), _linear(channels * size**2, hidden), nn.ReLU()
    )


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer
