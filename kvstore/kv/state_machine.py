"""The state machine of one shard: what its log means (Raft §2, thesis §6.3).

The same entries give the same engine contents to the byte, on every replica, however they are
gathered into engine writes and wherever a restart falls between two of them. Therefore:

* Nothing but the entries decides. Time is their revisions; limits travel in them; whether the
  shard owns a key follows from the key and the number of shards, which never changes.
* Everything that later entries depend on is in the engine: values, sessions, the horizon, the
  last revision, the counts; and it is written together with the index up to which it is the result.
* An entry that could not come from a correct leader stops the replica, rather than be guessed
  at: :class:`~kvstore.errors.Internal`. A client's batch that breaks a rule is another thing.
  It is refused as a whole, changes nothing, and its neighbours in the entry are run.

The caller applies entries in order, then has :meth:`~StateMachine.flush` add what they came to to
one write batch, writes it, and calls :meth:`~StateMachine.written`. What it could not write it may
write again; to give up, it calls :meth:`~StateMachine.reload`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kvstore.errors import Internal, InvalidArgument, SessionExpired
from kvstore.hlc import wall_ms_of
from kvstore.kv import applied, commands, replies
from kvstore.kv.applied import Applied
from kvstore.kv.data import Data
from kvstore.kv.engine import Space, rows_of, space_prefix, space_range
from kvstore.kv.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from kvstore.ids import ShardId
    from kvstore.kv.data import Row
    from kvstore.kv.engine import Engine, WriteBatch
    from kvstore.kv.limits import ApplyLimits


class Loaded(NamedTuple):
    """What the engine held when it was looked at."""

    applied: Applied
    sessions: Sessions


class StateMachine:
    """Invariant: the engine holds the state as of ``_written``, and readers see no other.

    ``_applied`` is what :meth:`flush` will write; the next entry must continue it.
    """

    _applied: Applied
    _written: Applied
    _sessions: Sessions

    def __init__(
        self, shard: ShardId, engine: Engine, *, owns: Callable[[Collection[bytes]], bool]
    ) -> None:
        """Take up the state that the engine holds; an empty engine is a new shard.

        In whatever thread. Takes long where :meth:`load` does.

        Args:
            shard: Whose rows in the engine these are.
            engine: Where all state is kept.
            owns: Whether keys all belong to the shard; must only depend on the keys.

        Raises:
            DataDirectoryError: a newer version wrote it.
            DiskFull: the counts must be written, and there is no room.
        """
        self._engine = engine
        self._owns = owns
        self._shard = shard
        self._applied_key = applied.applied_key(shard)
        self._config_key = applied.config_key(shard)
        self._sessions_prefix = space_prefix(shard, Space.SESSIONS)
        self._data = Data(shard, engine)
        self._take_up(self.load())

    @property
    def applied_index(self) -> int:
        """The last entry whose effects are in the engine, where readers see them."""
        return self._written.index

    @property
    def applied_term(self) -> int:
        """The term of that entry."""
        return self._written.term

    @property
    def last_revision(self) -> int:
        """The highest revision up to that entry; a leader's must lie above it."""
        return self._written.last_revision

    @property
    def config_bytes(self) -> bytes:
        """The replica configuration as of that entry; empty if the log has told none."""
        return self._written.config_bytes

    @property
    def keys(self) -> int:
        """How many keys the shard has, as of that entry."""
        return self._written.keys

    @property
    def size_bytes(self) -> int:
        """Bytes of those keys and their values, as clients gave them."""
        return self._written.size_bytes

    # -- entries come in ------------------------------------------------------------------

    def apply(self, index: int, term: int, payload: bytes) -> list[bytes]:
        """Run the batches of one entry.

        Args:
            index: The entry's; one above the last.
            term: The entry's.
            payload: As :func:`kvstore.kv.commands.encode_entry` made it.

        Returns:
            The reply to each batch, in order (:mod:`kvstore.kv.replies`). It may leave once
            what it tells of is :meth:`written`.

        Raises:
            Internal: no correct leader proposes this; the replica must stop.
        """
        self._check_next(index)
        entry = commands.decode_entry(payload)
        revision = entry.first_revision
        before = self._applied
        if revision <= before.last_revision:
            raise Internal(
                f"shard {self._shard}: entry {index} has revision {revision}, "
                f"not above {before.last_revision}"
            )
        self._sessions.expire(wall_ms_of(revision), entry.limits.session_ttl_ms)
        answers = []
        for count, encoded in entry.batches:
            answers.append(self._run(count, encoded, revision, entry.limits))
            revision += count
        self._sessions.evict(entry.limits.sessions_max)
        data = self._data
        self._applied = Applied(
            index, term, revision - 1, before.config_bytes, data.keys, data.size_bytes
        )
        return answers

    def apply_config(self, index: int, term: int, config_bytes: bytes) -> None:
        """Note the replica configuration that an entry put in force."""
        self._check_next(index)
        self._applied = replace(self._applied, index=index, term=term, config_bytes=config_bytes)

    def apply_noop(self, index: int, term: int) -> None:
        """Note an entry without commands."""
        self._check_next(index)
        self._applied = replace(self._applied, index=index, term=term)

    def _check_next(self, index: int) -> None:
        if index != self._applied.index + 1:
            raise Internal(
                f"shard {self._shard}: entry {index} was given after entry {self._applied.index}"
            )

    def _run(self, count: int, encoded: bytes, revision: int, limits: ApplyLimits) -> bytes:
        """Run one client's batch, unless it was run before or breaks a rule."""
        try:
            opened = commands.decode_batch(encoded, count)
            session, seq, ack_below = opened.session, opened.seq, opened.ack_below
            reply = self._sessions.find_reply(session, seq, ack_below, wall_ms_of(revision))
            if reply is None:
                reply = self._run_commands(opened, revision, limits)
        except (InvalidArgument, SessionExpired) as error:
            return replies.encode_refused(error)
        self._sessions.record(session, seq, ack_below, reply, revision)
        return reply

    def _run_commands(self, opened: commands.Batch, revision: int, limits: ApplyLimits) -> bytes:
        """Run all commands of a batch and make the reply; if it breaks a rule nothing is run.

        Raises:
            InvalidArgument: which rule.
        """
        puts = commands.decode_puts(opened, limits, self._owns)
        if puts is not None:
            self._data.put_all(*puts, revision)
            return replies.encode_all_done(revision, opened.announced)
        to_run = commands.decode_commands(opened, limits, self._owns)
        return replies.encode_done(revision, self._data.run(to_run, revision))

    # -- into the engine ------------------------------------------------------------------

    def flush(self, batch: WriteBatch) -> None:
        """Add to ``batch`` what all entries since :meth:`written` changed."""
        self._data.flush(batch)
        self._sessions.flush(self._sessions_prefix, batch)
        if self._applied.config_bytes != self._written.config_bytes:
            batch.put(self._config_key, self._applied.config_bytes)
        batch.put(self._applied_key, applied.encode(self._applied, self._sessions.horizon))

    def written(self) -> None:
        """The batch is in the engine."""
        self._written = self._applied
        self._sessions.written()
        self._data.written()

    def reload(self, loaded: Loaded | None = None) -> None:
        """Take up what the engine holds: another state was put there, or a write given up.

        Args:
            loaded: What :meth:`load` found; by default it is called.

        Raises:
            DataDirectoryError: a newer version wrote it.
            DiskFull: the counts must be written, and there is no room.
        """
        self.forget_cached()
        self._take_up(loaded or self.load())

    def load(self) -> Loaded:
        """Look what the engine holds, in whatever thread; nothing may be applied meanwhile.

        With thousands of sessions that takes part of a second. If a version wrote the state that
        did not count the keys all of them are read and the counts written, unless :meth:`upgrade`
        has done so.

        Raises:
            DataDirectoryError: a newer version wrote it.
            DiskFull: the counts must be written, and there is no room.
        """
        found, horizon = applied.load(self._shard, self._engine)
        return Loaded(found, Sessions(self._stored_sessions(), horizon))

    def _take_up(self, loaded: Loaded) -> None:
        self._applied, self._sessions = loaded
        self._data.take_up(self._applied.keys, self._applied.size_bytes)
        self.written()

    def forget_cached(self) -> None:
        """The engine's rows were changed or removed by others."""
        self._data.forget_cached()

    def upgrade(self) -> None:
        """Do the part of :meth:`load` that may take seconds, in whatever thread.

        The engine must hold a whole state, and nothing may be applied to it meanwhile.

        Raises:
            DiskFull: the counts must be written, and there is no room.
        """
        applied.upgrade(self._shard, self._engine)

    def _stored_sessions(self) -> Iterator[tuple[bytes, bytes]]:
        for key, stored in rows_of(self._engine, *space_range(self._shard, Space.SESSIONS)):
            yield key[len(self._sessions_prefix) :], stored

    # -- reads ----------------------------------------------------------------------------

    def get_many(
        self, keys: Sequence[bytes], bytes_max: int | None = None
    ) -> list[tuple[bytes, int] | None]:
        """Value and modified revision of each of ``keys``, None where it does not exist.

        Raises:
            InvalidArgument: together they have more than ``bytes_max``.
        """
        return self._data.get_many(keys, bytes_max)

    def scan(
        self, start: bytes, end: bytes | None, limit: int, bytes_max: int, keys_only: bool
    ) -> tuple[list[Row], bool]:
        """A page of the shard's keys, in order. May be called in any thread.

        Args:
            start: First key, inclusive; empty for the shard's first.
            end: Last key, exclusive; None for the end of the shard.
            limit: Rows at most, at least 1.
            bytes_max: Bytes of keys and values at most; one row comes even if it is larger.
            keys_only: Leave the values out. They count for ``bytes_max`` all the same.

        Returns:
            The rows, and whether there are more.

        Raises:
            InvalidArgument: ``limit`` or ``bytes_max`` below 1.
        """
        return self._data.scan(start, end, limit, bytes_max, keys_only)
