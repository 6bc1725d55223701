"""Clients: calls, each tried again until it is answered or given up, some at the same time.

They speak the real requests of the wire, number their batches with the real client's session,
and write down what they asked and what they know of the outcome. Requests and replies may be
lost, so a write is often sent again although it was run.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histories.model import Action, CompareAndSwap, Delete, Get, Operation, Put
from kvstore.client.session import Session
from kvstore.errors import KVError, NotLeader, SessionExpired
from kvstore.hlc import revision_at
from kvstore.ids import NodeId, Revision, ShardId
from kvstore.kv import commands, replies
from kvstore.sharding.ring import shard_of
from kvstore.wire import requests
from kvstore.wire.frames import HEADER_BYTES, Frame, decode_header
from kvstore.wire.kinds import Kind
from sim.routes import Route
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.network import Network
    from sim.node import SimNode
    from sim.swarm import Swarm

ATTEMPT_S = 1.0
GIVE_UP_S = 8.0
PAUSE_S_MAX = 1.0


@dataclass
class Call:
    """What a client waits for: one request, sent as often as needed."""

    actions: list[tuple[bytes, Action]]
    shard: ShardId
    called: float
    body: bytes
    kind: Kind
    give_up_at: float
    session: Session | None = None
    seq: int = 0
    attempts: int = 0
    is_open: bool = True
    may_have_applied: bool = False


@dataclass
class ClientHistory:
    """What all clients together know at the end."""

    operations: list[Operation] = field(default_factory=list)
    acknowledged: Counter[bytes] = field(default_factory=Counter)
    """Increments of each counter."""
    uncertain: Counter[bytes] = field(default_factory=Counter)
    written: dict[tuple[ShardId, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """Key and value by shard and revision."""
    calls_answered: int = 0
    retries: int = 0

    def check_revision(self, shard: ShardId, key: bytes, value: bytes, revision: int) -> None:
        """In a shard a revision names one write for ever."""
        known = self.written.setdefault((shard, revision), (key, value))
        if known != (key, value):
            raise Violation(f"revision {revision} is {known} and {(key, value)}")


class Connection:
    """A client's end at a node, as far as :class:`ClientRequests` knows connections."""

    is_open = True

    def __init__(self, client: SimClient, node: SimNode, call: Call) -> None:
        self._client = client
        self._node = node
        self._call = call

    def send(self, frame: bytes) -> bool:
        self._client.network_back(self._node, self._call, frame)
        return True


