"""Where published implementations differ in arithmetic but not in idea. A checkpoint works only with its own."""

from dataclasses import dataclass
from typing import Literal

AnchorStyle = Literal["exact", "rounded", "legacy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """One bundle of choices; an importer picks it, and the model keeps it."""

    anchors: AnchorStyle = "exact"
    """Sides as computed; rounded to whole pixels; or Detectron's, rounded at the stride and centred in the cell."""
    aligned: bool = True
    """RoIAlign counts from the centres of cells, half a cell earlier than the first version did."""
    sampling: int = 0
    """Points along each side of a bin in RoIAlign; 0: as many as the bin is cells long."""
    inclusive: bool = False
    """Regions are given to RoIAlign, and masks are drawn, by their first and last pixel."""
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
    "legacy": Convention(
        anchors="legacy",
        aligned=False,
        sampling=2,
        inclusive=True,
        paste="legacy",
        keypoint_score="logit",
        rpn_beta=1 / 9,
        box_beta=1.0,
    ),
}
ConventionName = Literal["continuous", "torchvision", "legacy"]
