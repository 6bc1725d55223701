"""How news and whole views get around (SWIM section 4.1; memberlist's push-pull).

Probes carry news anyway. While there is any, it is also sent by itself, so that it travels
faster than probes; now and then two members exchange their whole views, which mends whatever
news did not reach; and the dead are asked now and then whether they are back, for neither side
of a partition has any other reason to talk to the other again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from kvstore.swim.claims import State
from kvstore.swim.messages import Gossip, Message, PushPull, Row, Sender

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId
    from kvstore.swim.member import Member
    from kvstore.swim.prober import Prober
    from kvstore.swim.view import View

LEAVE_FANOUT: Final = 16
"""Members that are told at once that this node leaves."""
MEMBERS_AT_FULL_RATE: Final = 32
"""Beyond it whole views are exchanged less often, in proportion."""


class Exchange:
    """Owns the timers of gossip, push-pull and reconnecting."""

    def __init__(
        self,
        view: View,
        prober: Prober,
        send: Callable[[NodeId | None, str, Message], None],
        make_sender: Callable[[], Sender],
        *,
        seeds: tuple[str, ...],
        config: SwimConfig,
        rng: random.Random,
    ) -> None:
        """``seeds`` are the addresses to ask while nobody else is known."""
        self._view = view
        self._prober = prober
        self._send = send
        self._sender = make_sender
        self._seeds = seeds
        self._config = config
        self._rng = rng
        self._has_joined = not seeds
        self._gossip_at = 0.0
        self._push_pull_at = rng.uniform(0.0, config.push_pull_interval_s)
        self._reconnect_at = 0.0
        self._asked: dict[NodeId, float] = {}

    @property
    def deadline(self) -> float:
        """When to look again."""
        gossip_at = self._gossip_at if self.has_news else math.inf
        return min(gossip_at, self._push_pull_at, self._reconnect_at)

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell, and somebody to tell it."""
        return bool(self._view.broadcasts and self._view.members.others)

    def tick(self, now: float) -> None:
        """Send what is due."""
        config, view = self._config, self._view
        if self.has_news and now >= self._gossip_at:
            self._gossip_at = now + config.gossip_interval_s
            self._gossip(config.gossip_fanout)
        if now >= self._push_pull_at:
            scale = max(1.0, view.members.active_count / MEMBERS_AT_FULL_RATE)
            self._push_pull_at = now + config.push_pull_interval_s * scale
            view.members.forget(now - config.forget_after_s)
            for member in view.members.sample(self._rng, 1):
                self._ask(member, now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + config.reconnect_interval_s
            self._reconnect(now)

    def _gossip(self, fanout: int) -> None:
        for member in self._view.members.sample(self._rng, fanout):
            assert member.metadata is not None
            claims = self._view.news_for(member.node)
            if claims:
                gossip = Gossip(self._sender(), claims)
                self._send(member.node, member.metadata.address, gossip)

    def _reconnect(self, now: float) -> None:
        self._asked = {node: at for node, at in self._asked.items() if not self._may_ask(at, now)}
        if not self._has_joined or not self._view.members.others:
            for address in self._seeds:
                self._send(None, address, PushPull(self._sender(), False, self._rows(now)))
        dead = [member for member in self._view.members if member.state is State.DEAD]
        if dead:
            self._prober.probe(self._rng.choice(dead).node, now)

    def _ask(self, member: Member, now: float) -> None:
        assert member.metadata is not None
        message = PushPull(self._sender(), False, self._rows(now))
        self._send(member.node, member.metadata.address, message)

    def _may_ask(self, at: float, now: float) -> bool:
        return now - at >= self._config.reconnect_interval_s

    def _rows(self, now: float) -> tuple[Row, ...]:
        return tuple(
            Row(
                member.claim(whole=True),
                max(0.0, now - member.since),
                member.vitals,
                member.vitals_of,
            )
            for member in self._view.members
        )

    def leave(self) -> None:
        """Say goodbye to many at once; there is no time for rounds."""
        self._gossip(LEAVE_FANOUT)

    # -- messages -----------------------------------------------------------------------------

    def missed_news_of(self, sender: Sender, now: float) -> None:
        """``sender`` is somebody else than we think: our view, or its, is behind."""
        if self._may_ask(self._asked.get(sender.node, -math.inf), now):
            self._asked[sender.node] = now
            message = PushPull(self._sender(), False, self._rows(now))
            self._send(sender.node, sender.address, message)

    def exchanged(self, message: PushPull, now: float) -> None:
        """Another view: take what is news, and answer with ours."""
        for row in message.rows:
            self._view.take(row.claim, now, row.age_s)
            member = self._view.members.get(row.claim.node)
            if member is not None and member is not self._view.own:
                member.learn(row.vitals, row.vitals_of)
        if message.is_reply:
            self._has_joined = True
        else:
            reply = PushPull(self._sender(), True, self._rows(now))
            self._send(message.sender.node, message.sender.address, reply)
