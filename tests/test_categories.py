import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise.categories import Categories, told_apart

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(names, st.data())
def test_ids_names_and_labels_survive_storage(words, data):
    ids = data.draw(st.lists(st.integers(0, 10**6), min_size=len(words), max_size=len(words), unique=True))
    made = Categories(names=tuple(words), ids=tuple(ids))
    back = Categories.from_json(json.loads(json.dumps(made.to_json())))
    assert back == made
    for label, (name, id_) in enumerate(zip(words, ids, strict=True)):
        assert back.label(id_) == back.label_of(name) == label
        assert (back.id(label), back.name(label)) == (id_, name)


@pytest.mark.parametrize(
    ("named", "used", "expected"),
    [
        ({2: "a", 1: "b"}, {1, 2}, {1: "b", 2: "a"}),
        ({1: "a", 2: "a"}, {2}, {2: "a"}),
        ({1: "a", 2: "a"}, {1, 2}, {1: "a", 2: "a (2)"}),
        ({1: "a", 2: "a (3)", 3: "a"}, {1, 2, 3}, {1: "a", 2: "a (3)", 3: "a (3) (3)"}),
    ],
)
def test_categories_of_one_name_are_told_apart(named, used, expected):
    assert told_apart(named, used) == expected


def test_keypoints_and_skeleton_survive_storage():
    made = Categories(
        names=("person",),
        supercategories=("being",),
        keypoints=("nose", "left", "right"),
        keypoint_flip=(0, 2, 1),
        skeleton=((0, 1), (0, 2)),
    )
    assert Categories.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_ids_count_from_one_where_none_are_given():
    assert Categories(names=("a", "b")).ids == (1, 2)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"names": ("a", "a")}, "name given more than once: a"),
        ({"names": ("a", "b"), "ids": (3, 3)}, "id given more than once: 3"),
        ({"names": ("a", "b"), "ids": (3,)}, "2 category names but 1 ids"),
        ({"names": ("a",), "keypoints": ("x", "y"), "keypoint_flip": (0, 0)}, "no permutation"),
        ({"names": ("a",), "keypoints": ("x", "y"), "keypoint_flip": (0,)}, "2 keypoints but 1"),
    ],
)
def test_contradictions_are_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        Categories(**given_)


def test_unknown_ids_and_names_are_named():
    some = Categories(names=("cat", "dog"), ids=(17, 18))
    with pytest.raises(ValueError, match="unknown category id 3; known: 17, 18"):
        some.label(3)
    with pytest.raises(ValueError, match="unknown category 'cow'; known: cat, dog"):
        some.label_of("cow")
    with pytest.raises(ValueError, match="unknown fields in stored categories: colour"):
        Categories.from_json({"names": ["a"], "colour": "red"})
