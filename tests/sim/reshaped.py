"""What a leader may make of its group's members on behalf of the shard map (thesis §4.3).

* Where somebody is to come, there are never fewer voters than before.
* Only one that has nearly all of the log becomes a voter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import in_life
from kvstore.server.upkeep import CATCH_UP_ENTRIES_MAX
from sim.world import Violation

if TYPE_CHECKING:
    from kvstore.ids import GroupId
    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.state import RaftState
    from kvstore.sharding.shard_map import ShardMap


def check_step(
    who: str, group: GroupId, state: RaftState, before: GroupConfig, shard_map: ShardMap | None
) -> None:
    """Look at a change that was just taken by the leader's core.

    Args:
        who: Its node.
        group: Whose members change.
        state: Of the leader.
        before: The configuration that was in force.
        shard_map: The one that is followed; None if no node ever went by it.

    Raises:
        Violation: it is none of the steps that there are.
    """
    lead = state.leading
    change = None if shard_map is None else shard_map.change_of(group)
    if lead is None or shard_map is None:
        return
    after = state.config
    is_exchange = change is not None and change.add is not None and not change.cancelled_at
    if is_exchange and len(after.voters) < len(before.voters):
        raise Violation(f"{who} takes group {group} from {before} to {after}, one fewer")
    known = {in_life(voter, 0) for voter in before.voters}
    for voter in after.voters:
        peer = lead.tracker.peers.get(voter)
        if in_life(voter, 0) in known or peer is None:
            continue
        if peer.match_index + CATCH_UP_ENTRIES_MAX < state.log.last_index - 1:
            raise Violation(
                f"{who} makes {voter} a voter of group {group}, which has {peer.match_index} of "
                f"{state.log.last_index} entries"
            )
