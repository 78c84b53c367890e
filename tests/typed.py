"""Types are checked while tests run, by beartype; of arrays also their shapes, by jaxtyping.

For that jaxtyping wraps each function, which takes fifty microseconds a call: most of the time of many tests. Functions
that neither take nor give arrays have no use for it, and are checked by beartype alone.
"""

import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, Literal, TypeVar, get_args, get_origin

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Before the first module is imported that is to be checked: its import hook calls `jaxtyping.jaxtyped`."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(fn: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    if fn is None:
        return lambda fn: jaxtyped(fn, typechecker=typechecker)
    if inspect.isfunction(fn) and not any(map(_may_have_arrays, fn.__annotations__.values())):
        return typechecker(fn)
    return _jaxtyped(fn, typechecker=typechecker)


def _may_have_arrays(annotation: object) -> bool:
    """Also where nobody can tell: jaxtyping does without names that are not there at run time."""
    if isinstance(annotation, str | ForwardRef | TypeVar):
        return True
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(_may_have_arrays, annotation))
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return get_origin(annotation) is not Literal and any(map(_may_have_arrays, get_args(annotation)))
