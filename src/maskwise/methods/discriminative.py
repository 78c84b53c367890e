"""Discriminative Loss. Bert De Brabandere, Davy Neven, Luc Van Gool, CVPR Workshops 2017.
"Semantic Instance Segmentation with a Discriminative Loss Function", https://arxiv.org/abs/1708.02551

A network gives each pixel a vector. Vectors of one object are pulled to within a margin of their mean, the means of
different objects are pushed further apart than that, so that any ball of the right radius around a mean holds one
object and nothing else. Mean shift finds the means of what a semantic segmentation, learned beside the vectors, takes
for objects of one class.

Differs from the paper in:

- Architecture: the network is a classifier of timm with a decoder of U-Net, or ERFNet, where the paper has ResNet-38
  and ENet; the semantic segmentation has a decoder on the same encoder and not a network of its own; coordinates are
  appended to what the decoder sees and not to the input, except in ERFNet.
- Losses: they are averaged over all classes of all pictures that show an object of theirs. A pixel belongs to one
  object, in the ground truth too: to the nearest by depth, else to the smallest. Crowds and padding teach nothing.
- Prediction: mean shift begins at most a thousand times a class, and what lies within half a bandwidth of a beginning
  that led to nothing new is passed over; the masks of clusters are not opened; where the authors score each mask 1 it
  is the mean probability of its class (`score` brings back theirs).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskwise import backbones
from maskwise.parts import clustering, dense, label_maps
from maskwise.parts.label_maps import IGNORED, NOBODY, Pixels, mean_of_each, pixels_of
from maskwise.parts.norms import Norm
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    backbone: dense.Network = "resnet50"
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "batch"
    """Norm of the backbone and the decoders."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained."""
    width: int = 64
    """Channels of the decoders; ERFNet has its own."""
    coordinates: bool = False
    """Let the network see where pixels are, as the paper does where all objects look the same (CVPPP)."""
    dimensions: int = 8
    """Dimensions of the vectors: 8 for Cityscapes, 16 for CVPPP."""
    within: float = 0.5
    """Distance from the mean up to which a vector is not pulled (delta_v)."""
    apart: float = 1.5
    """Half the distance from which on means are not pushed (delta_d)."""
    variance_weight: float = 1.0
    """Weight of the pull (alpha); 0 leaves it out."""
    distance_weight: float = 1.0
    """Weight of the push (beta)."""
    regularization_weight: float = 0.001
    """Weight of the means' lengths (gamma)."""
    semantic_weight: float = 1.0
    """Weight of the semantic segmentation's cross-entropy."""
    clustering: Literal["mean_shift", "threshold"] = "mean_shift"
    """From a pixel first to the mode near it, or at once all that are near the pixel."""
    bandwidth: float = 1.5
    """Radius of a cluster. Once nothing is pulled or pushed, from 0.5 to 2.5 is right around means, 1 to 2 else."""
    min_pixels: int = 10
    """Smaller clusters are dropped."""
    leftover: int = 100
    """Clustering of a class ends when fewer pixels are left."""
    score: Literal["probability", "constant"] = "probability"
    """The mean probability of its class over a mask, or 1 for each."""
    min_score: float = 0.0
    """Only masks that score more are reported."""


class Terms(NamedTuple):
    """The three parts of the loss, not weighted, of the objects of one class in one picture."""

    variance: Float[Tensor, ""]
    distance: Float[Tensor, ""]
    regularization: Float[Tensor, ""]


def terms(vectors: Float[Tensor, "d n"], which: Int[Tensor, " n"], count: int, *, within: float, apart: float) -> Terms:
    """Equations 1 to 3: each object counts alike, however large it is.

    L_var = 1/C sum_c 1/N_c sum_i [|mu_c - x_i| - within]+²; L_reg = 1/C sum_c |mu_c|;
    L_dist = 1/(C(C-1)) sum_{a != b} [2 apart - |mu_a - mu_b|]+², and 0 for a single object.
    """
    means = mean_of_each(vectors, which, count)
    # the gradient of a length at 0 is 0 here
    strays = (torch.linalg.vector_norm(vectors - means[:, which], dim=0) - within).relu().square()
    one, other = torch.triu_indices(count, count, 1).to(means.device)
    lacks = (2 * apart - torch.linalg.vector_norm(means[:, one] - means[:, other], dim=0)).relu().square()
    return Terms(
        variance=mean_of_each(strays[None], which, count).mean(),
        distance=lacks.sum() / max(len(lacks), 1),
        regularization=torch.linalg.vector_norm(means, dim=0).mean(),
    )


