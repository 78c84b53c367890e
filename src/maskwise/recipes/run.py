"""A run: everything that decides what training gives, in frozen data classes that are saved as JSON and read back."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from maskwise.categories import Categories
from maskwise.data import transforms
from maskwise.data.synthetic.scenes import Scenes
from maskwise.recipes.stored import from_json, refuse_unknown, to_json

C = TypeVar("C")

Change: TypeAlias = (
    transforms.Resize
    | transforms.RandomResize
    | transforms.Enlarge
    | transforms.RandomScale
    | transforms.ScaleJitter
    | transforms.RandomCrop
    | transforms.RandomRelativeCrop
    | transforms.HorizontalFlip
    | transforms.VerticalFlip
    | transforms.RightAngles
    | transforms.ColourJitter
    | transforms.Invert
    | transforms.Blur
    | transforms.Noise
)

_MOVES = (
    transforms.ScaleJitter,
    transforms.RandomCrop,
    transforms.RandomRelativeCrop,
    transforms.HorizontalFlip,
    transforms.VerticalFlip,
    transforms.RightAngles,
)
"""Changes after which an object no longer lies where it is in the file."""


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected more than 0, got {value}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {value}")


def _below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 to below 1, got {value}")


def _expression(name: str, value: str) -> None:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: {value!r} is no regular expression: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A data set in any of the known formats."""

    path: str
    format: str | None = None
    """One of the known formats; None: the data shows which."""
    train: str | None = "train"
    """Split to learn from; None where the format has none."""
    val: str | None = "val"
    """Split to judge by; None: training is not judged, or by what is held out."""
    held_out: float = 0.0
    """Share of the pictures that training is judged by and does not learn from, where the data has no split for it."""
    held_out_seed: int = 0
    """Decides which pictures these are."""
    held_out_by: str | None = None
    """A regular expression: pictures in whose names it finds the same (`plant\\d+`; its first group, if it has one) are
    all held out or none is. None: so it is with the tiles of a picture, by the names that `convert` gave them."""
    empty: bool = True
    """Learn from pictures without annotations too, where the format knows them before they are read (COCO). The
    published recipes on COCO do not."""
    crowds_as_instances: bool = False
    """Take crowds for objects: for data whose tool marked every mask as one, as CVAT can."""

    def __post_init__(self) -> None:
        _below_one("held_out", self.held_out)
        if self.held_out_by is not None:
            _expression("held_out_by", self.held_out_by)
            if not self.held_out:
                raise ValueError("held_out_by: nothing is held out; say how much with held_out, and val null")
        if self.held_out and self.val is not None:
            raise ValueError(f"judged by the split {self.val!r} or by what is held out, not by both")


