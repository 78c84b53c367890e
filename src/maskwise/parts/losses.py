"""Losses that are zero, and keep their gradient, where there is nothing to learn from."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def smooth_l1(found: Float[Tensor, "*shape"], wanted: Float[Tensor, "*shape"], *, beta: float) -> Float[Tensor, ""]:
    """The sum: a parabola up to `beta`, a line beyond."""
    return F.smooth_l1_loss(found, wanted, beta=beta, reduction="sum")


def binary(logits: Float[Tensor, "*shape"], wanted: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean binary cross entropy."""
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(wanted.numel(), 1)


def mean(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return values.sum() / max(len(values), 1)


def own(values: Float[Tensor, "n c *rest"], labels: Tensor) -> Float[Tensor, "n *rest"]:
    """Of what was predicted for every class, the part for the class of each instance."""
    return values[torch.arange(len(labels), device=labels.device), labels]
