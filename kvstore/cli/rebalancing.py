"""What follows from an order that changes nodes' shares: replicas move for it, or must be told to.

Whether they do by themselves stands in the configuration of the meta group's leader
(``sharding.balances``). Nobody tells what it says; but where they do, the map says so at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.cli.emptying import replicas
from kvstore.cli.outlook import Outlook
from kvstore.cli.survey import survey_endpoints

if TYPE_CHECKING:
    from kvstore.cli.endpoints import Endpoints

POLL_S: Final = 0.1
NOTICED_S_MAX: Final = 1.0
"""The meta group's leader looks several times a second whether there is something to move."""


class Outcome(NamedTuple):
    """Of an order that changes nodes' shares."""

    moves: int
    """Replicas that would have to move to make the load even enough, those under way among them."""
    is_rebalancing: bool
    """Whether they do, now or as soon as it is their turn."""

    def __str__(self) -> str:
        """What to say behind the order."""
        if self.is_rebalancing:
            return f"; {_move(self.moves)} for that: kv moves -f"
        if self.moves == 0:
            return "; no replica has to move for that"
        return (
            f"; {replicas(self.moves)} would have to move for that, but nothing has begun: where "
            "sharding.balances is off, kv rebalance --now lets them"
        )


def _move(count: int) -> str:
    return f"{replicas(count)} move{'s' if count == 1 else ''}"


async def outcome_of(endpoints: Endpoints, map_version: int) -> Outcome | None:
    """What follows from the order that has made the map of ``map_version``; None if unknown.

    Returns once it is clear, at the latest after ``NOTICED_S_MAX``.
    """
    deadline = time.monotonic() + NOTICED_S_MAX
    found: Outcome | None = None
    while True:
        survey = await survey_endpoints(endpoints)
        shard_map = survey.shard_map
        if survey.answers and shard_map is not None and shard_map.version >= map_version:
            statuses = [answer.status for answer in survey.answers.values()]
            count = Outlook(shard_map, statuses).for_balance()
            found = Outcome(count, shard_map.is_rebalancing)
            if found.is_rebalancing or not count:
                return found
        if time.monotonic() >= deadline:
            return found
        await asyncio.sleep(POLL_S)
