"""`maskwise models`: which models can be asked for by name."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.models.download import Remote
from maskwise.models.published import PUBLISHED
from maskwise.terminal import Terminal

if TYPE_CHECKING:
    from maskwise.models.published import Published


def main(argv: list[str]) -> int:
    return answer(models, argv, "models")


def models(*, json: Flag = False) -> int:
    """List the published models.

    Args:
        json: a list of objects on standard output
    """
    rows = [_row(name, model) for name, model in PUBLISHED.items()]
    if json:
        print_json(rows)
        return 0
    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    for name in ("MB", "licence", "where", "what it finds"):
        table.add_column(name, justify="right" if name == "MB" else "left")
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        where = row["where"] if row["is_here"] else Text(f"{row['where']}, missing", "red")
        table.add_row(row["name"], size, row["licence"], where, Text(row["title"]))
    Terminal(width=None if sys.stdout.isatty() else 1000).print(table)  # a pipe has no width to fit into
    return 0


def _row(name: str, model: "Published") -> dict:
    if isinstance(model.at, Remote):
        where, size = model.at.url, model.at.bytes
    else:
        where, size = "in the package", _bytes(model.at)
    return {
        "name": name,
        "title": model.title,
        "licence": model.licence,
        "where": where,
        "bytes": size,
        "is_here": model.is_here,
    }


def _bytes(folder: Path) -> int | None:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else None
