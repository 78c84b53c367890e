"""The data that a run names: opened, and in batches."""

from pathlib import Path
from typing import Any, NamedTuple

from maskwise.categories import Categories
from maskwise.data.failures import BadFiles
from maskwise.data.loader import Loader
from maskwise.data.open import open_data
from maskwise.data.source import FileSource, Source
from maskwise.data.transforms import compose
from maskwise.recipes.run import Data, Files, Run

FIRST_VALIDATION_SCENE = 1_000_000
"""Far from those that are learned from."""


class Sources(NamedTuple):
    train: Source
    val: Source | None
    categories: Categories


def sources(data: Data) -> Sources:
    """What is learned from, and what it is judged by."""
    source = data.source
    if not isinstance(source, Files):
        val = source.scenes.samples(source.val, start=FIRST_VALIDATION_SCENE) if source.val else None
        return Sources(source.scenes.samples(source.train), val, source.scenes.categories)
    learned = open_data(source.path, format=source.format, split=source.train)
    judged = open_data(source.path, format=source.format, split=source.val) if source.val is not None else None
    if judged is not None and judged.categories != learned.categories:
        raise ValueError(f"{source.path}: the splits {source.train} and {source.val} have different categories")
    return Sources(FileSource(learned), FileSource(judged) if judged else None, learned.categories)


def loader(
    run: Run[Any], source: Source, *, failures: Path, rank: int = 0, world: int = 1, judging: bool = False
) -> Loader:
    """Ranks get equally many batches to learn from, but each picture is judged once."""
    data, parts = run.data, world * run.optim.accumulate
    if data.batch % parts:
        raise ValueError(f"{data.batch} pictures a step are not to be shared by {parts} (processes x accumulate)")
    return Loader(
        source,
        batch_size=data.batch // parts,
        transform=compose(*(data.view if judging else data.change)),
        seed=run.seed,
        shuffle=not judging,
        last="keep" if judging else "pad",
        group_by_aspect=data.group_by_aspect and not judging,
        bad_files=BadFiles(then="leave out" if judging else "replace", failures=failures),
        workers=data.workers,
        rank=rank,
        world=world,
    )
