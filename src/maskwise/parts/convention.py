"""Where published implementations differ in arithmetic but not in idea. A checkpoint works only with its own."""

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from maskwise import boxes
from maskwise.rle import Size

AnchorStyle = Literal["exact", "rounded", "legacy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """One bundle of choices; an importer picks it, and the model keeps it.

    Which anchors are trained on is not part of it: Detectron skips those that cross the border; here, as in Detectron2,
    they count.
    """

    anchors: AnchorStyle = "exact"
    """Sides as computed; rounded to whole pixels; or Detectron's, rounded at the stride and centred in the cell."""
    aligned: bool = True
    """RoIAlign counts from the centres of cells, half a cell earlier than the first version did."""
    sampling: int = 0
    """Points along each side of a bin in RoIAlign; 0: as many as the bin is cells long."""
    inclusive: bool = False
    """Regions are read, scaled and drawn by their first and last pixel, and have one at least."""
    soft_targets: bool = False
    """Mask targets are shares of cells, not yes or no."""
    target_shift: float = 0.0
    """Mask targets are read this far right of and below the region: half a pixel where RoIAlign is not aligned."""
    paste: Literal["continuous", "legacy"] = "continuous"
    keypoint_score: Literal["probability", "logit"] = "probability"
    """What the third number of a keypoint is."""
    least_proposal: float = 0.0
    """Sides of a proposal must be longer than this."""
    least_detection: float = 0.0
    rpn_beta: float = 0.0
    """Where the smooth L1 loss of anchors turns from a parabola to a line; 0: it is L1."""
    box_beta: float = 0.0

    def clip(self, regions: Float[Tensor, "n 4"], size: Size) -> Float[Tensor, "n 4"]:
        """Into a picture of (height, width)."""
        if not self.inclusive:
            return boxes.clip(regions, size)
        return boxes.to_continuous(boxes.clip(boxes.to_inclusive(regions), (size[0] - 1, size[1] - 1)))

    def scale(self, regions: Float[Tensor, "n 4"], *, x: float, y: float) -> Float[Tensor, "n 4"]:
        """To the coordinates of the original picture."""
        if not self.inclusive:
            return boxes.scale(regions, x=x, y=y)
        return boxes.to_continuous(boxes.scale(boxes.to_inclusive(regions), x=x, y=y))


_LEGACY = Convention(
    anchors="legacy",
    aligned=False,
    sampling=2,
    inclusive=True,
    paste="legacy",
    keypoint_score="logit",
    rpn_beta=1 / 9,
    box_beta=1.0,
)

CONVENTIONS = {
    # Detectron2, continuous coordinates
    "continuous": Convention(),
    # torchvision (its sizes are at least, ours more than: the difference is one float)
    "torchvision": Convention(
        anchors="rounded",
        aligned=False,
        sampling=2,
        soft_targets=True,
        target_shift=0.5,
        paste="legacy",
        keypoint_score="logit",
        least_proposal=9.99e-4,
        least_detection=9.99e-3,
        rpn_beta=1 / 9,
        box_beta=1 / 9,
    ),
    # Detectron, maskrcnn-benchmark, maskscoring_rcnn
    "legacy": _LEGACY,
    # the same, without a pyramid
    "legacy_c4": replace(_LEGACY, sampling=0),
}
ConventionName = Literal["continuous", "torchvision", "legacy", "legacy_c4"]
