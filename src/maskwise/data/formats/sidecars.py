"""Files beside masks that say what the masks do not: `categories.json`, and `labels.csv` with classes and scores.

`labels.csv` has a line for each instance: image,id,category,crowd,score,quality,mask_score. Only image and id must be
there. `image` is the picture's name in the data set, or, with or without suffix, its path below the folder of pictures
or its file name; `id` is its number in the label map. A picture or an id without a line has no class, a line with an
empty score no scores.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from maskwise.categories import Categories
from maskwise.data.dataset import Item, Problem, Scores
from maskwise.data.files import replacing, write_table
from maskwise.data.formats.rings import Complain
from maskwise.structures import Instances

CATEGORIES_FILE, LABELS_FILE = "categories.json", "labels.csv"
COLUMNS = ("image", "id", "category", "crowd", "score", "quality", "mask_score")
OBJECT = "object"
"""The one class of a data set that names none."""


class Row(NamedTuple):
    """What a line says about an instance."""

    category: str
    crowd: bool
    scores: tuple[float, float, float] | None
    """score, quality, mask score"""


Rows = Mapping[str, Mapping[int, Row]]
"""By picture and id."""


def read_categories(folder: Path, names: Iterable[str]) -> Categories:
    """Those of `categories.json`; without it the names that were met, sorted."""
    path = folder / CATEGORIES_FILE
    if not path.is_file():
        return Categories(names=tuple(sorted(set(names))) or (OBJECT,))
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        given = content.get("names", [])
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"'names' must be a list of texts, got {given!r:.80}")
        return Categories.from_json(content)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def write_categories(folder: Path, categories: Categories) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CATEGORIES_FILE
    with replacing(path) as file:
        file.write(json.dumps(categories.to_json(), ensure_ascii=False, indent=1).encode())
    return path


def read_rows(path: Path, file: str) -> tuple[dict[str, dict[int, Row]], list[Problem]]:
    """The lines of a `labels.csv`, and those that were left out."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig", "surrogateescape")  # names of files may be no text
        lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = lines.fieldnames or []
        entries = [(lines.line_num, line) for line in lines]
        others = (str(value) for _, line in entries for name, value in line.items() if name != COLUMNS[0])
        if not all(map(_is_text, (*header, *others))):
            raw.decode("utf-8-sig")  # which says where it is not
        if missing := [name for name in COLUMNS[:2] if name not in header]:
            raise ValueError(f"columns {', '.join(missing)} are missing; found {', '.join(header) or 'nothing'}")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    rows: dict[str, dict[int, Row]] = {}
    problems = []
    for number, line in entries:
        try:
            id_, row = _row(line)
        except ValueError as error:
            problems.append(Problem(file, f"line {number}", "bad-number", f"{error}; the line was left out"))
            continue
        of_picture = rows.setdefault(line["image"] or "", {})
        if id_ in of_picture:
            message = f"instance {id_} of {line['image']} has a line already; this one was left out"
            problems.append(Problem(file, f"line {number}", "duplicate-id", message))
        else:
            of_picture[id_] = row
    return rows, problems


def _row(line: Mapping[str, str | None]) -> tuple[int, Row]:
    try:
        id_ = int(line["id"] or "")
    except ValueError:
        raise ValueError(f"id must be a whole number, got {line['id']!r}") from None
    crowd = (line.get("crowd") or "0").strip().lower()
    if crowd not in ("0", "1", "false", "true"):
        raise ValueError(f"crowd must be 0 or 1, got {crowd!r}")
    scores = None
    if (line.get("score") or "").strip():
        score = _number(line, "score", None)
        quality = _number(line, "quality", 1.0)
        scores = (score, quality, _number(line, "mask_score", score * quality))
    return id_, Row(line.get("category") or OBJECT, crowd in ("1", "true"), scores)


def _number(line: Mapping[str, str | None], name: str, absent: float | None) -> float:
    if not (text := line.get(name)) and absent is not None:
        return absent
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {text!r}")
    return value


def scores_of(values: Sequence[tuple[float, float, float] | None], complain: Complain) -> Scores | None:
    """Score, quality and mask score of the instances of one picture, where all have them; `complain` if only some."""
    given = [value for value in values if value is not None]
    if given and len(given) < len(values):
        count = f"{len(values) - len(given)} of {len(values)} instances"
        complain("missing-scores", f"{count} have no score; the scores of the others were left out", "warning")
        return None
    return Scores(*torch.tensor(given, dtype=torch.float32).T) if given else None


def _is_text(words: str) -> bool:
    """No byte of it was kept because it is no UTF-8."""
    return not any("\udc80" <= letter <= "\udcff" for letter in words)


def lines_of(item: Item, image: str, categories: Categories, numbers: Iterable[int]) -> list[list[object]]:
    """Lines about the instances of one picture."""
    labelled = item.labelled
    names = [categories.name(label) for label in labelled.labels.tolist()]
    if isinstance(labelled, Instances):
        columns = [labelled.scores, labelled.quality, labelled.mask_scores]
        scores = zip(*(column.tolist() for column in columns), strict=True)
        return [[image, n, name, 0, *s] for n, name, s in zip(numbers, names, scores, strict=True)]
    crowd = [int(flag) for flag in labelled.crowd.tolist()]
    return [[image, n, name, c, "", "", ""] for n, name, c in zip(numbers, names, crowd, strict=True)]


def write_rows(path: Path, lines: Iterable[Iterable[object]]) -> Path:
    return write_table(path, COLUMNS, lines, errors="surrogateescape")
