import pytest
import torch
from bright import Bright, found, picture, same

from maskwise.out_of_memory import is_out_of_memory
from maskwise.predictions import memory
from maskwise.predictions.memory import find, tile_side

SPOTS = [(10, 10, 30, 30), (300, 200, 420, 320), (480, 470, 511, 500)]


def everything(instances):
    return instances


def test_a_batch_that_does_not_fit_is_halved():
    finder = Bright(most=40 * 40)
    pictures = [picture((40, 40), (i, 3, 20 + i, 9)) for i in range(3)]
    answers = find(finder, pictures, everything)
    assert all(same(a.instances, found(p)) for a, p in zip(answers, pictures, strict=True))
    assert max(len(call) for call in finder.calls[-1:]) == 1


def test_a_picture_that_does_not_fit_is_cut_and_joined():
    finder = Bright(most=260 * 260)
    pixels = picture((512, 512), *SPOTS)
    assert same(find(finder, [pixels], everything)[0].instances, found(pixels))
    assert len(finder.calls) > 4


def test_the_cpu_is_the_last_resort():
    finder = Bright(most=100, device=torch.device("meta"))
    pixels = picture((300, 300), (10, 10, 30, 30))
    assert same(find(finder, [pixels], everything)[0].instances, found(pixels))


def test_what_fits_nowhere_is_an_error():
    with pytest.raises(RuntimeError, match="out of memory"):
        find(Bright(most=100), [picture((64, 64))], everything)


def test_other_errors_are_not_taken_for_it():
    def broken():
        raise RuntimeError("a shape that does not fit")

    with pytest.raises(RuntimeError, match="a shape"):
        find(Bright(before=broken), [picture((8, 8))], everything)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("size mismatch"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_each_way_to_run_out_of_memory_is_known(error, expected):
    assert is_out_of_memory(error) is expected


class Shrinking(Bright):
    """Sees every picture with a short side of 400."""

    def viewed_size(self, size):
        factor = 400 / min(size)
        return round(size[0] * factor), round(size[1] * factor)


@pytest.mark.parametrize(
    ("finder", "size", "side"),
    [
        (Bright(), (2000, 3000), None),
        (Bright(), (4000, 3000), memory.TILE),
        (Shrinking(), (3000, 2000), None),
        (Shrinking(), (6000, 8000), 400),
    ],
)
def test_pictures_are_cut_where_they_do_not_fit_or_would_be_shrunk_to_nothing(finder, size, side):
    assert tile_side(finder, size) == side
