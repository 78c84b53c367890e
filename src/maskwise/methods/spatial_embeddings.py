"""Spatial Embeddings. Davy Neven, Bert De Brabandere, Marc Proesmans, Luc Van Gool, CVPR 2019.
"Instance Segmentation by Jointly Optimizing Spatial Embeddings and Clustering Bandwidth",
https://arxiv.org/abs/1906.11109

Each pixel points at the centre of its object, and says how wide a Gaussian around that centre takes in the object's
pixels and no others. The Lovász hinge on that Gaussian as a mask trains where pixels point and the width together: a
large object may be content with a rough aim. A map a class of how well each pixel points gives the seeds, from which
objects are taken one after the other, the best first.

No code of the authors (CC BY-NC) was used. Constants that their program sets are options here, with its numbers: the
weights of the losses, the thresholds of clustering, where sigma begins.

Differs from the paper in: pixels whose likeness is below `FAINT` are left out of the Lovász hinge of objects that they
do not belong to, which changes it by less than twice that; a pixel is taken for the class whose seed map is highest
there, so that objects of different classes share no pixel, and one that is contested stays with the better seed; all
classes' seed losses are added and have one foreground weight; exp(10 sigma) is held below e^30; at most a thousand
seeds a class are tried; in the ground truth too a pixel belongs to one object, to the nearest by depth, else to the
smallest. Crowds and padding teach nothing.
"""

from dataclasses import dataclass
from math import log
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskwise import backbones
from maskwise.parts import clustering, dense, label_maps, lovasz
from maskwise.parts.clustering import likeness
from maskwise.parts.label_maps import NOBODY, Pixels, mean_of_each, pixels_of
from maskwise.parts.norms import Norm
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets

STEEPNESS = 10.0
"""The network's sigma is the logarithm of the scale, divided by this."""
MOST = 30.0
"""That logarithm at most: exp must not overflow."""
FAINT = 1e-4
"""Likeness below which a pixel of nobody or of another object is left out of an object's loss."""
PAIRS_AT_ONCE = 1 << 21
"""Pairs of an object and a pixel that are looked at together, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    backbone: dense.Network = "erfnet"
    """ERFNet as in the paper, or a classifier with the decoders of U-Net."""
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched. Not of ERFNet."""
    norm: Norm = "batch"
    """Norm of the whole network."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained."""
    width: int = 64
    """Channels of the decoders; ERFNet has its own."""
    coordinates: bool = False
    """Let the network see where pixels are."""
    unit: float = 1024.0
    """Pixels for a distance of 1: a pixel points at most this far to each side. The paper's, for 2048 x 1024."""
    sigma: Literal["fixed", "circular", "elliptical"] = "elliptical"
    """Width of an object's Gaussian: the same for all, one of its own, or one for x and one for y."""
    sigma_start: float = 1.0
    """Where the network's sigma begins, and stays if fixed: at unit / sqrt(2 exp(10 start)) pixels, here 5."""
    centre: Literal["embedding", "centroid"] = "embedding"
    """What pixels of an object point at: the mean of where they point, or of where they are."""
    instance_weight: float = 1.0
    """Weight of the Lovász hinge."""
    smooth_weight: float = 10.0
    """Weight of the spread of sigma within an object."""
    seed_weight: float = 1.0
    """Weight of the seed maps."""
    foreground_weight: float = 10.0
    """Weight of pixels of objects in the seed maps; of others it is 1."""
    candidate: float = 0.5
    """Pixels whose seed score is above this are clustered."""
    threshold: float = 0.9
    """The pixel that an object is grown from has at least this seed score."""
    min_pixels: int = 128
    """An object has more pixels than this."""
    fresh: float = 0.5
    """More than this share of its pixels belongs to no object before it."""
    min_score: float = 0.0
    """Only masks that score more are reported: the score is that of the seed."""


class Pointing(NamedTuple):
    """What each pixel says, in units from the left upper corner."""

    here: Float[Tensor, "2 *n"]
    """Where it is: x and y."""
    there: Float[Tensor, "2 *n"]
    """Where it points."""
    sigma: Float[Tensor, "2 *n"]
    """As the network gives it, in x and y."""


