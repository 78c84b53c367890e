"""The command line: which commands there are. Each one's own module parses its options, and is imported only then."""

import difflib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

from maskwise.version import __version__


class Command(NamedTuple):
    """Where a command lives: a module with `main(argv) -> exit code`."""

    module: str
    summary: str


COMMANDS = {
    "data": Command("maskwise.data.command", "check, count, convert and look at a data set"),
    "doctor": Command("maskwise.commands.doctor", "check this installation"),
    "eval": Command("maskwise.evaluate.command", "judge COCO results against ground truth"),
    "export-model": Command("maskwise.commands.export_model", "write a model as a folder that others can load"),
    "methods": Command("maskwise.commands.methods", "list the methods"),
    "models": Command("maskwise.commands.models", "list the models that have a name"),
    "predict": Command("maskwise.commands.predict", "find the objects in pictures, and how good each mask is"),
    "recipes": Command("maskwise.commands.recipes", "list what can be trained"),
    "report": Command("maskwise.commands.report", "write a page about a run, or about COCO results"),
    "review": Command("maskwise.commands.review", "rank masks by their predicted quality, worst first"),
    "serve": Command("maskwise.serve.command", "put a model behind HTTP, with a page for people"),
    "train": Command("maskwise.commands.train", "train a recipe"),
    "val": Command("maskwise.commands.val", "judge a model on a data set: boxes, masks and its quality"),
}

EXIT_CODES = """\
Exit codes: 0 done; 1 something is wrong with the data, or training could not go on; 2 wrong usage or unreadable input;
3 done, but some files could not be read or some steps of training were passed over; 130 interrupted;
143 stopped by a signal, to be resumed (serve: 0)."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first word names."""
    _open_outputs()
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"maskwise {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"maskwise: {unknown(name)}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return _finish(importlib.import_module(COMMANDS[name].module).main, rest)


def _open_outputs() -> None:
    """No output (`>&-`), or one that cannot write every letter, is no reason to lose what a command has done."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def usage() -> str:
    """Help without importing any command."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: maskwise COMMAND [options]",
            "",
            "Instance segmentation that knows how good its masks are.",
            "",
            *rows,
            "",
            "maskwise COMMAND --help tells more. Data goes to stdout, messages to stderr.",
            EXIT_CODES,
        ]
    )


def unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {hint}"


def _finish(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """The exit code, also where a command is stopped from outside."""
    try:
        code = command(argv)
        sys.stdout.flush()
    except SystemExit as stop:  # how the option parser ends: 0 after help, 2 after a wrong option
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"maskwise: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
