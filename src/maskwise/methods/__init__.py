"""All methods: the only list of them. Each is the file of its name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from maskwise.methods import (
    deepmask,
    discriminative,
    embed_mask,
    mask_rcnn,
    mnc,
    ms_rcnn,
    panet,
    rsis,
    sharpmask,
    spatial_embeddings,
)
from maskwise.structures import Images, Instances, Losses, Targets


@runtime_checkable
class Method(Protocol):
    """What each is, besides a `torch.nn.Module`; `WithStages` and `WithGroups` are what it may be as well."""

    def forward(self, images: Images, targets: list[Targets]) -> Losses:
        """Losses by name, already weighted; their sum is learned from. One without a gradient is only told."""
        ...

    def predict(self, images: Images) -> list[Instances]:
        """What is in each picture, best first, in the coordinates of the original."""
        ...


@runtime_checkable
class WithStages(Protocol):
    """A method of which what is learned depends on how far training is."""

    def on_step(self, step: int, total: int) -> None:
        """Called before each step of `total`, from 0 on. Nothing of it is kept: a run that is resumed calls it anew."""
        ...


@runtime_checkable
class WithGroups(Protocol):
    """A method whose parameters do not all learn alike."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups as PyTorch's optimisers take them; `lr_factor` is what the rate of a group is multiplied by."""
        ...


def staged(method: object) -> WithStages | None:
    """The method, where it has stages. Of an `nn.Module`, which may have any attribute, type checkers cannot tell."""
    return method if isinstance(method, WithStages) else None


def grouped(method: object) -> WithGroups | None:
    """The method, where it has groups of its own."""
    return method if isinstance(method, WithGroups) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    title: str
    year: int
    venue: str
    family: Literal["two-stage", "cascade", "one-stage", "proposals", "grouping", "recurrent"]
    config: type
    build: Callable[[Any], nn.Module]
    """Makes a `Method` of an instance of `config`."""


METHODS = {
    "mask_rcnn": Entry(
        title="Mask R-CNN",
        year=2017,
        venue="ICCV",
        family="two-stage",
        config=mask_rcnn.Config,
        build=mask_rcnn.build,
    ),
    "ms_rcnn": Entry(
        title="Mask Scoring R-CNN",
        year=2019,
        venue="CVPR",
        family="two-stage",
        config=ms_rcnn.Config,
        build=ms_rcnn.build,
    ),
    "panet": Entry(
        title="Path Aggregation Network",
        year=2018,
        venue="CVPR",
        family="two-stage",
        config=panet.Config,
        build=panet.build,
    ),
    "mnc": Entry(
        title="Multi-task Network Cascades",
        year=2016,
        venue="CVPR",
        family="cascade",
        config=mnc.Config,
        build=mnc.build,
    ),
    "embed_mask": Entry(
        title="EmbedMask",
        year=2021,
        venue="IJCAI",
        family="one-stage",
        config=embed_mask.Config,
        build=embed_mask.build,
    ),
    "deepmask": Entry(
        title="DeepMask",
        year=2015,
        venue="NIPS",
        family="proposals",
        config=deepmask.Config,
        build=deepmask.build,
    ),
    "sharpmask": Entry(
        title="SharpMask",
        year=2016,
        venue="ECCV",
        family="proposals",
        config=sharpmask.Config,
        build=sharpmask.build,
    ),
    "discriminative": Entry(
        title="Discriminative Loss",
        year=2017,
        venue="CVPR Workshops",
        family="grouping",
        config=discriminative.Config,
        build=discriminative.build,
    ),
    "spatial_embeddings": Entry(
        title="Spatial Embeddings",
        year=2019,
        venue="CVPR",
        family="grouping",
        config=spatial_embeddings.Config,
        build=spatial_embeddings.build,
    ),
    "rsis": Entry(
        title="RSIS",
        year=2017,
        venue="arXiv",
        family="recurrent",
        config=rsis.Config,
        build=rsis.build,
    ),
}
