"""Predictions in the form of a COCO data set, as `maskwise predict --save coco` writes them, as results for a truth.

Such a file numbers pictures and classes by itself, so they are found in the truth by their names.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TypeAlias

from maskwise.categories import told_apart
from maskwise.data.formats.json_file import whole

Id: TypeAlias = int | str
Row: TypeAlias = Mapping[str, object]

TRUTH = "the truth"

log = logging.getLogger(__name__)


def results(written: Row, truth: Row, where: str) -> list[Row]:
    """Its annotations under the ids of the truth."""
    annotations = _rows(written, "annotations", where)
    if without := [row for row in annotations if row.get("score") is None]:
        raise ValueError(
            f"{where}: expected COCO results (a list), or a data set whose annotations have a 'score' as predictions "
            f"do; {len(without)} of {len(annotations)} have none"
        )
    images, categories = _images(written, truth, where), _categories(written, truth, where)
    return [
        {
            **row,
            "image_id": _known(row, "image_id", images, where),
            "category_id": _known(row, "category_id", categories, where),
        }
        for row in annotations
    ]


def _rows(data: Row, table: str, where: str) -> list[Row]:
    stated, rows = data.get(table), []
    for i, row in enumerate(stated if isinstance(stated, list) else []):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {table}[{i}]: expected an object, got {type(row).__name__}")
        rows.append(row)
    return rows


def _known(row: Row, field: str, ids: Mapping[Id, Id], where: str) -> Id:
    value = whole(row.get(field))
    if not isinstance(value, int | str) or value not in ids:
        raise ValueError(f"{where}: an annotation has the {field} {value!r}, which the file itself does not list")
    return ids[value]


def _images(written: Row, truth: Row, where: str) -> dict[Id, Id]:
    """By file name; one may have folders before it that the other has not. By id where the truth names no files."""
    exact, within = _places(truth)
    found = {}
    for row in _rows(written, "images", where):
        id_, name = _id(row, where), str(row.get("file_name") or "")
        candidates = {id_} if not exact else exact.get(name) or within.get(name) or _outside(name, exact)
        if len(candidates) != 1:
            how_many = f"{len(candidates)} pictures" if candidates else "no picture"
            raise ValueError(
                f"{where}: {how_many} of the truth can be meant by {name!r}: they are matched by file_name"
            )
        found[id_] = next(iter(candidates))
    if len(set(found.values())) < len(found):
        raise ValueError(f"{where}: two of its pictures have the name of one picture of the truth")
    return found


def _places(truth: Row) -> tuple[dict[str, set[Id]], dict[str, set[Id]]]:
    """Images by their name, and by each end of it that is a name: `b/c.png` and `c.png` of `a/b/c.png`."""
    exact: dict[str, set[Id]] = {}
    within: dict[str, set[Id]] = {}
    for row in _rows(truth, "images", TRUTH):
        if name := row.get("file_name"):
            id_ = _id(row, TRUTH)
            exact.setdefault(str(name), set()).add(id_)
            for end in _ends(str(name)):
                within.setdefault(end, set()).add(id_)
    return exact, within


def _outside(name: str, exact: Mapping[str, set[Id]]) -> set[Id]:
    """Where the truth names fewer folders."""
    return next((exact[end] for end in _ends(name) if end in exact), set())


def _ends(name: str) -> Iterator[str]:
    """The longest first."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _categories(written: Row, truth: Row, where: str) -> dict[Id, Id]:
    """By name, where the truth does not have that name under the same id. A class that is alone is another that is
    alone, whatever they are called. Those that nothing was found of may be unknown to the truth."""
    stated, rows = _named(truth, TRUTH), _named(written, where)
    if len(stated) == len(rows) == 1:
        (id_, name), (own_id, own_name) = *stated.items(), *rows.items()
        if name != own_name:
            log.info("%s: its one class, %s, is taken for the one of the truth, %s", where, own_name, name)
        return {own_id: id_}
    known = {f"{name} ({id_})": id_ for id_, name in stated.items()}  # as a model may have learned to call them
    known |= {name: id_ for id_, name in _apart(stated, _used(truth, TRUTH)).items()}
    used = _used(written, where)
    names = _apart(rows, used)
    found = {i: i if stated.get(i) == raw else known.get(names.get(i, raw)) for i, raw in rows.items()}
    if unknown := [names[id_] for id_, place in found.items() if id_ in used and place is None]:
        raise ValueError(
            f"{where}: the truth has no class {', '.join(unknown[:5])}; it has {', '.join([*stated.values()][:5])}. "
            "Classes are matched by name; maskwise predict --classes leaves out the others"
        )
    return {id_: place for id_, place in found.items() if place is not None}


def _named(data: Row, where: str) -> dict[Id, str]:
    return {_id(row, where): str(row.get("name")) for row in _rows(data, "categories", where)}


def _apart(named: Mapping[Id, str], used: set[Id]) -> dict[Id, str]:
    """Two of one name, as where they are learned from."""
    of_text = {id_: name for id_, name in named.items() if isinstance(id_, str)}
    return {**of_text, **told_apart({id_: name for id_, name in named.items() if isinstance(id_, int)}, used)}


def _used(data: Row, where: str) -> set[Id]:
    """Ids of the categories that annotations have."""
    stated = [whole(row.get("category_id")) for row in _rows(data, "annotations", where)]
    return {id_ for id_ in stated if isinstance(id_, int | str)}


def _id(row: Row, where: str) -> Id:
    id_ = whole(row.get("id"))
    if not isinstance(id_, int | str):
        raise ValueError(f"{where}: an image or a category has no id: {id_!r}")
    return id_
