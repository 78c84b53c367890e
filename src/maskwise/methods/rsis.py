"""RSIS. Amaia Salvador, Míriam Bellver, Víctor Campos, Manel Baradad, Ferran Marqués, Jordi Torres, Xavier
Giró-i-Nieto, 2017. "Recurrent Neural Networks for Semantic Instance Segmentation", https://arxiv.org/abs/1712.00617

A pyramid of convolutional LSTMs looks at the same features again and again, and each time draws another object, names
it and says whether there was one left. What it has drawn is remembered at all levels, so that it needs no proposals and
no suppression of doubles. It finds its own order: with n objects, the first n masks are matched to them by the cheapest
assignment.

Differs from the paper in:

- Architecture: its box head is left out, as in the authors' code. Masks come from a 3x3 convolution, as in the code,
  and not from a 1x1; maps are enlarged so that pixels keep their place, where the code's keep their outermost centres.
- Losses: there is no class for the end of a sequence, which in the code is never learned; classes that are not learned
  either (`class_weight` 0) are guesses. Crowds and padding teach nothing.
- Order: the code begins with masks, lets classes and the end of the sequence join after some epochs or when validation
  stalls, and objects one by one when it stalls again. Here all begin after a share of the training (`class_from`,
  `stop_from`, `all_steps_from`) where a training loop tells the step (`on_step`), and are learned from the start
  without one. Of a picture the largest 20 objects are learned from (`max_objects`).
- Prediction: as in the code, steps below `stop_threshold` are skipped; later ones still count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise import backbones
from maskwise.masks import Masks
from maskwise.parts import norms
from maskwise.parts.assignment import assign, soft_iou
from maskwise.parts.convlstm import ConvLSTM, State
from maskwise.parts.label_maps import NOBODY
from maskwise.parts.norms import Norm
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    num_classes: int
    backbone: backbones.Name = "resnet101"
    weights: backbones.Weights = None
    """ImageNet weights of the backbone: a file, or 'imagenet' to have them fetched."""
    norm: Norm = "batch"
    """Norm of the backbone and of the convolutions over its features."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained."""
    encoder_rate: float = 0.001
    """Learning rate of the backbone, as a share of that of all else."""
    width: int = 128
    """Channels of the coarsest LSTM; each finer one has half of those before it."""
    levels: int = 5
    """LSTMs, the coarsest at C5 and the fifth at the stem; fewer leave out the finest."""
    skips: Literal["concat", "sum", "multiply", "none"] = "concat"
    """How features join what the LSTM above them says; with none only the coarsest sees any."""
    max_steps: int = 10
    """Objects that are looked for in a picture: 10 for VOC, 20 for Cityscapes and CVPPP."""
    max_objects: int = 20
    """Objects of a picture that are learned from, the largest."""
    mask_weight: float = 1.0
    """Weight of the mask loss."""
    class_weight: float = 0.1
    """Weight of the loss of classes; 0 for CVPPP."""
    stop_weight: float = 0.5
    """Weight of the loss of whether there is an object; 0.1 for CVPPP."""
    encoder_from: float = 0.0
    """Share of the training after which the backbone learns, too."""
    class_from: float = 0.1
    """Share of the training after which classes are learned ..."""
    stop_from: float = 0.3
    """... and after which it is learned whether there is an object."""
    first_steps: int | None = None
    """Objects of a picture that training begins with, then more, one by one; None: with all. 2 for Cityscapes and
    CVPPP."""
    all_steps_from: float = 0.5
    """Share of the training after which all objects are learned, if it begins with some."""
    min_steps: int = 5
    """Whether there is an object is learned only when more than so many are, if it begins with some."""
    stop_threshold: float = 0.5
    """Steps of less objectness are skipped."""
    mask_threshold: float = 0.5
    """Probability above which a pixel belongs to the object."""
    min_area: float = 0.001
    """Masks of a smaller share of the picture are dropped."""
    all_classes: bool = True
    """Report a mask once for each class, as evaluation by ranking wants it, or only for its best one."""
    min_score: float = 0.0
    """Only masks that score more are reported: the score is the probability of the class times the objectness."""


class Steps(NamedTuple):
    """What was said in t steps about b pictures."""

    masks: Float[Tensor, "b t h w"]
    """Logits, of the size of the padded pictures."""
    classes: Float[Tensor, "b t c"]
    """Logits."""
    objectness: Float[Tensor, "b t"]
    """Logits: is it an object, or were there none left."""


class Stage(NamedTuple):
    """What is learned at some time of a training."""

    steps: int
    """Objects of a picture."""
    encoder: bool = True
    classes: bool = True
    stop: bool = True


