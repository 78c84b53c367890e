"""Pictures beside written annotations: under which name, and copied or linked."""

import errno
import filecmp
import logging
import shutil
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from maskwise.data.dataset import Item
from maskwise.data.files import beside, replacing
from maskwise.data.images import IMAGE_SUFFIXES, read_image, write_image
from maskwise.terminal import plain

log = logging.getLogger(__name__)

PICTURE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "rgb", "jpegimages", "leftimg8bit")
TOO_LONG = "pictures whose names are too long"
"""What writers count where nothing `fits`."""


def inner_name(name: str, split: str) -> PurePosixPath:
    """A picture's name without the folders that formats put around it: 'images/train/a.jpg' is 'a.jpg'.

    Readers that look through a folder pass over what is hidden in it: '.a.jpg' is '_.a.jpg'.
    """
    path = PurePosixPath(name)
    kept = [part for part in path.parts[:-1] if part.lower() not in PICTURE_FOLDERS]
    if split in kept[:1] and len(kept) < len(path.parts) - 1:
        kept = kept[1:]
    return unhidden(PurePosixPath(*kept, path.name))


def unhidden(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*(f"_{part}" if part.startswith(".") else part for part in path.parts))


def fits(root: Path, picture: str, *names: str | PurePath) -> bool:
    """Whether files below `root` can have these names, to which a format has added its endings. Where they cannot, it
    is told: one picture is no reason not to write the others."""
    root.mkdir(parents=True, exist_ok=True)
    if any(is_too_long(root / part) for name in names for part in PurePath(name).parts):
        log.warning("%s: left out of %s, where its name is too long for a file", plain(picture), plain(str(root)))
        return False
    return True


def is_too_long(path: Path) -> bool:
    """Asked of the file system: each has a limit of its own."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def refuse_unknown_suffix(item: Item, name: PurePosixPath) -> None:
    """Where readers look through a folder they know pictures by their suffix."""
    if name.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{item.name}: expected the name of a picture, such as {name.with_suffix('').as_posix()}.png")


def put_picture(item: Item, target: Path) -> list[Path]:
    """Copy or link the picture of an item; the files made, none where the item has no picture or it lies there already.

    A target with another suffix than the picture's is written anew, and so is a picture that is no file.
    """
    if item.pixels is not None:
        _refuse_another(target, item.pixels, item.max_pixels)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(target, item.pixels)
        return [target]
    if item.image is None or _lies_there(item.image, target, link=item.link):
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix.lower() != item.image.suffix.lower():
        write_image(target, read_image(item.image, max_pixels=item.max_pixels))
    elif item.link:
        with beside(target) as temporary:
            temporary.symlink_to(item.image.resolve())
    else:
        with item.image.open("rb") as source, replacing(target) as file:
            shutil.copyfileobj(source, file)
    return [target]


def shows_another(item: Item, target: Path) -> bool:
    """Whether `put_picture` would replace a picture by another; of `pixels` it refuses that itself."""
    if item.image is None or not target.exists() or target.samefile(item.image):
        return False
    if target.suffix.lower() == item.image.suffix.lower():
        return not filecmp.cmp(item.image, target, shallow=False)
    there = read_image(target, max_pixels=item.max_pixels)
    return not np.array_equal(there, read_image(item.image, max_pixels=item.max_pixels))


def _lies_there(image: Path, target: Path, *, link: bool) -> bool:
    """As a link or as a file, whichever is wanted. What is the source itself stays as it is: a link would lead to
    itself."""
    if not target.exists() or not target.samefile(image):
        return False
    if target.is_symlink():
        return link or (target.name == image.name and target.parent.samefile(image.parent))
    return not link or target.resolve() == image.resolve()


def _refuse_another(target: Path, pixels: UInt8[np.ndarray, "h w 3"], max_pixels: int) -> None:
    """Whose annotations would then lie on these pixels."""
    if target.exists() and not np.array_equal(read_image(target, max_pixels=max_pixels), pixels):
        raise ValueError(f"{target} is there already and shows something else; choose another place to write to")


def claim(taken: dict[str, str], name: str, item: Item) -> str:
    """The name, noted as given away: two pictures must not share one file."""
    if name in taken:
        raise ValueError(f"{taken[name]} and {item.name} would both be written as {name}; rename one of them")
    taken[name] = item.name
    return name
