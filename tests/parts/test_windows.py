"""Windows over a pyramid: they show the same alone and in a whole picture, and lie where they should."""

import pytest
import torch

from maskwise import boxes
from maskwise.masks import Masks
from maskwise.parts.windows import Canonical, Sliding, around, cut, read
from maskwise.structures import Targets


def canonical(**changes):
    dials = {"side": 64, "long": 32, "shift": 8, "octaves": 0.25, "away": 16, "octaves_away": 1}
    return Canonical(**dials | {"smallest": -2, "largest": 1} | changes)


def targets(*several, crowd=None, size=(80, 100)):
    n = len(several)
    return Targets(
        boxes=torch.tensor(several, dtype=torch.float32).reshape(n, 4),
        labels=torch.zeros(n, dtype=torch.int64),
        masks=Masks(torch.zeros(0, dtype=torch.bool), torch.zeros(n, 4, dtype=torch.int64), size),
        crowd=torch.tensor(crowd or [False] * n, dtype=torch.bool),
    )


@pytest.mark.parametrize("octave", [-1.0, -0.5, 0.0, 1.0, 2.5])
def test_a_window_shows_the_same_alone_and_in_the_whole_picture(octave):
    torch.manual_seed(0)
    picture = torch.rand(3, 61, 83)
    sliding = Sliding(side=32, stride=8, octaves=(octave,))
    (level,) = sliding.levels(picture)
    steps = [(extent - 32) // 8 + 1 for extent in level.pixels.shape[2:]]
    rows, columns = torch.tensor([0, steps[0] // 2, steps[0] - 1]), torch.tensor([0, steps[1] // 2, steps[1] - 1])
    alone = read(picture, sliding.windows(rows, columns, octave), (32, 32))
    torch.testing.assert_close(alone, cut(level.pixels, 8 * rows, 8 * columns, 32), rtol=0, atol=1e-4)


def test_windows_stand_from_one_border_to_the_other():
    sliding = Sliding(side=32, stride=8, octaves=(1.0,))
    (level,) = sliding.levels(torch.rand(3, 61, 83))
    assert level.pixels.shape[2:] == (32 + 32, 48 + 32), "61 / 2 and 83 / 2, up to whole steps, and half a window twice"
    first, last = sliding.windows(torch.tensor([0, 4]), torch.tensor([0, 6]), 1.0)
    assert first.tolist() == [-32, -32, 32, 32]
    assert last.tolist() == [96 - 32, 64 - 32, 96 + 32, 64 + 32]


def test_outside_the_picture_it_is_grey_and_inside_shrinking_averages():
    picture = torch.zeros(3, 4, 4)
    picture[:, ::2, ::2] = 1
    seen = read(picture, torch.tensor([[-8.0, -8, 12, 12]]), (5, 5))[0]
    torch.testing.assert_close(seen[:, 2, 2], torch.full((3,), 0.25), rtol=0, atol=0.1)
    assert (seen[:, 0] == 0.5).all()
    assert (seen[:, :, 4] == 0.5).all()


def test_an_object_fits_in_its_own_window():
    """One as long as the canonical one fits at octave 0, one of four times that at octave 2."""
    several = torch.tensor([[10.0, 10, 42, 20], [0, 0, 20, 128]])
    assert canonical().octave(several).tolist() == [0, 2]
    exact = canonical().exact(several)
    torch.testing.assert_close(boxes.centres(exact), boxes.centres(several))
    assert boxes.sides(exact).tolist() == [[64, 64], [256, 256]]
    odd = torch.tensor([[0.0, 0, 36, 36]])  # .17 octaves larger than the canonical one, nearer to .25 than to 0
    torch.testing.assert_close(boxes.sides(canonical().exact(odd)), torch.full((1, 2), 64 * 2**0.25))


def test_masks_are_learned_from_windows_near_the_object_in_every_direction():
    torch.manual_seed(0)
    several = torch.tensor([[10.0, 10, 74, 40]]).expand(500, 4)  # octave 1
    near = canonical().near(several)
    octave = (boxes.sides(near)[:, 0] / 64).log2()
    shift = (boxes.centres(near) - boxes.centres(several)) / 2 ** octave[:, None]
    assert 0.75 <= octave.min() < 0.8
    assert 1.2 < octave.max() <= 1.25
    assert shift.abs().max() <= 8.001
    assert (shift.amin(0) < -7.5).all()
    assert (shift.amax(0) > 7.5).all()


def test_a_window_without_object_is_far_from_all_or_of_another_size():
    torch.manual_seed(0)
    dials, truth = canonical(), targets([10, 10, 42, 30], [60, 40, 76, 56])
    found = dials.without(truth, 300)
    assert len(found) == 300
    octave = (boxes.sides(found)[:, 0] / 64).log2()
    distance = (boxes.centres(found)[:, None] - boxes.centres(truth.boxes)).norm(dim=2) / 2 ** octave[:, None]
    alike = (octave[:, None] - dials.octave(truth.boxes)).abs() <= 1 + 1e-6
    assert not ((distance < 15.999) & alike).any()
    assert (distance < 16).any(), "windows over an object are there too, where their size is another"
    assert octave.min().item() == pytest.approx(-2, abs=1e-5)
    assert octave.max().item() == pytest.approx(1, abs=1e-5)
    assert ((boxes.centres(found) >= 0) & (boxes.centres(found) <= torch.tensor([100, 80]))).all()


def test_no_window_is_without_object_where_a_crowd_is():
    truth = targets([0, 0, 100, 60], crowd=[True])
    found = boxes.centres(canonical().without(truth, 50))
    assert (found[:, 1] >= 60).all()
    assert len(canonical().without(targets([0, 0, 100, 80], crowd=[True]), 50)) == 0


def test_a_window_around_a_point_has_its_size():
    found = around(torch.tensor([[10.0, 20.0]]), torch.tensor([-1.0]), 8)
    assert found.tolist() == [[8, 18, 12, 22]]
