"""Line charts and scatter charts as inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 46
NUM_COLOURS, NUM_DASHES = 8, 3
"""Colours of the style sheet, c0 to c7, and patterns of lines, dash0 to dash2."""


@dataclass(frozen=True)
class Mark:
    """A point with its spread."""

    x: float
    y: float
    spread: float | None
    name: str
    """Shown when the pointer rests on the mark."""
    colour: int
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """A curve."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: int = 0

    @property
    def style(self) -> str:
        """Classes of the style sheet: colour and dashes, so that curves differ without colours, too."""
        return f"c{self.colour % NUM_COLOURS} dash{self.colour % NUM_DASHES}"


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def at(self, value: float) -> float:
        low, high, value = (map(math.log10, (self.low, self.high, value))) if self.logarithmic else (
            self.low, self.high, value,
        )  # fmt: skip
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.logarithmic else _round_steps(self.low, self.high)


def lines(series: Sequence[Series], *, label: str, across: str, up: str, logarithmic: bool = False) -> Markup:
    """Draw curves over one another; '' without points.

    ``across`` and ``up`` name the axes, ``label`` describes the chart to a screen reader.
    """
    series = [one for one in series if one.x]
    if not series:
        return Markup("")
    horizontal = _Axis(0, math.ceil(max(max(one.x) for one in series)), _LEFT, WIDTH - _RIGHT, logarithmic=False)
    vertical = _vertical(min(min(one.y) for one in series), max(max(one.y) for one in series), logarithmic)
    drawn = list[Markup]()
    for one in series:
        points = " ".join(f"{horizontal.at(x)},{vertical.at(y)}" for x, y in zip(one.x, one.y, strict=True))
        title = Markup("<title>{}</title>").format(one.name) if one.name else Markup("")
        drawn.append(Markup('<polyline class="line {}" points="{}">{}</polyline>').format(one.style, points, title))
    each = [
        f"{one.name + ': ' * bool(one.name)}from {one.y[0]:.3g} to {one.y[-1]:.3g} over {one.x[-1]:,.0f} iterations"
        for one in series
    ]
    return _chart(f"{label}: {'; '.join(each)}.", drawn, horizontal, vertical, across, up, _plain)


def marks(
    found: Sequence[Mark], *, label: str, across: str, up: str, readable: Callable[[float], str], paths: bool = False,
    chance: float | None = None,
) -> Markup:  # fmt: skip
    """Draw points over a logarithmic horizontal axis; ``paths`` joins those of one colour. '' without points.

    ``chance`` is the accuracy of guessing, which a dashed line shows.
    """
    found = [mark for mark in found if mark.x > 0]
    if not found:
        return Markup("")
    low, high = min(mark.x for mark in found) / 1.6, max(mark.x for mark in found) * 1.6
    horizontal = _Axis(low, high, _LEFT, WIDTH - _RIGHT, logarithmic=True)
    spreads = [(mark.y, mark.spread or 0.0) for mark in found]
    least = min(y - std for y, std in spreads)
    vertical = _vertical(
        least if chance is None else min(least, chance), max(y + std for y, std in spreads), False, 100.0
    )
    drawn: list[Markup] = [] if chance is None else [_guess(chance, vertical.at(chance))]
    for colour in sorted({mark.colour for mark in found}) if paths else ():
        own = sorted((mark.x, mark.y) for mark in found if mark.colour == colour and not mark.hollow)
        points = " ".join(f"{horizontal.at(x)},{vertical.at(y)}" for x, y in own)
        drawn.append(Markup('<polyline class="line c{}" points="{}"/>').format(colour % NUM_COLOURS, points))
    for mark in found:
        drawn.append(_mark(mark, horizontal.at(mark.x), vertical))
    said = f"{label}. " + "; ".join(f"{mark.name}: {mark.y:.1f} % at {readable(mark.x)}" for mark in found)
    said += "" if chance is None else f"; guessing: {chance:.3g} %"
    return _chart(said, drawn, horizontal, vertical, across, up, readable)


def _guess(chance: float, y: float) -> Markup:
    """The line of chance."""
    return Markup('<path class="chance" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">chance, {}</text>').format(
        _LEFT, y, WIDTH - _RIGHT, WIDTH - _RIGHT - 2, y - 4, f"{chance:.3g} %"
    )


def _mark(mark: Mark, x: float, vertical: _Axis) -> Markup:
    y, kind = vertical.at(mark.y), "hollow" if mark.hollow else "solid"
    colour = mark.colour % NUM_COLOURS
    parts = [Markup('<circle class="{} c{}" cx="{}" cy="{}" r="5"/>').format(kind, colour, x, y)]
    if mark.spread:
        top, bottom = vertical.at(mark.y + mark.spread), vertical.at(mark.y - mark.spread)
        parts.insert(0, Markup('<path class="spread c{}" d="M{} {}V{}"/>').format(colour, x, top, bottom))
    spread = "" if mark.spread is None else f" ± {mark.spread:.1f}"
    title = Markup("<title>{}: {}{} %</title>").format(mark.name, f"{mark.y:.1f}", spread)
    return Markup("<g>{}{}</g>").format(title, Markup("").join(parts))


def _vertical(low: float, high: float, logarithmic: bool, most: float = math.inf) -> _Axis:
    if logarithmic:
        return _Axis(low, high, HEIGHT - _BOTTOM, _TOP, logarithmic=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    start = 0.0 if 0 <= low <= 0.6 * high else low - room
    return _Axis(max(0.0, start) if low >= 0 else start, min(most, high + room), HEIGHT - _BOTTOM, _TOP, False)


def _chart(
    said: str, drawn: Sequence[Markup], horizontal: _Axis, vertical: _Axis, across: str, up: str,
    readable: Callable[[float], str],
) -> Markup:  # fmt: skip
    ticks: list[Markup] = []
    for value in vertical.ticks():
        y = vertical.at(value)
        ticks.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, y, WIDTH - _RIGHT))
        ticks.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 4, _plain(value)))
    for value in horizontal.ticks():
        x = horizontal.at(value)
        ticks.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(x, _TOP, HEIGHT - _BOTTOM))
        text = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
        ticks.append(text.format(min(x, WIDTH - _RIGHT - 10), HEIGHT - _BOTTOM + 18, readable(value)))
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    names = Markup(
        '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="axis" x="14" y="{}" text-anchor="middle" transform="rotate(-90 14 {})">{}</text>'
    ).format((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, across, middle, middle, up)
    inside = Markup("").join([*ticks, names, *drawn])
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, escape(said), inside
    )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _round_steps(low: float, high: float) -> list[float]:
    """Return about five round numbers between low and high."""
    raw = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Return values to write at a logarithmic axis: powers of ten, with 2 and 5 times them if there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            return found[:: -(-len(found) // 6)]
    return found if len(found) > 1 else _round_steps(low, high)
