"""The run that a name, a file and a few changes make: what `maskwise train` is asked for.

chosen("ms_rcnn_facades", data="facades")           a recipe
chosen("runs/facades/run.json")                     what was saved of a run, to be trained again
changed(run, ["optim.lr=0.01", "data.view.0.short=480"])
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskwise.methods import METHODS, Entry
from maskwise.recipes.run import Files, Run, Schedule
from maskwise.recipes.sources import format_elsewhere
from maskwise.recipes.stored import Json, refuse_unknown
from maskwise.recipes.table import RECIPES, Recipe

RUN_FILE = "run.json"


def chosen(
    name: str, *, data: str | None = None, device: str | None = None, methods: Mapping[str, Entry] = METHODS
) -> Run[Any]:
    """A recipe on the data, or the run that was saved in a file or in the folder of a run; on the device that is named,
    which the recipe `own` also chooses by."""
    run = _chosen(name, data, device, methods)
    return run if device is None else replace(run, device=device)


def _chosen(name: str, data: str | None, device: str | None, methods: Mapping[str, Entry]) -> Run[Any]:
    path = Path(name)
    if name in RECIPES:
        return _of_recipe(name, RECIPES[name], data, device)
    if path.suffix != ".json" and not path.is_dir():
        refuse_unknown("recipes", "recipe", [name], list(RECIPES))
    return _on(saved(path / RUN_FILE if path.is_dir() else path, methods=methods), name, data)


def saved(path: Path, *, methods: Mapping[str, Entry] = METHODS) -> Run[Any]:
    """What training wrote into `run.json`."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError("no run: expected an object")
        return Run.from_json(stored, {key: entry.config for key, entry in methods.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def needs_data(recipe: Recipe) -> bool:
    return "data" in inspect.signature(recipe).parameters


def summary(recipe: Recipe) -> str:
    """The first line of what a recipe says about itself."""
    text = inspect.getdoc(recipe)
    assert text, "every recipe says what it is"
    return text.partition("\n")[0]


def _of_recipe(name: str, recipe: Recipe, data: str | None, device: str | None) -> Run[Any]:
    if needs_data(recipe):
        if data is None:
            raise ValueError(f"{name} learns from files: say where they are, with data=..., in a shell --data PATH")
        suits_a_device = device is not None and "device" in inspect.signature(recipe).parameters
        return recipe(data=data, device=device) if suits_a_device else recipe(data=data)
    if data is not None:
        raise ValueError(f"{name} makes its own data; data={data!r} has no meaning for it")
    return recipe()


def _on(run: Run[Any], name: str, data: str | None) -> Run[Any]:
    """The same on other files."""
    if data is None:
        return run
    if not isinstance(run.data.source, Files):
        raise ValueError(f"{name} makes its own data; data={data!r} has no meaning for it")
    source = replace(run.data.source, path=data, format=format_elsewhere(run.data.source, data))
    return replace(run, data=replace(run.data, source=source))


# Changes


def changed(run: Run[Any], changes: Sequence[str], *, methods: Mapping[str, Entry] = METHODS) -> Run[Any]:
    """With some fields set, each as `place=value`; places have dots, and numbers in lists; values are JSON or words."""
    stored = json.loads(json.dumps(run.to_json()))
    for change in changes:
        place, given, value = change.partition("=")
        if not given or not place:
            raise ValueError(f"expected a change like optim.lr=0.01, got {change!r}")
        _put(stored, place.split("."), _value(value))
    return Run.from_json(stored, {key: entry.config for key, entry in methods.items()})


def stretched(schedule: Schedule, epochs: int) -> Schedule:
    """The same in more epochs or fewer: the rate falls after the same share of them."""
    factor = epochs / schedule.epochs
    return replace(schedule, epochs=epochs, steps=None, milestones=tuple(m * factor for m in schedule.milestones))


def _put(stored: Json, place: Sequence[str], value: Json) -> None:
    for i, step in enumerate(place):
        where, last = ".".join(("run", *place[:i])), i + 1 == len(place)
        if isinstance(stored, list):
            if not step.isdecimal() or int(step) >= len(stored):
                raise ValueError(f"{where}: expected a number below {len(stored)}, got {step!r}")
            key: Any = int(step)
        elif isinstance(stored, dict):
            if step not in stored:
                refuse_unknown(where, "field", [step], [name for name in stored if name != "kind"])
            key = step
        else:
            raise ValueError(f"{where}: has no fields, it is {stored!r}")
        if last:
            stored[key] = value
        stored = stored[key]


def _value(text: str) -> Json:
    """JSON where it is any, else the words themselves."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