class SimClient:
    """One caller of a client. Invariant: at most one call is open."""

    def __init__(
        self,
        name: str,
        network: Network,
        history: ClientHistory,
        swarm: Swarm,
        sessions: dict[ShardId, Session],
        route: Route,
    ) -> None:
        self.name = name
        self.network = network
        self.world = network.world
        self.history = history
        self.swarm = swarm
        self.rng = random.Random(self.world.rng.random())
        self.is_stopped = False
        self.call: Call | None = None
        self.answered = 0
        self._sessions = sessions
        self._route = route
        self._leaders: dict[ShardId, NodeId] = {}
        self._numbers = 0
        self._counters: dict[bytes, int] = {}
        self._swapping: bytes | None = None

    # -- what it wants ------------------------------------------------------------------------

    def think(self) -> None:
        if not self.is_stopped:
            self.world.after(self.rng.random() * self.swarm.think_s_max, self._choose)

    def _choose(self) -> None:
        if self.is_stopped or self.call is not None:
            return
        if self._swapping is not None:
            self._increment(self._swapping)
            return
        key = b"k%d" % self.rng.randrange(self.swarm.keys)
        match self.rng.choices(("put", "get", "delete", "swap", "count"), (4, 5, 1, 3, 3))[0]:
            case "get":
                self.ask([(key, Get())])
            case "count":
                self._swapping = b"count%d" % self.rng.randrange(2)
                self.ask([(self._swapping, Get())])
            case "put":
                self.ask([(key, Put(self._new_value())), *self._more_commands(key)])
            case "delete":
                self.ask([(key, Delete()), *self._more_commands(key)])
            case _:
                expected = self.rng.choice([None, self._recent(key), self._recent(key)])
                self.ask(
                    [(key, CompareAndSwap(expected, self._new_value())), *self._more_commands(key)]
                )

    def _more_commands(self, key: bytes) -> list[tuple[bytes, Action]]:
        """More commands for the same batch, on other keys of the shard."""
        shards, shard = self.swarm.shards, shard_of(key, self.swarm.shards)
        keys = [b"k%d" % number for number in range(self.swarm.keys)]
        others = [other for other in keys if other != key and shard_of(other, shards) == shard]
        count = min(self.rng.randrange(self.swarm.batch_max), len(others))
        return [(other, Put(self._new_value())) for other in self.rng.sample(others, count)]

    def _new_value(self) -> bytes:
        self._numbers += 1
        value = b"%s-%d" % (self.name.encode(), self._numbers)
        return value.ljust(self.swarm.value_bytes_min, b".")

    def _recent(self, key: bytes) -> bytes | None:
        """A value that the key had, as far as anybody was told lately."""
        for operation in reversed(self.history.operations[-30:]):
            if operation.key == key and isinstance(operation.action, Put):
                return operation.action.value
            if operation.key == key and isinstance(operation.result, bytes):
                return operation.result
        return None

    def _increment(self, key: bytes) -> None:
        """The second half of an increment: swap what was read for one more."""
        self._swapping = None
        count = self._counters.pop(key, None)
        if count is not None:
            expected = b"%d" % count if count else None
            self.ask([(key, CompareAndSwap(expected, b"%d" % (count + 1)))])

    # -- asking -------------------------------------------------------------------------------

    def ask(self, actions: list[tuple[bytes, Action]]) -> None:
        shard = shard_of(actions[0][0], self.swarm.shards)
        give_up_at = self.world.now + GIVE_UP_S * self.swarm.time_scale
        if isinstance(actions[0][1], Get):
            request = requests.ReadRequest(
                1, shard, requests.ReadMode.LINEARIZABLE, [actions[0][0]], Revision(0)
            )
            body = requests.encode_read(request)
            call = Call(actions, shard, self.world.now, body, Kind.READ, give_up_at)
        else:
            call = Call(actions, shard, self.world.now, b"", Kind.WRITE, give_up_at)
            self._number(call)
        self.call = call
        self._attempt(call)

    def _number(self, call: Call) -> None:
        """Give the batch its place in the session."""
        session = self._sessions.get(call.shard)
        if session is None:
            # What a client believes the cluster's present to be: the latest that it was told.
            created = revision_at(max(node.wall_ms() for node in self.network.nodes.values()))
            session = Session(created, self.rng.getrandbits(62), outstanding_max=4)
            self._sessions[call.shard] = session
        call.session = session
        call.seq, ack_below = session.begin()
        encoded = commands.encode_batch(
            session.created, session.nonce, call.seq, ack_below, map(_command, call.actions)
        )
        call.body = requests.encode_write(
            requests.WriteRequest(1, call.shard, len(call.actions), encoded)
        )

    def _attempt(self, call: Call) -> None:
        if not call.is_open:
            return
        if self.world.now >= call.give_up_at:
            self._give_up(call)
            return
        call.attempts += 1
        self.history.retries += call.attempts > 1
        target = self._leaders.pop(call.shard, None)
        if target is None:
            target = self._route.some_holder(call.shard, self.rng)
        if self.world.tracing:
            self.world.note(self.name, f"-> {target} {call.actions} seq {call.seq}")
        self._send(call, self.network.nodes[target])
        number = call.attempts
        self.world.after(ATTEMPT_S * self.swarm.time_scale, lambda: self._overdue(call, number))

    def _send(self, call: Call, node: SimNode) -> None:
        if self.network.conditions.loss and self.rng.random() < self.network.conditions.loss:
            return
        connection = Connection(self, node, call)

        def arrive() -> None:
            if node.is_up:
                frame = Frame(call.kind, 0, call.attempts, call.body)
                node.later(0.0, lambda: node.requests.handle(connection, frame))

        self.world.after(self.network.delay_s(), arrive)
        if self.rng.random() < self.network.conditions.duplication:
            # Sent again, and it comes when the call may long be answered: no "no" is for good.
            call.may_have_applied = True
            late_s = 3.0 * ATTEMPT_S * self.swarm.time_scale * self.rng.random()
            self.world.after(late_s, arrive)

    def network_back(self, node: SimNode, call: Call, frame: bytes) -> None:
        """A reply is on its way, and may never arrive."""
        if self.network.conditions.loss and self.rng.random() < self.network.conditions.loss:
            return
        self.world.after(self.network.delay_s(), lambda: self._answered(node, call, frame))

    def _overdue(self, call: Call, number: int) -> None:
        if call.is_open and call.attempts == number:
            call.may_have_applied = True
            self._route.refresh(self.rng)
            self._attempt(call)

    # -- answers ------------------------------------------------------------------------------

    def _answered(self, node: SimNode, call: Call, frame: bytes) -> None:
        if not call.is_open:
            return
        kind, number = decode_header(frame)
        body = frame[HEADER_BYTES:]
        if kind == Kind.ERROR:
            self._failed(call, number, requests.decode_error(body))
            return
        self._leaders[call.shard] = node.id
        if call.kind is Kind.READ:
            self._read(call, body)
            return
        reply = replies.decode_reply(body, len(call.actions))
        if isinstance(reply, KVError):
            self._failed(call, number, reply)
            return
        for (key, action), effect in zip(call.actions, reply.effects, strict=True):
            self._note(call, key, action, None if isinstance(action, Put) else effect)
        self._note_revisions(call, reply)
        self._end(call)

    def _note_revisions(self, call: Call, reply: replies.BatchReply) -> None:
        revisions = range(reply.first_revision, reply.first_revision + len(call.actions))
        for (key, action), revision, effect in zip(
            call.actions, revisions, reply.effects, strict=True
        ):
            if isinstance(action, Put | CompareAndSwap) and effect:
                self.history.check_revision(call.shard, key, action.value, revision)

    def _read(self, call: Call, body: bytes) -> None:
        (row,) = requests.decode_read_reply(body, 1)
        key, action = call.actions[0]
        if row is not None:
            self.history.check_revision(call.shard, key, *row)
        if self._swapping == key:
            self._counters[key] = 0 if row is None else int(row[0])
        self._note(call, key, action, None if row is None else row[0])
        self._end(call)

    def _failed(self, call: Call, number: int, error: KVError) -> None:
        call.may_have_applied |= error.may_have_applied
        if isinstance(error, NotLeader) and error.leader is not None:
            self._leaders[call.shard] = NodeId(error.leader)
        else:
            self._route.refresh(self.rng)
        if isinstance(error, SessionExpired):
            if self._sessions.get(call.shard) is call.session:
                del self._sessions[call.shard]
            if call.attempts > 1:
                call.may_have_applied = True
            self._give_up(call)
        elif not error.retryable:
            raise Violation(f"{self.name} is refused: {type(error).__name__}: {error}")
        elif call.attempts >= self.swarm.attempts_max:
            self._give_up(call)
        elif number == call.attempts:
            self.world.after(self._pause_s(error, number), self._again(call, number))

    def _pause_s(self, error: KVError, attempts: int) -> float:
        """As a real client does: soon where the leader is known, ever later where it is not.

        Without that, a cluster that is slower than its clients drowns in repeated writes.
        """
        is_known = isinstance(error, NotLeader) and error.leader is not None
        most_s = 0.1 if is_known else min(0.1 * attempts, PAUSE_S_MAX * self.swarm.time_scale)
        return 0.02 + most_s * self.rng.random()

    def _again(self, call: Call, number: int) -> Callable[[], None]:
        def again() -> None:
            if call.attempts == number:
                self._attempt(call)

        return again

    def _give_up(self, call: Call) -> None:
        """Its outcome stays unknown, unless every attempt was refused."""
        if call.may_have_applied and call.kind is Kind.WRITE:
            for key, action in call.actions:
                self._note(call, key, action, None, is_known=False)
        self._counters.clear()
        self._swapping = None
        self._end(call, answered=False)

    def _note(
        self,
        call: Call,
        key: bytes,
        action: Action,
        result: bytes | bool | None,
        *,
        is_known: bool = True,
    ) -> None:
        returned = self.world.now if is_known else None
        self.history.operations.append(
            Operation(self.name, key, action, call.called, returned, result)
        )
        if key.startswith(b"count") and isinstance(action, CompareAndSwap):
            if not is_known:
                self.history.uncertain[key] += 1
            elif result:
                self.history.acknowledged[key] += 1
        if self.world.tracing:
            told = repr(result) if is_known else "unknown"
            self.world.note(self.name, f"knows {action} {key!r}: {told}")

    def _end(self, call: Call, *, answered: bool = True) -> None:
        call.is_open = False
        if call.session is not None:
            call.session.settle(call.seq)
        self.answered += answered
        self.history.calls_answered += answered
        self.call = None
        self.think()


def callers(name: str, network: Network, history: ClientHistory, swarm: Swarm) -> list[SimClient]:
    """A client: its callers share its sessions, so several batches may be under way in one."""
    sessions: dict[ShardId, Session] = {}
    route = Route(network, is_needed=swarm.control is not None)
    return [
        SimClient(f"{name}{letter}", network, history, swarm, sessions, route)
        for letter in "abc"[: swarm.callers]
    ]


def _command(item: tuple[bytes, Action]) -> commands.Command:
    key, action = item
    match action:
        case Put(value):
            return commands.PUT, key, value
        case Delete():
            return commands.DELETE, key
        case CompareAndSwap(expected, value):
            return commands.CAS, key, expected, value
        case _:
            raise TypeError(f"{action} is no command")
