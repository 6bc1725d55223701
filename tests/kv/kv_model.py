"""What a shard's log means, told as plainly as possible: the reference for the real thing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument, KVError, SessionExpired
from kvstore.hlc import revision_at
from kvstore.ids import ShardId
from kvstore.kv import commands, replies, values
from kvstore.kv.engine import Space, shard_range, space_range
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine
from kvstore.storage.memory import MemoryEngine

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SHARD = ShardId(5)
START_MS = 1_700_000_000_000
SECOND = revision_at(1000)
LIMITS = ApplyLimits(key_bytes_max=16, value_bytes_max=64, session_ttl_ms=60_000, sessions_max=3)
FOREIGN = b"elsewhere"

Outcome = list[bool] | type[KVError]


def owns(key: bytes) -> bool:
    return key != FOREIGN


def own_all(keys: Collection[bytes]) -> bool:
    """The same of several."""
    return all(map(owns, keys))


@dataclass(frozen=True)
class Sent:
    """A client's batch before it is encoded."""

    session: tuple[int, int]
    seq: int
    ack_below: int
    commands: tuple[commands.Command, ...]

    def encode(self) -> bytes:
        return commands.encode_batch(*self.session, self.seq, self.ack_below, self.commands)


@dataclass
class ModelSession:
    last_active: int
    ack_below: int
    replies: dict[int, tuple[int, list[bool]]] = field(default_factory=dict)


@dataclass
class Model:
    """``rows``: key to (value, created, modified)."""

    rows: dict[bytes, tuple[bytes, int, int]] = field(default_factory=dict)
    sessions: dict[tuple[int, int], ModelSession] = field(default_factory=dict)
    horizon: int = 0

    def apply(self, revision: int, batches: Sequence[Sent]) -> list[tuple[int, Outcome]]:
        """First revision and outcome of each batch."""
        now_ms = revision >> 18
        for key, session in list(self.sessions.items()):
            if now_ms - (session.last_active >> 18) > LIMITS.session_ttl_ms:
                self._drop(key)
        answers = []
        for sent in batches:
            answers.append(self._batch(sent, revision))
            revision += len(sent.commands)
        while len(self.sessions) > LIMITS.sessions_max:
            self._drop(min(self.sessions, key=lambda key: self.sessions[key].last_active))
        return answers

    def _drop(self, key: tuple[int, int]) -> None:
        del self.sessions[key]
        self.horizon = max(self.horizon, key[0])

    def _batch(self, sent: Sent, revision: int) -> tuple[int, Outcome]:
        if sent.session == (0, 0):
            if not self._is_valid(sent):
                return revision, InvalidArgument
            return revision, self._run(sent, revision)
        if sent.seq < sent.ack_below:
            return revision, InvalidArgument
        session = self.sessions.get(sent.session)
        if session is None:
            created = sent.session[0]
            if created <= self.horizon or (created >> 18) - (revision >> 18) > 60_000:
                return revision, SessionExpired
            session = ModelSession(0, 0)
        if sent.seq not in session.replies:
            if sent.seq < session.ack_below:
                return revision, SessionExpired
            if sent.seq - max(session.ack_below, sent.ack_below) >= 64:
                return revision, InvalidArgument
            if not self._is_valid(sent):
                return revision, InvalidArgument
            session.replies[sent.seq] = (revision, self._run(sent, revision))
        answer = session.replies[sent.seq]
        session.last_active = revision
        session.ack_below = max(session.ack_below, sent.ack_below)
        session.replies = {s: r for s, r in session.replies.items() if s >= session.ack_below}
        self.sessions[sent.session] = session
        return answer

    @staticmethod
    def _is_valid(sent: Sent) -> bool:
        return all(
            0 < len(command[1]) <= LIMITS.key_bytes_max
            and owns(command[1])
            and (command[0] == commands.DELETE or len(command[-1]) <= LIMITS.value_bytes_max)
            for command in sent.commands
        )

    def _run(self, sent: Sent, revision: int) -> list[bool]:
        effects = []
        for offset, command in enumerate(sent.commands):
            key = command[1]
            row = self.rows.get(key)
            if command[0] == commands.DELETE:
                effects.append(row is not None)
                self.rows.pop(key, None)
                continue
            swaps = command[0] == commands.PUT or command[2] == (row and row[0])
            effects.append(swaps)
            if swaps:
                modified = revision + offset
                self.rows[key] = (command[-1], row[1] if row else modified, modified)
        return effects


class Replica:
    """A state machine over an engine in memory, fed as a driver feeds it."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.machine = StateMachine(SHARD, self.engine, owns=own_all)
        self._batch = self.engine.batch()
        self._index = 0

    def apply(self, revision: int, batches: Sequence[tuple[int, bytes]]) -> list[bytes]:
        self._index += 1
        payload = commands.encode_entry(revision, batches, LIMITS)
        return self.machine.apply(self._index, 1, payload)

    def apply_noop(self) -> None:
        self._index += 1
        self.machine.apply_noop(self._index, 2)

    def apply_config(self, config_bytes: bytes) -> None:
        self._index += 1
        self.machine.apply_config(self._index, 3, config_bytes)

    def write(self) -> None:
        self.machine.flush(self._batch)
        self.engine.write(self._batch)
        self.machine.written()
        self._batch = self.engine.batch()

    def restart(self) -> None:
        """As after a crash right behind the last write; only written state survives."""
        self.machine = StateMachine(SHARD, self.engine, owns=own_all)
        self._batch = self.engine.batch()
        self._index = self.machine.applied_index

    def counts(self) -> tuple[int, int]:
        """Keys and bytes, as the machine tells them."""
        return self.machine.keys, self.machine.size_bytes

    def recount(self) -> tuple[int, int]:
        """The same by the rows that are written."""
        return count(self.rows())

    def send(self, revision: int, *sent: Sent) -> list[bytes]:
        """Apply an entry of ``sent``; nothing is written yet."""
        return self.apply(revision, [(len(each.commands), each.encode()) for each in sent])

    def give_up(self) -> None:
        """What was applied since the last write is forgotten, by the machine too."""
        self.machine.reload()
        self._batch = self.engine.batch()
        self._index = self.machine.applied_index

    def contents(self) -> list[tuple[bytes, bytes]]:
        return list(self.engine.snapshot_rows(*shard_range(SHARD)))

    def rows(self) -> dict[bytes, tuple[bytes, int, int]]:
        found = {}
        for key, stored in self.engine.snapshot_rows(*space_range(SHARD, Space.DATA)):
            value = values.decode(stored)
            found[key[3:]] = (value.value, value.created_revision, value.modified_revision)
        return found


def count(rows: dict[bytes, tuple[bytes, int, int]]) -> tuple[int, int]:
    """How many keys, and the bytes of keys and values."""
    return len(rows), sum(len(key) + len(row[0]) for key, row in rows.items())


def outcome(reply: bytes, count: int) -> tuple[int | None, Outcome]:
    """First revision (None if refused) and what the ``count`` commands did."""
    decoded = replies.decode_reply(reply, count)
    if isinstance(decoded, KVError):
        return None, type(decoded)
    return decoded.first_revision, decoded.effects
