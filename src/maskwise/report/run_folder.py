"""The report of a run: what its folder says about the training, and what was found in validation beside the truth."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from maskwise.categories import Categories
from maskwise.data.failures import read_rows
from maskwise.data.formats import json_file
from maskwise.data.formats.coco_results import read_results
from maskwise.data.source import FileBacked, Source
from maskwise.evaluate.coco import COCO, Settings
from maskwise.evaluate.objects import Comparison, Pair, order_of_id
from maskwise.evaluate.structures import pair, truth_of
from maskwise.evaluate.validation import image_id, limited
from maskwise.logbook import REPORT, RESULTS
from maskwise.recipes.judging import data_of, split_of
from maskwise.recipes.sources import Sources, sources
from maskwise.report import history, judged, page
from maskwise.report.judged import name_of

NAME = "report.html"


def write(folder: Path | str, *, out: Path | None = None, opened: Sources | None = None) -> Path:
    """`report.html` from what the run has left on the disk; the data must still be where it was.

    `opened` is that data, where it is at hand. A run that was not judged has a course, and the page says why it has no
    more.
    """
    folder = Path(folder)
    opened = opened or sources(data_of(folder), split_of(folder))
    path = folder / NAME if out is None else out
    told = {"title": title(folder), "history": history.read(folder), "about": about(folder)}
    if (why := _unjudged(folder, opened)) is not None:
        return page.write_unjudged(path, why=why, **told)
    assert opened.val is not None, "it was judged by something"
    stored = _object(folder / REPORT)
    comparison = Comparison(
        categories=opened.categories,
        pairs=tuple(_pairs(folder, opened.val, opened.categories)),
        data=str(stored.get("data", "")),
    )
    return judged.write(path, comparison=comparison, source=opened.val, settings=_settings(stored), **told)


def _unjudged(folder: Path, opened: Sources) -> str | None:
    """Why there are no numbers of masks."""
    if opened.val is None:
        none = ": none of its pictures was held out" if opened.split else ""
        return f"This run had nothing to be judged by{none}, and so there is no AP; maskwise val judges models."
    # the report is written after the results
    return None if (folder / REPORT).exists() else "This run has not been judged yet, and so there is no AP."


def title(folder: Path) -> str:
    return f"{_object(folder / 'run.json').get('method')}: {folder.resolve().name}"


def about(folder: Path) -> dict[str, object]:
    """The facts that people ask for, then everything."""
    run, environment = _object(folder / "run.json"), _object(folder / "environment.json")
    found = _object(folder / REPORT) if (folder / REPORT).exists() else {}
    facts = {
        "method": run.get("method"),
        "data": found.get("data"),
        "epoch of these results": found.get("epoch"),
        "seed": run.get("seed"),
        "maskwise": environment.get("maskwise"),
        "commit": environment.get("git"),
        "command": environment.get("command"),
        "machine": environment.get("devices") or environment.get("platform"),
    }
    return {**{name: fact for name, fact in facts.items() if fact is not None}, "run": run, "environment": environment}


def _pairs(folder: Path, source: Source, categories: Categories) -> Iterator[Pair]:
    """As validation had them: without the pictures that could not be read."""
    unreadable = _unreadable(folder)
    kept = [i for i in range(len(source)) if not (isinstance(source, FileBacked) and source.path(i) in unreadable)]
    kept.sort(key=lambda i: order_of_id(image_id(source, i)))
    truths = [truth_of(source, i) for i in kept]
    ids = [image_id(source, i) for i in kept]
    sizes = {id_: truth.masks.size for id_, truth in zip(ids, truths, strict=True)}
    found = read_results(folder / RESULTS, categories, sizes)
    for i, id_, truth in zip(kept, ids, truths, strict=True):
        yield pair(name_of(source, i), truth, found[id_])


def _unreadable(folder: Path) -> set[str]:
    return {str(row["path"]) for row in read_rows(folder / "failures.jsonl") if "path" in row}


def _settings(stored: Mapping[str, object]) -> Settings:
    """With as many detections as the stored numbers were measured with."""
    most = stored.get("max_dets")
    return limited(int(most[-1])) if isinstance(most, list) and most else COCO


def _object(path: Path) -> dict[str, object]:
    content = json_file.load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content
