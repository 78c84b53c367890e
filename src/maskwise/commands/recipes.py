"""`maskwise recipes`: which recipes there are."""

import sys

from rich.table import Table
from rich.text import Text

from maskwise.commands.asked import Flag, answer, print_json
from maskwise.terminal import Terminal


def main(argv: list[str]) -> int:
    return answer(recipes, argv, "recipes")


def recipes(*, json: Flag = False) -> int:
    """List the recipes of `maskwise train`.

    Args:
        json: a list of objects on standard output
    """
    from maskwise.recipes.chosen import needs_data, summary
    from maskwise.recipes.table import RECIPES

    rows = [
        {"name": name, "summary": summary(recipe), "needs_data": needs_data(recipe)} for name, recipe in RECIPES.items()
    ]
    if json:
        print_json(rows)
        return 0
    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("data")
    table.add_column("what it trains")
    for row in rows:
        table.add_row(str(row["name"]), "--data PATH" if row["needs_data"] else "made", Text(str(row["summary"])))
    Terminal(width=None if sys.stdout.isatty() else 1000).print(table)  # a pipe has no width to fit into
    return 0
