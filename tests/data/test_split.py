import os
from pathlib import Path

import pytest

from maskwise.categories import Categories
from maskwise.data.dataset import DataSet, Record
from maskwise.data.split import held_out


def data(*names):
    records = tuple(Record(name, Path(name), name, None, lambda: None) for name in names)
    return DataSet("x", Path(), "", Categories(names=("leaf",)), records, ())


def test_names_that_are_no_text_are_held_out_like_others():
    names = [os.fsdecode(b"Bl\xe4tt%d.png" % i) for i in range(9)]
    learned, judged = held_out(data(*names, "\ud800.png"), 0.3)
    assert judged is not None
    assert (len(learned), len(judged)) == (7, 3)


def test_which_pictures_are_held_out_does_not_change():
    _, judged = held_out(data(*(f"ü{i}.png" for i in range(10))), 0.3, seed=4)
    assert judged is not None
    assert [record.name for record in judged] == ["ü3.png", "ü4.png", "ü8.png"]


TILES = [f"slides/{slide}_y{y:04}_x{x:04}.png" for slide in "abcde" for y in (0, 900) for x in (0, 900)]


@pytest.mark.parametrize(("share", "slides"), [(0.2, 1), (0.4, 2), (0.5, 2), (0.01, 1), (0.9, 4)])
def test_the_tiles_of_a_picture_are_all_held_out_or_none_is(share, slides):
    chosen = set()
    for seed in range(8):
        learned, judged = held_out(data(*TILES), share, seed=seed)
        assert judged is not None
        whole = [{record.name.split("_")[0] for record in part} for part in (learned, judged)]
        assert not whole[0] & whole[1]
        assert (len(judged), len(whole[1])) == (4 * slides, slides)
        chosen |= whole[1]
    assert len(chosen) > slides, "the seed decides which"


def test_of_tiles_of_one_picture_none_is_held_out():
    assert held_out(data(*TILES[:4], "other.png"), 0.2)[1] is not None
    learned, judged = held_out(data(*(f"a_y{y}_x0.png" for y in range(9))), 0.2)
    assert (len(learned), judged) == (9, None)


def test_a_large_part_is_left_to_learn_from():
    """Whichever comes first: two pictures fit into the share, and the tiles of the large one never do."""
    names = [*(f"large_y{y}_x0.png" for y in range(16)), *(f"{i}.png" for i in range(4))]
    for seed in range(9):
        _, judged = held_out(data(*names), 0.1, seed=seed)
        assert judged is not None
        assert len(judged) == 2
        assert not any(record.name.startswith("large") for record in judged)


def test_a_small_picture_does_not_take_the_place_of_tiles():
    names = [f"{slide}_y0_x{x}.png" for slide in "abcd" for x in range(25)]
    for seed in range(9):
        _, judged = held_out(data(*names, "small.png"), 0.2, seed=seed)
        assert judged is not None
        assert len(judged) in (25, 26)


def test_what_is_known_is_not_held_out():
    """Whatever the seed: of what is known, tiles of the same picture are no news either."""
    names = [f"{i}.png" for i in range(10)]
    for seed in range(9):
        learned, judged = held_out(data(*TILES, *names), 0.2, seed=seed, known=[*TILES[:13], *names[:6], "gone.png"])
        assert judged is not None
        assert {record.name for record in judged} <= {*TILES[16:], *names[6:]}
        assert len(learned) + len(judged) == 30
        assert abs(len(judged) - 6) <= 2


def test_all_that_is_news_may_be_held_out_and_nothing_else():
    names = [f"{i}.png" for i in range(9)]
    learned, judged = held_out(data(*names), 0.5, known=names[2:])
    assert judged is not None
    assert {record.name for record in judged} == set(names[:2])
    learned, judged = held_out(data(*names), 0.5, known=names)
    assert (len(learned), judged) == (9, None)


@pytest.mark.parametrize("by", [r"plant\d+", r"(plant\d+)_day\d", "^[^_]*"])
def test_names_can_say_what_belongs_together(by):
    several = data(*(f"plant{i}_day{day}.png" for day in range(3) for i in range(10)))
    learned, judged = held_out(several, 0.3, by=by)
    assert judged is not None
    plants = [{record.name.split("_")[0] for record in part} for part in (learned, judged)]
    assert [len(part) for part in plants] == [7, 3]
    assert not plants[0] & plants[1]


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        (r"plant\d+", "'plant.*' finds nothing in the name of the picture 'b.png'"),
        (r"\d*", "finds nothing in the name of the picture 'plant1.png'"),
        ("(x)|plant", "finds nothing in the name of the picture 'plant1.png'"),
        ("png", "'png' finds the same in the names of all pictures, 'png'"),
    ],
)
def test_an_expression_that_tells_nothing_apart_is_refused(by, reason):
    with pytest.raises(ValueError, match=f"held_out_by: .*{reason}"):
        held_out(data("plant1.png", "b.png", *(f"plant{i}.png" for i in range(2, 6))), 0.3, by=by)
