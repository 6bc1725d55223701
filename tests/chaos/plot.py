"""Latency over time as an SVG, with the faults below: one picture of what a person would feel.

Above, three curves on a logarithmic scale; where nothing was acknowledged they are broken.
Below, a row for each kind of fault, with a bar for each time that it came, which also shades
the curves above it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from chaos.history import Sample
    from chaos.nemesis import Event

WIDTH, LEFT, RIGHT = 1600, 160, 24
TOP, CURVES_HEIGHT = 64, 380
ROW, ROWS_GAP, BOTTOM = 16, 34, 12
LOW_MS, HIGH_MS = 1.0, 10_000.0
BUCKET_S_MIN, BUCKETS_MAX = 0.25, 720
CURVES = (("p50", 0.5, "#1f6feb"), ("p99", 0.99, "#d98200"), ("max", 1.0, "#b3261e"))
COLOURS = ("#7b3fa0", "#b3261e", "#00796b", "#5d4037", "#c2185b", "#33691e", "#0d47a1", "#e65100")
INK, FAINT, GRID = "#1b1f24", "#6e7781", "#d8dee4"


class _Frame(NamedTuple):
    """Where in the picture a moment stands."""

    began: float
    ended: float

    def x(self, at: float) -> float:
        share = (min(max(at, self.began), self.ended) - self.began) / (self.ended - self.began)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def latency_svg(
    samples: Iterable[Sample], events: Sequence[Event], began: float, ended: float
) -> str:
    """The picture; times are of the clock of ``samples``."""
    frame = _Frame(began, max(ended, began + 1.0))
    bucket_s = max(BUCKET_S_MIN, (frame.ended - began) / BUCKETS_MAX)
    rows = sorted({event.name for event in events})
    height = TOP + CURVES_HEIGHT + ROWS_GAP + ROW * len(rows) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 24, "Latency of acknowledged operations", size=17, weight="bold"),
        _text(
            LEFT,
            44,
            f"in steps of {bucket_s:.2g} s; below, the faults, pale where one did not bite",
            fill=FAINT,
        ),
        *_legend(),
        *_shades(events, frame),
        *_grid(frame),
        *_curves(samples, frame, bucket_s),
        *_rows(rows, events, frame),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: int = 12,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" '
        f'font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
    )


def _legend() -> Iterator[str]:
    for number, (name, _, colour) in enumerate(CURVES):
        x = WIDTH - RIGHT - 70 * (len(CURVES) - number)
        yield f'<rect x="{x}" y="16" width="18" height="4" fill="{colour}"/>'
        yield _text(x + 24, 23, name)


def _y(ms: float) -> float:
    ms = min(max(ms, LOW_MS), HIGH_MS)
    return TOP + CURVES_HEIGHT * (1 - math.log(ms / LOW_MS) / math.log(HIGH_MS / LOW_MS))


def _shades(events: Iterable[Event], frame: _Frame) -> Iterator[str]:
    for event in events:
        x, width = frame.x(event.began), frame.x(event.ended) - frame.x(event.began)
        yield (
            f'<rect x="{x:.1f}" y="{TOP}" width="{max(width, 1):.1f}" height="{CURVES_HEIGHT}" '
            f'fill="{FAINT}" fill-opacity="0.13"/>'
        )


def _grid(frame: _Frame) -> Iterator[str]:
    for ms in (1, 10, 100, 1000, 10_000):
        y = _y(ms)
        yield (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{GRID}" stroke-width="1"/>'
        )
        label = f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"
        yield _text(LEFT - 10, y + 4, label, anchor="end", fill=FAINT)
    span = frame.ended - frame.began
    steps = (5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
    step = next((step for step in steps if span / step <= 16), 24 * 3600)
    for at in range(0, int(span) + 1, step):
        label = f"{at} s" if span <= 300 else f"{at // 60}:{at % 60:02}"
        x = frame.x(frame.began + at)
        yield _text(x, TOP + CURVES_HEIGHT + 18, label, anchor="middle", fill=FAINT)


def _curves(samples: Iterable[Sample], frame: _Frame, bucket_s: float) -> Iterator[str]:
    buckets: defaultdict[int, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.is_ok and frame.began <= sample.at <= frame.ended:
            buckets[int((sample.at - frame.began) / bucket_s)].append(1000 * sample.seconds)
    for values in buckets.values():
        values.sort()
    for _, share, colour in reversed(CURVES):
        path = []
        for number, values in sorted(buckets.items()):
            x = frame.x(frame.began + (number + 0.5) * bucket_s)
            y = _y(values[min(len(values) - 1, int(share * len(values)))])
            path.append(f"{'L' if number - 1 in buckets else 'M'}{x:.1f} {y:.1f}")
        yield (
            f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="1.4" '
            'stroke-linecap="round" stroke-linejoin="round"/>'
        )


def _rows(names: Sequence[str], events: Iterable[Event], frame: _Frame) -> Iterator[str]:
    top = TOP + CURVES_HEIGHT + ROWS_GAP
    for number, name in enumerate(names):
        y = top + ROW * number
        if number % 2 == 0:
            yield (
                f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{ROW}" '
                'fill="#f6f8fa"/>'
            )
        yield _text(LEFT - 10, y + ROW - 4, name, anchor="end", fill=COLOURS[number % len(COLOURS)])
    for event in events:
        number = names.index(event.name)
        x, width = frame.x(event.began), frame.x(event.ended) - frame.x(event.began)
        title = f"{event.name}: {event.what}{'' if event.counts else ' (did not count)'}"
        yield (
            f'<rect x="{x:.1f}" y="{top + ROW * number + 3}" width="{max(width, 2):.1f}" '
            f'height="{ROW - 6}" rx="2" fill="{COLOURS[number % len(COLOURS)]}" '
            f'fill-opacity="{0.9 if event.counts else 0.25}"><title>{escape(title)}</title></rect>'
        )
