"""A folder of predictions: written as they come, so that a run that was killed goes on and ends with the same bytes.

predict.json       what was asked for: model and its digest, options, categories; which data sets are written
predictions.jsonl  a line a picture, in order: what was found, masks as run lengths, or why there is nothing
failures.jsonl     those lines again that say why
overlay/ pictures/ coco/ labelme/ yolo/ png/ csv/   what --save asks for; data sets are made from the lines at the end

How pictures are batched depends on their place alone. So a run goes on with the batch that was not finished. As long as
it goes on nobody else writes there: it holds a lock.
Data sets may be corrected by hand: one that is written is not written over, unless it is as we left it.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeGuard, get_args

import torch

from maskwise.categories import Categories
from maskwise.data.dataset import Item, Written
from maskwise.data.files import OF_PREDICTIONS, absolute, at_home, replacing
from maskwise.data.formats import json_file
from maskwise.data.formats.measurements import PIXELS, Scale
from maskwise.data.images import ImageReadError
from maskwise.data.locks import LOCK, held
from maskwise.masks import Masks
from maskwise.predict import Failed, Options, Result, batch_size, keeper, outcomes
from maskwise.predictions import formats
from maskwise.predictions.finder import Finder
from maskwise.predictions.formats import Save
from maskwise.predictions.pictures import Asked
from maskwise.recipes.run import differences
from maskwise.rle import RLE
from maskwise.structures import Instances

LINES, FAILURES = "predictions.jsonl", "failures.jsonl"

Json: TypeAlias = Any

_WRITTEN = "written"
_DAMAGED = (ValueError, LookupError, TypeError, RuntimeError, ArithmeticError)
"""What reading a damaged line ends with: it may be anything, also numbers that nothing holds."""
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
    scale: Scale = PIXELS
    """Of the measurements."""
    link: bool = True
    """Lay links to the pictures beside their annotations, and not copies."""
    resume: bool = False
    exist_ok: bool = False


class Head(NamedTuple):
    """Of a picture that has its line: the whole line where that says why there is no result."""

    name: str
    failure: Json | None
    end: int
    """Of the line, in bytes of the file."""


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
    formats.refuse_names(finder.categories, job.save)
    if job.out.exists() and not job.out.is_dir():
        raise ValueError(f"{job.out} is a file: choose another --out")
    job.out.mkdir(parents=True, exist_ok=True)
    with held(job.out / LOCK) as ours:
        if not ours:
            raise ValueError(f"{job.out}: another process is predicting into it; wait for it, or choose another --out")
        return _run(finder, asked, job, told)


def _run(finder: Finder, asked: Iterable[Asked], job: Job, told: Callable[[Result | Failed], None]) -> Done:
    batch = batch_size(finder, job.options)
    kept, left = _left(job, asked, _begin(job, _about(finder, job, batch)), batch)
    if job.resume:
        if left:
            _refuse_corrected(job)
        _cut(job.out, kept)
    counts = Counter(head.failure is None for head in kept)
    with (job.out / LINES).open("ab") as lines, (job.out / FAILURES).open("ab") as failures:
        for outcome in outcomes(finder, left or (), job.options):
            counts[isinstance(outcome, Result)] += 1
            _keep(job, outcome, lines, failures)
            told(outcome)
    if not counts:
        raise ValueError("there are no pictures")
    return Done(counts[True], counts[False], _data_sets(job, finder.categories))


def _keep(job: Job, outcome: Result | Failed, lines: BinaryIO, failures: BinaryIO) -> None:
    """The line last: a picture that has one needs nothing more."""
    if isinstance(outcome, Failed):
        line = _failure(outcome)
        if "overlay" in job.save:
            formats.remove_overlay(job.out, outcome.asked.name)
        _add(failures, line)
    else:
        line = _line(outcome)
        pixels = outcome.pixels if "overlay" in job.save or outcome.path is None else None
        if pixels is not None and "overlay" in job.save:
            formats.write_overlay(job.out, pixels, outcome.item(), outcome.categories)
        if pixels is not None and outcome.path is None and formats.NEED_PICTURES.intersection(job.save):
            formats.write_picture(job.out, pixels, outcome.name)
    _add(lines, line)


# Data sets


def _data_sets(job: Job, categories: Categories) -> dict[str, Written]:
    """Those that are not written yet, of these lines. Each is noted at once: a later one may fail."""
    lines, written = _digest(job.out / LINES), {}
    for name in job.save:
        if name not in formats.DATA:
            continue
        note = _notes(job.out).get(name)
        if note is not None and note["lines"] == lines and (job.out / name).exists():
            written[name] = Written((), Counter(note["losses"]))
            continue
        _refuse_corrected(job, name)
        _note(job.out, name, None)  # what is half written is not noted as whole
        if note is not None:
            _remove_own(job.out / name)
        written |= formats.write(job.out, categories, partial(_items, job), [name], scale=job.scale)
        losses = dict(written[name].losses)
        _note(job.out, name, {"lines": lines, "files": _digest(job.out / name), "losses": losses})
    return written


def _remove_own(folder: Path) -> None:
    """A data set that is as we left it: it may have pictures that cannot be read any more."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def _refuse_corrected(job: Job, *names: Save) -> None:
    """Data sets that somebody else has written to since, and which would be written over. No names: all of them."""
    for name, note in _notes(job.out).items():
        folder = job.out / name
        if name in (names or job.save) and folder.exists() and _digest(folder) != note["files"]:
            raise ValueError(
                f"{folder} was changed since it was written: move it elsewhere, so that it is written anew for the "
                "pictures that there are now, or choose another --out"
            )


