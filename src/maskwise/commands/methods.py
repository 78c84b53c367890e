"""`maskwise methods`: which methods there are, and in which file each is to be read."""

import inspect
from pathlib import Path

from rich.table import Table

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.terminal import Terminal


def main(argv: list[str]) -> int:
    return answer(methods, argv, "methods")


def methods(*, json: Flag = False) -> int:
    """List the methods.

    Args:
        json: a list of objects on standard output
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
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("name", "title", "year", "venue", "family")))
    Terminal().print(table)
    return 0
