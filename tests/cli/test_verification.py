"""Finding an index at which all replicas can be compared, and judging what they say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from kvstore.cli.verdict import State, Verification, judge
from kvstore.cli.verification import TRIES_A_TURN, Comparison
from kvstore.errors import Unavailable
from kvstore.ids import LogIndex, NodeId, ShardId, Term
from kvstore.wire.checksums import ChecksumReply, decode_checksum, encode_checksum_reply

if TYPE_CHECKING:
    from kvstore.cli.conversation import Conversation
    from kvstore.wire.kinds import Kind

SHARD = ShardId(3)
N1, N2, N3 = (NodeId(f"n{number}") for number in (1, 2, 3))
AT = LogIndex(7)


class FakeReplica:
    """Applies ``pace`` entries between two questions; waits for ``patience`` at most."""

    def __init__(self, applied: int = 7, pace: int = 0, patience: int = 0) -> None:
        self.applied, self.pace, self.patience = applied, pace, patience
        self.salt = 0
        self.is_up = True
        self.asked: list[int] = []

    async def ask(self, _kind: Kind, body: bytes) -> bytes:
        index = decode_checksum(body).index
        self.asked.append(index)
        if not self.is_up:
            raise Unavailable("connection refused")
        self.applied += self.pace
        if self.applied < index:
            self.applied = min(index, self.applied + self.patience)
        checksum = index * 1000 + self.salt if self.applied == index else None
        return encode_checksum_reply(
            ChecksumReply(LogIndex(self.applied), Term(1), checksum, 1, 10)
        )


def comparison(*replicas: FakeReplica) -> Comparison:
    nodes = dict(zip((N1, N2, N3), replicas, strict=True))
    return Comparison(SHARD, cast("dict[NodeId, Conversation]", nodes))


def states(compared: Comparison) -> list[State]:
    return [replica.state for replica in compared.verdict().replicas]


async def test_at_rest_two_questions_are_enough() -> None:
    replicas = [FakeReplica() for _ in range(3)]
    compared = comparison(*replicas)
    await compared.turn()
    assert compared.verdict().is_equal is True
    assert compared.verdict().index == 7
    assert [replica.asked for replica in replicas] == [[0, 7]] * 3


@pytest.mark.parametrize("pace", [1, 30, 1000, 20_000])
async def test_at_any_pace_it_gets_ahead_of_them_in_one_turn(pace: int) -> None:
    compared = comparison(*(FakeReplica(pace=pace, patience=pace * 50) for _ in range(3)))
    await compared.turn()
    assert compared.verdict().is_equal is True


async def test_when_the_load_ends_it_comes_back_to_where_they_are() -> None:
    replicas = [FakeReplica(pace=1000) for _ in range(3)]
    compared = comparison(*replicas)
    await compared.turn()
    assert compared.verdict().is_equal is None
    assert [len(replica.asked) for replica in replicas] == [TRIES_A_TURN] * 3
    for replica in replicas:
        replica.pace = 0
    await compared.turn()
    assert compared.verdict().is_equal is True
    assert compared.verdict().index == replicas[0].applied


async def test_one_that_lags_is_asked_again_for_the_same_index() -> None:
    slow = FakeReplica(applied=1, patience=3)
    others = [FakeReplica(), FakeReplica()]
    compared = comparison(slow, *others)
    await compared.turn()
    assert states(compared) == [State.BEHIND, State.OK, State.OK]
    await compared.turn()
    assert states(compared) == [State.OK] * 3
    assert [replica.asked for replica in others] == [[0, 7], [0, 7]]


async def test_one_that_is_down_does_not_keep_the_others_from_it_and_may_come_back() -> None:
    down = FakeReplica()
    down.is_up = False
    compared = comparison(down, FakeReplica(), FakeReplica())
    await compared.turn()
    verdict = compared.verdict()
    assert (verdict.is_equal, states(compared)) == (None, [State.UNREACHABLE, State.OK, State.OK])
    assert verdict.replicas[0].error == "connection refused"
    assert down.asked == [0, 7], "once for each question to the others"
    down.is_up, down.applied = True, 9
    for node in (N2, N3):
        cast("FakeReplica", compared._nodes[node]).applied = 9
    await compared.turn()
    assert (compared.verdict().is_equal, compared.verdict().index) == (True, 9)


async def test_with_nobody_up_a_turn_ends() -> None:
    replicas = [FakeReplica() for _ in range(3)]
    for replica in replicas:
        replica.is_up = False
    compared = comparison(*replicas)
    await compared.turn()
    assert states(compared) == [State.UNREACHABLE] * 3
    assert [replica.asked for replica in replicas] == [[0]] * 3


async def test_a_difference_that_was_seen_is_not_forgotten() -> None:
    """The third replica had passed that index, and then no other can be found in time."""
    odd, other, down = FakeReplica(), FakeReplica(), FakeReplica()
    odd.salt, down.is_up = 1, False
    compared = comparison(odd, other, down)
    await compared.turn()
    assert compared.verdict().is_equal is False
    down.is_up = True
    for replica in (odd, other, down):
        replica.applied, replica.pace = 100, 1000
    await compared.turn()
    assert not compared.is_complete
    assert (compared.verdict().is_equal, compared.verdict().index) == (False, 7)


class FrozenReplica(FakeReplica):
    """Says where it is, and then nothing more until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = asyncio.Event()

    async def ask(self, kind: Kind, body: bytes) -> bytes:
        if self.asked:
            self.frozen.set()
            await asyncio.Event().wait()
        return await super().ask(kind, body)


