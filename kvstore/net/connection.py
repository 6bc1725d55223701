"""One TCP connection that carries frames, on either side.

Rules:

* everything sent in one iteration of the event loop leaves in one write;
* what waits to be sent is bounded: from half of the bound on nothing more is read from that
  side (whoever does not take answers gets no more questions heard), beyond it the
  connection is cut;
* what one iteration of the loop hears of those who dial this node is bounded
  (:mod:`kvstore.net.turns`): what is beyond it waits in order, and nothing more is read from
  that side until it was heard;
* bytes that are no frame end the connection, after an ERROR frame for request 0 that says
  why; whatever else is wrong with a frame is answered under its request id;
* who closes says so (GOODBYE or ERROR), shuts its sending side and discards what still
  arrives until the other side has closed too or ``linger_s`` is over. Closing at once with
  bytes unread would make TCP reset the connection and could destroy that last frame.

The handshake is not done here: until :meth:`FrameConnection.establish` every frame goes to
``on_frames`` as it is (see :mod:`kvstore.net.server` and :mod:`kvstore.net.dial`).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, cast

from kvstore.errors import (
    Internal,
    InvalidArgument,
    KVError,
    Overloaded,
    ProtocolError,
    Unavailable,
    copy_of,
)
from kvstore.net.progress import Progress
from kvstore.net.sockets import set_socket_options
from kvstore.net.turns import BYTES_PER_FRAME, FRAMES_A_STEP
from kvstore.wire.frames import HEADER_BYTES, Frame, FrameDecoder, decode_header, encode_frame
from kvstore.wire.hello import HELLO_FRAME_BYTES_MAX
from kvstore.wire.kinds import APPLICATION_KINDS, Kind
from kvstore.wire.requests import decode_error, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.net.limits import NetLimits
    from kvstore.net.turns import Turns
    from kvstore.wire.hello import Hello, Welcome

    FramesCallback: TypeAlias = Callable[["FrameConnection", list[Frame]], None]
    ConnectionCallback: TypeAlias = Callable[["FrameConnection"], None]

log = logging.getLogger(__name__)

_CONNECTION = 0
"""The request id that means the connection itself."""


class FrameConnection(asyncio.Protocol):
    """Frames in, frames out.

    Invariants: ``on_closed`` is called exactly once, for a connection that was made, and
    after it nothing else is; once closing, no frame is handed on and none is accepted.
    """

    def __init__(
        self,
        limits: NetLimits,
        *,
        on_frames: FramesCallback,
        on_opened: ConnectionCallback | None = None,
        on_closed: ConnectionCallback | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Not connected yet.

        Args:
            limits: Its bounds.
            on_frames: Gets the first frame, or those that came together with it.
            on_opened: Told when it is connected.
            on_closed: Told when it is closed.
            turns: What may be heard in one iteration of the loop; all if there are none.
        """
        self.turns = turns
        """May be changed by whoever gets the first frame."""
        self.hello: Hello | None = None
        """What the other side said of itself, if it was the one to connect."""
        self.welcome: Welcome | None = None
        """What the other side said of itself, if it was the one to accept."""
        self.remote_host, self.remote_port = "?", 0
        self.reason: KVError | None = None
        """Why the connection ended; None while it stands or after a plain goodbye."""
        self.is_ours = False
        """Whether ``reason`` is this side's judgement of the other."""
        self.heard = False
        """Set by every arrival; whoever watches the other side clears it."""
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed; await it shielded or through ``wait_closed``."""
        self._limits = limits
        self._on_frames = on_frames
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._decoder = FrameDecoder(min(HELLO_FRAME_BYTES_MAX, limits.frame_bytes_max))
        self._transport: asyncio.Transport | None = None
        self._established = self._closing = False
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._unsent_bytes = 0  # in the transport, at most: as of the last look, and added since
        self._written_bytes = 0  # ever given to the transport
        self._high_water_bytes = limits.outbound_bytes_max // 2
        self._is_jammed = False  # the transport has had enough, until the other side reads
        self._is_held_back = False  # too much waits for the other side for it to be heard
        self._is_deaf = False  # we have told the transport not to read
        self._is_waiting = False  # for its turn
        self._frames_received = 0
        self._linger: asyncio.TimerHandle | None = None
        self._receiving, self._sending = Progress(), Progress()

    # -- state ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The other side, ``host:port``."""
        return f"{self.remote_host}:{self.remote_port}"

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        return self._transport is not None and not self._closing

    @property
    def unsent_bytes(self) -> int:
        """What waits to be sent."""
        if self._transport is None:
            return self._outbox_bytes
        self._unsent_bytes = self._transport.get_write_buffer_size()
        return self._outbox_bytes + self._unsent_bytes

    @property
    def held_bytes(self) -> int:
        """Memory that the other side makes us hold: what came and was not heard, unsent bytes."""
        return self._decoder.buffered_bytes + self.unsent_bytes

    def establish(self, on_frames: FramesCallback, rest: list[Frame]) -> None:
        """The handshake is done: from now on only application frames reach ``on_frames``.

        ``rest`` is what came together with the handshake's last frame.
        """
        self._established = True
        self._on_frames = on_frames
        self._decoder.frame_bytes_max = self._limits.frame_bytes_max
        self._dispatch(rest)

    async def wait_closed(self) -> None:
        """Return once the socket is closed."""
        await asyncio.shield(self.closed)

    def overdue(self, now: float) -> KVError | None:
        """What this side waits for in vain, if anything; to be asked now and then.

        Args:
            now: The event loop's clock, seconds.
        """
        is_begun = self._decoder.buffered_bytes > 0 and not self._decoder.is_behind
        frame_s = self._receiving.stuck_s(now, waiting=is_begun, steps=self._frames_received)
        if frame_s > self._limits.frame_timeout_s:
            return ProtocolError(
                f"a frame was begun and not completed within {self._limits.frame_timeout_s:g} s"
            )
        unsent = self.unsent_bytes
        stall_s = self._sending.stuck_s(
            now, waiting=unsent > 0, steps=self._written_bytes - self._unsent_bytes
        )
        if stall_s > self._limits.stall_timeout_s:
            return Overloaded(
                f"{unsent} bytes were not taken within {self._limits.stall_timeout_s:g} s"
            )
        return None

    # -- sending ----------------------------------------------------------------------------

    def send(self, frame: bytes) -> bool:
        """Queue an encoded frame; False when the connection no longer takes any.

        A reply larger than the other side accepts is replaced by an error for its request.
        """
        if self._closing or self._transport is None:
            return False
        if len(frame) > self._limits.frame_bytes_max:
            frame = self._fitting(frame)
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        if self._outbox_bytes + self._unsent_bytes > self._high_water_bytes:
            return self._hold_back()
        return True

    def _fitting(self, frame: bytes) -> bytes:
        """``frame``, or the error that goes in its place."""
        kind, request = decode_header(frame)
        size, size_max = len(frame), self._limits.frame_bytes_max
        if size - HEADER_BYTES <= size_max - HEADER_BYTES + 4:  # the length field is not counted
            return frame
        assert kind == Kind.REPLY, "only replies can grow beyond what their sender knows"
        error = InvalidArgument(
            f"the answer has {size} bytes, more than the {size_max} that fit a frame; "
            "ask for less at once"
        )
        return encode_frame(Kind.ERROR, request, encode_error(error))

    def _hold_back(self) -> bool:
        """Hear no more from a side for which so much waits; cut it if it is too much."""
        unsent = self.unsent_bytes  # the transport may have sent some since the last look
        if unsent > self._limits.outbound_bytes_max:
            self.abort(Overloaded(f"{unsent} bytes wait for a side that does not read them"))
            return False
        if self._transport is not None and unsent > self._high_water_bytes:
            self._is_held_back = True
            self._stop_reading(self._transport)
        return True

    def _stop_reading(self, transport: asyncio.Transport) -> None:
        if not self._is_deaf:
            self._is_deaf = True
            transport.pause_reading()

    def _hear_on(self) -> None:
        """The other side has taken enough to be heard again."""
        self._is_held_back = False
        self._go_on()

    def _go_on(self) -> None:
        """Hear what waits, else read again, if we had stopped and the socket is not gone."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._is_held_back:
            return
        if self._decoder.is_behind and self.turns is not None:
            self._stop_reading(transport)
            if not self._is_waiting:
                self._is_waiting = True
                self.turns.put(self)
        elif self._is_deaf:
            self._is_deaf = False
            with suppress(RuntimeError):  # uvloop, of a dial that was cancelled: "not closing"
                transport.resume_reading()

    def _flush(self) -> None:
        """Give the transport all that gathered in this iteration of the loop."""
        frames, size = self._outbox, self._outbox_bytes
        self._outbox, self._outbox_bytes = [], 0
        transport = self._transport
        if transport is None or not frames or transport.is_closing():
            return  # Of a closed one asyncio's own writelines raises, from Python 3.12 on.
        self._written_bytes += size
        self._unsent_bytes += size
        if len(frames) == 1:
            transport.write(frames[0])
        else:
            transport.writelines(frames)
        if self._is_held_back and not self._is_jammed:
            self._hear_on()

    # -- receiving --------------------------------------------------------------------------

    def take_turn(self) -> None:
        """Hear some of what waits. Called in its turn, see :class:`kvstore.net.turns.Turns`."""
        self._is_waiting = False
        if not self._closing and not self._is_held_back and self._decoder.is_behind:
            self._hear(self._decoder.more(self._frames_allowed()))
        self._heard_so_far()

    def _frames_allowed(self) -> int:
        """How many may be heard at once."""
        if self.turns is None:
            return sys.maxsize
        if not self._established:
            return 1  # what follows the handshake is bounded by what it tells
        return max(0, min(self.turns.left, FRAMES_A_STEP))

    def _hear(self, frames: list[Frame]) -> None:
        """Hand ``frames`` on, and count what that takes of the turn."""
        if not frames:
            return
        self._frames_received += len(frames)
        unsent_before = self._outbox_bytes
        self._dispatch(frames)
        if self.turns is not None:
            answers_bytes = max(0, self._outbox_bytes - unsent_before)
            self.turns.spend(len(frames) + answers_bytes // BYTES_PER_FRAME)

    def _heard_so_far(self) -> None:
        """See to what comes after the frames that were heard."""
        if self._closing:
            return
        if self._decoder.error is not None:
            self.close(self._decoder.error)
        elif self._decoder.is_behind or self._is_deaf:
            self._go_on()

    def _dispatch(self, frames: list[Frame]) -> None:
        """Hand frames on; the connection's own are dealt with on the way."""
        if self._established:
            for frame in frames:
                if frame.kind not in APPLICATION_KINDS or frame.flags:
                    self._dispatch_mixed(frames)
                    return
        self._hand_on(frames)

    def _dispatch_mixed(self, frames: list[Frame]) -> None:
        """In the order of arrival: what stands before a goodbye is still heard."""
        run: list[Frame] = []
        for frame in frames:
            is_answer = frame.kind == Kind.ERROR and frame.request != _CONNECTION
            if (frame.kind in APPLICATION_KINDS or is_answer) and not frame.flags:
                run.append(frame)
                continue
            self._hand_on(run)
            run = []
            if not self._closing:
                self._take(frame)
        self._hand_on(run)

    def _hand_on(self, frames: list[Frame]) -> None:
        if not frames or self._closing:
            return
        try:
            self._on_frames(self, frames)
        except KVError as error:
            self.close(error)
        except Exception:
            log.exception("%s: a frame could not be handled", self.address)
            self.close(Internal("the node failed to handle a frame"))

    def _take(self, frame: Frame) -> None:
        """Deal with a frame that is the connection's own business, or nobody's."""
        if frame.flags:
            self._refuse(frame, f"unknown frame flags {frame.flags:#x}")
            return
        match frame.kind:
            case Kind.PING:
                self.send(encode_frame(Kind.PONG, frame.request, b""))
            case Kind.PONG:
                pass  # that it arrived is all it says
            case Kind.GOODBYE:
                self._end(None)
            case Kind.ERROR:
                self._end(_received_error(frame))
            case Kind.HELLO | Kind.WELCOME:
                self.close(ProtocolError("a second handshake on one connection"))
            case _:
                self._refuse(frame, f"unknown message kind {frame.kind}")

    def _refuse(self, frame: Frame, why: str) -> None:
        self.send(encode_frame(Kind.ERROR, frame.request, encode_error(InvalidArgument(why))))

    # -- closing ----------------------------------------------------------------------------

    def close(self, error: KVError | None = None, *, lingers: bool = True) -> None:
        """Say goodbye, or what is wrong, send what is queued, and end. Returns at once.

        Without ``lingers`` the socket is not kept for a side that still has to read it.
        """
        if self._closing or self._transport is None:
            return
        if error is None:
            farewell = encode_frame(Kind.GOODBYE, _CONNECTION, b"")
        else:
            farewell = encode_frame(Kind.ERROR, _CONNECTION, encode_error(error))
        self._outbox.append(farewell)
        self._outbox_bytes += len(farewell)
        self._settle(error, is_ours=True)
        self._flush()
        if not lingers:
            self._transport.close()
            return
        with suppress(OSError):  # the other side may have reset the connection meanwhile
            self._transport.write_eof()

    def abort(self, error: KVError | None = None) -> None:
        """Cut the connection without a word; what is queued is lost."""
        if self._transport is None:
            return
        if not self._closing:
            self._settle(error, is_ours=True)
        self._outbox.clear()
        self._transport.abort()

    def _end(self, error: KVError | None) -> None:
        """The other side has closed; send what is queued and close too."""
        assert self._transport is not None
        self._settle(error, is_ours=False)
        self._flush()
        self._transport.close()

    def _settle(self, error: KVError | None, *, is_ours: bool) -> None:
        """From now on nothing is handed on or queued; the socket is gone in ``linger_s``."""
        assert self._transport is not None
        self._closing = True
        # Only its words: its traceback leads through this connection and all that arrived.
        self.reason = None if error is None else copy_of(error)
        self.is_ours = is_ours
        self._decoder = FrameDecoder(0)
        self._hear_on()
        self._linger = self._loop.call_later(self._limits.linger_s, self._transport.abort)

    # -- called by the event loop -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: the socket is connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._high_water_bytes)
        remote = transport.get_extra_info("peername")
        if remote:
            self.remote_host, self.remote_port = remote[0], remote[1]
        set_socket_options(transport.get_extra_info("socket"), self._limits.stall_timeout_s)
        if self._on_opened is not None:
            self._on_opened(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: the next bytes of the stream."""
        if self._closing:
            return
        self.heard = True
        if self.turns is not None and len(data) >= BYTES_PER_FRAME:
            self.turns.spend(len(data) // BYTES_PER_FRAME)
        self._hear(self._decoder.feed(data, self._frames_allowed()))
        while self._decoder.is_behind and not self._is_held_back and self._frames_allowed():
            self._hear(self._decoder.more(self._frames_allowed()))
        self._heard_so_far()

    def pause_writing(self) -> None:
        """Called by the event loop: half of the outbound bound is taken."""
        self._is_jammed = True
        if self._transport is not None and not self._closing:
            self._is_held_back = True
            self._stop_reading(self._transport)

    def resume_writing(self) -> None:
        """Called by the event loop: the other side has caught up."""
        self._is_jammed = False
        self._hear_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: the socket is closed."""
        if not self._closing:
            self._closing = True
            self.reason = Unavailable(f"connection to {self.address} lost: {exc or 'closed'}")
        if self._linger is not None:
            self._linger.cancel()
        self._outbox.clear()
        self._outbox_bytes = 0
        self._decoder = FrameDecoder(0)
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        if self._on_closed is not None:
            self._on_closed(self)


def _received_error(frame: Frame) -> KVError:
    """The error that ended the connection, as the other side gave it."""
    try:
        return decode_error(frame.body)
    except ProtocolError as error:
        return error
