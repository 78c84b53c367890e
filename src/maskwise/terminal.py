"""Where tables for people go."""

import sys

from rich.console import Console


class Terminal(Console):
    """Standard output; a reader that has gone is an error like any other, and not rich's exit code 1."""

    def on_broken_pipe(self) -> None:
        error = sys.exception()
        assert error is not None, "rich calls this where it has caught one"
        raise error
