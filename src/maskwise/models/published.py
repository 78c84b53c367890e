"""Published models, by name: their only list. Importing this needs no torch."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from maskwise.models.download import PATIENCE, Patience, Remote, fetch, home

FOREIGN = (".pth", ".pt", ".pkl")
"""How files of other programs end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    title: str
    licence: str
    """Of the weights."""
    at: Path | Remote
    """A folder in the package, or a file elsewhere."""

    @property
    def is_here(self) -> bool:
        return self.at.is_dir() if isinstance(self.at, Path) else _cached(self.at).is_file()


PUBLISHED: dict[str, Published] = {
    "nuclei": Published(
        title="nuclei of cells in microscopy pictures of any stain: Mask Scoring R-CNN, EfficientNet-Lite0",
        licence="Apache-2.0",
        at=Path(__file__).parent / "nuclei",
    ),
}


def find(source: str | Path, *, published: Mapping[str, Published] = PUBLISHED, patience: Patience = PATIENCE) -> Path:
    """The file or folder of a model, fetched if need be.

    `source` is a path, an address with the digest of what is expected there (`https://...#sha256=...`), or a name. A
    published name goes before a file or folder here that is called the same; that one is `./name`.
    """
    if isinstance(source, str):
        if "://" in source:
            return _fetched(_remote(source), patience)
        if source in published:
            return _of(source, published[source], patience)
    if (path := Path(source).expanduser()).exists():
        return path
    near = difflib.get_close_matches(str(source), published, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"published models are: {', '.join(published)}"
    raise ValueError(f"{source}: there is no such file or folder, and no published model of that name; {hint}")


def _of(name: str, model: Published, patience: Patience) -> Path:
    if isinstance(model.at, Remote):
        return _fetched(model.at, patience)
    if not model.at.is_dir():
        raise ValueError(f"the model {name!r} belongs into {model.at}, but this installation lacks it: install it anew")
    return model.at


def _fetched(remote: Remote, patience: Patience) -> Path:
    return fetch(remote, _cached(remote), patience=patience)


def _cached(remote: Remote) -> Path:
    """By its digest, so that no two files ever share a name; by its suffix one knows what program wrote it."""
    suffix = Path(urlsplit(remote.url).path).suffix
    return home() / "models" / f"{remote.sha256}{suffix if suffix in FOREIGN else '.safetensors'}"


def _remote(address: str) -> Remote:
    url, fragment = urldefrag(address)
    name, _, digest = fragment.partition("=")
    if name != "sha256":
        example = f"{urlsplit(url).scheme}://.../{Path(urlsplit(url).path).name}#sha256=<64 digits>"
        raise ValueError(f"{address}: the digest of what is expected there is missing: {example}")
    return Remote(url=url, sha256=digest.lower())
