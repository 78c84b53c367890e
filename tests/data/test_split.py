import os
from pathlib import Path

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
