"""What benchmarks/mask_scoring.py trains: cells of bed, network, method, options and seed, and the run of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from maskwise.data.transforms import Blur, Invert, RandomCrop
from maskwise.recipes.chosen import chosen
from maskwise.recipes.run import Change, Data, Files, Run, Synthetic, Watch

SEEDS = (0, 1, 2)
HELD_OUT = 0.1
"""Share of the training pictures that no cell learns from: the powers of score and quality are fitted on them."""
PEER, PACE = "torchvision", "pace"
"""The name of torchvision's Mask R-CNN as a method; and of the cells that measure steps of all three in turn."""
A_PICTURE = "a picture"
"""What they measure besides, where all three were trained."""
BEGUN_ALIKE = "torchvision_begun_alike"
"""The same, where layers for boxes begin with numbers drawn as ours are."""
PEERS_ARITHMETIC = {"convention": "torchvision"}
"""Ours, with RoIAlign, targets, losses of boxes and pasting as they are there: what of a difference is due to these."""

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "lite0 fpn": {"backbone": "tf_efficientnet_lite0", "weights": "imagenet"},
    "r18 fpn": {"backbone": "resnet18"},
    "r50 fpn": {"backbone": "resnet50"},
    "lite0 c4": {
        "backbone": "tf_efficientnet_lite0",
        "weights": "imagenet",
        "variant": "c4",
        "anchor_sizes": (16.0, 32.0, 64.0, 128.0, 256.0),
        "region_samples": 16,
    },
    "r18 deformable fpn": {"backbone": "resnet18", "deformable": (3, 4, 5)},
}
"""ResNets begin from chance unless there are files of weights. Of C4 each region goes through a stage of the backbone:
the papers learn from an eighth as many, here it is half."""
COSTS = {"lite0 fpn": 1.0, "r18 fpn": 1.2, "r50 fpn": 2.0, "lite0 c4": 3.1, "r18 deformable fpn": 1.9}
"""Of a step, about, in those of EfficientNet-Lite0."""

ABLATIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "inputs": [{"quality_input": name} for name in ("multiplied", "all_classes", "unpooled", "mask_only")],
    "targets": [{"quality_classes": name} for name in ("all", "present")],
    "samples": [{"quality_above": value} for value in (0.3, 0.5, 0.7)],
    "gradient": [{"quality_detached": name} for name in ("mask", "features", "both")],
}
"""Tables 4, 5 and 6 of the paper; and what it does not ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a bed gets of a budget."""

    steps: int
    """With ImageNet weights."""
    batch: int
    side: int | None
    """Of the crops, where pictures are files."""
    seconds: float
    """Of a step of EfficientNet-Lite0, about."""
    judging: float
    """Seconds of a judgement, about."""
    rate: float = 1.0
    """The learning rate, in those of the recipe. AdamW's goes with the root of the pictures of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    beds: Mapping[str, Share]
    networks: Mapping[str, Sequence[str]]
    ablated: Sequence[str]
    """Beds of the ablations; they have several classes, or half of these would say nothing."""
    amp: Literal["none", "bf16"]
    workers: int
    jobs: int
    """Cells at a time."""
    save_steps: int
    from_chance: int
    """Times the steps, where the backbone begins from chance."""


BUDGETS: Mapping[str, Budget] = {
    "cpu": Budget(
        beds={
            "scenes": Share(steps=600, batch=8, side=None, seconds=1.1, judging=100),
            "nuclei": Share(steps=600, batch=4, side=192, seconds=2.1, judging=200),
            "facades": Share(steps=600, batch=4, side=256, seconds=4.1, judging=200),
        },
        networks={"scenes": tuple(NETWORKS), "nuclei": ("lite0 fpn",), "facades": ("lite0 fpn",)},
        ablated=("scenes",),
        amp="none",
        workers=0,
        jobs=2,
        save_steps=50,
        from_chance=1,
    ),
    "gpu": Budget(
        beds={
            "scenes": Share(steps=1000, batch=16, side=None, seconds=0.15, judging=45, rate=1.4),
            "nuclei": Share(steps=800, batch=16, side=256, seconds=0.2, judging=75, rate=2.0),
            "facades": Share(steps=1000, batch=16, side=320, seconds=0.2, judging=60, rate=2.0),
        },
        networks=dict.fromkeys(("scenes", "nuclei", "facades"), tuple(NETWORKS)),
        ablated=("scenes", "facades"),
        amp="bf16",
        workers=4,
        jobs=4,
        save_steps=200,
        from_chance=2,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    group: str
    """Which table it is for."""
    bed: str
    network: str
    method: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        what = [self.method, *(f"{name}={value}" for name, value in self.options.items())]
        return "/".join((self.bed, self.network, "+".join(what), str(self.seed))).replace(" ", "-")


def cells(budget: Budget, *, seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """What matters most comes first: EfficientNet and torchvision, the ablations, ResNet-18, everything else."""
    found = [*_compared(budget, "lite0 fpn", seeds), *_peers(budget, seeds), *_ablated(budget.ablated[:1], seeds)]
    found += [cell for network in tuple(NETWORKS)[1:] for cell in _compared(budget, network, seeds)]
    return [*found, *_ablated(budget.ablated[1:], seeds)]


def _compared(budget: Budget, network: str, seeds: Sequence[int]) -> list[Cell]:
    return [
        Cell(group="backbones", bed=bed, network=network, method=method, seed=seed)
        for bed in budget.beds
        if network in budget.networks[bed]
        for seed in seeds
        for method in ("mask_rcnn", "ms_rcnn")
    ]


def _peers(budget: Budget, seeds: Sequence[int]) -> list[Cell]:
    of = {"group": "peer", "network": "lite0 fpn"}
    found = [Cell(bed=bed, method=PEER, seed=seed, **of) for bed in budget.beds for seed in seeds]
    why: Sequence[dict[str, Any]] = ({"method": "mask_rcnn", "options": PEERS_ARITHMETIC}, {"method": BEGUN_ALIKE})
    found += [Cell(bed=next(iter(budget.beds)), seed=seed, **one, **of) for one in why for seed in seeds]
    return found + [Cell(bed=bed, method=PACE, seed=seeds[0], **of) for bed in budget.beds]


def _ablated(beds: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    return [
        Cell(group=group, bed=bed, network="lite0 fpn", method="ms_rcnn", options=options, seed=seed)
        for bed in beds
        for group, several in ABLATIONS.items()
        for options in several
        for seed in seeds
    ]


# Of one cell


def weights_of(cell: Cell, weights: Path | None) -> str | Path | None:
    """What the backbone begins with: ImageNet weights of a package, a file, or chance."""
    options = NETWORKS[cell.network]
    if "weights" in options or weights is None:
        return options.get("weights")
    files = sorted(weights.glob(f"{options['backbone']}*.*"))
    if len(files) != 1:
        raise ValueError(f"{weights}: expected one file of weights of {options['backbone']}, found {len(files)}")
    return files[0]


def steps_of(cell: Cell, budget: Budget, weights: Path | None) -> int:
    return budget.beds[cell.bed].steps * (1 if weights_of(cell, weights) else budget.from_chance)


def protocol(cell: Cell, budget: Budget, weights: Path | None) -> dict[str, Any]:
    """What a row must have been made with to count."""
    share, begun = budget.beds[cell.bed], weights_of(cell, weights)
    return {
        "steps": steps_of(cell, budget, weights),
        "batch": share.batch,
        "side": share.side,
        "amp": budget.amp,
        "rate": share.rate,
        "weights": begun.name if isinstance(begun, Path) else begun or "chance",
    }


def seconds_of(cell: Cell, budget: Budget, weights: Path | None) -> float:
    """That it may take, about."""
    share = budget.beds[cell.bed]
    if cell.method == PACE:
        return 60 * share.seconds + share.judging / 2
    return steps_of(cell, budget, weights) * share.seconds * COSTS[cell.network] + share.judging


def run_of(cell: Cell, budget: Budget, data: Mapping[str, Path], weights: Path | None) -> Run[Any]:
    """The bed's recipe, in the cell's network and as long as the budget says."""
    share, steps = budget.beds[cell.bed], steps_of(cell, budget, weights)
    own = cell.method if cell.method == "ms_rcnn" else "mask_rcnn"
    base = chosen(f"{own}_{cell.bed}", data=None if cell.bed == "scenes" else str(data[cell.bed]))
    begun = weights_of(cell, weights)
    network = {**NETWORKS[cell.network], "weights": begun, **_norm(NETWORKS[cell.network].get("variant"), begun)}
    return replace(
        base,
        method=cell.method if cell.method in (PEER, BEGUN_ALIKE) else own,
        config=replace(base.config, **network, **cell.options),
        data=_data(base.data, share, steps, budget.workers),
        optim=replace(base.optim, lr=share.rate * base.optim.lr, amp=budget.amp),
        schedule=replace(base.schedule, steps=steps, warmup=min(base.schedule.warmup, steps // 6)),
        watch=Watch(val_epochs=steps, save_steps=budget.save_steps, log_steps=20),
        seed=cell.seed,
    )


def _norm(variant: str | None, begun: object) -> dict[str, str]:
    """What begins from chance learns its norms. The last stage of C4 sees all regions, and those with an object again:
    no statistics of batches could be of both."""
    if variant == "c4":
        return {"norm": "frozen" if begun else "group"}
    return {} if begun else {"norm": "batch"}


def _data(data: Data, share: Share, steps: int, workers: int) -> Data:
    """Scenes that are all new; of files, those that are not held out."""
    source: Files | Synthetic = data.source
    if isinstance(source, Synthetic):
        source = replace(source, train=steps * share.batch, val=0)
    else:
        source = replace(source, val=None, held_out=HELD_OUT)
    change = tuple(_cut(step, share.side) for step in data.change if not isinstance(step, Invert | Blur))
    return replace(data, source=source, change=change, batch=share.batch, workers=workers)


def _cut(step: Change, side: int | None) -> Change:
    """Nothing is inverted or blurred either: a shift of domain must be news."""
    return replace(step, size=(side, side)) if isinstance(step, RandomCrop) and side else step
