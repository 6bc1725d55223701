"""``h2load`` of nghttp2: its command line, and what it says.

It counts HTTP statuses. An error of gRPC has status 200: who calls this must ask the server what
became of the requests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from bench.histogram import Histogram
from bench.peers.grpc import HEADERS
from bench.peers.portions import Timing
from kvstore.errors import KVError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measured import Cell

OK: Final = "200"
EDGE: Final = 0.05
"""Of the requests at either end, whose time does not count: not all connections are made yet, or
some have done their share and are idle."""
_COUNTS = re.compile(r"^requests: (\d+) total, .* (\d+) succeeded,", re.MULTILINE)


def command(cell: Cell, requests: int, url: str, body: Path, log: Path) -> tuple[str, ...]:
    """Of a load with one thread."""
    headers = (part for header in HEADERS for part in ("-H", header))
    return (
        *("h2load", "-t", "1", "-c", str(cell.connections)),
        *("-m", str(cell.in_flight // cell.connections), "-n", str(requests)),
        *(*headers, "-d", str(body), "--log-file", str(log), url),
    )


def check(said: str, requests: int) -> None:
    """Make sure that every request has had an answer.

    Raises:
        KVError: by its words not all have.
    """
    counts = _COUNTS.search(said)
    if counts is None:
        raise KVError("h2load does not say how many requests succeeded")
    total, succeeded = map(int, counts.groups())
    if not total == succeeded == requests:
        raise KVError(f"h2load: {requests - succeeded:,} of {requests:,} requests have failed")


def timing(log: str, requests: int) -> Timing:
    """Read the log: of each request its start in microseconds, its status, and how long it took.

    Raises:
        KVError: it lacks requests, or some have failed.
    """
    rows = [line.split("\t") for line in log.splitlines()]
    if len(rows) != requests or any(row[1] != OK for row in rows):
        raise KVError(f"h2load: its log does not have {requests:,} requests that succeeded")
    latency, ends_us = Histogram(), []
    for began_us, _, took_us, *_ in rows:
        latency.add(int(took_us) / 1e6)
        ends_us.append(int(began_us) + int(took_us))
    return Timing(requests, requests / rate(ends_us), latency)


def rate(ends_us: list[int]) -> float:
    """Requests a second while all connections were at work.

    Raises:
        KVError: there are too few to tell.
    """
    ends_us.sort()
    edge = int(len(ends_us) * EDGE)
    first, last = ends_us[edge], ends_us[-1 - edge]
    if last <= first:
        raise KVError("h2load: too few requests to tell how fast they are")
    return (len(ends_us) - 1 - 2 * edge) / (last - first) * 1e6
