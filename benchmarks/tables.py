"""Rows of numbers, shown in the terminal and put into a page of the documentation."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from maskwise.version import __version__

END = "<!-- end -->"
WIDE = 240
"""characters in a line that no terminal breaks"""

Rows = list[dict[str, str]]


def show(rows: Rows) -> None:
    """In a file as wide as they are."""
    made = Table(*rows[0])
    for row in rows:
        made.add_row(*row.values())
    console = Console()
    (console if console.is_terminal else Console(width=WIDE)).print(made)


def markdown(rows: Rows) -> str:
    lines = [" | ".join(rows[0]), "|".join("---" for _ in rows[0]), *(" | ".join(row.values()) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def put(page: Path, begin: str, text: str) -> None:
    """Between the line `begin` of the page and the next end."""
    old = page.read_text()
    if begin not in old:
        raise ValueError(f"{page}: no line {begin}")
    page.write_text(re.sub(rf"(?s)({re.escape(begin)}\n).*?(?={END})", lambda found: found[1] + text, old, count=1))


def machine(threads: int) -> dict[str, str | int]:
    """What the numbers depend on, besides the code."""
    versions = {name: version(name) for name in ("torch", "torchvision", "timm")}
    return {"maskwise": __version__, **versions, "python": platform.python_version(), "threads": threads}
