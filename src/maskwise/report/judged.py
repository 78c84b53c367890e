"""The report of what was found in a source of pictures, beside its truth: by training, or by `maskwise val`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from maskwise.categories import Categories
from maskwise.checkpoint import About
from maskwise.data.images import read_image
from maskwise.data.source import FileSource, Source
from maskwise.evaluate.coco import COCO, Settings
from maskwise.evaluate.objects import Comparison
from maskwise.report import page
from maskwise.report.crops import Pixels
from maskwise.report.history import Row
from maskwise.version import __version__


def write(
    path: Path | str,
    *,
    comparison: Comparison,
    source: Source,
    title: str,
    history: Sequence[Row] = (),
    about: Mapping[str, object] | None = None,
    settings: Settings = COCO,
) -> Path:
    """The page of a comparison, with its pictures out of the source that was judged."""
    shown = pictures(source, comparison)
    return page.write(
        path, comparison=comparison, pixels=shown, title=title, history=history, about=about, settings=settings
    )


def facts(model: str, about: About, categories: Categories, *, data: str, device: str) -> dict[str, object]:
    """What a model is and what it was judged by, as the page tells it."""
    stored = about.to_json()
    return {
        "model": model,
        "method": about.method,
        "data": data,
        "classes judged": ", ".join(categories.names[:20]) + (" ..." if len(categories) > 20 else ""),
        "device": device,
        "maskwise": __version__,
        **{name: stored[name] for name in ("config", "notes")},
    }


def pictures(source: Source, comparison: Comparison) -> Pixels:
    """Finds a picture by its name. Scenes, which are made to be asked for theirs, lie in the comparison in the order of
    their source, with some left out; files lie there by their ids."""
    places = {pair.image: p for p, pair in enumerate(comparison.pairs)}

    def read(image: int | str) -> UInt8[np.ndarray, "_ _ 3"]:
        first = 0 if isinstance(source, FileSource) else places[image]
        i = next((i for i in range(first, len(source)) if name_of(source, i) == image), None)
        if i is None:
            raise ValueError(f"there is no picture {image} in the data")
        if isinstance(source, FileSource):
            return read_image(source.data[i].path, max_pixels=source.max_pixels)
        pixels = source[i].pixels
        if pixels.is_floating_point():
            pixels = (pixels * 255).round()
        return pixels.permute(1, 2, 0).numpy().astype(np.uint8)

    return read


def name_of(source: Source, i: int) -> str:
    return source.data[i].name if isinstance(source, FileSource) else source[i].name