MOST_SCENES = 1_000_000
"""To learn from, and to be judged by in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Scenes, made when they are needed."""

    scenes: Scenes = field(default_factory=Scenes)
    train: int = 1000
    val: int = 100
    """Scenes that training never sees; 0: training is not judged."""

    def __post_init__(self) -> None:
        _at_least("train", self.train, 1)
        _at_least("val", self.val, 0)
        for name in ("train", "val"):
            if getattr(self, name) > MOST_SCENES:
                raise ValueError(f"{name}: at most {MOST_SCENES:,} scenes, beyond lie those that judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    source: Files | Synthetic
    change: tuple[Change, ...] = (transforms.RandomResize(), transforms.HorizontalFlip())
    """What happens to a picture before it is learned from."""
    view: tuple[Change, ...] = (transforms.Resize(),)
    """How a picture is prepared to be predicted on; stored in the model."""
    batch: int = 16
    """Pictures in one step of the optimiser, of all processes together."""
    group_by_aspect: bool = True
    as_one: bool = False
    """Take all classes for one, 'object': for methods that do not tell classes apart."""
    workers: int = 2

    def __post_init__(self) -> None:
        _at_least("batch", self.batch, 1)
        _at_least("workers", self.workers, 0)
        if moved := [type(step).__name__ for step in self.view if isinstance(step, _MOVES)]:
            raise ValueError(f"view: pictures are predicted on whole and as they lie, without {', '.join(moved)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    """Adam decays weights by its gradient, as recipes before AdamW do."""
    lr: float = 0.02
    """Learning rate for `lr_batch` pictures a step; for other batches in proportion (Goyal et al. 2017)."""
    lr_batch: int | None = 16
    """None: `lr` is the rate whatever the batch."""
    momentum: float = 0.9
    """Momentum of SGD; the first beta of Adam and AdamW."""
    weight_decay: float = 1e-4
    """Norm layers have none."""
    clip: float | None = None
    """Greatest norm of the gradient; longer ones are scaled down to it. None: no limit."""
    accumulate: int = 1
    """Parts that the pictures of one step are learned from in turn, where memory is short."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    ema: float | None = None
    """Decay per step of a moving average of the weights, which is judged and kept instead of them; None: no average."""

    def __post_init__(self) -> None:
        _at_least("lr", self.lr, 0)
        if self.lr_batch is not None:
            _at_least("lr_batch", self.lr_batch, 1)
        _below_one("momentum", self.momentum)
        _at_least("weight_decay", self.weight_decay, 0)
        if self.clip is not None:
            _above_zero("clip", self.clip)
        _at_least("accumulate", self.accumulate, 1)
        if self.ema is not None:
            _below_one("ema", self.ema)

    def rate(self, batch: int) -> float:
        """The learning rate for so many pictures a step."""
        return self.lr if self.lr_batch is None else self.lr * batch / self.lr_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    epochs: int = 12
    steps: int | None = None
    """Length of the whole training, instead of `epochs`; it may end in the middle of one."""
    kind: Literal["step", "cosine", "poly", "constant"] = "step"
    milestones: tuple[float, ...] = (8, 11)
    """Epochs after which the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    last: float = 0.0
    """Share of the rate that the cosine ends at."""
    power: float = 0.9
    """Exponent of `poly`: the rate is multiplied by (share of steps left) ** power."""
    warmup: int = 500
    """Steps during which the rate rises in a straight line; at most a quarter of all."""
    warmup_from: float = 0.001
    """Share of the rate that it rises from."""

    def __post_init__(self) -> None:
        _at_least("epochs", self.epochs, 1)
        if self.steps is not None:
            _at_least("steps", self.steps, 1)
        for milestone in self.milestones:
            _at_least("milestones", milestone, 0)
        for name in ("gamma", "last", "warmup_from"):
            _share(name, getattr(self, name))
        _at_least("power", self.power, 0)
        _at_least("warmup", self.warmup, 0)

    def total(self, per_epoch: int) -> int:
        """Steps of the whole training; `per_epoch`: steps of an epoch."""
        return self.epochs * per_epoch if self.steps is None else self.steps

    def rising(self, per_epoch: int) -> int:
        """Steps of the warm-up: a training that is shorter would never learn at its rate."""
        return min(self.warmup, self.total(per_epoch) // 4)

    def factor(self, step: int, per_epoch: int) -> float:
        """What the rate is multiplied by in step 0, 1, ..."""
        warm, rising = 1.0, self.rising(per_epoch)
        if step < rising:
            warm = self.warmup_from + (1 - self.warmup_from) * step / rising
        return warm * self._decayed(step, per_epoch)

    def _decayed(self, step: int, per_epoch: int) -> float:
        if self.kind == "step":
            return self.gamma ** sum(step >= milestone * per_epoch for milestone in self.milestones)
        done = step / self.total(per_epoch)
        if self.kind == "poly":
            return max(1 - done, 0.0) ** self.power
        if self.kind == "cosine":
            return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is looked at and kept while training goes on."""

    val_epochs: int = 1
    """Epochs from one validation to the next; the last epoch is always judged."""
    best: Literal["masks", "boxes", "keypoints", "proposals"] = "masks"
    """Whose AP says which weights are the best; of proposals, which have no classes, the area under their recall."""
    patience: int | None = None
    """Validations without a better AP after which training stops."""
    save_steps: int = 1000
    """Steps from one checkpoint to the next; there is one after each epoch too."""
    log_steps: int = 20
    bad_steps: int = 10
    """Steps with a loss or gradient that is not finite are passed over; more than so many end training."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("val_epochs", "save_steps", "log_steps"):
            _at_least(name, getattr(self, name), 1)
        if self.patience is not None:
            _at_least("patience", self.patience, 1)
        _at_least("bad_steps", self.bad_steps, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[C]):
    method: str
    """Its name in METHODS."""
    config: C
    """The method's options."""
    data: Data
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    watch: Watch = Watch()
    seed: int = 0
    device: str = "auto"
    deterministic: bool = False
    """Refuse operations whose result changes from one time to the next; slower on a GPU."""
    begins_with: str | None = None
    """Digest of the weights of the trained model that this run begins with; None: it begins with a new network."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: expected a whole number from 0 to below 2**32, got {self.seed}")
        _at_least("num_classes", getattr(self.config, "num_classes", 1), 1)  # of all methods that have classes
        if self.watch.best == "proposals" and not self.data.as_one:
            raise ValueError("watch.best: proposals are judged where all classes are one, with data.as_one=true")

    def fitted(self, categories: Categories) -> "Run[C]":
        """With as many classes as the data has, where the method has classes."""
        config: Any = self.config
        if all(f.name != "num_classes" for f in fields(config)):
            return self
        return replace(self, config=replace(config, num_classes=len(categories)))

    def to_json(self) -> dict[str, Any]:
        return to_json(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], configs: Mapping[str, type]) -> "Run[Any]":
        """`configs`: the class of options of each method."""
        method = str(stored.get("method"))
        if method not in configs:
            refuse_unknown("run", "method", [method], list(configs))
        return from_json(cls, stored, "run", {"config": configs[method]})


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two runs, as JSON, are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [d for n in names for d in differences(one.get(n), other.get(n), f"{where}.{n}" if where else n)]
    return [] if one == other else [f"{where}: {one!r}, now {other!r}"]
