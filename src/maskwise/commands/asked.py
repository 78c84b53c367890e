"""How commands are asked and how they answer: options from signatures, errors in one line, JSON for programs."""

import difflib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

from maskwise.data.formats import json_file

Flag: TypeAlias = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")]
"""Whoever does not give it does without; no need to say so."""

WRONG = 2
"""Exit code where the command line or what it names cannot be used."""


def answer(command: Callable[..., int], argv: list[str], name: str) -> int:
    """The exit code of a command."""
    try:
        return tyro.cli(command, args=argv, prog=f"maskwise {name}")
    except SystemExit as stop:
        if stop.code == WRONG and any(difflib.get_close_matches(word, ["--help"]) for word in argv):
            print("did you mean --help?", file=sys.stderr)  # the one option that the parser does not compare with
        raise
    except ValueError as error:
        print(f"maskwise {name}: {error}", file=sys.stderr)
        return WRONG


def print_json(value: object) -> None:
    print(json_file.text(value))


def free(folder: Path) -> Path:
    """Itself, or the first of `-2`, `-3`, ... that is not there yet. It is made at once: whoever else looks at the same
    time finds another."""
    return next(place for place in numbered(folder) if _made(place))


def give_back(folder: Path) -> None:
    """What was free, and came to nothing, is free again."""
    with suppress(OSError):
        folder.rmdir()


def latest(folder: Path) -> Path:
    """The last of them in which there is something; itself where there is none."""
    return [folder, *filter(_holds_something, takewhile(Path.exists, numbered(folder)))][-1]


def numbered(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{i}") for i in count(2))


def _made(folder: Path) -> bool:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _holds_something(folder: Path) -> bool:
    return not folder.is_dir() or any(folder.iterdir())
