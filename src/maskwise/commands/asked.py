"""How commands are asked and how they answer: options from signatures, errors in one line, JSON for programs."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import TypeAlias

import tyro

Flag: TypeAlias = tyro.conf.FlagCreatePairsOff[bool]

WRONG = 2
"""Exit code where the command line or what it names cannot be used."""


def answer(command: Callable[..., int], argv: list[str], name: str) -> int:
    """The exit code of a command."""
    try:
        return tyro.cli(command, args=argv, prog=f"maskwise {name}")
    except ValueError as error:
        print(f"maskwise {name}: {error}", file=sys.stderr)
        return WRONG


def print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def free(folder: Path) -> Path:
    """Itself, or the first of `-2`, `-3`, ... in which there is nothing: what is there is never written over."""
    return next(place for place in numbered(folder) if not taken(place))


def latest(folder: Path) -> Path:
    """The last of them in which there is something; itself where there is none."""
    return [folder, *takewhile(taken, numbered(folder))][-1]


def numbered(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{i}") for i in count(2))


def taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
