"""How a node comes to know of newer shard maps, and tells others (DESIGN section 5).

The version that a member goes by travels in its gossip, and whoever has just put a newer map in
force announces it; whoever is behind asks for the map itself. What the leaders of groups report
goes the same way, to the members of the meta group.

A map decides what a node holds, and what it gives up. So it is taken of nobody but the members
of the map that we know, and of whoever answers at the addresses of our configuration: these are
how a node that has no map comes to its first, and how one finds the others that was away while
all members changed. Each question has a number that nobody else knows and the answer repeats.
What others say of newer maps is a reason to ask those, never more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.ids import META_GROUP
from kvstore.net.repeats import RepeatFilter
from kvstore.sharding.changes import why_not_after
from kvstore.sharding.shard_map import FOUNDING_VERSION
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.map_codec import decode_map, decode_news, encode_map, encode_news
from kvstore.wire.report_codec import decode_reports, encode_reports

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence

    from kvstore.ids import NodeId
    from kvstore.sharding.known import Report
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.wire.frames import Frame

log = logging.getLogger(__name__)

MAP_PULL_INTERVAL_S: Final = 0.5
MAP_PULL_AGAIN_S: Final = 5.0
"""Before a node that did not send its newer map is asked again: others may have it too."""
IN_VAIN_S: Final = 30.0
"""For how long only others may speak of a newer map before that is said."""
NUMBER_BITS: Final = 63


class Send(Protocol):
    """Takes a frame to a member, as far as its address is known."""

    def __call__(self, node: NodeId | None, frame: bytes, *, address: str | None = None) -> None:
        """``address`` is where it was heard from just now, if it was.

        ``node`` is None for whoever answers at ``address``.
        """
        ...


class _Pulls:
    """Who was asked for its map not long ago: nobody all the time, and not all at once."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, float]] = {}
        """Under which number, and when."""

    def may_ask(self, whom: str, now: float) -> bool:
        """Whether it is time to ask ``whom``."""
        asked = self._asked.items()
        self._asked = {who: it for who, it in asked if now - it[1] < MAP_PULL_AGAIN_S}
        last = max((at for _, at in self._asked.values()), default=float("-inf"))
        return whom not in self._asked and now - last >= MAP_PULL_INTERVAL_S

    def note(self, whom: str, number: int, now: float) -> None:
        """It is asked."""
        self._asked[whom] = number, now

    def whom(self, number: int) -> str | None:
        """Who was asked under ``number``."""
        return next((whom for whom, it in self._asked.items() if it[0] == number), None)

    def answered(self, whom: str) -> None:
        """What ``whom`` was asked is answered, and it may be asked again."""
        del self._asked[whom]


