"""Sessions: a batch that arrives twice is run once (Raft thesis, section 6.3).

A client that hears no answer sends its batch again, to whoever leads by then. So each batch
carries a *session* and a ``seq`` within it, and the shard keeps, as part of the replicated
state, the reply to every batch that the client may still repeat. A repeated batch gets the
kept reply. ``ack_below`` tells which it will never repeat: all with a lower seq.

The thesis has a client register first. Here it makes up its session: ``created``, a revision
near the cluster's present, and a random nonce. The shard learns of it with the first batch,
so no round trip is spent, but a shard that drops an idle session must not take a late retry
for a new session's first batch and run it again. Therefore:

* **Horizon.** A session that is dropped raises the shard's horizon to its ``created``. An
  unknown session at or below the horizon is refused: it may have been here before. One above
  it has never been dropped, hence was never here, and is welcome.
* A session from further in the future than clocks differ is refused, else its going would
  raise the horizon above everybody's present.
* Either refusal says when a session must have been created to be welcome: dates may be set back,
  the log's time is not, and the shard's horizon may then lie above all that a client takes for
  the present.

What is dropped, and when, is decided by the log alone: idle longer than the time to live by
the revisions of the entries, or the least recently active beyond the bound on their number.
``last_active`` is the revision of the session's latest batch, unique in the shard, so its
order survives a restart.

A refused batch changes nothing. Its retry is judged afresh, and so may be run: once.

A refusal speaks of the one arrival that it answers. Whether an earlier one of the same batch
was run is for the client to judge: if it sent the batch once, it begins a new session and
goes on; if more often, the outcome is unknown (``may_have_applied``).
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

import msgpack

from kvstore.errors import DataDirectoryError, InvalidArgument, SessionExpired
from kvstore.hlc import revision_at, wall_ms_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.kv.engine import WriteBatch

SEQ_WINDOW: Final = 64
"""A seq this far above ``ack_below`` is refused, so that a session keeps 64 replies at most."""

CREATED_AHEAD_MS_MAX: Final = 60_000
"""How far ahead of the log's time a new session may have been created."""

NO_SESSION: Final = (0, 0)
"""A batch of this session is run each time that it arrives."""

FORMAT: Final = 1

SessionKey: TypeAlias = tuple[int, int]
"""``created`` and nonce."""

_KEY = Struct(">QQ")


class Session:
    """One client's. Invariant: a reply is kept iff its batch was run and seq ≥ ack_below."""

    __slots__ = ("ack_below", "last_active", "replies")

    def __init__(self, last_active: int, ack_below: int, replies: dict[int, bytes]) -> None:
        self.last_active = last_active
        self.ack_below = ack_below
        self.replies = replies

    def acknowledge(self, ack_below: int) -> None:
        """Forget replies that will not be asked for again."""
        if ack_below > self.ack_below:
            self.ack_below = ack_below
            for seq in [seq for seq in self.replies if seq < ack_below]:
                del self.replies[seq]

    def encode(self) -> bytes:
        """The stored form; equal sessions have equal bytes."""
        encoded: bytes = msgpack.packb((FORMAT, self.last_active, self.ack_below, self.replies))
        return encoded

    @classmethod
    def decode(cls, stored: bytes) -> Session:
        """Read the stored form.

        Raises:
            DataDirectoryError: a newer version wrote it.
        """
        version, *fields = msgpack.unpackb(stored, strict_map_key=False)
        if version != FORMAT:
            raise DataDirectoryError(
                f"a session is stored in format {version}, this version knows {FORMAT}"
            )
        return cls(*fields)


class Sessions:
    """All sessions of a shard. Invariant: in the order of ``last_active``."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]], horizon: int) -> None:
        """Load what :meth:`flush` wrote.

        Args:
            rows: Stored sessions, keys without the prefix.
            horizon: As :attr:`horizon` was then.
        """
        loaded = [(_KEY.unpack(key), Session.decode(stored)) for key, stored in rows]
        loaded.sort(key=lambda item: item[1].last_active)
        self._sessions: OrderedDict[SessionKey, Session] = OrderedDict(loaded)
        self._changed: dict[SessionKey, None] = {}
        self.horizon = horizon
        """No session that was ever dropped is above it."""

    def __len__(self) -> int:
        return len(self._sessions)

    def find_reply(self, key: SessionKey, seq: int, ack_below: int, now_ms: int) -> bytes | None:
        """The reply to a batch that was run before, or None: it is to be run now.

        Changes nothing: the batch may yet be refused.

        Args:
            key: Its session.
            seq: Its number in the session.
            ack_below: The lowest number that the client may still repeat.
            now_ms: The log's time.

        Raises:
            SessionExpired: it is not run, and whether it was before is no longer known.
            InvalidArgument: numbers that no correct client sends.
        """
        if key == NO_SESSION:
            return None
        if not ack_below <= seq:
            raise InvalidArgument(f"session: seq {seq} is below its own ack_below {ack_below}")
        session = self._sessions.get(key)
        if session is None:
            self._check_unknown(key[0], now_ms)
        else:
            reply = session.replies.get(seq)
            if reply is not None:
                return reply
            if seq < session.ack_below:
                raise SessionExpired(
                    f"session: the client had settled batch {seq} when it came again",
                    may_have_applied=True,
                )
            ack_below = max(ack_below, session.ack_below)
        if seq >= ack_below + SEQ_WINDOW:
            raise InvalidArgument(
                f"session: seq {seq} is not within {SEQ_WINDOW} of ack_below {ack_below}"
            )
        return None

    def _check_unknown(self, created: int, now_ms: int) -> None:
        if created <= self.horizon:
            told = "session: it has expired"
        elif wall_ms_of(created) > now_ms + CREATED_AHEAD_MS_MAX:
            told = "session: it was created in the future"
        else:
            return
        raise SessionExpired(told, welcome_at=max(revision_at(now_ms), self.horizon + 1))

    def record(
        self, key: SessionKey, seq: int, ack_below: int, reply: bytes, revision: int
    ) -> None:
        """Keep the reply to a batch that :meth:`find_reply` let pass, or answered.

        Args:
            key: Its session, which begins here if it is new.
            seq: Its number in the session.
            ack_below: The lowest number that the client may still repeat.
            reply: What it was answered.
            revision: The batch's own; above that of every batch before.
        """
        if key == NO_SESSION:
            return
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = Session(revision, ack_below, {})
        else:
            self._sessions.move_to_end(key)
            session.last_active = revision
            session.acknowledge(ack_below)
        session.replies[seq] = reply
        self._changed[key] = None

    def expire(self, now_ms: int, ttl_ms: int) -> None:
        """Drop sessions that have been idle for longer than ``ttl_ms``."""
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if wall_ms_of(oldest.last_active) + ttl_ms >= now_ms:
                break
            self._drop_oldest()

    def evict(self, sessions_max: int) -> None:
        """Drop the least recently active ones beyond ``sessions_max``."""
        while len(self._sessions) > sessions_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, _ = self._sessions.popitem(last=False)
        self.horizon = max(self.horizon, key[0])
        self._changed[key] = None

    def flush(self, prefix: bytes, batch: WriteBatch) -> None:
        """Write every session that changed since :meth:`written`, under ``prefix``."""
        for key in self._changed:
            session = self._sessions.get(key)
            if session is None:
                batch.delete(prefix + _KEY.pack(*key))
            else:
                batch.put(prefix + _KEY.pack(*key), session.encode())

    def written(self) -> None:
        """What :meth:`flush` wrote is in the engine."""
        self._changed.clear()
