"""Pictures by what names them: files, folders, patterns, videos. Nothing is read before its turn comes."""

import glob
import importlib
import logging
import os
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path, PurePath, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from maskwise.data.files import OF_PREDICTIONS, absolute, at_home
from maskwise.data.formats.pictures import inner_name
from maskwise.data.images import IMAGE_SUFFIXES, MAX_PIXELS, ImageReadError, list_images
from maskwise.predictions.formats import OURS
from maskwise.predictions.pictures import Asked, Given, Picture, picture_name

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts"})

log = logging.getLogger(__name__)


def is_several(source: str | Path) -> bool:
    """Whether it names more than one picture, however many those turn out to be."""
    path = at_home(source)
    if path.is_dir() or is_video(path):
        return True
    return glob.has_magic(str(source)) and not path.exists()


def named(sources: Iterable[str | Path], *, max_pixels: int = MAX_PIXELS) -> Iterator[Asked]:
    """The pictures of all sources."""
    return opened(files(sources), max_pixels=max_pixels)


def files(sources: Iterable[str | Path], *, out: Path | None = None) -> dict[str, Path]:
    """Pictures and videos, each once. Names are relative to the folder that is common to all sources.

    Overlays and the like, which a run wrote or will write to `out`, are none of the pictures of a folder or a pattern.
    """
    groups = [_files(str(source), None if out is None else out.resolve()) for source in sources]
    home = _common([top for top, _ in groups])
    paths = _once(path for _, found in groups for path in found)
    if video := next(filter(is_video, paths), None):
        _av(video)  # now, and not in the middle of a run
    names, taken = [_named(path, home) for path in paths], {}
    folders = {str(folder).lower(): f"{folder}/" for name in names for folder in PurePosixPath(name).parents}
    return {_free(name, taken, folders): path for name, path in zip(names, paths, strict=True)}


def listed(given: Sequence[Given], *, max_pixels: int = MAX_PIXELS) -> Iterator[Asked]:
    """Files are called as `files` calls them, others by their place. One that is there twice has one name."""
    paths = [absolute(at_home(one)) if isinstance(one, str | Path) else None for one in given]
    home, taken, names = _common([path.parent for path in paths if path is not None]), {}, {}
    numbers = {i: _free(f"{i:06d}.png", taken, {}) for i, path in enumerate(paths) if path is None}
    for i, path in enumerate(paths):
        if path is None:
            yield Asked.of(given[i], name=numbers[i], max_pixels=max_pixels)
            continue
        if path not in names:
            names[path] = _free(picture_name(_relative(path, home)), taken, {})
        yield Asked.file(at_home(cast(str, given[i])), name=names[path], max_pixels=max_pixels)


def opened(found: Mapping[str, Path], *, max_pixels: int = MAX_PIXELS) -> Iterator[Asked]:
    """One a picture and one a frame."""
    for name, path in found.items():
        if is_video(path):
            yield from _frames(path, name, max_pixels)
        else:
            yield Asked.file(path, name=name, max_pixels=max_pixels)


def is_video(path: PurePath) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _files(source: str, out: Path | None) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files in order."""
    path = at_home(source)
    if path.is_dir():
        return path, _some(source, _given(list_images(path), path, out))
    if not path.exists() and glob.has_magic(source):
        fixed = Path(*_before_magic(path.parts)) if path.parts else Path()
        found = sorted(Path(p) for p in glob.iglob(str(path), recursive=True))  # noqa: PTH207 (knows no absolute patterns)
        kinds = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        pictures = [p for p in found if p.is_file() and p.suffix.lower() in kinds]
        return fixed, _some(source, _given(pictures, fixed, out))
    return path.parent, [path]


def _some(source: str, found: list[Path]) -> list[Path]:
    if not found:
        raise ValueError(f"{source}: no pictures there")
    return found


def _given(found: list[Path], top: Path, out: Path | None) -> list[Path]:
    """Those that are no run's output."""
    is_output: dict[Path, bool] = {top: False}

    def inside(folder: Path) -> bool:
        if folder not in is_output:
            is_output[folder] = inside(folder.parent) or _is_output(folder, top, out)
        return is_output[folder]

    given = [path for path in found if not inside(path.parent)]
    if left_out := len(found) - len(given):
        folders = [str(folder) for folder, is_one in is_output.items() if is_one and not is_output[folder.parent]]
        log.warning("left out, as output of predictions: %d pictures in %s", left_out, ", ".join(sorted(folders)))
    return given


