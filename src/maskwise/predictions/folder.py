"""A folder of predictions: written as they come, so that a run that was killed goes on and ends with the same bytes.

predict.json       what was asked for: model and its digest, options, categories
predictions.jsonl  a line a picture, in order: what was found, masks as run lengths, or why there is nothing
failures.jsonl     those lines again that say why
overlay/ pictures/ coco/ labelme/ yolo/ png/ csv/   what --save asks for; data sets are made from the lines at the end

How pictures are batched depends on their place alone. So a run goes on with the batch that was not finished.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeGuard, get_args

import torch

from maskwise.categories import Categories
from maskwise.data.dataset import Item, Written
from maskwise.data.files import absolute, replacing
from maskwise.data.formats import json_file
from maskwise.data.images import ImageReadError
from maskwise.masks import Masks
from maskwise.predict import Failed, Options, Result, batch_size, keeper, outcomes
from maskwise.predictions import formats
from maskwise.predictions.finder import Finder
from maskwise.predictions.formats import ABOUT, Save
from maskwise.predictions.pictures import Asked
from maskwise.recipes.run import differences
from maskwise.rle import RLE
from maskwise.structures import Instances

LINES, FAILURES = "predictions.jsonl", "failures.jsonl"

Json: TypeAlias = Any

_NUMBERS = ("boxes", "scores", "quality", "mask_scores")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done, and where."""

    out: Path
    model: Mapping[str, str]
    """Its name and digest: what a run that goes on must have again."""
    sources: Sequence[str]
    options: Options
    save: tuple[Save, ...] = ("overlay", "coco")
    link: bool = True
    """Lay links to the pictures beside their annotations, and not copies."""
    resume: bool = False
    exist_ok: bool = False


class Head(NamedTuple):
    """Of a picture that has its line: the whole line where that says why there is no result."""

    name: str
    failure: Json | None


class Done(NamedTuple):
    """What came of it."""

    results: int
    failures: int
    written: Mapping[str, Written]


def run(
    finder: Finder,
    asked: Iterable[Asked],
    job: Job,
    *,
    told: Callable[[Result | Failed], None] = lambda _: None,
) -> Done:
    """Predict on all pictures that have no line yet, then write the data sets."""
    keeper(finder.categories, job.options)  # refuses unknown classes, before there is a folder that says otherwise
    batch = batch_size(finder, job.options)
    coming, kept = iter(asked), _begin(job, _about(finder, job, batch), batch)
    for head, now in zip_longest(kept, (one.name for one in islice(coming, len(kept)))):
        if head.name != now:
            raise ValueError(
                f"{job.out}: {head.name} was looked at, now {now or 'nothing'} is in its place: start anew"
            )
    counts = Counter(head.failure is None for head in kept)
    with (job.out / LINES).open("ab") as lines, (job.out / FAILURES).open("ab") as failures:
        for outcome in outcomes(finder, coming, job.options):
            counts[isinstance(outcome, Result)] += 1
            _keep(job, outcome, lines, failures)
            told(outcome)
    if not counts:
        raise ValueError("there are no pictures")
    items = partial(_items, job)
    return Done(counts[True], counts[False], formats.write(job.out, finder.categories, items, job.save))


def _keep(job: Job, outcome: Result | Failed, lines: BinaryIO, failures: BinaryIO) -> None:
    """The line last: a picture that has one needs nothing more."""
    if isinstance(outcome, Failed):
        line = _failure(outcome)
        _add(failures, line)
    else:
        line = _line(outcome)
        pixels = outcome.pixels if "overlay" in job.save or outcome.path is None else None
        if pixels is not None and "overlay" in job.save:
            formats.write_overlay(job.out, pixels, outcome.item(), outcome.categories)
        if pixels is not None and outcome.path is None and formats.NEED_PICTURES.intersection(job.save):
            formats.write_picture(job.out, pixels, outcome.name)
    _add(lines, line)


def _items(job: Job) -> Iterator[Item]:
    return (result.item(image=result.path, link=job.link) for result in results(job.out))


def results(folder: Path) -> Iterator[Result]:
    """What a folder of predictions holds, in order, one at a time."""
    about = read_about(folder)
    categories = Categories.from_json(about["categories"])
    most = about["options"]["max_pixels"]
    with (folder / LINES).open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                found = None if "error" in line else _result(line, folder, categories, most)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{folder / LINES}: line {number}: {error!r}; --resume mends it") from None
            if found is not None:
                yield found


def lines(folder: Path) -> Iterator[Json]:
    """As they are; masks are not decoded."""
    with (folder / LINES).open("rb") as file:
        yield from map(json.loads, file)


def read_about(folder: Path) -> Json:
    path = folder / ABOUT
    if not path.exists():
        raise ValueError(f"{folder}: no predictions here: there is no {ABOUT}")
    about = json_file.load(path)
    if not _is_ours(about):
        raise ValueError(f"{path}: not of predictions")
    return about


def _is_ours(about: object) -> TypeGuard[dict[str, Json]]:
    if not isinstance(about, dict) or not {"model", "categories", "options", "save"} <= about.keys():
        return False
    return isinstance(about["save"], list)


# Beginning


def _about(finder: Finder, job: Job, batch: int) -> Json:
    return {
        "model": dict(job.model),
        "categories": finder.categories.to_json(),
        "sources": list(job.sources),
        "options": {**asdict(job.options), "batch": batch},
        "save": list(job.save),
        "link": job.link,
    }


