"""Categories: what the labels of a data set mean. No torch here: files are read and judged without it."""

import difflib
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Names, the ids that files use, and the labels 0..K-1 that networks use, in one object.

    A label is a position in `names`. Ids may have gaps and any order; the two are never confused because only this
    object translates. `keypoints` names the points of a keypoint data set, `keypoint_flip` says which point each one
    becomes in a mirror.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = ()
    """Ids in the files, one a name. Left out: 1, 2, 3 ..."""
    supercategories: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    keypoint_flip: tuple[int, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints that are joined, by position from 0; COCO files count from 1."""

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", tuple(range(1, len(self.names) + 1)))
        if len(self.ids) != len(self.names):
            raise ValueError(f"{len(self.names)} category names but {len(self.ids)} ids")
        for what, values in (("name", self.names), ("id", self.ids)):
            if repeated := sorted({str(v) for v in values if values.count(v) > 1}):
                raise ValueError(f"category {what} given more than once: {', '.join(repeated)}")
        if self.supercategories and len(self.supercategories) != len(self.names):
            raise ValueError(f"{len(self.names)} category names but {len(self.supercategories)} supercategories")
        if sorted(self.keypoint_flip) != list(range(len(self.keypoint_flip))):
            raise ValueError(f"keypoint_flip is no permutation: {self.keypoint_flip}")
        if self.keypoint_flip and len(self.keypoint_flip) != len(self.keypoints):
            raise ValueError(f"{len(self.keypoints)} keypoints but {len(self.keypoint_flip)} in keypoint_flip")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _label_of_id(self) -> dict[int, int]:
        return {id_: label for label, id_ in enumerate(self.ids)}

    @cached_property
    def _label_of_name(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.names)}

    def label(self, id_: int) -> int:
        """Label of a file's category id."""
        try:
            return self._label_of_id[id_]
        except (KeyError, TypeError):
            raise ValueError(f"unknown category id {id_!r}; known: {_some(self.ids)}") from None

    def label_of(self, name: str) -> int:
        """Label of a category name."""
        try:
            return self._label_of_name[name]
        except KeyError:
            near = difflib.get_close_matches(str(name).casefold(), [known.casefold() for known in self.names], n=1)
            meant = next((known for known in self.names if known.casefold() in near), None)
            hint = f"known: {_some(self.names)}" if meant is None else f"did you mean {meant!r}?"
            raise ValueError(f"unknown category {name!r}; {hint}") from None

    def has_id(self, id_: object) -> bool:
        return id_ in self._label_of_id

    def id(self, label: int) -> int:
        return self.ids[label]

    def name(self, label: int) -> str:
        return self.names[label]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and strings, for checkpoints and model folders; empty fields are left out."""
        return {k: _lists(v) for k, v in asdict(self).items() if v}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Categories":
        if unknown := sorted(set(stored) - set(cls.__dataclass_fields__)):
            raise ValueError(f"unknown fields in stored categories: {', '.join(unknown)}")
        return cls(**{k: _tuples(v) for k, v in stored.items()})


def told_apart(named: Mapping[int, str], used: Container[object]) -> dict[int, str]:
    """Names by rising id, no two alike.

    Of two ids of one name an unused one goes (Roboflow writes such), else the later one gets its id as an addition.
    """
    kept: dict[int, str] = {}
    for id_ in sorted(named, key=lambda i: (i not in used, i)):
        name = named[id_]
        if name in kept.values() and id_ not in used:
            continue
        while name in kept.values() or (name != named[id_] and name in named.values()):
            name = f"{name} ({id_})"
        kept[id_] = name
    return dict(sorted(kept.items()))


OBJECT = Categories(names=("object",))
"""Of methods that find objects whatever they are, and of data whose classes are taken as one."""
PEOPLE = Categories(
    names=("person",),
    keypoints=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    keypoint_flip=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    skeleton=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
)
"""With the keypoints of COCO."""


def _some(values: Iterable[object], most: int = 12) -> str:
    shown = [str(v) for v in values]
    return ", ".join(shown[:most]) + (f" ... ({len(shown)} in all)" if len(shown) > most else "")


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
