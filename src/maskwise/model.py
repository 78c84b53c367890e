"""A trained model: loaded from a file, a folder or by its name; asked for instances; saved in the layout of model hubs.

Nothing that a model file or folder holds is ever executed. See docs/predict.md.
"""

import copy
import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from maskwise import checkpoint
from maskwise.categories import Categories
from maskwise.checkpoint import About
from maskwise.data.sample import Sample
from maskwise.data.source import FileSource
from maskwise.data.source import Source as Pictures
from maskwise.data.transforms import Enlarge, Resize, compose, fitted
from maskwise.distributed import World
from maskwise.distributed import device as accelerator
from maskwise.evaluate.objects import Comparison
from maskwise.evaluate.validation import Validation, compare, limited, validation
from maskwise.methods import METHODS, Entry, Method
from maskwise.models import folder
from maskwise.models.published import find
from maskwise.predict import Options, Result, Source, predict, refuse_option
from maskwise.predictions.pictures import Bytes, File, Given, Picture
from maskwise.recipes import judging
from maskwise.recipes.chosen import chosen
from maskwise.recipes.run import Change, Run
from maskwise.recipes.stored import from_json, refuse_unknown
from maskwise.report import judged
from maskwise.report.page import check_free
from maskwise.rle import Size
from maskwise.structures import Images, Instances, Targets
from maskwise.train import train
from maskwise.weights import classes
from maskwise.weights.open import import_model

log = logging.getLogger(__name__)

_BEFORE_LIMIT = ("per_level_test", "per_level", "boxes_test", "proposals_test")
"""Options of methods: how many boxes go into suppression and come out of it."""


class Wishes(TypedDict, total=False):
    """`predict.Options`, by name."""

    min_score: float
    min_quality: float
    classes: Sequence[str] | None
    batch: int | Literal["auto"]
    tile: int | Literal["auto"] | None
    max_det: int | None
    max_pixels: int