class Discriminative(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.network = dense.Dense(
            cfg.backbone,
            (cfg.num_classes + 1, cfg.dimensions),
            width=cfg.width,
            norm=cfg.norm,
            weights=cfg.weights,
            frozen=cfg.frozen_stages,
            coordinates=cfg.coordinates,
        )

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        cfg = self.cfg
        logits, vectors = (m.float() for m in self.network(images))
        truth = torch.full_like(logits[:, 0], IGNORED, dtype=torch.int64)
        losses: list[Terms] = []
        for i, (t, (h, w)) in enumerate(zip(targets, images.sizes, strict=True)):
            owner = label_maps.owners(t)
            truth[i, :h, :w] = label_maps.classes(owner, t.labels, background=cfg.num_classes)
            losses += self._terms(vectors[i, :, :h, :w].flatten(1), pixels_of(owner, t.labels))
        none = vectors.sum() * 0
        parts = zip(*losses or [Terms(none, none, none)], strict=True)
        variance, distance, regularization = (torch.stack(part).mean() for part in parts)
        return {
            "semantic": cfg.semantic_weight * label_maps.semantic_loss(logits, truth),
            "variance": cfg.variance_weight * variance,
            "distance": cfg.distance_weight * distance,
            "regularization": cfg.regularization_weight * regularization,
        }

    def _terms(self, vectors: Float[Tensor, "d n"], pixels: Pixels) -> list[Terms]:
        """The terms of each class that the picture shows."""
        cfg, losses = self.cfg, []
        for label in pixels.labels.unique():
            number = torch.where(pixels.labels == label, (pixels.labels == label).cumsum(0) - 1, NOBODY)
            which = torch.where(pixels.owner >= 0, number[pixels.owner], NOBODY)
            own = torch.where(which >= 0)[0]
            of_class = vectors[:, pixels.learned[own]]
            losses.append(terms(of_class, which[own], int(number.max()) + 1, within=cfg.within, apart=cfg.apart))
        return losses

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        logits, vectors = (m.float() for m in self.network(images))
        return [
            self._found(logits[i, :, :h, :w].softmax(0), vectors[i, :, :h, :w], images.originals[i])
            for i, (h, w) in enumerate(images.sizes)
        ]

    def _found(
        self, probabilities: Float[Tensor, "c h w"], vectors: Float[Tensor, "d h w"], original: Size
    ) -> Instances:
        cfg = self.cfg
        owner, labels, centres = self._clustered(probabilities.argmax(0), vectors)
        around, near = label_maps.with_neighbours(owner), torch.zeros_like(probabilities[0])
        some = around != NOBODY
        away = (vectors[:, some] - centres[:, around[some]]).norm(dim=0)
        near[some] = (1 - 0.5 * away / cfg.bandwidth).clamp(min=0)  # a half at the bandwidth
        object_first = 0.5 + 0.5 * (probabilities[:-1].amax(0) - probabilities[-1])  # a half where background begins
        scores = label_maps.mean_probability(owner, labels, probabilities)
        return label_maps.instances(
            owner,
            labels,
            scores if cfg.score == "probability" else torch.ones_like(scores),
            sure=torch.minimum(near, object_first),
            original=original,
            min_score=cfg.min_score,
        )

    def _clustered(
        self, classes: Int[Tensor, "h w"], vectors: Float[Tensor, "d h w"]
    ) -> tuple[Int[Tensor, "h w"], Int[Tensor, " k"], Float[Tensor, "d k"]]:
        """To which cluster each pixel belongs, and class and centre of each, one class after the other."""
        cfg, owner = self.cfg, torch.full_like(classes, NOBODY)
        labels, centres = [classes.new_zeros(0)], [vectors[:, 0, :0]]
        for label in range(cfg.num_classes):
            own = classes == label
            clusters = clustering.around_modes(
                vectors[:, own],
                bandwidth=cfg.bandwidth,
                rounds=100 if cfg.clustering == "mean_shift" else 0,
                least=cfg.min_pixels,
                leftover=cfg.leftover,
            )
            before = sum(map(len, labels))
            owner[own] = torch.where(clusters.owner == NOBODY, NOBODY, clusters.owner + before)
            labels.append(labels[0].new_full(clusters.centres.shape[1:], label))
            centres.append(clusters.centres)
        return owner, torch.cat(labels), torch.cat(centres, 1)


def build(cfg: Config) -> Discriminative:
    return Discriminative(cfg)
