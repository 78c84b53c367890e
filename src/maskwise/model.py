"""A trained model: loaded from a file, a folder or by its name; asked for instances; saved in the layout of model hubs.

Nothing that a model file or folder holds is ever executed. See docs/predict.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from maskwise import checkpoint
from maskwise.categories import Categories
from maskwise.checkpoint import About
from maskwise.data.sample import Sample
from maskwise.data.transforms import compose
from maskwise.methods import METHODS, Entry, Method
from maskwise.models.published import find
from maskwise.recipes.run import Change
from maskwise.recipes.stored import from_json, refuse_unknown
from maskwise.structures import Images, Instances, Targets

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""Of a model's folder, as model hubs have it."""

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A method with its weights, and everything that is needed to use it."""

    name: str
    """As it was asked for."""
    module: nn.Module
    """A method of `maskwise.methods`, in eval mode."""
    about: About
    view: tuple[Change, ...]
    """How a picture is prepared."""
    device: torch.device

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
            found = cast(Method, self.module).predict(images.to(self.device))
        return [instances.to("cpu") for instances in found]

    def _prepared(self, picture: Picture) -> Tensor:
        """RGB in 0..1 under the view; this is how training judges, so that both give the same numbers."""
        size = (picture.shape[0], picture.shape[1])
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).contiguous()
        sample = compose(*self.view)(Sample(pixels=pixels, targets=Targets.none(size), name=""), torch.Generator())
        return functional.to_dtype(sample.pixels, torch.float32, scale=True)


def load(source: str | Path = "nuclei", *, device: str = "auto", methods: Mapping[str, Entry] = METHODS) -> Model:
    """A model by its file, its folder, the folder of the run that trained it, an address or a published name."""
    path = find(source)
    weights, about = _read_folder(path) if path.is_dir() else checkpoint.read_model(path)
    try:
        return _built(str(source), weights, about, device, methods)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def accelerator(name: str = "auto") -> torch.device:
    """The device of that name, or the best there is."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}") from None
    return device


def _built(name: str, weights: Mapping[str, Tensor], about: About, device: str, methods: Mapping[str, Entry]) -> Model:
    if about.method not in methods:
        refuse_unknown("model", "method", [about.method], list(methods))
    entry, on = methods[about.method], accelerator(device)
    module = cast(nn.Module, entry.build(_config(entry, about)))
    checkpoint.load_weights(module, weights)
    view = from_json(tuple[Change, ...], [dict(step) for step in about.view], "view")
    return Model(name=name, module=module.eval().to(on), about=about, view=view, device=on)


def _config(entry: Entry, about: About) -> Any:
    """The method's options. ImageNet weights are not looked for: all weights are here."""
    config = from_json(entry.config, dict(about.config), "config")
    return replace(config, weights=None) if any(f.name == "weights" for f in fields(config)) else config


# Folders


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], About]:
    if (file := folder / WEIGHTS).is_file():
        weights, about = checkpoint.read_model(file)
        return weights, _configured(folder / CONFIG, about)
    trained = [folder / "weights" / f"{name}.safetensors" for name in ("best", "last")]
    for path in trained:
        if path.is_file():
            return checkpoint.read_model(path)
    raise ValueError(
        f"{folder}: no model here: neither {WEIGHTS} nor, as in the folder of a run, weights/best.safetensors"
    )


def _configured(path: Path, about: About) -> About:
    """What `config.json` says, which may be edited; classes and method are those of the weights."""
    if not path.is_file():
        return about
    try:
        stored = About.from_json(json.loads(path.read_bytes())["maskwise"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if (stored.method, stored.categories) != (about.method, about.categories):
        raise ValueError(f"{path}: another method or other categories than the weights beside it have")
    return stored
