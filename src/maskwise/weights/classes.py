"""Weights of a model that goes on to learn from other data: what belongs to a class goes by its name."""

from collections.abc import Mapping

import torch
from torch import Tensor

from maskwise.categories import Categories

State = Mapping[str, Tensor]


def shared(known: Categories, wanted: Categories) -> dict[int, int]:
    """Labels of the wanted classes that are known, and those of the same names there.

    A class that is alone is another that is alone, whatever they are called: 'cell' and 'nucleus'.
    """
    if len(known) == len(wanted) == 1:
        return {0: 0}
    place = {name: label for label, name in enumerate(known.names)}
    return {label: place[name] for label, name in enumerate(wanted.names) if name in place}


def moved(weights: State, new: State, wider: State, *, same: Mapping[int, int], known: int) -> dict[str, Tensor]:
    """What a network of other classes begins with: of each class that is the same, and of what has no class.

    new: its own weights, which the other classes keep.
    wider: those of a network with one class more than the `known` ones. What is longer there belongs to classes.
    """
    result = dict(weights)
    for name, own in new.items():
        value, more = weights[name].to(own), wider[name]
        if (axis := _longer(value, more)) is not None:
            bias = f"{name.rpartition('.')[0]}.bias"
            # outputs lie along axis 0, except in a transposed convolution, which is recognised by its bias
            outputs = axis == 0 or (bias in new and _longer(weights[bias], wider[bias]) is not None)
            result[name] = _moved(value, own, axis, more.size(axis) - value.size(axis), same, known, outputs=outputs)
    return result


def _longer(value: Tensor, wider: Tensor) -> int | None:
    """The axis along which it is."""
    return next((axis for axis in range(value.ndim) if wider.size(axis) > value.size(axis)), None)


def _moved(
    value: Tensor, own: Tensor, axis: int, each: int, same: Mapping[int, int], known: int, *, outputs: bool
) -> Tensor:
    """One tensor. `each`: entries per class along `axis`. `outputs`: the layer outputs classes (else it takes them as
    input)."""
    others = value.size(axis) - each * known
    (classes, kept), (mine, _) = (_parted(part, axis, others, outputs=outputs) for part in (value, own))
    to, source = (torch.tensor(list(labels), dtype=torch.int64, device=own.device) for labels in (same, same.values()))
    rows = classes.unflatten(axis, (-1, each)).index_select(axis, source)
    filled = mine.unflatten(axis, (-1, each)).index_copy(axis, to, rows).flatten(axis, axis + 1)
    return torch.cat((filled, kept) if outputs else (kept, filled), axis)


def _parted(value: Tensor, axis: int, others: int, *, outputs: bool) -> tuple[Tensor, Tensor]:
    """What belongs to classes, and the rest: of outputs, background comes after the classes; of inputs, features come
    before them."""
    first, last = value.tensor_split([value.size(axis) - others if outputs else others], axis)
    return (first, last) if outputs else (last, first)
