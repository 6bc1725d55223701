"""PySyncObj: three members with journals and default settings, loaded within the leader."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from elasticity.driver import Driver

from bench.histogram import Histogram
from bench.peers.portions import Timing, between
from bench.peers.processes import free_ports, running, until
from bench.resources import is_told, look
from kvstore.cli.launcher.ports import HOST
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.measured import Cell, Run

MEMBERS: Final = 3
VALUE_BYTES: Final = 256
ONE_CONNECTION_EACH: Final = 16
"""From so many on, connections matter, which it does not have."""


class PySyncObj:
    """See :class:`bench.peers.store.Peer`."""

    name: Final = "pysyncobj"
    note: Final = (
        "three members, default settings, journals (which it never syncs to the disk); calls "
        "within the leader's process, as there is no client, so the load's time is a server's; "
        "gets are local, not linearizable"
    )

    def missing(self) -> str | None:
        """See :class:`bench.peers.store.Peer`."""
        is_there = importlib.util.find_spec("pysyncobj") is not None
        return None if is_there else ".venv/bin/pip install pysyncobj"

    def serves(self, cell: Cell) -> bool:
        """See :class:`bench.peers.store.Peer`."""
        in_flight_max = {"put": sys.maxsize, "get": 1}.get(cell.operation, 0)
        usual = cell.value_bytes == VALUE_BYTES and cell.rate is None
        return usual and cell.in_flight <= in_flight_max and cell.connections < ONE_CONNECTION_EACH

    @asynccontextmanager
    async def up(self) -> AsyncIterator[SyncObjCluster]:
        """See :class:`bench.peers.store.Peer`."""
        with tempfile.TemporaryDirectory(prefix="bench-pysyncobj-") as folder:
            addresses = [f"{HOST}:{port}" for port in free_ports(MEMBERS)[:MEMBERS]]
            async with AsyncExitStack() as stack:
                members = []
                for number, address in enumerate(addresses, start=1):
                    name = f"{self.name}{number}"
                    line = command(address, addresses, f"{name}.journal")
                    member = running(name, *line, directory=Path(folder), is_asked=True)
                    members.append(await stack.enter_async_context(member))
                cluster = SyncObjCluster({one.name: Driver(one.process) for one in members})
                await until(cluster.is_ready, members)
                await (await cluster.leader()).ask("fill", value_bytes=VALUE_BYTES)
                yield cluster


@dataclass(frozen=True, slots=True)
class SyncObjCluster:
    """One that runs."""

    members: dict[str, Driver]

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        """See :class:`bench.peers.store.Store`."""
        leader = await self.leader()
        asked = {"in_flight": cell.in_flight, "value_bytes": cell.value_bytes}
        await leader.ask(cell.operation, **asked, seconds=warm_up_s)
        pids = {name: member.pid for name, member in self.members.items()} if is_told() else {}
        before = look(pids)
        said = await leader.ask(cell.operation, **asked, seconds=seconds)
        latency = Histogram.from_json(said["latency"])
        timing = Timing(said["operations"], said["seconds"], latency)
        return between(before, look(pids), timing, load_s=0.0)

    async def is_ready(self) -> bool:
        """Whether all are up to date, and one leads."""
        try:
            statuses = [await member.ask("status") for member in self.members.values()]
        except Unavailable:
            return False
        ready = all(status["is_ready"] for status in statuses)
        return ready and any(status["leads"] for status in statuses)

    async def leader(self) -> Driver:
        """Who leads now.

        Raises:
            Unavailable: nobody does.
        """
        for member in self.members.values():
            if (await member.ask("status"))["leads"]:
                return member
        raise Unavailable("pysyncobj has no leader")


def command(address: str, addresses: list[str], journal: str) -> tuple[str, ...]:
    """Of one member; its journal lies beside its log."""
    others = ",".join(other for other in addresses if other != address)
    return (sys.executable, "-m", "bench.peers.pysyncobj_member", address, others, journal)
