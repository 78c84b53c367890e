"""The convolutional LSTM: one cell by hand, and several steps gate by gate."""

import pytest
import torch
from torch.nn import functional as F

from maskwise.parts.convlstm import ConvLSTM, State


def test_one_cell_by_hand():
    """Biases alone: i = 1/2, f = 3/4, o = 1/5, g = 3/5. cell = 3/4 * 2 + 1/2 * 3/5 = 1.8; hidden = 1/5 tanh 1.8."""
    layer = ConvLSTM(1, 1, kernel=1)
    with torch.no_grad():
        layer.gates.weight.zero_()
        layer.gates.bias.copy_(torch.tensor([0.5, 0.75, 0.2, 0.0]).logit())
        layer.gates.bias[3] = torch.tensor(0.6).atanh()
    before = State(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0))
    hidden, cell = layer(torch.zeros(1, 1, 1, 1), before)
    assert cell.item() == pytest.approx(1.8)
    assert hidden.item() == pytest.approx(0.2 * torch.tensor(1.8).tanh().item())


def gate(layer, number, seen, hidden):
    """One gate alone: what comes in and what was said, each convolved for itself, cell by cell of the kernel."""
    channels = layer.channels
    weight, bias = (p[number * channels : (number + 1) * channels] for p in (layer.gates.weight, layer.gates.bias))
    x, margin = torch.cat([seen, hidden], 1), layer.gates.kernel_size[0] // 2
    h, w = seen.shape[2:]
    padded, total = F.pad(x, [margin] * 4), bias[None, :, None, None].expand(len(x), -1, h, w)
    for i in range(2 * margin + 1):
        for j in range(2 * margin + 1):
            total = total + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + h, j : j + w])
    return total


@pytest.mark.parametrize("kernel", [1, 3])
def test_three_steps_gate_by_gate(kernel):
    torch.manual_seed(0)
    layer, state = ConvLSTM(3, 2, kernel=kernel), None
    hidden = cell = torch.zeros(2, 2, 5, 4)
    for seen in torch.randn(3, 2, 3, 5, 4):
        state = layer(seen, state)
        enter, keep, show = (gate(layer, k, seen, hidden).sigmoid() for k in range(3))
        cell = keep * cell + enter * gate(layer, 3, seen, hidden).tanh()
        hidden = show * cell.tanh()
        torch.testing.assert_close(state.hidden, hidden)
        torch.testing.assert_close(state.cell, cell)


def test_without_a_state_it_begins_with_zeros():
    layer, seen = ConvLSTM(3, 2), torch.randn(1, 3, 4, 4)
    zeros = torch.zeros(1, 2, 4, 4)
    torch.testing.assert_close(layer(seen), layer(seen, State(zeros, zeros)))


def test_what_is_remembered_carries_the_gradient_over_all_steps():
    layer, state, seen = ConvLSTM(1, 1), None, torch.randn(4, 1, 1, 3, 3, requires_grad=True)
    for step in seen:
        state = layer(step, state)
    state.hidden.sum().backward()
    assert all(step.any() for step in seen.grad)
