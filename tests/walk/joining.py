"""One more node, from its first start until it has its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walk.whole import until_whole

if TYPE_CHECKING:
    from chaos.cluster import Node
    from walk.cell import Ground


async def join(ground: Ground) -> Node:
    """Add a node; returns once it has its share.

    Raises:
        AssertionError: it has not got one.
    """
    node = await ground.cluster.join()
    async with ground.watch() as watch:
        waited, problems = 0.0, [""]
        while problems and waited < 60.0:
            more, problems = await until_whole(watch, frozenset(ground.absent), 60.0)
            waited += more
            shard_map = watch.shard_map
            if not problems and (shard_map is None or not shard_map.held_by(node.id)):
                waited, problems = waited + 0.3, ["it holds nothing"]
    assert not problems, f"{node.id} has not got its share: {problems}"
    return node
