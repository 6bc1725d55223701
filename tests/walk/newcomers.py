"""Nodes that join, and what may befall them until they have their share."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from chaos.cluster import comes_true, wait_for
from kvstore.ids import META_GROUP
from kvstore.sharding.stalls import STALLED_AFTER_S
from kvstore.wire.admin import Action
from walk.cell import Cell, DidNotBite, Scene
from walk.cluster import WAIT_S, address
from walk.kills import SLOW_LATE_MS, flip
from walk.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from chaos.cluster import Node
    from chaos.proxy import Link
    from kvstore.sharding.shard_map import ShardMap
    from walk.stages import Move
    from walk.watch import Sight

SHORT_S = 3.0
"""Shorter than a node is waited for, longer than an election takes."""
GIVEN_UP_S_MAX = STALLED_AFTER_S + 60.0
"""Within this a change is given up whose newcomer is gone, or takes nothing in."""
IS_FULL = "disk full ("
NOT_STORED = "could not be stored"


def partition_cells() -> list[Cell]:
    return [
        Cell("cut-off-newcomer-snapshot", partial(_cut_off, Stage.SNAPSHOT, until_given_up=False)),
        Cell("cut-off-newcomer-joint", partial(_cut_off, Stage.JOINT, until_given_up=False)),
        Cell("cut-off-newcomer-for-long", partial(_cut_off, Stage.SNAPSHOT, until_given_up=True)),
        Cell("cut-off-from-steering", _cut_off_from_steering),
        Cell("cut-off-from-leader", _cut_off_from_leader),
    ]


def disk_cells() -> list[Cell]:
    return [
        Cell("disk-full-for-a-while", partial(_full, _for_a_while)),
        Cell("disk-full-until-given-up", partial(_full, _until_given_up)),
        Cell("disk-full-and-drained", partial(_full, _drained)),
    ]


def old_replica_cells() -> list[Cell]:
    return [
        Cell(f"old-replica-{stage.name.lower().replace('_', '-')}", partial(_old_replica, stage))
        for stage in (Stage.SNAPSHOT, Stage.CATCHING_UP, Stage.JOINT)
    ]


# -- joining -------------------------------------------------------------------------------------


async def newcomer(scene: Scene) -> Node:
    """A node that has just been started, in a cluster that is otherwise the founders'."""
    await retire_all(scene)
    scene.watch.forget_moves()
    node = await scene.cluster.join()
    scene.watch.add(node.id, address(node))
    return node


async def retire_all(scene: Scene) -> None:
    """The last to join go again, until there are as many as at first."""
    there = [node for node in scene.cluster.nodes if node.id not in scene.ground.absent]
    for node in there[scene.cluster.founders :]:
        await retire(scene, node)


async def retire(scene: Scene, node: Node) -> None:
    """Remove a node, and stop it once it is none of the members any more."""
    await scene.cluster.order(Action.REMOVE, node.id)
    await until_map(scene, lambda shard_map: node.id in shard_map.removed, f"{node.id} is removed")
    scene.ground.absent.add(node.id)
    node.is_death_expected = True
    await asyncio.to_thread(node.end)


async def until_map(scene: Scene, holds: Callable[[ShardMap], bool], what: str) -> None:
    async def is_so() -> bool:
        shard_map = scene.watch.shard_map
        return shard_map is not None and holds(shard_map)

    await wait_for(is_so, what, GIVEN_UP_S_MAX)


async def reached(
    scene: Scene,
    node: Node,
    stage: Stage,
    where: Callable[[Sight], bool] = lambda sight: True,
) -> Sight:
    """A move to ``node`` at ``stage``; what is to be committed late is slow until then.

    Raises:
        DidNotBite: none was seen there.
    """

    def hold(sight: Sight) -> None:
        if stage >= Stage.CATCHING_UP and sight.stage >= Stage.SNAPSHOT:
            scene.cluster.slow(SLOW_LATE_MS)

    def is_there(sight: Sight) -> bool:
        move = sight.move
        is_to_it = move.target == node.id and move.group != META_GROUP
        return is_to_it and sight.stage is stage and where(sight)

    sight = await scene.watch.reach(is_there, WAIT_S, hold)
    if sight is None:
        raise DidNotBite(f"nothing came to {node.id} as far as {stage.name}")
    scene.tell(f"{sight.move} at {sight.stage.name}")
    return sight


def is_given_up(move: Move, shard_map: ShardMap) -> bool:
    """Whether the map does not want ``move`` any more, or something else by now."""
    change = shard_map.change_of(move.group)
    is_it = change is not None and change.begun_at == move.begun_at
    return not is_it or bool(change and change.cancelled_at)


# -- partitions ----------------------------------------------------------------------------------


