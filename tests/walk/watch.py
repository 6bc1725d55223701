"""Asks every node again and again what it sees, and knows at what stage each move is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.cluster import wait_for
from kvstore.cli.conversation import Conversation
from kvstore.cli.view import NodeStatus
from kvstore.errors import KVError
from kvstore.ids import META_GROUP, NodeId
from kvstore.sharding import map_wire
from kvstore.sharding.shard_map import ShardMap
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_shard_map_reply, decode_status_reply
from walk.stages import Move, Stage, leader_row, move_of, stage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POLL_S = 0.015
FRESH_S = 0.25
"""For how long what a node has said counts."""
ANSWER_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Word:
    """What one node said, and when."""

    at: float
    status: NodeStatus
    shard_map: ShardMap | None


@dataclass(frozen=True, slots=True)
class Sight:
    """A move at a stage."""

    move: Move
    stage: Stage
    leader: NodeId | None
    """Of the group that moves."""
    steering: NodeId | None
    """The meta group's leader, where the controller runs."""


class Watch:
    """``async with``: asks while it lasts."""

    def __init__(self, nodes: Iterable[tuple[NodeId, str]]) -> None:
        """Know nothing yet; ``nodes`` are names and addresses."""
        self._nodes = tuple(nodes)
        self._words: dict[NodeId, Word] = {}
        self._moves: dict[Move, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._newest: ShardMap | None = None

    async def __aenter__(self) -> Watch:
        self._tasks = [asyncio.create_task(self._ask(*node)) for node in self._nodes]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def add(self, name: NodeId, address: str) -> None:
        """Ask one more node too."""
        self._tasks.append(asyncio.create_task(self._ask(name, address)))

    async def _ask(self, name: NodeId, address: str) -> None:
        conversation = Conversation(address, answer_wait_s=ANSWER_WAIT_S)
        known: tuple[bytes, ShardMap | None] = b"", None
        try:
            while True:
                with suppress(KVError):
                    status = decode_status_reply(await conversation.ask(Kind.STATUS))
                    reply = decode_shard_map_reply(await conversation.ask(Kind.SHARD_MAP))
                    packed = repr(reply.map).encode()
                    if packed != known[0]:
                        known = packed, map_wire.decode(reply.map)
                    self._take(name, Word(time.monotonic(), status, known[1]))
                await asyncio.sleep(POLL_S)
        finally:
            conversation.close()

    def _take(self, name: NodeId, word: Word) -> None:
        self._words[name] = word
        newest = word.shard_map
        if newest is None or (self._newest and newest.version <= self._newest.version):
            return
        self._newest = newest
        for change in newest.changes:
            if (move := move_of(change)) is not None:
                self._moves[move] = None

    # -- what is known ----------------------------------------------------------------------------

    @property
    def shard_map(self) -> ShardMap | None:
        """The newest that any node has told of."""
        return self._newest

    async def has_map(self, seconds: float) -> ShardMap:
        """The newest, once any node has told of one.

        Raises:
            AssertionError: none has within ``seconds``.
        """

        async def is_known() -> bool:
            return self._newest is not None

        await wait_for(is_known, "a node tells of its map", seconds)
        assert self._newest is not None
        return self._newest

    def fresh(self) -> dict[NodeId, NodeStatus]:
        """What the nodes that have spoken just now have said of themselves."""
        since = time.monotonic() - FRESH_S
        return {name: word.status for name, word in self._words.items() if word.at >= since}

    def map_versions(self) -> dict[NodeId, int]:
        """The version of the map that each node follows, of those that have spoken just now."""
        since = time.monotonic() - FRESH_S
        return {
            name: 0 if word.shard_map is None else word.shard_map.version
            for name, word in self._words.items()
            if word.at >= since
        }

    def forget_moves(self) -> None:
        """Only moves that are seen from now on count."""
        self._moves.clear()
        if self._newest is not None:
            self._moves = {m: None for c in self._newest.changes if (m := move_of(c))}

    def sight(self, move: Move) -> Sight | None:
        """Where ``move`` is now."""
        if self._newest is None:
            return None
        statuses = self.fresh()
        stage = stage_of(move, self._newest, statuses)
        if stage is None:
            return None
        return Sight(move, stage, leader_of(statuses, move), steering(statuses))

    async def reach(
        self,
        is_wanted: Callable[[Sight], bool],
        seconds: float,
        each: Callable[[Sight], None] = lambda sight: None,
    ) -> Sight | None:
        """The first move that is seen where it ``is_wanted``.

        None if none is within ``seconds``, or all have ended. ``each`` is told of every move,
        wherever it is.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            sights = [sight for move in self._moves if (sight := self.sight(move)) is not None]
            for sight in sights:
                if is_wanted(sight):
                    return sight
                each(sight)
            if self._moves and not sights and self._is_still():
                return None
            await asyncio.sleep(POLL_S / 3)
        return None

    def _is_still(self) -> bool:
        """Whether no change is under way or about to be."""
        newest = self._newest
        return newest is not None and not newest.changes and not newest.is_rebalancing


def leader_of(statuses: dict[NodeId, NodeStatus], move: Move) -> NodeId | None:
    """Who leads the group that moves, by its own word."""
    row = leader_row(statuses, move.group)
    return None if row is None else row["leader"]


def steering(statuses: dict[NodeId, NodeStatus]) -> NodeId | None:
    """Who leads the meta group, by its own word: there the controller runs."""
    row = leader_row(statuses, META_GROUP)
    return None if row is None else row["leader"]
