"""Nodes that are removed: two at once, and what becomes of those that come back."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, NamedTuple

from chaos.cluster import comes_true, wait_for
from kvstore.wire.admin import Action
from walk.cell import Cell, DidNotBite, Scene
from walk.cluster import WAIT_S, address
from walk.newcomers import retire_all, until_map
from walk.stages import leader_row, row_of
from walk.whole import until_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.cluster import Node

REMOVED = "was removed from"
SILENT_S = 6.0
"""For so long a removed node that came back must disturb nobody: some election timeouts."""
TERMINAL_S = 90.0


def cells() -> list[Cell]:
    return [
        Cell("remove-two-of-five", _two_of_five),
        Cell("remove-two-of-four", _two_of_four),
        Cell("removed-comes-back", _comes_back),
        Cell("removed-while-dead", _removed_while_dead),
    ]


def cut_off_cells() -> list[Cell]:
    return [Cell("removed-while-cut-off", _removed_while_cut_off)]


class Said(NamedTuple):
    """How a command ended."""

    code: int
    text: str


async def terminal(scene: Scene, *arguments: str) -> Said:
    """``kv`` as in a terminal of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kvstore.cli", *arguments),
        *("--endpoints", str(scene.cluster.endpoints), "--timeout", f"{TERMINAL_S:g}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=scene.cluster.directory,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, output.decode(errors="replace").strip())


async def _grown(scene: Scene, count: int) -> list[Node]:
    """``count`` nodes that have joined and have their share."""
    await retire_all(scene)
    nodes = []
    for _ in range(count):
        node = await scene.cluster.join()
        scene.watch.add(node.id, address(node))
        nodes.append(node)
    await until_map(
        scene, lambda m: all(m.has(n.id) and m.held_by(n.id) for n in nodes), "all hold something"
    )
    await settled(scene)
    return nodes


async def settled(scene: Scene) -> None:
    _, problems = await until_whole(scene.watch, frozenset(scene.ground.absent), 2 * WAIT_S)
    assert not problems, problems


def gone(scene: Scene, node: Node) -> None:
    """From now on it is none of the members; that its process ends is as it should be."""
    scene.ground.absent.add(node.id)
    node.is_death_expected = True


async def _two_of_five(scene: Scene) -> None:
    """Both go, whoever comes first."""
    nodes = await _grown(scene, 2)
    scene.hurt()
    said = await asyncio.gather(*(terminal(scene, "node", "remove", node.id) for node in nodes))
    for node, (code, text) in zip(nodes, said, strict=True):
        assert code == 0, f"kv node remove {node.id}: {code}: {text}"
        gone(scene, node)
        await asyncio.to_thread(node.end)
    scene.tell("both went")


async def _two_of_four(scene: Scene) -> None:
    """Three replicas need three nodes: one goes, the other is refused."""
    (node,) = await _grown(scene, 1)
    other = scene.cluster.nodes[0]
    both = [node, other]
    scene.hurt()
    said = await asyncio.gather(*(terminal(scene, "node", "remove", each.id) for each in both))
    codes = sorted(code for code, _ in said)
    assert codes == [0, 2], said
    went = both[[code for code, _ in said].index(0)]
    refusal = next(text for code, text in said if code == 2)
    assert "replicas of each shard" in refusal, refusal
    gone(scene, went)
    await asyncio.to_thread(went.end)
    scene.tell(f"{went.id} went, the other was refused")


async def _comes_back(scene: Scene) -> None:
    """A node is started again on its old directory after it was removed."""
    (node,) = await _grown(scene, 1)
    said = await terminal(scene, "node", "remove", node.id)
    assert said.code == 0, said
    gone(scene, node)
    await asyncio.to_thread(node.end)
    await _returns(scene, node)


async def _removed_while_dead(scene: Scene) -> None:
    """It is removed while it is dead, so it still takes itself for a voter."""
    (node,) = await _grown(scene, 1)
    node.kill()
    await asyncio.to_thread(node.has_died_of_it)
    said = await terminal(scene, "node", "remove", node.id)
    assert said.code == 0, said
    gone(scene, node)
    await _returns(scene, node)


async def _removed_while_cut_off(scene: Scene) -> None:
    """It lives, hears nobody, and is removed meanwhile."""
    (node,) = await _grown(scene, 1)
    for link in scene.cluster.links_of(node.id):
        link.cut()
    await scene.cluster.order(Action.REMOVE, node.id)
    await until_map(scene, lambda m: node.id in m.removed, f"{node.id} is removed")
    gone(scene, node)
    await _is_quiet(scene, node, lambda: _heal(scene, node))


def _heal(scene: Scene, node: Node) -> None:
    for link in scene.cluster.links_of(node.id):
        link.heal()


async def _returns(scene: Scene, node: Node) -> None:
    def start() -> None:
        node.start()
        node.is_death_expected = True

    await _is_quiet(scene, node, start)


async def _is_quiet(scene: Scene, node: Node, come_back: Callable[[], None]) -> None:
    """It is told what it is, and no group has another leader or term for it."""
    await settled(scene)
    await _leads_who_should(scene)
    before, told = await _terms(scene), node.log_text().count(REMOVED)
    scene.hurt()
    come_back()

    async def is_told() -> bool:
        return node.log_text().count(REMOVED) > told

    if not await comes_true(is_told, WAIT_S):
        raise DidNotBite(f"{node.id} was not told that it was removed")
    await asyncio.sleep(SILENT_S)
    after = await _terms(scene)
    assert before == after, f"leaders or terms have changed: {before}, {after}"
    scene.tell(f"{node.id} was told, " + ("and is silent" if node.is_up else "and ended"))
    await asyncio.to_thread(node.end)


async def _leads_who_should(scene: Scene) -> None:
    """Leaders are spread already, so that none is handed over afterwards."""

    async def is_so() -> bool:
        shard_map, statuses = scene.watch.shard_map, scene.watch.fresh()
        assert shard_map is not None
        rows = [leader_row(statuses, group) for group in shard_map.groups()][1:]
        wanted = [members[0].node for members in shard_map.replicas]
        return [row and row["leader"] for row in rows] == wanted

    await wait_for(is_so, "each shard is led by its preferred node", 2 * WAIT_S)


async def _terms(scene: Scene) -> dict[int, tuple[str, int]]:
    """Who leads each group, in which term, by the word of all its members; waits for that."""
    found: dict[int, tuple[str, int]] = {}

    async def is_told() -> bool:
        shard_map, statuses = scene.watch.shard_map, scene.watch.fresh()
        assert shard_map is not None
        for group in shard_map.groups():
            holders = {replica.node for replica in shard_map.members(group)}
            rows = [row_of(statuses[name], group) for name in holders if name in statuses]
            terms = [(row["leader"], row["term"]) for row in rows if row is not None]
            if len(terms) < len(holders):
                return False
            found[int(group)] = max(terms, key=lambda term: int(term[1]))
        return True

    await wait_for(is_told, "every member of each group tells who leads it", WAIT_S)
    return found