async def _cut_off(stage: Stage, scene: Scene, *, until_given_up: bool) -> None:
    """Nobody hears the newcomer, and it hears nobody."""
    node = await newcomer(scene)
    sight = await reached(scene, node, stage)
    with _cut(scene, scene.cluster.links_of(node.id)):
        scene.cluster.slow(0)
        if until_given_up:
            await until_map(scene, partial(is_given_up, sight.move), "the move is given up")
            scene.tell("given up")
            await until_map(scene, lambda shard_map: not shard_map.changes, "nothing moves")
        else:
            await asyncio.sleep(SHORT_S)


async def _cut_off_from_steering(scene: Scene) -> None:
    """The newcomer and the meta group's leader, who does not lead the shard, hear no word."""
    node = await newcomer(scene)
    sight = await reached(scene, node, Stage.SNAPSHOT, lambda s: s.leader != s.steering)
    if sight.steering is None:
        raise DidNotBite("nobody leads the meta group")
    await _held_apart(scene, node, sight.steering, sight)


async def _cut_off_from_leader(scene: Scene) -> None:
    """The newcomer and the leader of the shard that is to come do not hear each other."""
    node = await newcomer(scene)
    sight = await reached(scene, node, Stage.SNAPSHOT)
    if sight.leader is None:
        raise DidNotBite("nobody leads the shard")
    await _held_apart(scene, node, sight.leader, sight)


async def _held_apart(scene: Scene, node: Node, name: str, sight: Sight) -> None:
    """Until the move has ended one way or the other, though the way stays cut."""
    ends = {(node.id, name), (name, node.id)}
    with _cut(scene, [link for pair, link in scene.cluster.links.items() if pair in ends]):
        scene.tell(f"{node.id} | {name}")

        def is_over(shard_map: ShardMap) -> bool:
            return is_given_up(sight.move, shard_map)

        await until_map(scene, is_over, "the move ends")
        shard_map = scene.watch.shard_map
        assert shard_map is not None
        has_come = node.id in {replica.node for replica in shard_map.members(sight.move.group)}
        scene.tell("made all the same" if has_come else "given up")


@contextmanager
def _cut(scene: Scene, links: Iterable[Link]) -> Iterator[None]:
    """It bit if traffic was held."""
    cut = list(links)
    before = sum(link.counts["held"] for link in cut)
    for link in cut:
        link.cut()
    scene.hurt()
    try:
        yield
    finally:
        for link in cut:
            link.heal()
    if sum(link.counts["held"] for link in cut) == before:
        raise DidNotBite("nothing was said on the ways that were cut")


# -- full disks ----------------------------------------------------------------------------------


async def _full(then: Callable[[Scene, Node, Sight], Awaitable[None]], scene: Scene) -> None:
    """The newcomer's disk is full while a snapshot comes; it bit if it says so."""
    node = await newcomer(scene)
    sight = await reached(scene, node, Stage.SNAPSHOT)
    assert node.shim is not None
    node.shim.fill()
    scene.hurt()

    async def is_noticed() -> bool:
        said = node.log_text()
        return IS_FULL in said or NOT_STORED in said

    if not await comes_true(is_noticed, WAIT_S):
        raise DidNotBite(f"{node.id} has not noticed that its disk is full")
    await then(scene, node, sight)
    node.shim.make_room()


async def _for_a_while(_scene: Scene, _node: Node, _sight: Sight) -> None:
    await asyncio.sleep(SHORT_S)


async def _until_given_up(scene: Scene, _node: Node, sight: Sight) -> None:
    await until_map(scene, partial(is_given_up, sight.move), "the move is given up")
    scene.tell("given up")


async def _drained(scene: Scene, node: Node, _sight: Sight) -> None:
    """It is to hold nothing after all, and the others do not wait for its disk."""
    await scene.cluster.order(Action.DRAIN, node.id)
    await until_map(
        scene,
        lambda shard_map: not shard_map.changes and not shard_map.held_by(node.id),
        "nothing is on its way any more",
    )
    scene.tell("drained")


# -- an old replica that was never finished --------------------------------------------------------


async def _old_replica(stage: Stage, scene: Scene) -> None:
    """The newcomer dies; what was on its way is given up; the same comes again as another.

    It bit if the same shard came again.
    """
    node = await newcomer(scene)
    sight = await reached(scene, node, stage)
    node.kill()
    scene.cluster.slow(0)
    scene.hurt()
    await asyncio.to_thread(node.has_died_of_it)
    await flip(scene, node.id)
    await until_map(
        scene,
        lambda shard_map: not shard_map.changes and not shard_map.held_by(node.id),
        f"nothing is on {node.id} any more",
    )
    scene.watch.forget_moves()
    await scene.cluster.order(Action.ACTIVATE, node.id)
    node.start()

    def is_again(again: Sight) -> bool:
        move = again.move
        is_same = (move.group, move.target) == (sight.move.group, node.id)
        return is_same and move.begun_at > sight.move.begun_at

    again = await scene.watch.reach(is_again, WAIT_S)
    if again is None:
        raise DidNotBite(f"{sight.move} did not come again")
    scene.tell(f"came again by version {again.move.begun_at}")
