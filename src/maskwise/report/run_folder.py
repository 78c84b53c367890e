"""The report of a run: what its folder says about the training, and what was found in validation beside the truth."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from maskwise.categories import Categories
from maskwise.data.formats import json_file
from maskwise.data.formats.coco_results import read_results
from maskwise.data.images import read_image
from maskwise.data.source import FileBacked, FileSource, Source
from maskwise.evaluate.coco import COCO, Settings
from maskwise.evaluate.objects import Comparison, Pair
from maskwise.evaluate.structures import pair, truth_of
from maskwise.evaluate.validation import image_id, limited
from maskwise.logbook import REPORT, RESULTS
from maskwise.recipes.run import Data
from maskwise.recipes.sources import sources
from maskwise.recipes.stored import from_json
from maskwise.report import history, page
from maskwise.report.crops import Pixels

NAME = "report.html"


def write(folder: Path, *, comparison: Comparison, source: Source, settings: Settings = COCO) -> Path:
    """`report.html` of a run, of what was just found in `source`."""
    return page.write(
        folder / NAME,
        comparison=comparison,
        pixels=pictures(source, comparison),
        title=title(folder),
        history=history.read(folder),
        about=about(folder),
        settings=settings,
    )


def rewrite(folder: Path, *, out: Path | None = None) -> Path:
    """The same from what the run has left on the disk; the data must still be where it was."""
    run = _object(folder / "run.json")
    opened = sources(from_json(Data, run.get("data"), "run.data"))
    if opened.val is None:
        raise ValueError(f"{folder}: this run has no validation data: there is nothing to report of")
    if not (folder / RESULTS).exists():
        raise ValueError(f"{folder}: no {RESULTS}: the run has not been judged yet")
    stored = _object(folder / REPORT)
    comparison = Comparison(
        categories=opened.categories,
        pairs=tuple(_pairs(folder, opened.val, opened.categories)),
        data=str(stored.get("data", "")),
    )
    return page.write(
        folder / NAME if out is None else out,
        comparison=comparison,
        pixels=pictures(opened.val, comparison),
        title=title(folder),
        history=history.read(folder),
        about=about(folder),
        settings=_settings(stored),
    )


def title(folder: Path) -> str:
    return f"{_object(folder / 'run.json').get('method')}: {folder.resolve().name}"


def about(folder: Path) -> dict[str, object]:
    """The facts that people ask for, then everything."""
    run, environment = _object(folder / "run.json"), _object(folder / "environment.json")
    judged = _object(folder / REPORT) if (folder / REPORT).exists() else {}
    facts = {
        "method": run.get("method"),
        "data": judged.get("data"),
        "epoch of these results": judged.get("epoch"),
        "seed": run.get("seed"),
        "maskwise": environment.get("maskwise"),
        "commit": environment.get("git"),
        "command": environment.get("command"),
        "machine": environment.get("devices") or environment.get("platform"),
    }
    return {**{name: fact for name, fact in facts.items() if fact is not None}, "run": run, "environment": environment}


def pictures(source: Source, comparison: Comparison) -> Pixels:
    """Finds a picture by its name. Those of a comparison lie in the order of their source, with some left out."""
    places = {pair.image: p for p, pair in enumerate(comparison.pairs)}

    def read(image: int | str) -> UInt8[np.ndarray, "_ _ 3"]:
        i = next((i for i in range(places[image], len(source)) if _name(source, i) == image), None)
        if i is None:
            raise ValueError(f"there is no picture {image} in the data")
        if isinstance(source, FileSource):
            return read_image(source.data[i].path, max_pixels=source.max_pixels)
        pixels = source[i].pixels
        if pixels.is_floating_point():
            pixels = (pixels * 255).round()
        return pixels.permute(1, 2, 0).numpy().astype(np.uint8)

    return read


def _name(source: Source, i: int) -> str:
    return source.data[i].name if isinstance(source, FileSource) else source[i].name


def _pairs(folder: Path, source: Source, categories: Categories) -> Iterator[Pair]:
    """As validation had them: without the pictures that could not be read."""
    unreadable = _unreadable(folder)
    kept = [i for i in range(len(source)) if not (isinstance(source, FileBacked) and source.path(i) in unreadable)]
    truths = [truth_of(source, i) for i in kept]
    ids = [image_id(source, i) for i in kept]
    sizes = {id_: truth.masks.size for id_, truth in zip(ids, truths, strict=True)}
    found = read_results(folder / RESULTS, categories, sizes)
    for i, id_, truth in zip(kept, ids, truths, strict=True):
        yield pair(_name(source, i), truth, found[id_])


def _unreadable(folder: Path) -> set[str]:
    path = folder / "failures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["path"] for row in map(json.loads, lines) if "path" in row}


def _settings(stored: Mapping[str, object]) -> Settings:
    """With as many detections as the stored numbers were measured with."""
    most = stored.get("max_dets")
    return limited(int(most[-1])) if isinstance(most, list) and most else COCO


def _object(path: Path) -> dict[str, object]:
    content = json_file.load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content