class SpatialEmbeddings(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        sigmas = {"fixed": 0, "circular": 1, "elliptical": 2}[cfg.sigma]
        self.network = dense.Dense(
            cfg.backbone,
            (2 + sigmas, cfg.num_classes),
            width=cfg.width,
            norm=cfg.norm,
            weights=cfg.weights,
            frozen=cfg.frozen_stages,
            coordinates=cfg.coordinates,
        )
        last = self.network.last_layers[0]
        nn.init.zeros_(last.get_parameter("weight"))
        with torch.no_grad():
            last.get_parameter("bias").copy_(torch.tensor([0.0, 0.0] + [cfg.sigma_start] * sigmas))

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        cfg = self.cfg
        fields, seeds = (m.float() for m in self.network(images))
        losses = []
        for field, seed, (h, w), t in zip(fields, seeds, images.sizes, targets, strict=True):
            pixels = pixels_of(label_maps.owners(t), t.labels)
            where = [part.flatten(1)[:, pixels.learned] for part in self._pointing(field[:, :h, :w])]
            instance, smooth, likely = self._objects(Pointing(*where), pixels)
            score = self._seeds(seed[:, :h, :w].sigmoid().flatten(1)[:, pixels.learned], likely, pixels)
            losses.append(torch.stack([instance, smooth, score]))
        instance, smooth, score = torch.stack(losses).mean(0) + (fields.sum() + seeds.sum()) * 0
        return {
            "instance": cfg.instance_weight * instance,
            "smooth": cfg.smooth_weight * smooth,
            "seed": cfg.seed_weight * score,
        }

    def _pointing(self, field: Float[Tensor, "m h w"]) -> Pointing:
        h, w = field.shape[1:]
        y, x = (torch.arange(side, device=field.device) / self.cfg.unit for side in (h, w))
        here = torch.stack(torch.meshgrid(x, y, indexing="xy"))
        sigma = field[2:] if self.cfg.sigma != "fixed" else field.new_full((1, h, w), self.cfg.sigma_start)
        return Pointing(here, here + field[:2].tanh(), sigma.expand(2, h, w))

    def _objects(
        self, where: Pointing, pixels: Pixels
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, " n"]]:
        """The losses of the objects' masks and of the spread of their sigmas; how well each pixel points, else 0."""
        own, count = torch.where(pixels.owner >= 0)[0], len(pixels.labels)
        which = pixels.owner[own]
        aims = where.there if self.cfg.centre == "embedding" else where.here
        centre, sigma = (mean_of_each(part[:, own], which, count) for part in (aims, where.sigma))
        scale = scale_of(sigma)
        spread = (where.sigma[:, own] - sigma.detach()[:, which]).square()
        with torch.no_grad():
            likely = torch.zeros_like(where.here[0])
            likely[own] = likeness(where.there[:, own], centre[:, which], scale[:, which])
        loss = mask_losses(where.there, centre, scale, pixels.owner)
        return loss.sum() / max(count, 1), mean_of_each(spread, which, count).mean(0).sum() / max(count, 1), likely

    def _seeds(self, seed: Float[Tensor, "c n"], likely: Float[Tensor, " n"], pixels: Pixels) -> Float[Tensor, ""]:
        """Each class's map is how well its objects' pixels point, and 0 elsewhere."""
        classes = torch.cat([pixels.labels, pixels.labels.new_tensor([NOBODY])])[pixels.owner]
        own = classes == torch.arange(len(seed), device=classes.device)[:, None]
        error = torch.where(own, self.cfg.foreground_weight * (seed - likely).square(), seed.square())
        return error.sum() / max(seed.shape[1], 1)

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        fields, seeds = (m.float() for m in self.network(images))
        return [
            self._found(self._pointing(fields[i, :, :h, :w]), seeds[i, :, :h, :w].sigmoid(), images.originals[i])
            for i, (h, w) in enumerate(images.sizes)
        ]

    def _found(self, where: Pointing, seed: Float[Tensor, "c h w"], original: Size) -> Instances:
        scale = scale_of(where.sigma)
        owner, labels, grown = self._clustered(where.there, scale, seed)
        scores, centres, scales = (part.flatten(1)[:, grown] for part in (seed, where.there, scale))

        around, near = label_maps.with_neighbours(owner), torch.zeros_like(seed[0])
        some = around != NOBODY
        near[some] = likeness(where.there[:, some], centres[:, around[some]], scales[:, around[some]])
        return label_maps.instances(
            owner,
            labels,
            scores.gather(0, labels[None])[0],
            sure=torch.minimum(near, seed.amax(0) - self.cfg.candidate + 0.5),
            original=original,
            min_score=self.cfg.min_score,
        )

    def _clustered(
        self, there: Float[Tensor, "2 h w"], scale: Float[Tensor, "2 h w"], seed: Float[Tensor, "c h w"]
    ) -> tuple[Int[Tensor, "h w"], Int[Tensor, " k"], Int[Tensor, " k"]]:
        """To which object each pixel belongs, and class and seed of each, one class after the other."""
        cfg, (best, classes) = self.cfg, seed.max(0)
        owner = torch.full_like(classes, NOBODY)
        labels, grown = [classes.new_zeros(0)], [classes.new_zeros(0)]
        for label in range(cfg.num_classes):
            own = (classes == label) & (best > cfg.candidate)
            seeded = clustering.around_seeds(
                there[:, own],
                scale[:, own],
                best[own],
                threshold=cfg.threshold,
                least=cfg.min_pixels,
                fresh_share=cfg.fresh,
            )
            before = sum(map(len, labels))
            owner[own] = torch.where(seeded.owner == NOBODY, NOBODY, seeded.owner + before)
            labels.append(torch.full_like(seeded.seeds, label))
            grown.append(torch.where(own.flatten())[0][seeded.seeds])
        return owner, torch.cat(labels), torch.cat(grown)


