"""Convolutions that see the mirror image of a map beyond its border."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwise import backbones
from maskwise.parts import padding
from maskwise.parts.padding import SymmetricConv2d, mirrored


def test_a_map_goes_on_as_its_mirror_image_with_its_border_repeated():
    row = torch.tensor([[1.0, 2, 3, 4]])
    assert mirrored(row, (3, 2, 0, 0)).tolist() == [[3, 2, 1, 1, 2, 3, 4, 4, 3]]
    assert mirrored(row.T, (0, 0, 1, 0)).T.tolist() == [[1, 1, 2, 3, 4]]


def test_of_one_cell_it_is_what_torch_calls_replicate():
    x = torch.rand(2, 3, 5, 4)
    assert torch.equal(mirrored(x, (1, 1, 1, 1)), F.pad(x, (1, 1, 1, 1), mode="replicate"))


def test_what_is_not_trained_stays_so():
    network = backbones.build("tf_efficientnet_lite0", stages=(2, 3), frozen=2)
    before = [n for n, p in network.named_parameters() if p.requires_grad]
    padding.replace(network)
    assert [n for n, p in network.named_parameters() if p.requires_grad] == before


def test_a_map_of_one_colour_stays_one_colour():
    """With zeros its border would be told from the middle."""
    torch.manual_seed(0)
    out = SymmetricConv2d(1, 4, 3)(torch.ones(1, 1, 5, 6))
    torch.testing.assert_close(out, out[..., :1, :1].expand_as(out))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_a_whole_backbone_pads_so_and_keeps_its_weights_and_the_sides_of_its_maps(name):
    torch.manual_seed(0)
    network = backbones.build(name, stages=(1, 2, 3, 4)).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    x = torch.rand(1, 3, 64, 96)
    old = network(x)
    padding.replace(network)
    new = network(x)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.shape for m in new] == [m.shape for m in old]
    assert all(m.is_contiguous() or m.is_contiguous(memory_format=torch.channels_last) for m in new)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.kernel_size == (1, 1) for m in convolutions if not isinstance(m, SymmetricConv2d))
    grey = network(torch.full((1, 3, 64, 64), 0.3))
    for m in grey:
        torch.testing.assert_close(m, m[..., :1, :1].expand_as(m), rtol=1e-3, atol=1e-4)