async def test_what_others_said_counts_when_time_ends_while_one_is_awaited() -> None:
    odd, other, frozen = FakeReplica(), FakeReplica(), FrozenReplica()
    odd.salt = 1
    compared = comparison(odd, other, frozen)
    turn = asyncio.create_task(compared.turn())
    async with asyncio.timeout(10):
        await frozen.frozen.wait()
    turn.cancel()
    await asyncio.wait([turn])
    verdict = compared.verdict()
    assert verdict.is_equal is False
    assert states(compared) == [State.DIFFERS, State.DIFFERS, State.UNREACHABLE]
    assert verdict.replicas[2].error == "gave no checksum at applied index 7 in time"


async def test_before_it_was_asked_nothing_is_known() -> None:
    compared = comparison(*(FakeReplica() for _ in range(3)))
    assert compared.verdict().is_equal is None
    assert [replica.error for replica in compared.verdict().replicas] == [
        "was not asked in time"
    ] * 3


# -- the verdict --------------------------------------------------------------------------------


def said(checksum: int | None, index: int = AT, term: int = 1) -> ChecksumReply:
    return ChecksumReply(LogIndex(index), Term(term), checksum, 2, 20)


OK, DIFFERS, BEHIND, AHEAD, UNREACHABLE = State


@pytest.mark.parametrize(
    ("answers", "is_equal", "expected"),
    [
        ([said(1), said(1), said(1)], True, [OK, OK, OK]),
        ([said(1), said(2), said(1)], False, [OK, DIFFERS, OK]),
        ([said(1), said(1, term=2), said(1)], False, [OK, DIFFERS, OK]),
        ([said(1), said(2), said(3)], False, [DIFFERS, DIFFERS, DIFFERS]),
        ([said(1), said(2), "down"], False, [DIFFERS, DIFFERS, UNREACHABLE]),
        ([said(1), said(1), "down"], None, [OK, OK, UNREACHABLE]),
        ([said(1), "down", "down"], None, [OK, UNREACHABLE, UNREACHABLE]),
        ([said(1), said(None, 6), said(None, 8)], None, [OK, BEHIND, AHEAD]),
        ([said(1), said(1), said(None, AT)], None, [OK, OK, UNREACHABLE]),
        (["down"] * 3, None, [UNREACHABLE] * 3),
    ],
)
def test_verdicts(answers: list[Any], is_equal: bool | None, expected: list[State]) -> None:
    verdict = judge(SHARD, AT, dict(zip((N1, N2, N3), answers, strict=True)))
    assert verdict.is_equal is is_equal
    assert [replica.state for replica in verdict.replicas] == expected


def whole(*shards: list[ChecksumReply | str]) -> Verification:
    return Verification(
        tuple(
            judge(ShardId(number), AT, dict(zip((N1, N2, N3), answers, strict=True)))
            for number, answers in enumerate(shards)
        )
    )


EQUAL: list[ChecksumReply | str] = [said(1), said(1), said(1)]


def test_one_shard_that_differs_decides_for_the_whole_then_one_that_is_unknown() -> None:
    differs: list[Any] = [said(1), said(1), said(2)]
    unknown: list[Any] = [said(1), "down", said(1)]
    assert whole(EQUAL, EQUAL).is_equal is True
    assert whole(EQUAL, unknown).is_equal is None
    assert whole(unknown, differs).is_equal is False


def test_people_are_told_what_is_wrong_and_where() -> None:
    found = whole(EQUAL, [said(1), said(2), said(1)], [said(1), said(None, 5), "no route"])
    assert found.problems() == [
        "shard 1 on n2: differs at applied index 7",
        "shard 2 on n2: is at applied index 5, behind 7",
        "shard 2 on n3: no route",
    ]
    assert found.summary() == "3 shards, 9 replicas: 6 ok, 1 differs, 1 behind, 1 unreachable"
    assert whole(EQUAL).summary() == "1 shard, 3 replicas: all equal"


def test_the_json_has_the_documented_fields() -> None:
    shown = whole([said(255), "no route", said(None, 5)]).to_json()
    assert shown == {
        "equal": None,
        "shards": [
            {
                "id": 0,
                "index": 7,
                "equal": None,
                "replicas": [
                    {
                        "node": "n1",
                        "state": "ok",
                        "index": 7,
                        "checksum": "00000000000000ff",
                        "keys": 2,
                        "bytes": 20,
                        "error": None,
                    },
                    {
                        "node": "n2",
                        "state": "unreachable",
                        "index": None,
                        "checksum": None,
                        "keys": None,
                        "bytes": None,
                        "error": "no route",
                    },
                    {
                        "node": "n3",
                        "state": "behind",
                        "index": 5,
                        "checksum": None,
                        "keys": None,
                        "bytes": None,
                        "error": "is at applied index 5, behind 7",
                    },
                ],
            }
        ],
    }
