"""Charts as inline SVG, drawn by hand: scales turn numbers into places, a plot draws marks between two of them.

A mark is a string. How it looks is a class of the page's style (`c0` to `c6` are colours), so that dark mode and print
need nothing here. Legend: n points.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

LEFT, TOP, RIGHT, BOTTOM = 44, 10, 10, 38
"""Room around the marks, for the axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """From `low` to `high`, with marks to read it by."""

    low: float
    high: float
    ticks: tuple[float, ...]
    label: str

    @classmethod
    def around(cls, values: Iterable[float], label: str, *, low: float | None = None) -> "Scale":
        """Holds all finite values. `low`: where it begins, whatever they are."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        start = min(known) if low is None else low
        step = _step(max(known) - start)
        first = math.floor(start / step + 1e-9)
        last = max(math.ceil(max(known) / step - 1e-9), first + 1)
        ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
        return cls(low=ticks[0], high=ticks[-1], ticks=ticks, label=label)

    @classmethod
    def until(cls, high: float, label: str) -> "Scale":
        """From 0 to exactly there, with ticks at whole numbers: time."""
        high = high if math.isfinite(high) and high > 0 else 1.0
        step = max(_step(high), 1.0)
        return cls(low=0.0, high=high, ticks=tuple(i * step for i in range(int(high / step) + 1)), label=label)


def share(label: str) -> Scale:
    """From 0 to 1."""
    return Scale(low=0.0, high=1.0, ticks=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), label=label)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, for about five ticks."""
    if span <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / 5))
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= span / 5 * 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    x: Scale
    y: Scale
    width: int = 360
    height: int = 260

    def across(self, value: float) -> float:
        inside = self.width - LEFT - RIGHT
        return LEFT + inside * (value - self.x.low) / (self.x.high - self.x.low)

    def down(self, value: float) -> float:
        inside = self.height - TOP - BOTTOM
        return TOP + inside * (self.y.high - value) / (self.y.high - self.y.low)

    def line(self, xs: Sequence[float], ys: Sequence[float], look: str, title: str = "") -> str:
        """Through the points; what is no number leaves a gap, and a lonely point is a dot."""
        if not (path := _path([(self.across(x), self.down(y)) for x, y in zip(xs, ys, strict=True)])):
            return ""
        told = f"<title>{escape(title)}</title>" if title else ""
        return f'<path class="line {look}" d="{path}">{told}</path>'

    def dots(self, xs: Sequence[float], ys: Sequence[float], look: str) -> str:
        """One path whatever their number: strokes of no length with round ends."""
        places = zip(xs, ys, strict=True)
        path = "".join(f"M{_short(self.across(x))} {_short(self.down(y))}h0" for x, y in places)
        return f'<path class="dots {look}" d="{path}"/>' if path else ""

    def bar(self, x0: float, x1: float, share_of_height: float, look: str, title: str = "") -> str:
        """Upwards from the x axis, 1 is the full height."""
        left, right = self.across(x0) + 1, self.across(x1) - 1
        height = share_of_height * (self.height - TOP - BOTTOM)
        at = f'x="{_short(left)}" y="{_short(self.height - BOTTOM - height)}"'
        size = f'width="{_short(right - left)}" height="{_short(height)}"'
        return f'<rect class="{look}" {at} {size}><title>{escape(title)}</title></rect>'

    def note(self, x: float, y_pixels: float, words: str, look: str = "note") -> str:
        return f'<text class="{look}" x="{_short(self.across(x))}" y="{_short(y_pixels)}">{escape(words)}</text>'

    def svg(self, marks: Iterable[str], description: str) -> str:
        """`description` is what somebody who cannot see the chart should know."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(description)}">'
            f"{self._axes()}{''.join(marks)}</svg>"
        )

    def _axes(self) -> str:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        parts = []
        for tick in self.y.ticks:
            y = _short(self.down(tick))
            look = "base" if tick == self.y.low else "rule"
            parts.append(f'<path class="{look}" d="M{LEFT} {y}H{right}"/>')
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{y}" dy=".35em">{plain(tick)}</text>')
        for tick in self.x.ticks:
            x = _short(self.across(tick))
            parts.append(f'<text class="mid" x="{x}" y="{bottom + 15}">{plain(tick)}</text>')
        parts.append(f'<text class="label mid" x="{(LEFT + right) / 2:g}" y="{self.height - 5}">{self.x.label}</text>')
        middle = (TOP + bottom) / 2
        turned = f'transform="rotate(-90 10 {middle:g})"'
        if self.y.label:
            parts.append(f'<text class="label mid" x="10" y="{middle:g}" {turned}>{self.y.label}</text>')
        return "".join(parts)


def plain(value: float) -> str:
    """A tick as short as it can be told."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value / 1000:g}k"


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Points on a level stretch between its ends are left out: curves of precision are mostly such."""
    parts: list[str] = []
    pen_is_down = False
    for i, (x, y) in enumerate(points):
        if not (math.isfinite(x) and math.isfinite(y)):
            pen_is_down = False
            continue
        if pen_is_down and 0 < i < len(points) - 1 and points[i - 1][1] == y == points[i + 1][1]:
            continue
        parts.append(f"{'L' if pen_is_down else 'M'}{_short(x)} {_short(y)}" + ("" if pen_is_down else "h0"))
        pen_is_down = True
    return "".join(parts)


def _short(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")
