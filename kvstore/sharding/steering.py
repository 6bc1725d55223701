"""What is to become of the shard map next: a function of the map and of what is known.

The controller on the meta group's leader calls :func:`next_map` again and again and has the meta
group commit what it returns. Nothing is remembered from call to call: whoever leads the meta
group next goes on from the map. What is known is a hint (the membership's view) or a fact that
cannot become untrue (a group has committed a configuration); only the map decides.

The rules run in order, each on what the one before has made, all in one new version. The order
matters: what groups have done comes first, then who there is, then what is wanted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.ids import META_GROUP, GroupId, NodeId, group_of_shard
from kvstore.sharding import changes
from kvstore.sharding.placement import placement
from kvstore.sharding.rebalance import plan
from kvstore.sharding.shard_map import NodeState, meta_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kvstore.sharding.known import Known, Report
    from kvstore.sharding.shard_map import Change, MapNode, ShardMap

GIVE_UP_AFTER_S: Final = 10.0
"""A change waits for the node that a copy is to come to; then it is cancelled."""


def next_map(shard_map: ShardMap, known: Known) -> ShardMap | None:
    """The map that should follow, None if there is nothing to change."""
    after = shard_map
    for rule in _RULES:
        after = rule(after, known)
    return None if after == shard_map else changes.succeed(shard_map, after)


# -- what the groups have done --------------------------------------------------------------------


def _settle(shard_map: ShardMap, known: Known) -> ShardMap:
    """Changes that were made are finished, those that were undone are abandoned."""
    for change in shard_map.changes:
        report = known.reports.get(change.group)
        if report is None or report.outgoing:
            continue
        if _is_made(change, report):
            shard_map = changes.finish(shard_map, change)
        elif _is_undone(change, report):
            shard_map = changes.abandon(shard_map, change)
    return shard_map


def _is_made(change: Change, report: Report) -> bool:
    """Whether the group has done so since it was asked to: an old report is none of it."""
    if report.epoch < (change.cancelled_at or change.begun_at):
        return False
    has_come = change.add is None or change.add.id in report.voters
    is_gone = change.remove is None or change.remove.id not in report.voters
    return has_come and is_gone


def _is_undone(change: Change, report: Report) -> bool:
    """Whether the group is as before the change, and no leader of it can make the change again.

    One that has not yet heard that it was cancelled could, were the group not in an epoch in
    which nobody may act by an older map.
    """
    if not change.cancelled_at or report.epoch < change.cancelled_at:
        return False
    is_out = change.add is None or change.add.id not in report.voters | report.learners
    is_back = change.remove is None or change.remove.id in report.voters
    return is_out and is_back


# -- who there is ---------------------------------------------------------------------------------


def _admit(shard_map: ShardMap, known: Known) -> ShardMap:
    """Whoever has joined becomes a member; who listens elsewhere is found there."""
    for name in sorted(known.seen):
        seen = known.seen[name]
        if not seen.is_alive or name in shard_map.removed:
            continue
        if not shard_map.has(name):
            if not seen.is_settled or not changes.has_numbers_left(shard_map):
                continue
            shard_map = changes.admit(shard_map, name, seen.address, seen.weight, seen.zone)
        elif seen.has_answered and shard_map.node(name).address != seen.address:
            shard_map = changes.set_address(shard_map, name, seen.address)
    return shard_map


def _note_losses(shard_map: ShardMap, known: Known) -> ShardMap:
    """Whoever is dead for too long is lost where another can take its place."""
    patience_s = known.policy.replace_after_s
    for node in shard_map.nodes:
        if node.state is NodeState.LOST and known.is_settled(node.id):
            shard_map = changes.set_state(shard_map, node.id, NodeState.ACTIVE)
        elif node.state is NodeState.ACTIVE and 0 < patience_s <= known.gone_s(node.id):
            spare = [other for other in _takers(shard_map) if known.is_alive(other.id)]
            if len(spare) >= shard_map.replication:
                shard_map = changes.set_state(shard_map, node.id, NodeState.LOST)
    return shard_map


def _give_up(shard_map: ShardMap, known: Known) -> ShardMap:
    """Changes that nobody wants any more, or that cannot come to an end."""
    takers = {node.id for node in _takers(shard_map)}
    for change in shard_map.changes:
        if not change.cancelled_at and _is_in_vain(shard_map, change, takers, known):
            shard_map = changes.cancel(shard_map, change)
    return shard_map


def _is_in_vain(
    shard_map: ShardMap, change: Change, takers: Collection[NodeId], known: Known
) -> bool:
    if change.add is not None:
        node = change.add.node
        is_gone = known.gone_s(node) >= GIVE_UP_AFTER_S
        return node not in takers or is_gone or change.group in known.stalled
    # One that was to go without another in its place is to stay after all.
    assert change.remove is not None
    is_needed = len(shard_map.members(change.group)) <= shard_map.replication
    return change.group != META_GROUP and is_needed and change.remove.node in takers


def _expel(shard_map: ShardMap, known: Known) -> ShardMap:
    """Whoever is to be removed goes, once it knows that it holds nothing.

    So never by the version that takes its last replica: of that it has yet to hear.
    """
    for node in shard_map.nodes:
        is_leaving = node.state is NodeState.REMOVING and node.id in known.may_go
        if is_leaving and not shard_map.held_by(node.id):
            shard_map = changes.expel(shard_map, node.id)
    return shard_map


# -- what is wanted -------------------------------------------------------------------------------


def _begin_in_meta(shard_map: ShardMap, known: Known) -> ShardMap:
    """The meta group gets as many replicas as it should have, on nodes that stay.

    They are in different zones while there are enough.
    """
    if shard_map.change_of(META_GROUP) is not None:
        return shard_map
    takers = {node.id: node for node in _takers(shard_map)}
    size = meta_size(len(takers))
    members = [replica.node for replica in shard_map.meta]
    stays = [takers[node] for node in members if node in takers]
    comes = _who_comes(shard_map, known, stays)
    goes = next((node for node in reversed(members) if node not in takers), None)
    if goes is None and len(stays) >= size:
        surplus = _most_dispensable(stays, known)
        is_better = comes is not None and _crowd(comes, stays) == 0 and _crowd(surplus, stays) > 1
        if len(stays) > size or is_better:
            goes = surplus.id
        if len(stays) > size or not is_better:
            comes = None
    elif len(stays) >= size:
        comes = None
    if comes is not None:
        return changes.begin(shard_map, META_GROUP, comes.id, goes)
    if goes is not None and (len(stays) >= size or _is_no_loss(shard_map, known, goes, stays)):
        return changes.begin(shard_map, META_GROUP, None, goes)
    return shard_map


def wanted_in_meta(shard_map: ShardMap, known: Known) -> Moving | None:
    """The next change of the meta group; None if none is wanted, or one is under way."""
    if shard_map.change_of(META_GROUP) is not None:
        return None
    change = _begin_in_meta(shard_map, known).change_of(META_GROUP)
    if change is None:
        return None
    add, remove = (None if end is None else end.node for end in (change.add, change.remove))
    return Moving(META_GROUP, add, remove, for_balance=False)


def _is_no_loss(shard_map: ShardMap, known: Known, goes: NodeId, stays: Sequence[MapNode]) -> bool:
    """Whether the meta group is no worse off without ``goes``, with nobody to come now.

    One that lives waits until somebody can: the group keeps as many live voters as it has.
    """
    is_only_one = len(stays) >= len(shard_map.meta) - 1
    nobody_ever = not changes.has_ids_left(shard_map, META_GROUP)
    return is_only_one and (nobody_ever or not known.is_alive(goes))


def _who_comes(shard_map: ShardMap, known: Known, stays: Sequence[MapNode]) -> MapNode | None:
    """The node that a replica of the meta group should come to next: of the emptiest zone."""
    held = {replica.node for replica in shard_map.meta}
    fit = [n for n in _takers(shard_map) if n.id not in held and known.can_take(n.id)]
    if not fit or not changes.has_ids_left(shard_map, META_GROUP):
        return None
    return min(fit, key=lambda node: (_crowd(node, stays), node.number))


def _most_dispensable(stays: Sequence[MapNode], known: Known) -> MapNode:
    """Whoever is dead, else whose zone has most, else the youngest."""
    return max(stays, key=lambda n: (not known.is_alive(n.id), _crowd(n, stays), n.number))


def _crowd(node: MapNode, others: Sequence[MapNode]) -> int:
    """How many of ``others`` may fail together with ``node``."""
    return sum(node.id == o.id or (node.zone != "" and node.zone == o.zone) for o in others)


def _begin_moves(shard_map: ShardMap, known: Known) -> ShardMap:
    """Moves towards the placement that is wanted, as many as may be under way."""
    moving = [
        change
        for change in shard_map.changes
        if change.group not in known.stalled and _has_majority(shard_map, known, change.group)
    ]
    room = known.policy.moves_max - len(moving)
    if room <= 0:
        return shard_map
    wanted = wanted_moves(shard_map, known)
    if known.policy.balances and not shard_map.is_rebalancing and not all(map(_is_urgent, wanted)):
        shard_map = changes.rebalance(shard_map, is_wanted=True)
        wanted = wanted_moves(shard_map, known)
    if not shard_map.is_rebalancing:
        wanted = [move for move in wanted if _is_urgent(move)]
    free = [
        move
        for move in wanted
        if shard_map.change_of(move.group) is None and _has_majority(shard_map, known, move.group)
    ]
    for move in free[:room]:
        if shard_map.change_of(move.group) is None:
            shard_map = changes.begin(shard_map, move.group, move.add, move.remove)
    return shard_map


def _has_majority(shard_map: ShardMap, known: Known, group: GroupId) -> bool:
    """Without one a group can change nothing, and must not keep others from changing."""
    members = shard_map.members(group)
    return 2 * sum(known.is_alive(replica.node) for replica in members) > len(members)


class Moving(NamedTuple):
    """A move that is wanted."""

    group: GroupId
    add: NodeId | None
    """Where a copy comes to."""
    remove: NodeId | None
    """Where one goes from."""
    for_balance: bool
    """Whether only the load asks for it; else a node that is to hold nothing, or a shard that
    lacks a copy or has one too many."""


def _is_urgent(move: Moving) -> bool:
    return not move.for_balance


def wanted_moves(shard_map: ShardMap, known: Known) -> list[Moving]:
    """All moves that are left, beside the changes under way, the most urgent first."""
    now = changes.after(shard_map)
    takers = _takers(now)
    if not takers:
        return []
    current = tuple(tuple(replica.node for replica in members) for members in now.replicas)
    names = {node.id for node in takers}
    unfit = known.unfit & names
    planned = plan(current, _target(now, _fit(now, takers, known), current))
    moves = [
        Moving(
            group_of_shard(move.shard),
            move.add,
            move.remove,
            move.add is not None and move.remove in names,
        )
        for move in planned
        if move.remove not in unfit
        and (move.add is None or known.can_take(move.add))
        and (move.add is None or changes.has_ids_left(now, group_of_shard(move.shard)))
    ]
    return sorted(moves, key=lambda move: move.for_balance)


def _fit(shard_map: ShardMap, takers: tuple[MapNode, ...], known: Known) -> tuple[MapNode, ...]:
    """Those of ``takers`` that may be given something, if they are enough.

    The others keep what they have.
    """
    fit = tuple(node for node in takers if node.id not in known.unfit)
    return fit if len(fit) >= shard_map.replication else takers


def _target(
    shard_map: ShardMap, takers: tuple[MapNode, ...], current: tuple[tuple[NodeId, ...], ...]
) -> tuple[tuple[NodeId, ...], ...]:
    copies = min(shard_map.replication, len(takers))
    return _placed(takers, shard_map.shards, copies, current, shard_map.is_rebalancing)


@lru_cache(maxsize=4)
def _placed(
    takers: tuple[MapNode, ...],
    shards: int,
    copies: int,
    current: tuple[tuple[NodeId, ...], ...],
    is_exact: bool,
) -> tuple[tuple[NodeId, ...], ...]:
    """Worked out once for what does not change: the controller asks several times a second."""
    return placement(takers, shards, copies, current, is_exact=is_exact)


def _moves_left(shard_map: ShardMap, known: Known) -> bool:
    """Whether any move that is wanted can be made, now or later."""
    wanted = wanted_moves(shard_map, known)
    return any(_is_urgent(move) or shard_map.is_rebalancing for move in wanted)


def _spread_leaders(shard_map: ShardMap, known: Known) -> ShardMap:
    """Once nothing moves, leaders are preferred so that they are spread evenly."""
    takers = _takers(shard_map)
    if shard_map.changes or not takers or _moves_left(shard_map, known):
        return shard_map
    current = tuple(tuple(r.node for r in members) for members in shard_map.replicas)
    target = _target(shard_map, takers, current)
    leaders = [
        to[0] if set(to) == set(held) else held[0] for to, held in zip(target, current, strict=True)
    ]
    return changes.rebalance(changes.prefer(shard_map, leaders), is_wanted=False)


def _takers(shard_map: ShardMap) -> tuple[MapNode, ...]:
    """The nodes that are to have their share."""
    return tuple(node for node in shard_map.nodes if node.state is NodeState.ACTIVE)


_RULES: Final[tuple[Callable[[ShardMap, Known], ShardMap], ...]] = (
    _settle,
    _admit,
    _note_losses,
    _give_up,
    _expel,
    _begin_in_meta,
    _begin_moves,
    _spread_leaders,
)
