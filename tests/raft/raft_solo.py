"""One core alone, its peers played by the test: every message in and out is named."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from kvstore.config import RaftConfig
from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.raft.core import RaftCore, RecoveredGroup
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    SnapshotMeta,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role

if TYPE_CHECKING:
    from kvstore.raft.messages import Message
    from kvstore.raft.ready import Ready

R1, R2, R3, R4, R5 = map(ReplicaId, range(1, 6))
M = TypeVar("M")


def entries(terms: str, after: int = 0) -> tuple[Entry, ...]:
    """Entries with these terms, one digit each, behind index ``after``."""
    return tuple(
        Entry(LogIndex(after + i), Term(int(t)), EntryKind.COMMAND, f"{after + i}:{t}".encode())
        for i, t in enumerate(terms, start=1)
    )


class Solo:
    """A core and its disk. Writes end at once unless ``disk_is_slow``; then by ``sync()``."""

    def __init__(
        self,
        terms: str = "",
        *,
        voters: int = 3,
        learners: tuple[ReplicaId, ...] = (),
        term: int | None = None,
        base: int = 0,
        applied: int = 0,
        options: RaftConfig | None = None,
    ) -> None:
        config = GroupConfig(tuple(map(ReplicaId, range(1, voters + 1))), learners=learners)
        log = entries(terms)
        last_term = int(terms[-1]) if terms else 0
        base_term = Term(int(terms[base - 1]) if base else 0)
        self.now = 0.0
        self.sent: list[Message] = []
        self.readies: list[Ready] = []
        self.disk_is_slow = False
        self._unsynced: list[Ready] = []
        self.core = RaftCore(
            replica=R1,
            config=options or RaftConfig(),
            recovered=RecoveredGroup(
                HardState(Term(last_term if term is None else term), NO_REPLICA),
                SnapshotMeta(LogIndex(base), base_term, config),
                log[base:],
                LogIndex(max(base, applied)),
            ),
            rng=random.Random(1),
            now=0.0,
        )
        self.drain()

    def drain(self) -> None:
        while self.core.has_ready():
            ready = self.core.ready(self.now)
            self.readies.append(ready)
            self.sent += ready.messages
            self._unsynced.append(ready)
            if ready.committed:
                self.core.applied(ready.committed[-1].index)
            if not self.disk_is_slow:
                self.sync()

    def sync(self, count: int | None = None) -> None:
        """The first ``count`` writes (or all) become durable, in order."""
        for _ in range(len(self._unsynced) if count is None else count):
            ready = self._unsynced.pop(0)
            if ready.entries:
                self.core.persisted(ready.entries[-1].index, ready.entries[-1].term, self.now)
            for message in ready.messages_when_durable:
                if message.receiver == R1:
                    self.core.step(message, self.now)
                else:
                    self.sent.append(message)
        if self.core.has_ready():
            self.drain()

    def step(self, *messages: Message) -> None:
        for message in messages:
            self.core.step(message, self.now)
        self.drain()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.02)
            self.core.tick(self.now)
            self.drain()

    def take(self, kind: type[M]) -> list[M]:
        """Sent messages of one kind; everything sent so far is forgotten."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent.clear()
        return found

    def terms(self) -> str:
        log = self.core._state.log
        return "".join(str(entry.term) for entry in log.after(log.base_index))

    @property
    def commit_index(self) -> LogIndex:
        return self.core.status(self.now).commit_index

    @property
    def config(self) -> GroupConfig:
        return self.core.status(self.now).config

    @property
    def committed(self) -> list[Entry]:
        return [entry for ready in self.readies for entry in ready.committed]

    # -- the peers' part ----------------------------------------------------------------------

    def lead(self, *supporters: ReplicaId) -> None:
        """Win an election by the votes of ``supporters``."""
        self.core.campaign(self.now)
        self.drain()
        for pre_vote in (True, False):
            for peer in supporters:
                term = Term(self.core.term + pre_vote)
                if self.core.role is not Role.LEADER:
                    self.step(VoteResponse(peer, R1, term, granted=True, pre_vote=pre_vote))
        assert self.core.role is Role.LEADER

    def ack(self, peer: ReplicaId, index: int | None = None) -> None:
        at = self.core.last_index if index is None else LogIndex(index)
        self.step(AppendResponse(peer, R1, self.core.term, at))

    def beat(self, peer: ReplicaId, read_round: int) -> None:
        self.step(HeartbeatResponse(peer, R1, self.core.term, read_round))

    def heartbeat(self, leader: ReplicaId, term: int, *, commit: int = 0) -> None:
        self.step(Heartbeat(leader, R1, Term(term), LogIndex(commit), 1))

    def append(
        self,
        leader: ReplicaId,
        term: int,
        prev: tuple[int, int],
        terms: str = "",
        *,
        commit: int = 0,
    ) -> None:
        at, prev_term = prev
        self.step(
            AppendRequest(
                leader,
                R1,
                Term(term),
                LogIndex(at),
                Term(prev_term),
                entries(terms, at),
                LogIndex(commit),
            )
        )

    def ask_vote(
        self,
        candidate: ReplicaId,
        term: int,
        last: tuple[int, int],
        *,
        pre_vote: bool = False,
        by_transfer: bool = False,
    ) -> VoteResponse:
        """The answer to a vote request whose log ends with (index, term) ``last``."""
        self.sent.clear()
        self.step(
            VoteRequest(
                candidate,
                R1,
                Term(term),
                LogIndex(last[0]),
                Term(last[1]),
                pre_vote=pre_vote,
                by_transfer=by_transfer,
            )
        )
        return self.take(VoteResponse)[0]


def led(*, voters: int = 3, learners: tuple[ReplicaId, ...] = (), commit: bool = True) -> Solo:
    """A leader whose first entry is committed, by all its peers."""
    solo = Solo(voters=voters, learners=learners)
    peers = [ReplicaId(number) for number in range(2, voters + 1)]
    solo.lead(*peers[: voters // 2])
    if commit:
        for peer in peers:
            solo.ack(peer)
    solo.sent.clear()
    return solo
