"""Pieces of the page: names and numbers, figures, tables, folds. Whatever comes from outside is escaped here.

A number is a `<data>` element: people read three digits, programs read all of them in its `value`.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

DASH = "–"


def name(text: object) -> str:
    """Of a class or a picture, in any script and direction."""
    return f"<bdi>{escape(str(text))}</bdi>"


def number(value: float | int, digits: int = 3) -> str:
    """What cannot be measured is a dash."""
    if isinstance(value, int):
        return f'<data value="{value}">{value:,}</data>'
    if not math.isfinite(value):
        return f'<data value="">{DASH}</data>'
    return f'<data value="{float(value)!r}">{value:.{digits}f}</data>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Looks, and what they stand for (markup)."""
    items = "".join(f'<li><i class="{look}"></i>{label}</li>' for look, label in entries)
    return f'<ul class="legend">{items}</ul>' if items else ""


def figure(title: str, content: str, *, note: str = "", key: str = "", look: str = "") -> str:
    """A chart under its title; `note` and `key` are markup."""
    small = f'<span class="soft">{note}</span>' if note else ""
    return f'<figure class="chart {look}"><figcaption><b>{escape(title)}</b>{small}</figcaption>{content}{key}</figure>'


def nothing(words: str) -> str:
    """Where there is nothing to show, and why."""
    return f'<p class="nothing">{escape(words)}</p>'


def section(anchor: str, title: str, content: str) -> str:
    heading = f'<h2 id="{anchor}-title">{escape(title)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{heading}{content}</section>'


def grid(*figures: str) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def fold(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, shown: int | None = None, look: str = ""
) -> str:
    """Cells are markup, the first of a row is its heading. Rows after the first `shown` unfold by a check box."""
    lines = [_row(row) for row in rows]
    headings = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in head)
    kept = len(lines) if shown is None or len(lines) <= shown + 3 else shown
    rest = f'<tbody class="rest">{"".join(lines[kept:])}</tbody>' if lines[kept:] else ""
    switch = f'<label class="unfold"><input type="checkbox"> Show all {len(lines)}</label>' if rest else ""
    top = f"<caption>{escape(caption)}</caption><thead><tr>{headings}</tr></thead>"
    whole = f'<table class="{look}">{top}<tbody>{"".join(lines[:kept])}</tbody>{rest}</table>'
    return f'<div class="foldable">{scrolling(caption, whole)}{switch}</div>'


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'


def scrolling(label: str, content: str) -> str:
    """Wider than a phone perhaps: scrolled by finger, wheel or arrow keys."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'
