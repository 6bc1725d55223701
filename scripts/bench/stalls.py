"""How long servers' event loops were kept from their poll, as the servers say themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvstore import Client

Counts: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, int]]]"
"""By node and kind: how many stalls so far lasted so many milliseconds, rounded down."""

LATE: Final = "late_ms"
"""With the wait for a processor."""
OWN: Final = "own_ms"
"""Without it."""


async def counted(store: Client) -> Counts:
    """As each node tells now; one that does not answer, or does not tell, is left out."""
    said = {each.node: each.status for each in await store.node_statuses()}
    loops = {node: status.get("loop") for node, status in said.items() if status is not None}
    return {node: {LATE: loop[LATE], OWN: loop[OWN]} for node, loop in loops.items() if loop}


def longest_ms(before: Counts, after: Counts, kind: str) -> dict[str, int]:
    """Each node's longest stall between two looks, for those that told both times."""
    return {
        node: max(
            (int(ms) for ms, count in said[kind].items() if count > before[node][kind].get(ms, 0)),
            default=0,
        )
        for node, said in after.items()
        if node in before
    }
