"""Model files and checkpoints: safetensors and JSON, nothing that could run, nothing half written.

A *model file* is one `.safetensors` file: weights, and in its header what they are (method, options, categories, how
pictures are prepared). A *checkpoint* is a folder that training continues from: a model file, the rest of the state,
and a manifest with sizes and digests. It is written under another name, flushed to the disk and renamed, the last two
are kept, and a reader takes the newest that is whole.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maskwise.categories import Categories
from maskwise.data.files import beside, replacing
from maskwise.version import __version__

Tree: TypeAlias = Any
"""Nothing, truth values, numbers, strings and tensors, in lists and in dicts with strings as keys."""

FORMAT = 1
KEPT = 2
"""Checkpoints of a run: the newest, and one to fall back to."""

_FILES = ("model.safetensors", "state.safetensors", "state.json")
HEADER = "maskwise"
_KINDS = {"method": str, "config": dict, "view": list, "notes": dict}
"""Fields of a header, as JSON has them."""

_LEFT = re.compile(r"\.([0-9a-f]{16}\.tmp|tmp\w{6})")
"""Names of files that were being written: by `beside`, by safetensors."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the weights in a model file are; everything that is needed to use them."""

    method: str
    """Its name in METHODS."""
    config: Mapping[str, Tree]
    """Its options, all of them."""
    categories: Categories
    view: Sequence[Mapping[str, Tree]] = ()
    """How a picture is prepared before it is predicted on."""
    notes: Mapping[str, Tree] = field(default_factory=dict)
    """Where the weights come from and what they reached; read by people."""

    def to_json(self) -> dict[str, Tree]:
        return {
            "format": FORMAT,
            "version": __version__,
            "method": self.method,
            "config": dict(self.config),
            "categories": self.categories.to_json(),
            "view": [dict(step) for step in self.view],
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Tree]) -> "About":
        known = {"format", "version", *cls.__dataclass_fields__}
        if stored.get("format") != FORMAT:
            raise ValueError(f"model format {stored.get('format')!r}, this version reads {FORMAT}")
        if set(stored) != known:
            raise ValueError(names_differ("fields in the header", set(stored), known))
        categories = Categories.from_json(stored["categories"])
        for name, kind in _KINDS.items():
            if not isinstance(stored[name], kind):
                raise ValueError(f"{name} in the header: expected {kind.__name__}, got {type(stored[name]).__name__}")
        if not all(isinstance(step, dict) for step in stored["view"]):
            raise ValueError("view in the header: expected a list of objects")
        return cls(categories=categories, **{name: stored[name] for name in _KINDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where training stands."""

    weights: Mapping[str, Tensor]
    about: About
    state: Mapping[str, Tree]


# Model files


def write_model(path: Path, weights: Mapping[str, Tensor], about: About) -> None:
    """All of it or nothing: a file that was there stays until the new one is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as temporary:
        _write_tensors(temporary, weights, about)
    _flush(path.parent)


def read_model(path: Path) -> tuple[dict[str, Tensor], About]:
    """Weights on the CPU, and what they are."""
    weights, header = _read_tensors(path)
    return weights, _about(path, header)


def read_about(path: Path) -> About:
    """What the weights are, without the weights."""
    return _about(path, _read_tensors(path, weights=False)[1])


def _about(path: Path, header: Mapping[str, str]) -> About:
    try:
        return About.from_json(json.loads(header[HEADER]))
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: no maskwise model: its header does not say what the weights are") from None
    except RecursionError:
        raise ValueError(f"{path}: its header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Into a module, all of them and nothing else."""
    expected = module.state_dict()
    if set(expected) != set(weights):
        raise ValueError(names_differ("weights", set(weights), set(expected)))
    wrong = [k for k, v in expected.items() if v.shape != weights[k].shape]
    if wrong:
        shapes = (f"{k}: {tuple(weights[k].shape)}, expected {tuple(expected[k].shape)}" for k in wrong)
        raise ValueError("weights of another shape: " + "; ".join(shapes))
    module.load_state_dict(dict(weights))


# Checkpoints


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """A new checkpoint in the folder of a run's checkpoints; older ones than the last two go."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in _finished(folder)]
    target = folder / f"{max(numbers, default=0) + 1:06d}"
    _clear(folder)
    temporary = folder / f".{target.name}.new"
    temporary.mkdir()
    _write_files(temporary, checkpoint)
    temporary.rename(target)
    _flush(folder)
    for old in _finished(folder)[:-KEPT]:
        old.rename(folder / f".{old.name}.old")
    _clear(folder)
    return target


def load(folder: Path) -> Checkpoint:
    """The newest checkpoint that is whole; one that is not is named in the log and passed over."""
    reasons = []
    for path in reversed(_finished(folder)):
        try:
            return _read_files(path)
        except (ValueError, OSError) as error:
            reasons.append(f"{path}: {error}")
            log.warning("passing over a damaged checkpoint: %s", reasons[-1])
    raise ValueError(f"{folder}: no checkpoint to resume from" + "".join(f"\n  {reason}" for reason in reasons))


def any_in(folder: Path) -> bool:
    """Whether there is anything to resume from; what was never finished does not count."""
    return bool(_finished(folder))


def _finished(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))


def _clear(folder: Path) -> None:
    """Take away what a killed process left half written or half removed."""
    for rest in (*folder.glob(".*.new"), *folder.glob(".*.old")):
        shutil.rmtree(rest)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    model, tensors, state = (folder / name for name in _FILES)
    found: dict[str, Tensor] = {}
    text = json.dumps(pack(checkpoint.state, found), allow_nan=False)
    _write_tensors(model, checkpoint.weights, checkpoint.about)
    _write_tensors(tensors, found)
    write_bytes(state, text.encode())
    manifest = {path.name: _digest(path) for path in (model, tensors, state)}
    write_bytes(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    _flush(folder)


def _read_files(folder: Path) -> Checkpoint:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in _FILES:
        if manifest.get(name) != _digest(folder / name):
            raise ValueError(f"{name} is not what the manifest says was written")
    weights, about = read_model(folder / _FILES[0])
    tensors, _ = _read_tensors(folder / _FILES[1])
    state = unpack(json.loads((folder / _FILES[2]).read_bytes()), tensors)
    return Checkpoint(weights=weights, about=about, state=cast(Mapping[str, Tree], state))


# Trees


def pack(tree: Tree, tensors: dict[str, Tensor], name: str = "") -> Tree:
    """The tree as JSON can hold it; its tensors are laid into `tensors` under the path that leads to them."""
    match tree:
        case Tensor():
            tensors[name] = tree
            return {"$tensor": name}
        case float() if not math.isfinite(tree):
            return {"$float": repr(tree)}
        case None | bool() | int() | float() | str():
            return tree
        case list() | tuple():
            return [pack(value, tensors, f"{name}/{i}") for i, value in enumerate(tree)]
        case dict() if all(isinstance(key, str) and not key.startswith("$") for key in tree):
            return {key: pack(value, tensors, f"{name}/{key}" if name else key) for key, value in tree.items()}
    raise TypeError(f"{name or 'state'}: a checkpoint cannot hold {type(tree).__name__}")


def unpack(stored: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """The inverse of `pack`, with lists where tuples were."""
    match stored:
        case {"$tensor": name}:
            return tensors[name]
        case {"$float": text}:
            return float(text)
        case dict():
            return {key: unpack(value, tensors) for key, value in stored.items()}
        case list():
            return [unpack(value, tensors) for value in stored]
    return stored


# Files


def write_bytes(path: Path, data: bytes) -> None:
    """Through a temporary file beside it, flushed to the disk: readers see the old bytes or the new ones."""
    with replacing(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def clear_half_written(folder: Path) -> None:
    """Take away what killed processes were writing in this folder, and nothing else that is hidden there."""
    for path in folder.glob(".*"):
        if _LEFT.fullmatch(path.name) and path.is_file():
            path.unlink()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], about: About | None = None) -> None:
    header = {} if about is None else {HEADER: json.dumps(about.to_json(), allow_nan=False)}
    path.touch()
    mode = path.stat().st_mode  # what the process gives; safetensors makes files for their owner alone
    try:
        save_file(_apart(tensors), path, header)
    except SafetensorError as error:  # of a full disk too
        raise OSError(f"{path.parent}: weights cannot be written: {error}") from error
    path.chmod(mode)
    _flush(path)


def _read_tensors(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if weights else ()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own, as the format asks: tied weights are written twice."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return result


def _digest(path: Path) -> dict[str, Tree]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    """To the disk; of a folder, the names in it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names_differ(what: str, found: set[str], expected: set[str]) -> str:
    """Both ways, sorted."""
    parts = [
        f"{label} {what}: {', '.join(sorted(names))}"
        for label, names in (("missing", expected - found), ("unknown", found - expected))
        if names
    ]
    return "; ".join(parts)
