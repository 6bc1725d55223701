"""A shard over an engine in memory, and short words for what is sent to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import KVError
from kvstore.hlc import revision_at
from kvstore.ids import ShardId
from kvstore.kv import commands, replies
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine
from kvstore.storage.memory import MemoryEngine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.kv.commands import Command
    from kvstore.kv.replies import BatchReply

SHARD = ShardId(3)
START_MS = 1_700_000_000_000
LIMITS = ApplyLimits(key_bytes_max=16, value_bytes_max=64, session_ttl_ms=60_000, sessions_max=1000)
NO_SESSION = (0, 0)

Answer = tuple[int, list[bool]] | KVError


def put(key: bytes, value: bytes) -> Command:
    return (commands.PUT, key, value)


def delete(key: bytes) -> Command:
    return (commands.DELETE, key)


def swap(key: bytes, expected: bytes | None, value: bytes) -> Command:
    return (commands.CAS, key, expected, value)


def created_at(ms_after_start: int, nonce: int = 1) -> tuple[int, int]:
    """A session."""
    return revision_at(START_MS + ms_after_start), nonce


def batch(
    *run: Command, session: tuple[int, int] = NO_SESSION, seq: int = 0, ack_below: int = 0
) -> tuple[int, bytes]:
    return len(run), commands.encode_batch(*session, seq, ack_below, run)


def owns(key: bytes) -> bool:
    """The shard owns all keys but those with an x in front."""
    return not key.startswith(b"x")


def contents(engine: MemoryEngine) -> list[tuple[bytes, bytes]]:
    return list(engine.snapshot_rows(b"", b"\xff" * 4))


class Shard:
    """Applies each entry in a write of its own, unless told otherwise."""

    def __init__(self, engine: MemoryEngine | None = None) -> None:
        self.engine = engine or MemoryEngine()
        self.machine = StateMachine(SHARD, self.engine, owns=owns)
        self.limits = LIMITS
        self.now_ms = START_MS

    def entry(self, *batches: tuple[int, bytes]) -> bytes:
        """The payload of an entry as of ``now_ms``."""
        first = max(self.machine.last_revision + 1, revision_at(self.now_ms))
        return commands.encode_entry(first, batches, self.limits)

    def apply(self, *batches: tuple[int, bytes]) -> list[Answer]:
        return self.apply_all([self.entry(*batches)], [count for count, _ in batches])

    def apply_all(self, payloads: Iterable[bytes], counts: list[int]) -> list[Answer]:
        """Several entries in one write."""
        write = self.engine.batch()
        raw = []
        for index, payload in enumerate(payloads, start=self.machine.applied_index + 1):
            raw += self.machine.apply(index, 1, payload, write)
        self.machine.flush(write)
        self.engine.write(write)
        self.machine.written()
        return [plain(replies.decode_reply(r, n)) for r, n in zip(raw, counts, strict=True)]

    def send(
        self, *run: Command, session: tuple[int, int] = NO_SESSION, seq: int = 0, ack_below: int = 0
    ) -> Answer:
        """One batch in an entry of its own."""
        return self.apply(batch(*run, session=session, seq=seq, ack_below=ack_below))[0]

    def restarted(self) -> Shard:
        """The same shard, known only by what is in the engine."""
        other = Shard(self.engine)
        other.limits, other.now_ms = self.limits, self.now_ms
        return other

    def value(self, key: bytes) -> bytes | None:
        (found,) = self.machine.get_many([key])
        return None if found is None else found[0]


def plain(reply: BatchReply | KVError) -> Answer:
    return reply if isinstance(reply, KVError) else (reply.first_revision, reply.effects)


def effects(answer: Answer) -> list[bool]:
    assert not isinstance(answer, KVError), answer
    return answer[1]


def first_revision(answer: Answer) -> int:
    assert not isinstance(answer, KVError), answer
    return answer[0]
