"""What judges a model: the data that is named, or, of its own run's data, what it has not learned from."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from maskwise.data.dataset import DataSet
from maskwise.data.formats import json_file
from maskwise.data.split import only
from maskwise.recipes.chosen import RUN_FILE
from maskwise.recipes.run import Data, Files
from maskwise.recipes.sources import (
    REST,
    UNKNOWN,
    Known,
    Split,
    are_its,
    format_elsewhere,
    opened_split,
    without_those_learned_from,
)
from maskwise.recipes.stored import from_json

log = logging.getLogger(__name__)

SPLIT = "split.json"


class ToJudge(NamedTuple):
    data: DataSet
    shown: str
    """What it is, for people."""


def run_folder(model: Path) -> Path | None:
    """Of the run that trained the model in this file or folder, where it is in it."""
    folder = model.parent.parent if model.is_file() else model
    return folder.resolve() if (folder / RUN_FILE).is_file() else None


def data_of(folder: Path) -> Data:
    """What a run learns from and is judged by."""
    file = folder / RUN_FILE
    content = json_file.load(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: no run: expected an object, got {type(content).__name__}")
    try:
        return from_json(Data, content.get("data"), "run.data")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def split_of(folder: Path) -> Split | None:
    """Names of the pictures that a run learned from and that judged it, where it held some out itself."""
    file = folder / SPLIT
    if not file.is_file():
        return None
    names = json_file.load(file)
    if not isinstance(names, dict) or not all(isinstance(names.get(part), list) for part in ("train", "val")):
        raise ValueError(f"{file}: expected lists of names, train and val")
    return names


def known_of(folder: Path | None) -> Known:
    return UNKNOWN if folder is None else Known(data_of(folder).source, split_of(folder))


def files(data: str, known: Known, *, split: str | None = None, format: str | None = None) -> ToJudge:
    """The run's own data is what it is judged by, also where that is named."""
    own, is_own = known.source, False
    if isinstance(own, Files) and Path(data).resolve() == Path(own.path).resolve():
        source, is_own = replace(own, format=format or own.format), True
    else:
        format = format or (format_elsewhere(own, data) if isinstance(own, Files) else None)
        source = Files(path=data, format=format, val=None)
    if source.held_out and split is None:
        return ToJudge(without_those_learned_from(source, known.held_out), f"{source.path}{REST}")
    opened = opened_split(source, split or source.val)
    kept = known.held_out if split is None else None
    kept = kept if kept is not None and are_its(opened, kept) else None
    learned = split is None and is_own and source.val is None and source.train in (None, opened.split)
    if learned or (kept is not None and not kept["val"]):
        raise ValueError(f"{data}: the run learned from all of it; name other data, or a split, to judge it by")
    if kept is not None:
        log.warning("these have the names of the run's own pictures: judged by those that it held out; see --split")
        return ToJudge(only(opened, kept["val"]), f"{source.path}{REST}")
    return ToJudge(opened, f"{source.path} {opened.split}".rstrip())
