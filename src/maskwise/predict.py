"""Prediction: from anything that is a picture to a `Result`, one by one or as a stream that holds a few at a time."""

import base64
import difflib
import html
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, cast

import torch
from PIL import Image

from maskwise.categories import Categories
from maskwise.data.dataset import Id, Item
from maskwise.data.formats import coco_results, measurements
from maskwise.data.formats.measurements import Scale
from maskwise.data.images import MAX_PIXELS, MOST_FRAMES, ImageReadError, read_image, write_image
from maskwise.draw import overlay
from maskwise.out_of_memory import is_out_of_memory
from maskwise.predictions import formats, memory
from maskwise.predictions.finder import Finder, Limited, Placed
from maskwise.predictions.formats import Save
from maskwise.predictions.memory import Found
from maskwise.predictions.pictures import Asked, Given, Picture, is_picture
from maskwise.predictions.sources import is_several, listed, named
from maskwise.rle import Size
from maskwise.structures import Instances

ON_ACCELERATOR = 8
"""Pictures in a batch there; on a CPU a batch is no quicker than one after another."""
SHOWN = 960
"""Longest side of the picture in a notebook."""
ROWS = 8
"""Instances listed in a notebook."""

Source: TypeAlias = Given | Iterable[Given]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What was found in one picture."""

    name: str
    """Of the file, below the folder that was asked for."""
    instances: Instances
    categories: Categories
    path: Path | None = None
    """None: the picture was given as pixels."""
    given: Picture | None = field(default=None, repr=False)
    max_pixels: int = MAX_PIXELS
    tile: int | None = None
    """Side of the smallest tiles that it was cut into because the model reports no more instances of one picture."""
    limited: bool = False
    """There may be more: as many were found as the model or `max_det` allows."""
    frames: int = 1
    """Pages or frames of the file, of which this is the first."""

    @property
    def size(self) -> Size:
        """Height and width."""
        height, width = self.instances.masks.size
        return height, width

    @property
    def pixels(self) -> Picture:
        """RGB; of a file read anew each time, so that a thousand results fit into memory."""
        if self.given is not None:
            return self.given
        assert self.path is not None, "a picture is a file or given"
        return read_image(self.path, max_pixels=self.max_pixels)

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.instances)

    def __bool__(self) -> bool:
        """A result is one also where nothing was found, which a length of 0 would deny."""
        return True

    def item(self, *, image: Path | None = None, link: bool = False, id: Id | None = None) -> Item:
        """As writers of formats take it; `image` is laid beside the annotations."""
        found, limit = self.instances, self.max_pixels
        return Item(name=self.name, size=self.size, labelled=found, image=image, link=link, max_pixels=limit, id=id)

    def plot(
        self,
        *,
        colours: Literal["instance", "class", "quality"] = "instance",
        fill: float = 0.4,
        contour: bool = True,
        labels: bool = True,
        zoom: int = 1,
    ) -> Picture:
        """The picture with the masks laid over it."""
        found, categories = self.instances, self.categories
        return overlay(
            self.pixels, found, categories, colours=colours, fill=fill, contour=contour, labels=labels, zoom=zoom
        )

    def to_coco(self, *, image_id: Id | None = None) -> list[dict[str, object]]:
        """Entries of a COCO results file; the name stands for the image id where none is given."""
        return coco_results.results(self.item(id=self.name if image_id is None else image_id), self.categories)

    def measurements(self, *, pixel_size: float | None = None, unit: str = "um") -> list[dict[str, object]]:
        """A row an instance: area, perimeter, centroid ... in pixels, or in `unit` where the side of one is known."""
        scale = Scale.of(pixel_size, unit)
        names, rows = measurements.header(scale), measurements.measure(self.item(), self.categories, scale)
        return [dict(zip(names, (*row[:3], *map(_number, row[3:])), strict=True)) for row in rows]

    def save(
        self,
        to: Path | str,
        *,
        save: str | Sequence[str] = ("overlay", "coco"),
        pixel_size: float | None = None,
        unit: str = "um",
    ) -> Path:
        """An overlay (`a.png`, `a.jpg`), a table (`a.csv`), or a folder with what `save` names, of one picture."""
        path, scale = Path(to), Scale.of(pixel_size, unit)
        match path.suffix.lower():
            case ".png" | ".jpg" | ".jpeg":
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, self.plot())
            case ".csv":
                measurements.write(path, self.categories, [self.item()], scale)
            case "":
                self._save_in(path, formats.chosen(save), scale)
            case suffix:
                raise ValueError(f"{path}: a name ending in .png, .jpg or .csv, or a folder, got {suffix}")
        return path

    def _save_in(self, folder: Path, save: Sequence[Save], scale: Scale) -> None:
        formats.refuse_another(folder, self.name, lambda: self.pixels, save, max_pixels=self.max_pixels)
        image = self.path
        if image is None and formats.NEED_PICTURES.intersection(save):
            image = formats.write_picture(folder, self.pixels, self.name)
        item = self.item(image=image)
        formats.write(folder, self.categories, lambda: [item], save, scale=scale)
        if "overlay" in save:
            formats.write_overlay(folder, self.pixels, item, self.categories)

    def _repr_html_(self) -> str:
        """For notebooks: the overlay and the best instances."""
        shown = Image.fromarray(self.plot())
        shown.thumbnail((SHOWN, SHOWN))
        data = BytesIO()
        shown.save(data, "JPEG", quality=88)
        picture = base64.b64encode(data.getvalue()).decode()
        found, name = self.instances, html.escape(self.name)
        columns = (found.labels, found.scores, found.quality, found.masks.area())
        rows = "".join(
            f"<tr><td>{html.escape(self.categories.name(label))}</td><td>{score:.2f}</td><td>{quality:.2f}</td>"
            f"<td>{area:,}</td></tr>"
            for label, score, quality, area in list(zip(*(c.tolist() for c in columns), strict=True))[:ROWS]
        )
        more = f"<tr><td colspan=4>and {len(self) - ROWS} more</td></tr>" if len(self) > ROWS else ""
        table = f"<table><tr><th>class<th>score<th>quality<th>area (px)</tr>{rows}{more}</table>" if len(self) else ""
        return (
            f'<figure><img src="data:image/jpeg;base64,{picture}" alt="{name}" style="max-width:100%">'
            f"<figcaption>{name}: {self.size[1]} × {self.size[0]}, {len(self)} instances</figcaption>{table}</figure>"
        )


def _number(value: object) -> object:
    """Of a cell of a table, where an empty one says that there is none."""
    if not isinstance(value, str):
        return value
    return float(value) if value else None


_ALSO_CALLED = {"conf": "min_score", "confidence": "min_score", "threshold": "min_score", "score": "min_score"}
_ALSO_CALLED |= {"quality": "min_quality", "max_dets": "max_det", "max_instances": "max_det", "class_names": "classes"}


def refuse_option(call: str, name: str, known: Sequence[str], also_called: Mapping[str, str]) -> NoReturn:
    """With what was probably meant. `also_called`: names that others have for what is known here."""
    near = difflib.get_close_matches(name, [*known, *also_called], n=1)
    hint = f"did you mean {also_called.get(near[0], near[0])!r}?" if near else f"known: {', '.join(known)}"
    raise TypeError(f"{call}: unknown option {name!r}; {hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is reported, and how pictures are looked at."""

    min_score: float = 0.5
    """Least score of the class."""
    min_quality: float = 0.0
    """Least quality of the mask."""
    classes: Sequence[str] | None = None
    """One name or several. None: all."""
    batch: int | Literal["auto"] = "auto"
    """Pictures at once; those of one size are looked at together."""
    tile: int | Literal["auto"] | None = "auto"
    """Side of the tiles that pictures larger than one are cut into; 'auto': only where they would be shrunk beyond
    recognition or do not fit; None: never."""
    max_det: int | None = None
    """Most instances of a picture, the best ones; the model's own limit is raised to it. None: as many as there are; a
    picture with more than the model reports is cut into tiles, unless `tile` is None."""
    max_pixels: int = MAX_PIXELS
    """Files with more pixels are refused before memory is taken for them."""

    @classmethod
    def named(cls, **wishes: Any) -> "Options":
        """What is called otherwise is refused with what was probably meant."""
        known = [f.name for f in fields(cls)]
        for name in wishes.keys() - set(known):
            refuse_option("predict", name, known, _ALSO_CALLED)
        return cls(**wishes)

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", _names(self.classes))
        for name in ("min_score", "min_quality"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
            object.__setattr__(self, name, value if isinstance(value, int | float) else float(value))
        whole: tuple[tuple[str, int, tuple[str | None, ...]], ...] = (
            ("batch", 1, ("auto",)),
            ("tile", 32, ("auto", None)),
            ("max_det", 1, (None,)),
            ("max_pixels", 1, ()),
        )
        for name, least, words in whole:
            if (value := getattr(self, name)) not in words:
                object.__setattr__(self, name, _at_least(least, name, value, words))


def _names(classes: object) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else tuple(classes) if isinstance(classes, Iterable) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes: expected one name or several, or None for all, got {classes!r}")
    return names


def _at_least(least: int, name: str, value: object, words: tuple[str | None, ...]) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
        return int(value)
    expected = " or ".join(["a whole number", *map(repr, words)])
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A picture without a result."""

    asked: Asked
    stage: Literal["read", "predict"]
    error: Exception


def predict(finder: Finder, source: Source, options: Options) -> Result | list[Result] | Iterator[Result]:
    """One result for one picture, a list for a list, else a stream: for a folder, a pattern, a video, an iterator.

    A stream passes over files that cannot be read, with a warning; for the others that is an error.
    """
    if isinstance(source, str | Path) and is_several(source):
        return _stream(finder, named([source], max_pixels=options.max_pixels), options)
    if is_picture(source):
        return next(_all(finder, [Asked.of(source, name="picture.png", max_pixels=options.max_pixels)], options))
    if isinstance(source, list | tuple):
        return list(_all(finder, listed(source, max_pixels=options.max_pixels), options))
    return _stream(finder, _numbered(cast(Iterable[Given], source), options.max_pixels), options)


def outcomes(finder: Finder, asked: Iterable[Asked], options: Options) -> Iterator[Result | Failed]:
    """In order. While some pictures are looked at, the next ones are read."""
    finder = _reporting(finder, options.max_det)
    answer = partial(_answers, finder, options, keeper(finder.categories, options))
    size = batch_size(finder, options)
    with ThreadPoolExecutor(1) as reader:
        waiting: Future[list[tuple[Asked, Picture | ImageReadError]]] | None = None
        for chunk in _chunks(asked, size):
            coming = reader.submit(_read, chunk)
            if waiting is not None:
                yield from answer(waiting.result())
            waiting = coming
        if waiting is not None:
            yield from answer(waiting.result())


def keeper(categories: Categories, options: Options) -> memory.Keep:
    """What is left of what was found: what scores enough, of the classes wanted, and has pixels of its own."""
    labels = None if options.classes is None else torch.tensor([categories.label_of(name) for name in options.classes])

    def keep(found: Instances) -> Instances:
        good = (found.scores >= options.min_score) & (found.quality >= options.min_quality)
        if labels is not None:
            good &= torch.isin(found.labels, labels)
        good &= found.masks.area() > 0
        return _once(found[torch.where(good)[0]])

    return keep


def _once(found: Instances) -> Instances:
    """Without masks that are those of a better instance of the class, pixel by pixel: suppression compares boxes."""
    columns = (found.masks.boxes(), found.labels[:, None], found.masks.area()[:, None])
    _, alike, counts = torch.cat(columns, 1).unique(dim=0, return_inverse=True, return_counts=True)
    rivals = torch.where(counts[alike] > 1)[0]
    first: dict[tuple[int, str], int] = {}
    for i, mask in zip(rivals.tolist(), found.masks[rivals].rle(), strict=True):
        first.setdefault((int(found.labels[i]), mask["counts"]), i)
    worse = sorted(set(rivals.tolist()) - set(first.values()))
    good = torch.ones(len(found), dtype=torch.bool)
    good[worse] = False
    return found[torch.where(good)[0]] if worse else found


def _reporting(finder: Finder, most: int | None) -> Finder:
    """One that reports at least so many instances, where it can."""
    if most is None or not isinstance(finder, Limited) or finder.most_instances is None:
        return finder
    return finder.up_to(most) if most > finder.most_instances else finder


def limit_of(finder: Finder, options: Options) -> memory.Limit:
    """When there may be more in a picture than the finder reports, and whether to look for it."""
    most = finder.most_instances if isinstance(finder, Limited) else None
    divide = options.tile is not None and options.max_det is None
    return memory.Limit(most=most, least_score=options.min_score, divide=divide)


def _numbered(given: Iterable[Given], max_pixels: int) -> Iterator[Asked]:
    return (Asked.of(one, name=f"{i:06d}.png", max_pixels=max_pixels) for i, one in enumerate(given))


def _all(finder: Finder, asked: Iterable[Asked], options: Options) -> Iterator[Result]:
    for outcome in outcomes(finder, asked, options):
        if isinstance(outcome, Failed):
            raise outcome.error
        _warn(outcome)
        yield outcome


def _stream(finder: Finder, asked: Iterable[Asked], options: Options) -> Iterator[Result]:
    for outcome in outcomes(finder, asked, options):
        if isinstance(outcome, Failed):
            log.warning("passed over %s: %s", outcome.asked.name, outcome.error)
        else:
            _warn(outcome)
            yield outcome


def _warn(result: Result) -> None:
    """Nothing is lost in silence."""
    if result.limited:
        log.warning("%s: there may be more than these %d instances: see max_det and tile", result.name, len(result))
    if result.frames > 1:
        log.warning(
            "%s: only the first of %s pages or frames: see docs/predict.md", result.name, counted(result.frames)
        )


def counted(frames: int) -> str:
    """Of pages or frames, as far as they are counted."""
    return f"{MOST_FRAMES:,} or more" if frames == MOST_FRAMES else f"{frames}"


def batch_size(finder: Finder, options: Options) -> int:
    """Pictures that are looked at together."""
    if options.batch != "auto":
        return options.batch
    return ON_ACCELERATOR if isinstance(finder, Placed) and finder.device.type != "cpu" else 1


def _chunks(asked: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    chunk: list[Asked] = []
    for one in asked:
        chunk.append(one)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read(chunk: Sequence[Asked]) -> list[tuple[Asked, Picture | ImageReadError]]:
    return [(one, _pixels(one)) for one in chunk]


def _pixels(asked: Asked) -> Picture | ImageReadError:
    try:
        return asked.read()
    except ImageReadError as error:
        return error


def _answers(
    finder: Finder,
    options: Options,
    keep: Callable[[Instances], Instances],
    chunk: Sequence[tuple[Asked, Picture | ImageReadError]],
) -> Iterator[Result | Failed]:
    """Which pictures are looked at together depends on the chunk alone, so that a resumed run gives the same."""
    found: dict[int, Found | Exception] = {}
    groups: dict[Size, list[int]] = {}
    for i, (_, pixels) in enumerate(chunk):
        if not isinstance(pixels, Exception):
            groups.setdefault((pixels.shape[0], pixels.shape[1]), []).append(i)
    for size, group in groups.items():
        pictures = [pixels for i in group if not isinstance(pixels := chunk[i][1], Exception)]
        found |= dict(zip(group, _found(finder, options, keep, size, pictures), strict=True))
    for i, (asked, pixels) in enumerate(chunk):
        if isinstance(pixels, Exception):
            yield Failed(asked=asked, stage="read", error=pixels)
        elif isinstance(of_one := found[i], Exception):
            yield Failed(asked=asked, stage="predict", error=of_one)
        else:
            yield _result(asked, pixels, of_one, finder.categories, options)


def _result(asked: Asked, pixels: Picture, found: Found, categories: Categories, options: Options) -> Result:
    instances = found.instances[: options.max_det]
    return Result(
        name=asked.name,
        instances=instances,
        categories=categories,
        path=asked.path,
        given=pixels if asked.path is None else None,
        max_pixels=options.max_pixels,
        tile=found.tile,
        limited=found.limited or len(instances) < len(found.instances),
        frames=asked.frames(),
    )


def _found(
    finder: Finder, options: Options, keep: memory.Keep, size: Size, pictures: list[Picture]
) -> Sequence[Found | Exception]:
    """Of pictures of one size. What fits into no memory at all is lost alone."""
    side = memory.tile_side(finder, size) if options.tile == "auto" else options.tile
    limit = limit_of(finder, options)
    try:
        if side is None or max(size) <= side:
            return memory.find(finder, pictures, keep, limit)
        batch = batch_size(finder, options)
        return [memory.tiled(finder, picture, keep, limit, side=side, batch=batch) for picture in pictures]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(pictures) == 1:
            return [error]
    return [found for picture in pictures for found in _found(finder, options, keep, size, [picture])]
