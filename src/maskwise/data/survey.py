"""Walk through all pictures of a data set, in this process or several."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from maskwise.data.dataset import DataSet, Labelled, Problem, Record, picture_problem
from maskwise.data.images import ImageReadError
from maskwise.data.scripts import left_alone

T = TypeVar("T")
AT_ONCE = 16
NO_PICTURE = frozenset(("missing-image", "unreadable-image"))
"""Rules of `picture_problem` after which there is nothing to decode."""


def over(work: Callable[[Record], T], splits: Iterable[DataSet], *, workers: int = 0) -> Iterator[T]:
    """The work done on each record, in order. It must be a function of a module where there are `workers`.

    They are started afresh, not forked: a fork of a process with threads, such as torch has, may stand still. To start
    takes seconds, so that below some thousand pictures none are quicker.
    """
    splits = list(splits)
    records = (record for data in splits for record in data)
    if workers < 1:
        yield from map(work, records)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        with left_alone((work, [data[0] for data in splits if len(data)])):
            done = pool.map(work, records, chunksize=AT_ONCE)
        yield from done


def read_labels(record: Record) -> tuple[Labelled | None, tuple[Problem, ...]]:
    """The annotations of a record, if any can be read, and what is wrong with picture and annotations."""
    of_picture = picture_problem(record)
    problems = () if of_picture is None else (of_picture,)
    try:
        labelled = record.labelled()
    except ImageReadError as error:  # size is known from the picture alone
        return None, problems or (Problem(record.name, "", "unreadable-image", error.reason),)
    return labelled, (*problems, *labelled.problems)
