"""One node's work on snapshots, in a thread that a test holds in its hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from server_support import OWN, FakeEngine, HeldThreads, Rig, command, settle

from kvstore.ids import LogIndex, ReplicaId, ShardId, Term
from kvstore.kv.state_machine import StateMachine
from kvstore.raft.messages import GroupConfig, SnapshotChunk, SnapshotMeta, SnapshotResponse
from kvstore.server.pacing import Pace
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from pathlib import Path

TWO = ReplicaId(2)
META = SnapshotMeta(LogIndex(50), Term(1), GroupConfig((OWN, TWO, ReplicaId(3))))


class Work(NamedTuple):
    rig: Rig
    threads: HeldThreads
    storage: SnapshotStorage
    transfers: SnapshotTransfers

    async def run(self) -> None:
        """Let the thread do all that there is, and what follows from it."""
        await settle()
        while self.threads.work:
            self.threads.run()
            await settle()

    def responses(self) -> list[tuple[int, bool, bool]]:
        """Offset, installed, rejected of each."""
        sent = self.rig.peers.messages(SnapshotResponse)
        return [(r.next_offset, r.installed, r.rejected) for r in sent]


def work_on(rig: Rig, path: Path, bytes_per_s_max: int = 1 << 30) -> Work:
    threads = HeldThreads()
    storage = SnapshotStorage(rig.engine, path / "snapshots")
    transfers = SnapshotTransfers(
        rig.driver,
        storage,
        rig.log,
        pace=Pace(bytes_per_s_max),
        thread=threads,
        clock=lambda: rig.now,
        on_fatal=rig.fatal.append,
    )
    rig.driver.snapshots = transfers
    return Work(rig, threads, storage, transfers)


def engine_at_50() -> FakeEngine:
    engine = FakeEngine()
    machine = StateMachine(ShardId(0), engine, owns=lambda key: True)
    into = engine.batch()
    for index in range(1, 51):
        machine.apply(index, 1, command(index, value=b"%d" % index).payload)
    machine.flush(into)
    engine.write(into)
    return engine


def streamed(engine: FakeEngine) -> bytes:
    reader = SnapshotStorage(engine, None).open(ShardId(0))  # type: ignore[arg-type]
    data, is_last = reader.read(0, 1 << 20)
    assert is_last
    return data


def chunk(data: bytes, offset: int = 0, *, is_last: bool = True, transfer: int = 7, term: int = 1):
    return SnapshotChunk(TWO, OWN, Term(term), META, transfer, offset, data, is_last)
