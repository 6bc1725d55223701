"""Carries out what the membership core decides: sends, logs, keeps time.

The core is never asked for anything but the view; nothing here changes who holds what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.net.repeats import FewLines, RepeatFilter
from kvstore.swim.ready import EventKind
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.swim_codec import encode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from kvstore.ids import NodeId
    from kvstore.server.event_log import EventLog
    from kvstore.swim.core import SwimCore
    from kvstore.swim.messages import Message
    from kvstore.swim.ready import Event

log = logging.getLogger(__name__)

TICK_S_MAX: Final = 1.0
"""The longest sleep; whatever else is done now and then is done as often."""

_SAID: Final = {
    EventKind.JOINED: "%s has joined",
    EventKind.SUSPECTED: "%s is suspected",
    EventKind.REFUTED: "%s was suspected, and lives",
    EventKind.DIED: "%s is found dead",
    EventKind.LEFT: "%s has left",
    EventKind.REMOVED: "%s was removed",
    EventKind.UPDATED: "%s says something else of itself",
    EventKind.CONFLICT: "two nodes are called %s",
    EventKind.ABSURD: "%s cannot have come as far as is claimed",
    EventKind.CROWDED: "no room for %s",
}
_BAD_INPUT: Final = {EventKind.CONFLICT, EventKind.ABSURD, EventKind.CROWDED}


class Couriers(Protocol):
    """Takes a frame to a member, by whatever connection there is."""

    def send(self, node: NodeId | None, address: str, frame: bytes) -> None:
        """Send ``frame``, or drop it; ``node`` is None while only the address is known."""
        ...


class SwimDriver:
    """Owns the membership core of one node."""

    def __init__(
        self,
        core: SwimCore,
        couriers: Couriers,
        events: EventLog,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_changed`` is told after every event that is no mere complaint."""
        self.core = core
        self.events = events
        self._couriers = couriers
        self._clock = clock
        self._wall_ms = wall_ms
        self._on_changed = on_changed
        self._hurry = asyncio.Event()
        self._ticked = asyncio.Event()
        self._armed_for = float("inf")
        self._repeats = RepeatFilter()
        # Each kind has its own, so that invented joins do not hide a death.
        self._lines = {
            kind: FewLines(log, f"the kind {said % 'a node'!r}") for kind, said in _SAID.items()
        }

    def receive(self, message: Message) -> None:
        """A message of another member."""
        self.core.step(message, self._clock())
        self._settle()

    def hint(self, node: NodeId, *, is_gone: bool = False) -> None:
        """A connection to ``node`` was lost, or refused (``is_gone``)."""
        self.core.hint(node, self._clock(), is_gone=is_gone)
        self._settle()

    def greet(self, node: NodeId, address: str) -> None:
        """A connection to ``node``, which listens at ``address``, stands."""
        self.core.greet(node, address, self._clock())
        self._settle()

    def remove(self, node: NodeId) -> None:
        """Expel ``node``, or know that this node was expelled."""
        self.core.remove(node, self._clock())
        self._settle()

    def tick(self) -> None:
        """Look at the timers."""
        self.core.tick(self._clock())
        self._settle()
        self.events.answer(self._clock())
        for lines in self._lines.values():
            lines.look(self._clock())
        self._ticked.set()

    def until_tick_s(self) -> float:
        """In how many seconds to tick."""
        self._armed_for = min(self.core.deadline(), self.events.deadline)
        return min(TICK_S_MAX, max(0.0, self._armed_for - self._clock()))

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.until_tick_s()):
                    await self._hurry.wait()
            self.tick()

    async def leave(self) -> None:
        """Say goodbye; returns when it was sent as often as news is, for which ``run`` must run."""
        self.core.leave(self._clock())
        self._settle()
        while self.core.has_news:
            self._ticked.clear()
            await self._ticked.wait()

    def _settle(self) -> None:
        """Send and log what has come up, and see that the next tick comes in time."""
        ready = self.core.ready()
        for outgoing in ready.messages:
            frame = encode_frame(Kind.SWIM, 0, encode_message(outgoing.message))
            self._couriers.send(outgoing.node, outgoing.address, frame)
        for event in ready.events:
            self._note(event)
        if ready.events:
            self.events.answer(self._clock())
        if self.core.deadline() < self._armed_for:
            self._hurry.set()

    def _note(self, event: Event) -> None:
        is_bad = event.kind in _BAD_INPUT
        if not is_bad:
            self._on_changed()
        cause = _cause(event)
        if cause is not None and not self._repeats.is_new(cause, self._clock()):
            return
        self.events.add(event, self._wall_ms())
        by = f" by {event.accuser}" if event.accuser is not None else ""
        detail = f": {event.detail}" if event.detail else ""
        level = logging.WARNING if is_bad or event.kind is EventKind.DIED else logging.INFO
        text = _SAID[event.kind] % event.node
        line = f"{text}{by} (incarnation {event.incarnation}){detail}"
        self._lines[event.kind].write(self._clock(), level, line)


def _cause(event: Event) -> Hashable | None:
    """What may come with every message is told once in a while for each cause; None: always.

    Two nodes of one name outdo each other for ever, so that to all others the member keeps
    changing between what the one and what the other says.
    """
    match event.kind:
        case EventKind.CROWDED:
            return event.kind  # whoever it is that finds no room
        case EventKind.ABSURD:
            return event.kind, event.node  # whatever is claimed this time
        case EventKind.CONFLICT | EventKind.UPDATED:
            return event.kind, event.node, event.detail
        case _:
            return None