def _notes(out: Path) -> dict[str, Json]:
    """Of data sets that are written: digests of the lines they were made from and of their files, and what was lost."""
    return read_about(out).get(_WRITTEN, {})


def _note(out: Path, name: str, note: Json | None) -> None:
    """None: it is not written, or no longer."""
    notes = {**_notes(out), name: note}
    known = {name: note for name, note in sorted(notes.items()) if note is not None}
    _save_about(out, read_about(out) | {_WRITTEN: known})


def _digest(path: Path) -> str:
    """Of a file, or of all that lies in a folder; of a link where it leads."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_symlink():
            whole.update(json.dumps([str(file.relative_to(path)), str(file.readlink())]).encode())
        elif file.is_file():
            with file.open("rb") as content:
                inner = hashlib.file_digest(content, "sha256").hexdigest()
            whole.update(json.dumps([str(file.relative_to(path)), inner]).encode())
    return whole.hexdigest()


def _items(job: Job) -> Iterator[Item]:
    return (result.item(image=result.path, link=job.link) for result in results(job.out))


# Reading


def results(folder: Path) -> Iterator[Result]:
    """What a folder of predictions holds, in order, one at a time."""
    read = _reader(folder)
    with (folder / LINES).open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                _, found = read(text)
            except _DAMAGED as error:
                why = " ".join(f"{type(error).__name__}: {error}".split())
                raise ValueError(f"{folder / LINES}: line {number}: {why:.200}; --resume mends it") from None
            if found is not None:
                yield found


def _reader(folder: Path) -> Callable[[bytes], tuple[Json, Result | None]]:
    """From the text of a line; None where that says why there is no result."""
    about = read_about(folder)
    categories = Categories.from_json(about["categories"])
    most = about["options"]["max_pixels"]

    def read(text: bytes) -> tuple[Json, Result | None]:
        line = json.loads(text)
        if not isinstance(line, dict) or not isinstance(line.get("name"), str):
            raise ValueError("expected an object with a name")
        if "error" not in line:
            return line, _result(line, folder, categories, most)
        if not isinstance(line["error"], dict):
            raise ValueError("'error': expected an object")
        return line, None

    return read


def lines(folder: Path) -> Iterator[Json]:
    """As they are; masks are not decoded."""
    with (folder / LINES).open("rb") as file:
        yield from map(json.loads, file)


def read_about(folder: Path) -> Json:
    path = folder / OF_PREDICTIONS
    if not path.exists():
        raise ValueError(f"{folder}: no predictions here: there is no {OF_PREDICTIONS}")
    about = json_file.load(path)
    if not _is_ours(about):
        raise ValueError(f"{path}: not of predictions")
    return about


def _is_ours(about: object) -> TypeGuard[dict[str, Json]]:
    if not isinstance(about, dict) or not {"model", "categories", "options", "save"} <= about.keys():
        return False
    return isinstance(about["save"], list) and _is_noted(about.get(_WRITTEN, {}))


def _is_noted(written: object) -> bool:
    if not isinstance(written, dict):
        return False
    return all(isinstance(note, dict) and {"lines", "files", "losses"} <= note.keys() for note in written.values())


# Beginning


def _about(finder: Finder, job: Job, batch: int) -> Json:
    return {
        "model": dict(job.model),
        "categories": finder.categories.to_json(),
        "sources": list(job.sources),
        "options": {**asdict(job.options), "batch": batch},
        "save": list(job.save),
        "link": job.link,
        **({} if job.scale == PIXELS else {"pixel_size": str(job.scale)}),
    }


def _begin(job: Job, about: Json) -> list[Head]:
    """What is done already."""
    about = json.loads(json.dumps(about))
    if job.resume and (job.out / OF_PREDICTIONS).exists():
        there = {name: value for name, value in read_about(job.out).items() if name != _WRITTEN}
        if changed := differences({**there, "link": None}, {**about, "link": None}):  # links or copies are as good
            raise ValueError(f"{job.out} holds other predictions:\n  " + "\n  ".join(changed))
        return _heads(job.out)
    if any(path.name != LOCK and not _TEMPORARY.fullmatch(path.name) for path in job.out.iterdir()):
        if not job.exist_ok:
            raise ValueError(f"{job.out} is not empty: go on with --resume, allow --exist-ok, or choose another --out")
        _clear(job)
    _save_about(job.out, about)  # first: what has it can be gone on with
    return []


def _save_about(out: Path, about: Json) -> None:
    with replacing(out / OF_PREDICTIONS) as file:
        file.write((json_file.text(about, indent=1) + "\n").encode())


def _heads(out: Path) -> list[Head]:
    """Of the lines before the first that is not whole, or damaged."""
    heads, end, read = [], 0, _reader(out)
    (out / LINES).touch()
    with (out / LINES).open("rb") as file:
        for text in file:
            try:
                line, _ = read(text)
            except _DAMAGED:
                break
            if not text.endswith(b"\n"):
                break
            end += len(text)
            heads.append(Head(line["name"], line if "error" in line else None, end))
    return heads


def _left(job: Job, asked: Iterable[Asked], kept: list[Head], batch: int) -> tuple[list[Head], Iterable[Asked] | None]:
    """What is done, and what is to be looked at; None where that is nothing. The last batch is done where it was whole,
    or where there are no more pictures."""
    coming, again = iter(asked), []
    whole = len(kept) // batch * batch
    for i, head in enumerate(kept):
        now = next(coming, None)
        if now is None or now.name != head.name:
            there = "nothing" if now is None else now.name
            raise ValueError(f"{job.out}: {head.name} was looked at, now {there} is in its place: start anew")
        again += [now] if i >= whole else []
    if (following := next(coming, None)) is None:
        return kept, None
    return kept[:whole], chain(again, [following], coming)


def _cut(out: Path, kept: Sequence[Head]) -> None:
    """The lines of the rest are taken away, and so are files that were never finished."""
    with (out / LINES).open("ab") as lines:
        lines.truncate(kept[-1].end if kept else 0)
    with replacing(out / FAILURES) as file:
        for head in kept:
            if head.failure is not None:
                _add(file, head.failure)
    for path in [p for p in out.rglob(".*.tmp") if _TEMPORARY.fullmatch(p.name)]:
        path.unlink()


def _clear(job: Job) -> None:
    """What earlier predictions wrote there. What somebody else did is not taken away, nor written among."""
    earlier, files = _earlier(job.out), [job.out / name for name in (OF_PREDICTIONS, LINES, FAILURES)]
    folders, wanted = ([job.out / name for name in names or ()] for names in (earlier, _folders(job.save)))
    foreign = [path for path in files if earlier is None or path.is_dir()] + [p for p in wanted if p not in folders]
    if there := next((path for path in foreign if os.path.lexists(path)), None):
        raise ValueError(f"{there} is there, and not of earlier predictions: choose another --out")
    for source in job.sources:
        if any(at_home(source).resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise ValueError(f"{source} lies in {job.out}, in what would be written over: choose another --out")
    for path in [*files[1:], *folders]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _earlier(out: Path) -> list[str] | None:
    """Folders of the predictions that are there. The file may come from anywhere: it names ways to save, no places."""
    about = json_file.load(out / OF_PREDICTIONS) if (out / OF_PREDICTIONS).is_file() else None
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
    many |= {"frames": result.frames} if result.frames > 1 else {}
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
        frames=line.get("frames", 1),
    )


def _own_picture(folder: Path, name: str) -> Path | None:
    path = folder / "pictures" / PurePosixPath(name).with_suffix(".png")
    return path if path.is_file() else None


def _absolute(path: Path | None) -> str | None:
    """The run may be gone on with, or looked at, from another folder."""
    return None if path is None else str(absolute(path))
