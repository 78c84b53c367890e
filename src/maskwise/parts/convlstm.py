"""Convolutional LSTM (Shi et al., 2015): a memory at each cell of a map, written and read by gates that see around it.

Legend: b pictures, c channels, h w the map.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class State(NamedTuple):
    """What goes from one step to the next."""

    hidden: Float[Tensor, "b c h w"]
    """What was said."""
    cell: Float[Tensor, "b c h w"]
    """What is remembered."""


class ConvLSTM(nn.Module):
    """One layer, without peepholes: gates see what comes in and what was said, not what is remembered.

    i, f, o = sigmoid, g = tanh of one convolution over [seen, hidden]; cell = f cell + i g; hidden = o tanh(cell).
    """

    def __init__(self, inputs: int, channels: int, *, kernel: int = 3):
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(inputs + channels, 4 * channels, kernel, padding=kernel // 2)

    def forward(self, seen: Float[Tensor, "b _ h w"], before: State | None = None) -> State:
        """One step; without a state before it that is zero everywhere."""
        hidden, cell = before or self._nothing(seen)
        enter, keep, show, candidate = self.gates(torch.cat([seen, hidden], 1)).chunk(4, 1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return State(show.sigmoid() * cell.tanh(), cell)

    def _nothing(self, seen: Float[Tensor, "b _ h w"]) -> State:
        b, _, h, w = seen.shape
        zeros = seen.new_zeros(b, self.channels, h, w)
        return State(zeros, zeros)
