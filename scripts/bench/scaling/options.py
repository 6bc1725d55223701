"""What can be asked of the measurements of scale."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.measure import NODES_DEFAULT, WARM_UP_S
from bench.options import OUT, above_0, numbers, seconds, whole
from bench.scaling import clients, keys, model, restart, snapshot, sweep
from bench.scaling.outcome import Outcome
from kvstore.config import SHARDS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT: Final = ("out", "markdown", "measure", "subject")
"""What is no part of how it is measured."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option; its value if nothing is said, and what it means."""

    value: Any
    known: Callable[[str], Any]
    help: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One measurement."""

    help: str
    measure: Callable[[argparse.Namespace], Awaitable[Outcome]]
    options: dict[str, Option]
    fixed: dict[str, Any]
    """What the measurement asks for, and nobody may say otherwise."""


def _points(value: tuple[int, ...], what: str) -> dict[str, Option]:
    return {"points": Option(value, numbers, f"{what}, separated by commas")}


def _runs(seconds_: float, runs: int) -> dict[str, Option]:
    return {
        "runs": Option(runs, whole, "of each load"),
        "seconds": Option(seconds_, seconds, "of each run"),
        "warm_up": Option(WARM_UP_S, seconds, "seconds before it"),
    }


_NODES: Final = {"nodes": Option(NODES_DEFAULT, whole, "nodes")}
_SHARDS: Final = {"shards": Option(SHARDS_DEFAULT, whole, "shards")}
_CLUSTER: Final = {**_NODES, **_SHARDS}
_KEYS: Final = {"keys": Option(None, whole, "keys in the store; as the bench has it, by default")}
_IN_FLIGHT: Final = {"in_flight": Option(None, numbers, "operations at a time (256,1024)")}
_SMALL: Final = {"value_bytes": Option(256, whole, "of each value")}
_LARGE: Final = {"value_bytes": Option(64 << 10, whole, "of each value")}

SUBJECTS: Final = {
    "shards": Subject(
        "throughput over the number of shards",
        sweep.shards,
        _points((1, 2, 4, 8, 16, 64), "shards") | _NODES | _KEYS | _IN_FLIGHT | _runs(5.0, 3),
        {"shards": SHARDS_DEFAULT},
    ),
    "nodes": Subject(
        "throughput over the number of nodes",
        sweep.nodes,
        _points((3, 5, 7), "nodes") | _SHARDS | _KEYS | _IN_FLIGHT | _runs(5.0, 3),
        {"nodes": NODES_DEFAULT},
    ),
    "values": Subject(
        "throughput over the size of values",
        sweep.values,
        _points((16, 256, 1024, 4096, 16_384, 65_536), "bytes") | _CLUSTER | _KEYS | _runs(5.0, 3),
        {},
    ),
    "keys": Subject(
        "what an operation costs with few keys and with many",
        keys.measure,
        _points((100_000, 10_000_000), "keys") | _CLUSTER | _SMALL | _runs(10.0, 3),
        {},
    ),
    "clients": Subject(
        "memory of a connection, and throughput over the number of clients",
        clients.measure,
        _points((1, 10, 100, 500, 1000, 2000), "clients") | _CLUSTER | _runs(5.0, 1),
        {},
    ),
    "restart": Subject(
        "time of a restart over the size of the log",
        restart.measure,
        _points((100, 300, 1000), "MB of log")
        | _CLUSTER
        | _LARGE
        | {"runs": Option(3, whole, "restarts with each size")},
        {},
    ),
    "snapshot": Subject(
        "how fast a large replica comes to a new node, and what it costs clients",
        snapshot.measure,
        _points((256,), "bounds of what moves, MB/s, beside the default one")
        | _LARGE
        | {
            "data_mb": Option(1000, whole, "MB in the replica"),
            "rate": Option(200.0, above_0, "operations a second meanwhile"),
            "seconds": Option(20.0, seconds, "before the move, and after it"),
        },
        {},
    ),
    "model": Subject(
        "what a model predicts, beside what the bench has measured",
        model.measure,
        {"bench": Option(OUT / "bench.json", Path, "the report of a bench")},
        {},
    ),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends the program if that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="bench.scaling", description="Measures how the store scales."
    )
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for name, subject in SUBJECTS.items():
        one = subjects.add_parser(name, help=subject.help, description=subject.help)
        for option, what in subject.options.items():
            shown = "" if what.value is None else f" ({_said(what.value)})"
            one.add_argument(
                f"--{option.replace('_', '-')}",
                type=what.known,
                default=what.value,
                metavar="N",
                help=f"{what.help}{shown}",
            )
        one.add_argument("--markdown", action="store_true", help="the table for a README")
        one.add_argument("--out", type=Path, default=OUT, help=f"directory of its JSON ({OUT})")
        one.set_defaults(measure=subject.measure, **subject.fixed)
    return parser.parse_args(arguments)


def how(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, for the file."""
    told = {name: value for name, value in vars(asked).items() if name not in KEPT}
    return {name: str(v) if isinstance(v, Path) else v for name, v in told.items()}


def _said(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
