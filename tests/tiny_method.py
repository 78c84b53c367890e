"""A method of three convolutions, for whoever needs one that trains in a second."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskwise.data.synthetic.scenes import Scenes
from maskwise.data.transforms import HorizontalFlip, Resize
from maskwise.masks import Masks
from maskwise.methods import Entry
from maskwise.recipes.run import Data, Optim, Run, Schedule, Synthetic, Watch
from maskwise.structures import Images, Instances, Losses, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    num_classes: int = 2
    width: int = 4
    chance: float = 0.01
    """Noise on the pixels, so that the state of the generators matters."""
    nan_in: tuple[int, ...] = ()
    """Calls of `forward` whose loss is no number."""
    fail_in: tuple[int, ...] = ()


class Tiny(nn.Module):
    """Foreground everywhere, and one instance: what is foreground."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        w = config.width
        self.config = config
        self.net = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1), nn.ReLU()
        )
        self.mask, self.label = nn.Conv2d(w, 1, 1), nn.Linear(w, config.num_classes)
        self.calls = 0

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        self.calls += 1
        if self.calls in self.config.fail_in:
            raise KeyError("the deliberate failure")
        noise = self.config.chance * (torch.randn(3, 1, 1) + random.random())
        logits, label = self._outputs(images.pixels + noise.to(images.pixels.device))
        truth = torch.zeros_like(logits)
        for place, one in zip(truth, targets, strict=True):
            h, w = one.masks.size
            if len(one):
                place[:h, :w] = one.masks.dense().any(0)
        classes = [label[i].log_softmax(0)[one.labels].sum() / max(1, len(one)) for i, one in enumerate(targets)]
        losses = {
            "mask": functional.binary_cross_entropy_with_logits(logits, truth),
            "class": -sum(classes) / len(classes),
        }
        if self.calls in self.config.nan_in:
            losses["mask"] = losses["mask"] * torch.nan
        return losses

    @torch.no_grad()
    def predict(self, images: Images) -> list[Instances]:
        logits, label = self._outputs(images.pixels)
        return [self._instance(logits[i].sigmoid(), label[i].softmax(0), images, i) for i in range(len(images))]

    def _outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net(pixels)
        return self.mask(features)[:, 0], self.label(features.mean((2, 3)))

    def _instance(self, seen: Tensor, classes: Tensor, images: Images, i: int) -> Instances:
        h, w = images.sizes[i]
        masks = Masks.from_dense((seen[:h, :w] > seen[:h, :w].mean()).float().cpu()[None] > 0).resize(
            images.originals[i]
        )
        score = classes.max()[None].float().cpu()
        label = classes.argmax()[None].cpu()
        return Instances(
            boxes=masks.boxes(), labels=label, scores=score, quality=torch.ones(1), mask_scores=score, masks=masks
        )


METHODS = {
    "tiny": Entry(title="Tiny", year=2026, venue="tests", family="two-stage", config=Config, build=Tiny),
}


def tiny_run(*, config: Config | None = None, optim: Optim | None = None, epochs: int = 2, **rest) -> Run[Config]:
    """Seven little scenes to learn from, three to judge by."""
    source = Synthetic(scenes=Scenes(size=(32, 32), count=(1, 2), classes=("disc", "square")), train=7, val=3)
    data = {
        "source": source, "change": (HorizontalFlip(),), "view": (Resize(short=24),), "batch": 2,
        "group_by_aspect": False, "workers": 0,
    }  # fmt: skip
    schedule = Schedule(epochs=epochs, milestones=(1,), warmup=2)
    watch = {"save_steps": 3, "log_steps": 1, **rest.pop("watch", {})}
    return Run(
        method="tiny",
        config=config or Config(),
        data=Data(**{**data, **rest.pop("data", {})}),
        optim=optim or Optim(lr=0.05, lr_batch=None, ema=0.9),
        schedule=rest.pop("schedule", schedule),
        watch=Watch(**watch),
        device="cpu",
        **rest,
    )
