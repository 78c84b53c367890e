"""A run for data that nobody wrote a recipe for: pictures and objects are measured, and the log says each choice.

maskwise train --data photos
maskwise train own --data photos --dry-run        what would be chosen, in full
"""

import logging
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from maskwise.backbones import Name
from maskwise.data.chance import generator
from maskwise.data.dataset import DataSet
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import ImageReadError, image_size
from maskwise.data.open import detected, open_data
from maskwise.data.split import TOO_FEW, held_out
from maskwise.data.transforms import ColourJitter, Enlarge, HorizontalFlip, RandomCrop, RandomScale, Resize
from maskwise.methods import ms_rcnn
from maskwise.parts.norms import Norm
from maskwise.recipes.run import Change, Data, Files, Optim, Run, Schedule, Watch

log = logging.getLogger(__name__)

LOOKED_AT = 200
"""Pictures whose annotations are measured, drawn from all."""
WANTED_SIDE = 16
"""Pixels that nine of ten objects should have, in height and width: smaller ones are hard to find and to outline."""
HELD_OUT = 0.2
"""Share of the pictures that training is judged by, where the data has no split for that."""
WORTH_CROPPING = 1.25
"""Crops are cut from pictures whose short side is more than so many times that of a crop: smaller ones lose little
memory whole."""
ROOM = 1.5
"""Instances that a model may find, for each object of the fullest picture that was looked at: others may be fuller."""
LEAST_ROOM = 100
"""COCO's number: what people and evaluators expect of a picture."""
REGIONS_EACH = 3
"""Proposals for each of these instances: most regions lie beside an object or on one that another has found."""
LEAST_REGIONS = 300
"""Also where there are few objects."""
LEVEL_EACH = 2
"""Regions of a level of the pyramid for each instance, before suppression: all objects may be of one size."""
LEAST_LEVEL = 1000
"""The usual number, of a level in a test and of all levels in training."""
LEAST_EPOCHS, MOST_EPOCHS = 4, 300
"""Large data is seen a few times however long that takes; a few pictures are known by heart long before the end."""
SMALL_OBJECT = 32
"""Pixels across, as the network sees them. Where a tenth of the objects is below that, anchors begin at 16 pixels, else
at 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the size of network, pictures and training is made for."""

    gpu: bool
    backbone: Name
    norm: Norm
    frozen_stages: int
    width: int
    hidden: int
    region_samples: int
    long: int
    """Of a picture that is shown whole."""
    crop: int
    batch: int
    lr: float
    steps: int
    workers: int


