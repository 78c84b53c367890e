import beartype
import jaxtyping
import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from typed import jaxtyped

from maskwise.boxes import area
from maskwise.data.synthetic.dice import Dice

Row = Float[np.ndarray, "n"]
checked = jaxtyped(typechecker=beartype.beartype)


@checked
def count(n: int, names: list[str] | None = None) -> int:
    return n if names is None else "many"


@checked
def longest(rows: list[Row | None], other: Row) -> Row:
    return other


@checked
def later(names: "Nowhere", other: Row) -> None:
    pass


def test_what_takes_no_arrays_is_checked_too():
    assert count(1) == 1
    for wrong in ((1.5,), (1, "a"), (1, ["a"])):
        with pytest.raises(BeartypeCallHintViolation):
            count(*wrong)


def test_sizes_of_one_name_are_equal_across_arguments():
    assert len(longest([np.zeros(3), None], np.ones(3))) == 3
    later(1, np.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        longest([np.zeros(2)], np.ones(3))  # of several in a list, beartype looks at one by chance


def test_the_library_is_checked():
    with pytest.raises(BeartypeCallHintViolation):
        Dice(1).uniform("a", 2)
    with pytest.raises(jaxtyping.TypeCheckError):
        area(torch.zeros(2, 3))
