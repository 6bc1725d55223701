"""Lines over two axes as an SVG that reads well on light and on dark. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 250, 78, 56
COLOURS: Final = (
    *("#3b82f6", "#e07b00", "#16a34a", "#db2777", "#8b5cf6", "#0e9aa7", "#dc2626"),
    *("#84a100", "#8d6e63", "#64748b"),
)
"""Of middling brightness, so that they stand out from white and from black."""
DASHES: Final = ("", "7 4", "2 3")
"""When the colours have been used up."""
STYLE: Final = (
    "text{fill:#24292f}.faint{fill:#57606a}.grid{stroke:#8c959f;stroke-opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.faint{fill:#9da7b1}}"
)


class Point(NamedTuple):
    """One figure and, if it was measured several times, from where to where it went."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; its points in order."""

    name: str
    points: Sequence[Point]
    has_dots: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """Invariant: ``low < high``, and for a logarithmic one ``0 < low``."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = True

    def share(self, value: float) -> float:
        """How far along it a value lies, from 0 to 1."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def decades(values: Iterable[float]) -> tuple[float, float, list[float]]:
    """An interval that holds all of these positive values, and ticks at 1, 2 and 5 of a decade."""
    kept = list(values)
    every = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(min(kept))), math.ceil(math.log10(max(kept))) + 1)
        for factor in (1, 2, 5)
    ]
    low = max(tick for tick in every if tick <= min(kept))
    high = min((tick for tick in every if tick > max(kept)), default=2 * every[-1])
    return low, high, [tick for tick in every if low <= tick <= high]


def svg(title: str, subtitle: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """The picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="28" font-size="17" font-weight="bold">{escape(title)}</text>',
        f'<text class="faint" x="{LEFT}" y="46">{escape(subtitle)}</text>',
        *_x_axis(x),
        *_y_axis(y),
    ]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        parts += _curve(line, x, y, colour, dash)
        parts += _legend(number, line.name, colour, dash)
    return "\n".join([*parts, "</svg>\n"])


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _up(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _x_axis(axis: Axis) -> Iterator[str]:
    for value, label in axis.ticks:
        at = _across(axis, value)
        yield f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield _faint(at, HEIGHT - BOTTOM + 18, label, "middle")
    yield _faint((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, axis.title, "middle")


def _y_axis(axis: Axis) -> Iterator[str]:
    for value, label in axis.ticks:
        at = _up(axis, value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield _faint(LEFT - 8, at + 4, label, "end")
    yield _faint(LEFT, TOP - 10, axis.title, "start")


def _faint(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text class="faint" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _curve(line: Line, x: Axis, y: Axis, colour: str, dash: str) -> Iterator[str]:
    places = [(_across(x, point.x), _up(y, point.y)) for point in line.points]
    path = "L".join(f"{across:.1f} {up:.1f}" for across, up in places)
    yield (
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}" stroke-linejoin="round"><title>{escape(line.name)}</title>'
        "</path>"
    )
    if not line.has_dots:
        return
    for point, (across, up) in zip(line.points, places, strict=True):
        yield f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"/>'
        if point.low is not None and point.high is not None:
            yield (
                f'<path d="M{across:.1f} {_up(y, point.low):.1f}V{_up(y, point.high):.1f}" '
                f'stroke="{colour}" stroke-width="1.2"/>'
            )


def _legend(number: int, name: str, colour: str, dash: str) -> Iterator[str]:
    left, at = WIDTH - RIGHT + 20, TOP + 8 + 20 * number
    yield (
        f'<path d="M{left} {at}h26" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/>'
    )
    yield f'<text x="{left + 34}" y="{at + 4}">{escape(name)}</text>'