class NothingElse(TypedDict):
    """Options that there are not: type checkers refuse them, and what is asked for all the same gets a good message."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A method with its weights, and everything that is needed to use it. Each is equal to itself alone."""

    name: str
    """As it was asked for."""
    module: nn.Module
    """A method of `maskwise.methods`, in eval mode."""
    about: About
    view: tuple[Change, ...]
    """How a picture is prepared."""
    device: torch.device
    run: Path | None = None
    """The folder of the run that trained it, where the model is in it."""
    _wider: dict[int, "Model"] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The last one that `up_to` made, by its limit: it takes seconds."""

    @property
    def categories(self) -> Categories:
        return self.about.categories

    def instances(self, pictures: Sequence[Picture]) -> list[Instances]:
        """What is in each picture, in its coordinates, on the CPU; nothing is left out. One batch."""
        if not pictures:
            return []
        images = Images.batch(
            [self._prepared(picture) for picture in pictures],
            originals=[(picture.shape[0], picture.shape[1]) for picture in pictures],
        )
        with torch.no_grad():
            on_device = cast(Method, self.module).predict(images.to(self.device))
        return [instances.to("cpu") for instances in on_device]

    @overload
    def predict(self, source: list[Given] | tuple[Given, ...], **options: Unpack[Wishes]) -> list[Result]: ...

    @overload
    def predict(
        self, source: Bytes | File | np.ndarray | Tensor | Image.Image, **options: Unpack[Wishes]
    ) -> Result: ...

    @overload
    def predict(self, source: str | Path, **options: Unpack[Wishes]) -> Result | Iterator[Result]: ...

    @overload
    def predict(self, source: Iterable[Given], **options: Unpack[Wishes]) -> Iterator[Result]: ...

    def predict(self, source: Source, **options: Unpack[Wishes]) -> Result | list[Result] | Iterator[Result]:
        """What is in one picture or in many.

        One picture (a file, also an opened one, its bytes, an array, a tensor, a picture of Pillow) gives a `Result`, a
        list or tuple of them a list of results. A folder, a pattern (`"day 1/*.png"`), a video and any other iterable
        give an iterator, which looks at pictures as results are asked for. So what a string or path gives depends on
        what it names.

        The options are those of `predict.Options`: min_score, min_quality, classes, batch, tile, max_det, max_pixels.
        """
        return predict(self, source, Options.named(**options))

    def val(
        self,
        data: Path | str,
        *,
        split: str | None = None,
        format: str | None = None,
        max_dets: int = 100,
        batch: int = 1,
        workers: int = 0,
        report: Path | str | None = None,
        exist_ok: bool = False,
        **unknown: Unpack[NothingElse],
    ) -> Validation:
        """How good the model is on a data set: AP of boxes and masks, and how far its quality can be trusted.

        Of the data of its own run, `split` not given, what that was judged by: a split, or what it held out.
        `max_dets`: the best detections of a picture and class that count, as in COCO's rules; `max_det` of `predict`
        is about all classes of a picture together. `report`: a page to write it to, with pictures (docs/reports.md);
        `exist_ok`: also over a file that is there.
        """
        for name in unknown:
            known = [p.name for p in inspect.signature(Model.val).parameters.values() if p.kind is p.KEYWORD_ONLY]
            refuse_option("val", name, known, {"max_det": "max_dets"})
        if report is not None:
            check_free(Path(report), exist_ok=exist_ok)
        opened, shown = judging.files(str(data), judging.known_of(self.run), split=split, format=format)
        source = FileSource(opened)
        comparison, failures = compare(self, source, opened.categories, data=shown, batch=batch, workers=workers)
        for failure in failures:
            log.warning("left out: %s", failure)
        if report is not None:
            self.report(Path(report), comparison, source, max_dets=max_dets)
        return validation(comparison, limited(max_dets))

    def report(self, to: Path | str, comparison: Comparison, source: Pictures, *, max_dets: int = 100) -> Path:
        """The page of what this model found in the pictures of a source, beside the truth."""
        name = Path(self.name).name
        facts = judged.facts(name, self.about, comparison.categories, data=comparison.data, device=str(self.device))
        title = f"{self.about.method}: {name}"
        settings = limited(max_dets)
        return judged.write(to, comparison=comparison, source=source, title=title, about=facts, settings=settings)

    def train(
        self,
        recipe: Run[Any] | str,
        folder: Path | str,
        *,
        data: str | None = None,
        resume: bool = False,
        exist_ok: bool = False,
    ) -> "Model":
        """The model that these weights become, on the same device.

        The recipe (a name, a `run.json` or a `Run`) says what is learned from and how; method and options are those of
        this model. Each class of the data begins with the weights of the class of that name, others from chance; a
        single class begins with those of a single one, whatever they are called.
        """
        run = replace(_run(recipe, data), device=str(self.device))
        return load(train_from(self, run, folder, resume=resume, exist_ok=exist_ok), device=run.device)

    def viewed_size(self, size: Size) -> Size:
        """Height and width that the network sees of a picture of that height and width."""
        for step in self.view:
            if isinstance(step, Resize):
                size = fitted(size, short=step.short, long=step.long)
            elif isinstance(step, Enlarge):
                size = step.enlarged(size)
        return size

    @property
    def most_instances(self) -> int | None:
        """The most that can be found in one picture; None: as many as there are, or, of a method of proposals, as many
        as are asked for."""
        entry = METHODS.get(self.about.method)
        if entry is None or entry.family == "proposals":
            return None
        return self.about.config.get("max_instances", self.about.config.get("max_steps"))

    def up_to(self, most: int) -> "Model":
        """The same with another limit; what goes before it, in suppression, grows with it."""
        if "max_instances" not in self.about.config:
            return self
        wider = self._wider.get(most)
        if wider is None:  # two threads may both make one
            wider = self._with_limit(most)
            self._wider.clear()
            self._wider[most] = wider
        return wider

    def _with_limit(self, most: int) -> "Model":
        """On the same weights."""
        config = dict(self.about.config)
        more = max(1.0, most / config["max_instances"])
        config |= {name: ceil(config[name] * more) for name in _BEFORE_LIMIT if name in config}
        about = replace(self.about, config=config | {"max_instances": most})
        entry = METHODS[about.method]
        module = entry.build(_config(entry, about))
        module.load_state_dict(self.module.state_dict(), assign=True)
        return replace(self, module=module.eval().to(self.device), about=about)

    def to(self, device: torch.device) -> "Model":
        """The same on another device; this one stays where it is."""
        return replace(self, module=copy.deepcopy(self.module).to(device), device=device)

    def save(self, to: Path | str, *, half: bool = False) -> Path:
        """The folder that `load` takes and model hubs show; with `half`, weights of 16 bits, which are rounded."""
        return folder.write(Path(to), self.module.state_dict(), self.about, half=half)

    def _prepared(self, picture: Picture) -> Tensor:
        """RGB in 0..1 under the view; this is how training judges, so that both give the same numbers."""
        size = (picture.shape[0], picture.shape[1])
        pixels = torch.from_numpy(np.require(picture, requirements=("C", "W"))).permute(2, 0, 1).contiguous()
        sample = compose(*self.view)(Sample(pixels=pixels, targets=Targets.none(size), name=""), torch.Generator())
        return functional.to_dtype(sample.pixels, torch.float32, scale=True)


def load(source: str | Path = "nuclei", *, device: str = "auto", methods: Mapping[str, Entry] = METHODS) -> Model:
    """A model by its file, its folder, the folder of the run that trained it, an address or a published name.

    Also from the files of other programs: see docs/weights.md.
    """
    path, on = find(source), accelerator(World(), device)
    module, about = import_model(path) if folder.is_foreign(path) else _own(path, methods)
    try:
        view = from_json(tuple[Change, ...], [dict(step) for step in about.view], "view")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    run = judging.run_folder(path)
    return Model(name=str(source), module=module.eval().to(on), about=about, view=view, device=on, run=run)


def train_model(
    recipe: Run[Any] | str,
    folder: Path | str,
    *,
    data: str | None = None,
    resume: bool = False,
    exist_ok: bool = False,
) -> Model:
    """A new model: trained as the recipe says (a name, a `run.json` or a `Run`), in a folder for all that comes of it.

    `data`: where a named recipe learns from files. To begin with a model that is there: `Model.train`.
    """
    run = _run(recipe, data)
    return load(train(run, Path(folder), resume=resume, exist_ok=exist_ok), device=run.device)


def train_from(
    model: Model, run: Run[Any], folder: Path | str, *, resume: bool = False, exist_ok: bool = False
) -> Path:
    """As `Model.train`, but on the device of the run. Returns the file of the best weights."""
    entry, weights, run = METHODS[model.about.method], model.module.state_dict(), beginning_with(model, run)
    log.info("method, options and weights are those of %s", model.name)
    begin = partial(_begin, weights=weights, known=model.categories, build=partial(_of_size, entry, run))
    before = judging.known_of(model.run)
    return train(run, Path(folder), begin=begin, before=before, resume=resume, exist_ok=exist_ok)


def beginning_with(model: Model, run: Run[Any]) -> Run[Any]:
    """The run with the method and options of the model, and the digest of the weights that it begins with."""
    config = _config(METHODS[model.about.method], model.about)
    return replace(run, method=model.about.method, config=config, begins_with=digest(model.module.state_dict()))


def _run(recipe: Run[Any] | str, data: str | None) -> Run[Any]:
    if isinstance(recipe, str):
        return chosen(recipe, data=data)
    if data is not None:
        raise ValueError(f"a Run says itself what it learns from; got data={data!r} beside it")
    return recipe


def _own(path: Path, methods: Mapping[str, Entry]) -> tuple[nn.Module, About]:
    weights, about = folder.read(path)
    try:
        if about.method not in methods:
            refuse_unknown("model", "method", [about.method], list(methods))
        entry = methods[about.method]
        module = entry.build(_config(entry, about))
        checkpoint.load_weights(module, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return module, about


def digest(weights: Mapping[str, Tensor]) -> str:
    """The same for the same names and numbers, whatever file they lay in."""
    sha = hashlib.sha256()
    for name, value in sorted(weights.items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def _begin(
    module: nn.Module,
    wanted: Categories,
    *,
    weights: classes.State,
    known: Categories,
    build: Callable[[int], nn.Module],
) -> None:
    """A new network, for the wanted classes, begins with the weights of the model."""
    same = classes.shared(known, wanted)
    if left := [name for label, name in enumerate(wanted.names) if label not in same]:
        log.info("the model does not know these classes, which begin from chance: %s", ", ".join(left))
    if left or same != {label: label for label in range(len(known))}:
        wider = build(len(known) + 1).state_dict()
        weights = classes.moved(weights, module.state_dict(), wider, same=same, known=len(known))
    module.load_state_dict(weights)


def _of_size(entry: Entry, run: Run[Any], count: int) -> nn.Module:
    """A new network for so many classes."""
    numbered = Categories(names=tuple(map(str, range(count))))
    return entry.build(run.fitted(numbered).config)


def _config(entry: Entry, about: About) -> Any:
    """The method's options. ImageNet weights are not looked for: all weights are here."""
    config = from_json(entry.config, dict(about.config), "config")
    return replace(config, weights=None) if any(f.name == "weights" for f in fields(config)) else config
