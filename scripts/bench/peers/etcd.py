"""etcd: three members with default settings, the leader loaded by h2load."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import tempfile
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.keys import KEY_BYTES
from bench.measured import Cell
from bench.peers import grpc, h2load
from bench.peers.portions import observed, timed
from bench.peers.processes import finished, free_ports, running, until
from bench.peers.prometheus import samples
from kvstore.cli.launcher.ports import HOST
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.measured import Run
    from bench.peers.portions import Timing

MEMBERS: Final = 3
VALUE_BYTES: Final = 256
KEY: Final = b"k" * KEY_BYTES
HTTP_WAIT_S: Final = 5.0
LOAD_WAIT_S: Final = 120.0
METHODS: Final = {"put": "Put", "get": "Range"}
PATHS: Final = {"put": grpc.PUT_PATH, "get": grpc.RANGE_PATH}


class Etcd:
    """See :class:`bench.peers.store.Peer`."""

    name: Final = "etcd"
    note: Final = (
        "three members, default settings; h2load asks the leader, by gRPC, for one key over and "
        "over; its first and last twentieth do not count for the rate"
    )

    def missing(self) -> str | None:
        """See :class:`bench.peers.store.Peer`."""
        is_there = all(map(shutil.which, ("etcd", "h2load")))
        return None if is_there else "sudo apt-get install etcd-server nghttp2-client"

    def serves(self, cell: Cell) -> bool:
        """See :class:`bench.peers.store.Peer`."""
        return cell.operation in METHODS and cell.value_bytes == VALUE_BYTES and cell.rate is None

    @asynccontextmanager
    async def up(self) -> AsyncIterator[EtcdCluster]:
        """See :class:`bench.peers.store.Peer`."""
        with tempfile.TemporaryDirectory(prefix="bench-etcd-") as folder:
            directory, ports = Path(folder), free_ports(MEMBERS)
            clients, peers = ports[:MEMBERS], ports[MEMBERS:]
            initial = ",".join(f"{name_of(n)}={url(port)}" for n, port in enumerate(peers))
            async with AsyncExitStack() as stack:
                members = []
                for number, pair in enumerate(zip(clients, peers, strict=True)):
                    name = name_of(number)
                    member = running(name, *command(name, *pair, initial), directory=directory)
                    members.append(await stack.enter_async_context(member))
                pids = {member.name: member.pid for member in members}
                cluster = EtcdCluster(directory, tuple(clients), pids)
                await until(cluster.is_led, members)
                await cluster.fill()
                yield cluster


@dataclass(frozen=True, slots=True)
class EtcdCluster:
    """One that runs."""

    directory: Path
    ports: tuple[int, ...]
    pids: dict[str, int]

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        """See :class:`bench.peers.store.Store`."""
        return await timed(partial(self._portion, cell), cell, seconds, warm_up_s)

    async def is_led(self) -> bool:
        """Whether all members know a leader, and one is it."""
        try:
            told = [await metrics(port) for port in self.ports]
        except Unavailable:
            return False
        is_known = all(is_set(text, "etcd_server_has_leader") for text in told)
        return is_known and any(map(leads, told))

    async def fill(self) -> None:
        """Write the key. Raises as :meth:`run` does."""
        await self._portion(Cell("put", 1, 1), 2)

    async def _portion(self, cell: Cell, requests: int) -> Run:
        port = await self._leader()
        method = METHODS[cell.operation]
        before = handled(await metrics(port), method)
        run = await observed(self._load(cell, requests, port), self.pids)
        check_handled(before, handled(await metrics(port), method), requests)
        return run

    async def _load(self, cell: Cell, requests: int, port: int) -> Timing:
        body, log = self.directory / "body", self.directory / "requests.log"
        is_put = cell.operation == "put"
        value = b"v" * cell.value_bytes
        body.write_bytes(grpc.put_request(KEY, value) if is_put else grpc.range_request(KEY))
        log.unlink(missing_ok=True)
        line = h2load.command(cell, requests, url(port) + PATHS[cell.operation], body, log)
        h2load.check(await finished(*line, wait_s=LOAD_WAIT_S), requests)
        return await asyncio.to_thread(lambda: h2load.timing(log.read_text(), requests))

    async def _leader(self) -> int:
        for port in self.ports:
            if leads(await metrics(port)):
                return port
        raise Unavailable("etcd has no leader")


def command(name: str, client_port: int, peer_port: int, initial: str) -> tuple[str, ...]:
    """Of one member; its data lie beside its log."""
    return (
        *("etcd", "--name", name, "--data-dir", f"{name}.data"),
        *("--listen-client-urls", url(client_port), "--advertise-client-urls", url(client_port)),
        *("--listen-peer-urls", url(peer_port), "--initial-advertise-peer-urls", url(peer_port)),
        *("--initial-cluster", initial),
    )


async def metrics(port: int) -> str:
    """What a member says of itself.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        return await asyncio.to_thread(_fetch, f"{url(port)}/metrics")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"etcd at {HOST}:{port} does not answer: {error}") from error


def handled(text: str, method: str) -> dict[str, int]:
    """How many calls of the method have ended so far, by gRPC code."""
    return {
        sample.labels["grpc_code"]: int(sample.value)
        for sample in samples(text, "grpc_server_handled_total")
        if sample.labels["grpc_method"] == method
    }


def check_handled(before: dict[str, int], after: dict[str, int], requests: int) -> None:
    """Make sure that exactly these requests have been handled meanwhile, all of them well.

    Raises:
        KVError: it is not so.
    """
    more = {code: count - before.get(code, 0) for code, count in after.items()}
    codes = {code: count for code, count in more.items() if count}
    if codes != {"OK": requests}:
        raise KVError(f"etcd was asked {requests:,} times and counts {codes or 'nothing'}")


def leads(text: str) -> bool:
    """Whether a member says that it leads."""
    return is_set(text, "etcd_server_is_leader")


def is_set(text: str, name: str) -> bool:
    """Whether a gauge is 1."""
    return any(sample.value == 1 for sample in samples(text, name))


def name_of(number: int) -> str:
    """A member's."""
    return f"etcd{number + 1}"


def url(port: int) -> str:
    """Of a port of the loopback."""
    return f"http://{HOST}:{port}"


def _fetch(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
    with opener.open(address, timeout=HTTP_WAIT_S) as answer:
        return str(answer.read().decode())
