"""Whoever has a part in a move is killed while the move is at a certain stage."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from chaos.target import down_for
from kvstore.ids import META_GROUP
from kvstore.wire.admin import Action
from walk.cell import Cell, DidNotBite, Scene
from walk.cluster import WAIT_S
from walk.stages import Stage

if TYPE_CHECKING:
    from chaos.cluster import Node
    from walk.watch import Sight

NEWCOMER = "n4"
"""Takes its share, or gives it back: either is a few moves."""
VICTIMS = ("source", "target", "leader", "steering")
"""``steering`` leads the meta group, and so is the controller's node."""
TRIES_MAX = 4
MOVES_S_MAX = 25.0
SLOW_EARLY_MS, SLOW_LATE_MS = 500, 250
"""A sync takes so long, to hold a move where it is: before data flows, and after."""
DOWN_S = (0.3, 1.0, 2.5)


def cells() -> list[Cell]:
    return [
        Cell(f"kill-{victim}-{stage.name.lower().replace('_', '-')}", partial(_kill, victim, stage))
        for stage in Stage
        for victim in VICTIMS
    ]


def meta_cells() -> list[Cell]:
    """The same for moves of the meta group itself, whose leader is the controller's node."""
    return [
        Cell(
            f"meta-{victim}-{stage.name.lower().replace('_', '-')}",
            partial(_kill_meta, victim, stage),
        )
        for stage in (Stage.LEARNING, Stage.JOINT, Stage.COMMITTED, Stage.LEAVING)
        for victim in ("source", "target", "steering")
    ]


async def _kill(victim: str, stage: Stage, scene: Scene) -> None:
    """Flip the newcomer's share until a move is at ``stage``, and kill."""
    for _ in range(TRIES_MAX):
        if await _try(scene, victim, stage, NEWCOMER, is_meta=False):
            return
    raise DidNotBite(f"no move was seen at stage {stage.name} in {TRIES_MAX} tries")


async def _kill_meta(victim: str, stage: Stage, scene: Scene) -> None:
    for _ in range(TRIES_MAX):
        name = await _one_of_meta(scene)
        if await _try(scene, victim, stage, name, is_meta=True):
            return
    raise DidNotBite(f"no move was seen at stage {stage.name} in {TRIES_MAX} tries")


async def _one_of_meta(scene: Scene) -> str:
    """Whoever is drained, or else a member of the meta group that could be."""
    shard_map = await scene.watch.has_map(WAIT_S)
    drained = [node.id for node in shard_map.nodes if node.state.value == "draining"]
    return drained[0] if drained else scene.rng.choice(shard_map.meta).node


async def _try(scene: Scene, victim: str, stage: Stage, name: str, *, is_meta: bool) -> bool:
    """Whether a move was at the stage, and somebody died of it."""
    scene.watch.forget_moves()
    _hold_early(scene, stage, name)
    try:
        await flip(scene, name)
        sight = await scene.watch.reach(
            partial(_is_there, stage, is_meta), MOVES_S_MAX, partial(_hold_late, scene, stage)
        )
        if sight is None:
            return False
        node = _node_of(scene, victim, sight)
        if node is None or not node.kill():
            return False
    finally:
        scene.cluster.slow(0)
    scene.hurt()
    parts = [part for part in VICTIMS if _name_of(part, sight) == node.id]
    scene.tell(f"{sight.move} at {sight.stage.name}: {node.id} ({', '.join(parts)})")
    if not await asyncio.to_thread(node.has_died_of_it):
        return False
    await down_for([node], scene.rng.choice(DOWN_S))
    return True


async def flip(scene: Scene, name: str) -> None:
    """Take the node's share from it, or give it back."""
    shard_map = await scene.watch.has_map(WAIT_S)
    is_active = shard_map.node(name).state.value == "active"
    await scene.cluster.order(Action.DRAIN if is_active else Action.ACTIVATE, name)


def _is_there(stage: Stage, is_meta: bool, sight: Sight) -> bool:
    return sight.stage is stage and (sight.move.group == META_GROUP) == is_meta


def _hold_early(scene: Scene, stage: Stage, name: str) -> None:
    """Room is made slowly where replicas come to."""
    shard_map = scene.watch.shard_map
    if stage > Stage.LEARNING or shard_map is None:
        return
    is_coming = shard_map.node(name).state.value != "active"
    others = [node.id for node in scene.cluster.nodes if node.id != name]
    for node in [name] if is_coming else others:
        scene.cluster.slow(SLOW_EARLY_MS, scene.cluster.node(node).id)


def _hold_late(scene: Scene, stage: Stage, sight: Sight) -> None:
    """Once data flows, what is still to be committed is held up everywhere."""
    if stage >= Stage.CATCHING_UP and sight.stage >= Stage.SNAPSHOT:
        scene.cluster.slow(SLOW_LATE_MS)


def _name_of(victim: str, sight: Sight) -> str | None:
    return {
        "source": sight.move.source,
        "target": sight.move.target,
        "leader": sight.leader,
        "steering": sight.steering,
    }[victim]


def _node_of(scene: Scene, victim: str, sight: Sight) -> Node | None:
    name = _name_of(victim, sight)
    return None if name is None else scene.cluster.node(name)
