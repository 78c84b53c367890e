"""Names of weights elsewhere and names here: how one becomes the other, and what is said of those that do not."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskwise.checkpoint import load_weights, names_differ
from maskwise.tensor_files import State

Names = Sequence[tuple[str, str]]
"""What a name there looks like, and the name here: `\\1` is a group of it, `{1*2-2}` that number twice, less two."""

EPSILON = 1e-5
"""Of the norms here."""

_COUNTED = re.compile(r"\{(\d)(?:\*(\d))?([+-]\d)?\}")
_COUNTER = "num_batches_tracked"


class Translated(NamedTuple):
    found: dict[str, Tensor]
    """By the names here."""
    unknown: list[str]
    """Names there that mean nothing here."""


def translate(state: State, names: Names) -> Translated:
    """Weights that are there twice, because two parts share them, have to be equal."""
    found, unknown = {}, []
    for key, value in state.items():
        name = _name(key, names)
        if name is None:
            unknown.append(key)
        elif not value.ndim and not key.endswith(_COUNTER):
            raise ValueError(f"{key}: expected a vector or more, found one number")
        elif name in found and not torch.equal(found[name], value):
            raise ValueError(f"{key} is to be {name}, which other weights are already")
        else:
            found[name] = value
    return Translated(_beside_norms(found), unknown)


def _name(key: str, names: Names) -> str | None:
    for theirs, ours in names:
        if match := re.fullmatch(theirs, key):
            return match.expand(_COUNTED.sub(lambda counted, m=match: _count(m, counted), ours))
    return None


def _count(match: re.Match[str], counted: re.Match[str]) -> str:
    group, times, plus = counted.groups()
    return str(int(match[int(group)]) * int(times or 1) + int(plus or 0))


def _beside_norms(found: State) -> dict[str, Tensor]:
    """A convolution with a norm is the first of the two, one without is alone."""
    with_norm = re.compile(r"((?:neck\.(?:lateral|output)|box_head\.body|mask\.head\.convolutions)\.\d)\.1\.weight")
    pairs = {match[1] for match in map(with_norm.fullmatch, found) if match}
    split = {name: name.rpartition(".") for name in found}
    return {f"{place}.0.{last}" if place in pairs else name: found[name] for name, (place, _, last) in split.items()}


# --- layouts


def background_last(found: State) -> dict[str, Tensor]:
    """From heads with background as class 0. Its score goes to the end; nobody asks for its box, mask and IoU."""
    classes = len(found.get("box_head.score.bias", ())) - 1
    return {name: _background_last(name, value, classes) for name, value in found.items()}


def _background_last(name: str, value: Tensor, classes: int) -> Tensor:
    if name.startswith("box_head.score."):
        return value.roll(-1, 0)
    if name.startswith("box_head.offset."):
        return value[4:]
    of_classes = name.startswith(("mask.head.predict.", "mask.iou.predict.")) and len(value) == classes + 1
    return value[1:] if of_classes else value


def sizes_first(found: State, *, sizes: int) -> dict[str, Tensor]:
    """From anchors of a cell in the order of their shapes, and then of their sizes."""
    result = dict(found)
    for name, value in found.items():
        if re.fullmatch(r"rpn\.(score|offset)\.(weight|bias)", name):
            each = 4 if "offset" in name else 1
            if len(value) % (sizes * each):
                raise ValueError(f"{name}: {len(value) / each:g} anchors a cell, which are not of {sizes} sizes")
            result[name] = value.unflatten(0, (-1, sizes, each)).transpose(0, 1).flatten(0, 2)
    return result


def with_epsilon(found: State, epsilon: float) -> dict[str, Tensor]:
    """Norms that work here as they did there with another epsilon."""
    return {k: v + (epsilon - EPSILON) if k.endswith("running_var") else v for k, v in found.items()}


def with_statistics(found: State) -> dict[str, Tensor]:
    """Norms of the backbone that are just a scale and a shift get statistics that change nothing."""
    result = dict(found)
    for name, value in found.items():
        place, _, last = name.rpartition(".")
        of_norm = place.startswith(("backbone.", "last_stage.")) and found.get(f"{place}.weight", value[None]).ndim == 1
        if last == "bias" and of_norm:
            result.setdefault(f"{place}.running_mean", torch.zeros_like(value))
            result.setdefault(f"{place}.running_var", torch.full_like(value, 1 - EPSILON))
    return result


def blue_green_red(found: State) -> dict[str, Tensor]:
    """From a first convolution that reads the channels the other way round."""
    return {k: v.flip(1) if k == "backbone.network.conv1.weight" else v for k, v in found.items()}


# --- into a model


def fill(model: nn.Module, weights: Translated) -> None:
    """All weights into all places. Counters of batches may be missing, or have no place."""
    wanted = model.state_dict()
    found = {k: v for k, v in weights.found.items() if k in wanted or not k.endswith(_COUNTER)}
    found |= {k: v for k, v in wanted.items() if k.endswith(_COUNTER) and k not in found}
    if weights.unknown or found.keys() != wanted.keys():
        raise ValueError(names_differ("weights", {*found, *weights.unknown}, set(wanted)))
    load_weights(model, found)
