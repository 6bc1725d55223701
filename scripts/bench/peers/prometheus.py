"""Reads the text that servers show under ``/metrics`` (Prometheus, "Exposition formats")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric."""

    labels: dict[str, str]
    value: float


def samples(text: str, name: str) -> Iterator[Sample]:
    """All values of the metric of this name."""
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found is not None and found["name"] == name:
            yield Sample(dict(_LABEL.findall(found["labels"] or "")), float(found["value"]))
