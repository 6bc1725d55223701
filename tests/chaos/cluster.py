"""Five processes, their files and proxies, and what may be done to each."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.proxy import Link
from chaos.retries import Retries
from chaos.shim import NoCompiler, Shim, build
from kvstore.cli.launcher.ports import free_base_port, ports_of
from kvstore.cli.survey import survey_cluster
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kvstore.cli.survey import Survey

SHARDS = 8
REPLICAS = 3
CLIENTS = "clients"
SMALL_DISK_MIB = 160
WAIT_S = 30.0
STOP_WAIT_S = 10.0

_SETTINGS = """
[wal]
segment_bytes = 1_048_576
live_bytes_max = 3_145_728
reserve_bytes = 262_144

[raft]
log_bytes_max = 65_536

[limits]
disk_free_bytes_min = 33_554_432
"""
"""Small, so that segments, flushes, compaction and snapshots all take part within minutes."""


def free_ports(count: int, rng: random.Random) -> list[int]:
    """Neighbouring ports that nobody uses, none that the kernel would give away meanwhile."""
    base = free_base_port(count, rng)
    return ports_of(base, count)[:count]


class DidNotStart(Exception):
    """There is no cluster to be hurt."""


async def wait_for(condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> float:
    """Ask until ``condition`` holds; the result is how long that took.

    Raises:
        AssertionError: not within ``seconds``: ``what`` did not come true.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def comes_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether ``condition`` holds within ``seconds``."""
    try:
        await wait_for(condition, "", seconds)
    except AssertionError:
        return False
    return True


@dataclass(eq=False)
class Node:
    """One process and its directory."""

    id: NodeId
    port: int
    directory: Path
    shim: Shim | None
    process: subprocess.Popen[bytes] | None = None
    is_death_expected: bool = False
    """Whether the process that was started last was killed, or made to fail, by us."""
    exit_codes: list[int] = field(default_factory=list)
    """Of processes that have been replaced by another."""
    complaints: list[str] = field(default_factory=list)
    """About processes that ended by themselves, or did not although they had to."""
    mounted: bool = False
    """Whether its data has a small disk of its own."""

    @property
    def can_be_full(self) -> bool:
        """Whether its disk can be filled, really or by the shim, without harm to others."""
        return self.mounted or self.shim is not None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start a new process on what the last one left."""
        assert not self.is_up
        if self.process is not None:
            self.exit_codes.append(self.process.returncode)
        if (complaint := self.unexpected_end()) is not None:
            self.complaints.append(complaint)
        self.is_death_expected = False
        environment = dict(os.environ)
        if self.shim is not None:
            environment |= self.shim.environment()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kvstore.cli", "node", "start", "--config", "node.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
            )

    def kill(self) -> bool:
        """``kill -9``; whether there was anybody to kill."""
        if not self.is_up:
            return False
        assert self.process is not None
        self.is_death_expected = True
        self.process.kill()
        return True

    def has_died_of_it(self) -> bool:
        """After ``kill``; blocks until the process is gone."""
        assert self.process is not None
        return self.process.wait(STOP_WAIT_S) == -signal.SIGKILL

    def unexpected_end(self) -> str | None:
        """What to say of a process that has ended by itself."""
        if self.process is None or self.is_up or self.is_death_expected:
            return None
        lines = self.log_text().splitlines()
        last = lines[-1] if lines else "nothing in its log"
        return f"{self.id} ended by itself with exit code {self.process.returncode}: {last}"

    def log_text(self) -> str:
        """All that it has written, over all its starts."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that does not help. Blocks."""
        if self.process is None or not self.is_up:
            return
        self.is_death_expected = True
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def set_fault(self, text: str) -> None:
        """Of its disk; see ``shim.c``."""
        assert self.shim is not None, "faults that need the shim are not tried without"
        self.shim.set_fault(text)

    def clear_fault(self) -> bool:
        """Whether there was a fault of its disk that had not happened yet."""
        return self.shim is not None and self.shim.clear_fault()

    def slowed_syncs(self) -> int:
        """How many of its syncs have been delayed, ever."""
        return 0 if self.shim is None else self.shim.slowed_syncs()

    def has_files_open(self) -> bool:
        """Whether the process has got as far as its data."""
        if self.process is None:
            return False
        data = f"{self.data_dir.resolve()}/"
        with suppress(OSError):  # it has died, or closed a file meanwhile
            fds = Path(f"/proc/{self.process.pid}/fd").iterdir()
            return any(str(fd.readlink()).startswith(data) for fd in fds)
        return False

    def pause(self) -> None:
        """SIGSTOP."""
        if self.is_up and self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.is_up and self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def is_paused(self) -> bool:
        """Whether the kernel says that it stands still."""
        if not self.is_up or self.process is None:
            return False
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        return stat.rpartition(")")[2].split()[0] == "T"