class Decoder(nn.Module):
    """One LSTM a level, from the coarsest to the finest, each seeing what that before it says and finer features."""

    def __init__(self, cfg: Config, channels: Sequence[int]):
        """`channels`: of the backbone's maps, the coarsest first."""
        super().__init__()
        self.skip_mode = cfg.skips
        widths = [cfg.width >> level for level in range(cfg.levels)]
        inputs = [cfg.width, *widths[:-1]]
        joined = channels[:1] if cfg.skips == "none" else channels[: cfg.levels]
        self.skips = nn.ModuleList(
            norms.after(nn.Conv2d(c, width, 3, padding=1), cfg.norm) for c, width in zip(joined, inputs, strict=False)
        )
        double = [1] + [2 if cfg.skips == "concat" else 1] * (cfg.levels - 1)
        self.cells = nn.ModuleList(ConvLSTM(f * n, width) for f, n, width in zip(double, inputs, widths, strict=True))
        self.mask = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.classes = nn.Linear(sum(widths), cfg.num_classes)
        self.stop = nn.Linear(sum(widths), 1)

    def forward(self, features: Sequence[Float[Tensor, "b _ _ _"]], size: Size, *, steps: int) -> Steps:
        """Features from the coarsest on; `size` is that of the pictures."""
        sizes: list[Size] = [(x.shape[2], x.shape[3]) for x in features[: len(self.cells)]] + [size]
        skips = [skip(x) for skip, x in zip(self.skips, features, strict=False)]
        outputs, states = [], [None] * len(self.cells)
        for _ in range(steps):
            of_step, states = self._step(skips, sizes, states)
            outputs.append(of_step)
        masks, classes, objectness = (torch.stack(part, 1).float() for part in zip(*outputs, strict=True))
        return Steps(masks, classes, objectness)

    def _step(
        self, skips: Sequence[Tensor], sizes: Sequence[Size], before: Sequence[State | None]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], list[State]]:
        x, states = skips[0], []
        for level, (cell, state) in enumerate(zip(self.cells, before, strict=True), 1):
            states.append(cell(x, state))
            x = F.interpolate(states[-1].hidden, size=sizes[level], mode="bilinear")
            if level < len(skips):
                x = self._joined(x, skips[level])
        highest = torch.cat([state.hidden.amax((2, 3)) for state in states], 1)
        return (self.mask(x)[:, 0], self.classes(highest), self.stop(highest)[:, 0]), states

    def _joined(self, above: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        if self.skip_mode == "concat":
            return torch.cat([above, skip], 1)
        return above + skip if self.skip_mode == "sum" else above * skip


class RSIS(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = _checked(cfg)
        self.backbone = backbones.build(
            cfg.backbone, norm=cfg.norm, weights=cfg.weights, frozen=cfg.frozen_stages, stages=range(1, 6)
        )
        self.decoder = Decoder(cfg, self.backbone.channels[::-1])
        self.stage = Stage(cfg.max_steps)

    def param_groups(self) -> list[dict[str, Any]]:
        """The backbone, which may have been trained before, moves more slowly."""
        encoder, decoder = ([p for p in m.parameters() if p.requires_grad] for m in (self.backbone, self.decoder))
        return [{"params": decoder}, {"params": encoder, "lr_factor": self.cfg.encoder_rate}]

    def on_step(self, step: int, total: int) -> None:
        """What is learned in this step of a training of `total` steps."""
        self.stage = stage(self.cfg, step / total)

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        """Losses of what is not learned yet are told, without a gradient."""
        cfg, now = self.cfg, self.stage
        known = [objects(t, most=cfg.max_objects) for t in targets]
        # as many as the picture with most objects has, and that there are none left
        steps = self.steps(images, min(now.steps, max(map(len, known)) + 1))
        overlaps = [
            overlap(masks[:, :h, :w], of_picture, t)
            for masks, of_picture, t, (h, w) in zip(steps.masks, known, targets, images.sizes, strict=True)
        ]
        matched = match(overlaps)
        classes = class_loss(steps.classes, matched, [of_picture.labels for of_picture in known])
        stop = stop_loss(steps.objectness, matched.new_tensor([len(of_picture) for of_picture in known]))
        return {
            "mask": cfg.mask_weight * mask_loss(overlaps, matched),
            "class": cfg.class_weight * (classes if now.classes else classes.detach()),
            "stop": cfg.stop_weight * (stop if now.stop else stop.detach()),
        }

    def steps(self, images: Images, count: int) -> Steps:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage.encoder):
            features = self.backbone(images.normalized(self.backbone.mean, self.backbone.std))
        h, w = images.pixels.shape[-2:]
        return self.decoder(features[::-1], (h, w), steps=count)

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        steps = self.steps(images, self.cfg.max_steps)
        masks, objectness = steps.masks.sigmoid(), steps.objectness.sigmoid()
        classes = steps.classes.softmax(2)
        return [
            self._found(masks[i, :, :h, :w], classes[i], objectness[i], images.originals[i])
            for i, (h, w) in enumerate(images.sizes)
        ]

    def _found(
        self,
        masks: Float[Tensor, "t h w"],
        classes: Float[Tensor, "t c"],
        objectness: Float[Tensor, " t"],
        original: Size,
    ) -> Instances:
        cfg = self.cfg
        sure = torch.where(objectness >= cfg.stop_threshold)[0]
        drawn = [draw(masks[step], original, threshold=cfg.mask_threshold) for step in sure.tolist()]
        found = Masks.cat([Masks.none(original), *drawn]).to(masks.device)
        area = found.area()
        large = torch.where((area > 0) & (area >= cfg.min_area * original[0] * original[1]))[0]
        scores = classes[sure[large]] * objectness[sure[large], None]
        if not cfg.all_classes:
            scores = scores * F.one_hot(scores.argmax(1), scores.shape[1])
        which, labels = torch.where(scores > cfg.min_score)
        found, scores = found[large[which]], scores[which, labels]
        return Instances.scored(
            boxes=found.boxes().to(scores.dtype), labels=labels, scores=scores, masks=found
        ).ranked()


def build(cfg: Config) -> RSIS:
    return RSIS(cfg)


def _checked(cfg: Config) -> Config:
    least = 2 ** (cfg.levels - 1)
    if not 1 <= cfg.levels <= 5:
        raise ValueError(f"levels: expected 1 to 5, as the backbone has maps, got {cfg.levels}")
    if cfg.width < least or cfg.width % least:
        raise ValueError(f"width: expected a multiple of {least}, as levels halve it, got {cfg.width}")
    return cfg


# --- learning


def stage(cfg: Config, done: float) -> Stage:
    """What is learned when this share of a training is done."""
    steps = cfg.max_steps
    if cfg.first_steps is not None and done < cfg.all_steps_from:
        more = max(cfg.max_steps - cfg.first_steps, 0)
        steps = min(cfg.first_steps + int(more * done / cfg.all_steps_from), cfg.max_steps)
    enough = cfg.first_steps is None or steps > min(cfg.min_steps, cfg.max_steps - 1)
    return Stage(
        steps=steps,
        encoder=done >= cfg.encoder_from,
        classes=done >= cfg.class_from,
        stop=done >= cfg.stop_from and enough,
    )


def objects(targets: Targets, *, most: int) -> Targets:
    """What is to be drawn: no crowds, nothing without pixels, and the largest where there are many."""
    area = targets.masks.area()
    order = area.argsort(descending=True, stable=True)
    return targets[order[(area > 0)[order] & ~targets.crowd[order]][:most]]


def overlap(logits: Float[Tensor, "t h w"], known: Targets, targets: Targets) -> Float[Tensor, "t n"]:
    """Soft IoU of each step's mask with each object that is to be drawn; pixels of a crowd alone do not count."""
    truth = known.masks.dense().flatten(1)
    crowd = targets.masks[targets.crowd].dense().any(0).flatten()
    seen = ~crowd | truth.any(0)
    return soft_iou(logits.flatten(1).sigmoid() * seen, truth.to(logits.dtype))


def match(overlaps: Sequence[Float[Tensor, "t _"]]) -> Int[Tensor, "b t"]:
    """The object that each step draws, by least 1 - IoU. Only as many first steps as there are objects draw any."""
    steps, most = len(overlaps[0]), max(iou.shape[1] for iou in overlaps)
    cost = overlaps[0].new_full((len(overlaps), steps, most), torch.inf)
    for table, iou in zip(cost, overlaps, strict=True):
        count = iou.shape[1]
        table[:count, :count] = 1 - iou.detach()[:count]
    return assign(cost)


def mask_loss(overlaps: Sequence[Float[Tensor, "t _"]], matched: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """1 - soft IoU, mean over all steps that draw an object."""
    pairs = [iou[who != NOBODY, who[who != NOBODY]] for iou, who in zip(overlaps, matched, strict=True)]
    return _mean(1 - torch.cat(pairs))


def class_loss(
    logits: Float[Tensor, "b t c"], matched: Int[Tensor, "b t"], labels: Sequence[Int[Tensor, " _"]]
) -> Float[Tensor, ""]:
    """Cross-entropy, mean over all steps that draw an object."""
    wanted = [of_picture[who[who != NOBODY]] for of_picture, who in zip(labels, matched, strict=True)]
    return _mean(F.cross_entropy(logits[matched != NOBODY], torch.cat(wanted), reduction="none"))


def stop_loss(logits: Float[Tensor, "b t"], counts: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Each object, and the first step after the last one: half the cross-entropy (the code's balance), mean over all.

    What comes later learns nothing: only this tells that there is nothing to draw.
    """
    step = torch.arange(logits.shape[1], device=logits.device)
    error = 0.5 * F.binary_cross_entropy_with_logits(
        logits, (step < counts[:, None]).to(logits.dtype), reduction="none"
    )
    return _mean(error[step <= counts[:, None]])


def _mean(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """0 of nothing, with a gradient."""
    return values.sum() / max(len(values), 1)


# --- predicting


def draw(probabilities: Float[Tensor, "h w"], original: Size, *, threshold: float) -> Masks:
    """One mask in the original picture, read there bilinearly."""
    large = F.interpolate(probabilities[None, None], size=original, mode="bilinear")[0]
    return Masks.from_dense(large > threshold)
