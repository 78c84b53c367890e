"""How commands are asked and how they answer: options from signatures, errors in one line, JSON for programs."""

import json
import sys
from collections.abc import Callable
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
