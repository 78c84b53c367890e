"""Which of several predictions stands for which object: how much soft masks overlap, and who is paired with whom.

Legend: b pictures, t predictions and n objects of one, p pixels.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskwise.interpolation import product
from maskwise.parts.label_maps import NOBODY

EPSILON = 1e-6
"""So that nothing and nothing overlap by 0."""


def soft_iou(drawn: Float[Tensor, "t p"], truth: Float[Tensor, "n p"]) -> Float[Tensor, "t n"]:
    """sum p y / (sum p + sum y - sum p y) of probabilities p and truth y, all pairs.

    With an object of no pixels it is 0 whatever is drawn: that teaches nothing, not even to draw less.
    """
    shared = product(drawn, truth.mT)
    return shared / (drawn.sum(1)[:, None] + truth.sum(1) - shared + EPSILON)


@torch.no_grad()
def assign(cost: Float[Tensor, "b t n"]) -> Int[Tensor, "b t"]:
    """The object of each prediction: as many pairs as there can be, and of these choices the cheapest.

    Each object has one prediction at most, and each prediction one object, or NOBODY. A pair that costs infinity is
    never made. One whose cost is no number is made where there is nothing else: what a network says that has lost its
    way is no reason to stop, and must show in its losses.
    """
    tables = cost.cpu().double().numpy()
    objects = np.stack([_assigned(table) for table in tables]) if len(tables) else np.zeros(cost.shape[:2], np.int64)
    return torch.from_numpy(objects).to(cost.device)


def _assigned(cost: Float[np.ndarray, "t n"]) -> Int[np.ndarray, " t"]:
    known, never, pairs = np.isfinite(cost), np.isposinf(cost), min(cost.shape)
    least, most = (cost[known].min(), cost[known].max()) if known.any() else (0.0, 0.0)
    # one that is no number is dearer than all others together, and one that is never made dearer than all of these
    unknown = pairs * (most - least) + 1
    prices = np.where(known, cost - least, np.where(never, pairs * unknown + 1, unknown))
    predictions, objects = linear_sum_assignment(prices)
    made = ~never[predictions, objects]
    partners = np.full(len(cost), NOBODY)
    partners[predictions[made]] = objects[made]
    return partners
