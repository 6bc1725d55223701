"""A group of real Raft cores on a simulated network, disk and clock. One seed, one exact run.

Every core is driven as ``kvstore.raft.ready`` asks. The disk is asynchronous: writes finish in
order, later, and a crash loses those that have not. After every event the safety properties of
Raft figure 3 are checked against everything any replica ever applied or led.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from kvstore.config import RaftConfig
from kvstore.errors import KVError
from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.raft.core import RaftCore, RecoveredGroup
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, HardState, SnapshotMeta
from kvstore.raft.ready import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.raft.messages import Message
    from kvstore.raft.ready import Ready, SnapshotRead, SnapshotWrite

TICK_S = 0.02


@dataclass
class Faults:
    """How unkind the world is; all zero for a perfect one."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s_max: float = 0.002
    disk_s_max: float = 0.002
    crashes_per_s: float = 0.0
    partitions_per_s: float = 0.0
    pauses_per_s: float = 0.0
    config_changes_per_s: float = 0.0
    transfers_per_s: float = 0.0
    gone_notices: bool = False
    snapshot_failure: float = 0.0
    """How often a driver cannot read or write a piece of a snapshot."""
    install_s_max: float = 0.0
    unreachable_per_s: float = 0.0
    """Notices that messages were lost, true or not."""
    campaigns_per_s: float = 0.0


@dataclass
class Disk:
    """What survives a crash."""

    hard_state: HardState
    base: SnapshotMeta
    entries: list[Entry] = field(default_factory=list)
    applied: list[Entry] = field(default_factory=list)
    """The state machine's durable state: everything it ever applied."""

    def append(self, entries: tuple[Entry, ...]) -> None:
        if entries:
            keep = entries[0].index - self.base.index - 1
            assert 0 <= keep <= len(self.entries), "a hole in the log on disk"
            self.entries[keep:] = entries

    def compact(self, base: SnapshotMeta) -> None:
        self.entries = [entry for entry in self.entries if entry.index > base.index]
        self.base = base


