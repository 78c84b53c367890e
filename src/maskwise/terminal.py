"""Tables for people, and where they go."""

import math
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Terminal(Console):
    """Standard output; a reader that has gone is an error like any other, and not rich's exit code 1."""

    def on_broken_pipe(self) -> None:
        error = sys.exception()
        assert error is not None, "rich calls this where it has caught one"
        raise error


def plain(text: str) -> str:
    """In one line, and such that every terminal can print it: file names may hold line breaks and worse."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def grid(rows: Sequence[Mapping[str, object]]) -> Table:
    """One mapping a row; what is no number is a dash."""
    table = Table(box=None, header_style="bold")
    names = list(rows[0]) if rows else []
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "-"
    return escape(plain(str(value)))
