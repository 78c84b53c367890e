"""Networks that say something about each pixel."""

import pytest
import torch

from maskwise.parts.dense import Dense, positions
from maskwise.parts.erfnet import ERFNet
from maskwise.structures import Images


@pytest.mark.parametrize("name", ["erfnet", "resnet18", "convnext_tiny", "tf_efficientnet_lite0"])
def test_maps_have_the_size_of_the_padded_picture(name):
    network = Dense(name, (3, 2), width=8, coordinates=True).eval()
    one, other = network(Images.batch([torch.rand(3, 40, 50)]))
    assert one.shape == (1, 3, 64, 64)
    assert other.shape == (1, 2, 64, 64)
    assert [layer.get_parameter("bias").shape[0] for layer in network.last_layers] == [3, 2]


def test_a_pixel_is_known_where_it_is():
    """Two equal pixels are told apart by where they are, and by nothing else but the border."""
    found = positions(Images.batch([torch.zeros(3, 2, 4), torch.zeros(3, 4, 2)], multiple=4))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(found[0, 1, :2, 0], torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(found[1, 1, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_erfnet_is_as_large_as_published():
    """2.06 million parameters with the 20 outputs of Cityscapes."""
    count = sum(p.numel() for p in ERFNet(3, (20,)).parameters())
    assert count == pytest.approx(2.06e6, rel=0.005)


def test_what_erfnet_cannot_do_is_refused():
    with pytest.raises(ValueError, match="no weights to start from"):
        Dense("erfnet", (1,), weights="imagenet")
    with pytest.raises(ValueError, match=r"that 8 divides, got \(20, 24\)"):
        ERFNet(3, (1,))(torch.zeros(1, 3, 20, 24))
