"""`maskwise val --model M --data P`: how good a model is, as tables for people or one JSON object for programs."""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro
from rich.console import Console
from rich.progress import track

from maskwise.commands.asked import Flag, answer, free, give_back, print_json
from maskwise.terminal import Terminal, grid

if TYPE_CHECKING:
    from maskwise.categories import Categories
    from maskwise.data.loader import Batch
    from maskwise.data.source import Source
    from maskwise.evaluate.objects import Comparison
    from maskwise.evaluate.validation import Validation
    from maskwise.model import Model
    from maskwise.recipes.judging import Known
    from maskwise.recipes.run import Synthetic

INCOMPLETE = 3
"""Exit code where some pictures could not be read."""

log = logging.getLogger(__name__)

SCENES, SCENES_BY_DEFAULT = "scenes", 500


def main(argv: list[str]) -> int:
    """Exit code: 0; 2 for wrong usage, model or data; 3 where pictures could not be read and were left out."""
    return answer(val, argv, "val")


def val(
    *,
    model: Annotated[str, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str | None, tyro.conf.arg(metavar="PATH|scenes", help_behavior_hint="")] = None,
    split: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: val, or the only)")
    ] = None,
    recipe: Annotated[str | None, tyro.conf.arg(metavar="RECIPE", help_behavior_hint="")] = None,
    count: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 500)")] = None,
    max_dets: int = 100,
    batch: int = 1,
    workers: int = 2,
    device: str = "auto",
    report: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE.html", help_behavior_hint="(default: runs/val/MODEL-DATA/report.html)")
    ] = None,
    exist_ok: Flag = False,
    json: Flag = False,
) -> int:
    """Judge a model on data that it has not learned from; the numbers are printed, a page shows the pictures.

    Args:
        model: file, folder or name of a model, or the folder of a run
        data: folder or file of the data set; the word scenes for synthetic ones; left out: what the recipe, or the run
            in whose folder the model is, is judged by
        split: part of the data set
        recipe: a recipe or the run.json of a run; its scenes are made, its data is read
        count: how many scenes; neither training nor the choice of the best weights has seen them
        max_dets: best detections of a picture and class that count
        batch: pictures at a time
        workers: processes that read pictures
        device: auto, cpu, cuda, cuda:1, mps
        report: page to write; the default takes the next free name: ...-2, ...-3
        exist_ok: write over a page that is there
        json: one JSON object on standard output; what cannot be measured is null
    """
    from maskwise.evaluate.validation import compare, limited, validation
    from maskwise.model import load
    from maskwise.report.page import check_free

    if report is not None:
        check_free(report, exist_ok=exist_ok)
    settings, judged = limited(max_dets), load(model, device=device)
    given = judged.about.config.get("max_instances", max_dets)
    if given < max_dets:
        print(f"this model gives at most {given} instances of a picture, --max-dets {max_dets} or not", file=sys.stderr)
    source, categories, shown = _opened(data, split, _known(recipe, judged, data), count)
    comparison, failures = compare(
        judged, source, categories, data=shown, batch=batch, workers=workers, watched=_watched
    )
    found = validation(comparison, settings)
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    page = _page(judged, comparison, source, report or partial(_place, model, shown, exist_ok=exist_ok), max_dets)
    if json:
        left_out = [failure.path for failure in failures]
        print_json({**found.to_json(), "model": model, "left_out": left_out, "report": page and str(page)})
    else:
        show(found, Terminal(width=None if sys.stdout.isatty() else 1000))
        if page is not None:
            print(f"report: {page}", file=sys.stderr)
    return INCOMPLETE if failures else 0


def _place(model: str, shown: str, *, exist_ok: bool) -> Path:
    """Where the page goes if nothing is said: by the names of the model and of the data."""
    from maskwise.recipes.sources import REST

    data = Path(shown.replace(REST, " held out")).name
    folder = Path("runs/val") / re.sub(r"[^\w.-]+", "-", f"{_name(model)}-{data}")
    return (folder if exist_ok else free(folder)) / "report.html"


