"""One member of a PySyncObj cluster, which also loads it: PySyncObj has no clients.

``python -m bench.peers.pysyncobj_member ADDRESS OTHER,OTHER JOURNAL`` does what it is told by
lines of JSON on stdin and answers each with one on stdout; when stdin ends, it ends. Nothing else
here needs the ``pysyncobj`` package.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Protocol

from bench.histogram import Histogram, bucket_of

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS: Final = [f"bench{number:011d}" for number in range(1000)]
SUCCESS: Final = 0
"""Of PySyncObj's reasons to fail."""
DRAIN_S_MAX: Final = 30.0
GETS_AT_ONCE: Final = 1000
"""Between two looks at the clock, which takes longer than a get."""


class Dict(Protocol):
    """What is used of its replicated dictionary."""

    def set(self, key: str, value: bytes, *, callback: Callable[[object, int], None]) -> None:
        """Replicate it, then call back with a result and a reason to fail."""
        ...

    def get(self, key: str) -> bytes | None:
        """What this member has."""
        ...

    def update(self, items: dict[str, bytes], *, sync: bool, timeout: float) -> None:
        """Replicate them, and return once that is done."""
        ...


class Puts:
    """So many at any time. Invariant: until ``ended`` is set, ``pending`` of them are under way.

    Each is begun by the callback of another, in the thread that calls back.
    """

    def __init__(self, store: Dict, in_flight: int, value: bytes, seconds: float) -> None:
        """Nothing is begun yet."""
        self._store, self._value = store, value
        self._keys = cycle(KEYS)
        self.latency = Histogram()
        self.pending = in_flight
        self.failures: set[int] = set()
        self.ended = threading.Event()
        self.began = self.last = time.perf_counter()
        self._closes = self.began + seconds

    def begin_one(self) -> None:
        """Put the next key."""
        began = time.perf_counter()

        def answered(_: object, reason: int) -> None:
            self.last = now = time.perf_counter()
            if reason == SUCCESS:
                self.latency.add(now - began)
            else:
                self.failures.add(reason)
            if now < self._closes and not self.failures:
                self.begin_one()
                return
            self.pending -= 1
            if not self.pending:
                self.ended.set()

        self._store.set(next(self._keys), self._value, callback=answered)


class Member:
    """The process."""

    def __init__(self, address: str, others: list[str], journal: str) -> None:
        """Its own thread begins to work."""
        library: Any = importlib.import_module("pysyncobj")
        batteries: Any = importlib.import_module("pysyncobj.batteries")
        self._store: Dict = batteries.ReplDict()
        configuration = library.SyncObjConf(journalFile=journal)
        self._node = library.SyncObj(address, others, configuration, consumers=[self._store])

    def status(self) -> dict[str, Any]:
        """Whether it is up to date, and whether it leads."""
        status = self._node.getStatus()
        leads = status["leader"] is not None and status["leader"] == status["self"]
        return {"is_ready": bool(self._node.isReady()), "leads": bool(leads)}

    def fill(self, value_bytes: int) -> dict[str, Any]:
        """Write all keys."""
        self._store.update(dict.fromkeys(KEYS, bytes(value_bytes)), sync=True, timeout=DRAIN_S_MAX)
        return {}

    def put(self, in_flight: int, value_bytes: int, seconds: float) -> dict[str, Any]:
        """So many puts at a time, for so long."""
        puts = Puts(self._store, in_flight, bytes(value_bytes), seconds)
        for _ in range(in_flight):
            puts.begin_one()
        if not puts.ended.wait(seconds + DRAIN_S_MAX):
            return {"failed": f"{puts.pending} puts have no answer"}
        if puts.failures:
            return {"failed": f"puts fail, for reasons {sorted(puts.failures)}"}
        return said_of(puts.latency, puts.last - puts.began)

    def get(self, in_flight: int, value_bytes: int, seconds: float) -> dict[str, Any]:
        """What this member has of one key after another: nobody else is asked."""
        assert in_flight == 1
        latency, keys, get = Histogram(), cycle(KEYS), self._store.get
        began = now = time.perf_counter()
        while now - began < seconds:
            before = now
            for _ in range(GETS_AT_ONCE):
                found = get(next(keys))
                if found is None or len(found) != value_bytes:
                    return {"failed": "a key is missing that was written"}
            now = time.perf_counter()
            latency.counts[bucket_of((now - before) / GETS_AT_ONCE)] += GETS_AT_ONCE
        return said_of(latency, now - began)


def said_of(latency: Histogram, seconds: float) -> dict[str, Any]:
    """A run, as it is told."""
    return {"operations": latency.count, "seconds": seconds, "latency": latency.to_json()}


def serve(member: Member) -> None:
    """Do what stdin says until it ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(member, asked.pop("do"))(**asked)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(Member(sys.argv[1], sys.argv[2].split(","), sys.argv[3]))