def _begin(job: Job, about: Json, batch: int) -> list[Head]:
    """What is done already."""
    about = json.loads(json.dumps(about))
    if job.resume and (job.out / ABOUT).exists():
        if changed := differences(read_about(job.out), about):
            raise ValueError(f"{job.out} holds other predictions:\n  " + "\n  ".join(changed))
        return _kept(job.out, batch)
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        if not job.exist_ok:
            raise ValueError(f"{job.out} is not empty: go on with --resume, allow --exist-ok, or choose another --out")
        _clear(job)
    job.out.mkdir(parents=True, exist_ok=True)
    with replacing(job.out / ABOUT) as file:  # first: what has it can be gone on with
        file.write((json_file.text(about, indent=1) + "\n").encode())
    return []


def _kept(out: Path, batch: int) -> list[Head]:
    """Of whole batches; the lines of the rest are taken away, and so are files that were never finished."""
    heads, ends = [], [0]
    (out / LINES).touch()
    with (out / LINES).open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                break
            line = json.loads(text)
            heads.append(Head(line["name"], line if "error" in line else None))
            ends.append(ends[-1] + len(text))
    whole = len(heads) // batch * batch
    os.truncate(out / LINES, ends[whole])
    with replacing(out / FAILURES) as file:
        for head in heads[:whole]:
            if head.failure is not None:
                _add(file, head.failure)
    for path in [p for p in out.rglob(".*.tmp") if _TEMPORARY.fullmatch(p.name)]:
        path.unlink()
    return heads[:whole]


def _clear(job: Job) -> None:
    """What earlier predictions wrote there. What somebody else did is not taken away, nor written among."""
    earlier, files = _earlier(job.out), [job.out / name for name in (ABOUT, LINES, FAILURES)]
    folders, wanted = ([job.out / name for name in names or ()] for names in (earlier, _folders(job.save)))
    foreign = [path for path in files if earlier is None or path.is_dir()] + [p for p in wanted if p not in folders]
    if there := next((path for path in foreign if os.path.lexists(path)), None):
        raise ValueError(f"{there} is there, and not of earlier predictions: choose another --out")
    for source in job.sources:
        if any(Path(source).expanduser().resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise ValueError(f"{source} lies in {job.out}, in what would be written over: choose another --out")
    for path in [*files[1:], *folders]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _earlier(out: Path) -> list[str] | None:
    """Folders of the predictions that are there. The file may come from anywhere: it names ways to save, no places."""
    about = json_file.load(out / ABOUT) if (out / ABOUT).is_file() else None
    if not _is_ours(about):
        return None
    return _folders([name for name in get_args(Save) if name in about["save"]])


def _folders(save: Sequence[str]) -> list[str]:
    """What may be written for these."""
    return [*save, *(["pictures"] if formats.NEED_PICTURES.intersection(save) else [])]


# Lines


def _add(file: BinaryIO, line: Json) -> None:
    """At once, so that another process never sees half of it unless this one is killed within it."""
    file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
    file.flush()


def _failure(failed: Failed) -> Json:
    error = failed.error
    words = error.reason if isinstance(error, ImageReadError) else str(error)
    why = {"stage": failed.stage, "exception": type(error).__name__, "message": words}
    return {"name": failed.asked.name, "path": _absolute(failed.asked.path or failed.asked.part_of), "error": why}


def _line(result: Result) -> Json:
    found = result.instances
    numbers = {name: getattr(found, name).tolist() for name in _NUMBERS}
    if found.keypoints is not None:
        numbers["keypoints"] = found.keypoints.tolist()
    many = {"tile": result.tile} if result.tile is not None else {}
    many |= {"limited": True} if result.limited else {}
    return {
        "name": result.name,
        "path": _absolute(result.path),
        "size": list(result.size),
        "labels": found.labels.tolist(),
        **numbers,
        "masks": [mask["counts"] for mask in found.masks.rle()],
        **many,
    }


def _result(line: Json, folder: Path, categories: Categories, max_pixels: int) -> Result:
    """Single precision survives the way through decimal digits, so this is what was found, to the bit."""
    height, width = (int(side) for side in line["size"])
    codes: list[RLE] = [{"size": [height, width], "counts": str(counts)} for counts in line["masks"]]
    count = len(codes)
    numbers = {name: torch.tensor(line[name], dtype=torch.float32) for name in _NUMBERS}
    numbers["boxes"] = numbers["boxes"].reshape(count, 4)
    keypoints = torch.tensor(line["keypoints"], dtype=torch.float32) if "keypoints" in line and count else None
    labels = torch.tensor(line["labels"], dtype=torch.int64)
    if count and not (int(labels.min()) >= 0 and int(labels.max()) < len(categories)):
        raise ValueError(f"labels beyond the {len(categories)} categories")
    found = Instances(labels=labels, masks=Masks.from_rle(codes, (height, width)), keypoints=keypoints, **numbers)
    path = Path(line["path"]) if line["path"] is not None else _own_picture(folder, line["name"])
    return Result(
        name=line["name"],
        instances=found,
        categories=categories,
        path=path,
        max_pixels=max_pixels,
        tile=line.get("tile"),
        limited=line.get("limited", False),
    )


def _own_picture(folder: Path, name: str) -> Path | None:
    path = folder / "pictures" / PurePosixPath(name).with_suffix(".png")
    return path if path.is_file() else None


def _absolute(path: Path | None) -> str | None:
    """The run may be gone on with, or looked at, from another folder."""
    return None if path is None else str(absolute(path))
