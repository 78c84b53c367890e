"""Frozen data classes as JSON and back, by their annotations: what is unknown, missing or of another type is refused.

Where a field may be one of several classes, `kind` in the JSON says which. A field that is left out has its default.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

Json: TypeAlias = Any


def to_json(value: object) -> Json:
    """All fields, defaults included."""
    if is_dataclass(value) and not isinstance(value, type):
        stored = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__, **stored} if "kind" not in stored else stored
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, PurePath):
        return value.as_posix()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a run cannot hold {type(value).__name__}: {value!r}")


def from_json(kind: Any, stored: Json, where: str, instead: Mapping[str, type] | None = None) -> Any:
    """The value of type `kind`; `instead` gives types of fields that the annotation leaves open."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(inner, stored, where)
    if origin is Literal:
        return _choice(inner, stored, where)
    if origin is tuple:
        return _tuple(inner, stored, where)
    if is_dataclass(kind):
        return _dataclass(kind, stored, where, instead or {})
    return _plain(kind, stored, where)


def refuse_unknown(where: str, what: str, found: Sequence[str], known: Sequence[str]) -> None:
    """With what was probably meant."""
    near = [close[0] for name in found if (close := difflib.get_close_matches(name, known, n=1))]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"{where}: unknown {what} {', '.join(found)}; {hint}")


def _dataclass(kind: Any, stored: Json, where: str, instead: Mapping[str, type]) -> Any:
    if not isinstance(stored, dict):
        raise ValueError(f"{where}: expected the fields of {kind.__name__}, got {stored!r}")
    given = {k: v for k, v in stored.items() if k != "kind"} if "kind" not in _names(kind) else stored
    if unknown := sorted(set(given) - set(_names(kind))):
        refuse_unknown(where, "field", unknown, _names(kind))
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    annotations = {**get_type_hints(kind), **instead}
    return kind(**{k: from_json(annotations[k], v, f"{where}.{k}") for k, v in given.items()})


def _names(kind: Any) -> list[str]:
    return [f.name for f in fields(kind)]


def _one_of(choices: tuple[Any, ...], stored: Json, where: str) -> Any:
    if stored is None and type(None) in choices:
        return None
    if any(get_origin(c) is Literal and stored in get_args(c) for c in choices):  # a path could be called so too
        return stored
    classes = {c.__name__: c for c in choices if is_dataclass(c)}
    if not classes:
        errors = []
        for choice in choices:
            try:
                return from_json(choice, stored, where)
            except ValueError as error:
                errors.append(error)
        raise errors[0]
    if isinstance(stored, dict) and len(classes) == 1:
        return from_json(next(iter(classes.values())), stored, where)
    if not isinstance(stored, dict) or stored.get("kind") not in classes:
        found = stored.get("kind") if isinstance(stored, dict) else stored
        refuse_unknown(where, "kind", [str(found)], list(classes))
    return from_json(classes[stored["kind"]], stored, where)


def _choice(choices: tuple[Any, ...], stored: Json, where: str) -> Any:
    """2020 on a command line is a number, and may mean the choice "2020"."""
    if stored in choices:
        return stored
    spelled_so = [choice for choice in choices if str(choice) == str(stored)]
    if len(spelled_so) != 1:
        refuse_unknown(where, "value", [str(stored)], [str(choice) for choice in choices])
    return spelled_so[0]


def _tuple(inner: tuple[Any, ...], stored: Json, where: str) -> tuple[Any, ...]:
    open_ended = len(inner) == 2 and inner[1] is ...
    if not isinstance(stored, list) or not (open_ended or len(stored) == len(inner)):
        raise ValueError(f"{where}: expected a list{'' if open_ended else f' of {len(inner)}'}, got {stored!r}")
    kinds = [inner[0]] * len(stored) if open_ended else inner
    return tuple(from_json(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, stored, strict=True)))


def _plain(kind: Any, stored: Json, where: str) -> Any:
    if kind is float and type(stored) is int:
        return float(stored)
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(stored, str):
        return kind(stored)
    if kind is Any or type(stored) is kind or (kind is type(None) and stored is None):
        return stored
    raise ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {stored!r}")
