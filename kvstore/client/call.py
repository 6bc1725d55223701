"""One batch on its way to an answer: its attempts, and what may have become of it.

What a caller is told depends on this account being exact: ``may_have_applied`` is False only
when every attempt was either never sent or answered by a node that vouches for nothing
having happened. What follows from an attempt's outcome::

    a reply                              settled
    not the leader, connection lost,     again, as soon as somebody leads
      no answer for too long
    overloaded, disk full                again, after a backoff
    session expired                      if nothing can have happened: again in a new session
    bad input                            if others share the batch: again in two halves
    anything else                        the callers get the error

A node is pinged when half of an attempt's time has passed in silence: one that answers is
slow and keeps its connection, one that does not is frozen or cut off and loses it.

All of it runs in callbacks of the loop; ``wakes_at`` stands for the first of a call's deadlines,
its attempt's halfway mark and end, and its backoff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from kvstore.client.backoff import refusal_backoff
from kvstore.client.operations import NEVER
from kvstore.errors import (
    DeadlineExceeded,
    DiskFull,
    InvalidArgument,
    KVError,
    NotLeader,
    Overloaded,
    ProtocolError,
    SessionExpired,
    Unavailable,
    copy_of,
)
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error

if TYPE_CHECKING:
    import asyncio
    import random

    from kvstore.client.batches import Batch
    from kvstore.client.link import Link
    from kvstore.ids import NodeId
    from kvstore.net.backoff import Backoff
    from kvstore.wire.frames import Frame

_REPLY: Final = Kind.REPLY  # every look into an enum costs a call
SLOW_BYTES_PER_S = 1 << 20
"""An attempt may take longer by what stands before it on the connection, at this speed."""


class Owner(Protocol):
    """The shard's channel, as a call sees it."""

    def settled(self, call: Call, node: NodeId, answer_bytes: int) -> None:
        """``node`` served the call: it is done."""
        ...

    def failed(self, call: Call) -> None:
        """The callers have been told; the call is done."""
        ...

    def refused(self, node: NodeId, error: NotLeader) -> None:
        """``node`` does not lead the shard."""
        ...

    def busy(self, node: NodeId) -> None:
        """``node`` refuses for the moment."""
        ...

    def lost(self, node: NodeId) -> None:
        """``node`` leaves requests unanswered."""
        ...

    def silent(self) -> None:
        """An attempt took too long."""
        ...

    def ready(self, call: Call) -> None:
        """To be sent again as soon as somebody leads."""
        ...

    def renew(self, call: Call, welcome_at: int) -> None:
        """Its session is gone and nothing was done: begin again in a new one.

        Args:
            call: Whose session it is.
            welcome_at: The revision to say that it was created at; 0 if the shard did not say.
        """
        ...

    def split(self, call: Call) -> None:
        """An operation in it is bad and nothing was done: begin again in two halves."""
        ...

    def why(self) -> KVError | None:
        """Why nothing can be sent at present, as far as is known."""
        ...

    def due(self, at: float) -> None:
        """See that the call's :meth:`Call.wake` is called then, unless it is done by then."""
        ...


