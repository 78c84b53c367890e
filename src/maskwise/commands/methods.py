"""`maskwise methods`: which methods there are; `--json` also tells the file in which each is to be read."""

import inspect
import sys
from pathlib import Path

from rich.table import Table

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.terminal import Terminal


def main(argv: list[str]) -> int:
    return answer(methods, argv, "methods")


def methods(*, json: Flag = False) -> int:
    """List the methods.

    Args:
        json: a list of objects on standard output, each with the file in which the method is to be read
    """
    from maskwise.methods import METHODS

    rows = [
        {
            "name": name,
            "title": entry.title,
            "year": entry.year,
            "venue": entry.venue,
            "family": entry.family,
            "file": str(Path(inspect.getfile(entry.config)).resolve()),
        }
        for name, entry in METHODS.items()
    ]
    if json:
        print_json(rows)
        return 0
    table = Table(box=None, header_style="bold")
    for name in ("name", "title", "year", "venue", "family"):
        table.add_column(name, no_wrap=name == "name")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("name", "title", "year", "venue", "family")))
    Terminal(width=None if sys.stdout.isatty() else 1000).print(table)  # a pipe has no width to fit into
    return 0
