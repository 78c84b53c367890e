"""Reads pickled dicts of numpy arrays, as Detectron and Detectron2 are published, and executes nothing.

A pickle is a program for a small machine, and some of its instructions call whatever function it names. Here is that
machine with nothing to call: it knows containers, numbers, text, and a few names, which stand for what it does itself.
Any other name, and any instruction that dumps of arrays have no need of, ends the reading.
"""

import math
import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

Value: TypeAlias = object
"""Nothing, truth values, numbers, text, bytes, arrays, in lists, tuples and dicts."""

_NAMES = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy.core.multiarray scalar": "scalar",
    "numpy.core.numeric _frombuffer": "array of bytes",
    "numpy ndarray": "the type of arrays",
    "numpy dtype": "type",
    "_codecs encode": "bytes",
    "__builtin__ bytes": "bytes",
    "collections OrderedDict": "dict",
}
_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

_PUSH = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_PUSH |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_PUSH |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def read(path: Path) -> Value:
    """What was pickled: numpy's arrays and numbers, and plain containers."""
    machine = _Machine(2 * path.stat().st_size)
    try:
        with path.open("rb") as file:
            for instruction, argument, _ in pickletools.genops(file):
                machine.step(instruction.name, argument)
        (value,) = machine.stack
        return value
    except _Refused as error:
        raise ValueError(f"{path}: asks for {error}; nothing of it was executed") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole pickle of numpy arrays: {error}") from None


class _Refused(Exception):
    """What a file asks for and does not get."""


@dataclass(frozen=True, slots=True)
class _Name:
    """Of what is done here in its place."""

    means: str


@dataclass(slots=True)
class _Type:
    """Of the numbers in an array."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype:
        if self.code not in _TYPES or self.order not in ("<", ">", "=", "|"):
            raise _Refused(f"an array of type {self.order}{self.code}, and only numbers are read")
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)


@dataclass(slots=True)
class Array:
    """Numbers; a file names them first and describes them later."""

    value: np.ndarray | None = None


@dataclass(slots=True)
class _Machine:
    left: int
    """Bytes that may still become numbers: those of the file, and once more where they are written as text."""
    stack: list[Value] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Value] = field(default_factory=dict)

    def step(self, name: str, argument: Value) -> None:
        stack = self.stack
        if name in _PUSH:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        else:
            self._structure(name, argument)

    def _structure(self, name: str, argument: Value) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "POP":
                stack.pop()
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append(self._marked())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._top(int(name[-1]))))
            case "DICT":
                stack.append(_pairs(self._marked()))
            case "APPEND":
                (item,) = self._top(1)
                cast(list[Value], self._under(list)).append(item)
            case "APPENDS":
                items = self._marked()
                cast(list[Value], self._under(list)).extend(items)
            case "SETITEM":
                items = self._top(2)
                cast(dict[Value, Value], self._under(dict)).update(_pairs(items))
            case "SETITEMS":
                items = self._marked()
                cast(dict[Value, Value], self._under(dict)).update(_pairs(items))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[cast(int, argument)] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[cast(int, argument)])
            case _:
                self._describe(name, argument)

    def _describe(self, name: str, argument: Value) -> None:
        """What an ordinary reader would call a function for."""
        match name:
            case "GLOBAL":
                self.stack.append(_known(str(argument)))
            case "STACK_GLOBAL":
                module, what = self._top(2)
                if not (isinstance(module, str) and isinstance(what, str)):
                    raise _Refused(f"something called {_short(module)} and {_short(what)}")
                self.stack.append(_known(f"{module} {what}"))
            case "REDUCE":
                what, arguments = self._top(2)
                if not isinstance(what, _Name) or not isinstance(arguments, tuple):
                    raise _Refused(f"a call of {_short(what)}")
                self.stack.append(self._made(what.means, arguments))
            case "BUILD":
                (state,) = self._top(1)
                self._complete(self.stack[-1], state)
            case _:
                raise _Refused(f"the instruction {name}")

    def _made(self, means: str, arguments: tuple[Value, ...]) -> Value:
        match means, arguments:
            case "array", (_Name("the type of arrays"), _, _):
                return Array()
            case "type", (str(code), *_):
                return _Type(code)
            case "array of bytes", (data, _Type() as kind, tuple(shape), "C" | "F" as order):
                return Array(self._numbers(data, kind, shape, fortran=order == "F"))
            case "scalar", (_Type() as kind, data):
                return self._numbers(data, kind, (), fortran=False)[()]
            case "bytes", (str(text), "latin1" | "latin-1"):
                self._spend(len(text))
                return text.encode("latin-1")
            case "bytes", ():
                return b""
            case "dict", ():
                return {}
        raise _Refused(f"a {means} from {_short(arguments)}")

    def _complete(self, what: Value, state: Value) -> None:
        match what, state:
            case Array(None), (1, tuple(shape), _Type() as kind, bool() | int() as fortran, data):
                what.value = self._numbers(data, kind, shape, fortran=bool(fortran))
            case _Type(), (3 | 4, str(order), None, None, None, *_):
                what.order = order
            case dict(), dict():  # what else was pinned to a state dict
                pass
            case _:
                raise _Refused(f"a state of {_short(what)} that is {_short(state)}")

    def _numbers(self, data: Value, kind: _Type, shape: tuple[Value, ...], *, fortran: bool) -> np.ndarray:
        numbers = kind.numpy()
        content = data.encode("latin-1") if isinstance(data, str) else data  # bytes, as Python 2 wrote them
        sides = [side for side in shape if isinstance(side, int) and side >= 0]
        if not isinstance(content, bytes | bytearray):
            raise _Refused(f"numbers from {_short(content)}")
        if len(sides) != len(shape) or math.prod(sides) * numbers.itemsize != len(content):
            raise _Refused(f"an array of shape {tuple(sides)} of {kind.code} in {len(content)} bytes")
        self._spend(len(content))
        array = np.frombuffer(content, numbers).reshape(sides, order="F" if fortran else "C")
        return array.astype(numbers.newbyteorder("="))  # a copy, as the bytes cannot be written to

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _Refused("more numbers than the file has room for")

    def _top(self, count: int) -> list[Value]:
        if len(self.stack) < count:
            raise ValueError("too little on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Value]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _under(self, kind: type) -> Value:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"a change of {_short(self.stack[-1])}")
        return self.stack[-1]


def _known(name: str) -> _Name:
    """numpy 2 has put an underscore before the name of its core."""
    means = _NAMES.get(name.replace("numpy._core.", "numpy.core."))
    if means is None:
        raise _Refused(f"{name.replace(' ', '.')}, which no dump of numpy arrays needs")
    return _Name(means)


def _pairs(items: list[Value]) -> dict[Value, Value]:
    """By names and numbers only: the hash of a tuple of tuples can take for ever, or more stack than there is."""
    for key in items[::2]:
        if not isinstance(key, str | bytes | int | float | None):
            raise _Refused(f"an entry called by a {_short(key)}")
    return dict(zip(items[::2], items[1::2], strict=True))


def _short(value: Value) -> str:
    return f"{value.means}" if isinstance(value, _Name) else type(value).__name__.removeprefix("_").lower()