class Call:
    """Invariant: ``request`` is the attempt whose failure counts; 0 while none is current."""

    __slots__ = (
        "_attempt_ends_at", "_backoff", "_is_doubtful", "_loop", "_owner", "_patience",
        "_ping_at", "_resume_at", "_rng", "_sent_at", "attempts", "batch", "error", "is_done",
        "request", "wakes_at",
    )  # fmt: skip

    def __init__(
        self, batch: Batch, owner: Owner, loop: asyncio.AbstractEventLoop, rng: random.Random
    ) -> None:
        self.batch = batch
        self.attempts: dict[int, Link] = {}
        """Sent and unanswered, by request; a reply to any of them settles the batch."""
        self.request = 0
        self.error: KVError | None = None
        """How the last attempt failed."""
        self.is_done = False
        self.wakes_at = NEVER
        """When there is something to do in :meth:`wake`."""
        self._owner = owner
        self._loop = loop
        self._rng = rng
        self._sent_at = 0.0
        self._ping_at = NEVER
        self._attempt_ends_at = NEVER
        self._resume_at = NEVER
        self._backoff: Backoff | None = None  # few calls need one
        self._patience = 1.0  # doubles with each attempt that took too long
        self._is_doubtful = False

    @property
    def is_write(self) -> bool:
        """Whether the batch changes anything."""
        return self.batch.kind is Kind.WRITE

    @property
    def may_have_applied(self) -> bool:
        """Whether the batch may have taken effect, as far as is known now."""
        return self.is_write and (self._is_doubtful or bool(self.attempts))

    # -- attempts -----------------------------------------------------------------------------

    def send(
        self, link: Link, request: int, map_version: int, timeout_s: float, timeout_s_max: float
    ) -> None:
        """Begin an attempt at ``link``, to be given up after about ``timeout_s``."""
        body = self.batch.encode(map_version)
        self.attempts[request] = link
        self.request = request
        self._sent_at = sent_at = link.send(self.batch.kind, request, body, self)
        timeout_s = min(timeout_s * self._patience, timeout_s_max)
        timeout_s += (len(body) + link.unsent_bytes) / SLOW_BYTES_PER_S
        self._attempt_ends_at = sent_at + timeout_s
        self._ping_at = sent_at + timeout_s / 2
        self.arm()

    def answered(self, link: Link, frame: Frame) -> None:
        """See :class:`~kvstore.client.link.Waiter`."""
        is_current = self._end_attempt(frame.request)
        if self.is_done:
            return
        error: KVError | None
        try:
            if frame.kind == _REPLY:
                error = self.batch.settle(frame.body)
            else:
                error = decode_error(frame.body)
        except ProtocolError as malformed:
            self._is_doubtful = True
            error = copy_of(malformed)  # the original holds this frame
        assert link.node is not None
        if error is None:
            self._owner.settled(self, link.node, len(frame.body))
            return
        self._is_doubtful |= error.may_have_applied
        if is_current:
            self.error = error
            self._react(link.node, error)

    def lost(self, link: Link, request: int, error: KVError) -> None:
        """See :class:`~kvstore.client.link.Waiter`."""
        self._is_doubtful = True
        if self._end_attempt(request) and not self.is_done:
            self.error = error
            self._again_elsewhere(link.node)

    def _end_attempt(self, request: int) -> bool:
        """Whether it was the current one."""
        self.attempts.pop(request, None)
        if self.request != request:
            return False
        self._attempt_is_over()
        return True

    def _attempt_is_over(self) -> None:
        self.request = 0
        self._ping_at = self._attempt_ends_at = NEVER

    # -- what follows -------------------------------------------------------------------------

    def _react(self, node: NodeId, error: KVError) -> None:
        """The current attempt was refused by ``node``."""
        match error:
            case NotLeader():
                self._owner.refused(node, error)
                self._owner.ready(self)
            case Overloaded() | DiskFull():
                self._owner.busy(node)
                self._backoff = self._backoff or refusal_backoff(self._rng)
                self._resume_at = self._loop.time() + self._backoff.next_s()
                self.arm()
            case Unavailable() | DeadlineExceeded():
                self._again_elsewhere(node)
            case SessionExpired() if not self.may_have_applied:
                self._owner.renew(self, error.welcome_at)
            case InvalidArgument() if self._is_shared and not self.may_have_applied:
                self._owner.split(self)
            case _:
                self.fail(error)

    @property
    def _is_shared(self) -> bool:
        return len(self.batch.operations) > 1

    def _again_elsewhere(self, node: NodeId | None) -> None:
        if node is not None:
            self._owner.lost(node)
        self._owner.ready(self)

    def fail(self, error: KVError) -> None:
        """Tell the callers, with what is known of the effect."""
        error.may_have_applied |= self.may_have_applied
        self.batch.operations.fail(error)
        self._owner.failed(self)

    def finish(self) -> None:
        """Nothing more happens to this call."""
        self.is_done = True
        self.request = 0
        self.wakes_at = NEVER
        if self.attempts:
            for request, link in self.attempts.items():
                link.forget(request)
            self.attempts.clear()

    # -- time ---------------------------------------------------------------------------------

    def arm(self) -> None:
        """Be woken for whatever comes first."""
        deadline = self.batch.operations.deadline
        self.wakes_at = min(deadline, self._ping_at, self._attempt_ends_at, self._resume_at)
        self._owner.due(self.wakes_at)

    def wake(self, now: float) -> None:
        """Do what is due by ``now``."""
        self.wakes_at = NEVER
        operations = self.batch.operations
        if operations.deadline <= now:
            overdue = self._overdue()
            # The batch's bytes are fixed: sent again for the others, it runs this one as well.
            overdue.may_have_applied |= self.is_write and operations.outlast(now)
            operations.expire(now, overdue)
            if operations.deadline == NEVER:
                self._owner.failed(self)
                return
        if self._ping_at <= now:
            self._ping_at = NEVER
            self.attempts[self.request].ping_if_silent_since(self._sent_at)
        if self._attempt_ends_at <= now:
            self._attempt_took_too_long()
        if self._resume_at <= now:
            self._resume_at = NEVER
            self._owner.ready(self)
        if not self.is_done:
            self.arm()

    def _attempt_took_too_long(self) -> None:
        """Ask elsewhere; the answer still counts should it come, if the node is heard at all."""
        link = self.attempts[self.request]
        self._patience *= 2
        self.error = Unavailable(f"{link.node} does not answer")
        self._owner.silent()
        if link.is_silent_since(self._sent_at):
            link.give_up(f"{link.node} does not answer")
        else:
            self._attempt_is_over()
            self._again_elsewhere(link.node)

    def _overdue(self) -> KVError:
        """What to tell a caller whose deadline passes now."""
        if not self.attempts:
            error = self.error
            if not isinstance(error, Overloaded | DiskFull):
                error = self._owner.why() or error
            return late(error, may_have_applied=self.may_have_applied)
        nodes = ", ".join(sorted({str(link.node) for link in self.attempts.values()}))
        return DeadlineExceeded(
            f"no answer from {nodes} before the deadline", may_have_applied=self.may_have_applied
        )


def late(error: KVError | None, *, may_have_applied: bool = False) -> KVError:
    """The deadline passed with no attempt under way.

    Args:
        error: how the last attempt failed, or why there was none, as far as is known.
        may_have_applied: what is known of earlier attempts.
    """
    if error is None:
        return DeadlineExceeded("the deadline passed before the operation could be sent")
    kind = type(error) if isinstance(error, Overloaded | DiskFull) else Unavailable
    return kind(f"gave up at the deadline: {error.message}", may_have_applied=may_have_applied)
