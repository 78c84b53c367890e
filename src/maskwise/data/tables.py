"""Problems, statistics and losses as text for people."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from maskwise.data.dataset import Problem, Severity
from maskwise.data.stats import ClassStats, Spread, Stats
from maskwise.terminal import plain

STYLES: Mapping[Severity, str] = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
BAR = 24
MANY = 20
"""Classes that are shown unless all are asked for."""


def plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun.removesuffix('y') + 'ies' if noun.endswith('y') else noun + 's'}"


def counted(problems: Sequence[Problem]) -> dict[Severity, int]:
    found = Counter(problem.severity for problem in problems)
    return {severity: found[severity] for severity in STYLES}


def show_problems(console: Console, problems: Sequence[Problem], *, most: int) -> None:
    """Grouped by rule, the worst first; at most so many of each."""
    groups: dict[tuple[int, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[list(STYLES).index(problem.severity), problem.rule].append(problem)
    for (rank, rule), several in sorted(groups.items(), key=lambda group: group[0]):
        severity = list(STYLES)[rank]
        head = Text.assemble((severity, STYLES[severity]), " ", (rule, "bold"), (f"  {len(several):,}", "dim"))
        console.print(head)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(overflow="fold", max_width=52, style="cyan")
        table.add_column(overflow="fold")
        for problem in several[:most]:
            table.add_row(Text(plain(problem.place)), Text(plain(problem.message)))
        console.print(Padding(table, (0, 0, 0, 2)))
        if len(several) > most:
            console.print(Text(f"  … and {len(several) - most:,} more", "dim"))
        console.print()


def verdict(problems: Sequence[Problem], pictures: int, *, pixels: bool) -> Text:
    """One line: what was found, or that all is well; and where the pixels of pictures were not looked at, that."""
    depth = "" if pixels or not pictures else "; only their headers were read, --pixels decodes them"
    if not problems:
        return Text.assemble(("✓ ", "bold green"), f"nothing is wrong with {plural(pictures, 'picture')}{depth}")
    counts = counted(problems)
    parts = [(plural(count, severity), STYLES[severity]) for severity, count in counts.items() if count]
    mark = ("✗ ", "bold red") if counts["error"] else ("✓ ", "bold green")
    text = Text.assemble(mark)
    for i, part in enumerate(parts):
        text.append(", " if i else "").append(*part)
    return text.append(f" in {plural(pictures, 'picture')}{depth}")


def stats_tables(splits: Sequence[Stats], *, width: int, most: int = MANY) -> RenderableType:
    """Splits side by side; then the classes, with a bar each where the width allows it."""
    table = _table("", *(one.split or "all" for one in splits))
    for name, values in _rows(splits):
        table.add_row(name, *values)
    return Group(table, "", _classes(splits, most, width))


def losses_table(losses: Mapping[str, int]) -> Table:
    table = _table("lost", "")
    for what, count in sorted(losses.items(), key=lambda loss: -loss[1]):
        table.add_row(what, f"{count:,}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, style="cyan", no_wrap=True)
    for name in others:
        table.add_column(Text(plain(name)), justify="right", no_wrap=True, min_width=max(6, len(plain(name))))
    return table


def _rows(splits: Sequence[Stats]) -> list[tuple[str, list[str]]]:
    rows = {
        "pictures": [f"{one.pictures:,}" for one in splits],
        "  that cannot be read": [_unless_none(one.unreadable) for one in splits],
        "  without instances": [_unless_none(one.empty) for one in splits],
        "  width": [_spread(one.widths) for one in splits],
        "  height": [_spread(one.heights) for one in splits],
        "instances": [f"{one.instances:,}" for one in splits],
        "  a picture": [_spread(one.per_picture) for one in splits],
        "  pixels": [_spread(one.areas) for one in splits],
        "  small, < 32²": [_share(one.small, one.instances) for one in splits],
        "  medium": [_share(one.medium, one.instances) for one in splits],
        "  large, ≥ 96²": [_share(one.large, one.instances) for one in splits],
        "  with holes": [_share(one.with_holes, one.instances) for one in splits],
        "  in several parts": [_share(one.in_parts, one.instances) for one in splits],
        "crowds": [_unless_none(one.crowd) for one in splits],
        "pixels labelled": [f"{one.covered:.1%}" for one in splits],
        "  more than once": [f"{one.overlap:.1%}" if one.overlap else "–" for one in splits],
    }
    return [(name, values) for name, values in rows.items() if set(values) != {"–"}]


def _classes(splits: Sequence[Stats], most: int, width: int) -> RenderableType:
    by_name: dict[str, list[ClassStats | None]] = {
        row.name: [None for _ in splits] for one in splits for row in one.classes
    }
    for place, one in enumerate(splits):
        for row in one.classes:
            by_name[row.name][place] = row
    total = {name: sum(row.instances for row in rows if row) for name, rows in by_name.items()}
    order = sorted(by_name, key=lambda name: -total[name])
    headings = [*(one.split or "instances" for one in splits), "pictures", "small", "medium", "large"]
    table = _table("class", *headings)
    taken = (
        max((len(plain(name)) for name in order[:most]), default=0)
        + sum(max(6, len(plain(heading))) + 2 for heading in headings)
        + 2
    )
    bar = min(BAR, width - taken)
    for name in order[:most]:
        rows = [row for row in by_name[name] if row]
        table.add_row(
            Text(plain(name)),
            *(f"{row.instances:,}" if row else "–" for row in by_name[name]),
            f"{sum(row.pictures for row in rows):,}",
            *(_percent(sum(getattr(row, size) for row in rows), total[name]) for size in ("small", "medium", "large")),
            *([_bar(total[name] / max(1, *total.values()), bar)] if bar >= 4 else []),
        )
    if len(order) > most:
        rest = sum(total[name] for name in order[most:])
        return Group(table, Text(f"… and {len(order) - most} more classes with {rest:,} instances", "dim"))
    return table


def _bar(share: float, width: int) -> Text:
    eighths = max(round(share * width * 8), 1 if share else 0)
    return Text("█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else ""), "blue")


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.min == spread.max:
        return f"{spread.min:,.0f}"
    return f"{spread.min:,.0f} … {spread.median:,.0f} … {spread.max:,.0f}"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({_percent(count, total)})" if count else "–"


def _percent(count: int, total: int) -> str:
    return f"{count / total:.0%}" if count else "–"


def _unless_none(count: int) -> str:
    return f"{count:,}" if count else "–"