def _name(model: str) -> str:
    """What people call it: of a file in a folder of a model or of a run, that folder."""
    path = Path(model)
    if path.is_file() and path.parent.name == "weights":
        path = path.parent.parent
    elif path.is_file() and path.name == "model.safetensors":
        path = path.parent
    return (path.resolve() if path.exists() else path).name.removesuffix(".safetensors")


def _page(
    model: "Model", found: "Comparison", source: "Source", place: Path | Callable[[], Path], max_dets: int
) -> Path | None:
    """One that cannot be drawn takes nothing from the numbers."""
    own = None
    try:
        path = place if isinstance(place, Path) else (own := place())
        return model.report(path, found, source, max_dets=max_dets)
    except Exception as error:
        if own is not None:
            give_back(own.parent)
        expected = isinstance(error, ValueError | OSError)
        log.warning("no report: %s", error, exc_info=None if expected else error)
        return None


class _Judged(NamedTuple):
    source: "Source"
    categories: "Categories"
    shown: str


def _known(recipe: str | None, model: "Model", data: str | None) -> "Known":
    """Of the recipe or run that is asked for, else of the run that trained the model."""
    from maskwise.recipes.chosen import chosen, needs_data
    from maskwise.recipes.judging import Known, known_of, split_of
    from maskwise.recipes.table import RECIPES

    if recipe is None:
        return known_of(model.run)
    if recipe in RECIPES:
        return Known(chosen(recipe, data=data if needs_data(RECIPES[recipe]) else None).data.source)
    path = Path(recipe)
    return Known(chosen(recipe).data.source, split_of(path if path.is_dir() else path.parent))


def _opened(data: str | None, split: str | None, known: "Known", count: int | None) -> _Judged:
    """The data that is named, else what the run is judged by."""
    from maskwise.data.source import FileSource
    from maskwise.data.synthetic.scenes import Scenes
    from maskwise.recipes.judging import files
    from maskwise.recipes.run import Files, Synthetic

    own = known.source
    if data == SCENES and not Path(SCENES).exists():
        return _scenes(own if isinstance(own, Synthetic) else Synthetic(scenes=Scenes()), count, split)
    if data is None and isinstance(own, Synthetic):
        return _scenes(own, count, split)
    if data is None and isinstance(own, Files):
        data = own.path
    if data is None:
        raise ValueError("nothing to judge by: say --data PATH, --data scenes, or --recipe RECIPE")
    if count is not None:
        raise ValueError("--count is for scenes; files are all judged")
    opened, shown = files(data, known, split=split)
    return _Judged(FileSource(opened), opened.categories, shown)


def _scenes(source: "Synthetic", count: int | None, split: str | None) -> _Judged:
    from maskwise.recipes.sources import FIRST_TEST_SCENE

    if split is not None:
        raise ValueError(f"scenes have no split {split!r}")
    count = SCENES_BY_DEFAULT if count is None else count
    samples = source.scenes.samples(count, start=FIRST_TEST_SCENE)
    return _Judged(samples, source.scenes.categories, f"{count} scenes")


def _watched(batches: "Iterable[Batch]", total: int) -> "Iterator[Batch]":
    """A bar on a terminal, elsewhere a line for each tenth."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(batches, "judging", total, console=console)
        return
    for i, batch in enumerate(batches, 1):
        yield batch
        if i * 10 // total > (i - 1) * 10 // total:
            print(f"judged {i} of {total} batches", file=sys.stderr)


def show(found: "Validation", console: Terminal) -> None:
    """Tables for people; what cannot be measured is a dash."""
    masks = found.masks
    head = f"{masks.images} images, {masks.ground_truths} objects, at most {masks.max_dets[-1]} detections of a class"
    console.print(f"{masks.policy} {masks.data}: {head}", highlight=False, markup=False)
    parts = {"boxes": found.boxes, "masks": masks} | ({"keypoints": found.keypoints} if found.keypoints else {})
    console.print(grid([{"": name, **report.numbers} for name, report in parts.items()]))
    if found.proposals is not None:
        console.print(grid([{"proposals": name, "": value} for name, value in found.proposals.numbers.items()]))
    console.print(grid([{"quality": name, "": value} for name, value in found.ranking().items()]))
    console.print(grid([{"class": row.name, "objects": row.ground_truths, **row.numbers} for row in masks.classes]))
