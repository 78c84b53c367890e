"""The data that a run names, opened."""

from typing import NamedTuple

from maskwise.categories import Categories
from maskwise.data.open import open_data
from maskwise.data.source import FileSource, Source
from maskwise.recipes.run import Data, Files

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
