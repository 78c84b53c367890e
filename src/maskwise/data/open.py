"""Open a data set of any format: what it is, is found out and said."""

import logging
from pathlib import Path

from maskwise.data.dataset import DataSet
from maskwise.data.files import OF_PREDICTIONS
from maskwise.data.formats.table import FORMATS
from maskwise.data.images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

SAY_WHICH = (
    "say which it is: --from NAME in maskwise data, --set data.source.format=NAME in maskwise train, format= in Python"
)


def open_data(path: Path | str, *, format: str | None = None, split: str | None = None) -> DataSet:
    """The index of a data set in a folder, or given by its annotation file. `format` and `split` where they are not
    clear."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    format = format or detected(path)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    return FORMATS[format].read(path, split=split)


def detected(path: Path) -> str:
    """The name of the one format that the path looks like."""
    reasons = candidates(path)
    if not reasons:
        bare = path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
        found = ": there are pictures, but no annotations were found" if bare else ""
        if (path / OF_PREDICTIONS).is_file():
            found = f": it holds predictions, whose data sets are folders in it, such as {path / 'coco'}"
        raise ValueError(f"{path} looks like none of the formats {', '.join(FORMATS)}{found}; {SAY_WHICH}")
    if len(reasons) > 1:
        shown = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise ValueError(f"{path} looks like more than one format: {shown}; {SAY_WHICH}")
    [(name, reason)] = reasons.items()
    log.info("%s: %s, because %s", path, name, reason)
    return name


def candidates(path: Path) -> dict[str, str]:
    """Formats that the path may have, each with the reason."""
    reasons = {name: known.detect(path) for name, known in FORMATS.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
