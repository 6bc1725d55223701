"""Latency over time as an SVG, with the faults shaded: one picture of what a person would feel."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chaos.clients import Sample
    from chaos.nemesis import Event

WIDTH, HEIGHT = 1600, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 120, 50
LOW_MS, HIGH_MS = 0.3, 10_000.0
BUCKETS_MAX = 700
CURVES = (("p50", 0.5, "#2a6fdb"), ("p99", 0.99, "#e08a1e"), ("max", 1.0, "#c0392b"))


def latency_svg(
    samples: Sequence[Sample], events: Iterable[Event], began: float, ended: float
) -> str:
    """The picture; times are of the clock of ``samples``."""
    span = max(ended - began, 1.0)
    bucket_s = max(0.25, span / BUCKETS_MAX)

    def x(at: float) -> float:
        return LEFT + (at - began) / span * (WIDTH - LEFT - RIGHT)

    rows = _buckets(samples, began, bucket_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="16">Latency of acknowledged operations, '
        f"every {bucket_s:.2g} s; faults shaded</text>",
    ]
    parts += _faults(events, x)
    parts += _axes(began, ended, x)
    for number, (name, share, colour) in enumerate(CURVES):
        points = [
            f"{x(began + (index + 0.5) * bucket_s):.1f},{_y(_percentile(values, share)):.1f}"
            for index, values in sorted(rows.items())
        ]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" '
            f'points="{" ".join(points)}"/>'
        )
        at = WIDTH - RIGHT - 150 + 50 * number
        parts.append(f'<text x="{at}" y="20" fill="{colour}" font-weight="bold">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _buckets(samples: Iterable[Sample], began: float, bucket_s: float) -> dict[int, list[float]]:
    """Milliseconds by bucket, sorted."""
    rows: dict[int, list[float]] = {}
    for sample in samples:
        if sample.is_ok and sample.at >= began:
            rows.setdefault(int((sample.at - began) / bucket_s), []).append(sample.seconds * 1000)
    for values in rows.values():
        values.sort()
    return rows


def _percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _y(ms: float) -> float:
    ms = min(max(ms, LOW_MS), HIGH_MS)
    part = math.log(ms / LOW_MS) / math.log(HIGH_MS / LOW_MS)
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def _faults(events: Iterable[Event], x: Callable[[float], float]) -> list[str]:
    parts = []
    for event in events:
        start, end = x(event.began), max(x(event.ended), x(event.began) + 1)
        parts.append(
            f'<rect x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}" fill="{"#888" if event.bit else "#ddd"}" '
            'fill-opacity="0.18"/>'
            f'<text transform="translate({start + 4:.1f},{TOP - 4}) rotate(-60)" '
            f'font-size="9" fill="#444">{escape(event.name)}</text>'
        )
    return parts


def _axes(began: float, ended: float, x: Callable[[float], float]) -> list[str]:
    parts = []
    for ms in (1, 10, 100, 1000, 10_000):
        label = f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(ms):.1f}" y2="{_y(ms):.1f}" '
            'stroke="#ccc" stroke-width="0.6"/>'
            f'<text x="{LEFT - 8}" y="{_y(ms) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    step = next(s for s in (5, 10, 30, 60, 120, 300, 600, 3600) if (ended - began) / s <= 16)
    for number in range(int((ended - began) / step) + 1):
        at = x(began + number * step)
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{number * step} s</text>"
        )
    return parts