class Cluster:
    """All nodes and all links between them and from the clients."""

    def __init__(self, directory: Path, size: int, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.notes: list[str] = []
        """What this machine does not allow, said loudly in the report."""
        directory.mkdir(parents=True, exist_ok=True)
        library = self._build_shim()
        # Which ports are free is not the seed's to decide.
        ports = iter(free_ports(size + size * size, random.SystemRandom()))
        self.nodes = [
            self._make_node(NodeId(f"n{number}"), next(ports), library)
            for number in range(1, size + 1)
        ]
        self.retries = Retries()
        names = [node.id for node in self.nodes]
        self.links = {
            (source, node.id): Link(source, node.id, node.port, next(ports), rng, self.retries)
            for source in (*names, CLIENTS)
            for node in self.nodes
            if source != node.id
        }
        self.config = ClusterConfig(
            "chaos",
            tuple(NodeAddress(node.id, f"127.0.0.1:{node.port}") for node in self.nodes),
            shards=SHARDS,
            replicas=REPLICAS,
        )

    def _build_shim(self) -> Path | None:
        try:
            return build(self.directory)
        except NoCompiler as missing:
            self.notes.append(f"NOT TRIED: unsynced writes lost, failed sync, slow disk: {missing}")
            return None

    def _make_node(self, name: NodeId, port: int, library: Path | None) -> Node:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        shim = None
        if library is not None:
            data = directory / "data"
            shim = Shim(library, data, directory / "journal", directory / "control")
        return Node(name, port, directory, shim)

    @property
    def endpoints(self) -> str:
        """Where clients begin: their own proxies."""
        return ",".join(f"127.0.0.1:{self.links[CLIENTS, node.id].port}" for node in self.nodes)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.id == name)

    async def open(self) -> None:
        """Open the proxies, then start everybody and wait until every shard has a leader.

        Raises:
            DidNotStart: says what is missing, and who ended.
        """
        for link in self.links.values():
            link.open()
        self._mount_small_disk(self.nodes[-1])
        for node in self.nodes:
            (node.directory / "node.toml").write_text(self._settings(node), encoding="utf-8")
            node.start()
        try:
            await wait_for(self.is_led, "every shard has a leader", WAIT_S)
        except AssertionError as error:
            raise DidNotStart("; ".join([str(error), *self.unexpected_ends()])) from None

    def unexpected_ends(self) -> list[str]:
        """What to say of processes that ended without our doing, since the beginning."""
        said = [complaint for node in self.nodes for complaint in node.complaints]
        return said + [end for node in self.nodes if (end := node.unexpected_end()) is not None]

    def _settings(self, node: Node) -> str:
        lines = [
            f'[node]\nid = "{node.id}"\ndata_dir = "data"\n',
            f'[cluster]\nid = "chaos"\nshards = {SHARDS}\nreplicas = {REPLICAS}\n',
        ]
        for other in self.nodes:
            port = node.port if other is node else self.links[node.id, other.id].port
            lines.append(f'[[cluster.nodes]]\nid = "{other.id}"\naddress = "127.0.0.1:{port}"\n')
        return "\n".join([*lines, _SETTINGS])

    def _mount_small_disk(self, node: Node) -> None:
        """A disk of its own for one node, which can be filled without harm to others."""
        node.data_dir.mkdir(exist_ok=True)
        options = f"size={SMALL_DISK_MIB}m,mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(node.data_dir)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
            reason = done.stderr.decode(errors="replace").strip()
            node.mounted = done.returncode == 0
        except OSError as error:
            reason = str(error)
        if not node.mounted:
            how = "only by the shim" if node.can_be_full else "NOT TRIED"
            self.notes.append(f"{how}: full disk: no small disk can be mounted: {reason}")

    async def survey(self) -> Survey:
        return await survey_cluster(self.config)

    async def is_led(self) -> bool:
        return (await self.survey()).view.is_led

    async def leaders(self) -> dict[int, str]:
        """Who leads each shard, as far as the nodes say."""
        shards = (await self.survey()).view.shards
        return {shard.id: shard.leader for shard in shards if shard.leader is not None}

    def heal_network(self) -> None:
        for link in self.links.values():
            link.heal()

    def keep_small_disk(self) -> None:
        """Copy what is on it, for whoever looks into a failure: it goes with its mount."""
        for node in self.nodes:
            if node.mounted:
                shutil.copytree(node.data_dir, node.directory / "data.kept")

    async def close(self) -> None:
        """End every process by its own id, and every proxy; nothing stays behind.

        All of it is tried, whatever fails; then the first failure is raised.
        """
        ends = [asyncio.to_thread(node.end) for node in self.nodes]
        failures = await asyncio.gather(*ends, return_exceptions=True)
        for node in self.nodes:
            if node.mounted:
                await asyncio.to_thread(unmount, node.data_dir)
        closes = [link.close() for link in self.links.values()]
        failures += await asyncio.gather(*closes, return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure


def unmount(path: Path) -> None:
    with suppress(OSError):
        subprocess.run(["umount", "-l", str(path)], check=False)
