"""One question to one node, or to the first of several that answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

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


async def ask_first(endpoints: Endpoints, kind: Kind, body: bytes = b"", *, wait_s: float) -> bytes:
    """The answer of the first node of ``endpoints`` that gives one.

    Raises:
        Refused: none answered, and one turned us away.
        Unavailable: none answered.
    """
    cluster_id = endpoints.cluster.id if endpoints.cluster is not None else None
    refusal: Refused | None = None
    for address in endpoints.addresses:
        try:
            return await ask_one(address, kind, body, wait_s=wait_s, cluster_id=cluster_id)
        except Refused as error:
            refusal = refusal or error
        except KVError:
            continue
    raise refusal or Unavailable(f"no node answers at {endpoints}")
