"""Whatever a membership may say, for hypothesis; and how to spoil it."""

from __future__ import annotations

import string
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from kvstore.config import WEIGHT_MAX, WEIGHT_MIN
from kvstore.ids import NodeId
from kvstore.swim.claims import Claim, Metadata, State, Vitals
from kvstore.swim.messages import (
    Ack,
    Gossip,
    Message,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Row,
    Sender,
)

_LETTERS = string.ascii_letters + string.digits

whole = st.integers(0, 2**63 - 1)
real = st.floats(0.0, allow_infinity=False).map(abs)
nodes = st.builds(
    lambda first, rest: NodeId(first + rest),
    st.sampled_from(_LETTERS),
    st.text(_LETTERS + "._-", max_size=63),
)
printable = st.text(
    st.characters(categories=("L", "M", "N", "P", "S"), include_characters=" "), max_size=40
)
hosts = st.sampled_from(["127.0.0.1", "[::1]", "h", "node.example", "x" * 249])
addresses = st.builds("{}:{}".format, hosts, st.integers(1, 65535))
metadata = st.builds(Metadata, addresses, printable, st.floats(WEIGHT_MIN, WEIGHT_MAX), printable)
vitals = st.builds(Vitals, whole, whole, real)
claims = st.builds(
    Claim,
    nodes,
    st.sampled_from(State),
    whole,
    st.none() | metadata,
    st.none() | nodes,
).filter(lambda claim: claim.metadata is not None or claim.state is not State.ALIVE)
news = st.lists(claims, max_size=5).map(tuple)
senders = st.builds(Sender, nodes, addresses, whole, vitals)
rows = st.builds(Row, claims, real, vitals, whole)
by_type: dict[type[Message], st.SearchStrategy[Any]] = {
    Ping: st.builds(Ping, senders, whole, nodes, news),
    Ack: st.builds(Ack, senders, whole, news),
    PingRequest: st.builds(PingRequest, senders, whole, nodes, addresses, news),
    Nack: st.builds(Nack, senders, whole),
    Gossip: st.builds(Gossip, senders, news),
    PushPull: st.builds(PushPull, senders, st.booleans(), st.lists(rows, max_size=5).map(tuple)),
}
messages = st.one_of(*by_type.values())


def spoilt(row: list[Any], path: tuple[int, ...], value: Any) -> list[Any]:
    """``row`` with something else at ``path``."""
    changed = deepcopy(row)
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed
