"""Clusters of pixels, worked by hand on a line, and what must hold for clouds of them."""

import pytest
import torch

from maskwise.parts.clustering import around_modes, around_seeds, likeness, shifted


def line(*values):
    return torch.tensor([values], dtype=torch.float32)


def clouds(count, *, each=200, spread=0.1, apart=4.0, dimensions=4):
    """Points around corners of a grid, and whose each is."""
    generator = torch.Generator().manual_seed(1)
    sides = -(-(count ** (1 / dimensions)) // 1)
    places = torch.arange(count)[:, None] // sides ** torch.arange(dimensions) % sides
    truth = torch.arange(count).repeat_interleave(each)
    return (places[truth] * apart + spread * torch.randn(len(truth), dimensions, generator=generator)).T, truth


def same_groups(one, other):
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(one.unique()) == len(other.unique())


# --- density


def test_a_mean_moves_until_it_stays():
    """From 0: the mean of 0 and 1; within 1.5 of .5 lie 0, 1 and 2; their mean is 1, and so it stays."""
    points = line(0, 1, 2, 10)
    paths = [shifted(points, points[:, 0], bandwidth=1.5, rounds=rounds).item() for rounds in (0, 1, 2, 100)]
    assert paths == [0, 0.5, 1, 1]


def test_a_mean_that_moves_far_meets_what_it_did_not_see_at_first():
    """Denser and denser to the right: it moves by more than two bandwidths, out of the region it began in."""
    points = torch.cat([line(*[i / 4] * 2**i) for i in range(14)], 1)
    found = start = points[:, 0]
    for _ in range(100):
        found = points[:, (points - found[:, None]).norm(dim=0) <= 1].mean(1)
    assert (found - start).norm() > 2
    torch.testing.assert_close(shifted(points, start, bandwidth=1.0), found)


@pytest.mark.parametrize("rounds", [0, 100])
def test_clouds_are_told_apart(rounds):
    points, truth = clouds(50)
    clusters = around_modes(points, bandwidth=1.5, rounds=rounds)
    assert same_groups(clusters.owner, truth)
    assert clusters.centres.shape == (4, 50)
    again = around_modes(points, bandwidth=1.5, rounds=rounds)
    assert torch.equal(clusters.owner, again.owner)


def test_the_mode_finds_all_of_a_cloud_where_its_edge_does_not():
    points = torch.linspace(-0.9, 0.9, 200)[None]
    for seed in range(5):
        assert (around_modes(points, bandwidth=1.0, leftover=1, seed=seed).owner == 0).all()
        assert (around_modes(points, bandwidth=1.0, rounds=0, leftover=1, seed=seed).owner != 0).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_mode_among_pixels_of_another_is_none(seed):
    """From 1.4 on: the mean with those at .7 is .89, of all within 1 of that .32, and .2 is the mode. There all belong
    to somebody already; those at 1.4, more than 1 away from it, belong to nobody.
    """
    points = torch.cat([torch.zeros(1, 100), torch.full((1, 40), 0.7), torch.full((1, 15), 1.4)], 1)
    clusters = around_modes(points, bandwidth=1.0, leftover=1, seed=seed)
    assert clusters.owner.tolist() == [0] * 140 + [-1] * 15
    torch.testing.assert_close(clusters.centres, torch.tensor([[0.2]]))


def test_few_pixels_are_left_over_and_small_clusters_dropped():
    points = torch.cat([torch.zeros(1, 50), torch.full((1, 9), 10.0)], 1)
    assert around_modes(points, bandwidth=1.0, leftover=60).centres.shape == (1, 0)
    assert around_modes(points, bandwidth=1.0, leftover=1).owner.tolist() == [0] * 50 + [-1] * 9
    assert around_modes(points, bandwidth=1.0, leftover=1, least=9).owner.unique().tolist() == [0, 1]
    assert around_modes(points[:, :0], bandwidth=1.0, leftover=0).owner.shape == (0,)


def test_noise_is_not_tried_pixel_by_pixel():
    found = around_modes(line(*range(50)), bandwidth=0.1, least=1, leftover=1, most=7)
    assert found.centres.shape[1] == (found.owner >= 0).sum() == 7


def test_numbers_that_are_none_belong_to_nobody():
    points = torch.cat([torch.zeros(2, 20), torch.full((2, 20), torch.nan)], 1)
    assert around_modes(points, bandwidth=1.0, leftover=1).owner.tolist() == [0] * 20 + [-1] * 20


# --- seeds


def test_likeness_by_hand():
    """Half as like at a distance of 1 where the scale is ln 2; of 3, 2^-9; in y the scale is another."""
    two = torch.tensor(2.0).log()
    centre, scale = torch.zeros(2, 1), torch.stack([two, 2 * two])[:, None]
    points = torch.tensor([[0.0, 1, 3, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(likeness(points, centre, scale), torch.tensor([1, 0.5, 2**-9, 0.25]))


POINTS = torch.tensor([[1.0, 1, 1, 4, 4, 4], [0, 0, 0, 0, 0, 0]])
SCORES = torch.tensor([0.6, 0.95, 0.7, 0.5, 0.92, 0.3])


def test_objects_are_taken_from_the_best_seed_on():
    def taken(**options):
        return around_seeds(POINTS, torch.ones(2, 6), SCORES, **({"threshold": 0.9, "least": 2} | options))

    assert taken().owner.tolist() == [0, 0, 0, 1, 1, 1]
    assert taken().seeds.tolist() == [1, 4]
    assert taken(threshold=0.94).owner.tolist() == [0, 0, 0, -1, -1, -1]
    assert taken(least=3).seeds.tolist() == []
    assert taken(most=1).seeds.tolist() == [1]
    assert around_seeds(POINTS[:, :0], POINTS[:, :0], SCORES[:0], threshold=0.9).owner.shape == (0,)


def test_each_object_has_the_width_that_its_seed_says():
    scale = torch.ones(2, 6)
    scale[:, 1] = 0.05  # sigma² = 10: half as like up to 3.7, and so the other object is in it
    assert around_seeds(POINTS, scale, SCORES, threshold=0.9, least=2).owner.tolist() == [0] * 6


@pytest.mark.parametrize(("share", "owner"), [(0.5, [0, 0, 0, -1, -1]), (0.3, [0, 0, 0, 1, 1])])
def test_what_belongs_to_others_by_half_is_dropped_and_else_gets_the_rest(share, owner):
    """The seed of the last two is wide enough for all five: two of them new, of five."""
    points = torch.tensor([[0.0, 0, 0, 2, 2], [0, 0, 0, 0, 0]])
    scale = torch.tensor([1.0, 1, 1, 0.1, 0.1]).expand(2, 5)
    score = torch.tensor([0.9, 0.1, 0.1, 0.8, 0.1])
    assert around_seeds(points, scale, score, threshold=0.5, least=1, fresh_share=share).owner.tolist() == owner