class Replica:
    """One process: a core, its disk, and its state machine (the list of what it applied)."""

    def __init__(self, cluster: Cluster, replica: ReplicaId, disk: Disk) -> None:
        self.cluster = cluster
        self.id = replica
        self.disk = disk
        self.is_up = False
        self.paused_until = 0.0
        self.incarnation = 0
        self.applied: list[Entry] = []
        self.reads: dict[int, int] = {}
        self.staged: list[Entry] = []
        self.staged_transfer = 0
        self.snapshots: dict[tuple[ReplicaId, int], list[Entry]] = {}
        self.disk_queue: list[Callable[[], None]] = []
        self.disk_busy = False
        self.start()

    def start(self) -> None:
        self.incarnation += 1
        self.is_up = True
        self.disk_queue.clear()
        self.disk_busy = False
        self.applied = list(self.disk.applied)
        self.reads, self.staged, self.snapshots = {}, [], {}
        self.reads_due_at = 0.0
        applied_index = self.applied[-1].index if self.applied else LogIndex(0)
        self.core = RaftCore(
            replica=self.id,
            config=self.cluster.options,
            recovered=RecoveredGroup(
                self.disk.hard_state,
                self.disk.base,
                tuple(self.disk.entries),
                max(applied_index, self.disk.base.index),
            ),
            rng=random.Random(self.cluster.rng.random()),
            now=self.cluster.now,
        )
        self._tick()

    def crash(self) -> None:
        self.is_up = False
        self.incarnation += 1

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` in this life of the process, after any pause."""
        life = self.incarnation

        def run() -> None:
            if self.incarnation != life:
                return
            if self.cluster.now < self.paused_until:
                self.cluster.at(self.paused_until, run)
                return
            action()
            self.drive()

        self.cluster.at(self.cluster.now + delay_s, run)

    def _tick(self) -> None:
        self.core.tick(self.cluster.now)
        self.later(TICK_S, self._tick)

    def receive(self, message: Message) -> None:
        self.core.step(message, self.cluster.now)

    # -- the driver's duties ------------------------------------------------------------------

    def drive(self) -> None:
        while self.core.has_ready():
            self._take(self.core.ready(self.cluster.now))
        self._check_that_nothing_is_kept_back()
        self.cluster.check(self)
        self._look_at_late_reads()

    def _look_at_late_reads(self) -> None:
        due_at = self.core.reads_due_at
        if due_at is not None and due_at > self.reads_due_at:
            self.reads_due_at = due_at
            self.later(due_at - self.cluster.now, lambda: self.core.tick(self.cluster.now))

    def _check_that_nothing_is_kept_back(self) -> None:
        """A core that says that nothing follows has nothing to hand over."""
        ready = self.core.ready(self.cluster.now)
        kept = [name.name for name in fields(ready) if getattr(ready, name.name)]
        assert not kept, f"{kept} of {self.id} would have waited for the next timer"

    def _take(self, ready: Ready) -> None:
        for message in ready.messages:
            self.cluster.send(message)
        self._write(ready)
        for entry in ready.committed:
            self._apply(entry)
        if ready.committed:
            self.core.applied(ready.committed[-1].index)
        for state in ready.read_states:
            self.cluster.check_read(self.reads.pop(state.context), state.index)
        for context in ready.reads_failed:
            self.reads.pop(context)
        for read in ready.snapshot_reads:
            self.later(0.001, lambda read=read: self._read_snapshot(read))
        for write in ready.snapshot_writes:
            self._on_disk(lambda write=write: self._write_snapshot(write))

    def _write(self, ready: Ready) -> None:
        def done() -> None:
            if ready.hard_state is not None:
                old = self.disk.hard_state
                assert ready.hard_state.term >= old.term, "the term went back"
                same = ready.hard_state.term == old.term and old.vote != NO_REPLICA
                assert not same or ready.hard_state.vote == old.vote, "voted twice in a term"
                self.disk.hard_state = ready.hard_state
            self.disk.append(ready.entries)
            if ready.compacted is not None:
                self.disk.applied = list(self.applied)
                if ready.compacted[0] > self.disk.base.index:
                    self.disk.compact(SnapshotMeta(*ready.compacted))
            if ready.entries:
                last = ready.entries[-1]
                self.core.persisted(last.index, last.term, self.cluster.now)
            for message in ready.messages_when_durable:
                if message.receiver == self.id:
                    self.core.step(message, self.cluster.now)
                else:
                    self.cluster.send(message)

        has_work = ready.hard_state or ready.entries or ready.compacted
        if has_work or ready.messages_when_durable:
            self._on_disk(done)

    def _on_disk(self, done: Callable[[], None]) -> None:
        """Group commit: one write takes all that has gathered, the next waits for its end."""
        self.disk_queue.append(done)
        if not self.disk_busy:
            self._begin_write()

    def _begin_write(self) -> None:
        self.disk_busy = True
        batch = list(self.disk_queue)
        self.disk_queue.clear()

        def finished() -> None:
            for done in batch:
                done()
            self.disk_busy = False
            if self.disk_queue:
                self._begin_write()

        self.later(self.cluster.rng.random() * self.cluster.faults.disk_s_max, finished)

    def _apply(self, entry: Entry) -> None:
        expected = (self.applied[-1].index if self.applied else 0) + 1
        assert entry.index == expected, f"applied {entry.index}, expected {expected}"
        self.applied.append(entry)
        self.cluster.committed(entry, self.core.term)

    # -- snapshots: a snapshot is the list of applied entries, ten entries a chunk ---------------

    def _read_snapshot(self, read: SnapshotRead) -> None:
        meta = None
        is_broken = self.cluster.rng.random() < self.cluster.faults.snapshot_failure
        if read.offset == 0:
            if not self.applied or is_broken:
                self.core.snapshot_failed(read.peer, read.transfer, self.cluster.now)
                return
            meta = self.core.snapshot_meta(self.applied[-1].index)
            self.snapshots = {(read.peer, read.transfer): list(self.applied)}
        entries = self.snapshots.get((read.peer, read.transfer))
        if entries is None or is_broken:
            self.core.snapshot_failed(read.peer, read.transfer, self.cluster.now)
            return
        start = read.offset
        data = entries[start : start + 10]
        self.cluster.chunks[(self.id, read.transfer, start)] = data
        self.core.snapshot_read(
            read.peer,
            read.transfer,
            meta,
            bytes(len(data)),
            is_last=start + 10 >= len(entries),
            now=self.cluster.now,
        )

    def _write_snapshot(self, write: SnapshotWrite) -> None:
        if write.offset == 0:
            self.staged, self.staged_transfer = [], write.transfer
        fits = self.staged_transfer == write.transfer and len(self.staged) == write.offset
        if not fits or self.cluster.rng.random() < self.cluster.faults.snapshot_failure:
            self.staged = []
            self.core.snapshot_aborted(write.transfer, self.cluster.now)
            return
        sender = next(
            key[0] for key in self.cluster.chunks if key[1:] == (write.transfer, write.offset)
        )
        self.staged += self.cluster.chunks[sender, write.transfer, write.offset]
        self.core.snapshot_written(write.transfer, write.offset + len(write.data), self.cluster.now)
        if write.is_last:
            delay_s = self.cluster.rng.random() * self.cluster.faults.install_s_max
            self.later(delay_s, lambda: self._on_disk(lambda: self._install(write.meta)))

    def _install(self, meta: SnapshotMeta) -> None:
        assert self.staged[-1].index == meta.index
        self.applied = list(self.staged)
        self.disk.applied = list(self.staged)
        self.disk.entries = []
        self.disk.base = meta
        self.core.snapshot_installed(meta, self.cluster.now)


class Cluster:
    """Replicas, the network between them, and what must hold whatever happens."""

    def __init__(
        self,
        seed: int,
        voters: int = 3,
        *,
        spares: int = 0,
        faults: Faults | None = None,
        options: RaftConfig | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.options = options or RaftConfig()
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.events = 0
        self.blocked: set[tuple[ReplicaId, ReplicaId]] = set()
        self.chunks: dict[tuple[ReplicaId, int, int], list[Entry]] = {}
        self.history: dict[LogIndex, Entry] = {}
        self.committed_in: dict[LogIndex, Term] = {}
        """The term by which the entry at an index was known to be committed."""
        self.leaders: dict[Term, ReplicaId] = {}
        self.reads_asked = 0
        self.reads_confirmed = 0
        self.sent: list[Message] = []
        """Whatever any replica has said, whether it arrives or not."""
        config = GroupConfig(tuple(ReplicaId(number) for number in range(1, voters + 1)))
        base = SnapshotMeta(LogIndex(0), Term(0), config)
        self.replicas = {
            ReplicaId(number): Replica(
                self, ReplicaId(number), Disk(HardState(Term(0), NO_REPLICA), base)
            )
            for number in range(1, voters + spares + 1)
        }

    # -- time -------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.events += 1
        heapq.heappush(self.queue, (when, self.events, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            when, _, action = heapq.heappop(self.queue)
            self.now = max(self.now, when)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float) -> None:
        end = self.now + seconds
        while not condition():
            assert self.now < end, "the condition was not met in time"
            self.run(TICK_S)

    # -- network ----------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        rng, faults = self.rng, self.faults
        self.sent.append(message)
        if (message.sender, message.receiver) in self.blocked or rng.random() < faults.loss:
            return
        copies = 2 if rng.random() < faults.duplication else 1
        for _ in range(copies):
            self.at(self.now + rng.random() * faults.delay_s_max, lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        target = self.replicas[message.receiver]
        if target.is_up and (message.sender, message.receiver) not in self.blocked:
            target.later(0.0, lambda: target.receive(message))

    # -- actions ----------------------------------------------------------------------------------

    @property
    def leader(self) -> Replica | None:
        """The leader of the highest term among the replicas that run."""
        leading = [r for r in self.replicas.values() if r.is_up and r.core.role is Role.LEADER]
        return max(leading, key=lambda r: r.core.term, default=None)

    def propose(self, payload: bytes) -> bool:
        leader = self.leader
        if leader is None:
            return False
        try:
            leader.core.propose(payload, self.now)
        except KVError:
            return False
        leader.drive()
        return True

    def read(self, replica: Replica) -> None:
        """Ask for a read index; it must cover all that is committed now."""
        self.reads_asked += 1
        context = self.reads_asked
        replica.reads[context] = max(self.history, default=0)
        replica.core.read_index(context, self.now)
        replica.drive()

    def partition(self, side: set[ReplicaId], *, one_way: bool = False) -> None:
        for a in side:
            for b in self.replicas:
                if b not in side:
                    self.blocked.add((a, b))
                    if not one_way:
                        self.blocked.add((b, a))

    def heal(self) -> None:
        self.blocked.clear()

    def notice_death(self, dead: ReplicaId) -> None:
        for replica in self.replicas.values():
            if replica.is_up and replica.id != dead:
                replica.later(
                    self.rng.random() * 0.005,
                    lambda r=replica: r.core.peer_gone(dead, self.now),
                )

    def notice_return(self, back: ReplicaId) -> None:
        for replica in self.replicas.values():
            if replica.is_up and replica.id != back:
                replica.later(0.001, lambda r=replica: r.core.peer_connected(back, self.now))

    # -- what must hold (Raft figure 3) -----------------------------------------------------------

    def committed(self, entry: Entry, term: Term) -> None:
        """State-machine safety: nobody ever applies another entry at this index."""
        known = self.history.setdefault(entry.index, entry)
        self.committed_in.setdefault(entry.index, term)
        assert known == entry, f"two entries were applied at {entry.index}"

    def check(self, replica: Replica) -> None:
        core = replica.core
        if core.role is Role.LEADER and self.leaders.get(core.term) != replica.id:
            assert core.term not in self.leaders, f"two leaders in term {core.term}"
            self.leaders[core.term] = replica.id
            self._check_completeness(replica)

    def _check_completeness(self, replica: Replica) -> None:
        """Leader completeness: a new leader has what was committed in terms before its own."""
        log = replica.core._state.log
        for index, entry in self.history.items():
            if index > log.base_index and self.committed_in[index] < replica.core.term:
                assert log.term_at(index) == entry.term, f"leader lacks committed {index}"

    def check_read(self, needed: int, index: LogIndex) -> None:
        assert index >= needed, f"a read at {index} misses {needed}"
        self.reads_confirmed += 1

    def check_logs_match(self) -> None:
        """Log matching: logs with an equal entry are equal up to it."""
        logs = [r.core._state.log for r in self.replicas.values()]
        for a in logs:
            for b in logs:
                first = max(a.base_index, b.base_index) + 1
                last = min(a.last_index, b.last_index)
                equal = [
                    a.term_at(LogIndex(i)) == b.term_at(LogIndex(i)) for i in range(first, last + 1)
                ]
                assert equal == sorted(equal, reverse=True), "logs part and meet again"
                for i in range(first, first + sum(equal)):
                    index = LogIndex(i)
                    assert a.between(index, index) == b.between(index, index)

    def commands(self, replica: Replica) -> list[bytes]:
        return [e.payload for e in replica.applied if e.kind is EntryKind.COMMAND]
