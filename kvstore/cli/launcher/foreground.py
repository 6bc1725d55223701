"""``kv cluster up --foreground``: stay with the nodes, take them along at the end."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from kvstore.cli.launcher.cluster import load
from kvstore.cli.launcher.node import stop
from kvstore.cli.launcher.process import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from kvstore.cli.launcher.cluster import Cluster

_POLL_S = 0.1


class Asked:
    """Remembers which signal asked us to stop; set even where a shell ignores SIGINT."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number)


def run_until_stopped(cluster: Cluster, *, say: Callable[[str], None]) -> signal.Signals | None:
    """Watch the nodes until a signal asks to stop (then stop them) or none is left.

    Nodes may be killed and restarted from elsewhere meanwhile; each change is said.

    Returns:
        The signal that ended it, None when all nodes had gone by themselves.
    """
    asked = Asked()
    states = _states(cluster)
    while asked.by is None and set(states.values()) != {State.DEAD}:
        time.sleep(_POLL_S)
        now = _states(cluster)
        for node_id, state in _changes(states, now):
            say(f"{node_id} is {state}")
        states = now
    if asked.by is not None:
        late = stop(load(cluster.directory).alive())  # with those that were added meanwhile
        for node in late:
            say(f"{node.id} did not stop in time: killed")
    return asked.by


def _states(cluster: Cluster) -> dict[str, State]:
    return {node.id: node.state() for node in cluster.nodes}


def _changes(before: dict[str, State], now: dict[str, State]) -> Iterator[tuple[str, State]]:
    return ((node_id, state) for node_id, state in now.items() if state != before[node_id])