class MapExchange:
    """Invariant: ``shard_map`` only ever gives way to one of a higher version."""

    def __init__(
        self,
        own: NodeId,
        shard_map: ShardMap | None,
        *,
        send: Send,
        tell_version: Callable[[], None],
        clock: Callable[[], float],
        seeds: Sequence[str],
        rng: random.Random,
    ) -> None:
        """Begin with ``shard_map``; None if the node joins and has none yet.

        Args:
            own: The node's name.
            shard_map: The newest that is known.
            send: Takes what is to be told.
            tell_version: Called when the version that others are to be told is another.
            clock: Steady seconds.
            seeds: The addresses of the node's configuration, without its own.
            rng: For what nobody shall guess.
        """
        self.on_map: Callable[[ShardMap], None] = lambda shard_map: None
        """Told of each newer shard map; set by whoever goes by it, as is ``on_reports``."""
        self.on_reports: Callable[[list[Report]], None] = lambda reports: None
        """Told what leaders of groups tell the meta group."""
        self.shard_map = shard_map
        self._own = own
        self._send = send
        self._tell_version = tell_version
        self._clock = clock
        self._seeds = tuple(seeds)
        self._rng = rng
        self._members_asked, self._seeds_asked = _Pulls(), _Pulls()
        self._refusals = RepeatFilter()
        self._only_others_since: float | None = None
        """Since when only those have a newer map, as they say, of whom it is not taken."""

    @property
    def version(self) -> int:
        """Of the shard map that is known; 0 = none yet."""
        return 0 if self.shard_map is None else self.shard_map.version

    # -- what comes in ------------------------------------------------------------------------

    def receive(self, node: NodeId, frame: Frame) -> None:
        """A frame of ``node``, if it is one of this exchange's.

        Raises:
            ProtocolError: malformed.
        """
        match frame.kind:
            case Kind.MAP_PULL:
                if self.shard_map is not None:
                    body = encode_map(self.shard_map)
                    self._send(node, encode_frame(Kind.MAP, frame.request, body))
            case Kind.MAP:
                self._take_map(node, frame.request, decode_map(frame.body))
            case Kind.MAP_NEWS:
                self.heard(node, decode_news(frame.body))
            case Kind.REPORTS:
                reports = decode_reports(frame.body)
                if self._is_member(node):  # The map follows them, and only members lead a group.
                    self.on_reports(reports)
            case _:
                pass

    def heard(self, node: NodeId, version: int, *, address: str | None = None) -> None:
        """``node`` goes by the map of ``version``: ask for it if it is newer than ours.

        If we do not know it for a member, those are asked that our configuration names.
        """
        if version <= self.version:
            return
        now = self._clock()
        if self._is_member(node):
            if self._members_asked.may_ask(node, now):
                self._send(node, self._question(self._members_asked, node, now), address=address)
            return
        self._note_other(node, version, now)
        # That which is there now is most likely to answer.
        seeds = sorted(self._seeds, key=lambda seed: seed != address)
        seed = next((seed for seed in seeds if self._seeds_asked.may_ask(seed, now)), None)
        if seed is not None:
            self._send(None, self._question(self._seeds_asked, seed, now), address=seed)

    def _note_other(self, node: NodeId, version: int, now: float) -> None:
        if self._only_others_since is None:
            self._only_others_since = now
        is_in_vain = now - self._only_others_since >= IN_VAIN_S
        if is_in_vain and self._refusals.is_new("in vain", now):
            log.warning(
                "%s says that it has version %d of the shard map, ours is version %d, and nobody "
                "whom ours or the configuration names gives a newer one: if the members have all "
                "changed meanwhile, add the address of one to cluster.seeds and restart",
                node,
                version,
                self.version,
            )

    def _is_member(self, node: NodeId) -> bool:
        return self.shard_map is not None and self.shard_map.has(node)

    def _question(self, pulls: _Pulls, whom: str, now: float) -> bytes:
        number = 1 + self._rng.getrandbits(NUMBER_BITS)
        pulls.note(whom, number, now)
        return encode_frame(Kind.MAP_PULL, number, b"")

    def _take_map(self, node: NodeId, number: int, shard_map: ShardMap) -> None:
        """An answer, if its number is that of a question: others cannot know it."""
        seed = self._seeds_asked.whom(number)
        if seed is not None:
            self._seeds_asked.answered(seed)
        elif self._is_member(node) and self._members_asked.whom(number) == node:
            self._members_asked.answered(node)
        else:
            return
        if shard_map.version > self.version and self._can_follow(node, shard_map):
            log.info("shard map version %d comes from %s", shard_map.version, node)
            self.take_committed(shard_map)

    def _can_follow(self, node: NodeId, shard_map: ShardMap) -> bool:
        if self.shard_map is None or self.shard_map.version == FOUNDING_VERSION:
            return True  # A configuration that was written anew may name other founders.
        why_not = why_not_after(self.shard_map, shard_map)
        if why_not is None and self._is_member(node) and not shard_map.has(node):
            why_not = f"by it {node} is no member"
        if why_not is not None and self._refusals.is_new((node, why_not), self._clock()):
            log.warning(
                "%s sends version %d of the shard map, which cannot follow our version %d: %s",
                node,
                shard_map.version,
                self.version,
                why_not,
            )
        return why_not is None

    def take_committed(self, shard_map: ShardMap) -> None:
        """Go by ``shard_map``, which the meta group has committed, if it is newer than ours."""
        if shard_map.version > self.version:
            self.shard_map = shard_map
            self._only_others_since = None
            self._tell_version()
            self.on_map(shard_map)

    # -- what is told ---------------------------------------------------------------------------

    def announce(self, members: Iterable[NodeId]) -> None:
        """Tell ``members`` which map there is."""
        frame = encode_frame(Kind.MAP_NEWS, 0, encode_news(self.version))
        for node in members:
            if node != self._own:
                self._send(node, frame)

    def tell_meta(self, reports: list[Report]) -> None:
        """Tell the members of the meta group how far groups are."""
        assert self.shard_map is not None
        frame = encode_frame(Kind.REPORTS, 0, encode_reports(reports))
        to = {replica.node for replica in self.shard_map.meta}
        change = self.shard_map.change_of(META_GROUP)
        if change is not None and change.add is not None:
            to.add(change.add.node)  # It may lead the group before the map calls it a member.
        for node in sorted(to - {self._own}):
            self._send(node, frame)
        self.on_reports(reports)
