"""One question to one node, or to the first of several that answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from kvstore.cli.conversation import Conversation
from kvstore.errors import KVError, Refused, Unavailable

if TYPE_CHECKING:
    from kvstore.cli.endpoints import Endpoints
    from kvstore.wire.kinds import Kind


async def ask_one(
    address: str, kind: Kind, body: bytes = b"", *, wait_s: float, cluster_id: str | None = None
) -> bytes:
    """The answer of the node at ``address``.

    Raises:
        Unavailable: it cannot be reached or does not answer within ``wait_s`` seconds.
        KVError: it turned us away, or answered with an error.
    """
    conversation = Conversation(address, cluster_id, wait_s)
    try:
        async with asyncio.timeout(wait_s):
            return await conversation.ask(kind, body)
    except TimeoutError as error:
        raise Unavailable(f"{address}: no answer within {wait_s:g} s") from error
    finally:
        conversation.close()


class Answer(NamedTuple):
    """Of one of several nodes."""

    address: str
    """Where it listens."""
    body: bytes


async def ask_first(
    endpoints: Endpoints, kind: Kind, body: bytes = b"", *, wait_s: float, before: str | None = None
) -> Answer:
    """The answer of the first node of ``endpoints`` that gives one.

    Args:
        endpoints: Where to ask.
        kind: What to ask, together with ``body``.
        body: Of the frame.
        wait_s: How long each of them may take.
        before: This address is asked before all others.

    Raises:
        KVError: None answered; what the last of them said, or one that turned us away.
    """
    cluster_id = endpoints.cluster.id if endpoints.cluster is not None else None
    failure: KVError | None = None
    for address in sorted(endpoints.addresses, key=lambda address: address != before):
        try:
            answer = await ask_one(address, kind, body, wait_s=wait_s, cluster_id=cluster_id)
            return Answer(address, answer)
        except KVError as error:
            if not isinstance(failure, Refused):
                failure = error
    if failure is None or isinstance(failure, Unavailable):
        raise Unavailable(f"no node answers at {endpoints}") from failure
    raise failure