SMALL = Machine(
    gpu=False,
    backbone="tf_efficientnet_lite0",
    norm="batch",
    frozen_stages=0,
    width=96,
    hidden=256,
    region_samples=128,
    long=640,
    crop=256,
    batch=4,
    lr=5e-4,
    steps=3000,
    workers=1,
)
LARGE = Machine(
    gpu=True,
    backbone="resnet50",
    norm="frozen",
    frozen_stages=2,
    width=256,
    hidden=1024,
    region_samples=256,
    long=1333,
    crop=640,
    batch=8,
    lr=2e-4,
    steps=12000,
    workers=4,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Sizes in pixels."""

    pictures: int
    held_out: int
    """Of them, to judge by."""
    short: int
    """Median of the pictures' short sides."""
    long: int
    """Median of their long sides."""
    most: int
    """Objects of the picture that has most."""
    side: float
    """Median of the objects' sides; a side is the root of an area."""
    small: float
    """A tenth of the objects has a side below this."""
    empty: int
    """Pictures without an object among those that were looked at."""
    looked_at: int


def own(data: str, device: str = "auto") -> Run[ms_rcnn.Config]:
    """Mask Scoring R-CNN with what suits your pictures and objects; the log says what it chose and why."""
    source = _source(data)
    sizes = measured(open_data(data, format=source.format, split=source.train), share=source.held_out)
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    machine = LARGE if on_gpu else SMALL
    run = replace(fitting(sizes, source, machine), device=device)
    for line in reasons(sizes, run, machine):
        log.info("  %s", line)
    return run


def _source(data: str) -> Files:
    """The data's own splits where it has them, else some pictures are held out."""
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    format = detected(path)
    names = FORMATS[format].splits(path)
    train, val = (next((n for n in names if n.startswith(wanted)), None) for wanted in ("train", "val"))
    if train is None:
        if len(names) > 1:
            raise ValueError(f"{path} has the splits {', '.join(names)}; one to learn from must be called train")
        val = None  # the only one is learned from, whatever it is called
    return Files(path=data, format=format, train=train, val=val, held_out=0.0 if val else HELD_OUT)


# Measuring


def measured(data: DataSet, *, share: float = 0, most: int = LOOKED_AT) -> Measured:
    """Sizes and numbers of a random choice of the pictures; those that cannot be read are left to training to name."""
    chosen = torch.randperm(len(data), generator=generator(0))[:most].tolist()
    sizes, sides = [], []
    for i in chosen:
        record = data[i]
        try:
            targets = record.labelled().targets
            sizes.append(record.size or image_size(record.path))
        except ImageReadError:
            continue
        sides.append(targets.masks[torch.where(~targets.crowd)[0]].area().double().sqrt().numpy())
    objects: Float[np.ndarray, " n"] = np.concatenate([np.zeros(0), *sides])
    objects = objects[objects > 0]
    if not len(objects):
        raise ValueError(f"{data.root}: no object in any of the {len(chosen)} pictures that were looked at")
    return Measured(
        pictures=len(data),
        held_out=len(held_out(data, share)[1] or ()) if share else 0,
        short=int(np.median([min(size) for size in sizes])),
        long=int(np.median([max(size) for size in sizes])),
        most=max(len(one) for one in sides),
        side=float(np.median(objects)),
        small=float(np.quantile(objects, 0.1)),
        empty=sum(len(one) == 0 for one in sides),
        looked_at=len(sizes),
    )


# Choosing


def scale(found: Measured, machine: Machine) -> float:
    """What the sides of pictures are multiplied by.

    Pictures that fit the machine grow where objects are small, to at most twice their size and while they still fit.
    Larger ones shrink until they fit, or until objects would become too small.
    """
    to_fit, to_be_seen = machine.long / found.long, WANTED_SIDE / found.small
    if to_fit >= 1:
        return min(2.0, to_fit, max(1.0, to_be_seen))
    return min(1.0, max(to_fit, to_be_seen))


def fitting(found: Measured, source: Files, machine: Machine) -> Run[ms_rcnn.Config]:
    """The run for data that was measured so."""
    factor = scale(found, machine)
    shown, cropped = _view(found, factor), found.short * factor > WORTH_CROPPING * machine.crop
    crop = (RandomCrop(size=(machine.crop, machine.crop), keep_one=True),) if cropped else ()
    colour = ColourJitter(brightness=0.2, contrast=0.2, saturation=0.2)
    most = max(LEAST_ROOM, _up_to_tens(floor(ROOM * found.most)))
    learned = found.pictures - found.held_out
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, floor(machine.steps * machine.batch / learned + 0.5)))
    return Run(
        method="ms_rcnn",
        config=ms_rcnn.Config(
            num_classes=1,  # as many as the data has
            backbone=machine.backbone,
            weights="imagenet",
            norm=machine.norm,
            frozen_stages=machine.frozen_stages,
            width=machine.width,
            hidden=machine.hidden,
            anchor_scale=4.0 if found.small * factor < SMALL_OBJECT else 8.0,
            region_samples=machine.region_samples,
            per_level_train=LEAST_LEVEL,
            per_level_test=max(LEAST_LEVEL, LEVEL_EACH * most),
            proposals_train=LEAST_LEVEL,
            proposals_test=max(LEAST_REGIONS, REGIONS_EACH * most),
            max_instances=most,
        ),
        data=Data(
            source=source,
            change=(*shown, RandomScale(factor=(0.7, 1.4)), *crop, HorizontalFlip(), colour),
            view=shown,
            batch=machine.batch,
            workers=machine.workers,
        ),
        optim=Optim(kind="adamw", lr=machine.lr, lr_batch=None, weight_decay=0.05, clip=5.0, ema=0.998),
        schedule=Schedule(epochs=epochs, kind="cosine", last=0.01, warmup=200),
        watch=Watch(val_epochs=max(1, epochs // 6), save_steps=200),
    )


def _up_to_tens(count: int) -> int:
    """Rounded up, to a number that is easy to read."""
    return 10 * ceil(count / 10)


def _view(found: Measured, factor: float) -> tuple[Change, ...]:
    short, long = floor(found.short * factor + 0.5), floor(found.long * factor + 0.5)
    if factor > 1:
        return (Enlarge(short=short),)
    return (Resize(short=short, long=2 * long),) if factor < 1 else ()


def reasons(found: Measured, run: Run[ms_rcnn.Config], machine: Machine) -> list[str]:
    """What was measured and what follows from it, a line each. How long it is trained, training says: that may be asked
    for."""
    data, source, factor = run.data, run.data.source, scale(found, machine)
    assert isinstance(source, Files)
    lines = [
        f"{found.pictures} pictures, {found.long} x {found.short} pixels in the middle; up to {found.most} objects",
        f"objects of {found.side:.0f} pixels across in the middle, a tenth below {found.small:.0f}",
        f"for {'a' if machine.gpu else 'no'} GPU, a new network has {machine.backbone} with ImageNet weights",
        f"pictures at {factor:.2g} times their size: {_why(found, factor, machine)}",
    ]
    if any(isinstance(step, RandomCrop) for step in data.change):
        lines.append(f"learned from in crops of {machine.crop} x {machine.crop}, to spare memory and time")
    if source.val is not None:
        lines.append(f"judged by the split {source.val!r} of the data")
    elif found.held_out:
        lines.append(f"{found.held_out} of them are held out to judge by: the data has no split for that")
    else:
        why = f"there are fewer than {TOO_FEW}" if found.pictures < TOO_FEW else "all are tiles of one"
        lines.append(
            f"no picture is held out to judge by, {why}: there will be no AP; maskwise val judges the model on others"
        )
    if found.empty:
        lines.append(f"{found.empty} of {found.looked_at} pictures show no object, and that is learned from, too")
    return lines


def _why(found: Measured, factor: float, machine: Machine) -> str:
    if factor > 1:
        return f"small objects would have fewer than {WANTED_SIDE} pixels"
    if factor == 1:
        return "objects are large enough, and there is room"
    fits = factor * found.long <= machine.long + 1
    return f"they fit into {machine.long} pixels" if fits else f"no smaller, or objects fall below {WANTED_SIDE} pixels"