def scale_of(sigma: Float[Tensor, "2 *n"]) -> Float[Tensor, "2 *n"]:
    """1 / (2 sigma²) of what the network calls sigma, for coordinates in units."""
    return (STEEPNESS * sigma).clamp(max=MOST).exp()


def mask_losses(
    there: Float[Tensor, "2 n"], centre: Float[Tensor, "2 k"], scale: Float[Tensor, "2 k"], owner: Int[Tensor, " n"]
) -> Float[Tensor, " k"]:
    """The Lovász hinge of each object's Gaussian as a mask, whose logit is 2 phi - 1.

    Some objects at a time, computed once more for the gradient: memory does not follow their number.
    """
    count, step = centre.shape[1], max(1, PAIRS_AT_ONCE // max(there.shape[1], 1))
    groups = torch.arange(count, device=owner.device).split(step) if count else ()
    losses = [centre.new_zeros(0)]
    for some in groups:
        of_these = there, centre[:, some], scale[:, some], owner - some[0]
        losses.append(checkpoint(_mask_losses, *of_these, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(losses)


def _mask_losses(
    there: Float[Tensor, "2 n"], centre: Float[Tensor, "2 k"], scale: Float[Tensor, "2 k"], owner: Int[Tensor, " n"]
) -> Float[Tensor, " k"]:
    which, pixel = pairs_that_matter(there, centre, scale, owner)
    # index_select, as its gradient is much faster than that of indexing
    likely = likeness(there.index_select(1, pixel), centre.index_select(1, which), scale.index_select(1, which))
    return lovasz.hinge(2 * likely - 1, owner[pixel] == which, which, centre.shape[1])


@torch.no_grad()
def pairs_that_matter(
    there: Float[Tensor, "2 n"], centre: Float[Tensor, "2 k"], scale: Float[Tensor, "2 k"], owner: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Objects, and pixels that are theirs or not FAINT: few of all pairs, once the Gaussians fit their objects."""
    (x, y), (s, t) = (there[:, None] - centre[:, :, None]).square(), scale[:, :, None]
    near = x.mul_(s).add_(y.mul_(t)) < -log(FAINT)
    own = owner == torch.arange(len(near), device=owner.device)[:, None]
    which, pixel = torch.where(near | own)
    return which, pixel


def build(cfg: Config) -> SpatialEmbeddings:
    return SpatialEmbeddings(cfg)
