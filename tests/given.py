"""What is known beforehand: objects that are rectangles, and a network that gives the maps it is told to, in the place
of one that would have to learn them."""

import torch
from torch import Tensor, nn

from maskwise.masks import Masks
from maskwise.structures import Images, Targets


class Given(nn.Module):
    def __init__(self, *maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.ParameterList(nn.Parameter(m) for m in maps)

    def forward(self, _: Images) -> list[Tensor]:
        return list(self.maps)


def pictures(*sizes: tuple[int, int]) -> Images:
    """Black ones, padded to 32."""
    return Images.batch([torch.zeros(3, *size) for size in sizes])


def targets(*rows, labels: list[int], size: tuple[int, int] = (32, 32), **rest) -> Targets:
    """One object of the pixels y0:y1, x0:x1 for each row."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = True
    return Targets.from_masks(Masks.from_dense(masks), torch.tensor(labels), **rest)
