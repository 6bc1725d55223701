"""From what a crash left behind to hosts that can go on.

Two things survive a crash: the engine as of its last flush (a prefix of what was applied,
with the applied index inside), and the write-ahead log. For each group this module finds the
one consistent state in them:

* a snapshot that was completely staged is installed first (it may have been half installed);
* entries between the engine's applied index and the log's compaction mark were committed,
  or the mark would not be there: they are applied again at once;
* the rest of the log is the core's to judge: a leader will say what is committed.

If the engine is ahead of the whole log or contradicts it, and stands where a snapshot was
installed, the crash came before the log could say so: the log is obsolete and the engine's
state is the base. Without such a snapshot the log is an older one than it was, or its end is
lost, for no entry is applied before it is durable in the log: refused, because votes and
acknowledged entries are gone with it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvstore.errors import CorruptionError
from kvstore.ids import NO_REPLICA, GroupId, LogIndex, ReplicaId, Term
from kvstore.raft import confchange
from kvstore.raft.core import RecoveredGroup
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, HardState, SnapshotMeta
from kvstore.storage import records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.kv.engine import Engine
    from kvstore.kv.state_machine import StateMachine
    from kvstore.storage.wal import RecoveredLog

log = logging.getLogger(__name__)

REPLAY_BATCH_BYTES = 1024 * 1024


def recover_group(
    group: GroupId,
    initial: GroupConfig,
    machine: StateMachine,
    engine: Engine,
    recovered: RecoveredLog | None,
    installed_index: Callable[[GroupId], LogIndex],
) -> RecoveredGroup:
    """Bring ``machine`` up to the log's mark and say from where the core goes on.

    ``installed_index`` tells where the group's last installed snapshot stands, 0 for nowhere.

    Raises:
        CorruptionError: entries are missing that only the log could have had.
    """
    hard_state, mark, entries = _from_log(recovered)
    end = recovered.end if recovered is not None else 0
    if machine.applied_index > end or _contradicts(machine, entries):
        if machine.applied_index != installed_index(group):
            raise _older(group, machine.applied_index, end)
        entries = ()
    if mark is not None:
        _replay(group, machine, engine, [e for e in entries if e.index <= mark.index], mark)
    if entries:
        base = mark or SnapshotMeta(LogIndex(0), Term(0), initial)
    else:
        base = _state_as_base(machine, initial)
    kept = tuple(entry for entry in entries if entry.index > base.index)
    if kept and kept[0].index != base.index + 1:
        raise _missing(group, base.index + 1, kept[0].index - 1)
    return RecoveredGroup(
        hard_state=hard_state,
        base=base,
        entries=kept,
        applied_index=LogIndex(machine.applied_index),
    )


def marks_missing(
    group: GroupId, base: SnapshotMeta, recovered: RecoveredLog | None
) -> list[bytes]:
    """Records that the log lacks if a crash came between installing a snapshot and its mark.

    Without them the next entry would leave a gap behind the old log.
    """
    marked = recovered.mark[0] if recovered is not None and recovered.mark is not None else 0
    if base.index <= marked:
        return []
    return [
        records.encode_mark(group, base.index, base.term, confchange.encode(base.config)),
        records.encode_truncation(group, LogIndex(base.index + 1)),
    ]


def _from_log(
    recovered: RecoveredLog | None,
) -> tuple[HardState, SnapshotMeta | None, tuple[Entry, ...]]:
    if recovered is None:
        return HardState(Term(0), NO_REPLICA), None, ()
    mark = None
    if recovered.mark is not None:
        index, term, config = recovered.mark
        mark = SnapshotMeta(LogIndex(index), Term(term), confchange.decode(config))
    entries = tuple(
        Entry(LogIndex(index), Term(term), EntryKind(kind), payload)
        for index, term, kind, payload in recovered.entries
    )
    if mark is not None and any(
        entry.index == mark.index and entry.term != mark.term for entry in entries
    ):
        # A snapshot replaced this log. What continues it is of its term or a later one; what
        # stood behind the conflict is not, for no leader from then on had it (Raft §5.4).
        entries = tuple(e for e in entries if e.index > mark.index and e.term >= mark.term)
    return HardState(Term(recovered.term), ReplicaId(recovered.vote)), mark, entries


def _contradicts(machine: StateMachine, entries: Sequence[Entry]) -> bool:
    """Whether the engine's last entry is another one than that of the log."""
    if not entries:
        return False
    offset = machine.applied_index - entries[0].index
    return 0 <= offset < len(entries) and entries[offset].term != machine.applied_term


def _state_as_base(machine: StateMachine, initial: GroupConfig) -> SnapshotMeta:
    """The engine's own state, when no entry of the log continues it."""
    config = confchange.decode(machine.config_bytes) if machine.config_bytes else initial
    return SnapshotMeta(LogIndex(machine.applied_index), Term(machine.applied_term), config)


def _replay(
    group: GroupId,
    machine: StateMachine,
    engine: Engine,
    entries: Sequence[Entry],
    mark: SnapshotMeta,
) -> None:
    """Apply again what the mark proves to be committed and the engine's flush had not caught."""
    missing = [entry for entry in entries if entry.index > machine.applied_index]
    if missing and missing[0].index != machine.applied_index + 1:
        raise _missing(group, machine.applied_index + 1, missing[0].index - 1)
    batch, size = engine.batch(), 0
    for entry in missing:
        _apply(machine, entry)
        size += len(entry.payload)
        if size > REPLAY_BATCH_BYTES or entry is missing[-1]:
            machine.flush(batch)
            engine.write(batch)
            machine.written()
            batch, size = engine.batch(), 0
    if machine.applied_index < mark.index:
        raise _missing(group, machine.applied_index + 1, mark.index)
    if missing:
        log.info("group %d: applied %d entries of the log again", group, len(missing))


def _apply(machine: StateMachine, entry: Entry) -> None:
    match entry.kind:
        case EntryKind.COMMAND:
            machine.apply(entry.index, entry.term, entry.payload)
        case EntryKind.CONFIG:
            machine.apply_config(entry.index, entry.term, entry.payload)
        case EntryKind.NOOP:
            machine.apply_noop(entry.index, entry.term)


def _older(group: GroupId, applied: int, end: int) -> CorruptionError:
    return CorruptionError(
        f"group {group}: entry {applied} was applied from this log, which does not have it (it "
        f"ends at {end}): it is an older copy, or its end is lost",
        file="write-ahead log",
        offset=0,
    )


def _missing(group: GroupId, first: int, last: int) -> CorruptionError:
    return CorruptionError(
        f"group {group}: entries {first} to {last} are in neither the engine nor the log",
        file="write-ahead log",
        offset=0,
    )


class RecoveryProgress:
    """Says once a second how far the recovery of a long log is."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_at = clock() + 1.0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the log has been read."""
        if self._clock() >= self._next_at:
            self._next_at = self._clock() + 1.0
            log.info("recovering: %d of %d MiB of the log", done_bytes >> 20, total_bytes >> 20)
