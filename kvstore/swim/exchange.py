"""How news and whole views get around (SWIM section 4.1; memberlist's push-pull).

Probes carry news anyway. While there is any, it is also sent by itself, so that it travels
faster than probes; now and then two members exchange their whole views, which mends whatever
news did not reach; and the dead are asked now and then whether they are back, for neither side
of a partition has any other reason to talk to the other again. So are those who have left, by
one that is alone: they may have been started again, each without the others. Seeds that are
not among the members are asked, too: there may be members whom nobody here has ever met.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvstore.swim.claims import State
from kvstore.swim.members import MEMBERS_MAX
from kvstore.swim.messages import Gossip, Message, PushPull, Row, Sender

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId
    from kvstore.swim.claims import Claim
    from kvstore.swim.prober import Prober
    from kvstore.swim.view import View

LEAVE_FANOUT: Final = 16
"""Members that are told at once that this node leaves."""
SEED_RETRY_S: Final = 1.0
"""While nobody else is known the seeds are asked at least this often: a person may be waiting."""
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
        assert view.own.metadata is not None
        self._seeds = tuple(seed for seed in seeds if seed != view.own.metadata.address)
        self._config = config
        self._rng = rng
        self._has_joined = not self._seeds
        self._gossip_at = 0.0
        self._push_pull_at = rng.uniform(0.0, self._push_pull_interval_s)
        self._reconnect_at = 0.0
        self._asked: dict[NodeId, float] = {}

    @property
    def deadline(self) -> float:
        """When to look again."""
        gossip_at = self._gossip_at if self.has_news else math.inf
        if not self._view.own.state.is_active:
            return gossip_at
        return min(gossip_at, self._push_pull_at, self._reconnect_at)

    @property
    def _push_pull_interval_s(self) -> float:
        scale = max(1.0, self._view.members.active_count / MEMBERS_AT_FULL_RATE)
        return scale * self._config.push_pull_interval_s

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell, and somebody to tell it."""
        return bool(self._view.broadcasts and self._view.members.others)

    def tick(self, now: float) -> None:
        """Send what is due. Of a node that has left nothing is, but the news of it."""
        config, view = self._config, self._view
        if self.has_news and now >= self._gossip_at:
            self._gossip_at = now + config.gossip_interval_s
            self._gossip(config.gossip_fanout)
        if not view.own.state.is_active:
            return
        if now >= self._push_pull_at:
            self._push_pull_at = now + self._about(self._push_pull_interval_s)
            view.members.forget(now - config.forget_after_s)
            self._push_pull(now)
        if now >= self._reconnect_at:
            is_alone = not self._has_joined or not view.members.others
            wait_s = min(config.reconnect_interval_s, SEED_RETRY_S if is_alone else math.inf)
            self._reconnect_at = now + self._about(wait_s)
            self._reconnect(now, is_alone=is_alone)

    def _about(self, seconds: float) -> float:
        """Those who began together must not do everything together for ever."""
        return self._rng.uniform(0.75, 1.25) * seconds

    def _gossip(self, fanout: int) -> None:
        for member in self._view.members.sample(self._rng, fanout):
            assert member.metadata is not None
            claims = self._view.news_for(member.node)
            if claims:
                gossip = Gossip(self._sender(), claims)
                self._send(member.node, member.metadata.address, gossip)

    def _reconnect(self, now: float, *, is_alone: bool) -> None:
        self._asked = {node: at for node, at in self._asked.items() if not self._may_ask(at, now)}
        if is_alone:
            for address in self._seeds:
                self._ask(None, address, now)
        gone = self._view.members.gone(State.DEAD, *((State.LEFT,) if is_alone else ()))
        if gone:
            self._prober.probe(self._rng.choice(gone).node, now)

    def _push_pull(self, now: float) -> None:
        others = self._view.members.others
        for member in self._view.members.sample(self._rng, 1):
            assert member.metadata is not None
            self._ask(member.node, member.metadata.address, now)
        if others and self._seeds:
            met = {member.metadata.address for member in others if member.metadata is not None}
            strangers = [address for address in self._seeds if address not in met]
            if strangers:
                self._ask(None, self._rng.choice(strangers), now)

    def _ask(self, node: NodeId | None, address: str, now: float) -> None:
        self._send(node, address, PushPull(self._sender(), False, self._rows(now)))

    def _may_ask(self, at: float, now: float) -> bool:
        return now - at >= self._config.reconnect_interval_s

    def _rows(self, now: float) -> tuple[Row, ...]:
        return tuple(
            Row(
                member.claim(),
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
        is_due = self._may_ask(self._asked.get(sender.node, -math.inf), now)
        if is_due and self._view.own.state.is_active and len(self._asked) < MEMBERS_MAX:
            self._asked[sender.node] = now
            self._ask(sender.node, sender.address, now)

    def greet(self, node: NodeId, address: str, now: float) -> None:
        """Exchange views with somebody who can be reached."""
        self._ask(node, address, now)

    def exchanged(self, message: PushPull, now: float) -> None:
        """Another view: take what is news, and answer with ours."""
        is_joining = message.is_reply and not self._has_joined
        for row in message.rows:
            claim = self._second_hand(row.claim)
            self._view.hear(claim, now, row.age_s, is_joining=is_joining)
            member = self._view.members.get(claim.node)
            if member is not None and member is not self._view.own:
                member.learn(row.vitals, row.vitals_of)
        if message.is_reply:
            self._has_joined = True
        else:
            reply = PushPull(self._sender(), True, self._rows(now))
            self._send(message.sender.node, message.sender.address, reply)

    def _second_hand(self, claim: Claim) -> Claim:
        """What to make of a claim that is no news where it comes from.

        Both sides of a healed partition have each other for dead. To believe it of those who
        are alive here would make them dead on both sides; as suspects they can refute.
        """
        member = self._view.members.get(claim.node)
        if claim.state is State.DEAD and member is not None and member.state.is_active:
            return replace(claim, state=State.SUSPECT)
        return claim
