"""The data that a run names: opened, and in batches."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from maskwise.categories import OBJECT, Categories
from maskwise.data.dataset import DataSet, crowds_as_instances
from maskwise.data.failures import BadFiles
from maskwise.data.formats.table import FORMATS
from maskwise.data.loader import Loader
from maskwise.data.open import candidates, detected, open_data
from maskwise.data.source import FileSource, Source, as_one
from maskwise.data.split import held_out, only
from maskwise.data.transforms import HorizontalFlip, VerticalFlip, compose
from maskwise.recipes.run import MOST_SCENES, Change, Data, Files, Run, Synthetic

log = logging.getLogger(__name__)

FIRST_VALIDATION_SCENE, FIRST_TEST_SCENE = MOST_SCENES, 2 * MOST_SCENES
"""Seeds far from the training scenes. Test scenes are ones that model selection has not seen either."""

HOLD_OUT = "--set data.source.train=null data.source.val=null data.source.held_out=0.2"
"""What works where the data has no splits."""

REST = ", what was held out"
"""Behind the name of data, for people: what of it judges."""

Split: TypeAlias = Mapping[str, Sequence[str]]
"""Names of the pictures in `train` and in `val`."""


class Known(NamedTuple):
    """Of the run of a model."""

    source: Files | Synthetic | None = None
    held_out: Split | None = None
    """Which pictures, by their names, where they are at hand."""

    def learned_from(self, source: Files, data: DataSet) -> Sequence[str]:
        """Names of the pictures of this data that the run learned from."""
        if not isinstance(self.source, Files):
            return ()
        its_own = Path(self.source.path).resolve() == Path(source.path).resolve()
        if self.held_out is not None:
            return self.held_out["train"] if its_own or are_its(data, self.held_out) else ()
        if its_own and self.source.train == source.train:
            log.warning("the model has learned from these pictures: what is held out of them is no news to it")
        return ()


UNKNOWN = Known()
"""Of a model whose run is not at hand, and of a network that begins from chance."""


def are_its(data: DataSet, held_out: Split) -> bool:
    """Whether all pictures of a run are among these, which were moved or are called by another path."""
    return {name for part in ("train", "val") for name in held_out[part]} <= {record.name for record in data}


class Sources(NamedTuple):
    train: Source
    val: Source | None
    categories: Categories
    split: dict[str, list[str]] | None = None
    """Names of the pictures, where the splits are not the data's own."""


def sources(data: Data, split: Split | None = None, *, before: Known = UNKNOWN) -> Sources:
    """What is learned from, and what it is judged by: where a run held pictures out, as the split says that it left.

    `before`: of the run of the model that this one begins with; what that has learned from is not held out.
    """
    found = _sources(data, split, before)
    if not data.as_one:
        return found
    return Sources(as_one(found.train), None if found.val is None else as_one(found.val), OBJECT, found.split)


def _sources(data: Data, split: Split | None = None, before: Known = UNKNOWN) -> Sources:
    source = data.source
    if not isinstance(source, Files):
        val = source.scenes.samples(source.val, start=FIRST_VALIDATION_SCENE) if source.val else None
        return Sources(source.scenes.samples(source.train), val, source.scenes.categories)
    source = _recognised(source)
    learned = _split(source, source.train, "train")
    if not source.empty:
        learned = replace(learned, records=tuple(record for record in learned if not record.empty))
    judged, names = None if source.val is None else _split(source, source.val, "val"), None
    if source.held_out:
        learned, judged = _held_out(learned, source, split, before)
        names = {name: [r.name for r in part or ()] for name, part in (("train", learned), ("val", judged))}
    if not len(learned):
        raise ValueError(f"{source.path}: no picture to learn from{'' if source.empty else ' has an annotation'}")
    if judged is not None and judged.categories != learned.categories:
        raise ValueError(f"{source.path}: the splits {source.train} and {source.val} have different categories")
    return Sources(FileSource(learned), FileSource(judged) if judged else None, learned.categories, names)


def _held_out(data: DataSet, source: Files, split: Split | None, before: Known) -> tuple[DataSet, DataSet | None]:
    """Pictures that have come since are in neither half."""
    if split is None:
        known = before.learned_from(source, data)
        return held_out(data, source.held_out, seed=source.held_out_seed, by=source.held_out_by, known=known)
    there = {record.name for record in data}
    if gone := [name for part in ("train", "val") for name in split[part] if name not in there]:
        raise ValueError(f"{source.path}: {gone[0]} is gone, which the run learned from or was judged by")
    learned, judged = (only(data, split[part]) for part in ("train", "val"))
    return learned, judged if len(judged) else None


