import pytest
import torch

from maskwise.evaluate.structures import pair
from maskwise.masks import Masks
from maskwise.structures import Instances, Targets

SIZE = (4, 10)


def found(**columns):
    masks = Masks.from_dense(torch.ones(2, *SIZE, dtype=torch.bool))
    one = torch.ones(2)
    columns = {"scores": one, "quality": one, "mask_scores": one} | columns
    return Instances(boxes=masks.boxes(), labels=torch.zeros(2, dtype=torch.int64), masks=masks, **columns)


@pytest.mark.parametrize("column", ["scores", "quality", "mask_scores"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(column, value):
    """It has no place in a ranking; files with such a score are refused as well."""
    with pytest.raises(ValueError, match=rf"a\.png: {column} must be finite numbers, 1 of 2 are not"):
        pair("a.png", Targets.none(SIZE), found(**{column: torch.tensor([0.5, value])}))


def test_masks_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"a\.png: masks found for \(4, 10\), the truth is \(5, 10\)"):
        pair("a.png", Targets.none((5, 10)), found())
