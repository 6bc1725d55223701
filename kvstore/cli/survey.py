"""Asking every node what it sees.

Unlike a client's call, a survey talks to each node by itself and takes what comes: it is for
the moments when a majority may be gone. Nodes that the given addresses do not name are found
through the shard map of one that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.cli.conversation import ANSWER_WAIT_S, Conversation
from kvstore.cli.view import ClusterView, NodeStatus, merge
from kvstore.errors import KVError, ProtocolError, Refused, Unavailable
from kvstore.sharding import map_wire
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_shard_map_reply, decode_status_reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.cli.endpoints import Endpoints
    from kvstore.config import ClusterConfig

_NODE_FIELDS = ("id", "address", "state")
_SHARD_FIELDS = ("id", "role", "term", "commit_index", "applied_index")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node said."""

    status: NodeStatus
    shard_map: ShardMap


@dataclass(frozen=True, slots=True)
class Survey:
    """What the nodes that answered said, by address, and the picture that makes."""

    answers: Mapping[str, Answer]
    view: ClusterView
    shard_map: ShardMap | None
    refusal: Refused | None = None
    """Set when no node answered and one turned us away."""


async def survey_endpoints(endpoints: Endpoints, answer_wait_s: float = ANSWER_WAIT_S) -> Survey:
    """Ask the nodes at ``endpoints``, and those of the shard map that they do not name."""
    if endpoints.cluster is not None:
        return await survey_cluster(endpoints.cluster, answer_wait_s)
    return await _survey(endpoints.addresses, None, answer_wait_s)


async def survey_cluster(cluster: ClusterConfig, answer_wait_s: float = ANSWER_WAIT_S) -> Survey:
    """Ask every node of ``cluster``; those of another at its addresses count as none.

    Where ``cluster`` does not tell who has founded it, only a node that answers knows the shards.
    """
    addresses = (*(node.address for node in cluster.nodes), *cluster.seeds)
    known = bootstrap(cluster) if cluster.nodes else None
    return await _survey(addresses, known, answer_wait_s, cluster.id)


async def _survey(
    addresses: tuple[str, ...],
    known: ShardMap | None,
    answer_wait_s: float,
    cluster_id: str | None = None,
) -> Survey:
    outcomes = await _ask_all(addresses, answer_wait_s, cluster_id)
    shard_map = _newest(outcomes.values(), known)
    if shard_map is not None:
        others = {node.address for node in shard_map.nodes} - outcomes.keys()
        outcomes |= await _ask_all(sorted(others), answer_wait_s, cluster_id)
        shard_map = _newest(outcomes.values(), shard_map)
    answers = {
        address: outcome for address, outcome in outcomes.items() if isinstance(outcome, Answer)
    }
    refusals = [outcome for outcome in outcomes.values() if isinstance(outcome, Refused)]
    return Survey(
        answers=answers,
        view=merge(shard_map, [answer.status for answer in answers.values()], addresses),
        shard_map=shard_map,
        refusal=refusals[0] if refusals and not answers else None,
    )


def _newest(outcomes: Iterable[Answer | KVError], known: ShardMap | None) -> ShardMap | None:
    maps = [outcome.shard_map for outcome in outcomes if isinstance(outcome, Answer)]
    return max([*([known] if known else []), *maps], key=lambda m: m.version, default=None)


async def _ask_all(
    addresses: Iterable[str], answer_wait_s: float, cluster_id: str | None
) -> dict[str, Answer | KVError]:
    """Ask all at once; a node that fails is an outcome like any other."""

    async def outcome(address: str) -> Answer | KVError:
        try:
            return await ask(address, answer_wait_s, cluster_id)
        except KVError as error:
            return error

    asked = list(dict.fromkeys(addresses))
    return dict(zip(asked, await asyncio.gather(*map(outcome, asked)), strict=True))


async def ask(
    address: str, answer_wait_s: float = ANSWER_WAIT_S, cluster_id: str | None = None
) -> Answer:
    """The status and the shard map of the node at ``address``.

    Raises:
        Unavailable: it cannot be reached or does not answer in time.
        Refused: it is not of the cluster ``cluster_id``.
        KVError: it turned us away or failed; ProtocolError: its answer makes no sense.
    """
    conversation = Conversation(address, cluster_id, answer_wait_s)
    try:
        async with asyncio.timeout(answer_wait_s):
            status = await conversation.ask(Kind.STATUS)
            shard_map = await conversation.ask(Kind.SHARD_MAP)
    except TimeoutError as error:
        raise Unavailable(f"{address}: no answer within {answer_wait_s:g} s") from error
    finally:
        conversation.close()
    return _answer(status, shard_map)


def _answer(status: bytes, shard_map: bytes) -> Answer:
    said = decode_status_reply(status)
    _check_fields(said.get("node"), _NODE_FIELDS)
    _check_fields(said.get("loop", {}), ())  # one of an older version does not tell
    for row in said.get("shards", ()):
        _check_fields(row, _SHARD_FIELDS)
    return Answer(said, map_wire.decode(decode_shard_map_reply(shard_map).map))


def _check_fields(row: object, fields: Iterable[str]) -> None:
    if not isinstance(row, dict) or not row.keys() >= set(fields):
        raise ProtocolError("status reply: a field is missing")