def without_those_learned_from(source: Files, split: Split | None = None) -> DataSet:
    """What a run that held pictures out was judged by."""
    judged = _sources(Data(source=source), split).val
    if not isinstance(judged, FileSource):
        raise ValueError(f"{source.path}: no picture was held out: name others to judge by, with --data")
    return judged.data


def format_elsewhere(source: Files, path: str) -> str | None:
    """The format that a run names is that of its own data: of other data only where nothing else is to be seen."""
    if source.format is None or Path(path).resolve() == Path(source.path).resolve():
        return source.format
    seen = candidates(Path(path))
    return source.format if not seen or source.format in seen else None


def opened_split(source: Files, wanted: str | None) -> DataSet:
    """What to judge by: the split that is wanted, else the one called val or the only one."""
    source = _recognised(source)
    if wanted is None and source.format in FORMATS:
        found = FORMATS[source.format].splits(Path(source.path))
        wanted = next((name for name in found if name.startswith("val")), None)
    return _opened(source, wanted)


def _recognised(source: Files) -> Files:
    """With its format, which is then said once, however many splits are opened."""
    path = Path(source.path)
    return replace(source, format=detected(path)) if source.format is None and path.exists() else source


def _opened(source: Files, split: str | None) -> DataSet:
    data = open_data(source.path, format=source.format, split=split)
    return crowds_as_instances(data) if source.crowds_as_instances else data


def _split(source: Files, wanted: str | None, field: Literal["train", "val"]) -> DataSet:
    try:
        return _opened(source, wanted)
    except ValueError as error:
        if "split" not in str(error):
            raise
        format = source.format or detected(Path(source.path))
        if not any(FORMATS[format].splits(Path(source.path))):
            raise ValueError(f"{source.path} has no splits; hold some pictures out instead: {HOLD_OUT}") from None
        or_none = ", or data.source.val=null to train without judging" if field == "val" else ""
        raise ValueError(f"{error}; choose it with --set data.source.{field}=NAME{or_none}") from None


def mirrors_told(run: Run[Any], source: Source) -> tuple[Change, ...]:
    """The run's changes, where mirrors that were told nothing of keypoints know them from the data."""
    categories = source.data.categories if isinstance(source, FileSource) else OBJECT
    count, flip = len(categories.keypoints), categories.keypoint_flip
    if not flip and getattr(run.config, "keypoints", 0) == 0:
        flip = tuple(range(count))  # nothing is learned from them
    return tuple(
        replace(step, keypoints=_known(flip, categories))
        if isinstance(step, HorizontalFlip | VerticalFlip) and not step.keypoints
        else step
        for step in run.data.change
    )


def _known(flip: tuple[int, ...], categories: Categories) -> tuple[int, ...]:
    if len(flip) < len(categories.keypoints):
        raise ValueError(
            "what each keypoint becomes in a mirror is not to be seen from their names "
            f"({', '.join(categories.keypoints)[:80]}): say it in the run (data.change, 'keypoints' of the mirror), "
            "rename them (left_..., right_...), or leave mirrors out"
        )
    return flip


def loader(
    run: Run[Any],
    source: Source,
    *,
    failures: Path,
    rank: int = 0,
    world: int = 1,
    judging: bool = False,
    device: torch.device | None = None,
) -> Loader:
    """Ranks get equally many batches to learn from, but each picture is judged once."""
    data, parts = run.data, run.optim.accumulate
    if data.batch % (world * parts):
        shares = f"{world * parts} (processes x accumulate)"
        raise ValueError(f"{data.batch} pictures a step are not to be shared by {shares}")
    return Loader(
        source,
        batch_size=data.batch // (world * parts),
        transform=compose(*(data.view if judging else mirrors_told(run, source))),
        seed=run.seed,
        shuffle=not judging,
        last="keep" if judging else "pad",
        group_by_aspect=data.group_by_aspect and not judging,
        bad_files=BadFiles(
            then="leave out" if judging else "replace",
            failures=failures,
            refused=failures.with_name("refused.jsonl"),
        ),
        workers=data.workers,
        rank=rank,
        world=world,
        parts=1 if judging else parts,
        device=device,
    )
