"""When the log in memory is cut short (Raft §7), by bytes and not by count.

Applied entries are kept only for peers that lag. A peer further behind than that gets a
snapshot; while one is under way the log may grow well beyond its bound, so that its receiver
does not need another one at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft import snapshots
from kvstore.raft.progress import ProgressState

if TYPE_CHECKING:
    from kvstore.raft.state import RaftState

LAG_FACTOR = 2
"""A live peer's entries are kept up to so many times the usual bound."""

RETENTION_FACTOR = 8
"""What the receiver of a snapshot will need is kept up to so many times the usual bound."""


def maybe_compact(state: RaftState) -> bool:
    """Halve a log that is over its bound, as far as that is applied. True if it was cut."""
    log, bytes_max = state.log, state.options.log_bytes_max
    if log.bytes <= bytes_max:
        return False
    index = log.compactable(state.applied_index, bytes_max // 2)
    if state.leading is not None and log.bytes <= LAG_FACTOR * bytes_max:
        for peer in state.leading.tracker.peers.values():
            if peer.recently_active and peer.state is not ProgressState.SNAPSHOT:
                index = min(index, peer.match_index)
    needed = snapshots.retention_index(state)
    if needed is not None and log.bytes <= RETENTION_FACTOR * bytes_max:
        index = min(index, needed)
    if index <= log.base_index:
        return False
    log.compact(index)
    state.out.compacted = (index, log.base_term, log.config_at(index))
    return True
