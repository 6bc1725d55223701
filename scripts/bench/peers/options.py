"""What can be asked of the comparison, and which stores that takes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.peers.etcd import Etcd
from bench.peers.ours import Ours
from bench.peers.redis import OneRedis
from bench.peers.sync_obj import PySyncObj
from kvstore.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.peers.store import Peer

OTHERS: Final[tuple[Peer, ...]] = (Etcd(), OneRedis(), PySyncObj())
OUT: Final = Path("bench-results")
SECONDS_MAX: Final = 50.0
"""Of a run: no load is waited for for ever."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends the program if that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="bench.peers", description="Compares the store with others, under the same loads."
    )
    names = [peer.name for peer in OTHERS]
    parser.add_argument(
        "--only", action="append", choices=names, help="compare with this one; may be repeated"
    )
    parser.add_argument("--rounds", type=int, choices=range(1, 100), default=3, metavar="N")
    parser.add_argument("--seconds", type=_seconds, default=5.0, help="of each run")
    parser.add_argument("--warm-up", type=_seconds, default=1.0, help="seconds before it")
    parser.add_argument("--markdown", action="store_true", help="the tables for a README")
    parser.add_argument("--out", type=Path, default=OUT, help=f"directory of peers.json ({OUT})")
    return parser.parse_args(arguments)


def chosen(
    only: Sequence[str] | None, others: Sequence[Peer], tell: Callable[[str], None]
) -> list[Peer]:
    """Ours first, and those to compare it with; says how to install what is left out.

    Raises:
        StartupError: one is missing that was asked for by name, or all are.
    """
    missing = {peer.name: line for peer in others if (line := peer.missing()) is not None}
    if asked_for := [name for name in only or () if name in missing]:
        lines = (f"{name} is missing, install it: {missing[name]}" for name in asked_for)
        raise StartupError("; ".join(lines))
    wanted = [peer for peer in others if only is None or peer.name in only]
    there = [peer for peer in wanted if peer.name not in missing]
    for peer in wanted:
        if peer.name in missing:
            tell(f"{peer.name} is left out; to install it: {missing[peer.name]}")
    if not there:
        raise StartupError("there is no store to compare with")
    return [Ours(), *there]


def _seconds(said: str) -> float:
    number = float(said)
    if not (0 < number <= SECONDS_MAX and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{said} is not between 0 and {SECONDS_MAX:g}")
    return number