def _is_output(folder: Path, top: Path, out: Path | None) -> bool:
    """Below `top`. Where predictions lie beside the pictures themselves, these are still wanted."""
    if folder.parent == top and folder.name in OURS:
        return (top / OF_PREDICTIONS).is_file() or (out is not None and top.resolve() == out)
    return (folder / OF_PREDICTIONS).is_file() or (out is not None and folder.resolve() == out)


def _before_magic(parts: tuple[str, ...]) -> list[str]:
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return list(parts[:first])


def _common(tops: list[Path]) -> Path:
    try:
        return Path(os.path.commonpath([absolute(top) for top in tops]))
    except ValueError:  # none, or on several drives
        return Path()


def _relative(path: Path, home: Path) -> str:
    whole = absolute(path)
    return (whole.relative_to(home) if whole.is_relative_to(home) else Path(*whole.parts[1:])).as_posix()


def _named(path: Path, home: Path) -> str:
    name = _relative(path, home)
    return name if is_video(path) else picture_name(name)


def _once(paths: Iterable[Path]) -> list[Path]:
    """Also where one is named in several ways; a link to a file is a picture of its own."""
    real = cache(lambda folder: folder.resolve())
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(real(path.parent) / path.name, path)
    return list(first.values())


def _free(name: str, taken: dict[str, str], folders: dict[str, str]) -> str:
    """a.png after a.jpg becomes a_png.png: most formats call annotations by what comes before the dot. Frames of a
    video lie in a folder, which must be none of the others."""
    path = PurePosixPath(name)
    there = ChainMap(taken, folders) if is_video(path) else taken
    first = next((there[key] for key in _keys(path) if key in there), None)
    while any(key in there for key in _keys(path)):
        path = path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}")
    if first is not None:
        log.info("%s is written as %s: there is %s, too", name, path, first)
    taken |= dict.fromkeys(_keys(path), name)
    return path.as_posix()


def _keys(path: PurePosixPath) -> list[str]:
    """By which formats call what is found: the folders that they put around pictures may be left out."""
    stem = path.with_suffix("").as_posix().lower()
    return [stem, *(f"{split}\0{inner_name(stem, split)}" for split in ("", "train"))]


# Videos


def _frames(path: Path, name: str, max_pixels: int) -> Iterator[Asked]:
    """Each frame as a picture of its own, called by its number from 0; one that cannot be decoded is the last."""
    av = _av(path)
    stem, number = PurePosixPath(name).with_suffix("").as_posix(), 0
    try:
        with av.open(path) as video:
            for frame in video.decode(video=0):
                read = partial(_rgb, path, frame, max_pixels)
                yield Asked(name=f"{stem}/{number:06d}.png", read=read, part_of=path)
                number += 1
        reason = None if number else "there are no frames in it"
    except (av.FFmpegError, OSError, IndexError) as error:  # the last: there is no picture in it, only sound
        reason = f"frame {number}: {error}"
    if reason is not None:
        yield Asked(name=f"{stem}/{number:06d}.png", read=partial(_refuse, path, reason), part_of=path)


def _av(path: Path) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError:
        raise ValueError(
            f"{path} is a video, which needs: pip install 'maskwise[video]', in a checkout '.[video]'"
        ) from None


def _rgb(path: Path, frame: "av.VideoFrame", max_pixels: int) -> Picture:
    """Upright, as phones film lying on their side."""
    if frame.width * frame.height > max_pixels:
        _refuse(path, f"frames of {frame.width} x {frame.height} pixels, {max_pixels:,} are allowed")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _refuse(path: Path, reason: str) -> Picture:
    raise ImageReadError(str(path), reason)
